"""The real schema registry: schemas register, evolve, refer to each other, and survive a kill."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from certificates import Authority

from flink_jobs.local.processes import free_port, is_alive
from flink_jobs.local.registry import LocalRegistry, RegistryError
from flink_jobs.pipelines import load_pipeline
from flink_jobs.schema_registry import Reference, SchemaRefusedError, SchemaRegistry
from flink_jobs.settings import load_settings
from udfs.registered_schema import RegistryUnreachableError, SchemaUnknownError
from udfs.schema_texts import event_schema_text, prediction_schema_text

pytestmark = pytest.mark.integration


def avro(*fields: str, name: str = "Click", types: dict[str, object] | None = None, default: object = None) -> str:
    """A record, without spaces as the registry writes it; with a default, all fields but the first have it."""
    found = []
    for one in fields:
        field: dict[str, object] = {"name": one, "type": (types or {}).get(one, "string")}
        if default is not None and one != fields[0]:
            field["default"] = default
        found.append(field)
    return json.dumps({"type": "record", "name": name, "fields": found}, separators=(",", ":"))


@pytest.fixture
def client(registry: LocalRegistry) -> SchemaRegistry:
    return SchemaRegistry(load_settings(schema_registry=registry.url), time_limit_s=10)


def test_a_subject_evolves_and_old_ids_stay_readable(client):
    first = client.register("evolving-value", "AVRO", avro("a"))
    assert client.register("evolving-value", "AVRO", avro("a")) == first
    second = client.register("evolving-value", "AVRO", avro("a", "b", default=""))
    assert second != first
    assert client.by_id(first).text == avro("a")
    versions = client.versions("evolving-value")
    assert [(number, one.id) for number, one in versions.items()] == [(1, first), (2, second)]
    assert client.latest("evolving-value") == versions[2]
    assert "evolving-value" in client.subjects()


def test_an_incompatible_schema_is_refused_and_says_so_before(client):
    client.register("strict-value", "AVRO", avro("a"))
    assert client.compatibility_level("strict-value") == "BACKWARD"
    assert client.compatible("strict-value", "AVRO", avro("a", "b", default="")) == []
    assert client.compatible("strict-value", "AVRO", avro("a", "b"))
    with pytest.raises(SchemaRefusedError, match="Incompatible"):
        client.register("strict-value", "AVRO", avro("a", "b"))
    assert client.compatible("nobody-has-this-value", "AVRO", avro("a", "b")) == []


def test_what_is_no_schema_is_refused(client):
    with pytest.raises(SchemaRefusedError):
        client.register("garbage-value", "AVRO", "no schema at all")


def test_unknown_ids_and_subjects_are_told_from_outages(client):
    for action in (lambda: client.by_id(987_654), lambda: client.latest("never-made"), lambda: client.versions("no")):
        with pytest.raises(SchemaUnknownError):
            action()


def test_references_of_every_kind_come_along(client):
    client.register("country", "AVRO", json.dumps({"type": "enum", "name": "Country", "symbols": ["DE", "FR"]}))
    place = avro("country", name="Place", types={"country": "Country"})
    client.register("place", "AVRO", place, [Reference("Country", "country", 1)])
    top = client.register(
        "visit-value", "AVRO", avro("at", name="Visit", types={"at": "Place"}), [Reference("Place", "place", 1)]
    )
    assert [name for name, _, _ in client.by_id(top).references] == ["Country", "Place"]
    client.register("money.proto", "PROTOBUF", 'syntax = "proto3"; message Money { int64 cents = 1; }')
    text = 'syntax = "proto3"; import "money.proto"; message Sale { Money price = 1; }'
    sale = client.by_id(client.register("sale-value", "PROTOBUF", text, [Reference("money.proto", "money.proto", 1)]))
    assert (sale.kind, sale.text) == ("PROTOBUF", text)
    assert sale.references[0][0:2] == ("money.proto", "PROTOBUF")


@pytest.mark.parametrize("kind", ["AVRO", "PROTOBUF", "JSON"])
def test_schemas_of_predictions_evolve_as_the_pipeline_does(client, kind):
    first = dataclasses.replace(load_pipeline("purchase"), include=("page_id",), include_features=True)
    subject, text = f"answers-{kind}", None
    for pipeline in (
        first,
        dataclasses.replace(first, include=("page_id", "dwell_time_sec")),
        dataclasses.replace(first, include=("dwell_time_sec",), features=first.features[:-1]),
        dataclasses.replace(first, include=(), include_features=False),
        dataclasses.replace(first, include=("timestamp", "page_id")),
    ):
        text = prediction_schema_text(pipeline, kind, text)
        assert client.compatible(subject, kind, text) == []
        schema_id = client.register(subject, kind, text)
        assert client.by_id(schema_id).text == text
    assert len(client.versions(subject)) == 5


@pytest.mark.parametrize("kind", ["AVRO", "PROTOBUF", "JSON"])
def test_schemas_of_events_are_taken_as_they_are(client, kind):
    text = event_schema_text(load_pipeline("purchase").events, kind)
    assert client.by_id(client.register(f"views-{kind}", kind, text)).text == text


def test_a_killed_registry_keeps_every_schema_it_gave_an_id_for(own_registry):
    client = SchemaRegistry(load_settings(schema_registry=own_registry.url), time_limit_s=30)
    ids = [client.register(f"kept-{number}", "AVRO", avro(f"a{number}")) for number in range(5)]
    own_registry.kill()
    own_registry.restart()
    fresh = SchemaRegistry(load_settings(schema_registry=own_registry.url), time_limit_s=30)
    assert [fresh.by_id(one).text for one in ids] == [avro(f"a{number}") for number in range(5)]
    assert fresh.compatibility_level("kept-0") == "BACKWARD"


def test_a_restart_in_the_middle_is_waited_for_and_a_dead_one_is_unreachable(own_registry):
    client = SchemaRegistry(load_settings(schema_registry=own_registry.url), time_limit_s=30)
    known = client.register("a", "AVRO", avro("a"))
    client.by_id(known)
    own_registry.kill()
    assert client.by_id(known).text == avro("a"), "what is known needs no registry"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.latest, "a")
        time.sleep(0.5)
        assert not waiting.done()
        own_registry.restart()
        assert waiting.result(timeout=30).id == known
    own_registry.kill()
    impatient = SchemaRegistry(load_settings(schema_registry=own_registry.url), time_limit_s=1)
    started = time.monotonic()
    with pytest.raises(RegistryUnreachableError, match="cannot be reached"):
        impatient.by_id(known)
    assert time.monotonic() - started < 5


def test_schemas_over_tls_beside_a_plain_kafka_and_no_other_server(fetched_registry, tmp_path):
    """A certificate of another name, or of another authority, is refused at once; Kafka is not asked for TLS."""
    authority, port = Authority(tmp_path / "pem"), free_port()
    signed = authority.sign("registry")
    locked = LocalRegistry.start(
        tmp_path / "registry", die_with_parent=True, properties={
            "quarkus.http.ssl-port": port,
            "quarkus.http.ssl.certificate.files": signed.certificate,
            "quarkus.http.ssl.certificate.key-files": signed.key,
        },
    )  # fmt: skip

    def client(host: str = "127.0.0.1", ca: Path = authority.file) -> SchemaRegistry:
        url = f"https://{host}:{port}/apis/ccompat/v7"
        settings = load_settings(schema_registry=url, tls_ca_file=ca, kafka_security_protocol="PLAINTEXT")
        assert "ssl.ca.location" not in settings.kafka_properties
        return SchemaRegistry(settings, time_limit_s=10)

    try:
        assert client().by_id(client().register("private-value", "AVRO", avro("a"))).text == avro("a")
        for wrong in (client("localhost"), client(ca=Authority(tmp_path / "other").file)):
            started = time.monotonic()
            with pytest.raises(RegistryUnreachableError, match=r"is not trusted.*tls_ca_file"):
                wrong.subjects()
            assert time.monotonic() - started < 2.0
    finally:
        locked.kill()


def test_starting_it_twice_gives_the_same_one(registry):
    again = LocalRegistry.start(registry.folder)
    assert again.state == registry.state
    with pytest.raises(RegistryError, match="already runs on port"):
        LocalRegistry.start(registry.folder, free_port())


def test_it_listens_on_loopback_only(registry):
    import psutil

    listening = [one.laddr.ip for one in psutil.Process(registry.state.pid).net_connections() if one.status == "LISTEN"]
    assert len(listening) == 2
    assert set(listening) == {"127.0.0.1"}


def test_commands_start_and_stop_it_and_the_doctor_sees_it(fetched_registry, tmp_path):
    environment = {**os.environ, "MILLRACE_HOME": str(tmp_path / "home")}

    def millrace(*arguments: str) -> "subprocess.CompletedProcess[str]":
        program = "from flink_jobs.cli import main; main()"
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=90, check=False)

    started = millrace("registry", "up", "--port", str(free_port()), "--json")
    assert started.returncode == 0, started.stderr
    document = json.loads(started.stdout)
    try:
        assert requests.get(f"{document['url']}/subjects", timeout=5).json() == []
        findings = json.loads(millrace("doctor", "--json").stdout)["findings"]
        assert [one["state"] for one in findings if one["what"] == "schema registry"] == ["ok"]
        assert Path(document["folder"]).is_relative_to(tmp_path)
    finally:
        stopped = millrace("down")
    assert "its schemas stay" in stopped.stdout
    found = LocalRegistry.find(document["folder"])
    assert found is not None
    assert not is_alive(found.state.pid, found.state.identity)
