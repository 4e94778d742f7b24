"""The client of a schema registry, against a server on loopback that answers as it is told to."""

import base64
import json
import pickle
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority

from flink_jobs.local.processes import free_port
from flink_jobs.schema_registry import Reference, SchemaRefusedError, SchemaRegistry
from flink_jobs.settings import Settings, SettingsError, load_settings
from udfs.registered_schema import RegisteredSchema, RegistryUnreachableError, SchemaUnknownError

Answer = tuple[int, Any]
UNKNOWN: Answer = (404, {"error_code": 40403, "message": "Schema not found"})


class Server:
    """Answers by path; a list is given out one by one, its last for ever. Keeps what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | list[Answer]] = {}
        self.asked: list[tuple[str, str, Any, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                path = self.path.partition("?")[0]
                server.asked.append((self.command, self.path, body, self.headers.get("Authorization")))
                answer = server.answers.get(path, (404, "no such page"))
                if isinstance(answer, list):
                    answer = answer.pop(0) if len(answer) > 1 else answer[0]
                content = answer[1].encode() if isinstance(answer[1], str) else json.dumps(answer[1]).encode()
                self.send_response(answer[0])
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.http.shutdown()
    started.http.server_close()


@pytest.fixture
def registry(server: Server) -> SchemaRegistry:
    return SchemaRegistry(settings(server.url), time_limit_s=1.0)


def settings(url: str, **others: Any) -> Settings:
    return load_settings(schema_registry=url, **others)


def refusal(action: Callable[[], object], error: type[Exception]) -> str:
    with pytest.raises(error) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_schema_is_asked_for_once(server, registry):
    server.answers["/schemas/ids/7"] = 200, {"schema": '"string"'}
    assert registry.by_id(7) == RegisteredSchema(7, "AVRO", '"string"', ())
    assert registry.by_id(7).text == '"string"'
    assert len(server.asked) == 1


def test_threads_that_want_the_same_schema_ask_for_it_once(server, registry):
    server.answers["/schemas/ids/7"] = 200, {"schema": "{}", "schemaType": "JSON"}
    threads = [threading.Thread(target=registry.by_id, args=(7,)) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(server.asked) == 1


def test_references_come_before_what_refers_to_them(server, registry):
    def named(name: str, *references: str) -> dict[str, Any]:
        places = [{"name": f"{one}.proto", "subject": one, "version": 1} for one in references]
        return {"schema": name, "schemaType": "PROTOBUF", "references": places}

    server.answers["/schemas/ids/1"] = 200, named("top", "a", "b")
    server.answers["/subjects/a/versions/1"] = 200, named("a", "b")
    server.answers["/subjects/b/versions/1"] = 200, named("b")
    found = registry.by_id(1)
    assert [name for name, _, _ in found.references] == ["b.proto", "a.proto"]
    assert len(server.asked) == 3


def test_references_in_a_circle_are_an_unknown_schema(server, registry):
    circle = {"schema": "x", "references": [{"name": "x", "subject": "x", "version": 1}]}
    server.answers["/schemas/ids/1"] = server.answers["/subjects/x/versions/1"] = 200, circle
    assert "circle" in refusal(lambda: registry.by_id(1), SchemaUnknownError)


def test_an_unknown_id_is_not_asked_for_again_at_once(server, registry):
    server.answers["/schemas/ids/9"] = [UNKNOWN, (200, {"schema": "{}"})]
    refusal(lambda: registry.by_id(9), SchemaUnknownError)
    refusal(lambda: registry.by_id(9), SchemaUnknownError)
    assert len(server.asked) == 1


def test_an_unknown_id_that_is_registered_later_is_found(server, registry, monkeypatch):
    monkeypatch.setattr("flink_jobs.schema_registry.UNKNOWN_FOR_S", 0.0)
    server.answers["/schemas/ids/9"] = [UNKNOWN, (200, {"schema": "{}"})]
    refusal(lambda: registry.by_id(9), SchemaUnknownError)
    assert registry.by_id(9).text == "{}"


@pytest.mark.parametrize("answer", [(404, "not here"), (404, {"detail": "Not Found"}), (200, "<html>"), (302, "")])
def test_what_is_no_registry_is_unreachable_and_never_an_unknown_schema(server, registry, answer):
    """Contract: a wrong URL must not make a dead letter of every record."""
    server.answers["/schemas/ids/9"] = answer
    assert "check schema_registry" in refusal(lambda: registry.by_id(9), RegistryUnreachableError)


def test_a_registry_that_stumbles_is_asked_again(server, registry):
    server.answers["/schemas/ids/1"] = [(503, "busy"), (429, "slower"), (200, {"schema": "{}"})]
    assert registry.by_id(1).text == "{}"
    assert len(server.asked) == 3


def test_a_registry_that_stays_away_is_unreachable_within_the_time_limit():
    port = free_port()
    away = SchemaRegistry(settings(f"http://127.0.0.1:{port}"), time_limit_s=0.5)
    assert f"127.0.0.1:{port} cannot be reached" in refusal(lambda: away.by_id(1), RegistryUnreachableError)


def test_the_next_url_is_asked_when_the_first_is_away(server):
    server.answers["/subjects"] = 200, ["b", "a"]
    both = SchemaRegistry(settings(f"http://127.0.0.1:{free_port()}, {server.url}"), time_limit_s=2.0)
    assert both.subjects() == ["a", "b"]


def test_a_pickled_client_asks_anew_and_holds_no_password(server, tmp_path):
    secret = tmp_path / "password"
    secret.write_text("s3cret-of-the-registry\n")
    server.answers["/schemas/ids/7"] = 200, {"schema": "{}"}
    first = SchemaRegistry(
        settings(server.url, schema_registry_username="ann", schema_registry_password_file=secret), time_limit_s=1.0
    )
    first.by_id(7)
    pickled = pickle.dumps(first)
    assert b"s3cret-of-the-registry" not in pickled
    assert pickle.loads(pickled).by_id(7) == first.by_id(7)
    assert [header for *_, header in server.asked] == [
        "Basic " + base64.b64encode(b"ann:s3cret-of-the-registry").decode()
    ] * 2


def test_no_error_shows_the_password(server, tmp_path):
    secret = tmp_path / "password"
    secret.write_text("s3cret-of-the-registry")
    server.answers["/subjects"] = 401, {"error_code": 40101, "message": "who is ann?"}
    denied = SchemaRegistry(
        settings(server.url, schema_registry_username="ann", schema_registry_password_file=secret), time_limit_s=1.0
    )
    said = refusal(denied.subjects, RegistryUnreachableError)
    assert "schema_registry_password_file" in said
    assert "s3cret" not in said
    assert len(server.asked) == 1, "a wrong password gets no better by trying it again"


def test_a_missing_password_file_is_named(server, tmp_path):
    lost = settings(server.url, schema_registry_username="ann", schema_registry_password_file=tmp_path / "none")
    assert "schema_registry_password_file" in refusal(SchemaRegistry(lost).subjects, SettingsError)


@pytest.mark.parametrize("url", ["registry:8081", "ftp://registry", "http://ann:s3cret@registry:8081"])
def test_a_url_that_cannot_be_used_is_refused_without_being_shown(url):
    said = refusal(lambda: settings(url), SettingsError)
    assert "setting schema_registry:" in said
    assert "s3cret" not in said


def test_without_a_registry_the_setting_is_named():
    assert "MILLRACE_SCHEMA_REGISTRY" in refusal(lambda: SchemaRegistry(load_settings()), SettingsError)


def test_registration_sends_the_schema_with_its_references(server, registry):
    server.answers["/subjects/t%2Fvalue/versions"] = 200, {"id": 3}
    assert registry.register("t/value", "PROTOBUF", "text", [Reference("m.proto", "m", 2)]) == 3
    assert server.asked[0][2] == {
        "schema": "text",
        "schemaType": "PROTOBUF",
        "references": [{"name": "m.proto", "subject": "m", "version": 2}],
    }


@pytest.mark.parametrize("answer", [(409, {"error_code": 409, "message": "x"}), (422, {"error_code": 42201})])
def test_a_schema_that_is_refused_is_no_outage(server, registry, answer):
    server.answers["/subjects/t/versions"] = answer
    refusal(lambda: registry.register("t", "AVRO", "?"), SchemaRefusedError)
    assert len(server.asked) == 1


def test_compatibility_gives_the_registrys_reasons(server, registry):
    path = "/compatibility/subjects/t/versions"
    server.answers[path] = [
        (200, {"is_compatible": True}),
        (200, {"is_compatible": False, "messages": ["b is new"]}),
        (404, {"error_code": 40401, "message": "no subject"}),
    ]
    assert [registry.compatible("t", "AVRO", "{}") for _ in range(3)] == [[], ["b is new"], []]


def test_a_subject_without_a_level_has_the_default(server, registry):
    server.answers["/config"] = 200, {"compatibilityLevel": "FULL"}
    server.answers["/config/t"] = [(404, {"error_code": 40401}), (200, {"compatibilityLevel": "NONE"})]
    assert [registry.compatibility_level("t") for _ in range(2)] == ["FULL", "NONE"]


def test_tls_settings_that_are_no_certificates_are_named(tmp_path: Path):
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    client = SchemaRegistry(settings("https://127.0.0.1:1", tls_ca_file=broken), time_limit_s=0.5)
    assert "tls_ca_file" in refusal(client.subjects, SettingsError)


@pytest.mark.parametrize(
    ("host", "days", "why"), [("localhost", 30, "Hostname mismatch"), ("127.0.0.1", -1, "expired")]
)
def test_a_server_with_a_wrong_certificate_is_refused_at_once_in_one_line(tmp_path, host, days, why):
    authority = Authority(tmp_path)
    signed = authority.sign("registry", days=days)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed.certificate, signed.key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"https://{host}:{server.server_port}"
    client = SchemaRegistry(settings(url, tls_ca_file=authority.file), time_limit_s=20.0)
    said = refusal(client.subjects, RegistryUnreachableError)
    server.shutdown()
    assert f"the schema registry at {url} is not trusted" in said
    assert why in said
