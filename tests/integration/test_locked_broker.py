"""Kafka behind TLS and passwords: the job runs as on an open broker, and who may not come in is told why at once."""

import base64
import dataclasses
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from answers import assert_dead_letters, assert_receipts, read_answers, read_events
from certificates import Authority
from exposure import beyond_loopback, file_texts, listeners, own_processes, process_texts, rest_texts, traces
from locked_broker import PASSWORD, TOKEN_FILE, TOKEN_SECRET, USER, LockedBroker
from workloads import make_topics, purchase, shoppers

from flink_jobs.events_producer import produce_events
from flink_jobs.job_run import start_job
from flink_jobs.kafka_admin import wait_for_broker
from flink_jobs.kafka_client import KafkaLoginError
from flink_jobs.preflight import PreflightError, check_kafka

pytestmark = pytest.mark.integration

WAYS = ("SCRAM-SHA-512", "SSL", "OAUTHBEARER", TOKEN_FILE)
COUNT = 2_000
SEEN = "planted-to-be-seen"
"""No secret: everything that is looked through must show it, or looking through it proves nothing."""


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    broker = LockedBroker(tmp_path_factory.mktemp("locked"))
    yield broker
    broker.end()


@pytest.mark.parametrize("way", ["PLAIN", "SCRAM-SHA-256", *WAYS])
def test_every_way_in_is_open_to_librdkafka(locked, way):
    settings = locked.settings(way)
    wait_for_broker(settings.bootstrap, settings.kafka_properties, timeout_s=10.0)


@pytest.mark.parametrize("way", WAYS)
def test_job_answers_every_event_once_over_a_locked_door(locked, way, tmp_path):
    """Events come and answers leave by the locked listener; they are counted by the plain one."""
    pipeline = purchase(f"{SEEN}-{way.lower().replace(' ', '-')}")
    make_topics(locked.broker, pipeline)
    settings = locked.settings(way, home=tmp_path, parallelism=1, kafka_properties={"client.rack": SEEN})
    records, broken = shoppers(COUNT)
    produced = produce_events(
        settings.bootstrap, pipeline.events.topic, records, None, properties=settings.kafka_properties
    )
    check_kafka(pipeline, settings)
    job = start_job(pipeline, settings)
    job.wait_until_caught_up()
    processes = own_processes()
    ports = listeners(processes)
    assert sum(program == "java" for _, _, program in ports) > 10, "the ports of workers are among them"
    assert beyond_loopback(ports) == set()
    seen = {"REST": rest_texts(job.rest.cluster.address, job.rest.job_id), "processes": process_texts(processes)}
    logs = log_folders(processes)
    job.stop()
    seen |= {"logs": file_texts(*logs), "checkpoints": file_texts(settings.checkpoints)}
    secrets = [PASSWORD, TOKEN_SECRET, locked.client.key.read_text().splitlines()[1]]
    secrets += [(locked.folder / "token").read_text()] if way == TOKEN_FILE else []
    visible = {"processes": "pyflink"}
    for what, texts in seen.items():
        assert traces(visible.get(what, SEEN), texts), f"{what} were not looked through"
        for secret in secrets:
            assert not traces(secret, texts), f"{what} show a secret"
    events, answers = read_events(locked.broker, pipeline), read_answers(locked.broker, pipeline)
    assert len(events) == produced.records
    assert_receipts(pipeline, events, answers.predictions)
    reasons = {event.place: broken[event[1:3]] for event in events if event[1:3] in broken}
    assert_dead_letters(pipeline, events, answers.dead_letters, reasons)


def log_folders(processes):
    """Where the Java machines write what they say, and what the workers say."""
    found = [option for process in processes for option in process.cmdline() if option.startswith("-Dlog.file=")]
    assert found
    return {Path(option.partition("=")[2]).parent for option in found}


def test_a_port_open_to_all_and_a_secret_in_any_form_would_be_found():
    with socket.create_server(("0.0.0.0", 0)) as open_door:
        found = beyond_loopback(listeners(own_processes()))
        assert [port for _, port, _ in found] == [open_door.getsockname()[1]]
    texts = {"a": b"x" + PASSWORD.encode(), "b": base64.b64encode(b"user:" + PASSWORD.encode()), "c": b"nothing"}
    assert traces(PASSWORD, texts) == ["a", "b"]


def wrong_doors(locked, tmp_path):
    (tmp_path / "wrong").write_text("wrong-password")
    stranger = Authority(tmp_path / "stranger", "stranger")
    expired = locked.authority.sign("expired", days=-1)
    unknown = stranger.sign("unknown")
    return {
        "password": (locked.settings("SCRAM-SHA-512", kafka_password_file=tmp_path / "wrong"), "Authentication failed"),
        "plain password": (locked.settings("PLAIN", kafka_password_file=tmp_path / "wrong"), "Authentication failed"),
        "authority": (locked.settings("SCRAM-SHA-512", tls_ca_file=stranger.file), "certificate verify failed"),
        "host": (
            locked.settings("SCRAM-SHA-512", bootstrap=f"localhost:{locked.listeners.sasl_port}"),
            "certificate verify failed",
        ),
        "stranger": (
            locked.settings("SSL", tls_certificate_file=unknown.certificate, tls_key_file=unknown.key),
            "SSL|certificate",
        ),
        "expired": (
            locked.settings("SSL", tls_certificate_file=expired.certificate, tls_key_file=expired.key),
            "SSL|certificate",
        ),
    }


@pytest.mark.parametrize(
    "what", ["password", "plain password", "authority", "host", "stranger", "expired"]
)
def test_wrong_papers_are_named_in_one_line_and_at_once(locked, what, tmp_path):
    settings, message = wrong_doors(locked, tmp_path)[what]
    pipeline = dataclasses.replace(purchase("nobody"))
    began = time.monotonic()
    with pytest.raises(PreflightError, match=message) as refused:
        check_kafka(pipeline, settings)
    assert time.monotonic() - began < 5.0
    assert "\n" not in str(refused.value)
    assert "wrong-password" not in str(refused.value)


def test_token_that_is_not_given_is_said(locked, tmp_path):
    (tmp_path / "wrong").write_text("wrong")
    settings = locked.settings("OAUTHBEARER", kafka_password_file=tmp_path / "wrong")
    with pytest.raises(KafkaLoginError, match="token"):
        wait_for_broker(settings.bootstrap, settings.kafka_properties, timeout_s=10.0)


@pytest.mark.parametrize("arguments", [("topics", "create", "purchase"), ("run", "purchase", "--until-caught-up")])
def test_command_that_fails_says_why_and_no_secret(locked, tmp_path, arguments):
    (tmp_path / "wrong").write_text("wrong-password")
    files = {"KAFKA_PASSWORD": tmp_path / "wrong", "TLS_CA": locked.authority.file}
    given = {"BOOTSTRAP": f"127.0.0.1:{locked.listeners.sasl_port}", "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512"}
    given |= {"KAFKA_USERNAME": USER, "HOME": tmp_path, **{f"{name}_FILE": file for name, file in files.items()}}
    done = subprocess.run(
        [sys.executable, "-c", "from flink_jobs.cli import main; main()", *arguments],
        env={**os.environ, **{f"MILLRACE_{name}": str(value) for name, value in given.items()}},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    said = {"stdout": done.stdout.encode(), "stderr": done.stderr.encode(), **file_texts(tmp_path / "logs")}
    assert traces("Authentication failed", said) == ["stderr"]
    assert traces("wrong-password", said) == []
