"""The HTTP front without a job behind it: what it refuses by itself, and what its page says."""

import asyncio
import dataclasses
import json

import pytest
from wire_records import PURCHASE

from flink_jobs.console import CommandError
from flink_jobs.serve_app import create_app
from flink_jobs.serve_command import run_serve_command
from flink_jobs.settings import Settings
from udfs.pipeline import Requests

ASKED = dataclasses.replace(PURCHASE, requests=Requests())


@pytest.fixture(scope="module")
def app():
    return create_app(ASKED, Settings(bootstrap="127.0.0.1:1"), most_in_flight=10, timeout_ms=1_000)


def call(app, method, path, *parts):
    """Status and document of a call; the body comes in parts."""
    sent, received = [], [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    received.append({"type": "http.request", "body": b"", "more_body": False})
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(), "query_string": b"", "headers": [], "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80), "scheme": "http", "root_path": "", "state": {},
    }  # fmt: skip

    async def receive():
        return received.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "not_json"),
        (b"\xff", 400, "not_json"),
        (b"{", 400, "not_json"),
        (b'{"fields": ' + b"[" * 9_000, 422, "wrong_request"),
        (b"[]", 422, "wrong_request"),
        (b"{}", 422, "wrong_request"),
        (b'{"entity": 1}', 422, "wrong_request"),
        (b'{"entity": "u", "fields": {"colour": "red"}}', 422, "wrong_request"),
        (b'{"entity": "u", "fields": {"page_id": "nowhere"}}', 422, "wrong_request"),
        (b'{"entity": "u", "timeout_ms": 0}', 422, "wrong_request"),
        (b'{"entity": "u", "timeout_ms": 60001}', 422, "wrong_request"),
        (b'{"entity": "u", "reply_to": "predictions"}', 422, "wrong_request"),
        (b'{"entity": "%s"}' % (b"u" * 65_536), 413, "too_large"),
    ],
)
def test_a_wrong_body_is_told_what_is_wrong(app, body, status, reason):
    found, document = call(app, "POST", "/score", body)
    assert (found, document["error"]["reason"]) == (status, reason)
    assert document["error"]["detail"]


def test_a_large_body_is_not_read_to_its_end(app):
    parts = [b"x" * 10_000] * 1_000
    assert call(app, "POST", "/score", *parts)[0] == 413


def test_a_body_that_ends_early_is_refused_and_only_post_asks(app):
    async def gone():
        return {"type": "http.disconnect"}

    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(app({"type": "http", "method": "POST", "path": "/score"}, gone, send))
    assert sent[0]["status"] == 400
    status, document = call(app, "GET", "/score")
    assert (status, document["error"]["reason"]) == (405, "wrong_method")
    assert call(app, "POST", "/scores")[0] == 404


def test_without_kafka_it_is_live_and_not_ready_and_says_no_more_than_that(app):
    assert call(app, "GET", "/health/live") == (200, {"status": "live"})
    status, document = call(app, "GET", "/health/ready")
    assert (status, document["error"]["reason"]) == (503, "not_ready")
    status, document = call(app, "POST", "/score", b'{"entity": "u"}')
    assert status == 503
    assert document == {"error": {"reason": "not_ready", "detail": "Kafka cannot be reached"}}


def test_the_page_describes_the_fields_of_the_pipeline(app):
    _, page = call(app, "GET", "/openapi.json")
    described = page["paths"]["/score"]["post"]
    body = described["requestBody"]["content"]["application/json"]["schema"]
    fields = body["properties"]["fields"]
    assert set(fields["properties"]) == {"event_id", "page_id", "dwell_time_sec"}
    assert "page_id, dwell_time_sec" in fields["description"]
    assert body["required"] == ["entity"]
    answer = described["responses"]["200"]["content"]["application/json"]["schema"]
    assert "purchase_probability" in answer["properties"]
    assert "$ref" not in json.dumps(described)
    assert set(described["responses"]) == {"200", "400", "404", "413", "422", "429", "502", "503", "504"}


def test_a_pipeline_that_answers_no_requests_cannot_be_served():
    with pytest.raises(CommandError, match=r"requests=Requests\(\)"):
        run_serve_command(
            PURCHASE, "purchase", Settings(), host="127.0.0.1", port=1, most_in_flight=1, timeout_ms=1, as_json=False
        )
