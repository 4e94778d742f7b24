"""`millrace schema` against the real registry: check before a deployment, register, diff, classes made of schemas."""

import io
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import fastavro
import pytest
from typer.testing import CliRunner, Result

from flink_jobs.cli import app
from flink_jobs.local.registry import LocalRegistry
from flink_jobs.pipelines import load_pipeline
from flink_jobs.schema_registry import SchemaRegistry
from flink_jobs.settings import load_settings
from udfs.wire_formats import EventDecoder

pytestmark = pytest.mark.integration

PIPELINE = """
from udfs.pipeline import Avro, Count, Events, Json, JsonSchema, Model, Pipeline, Protobuf
class Payment:
    payment_id: str
    card: str
    amount: float
    at: int
{more}
pipeline = Pipeline(
    name="{topic}", features=[Count(window="1h")], model=Model("fraud", version=1, root="nowhere"), prediction="risk",
    events=Events(Payment, topic="{topic}", entity="card", time="at", id="payment_id", format={format}),
    predictions="{topic}-scored", include={include}, output_format={format},
)
"""


def written(tmp_path: Path, topic: str, *, more: str = "", include: str = "()", kind: str = "Avro()") -> str:
    file = tmp_path / "pipeline.py"
    file.write_text(PIPELINE.format(topic=topic, more=more, include=include, format=kind))
    return str(file)


@pytest.fixture(autouse=True)
def client(registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SchemaRegistry:
    monkeypatch.setenv("MILLRACE_SCHEMA_REGISTRY", registry.url)
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    return SchemaRegistry(load_settings(), time_limit_s=10)


def schema(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["schema", *arguments])


def done(*arguments: str) -> str:
    result = schema(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def record(*fields: str, **types: Any) -> str:
    found = [{"name": one, "type": types.get(one, "string")} for one in fields]
    return json.dumps({"type": "record", "name": "Payment", "fields": found})


TIME = {"type": "long", "logicalType": "timestamp-millis"}
GOOD = record("payment_id", "card", "amount", "at", amount="double", at=TIME)


def test_check_names_each_field_and_version_that_cannot_be_read(client, tmp_path):
    client.register("checked-value", "AVRO", GOOD)
    pipeline = written(tmp_path, "checked")
    assert "1 of 1 versions can be read" in done("check", pipeline)
    later = json.loads(GOOD)
    later["fields"] = [one for one in later["fields"] if one["name"] != "amount"]
    client.register("checked-value", "AVRO", json.dumps(later))
    result = schema("check", pipeline)
    assert result.exit_code == 1
    assert "version 2: amount is not written" in result.stdout
    assert "1 of 2 versions can be read" in result.stdout
    assert result.stderr.strip().splitlines() == ["error: the event class cannot read amount of version 2"]
    Path(pipeline).write_text(Path(pipeline).read_text().replace("amount: float", "amount: float | None"))
    assert "2 of 2 versions can be read" in done("check", pipeline)


@pytest.mark.parametrize("kind", ["Avro()", "Protobuf()", "JsonSchema()"])
def test_a_pipeline_registers_changes_and_is_told_what_changed(client, tmp_path, kind):
    topic = f"cycle-{kind[:4].lower()}"
    first = written(tmp_path, topic, kind=kind)
    assert "not in the registry yet" in done("diff", first)
    found = json.loads(done("register", first, "--events", "--json"))["registered"]
    assert [one["subject"] for one in found if one["new"]] == [f"{topic}-value", f"{topic}-scored-value"]
    assert "nothing changes" in done("register", first)
    assert "no difference" in done("diff", first)
    changed = written(tmp_path, topic, kind=kind, more="    shop: str | None", include="('shop', 'amount')")
    assert schema("check", changed).exit_code == 0
    document = json.loads(done("diff", changed, "--json"))
    assert [one["field"] for one in document["predictions"]["changes"]] == ["shop", "amount"]
    assert [one["field"] for one in document["events"]["changes"]] == ["shop"]
    assert json.loads(done("register", changed, "--json"))["registered"][0]["new"] is True
    assert len(client.versions(f"{topic}-scored-value")) == 2


def test_predictions_that_the_registry_would_not_take_fail_the_check(client, tmp_path):
    client.register("taken-scored-value", "AVRO", record("payment_id", "card", "risk", risk="string"))
    result = schema("check", written(tmp_path, "taken"), "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["ok"] is False
    assert document["predictions"]["compatibility"] == "BACKWARD"
    changed = {one["field"]: (one["before"], one["after"]) for one in document["predictions"]["changes"]}
    assert changed["risk"] == ("string", "double")
    assert schema("register", written(tmp_path, "taken")).exit_code == 1
    assert len(client.versions("taken-scored-value")) == 1


def test_a_pipeline_without_schemas_is_told_how_to_get_some(tmp_path):
    result = schema("register", written(tmp_path, "plain", kind="Json()"))
    assert result.exit_code == 1
    assert "output_format=Avro()" in result.stderr


def test_an_imported_class_reads_the_topic_and_passes_the_type_checker(client, tmp_path):
    schema_id = client.register("imported-value", "AVRO", GOOD)
    target = tmp_path / "payments.py"
    done("import", "imported-value", "--entity", "card", "--id", "payment_id", "--to", str(target))
    assert schema("import", "imported-value", "--to", str(target)).exit_code == 1, "a file is not overwritten unasked"
    proto = tmp_path / "sale.proto"
    fields = "string id = 1; string shop = 2; int64 at = 3; repeated string x = 4;"
    proto.write_text(f'syntax = "proto3"; message Sale {{ {fields} }}')
    other = tmp_path / "sales.py"
    roles = ("--entity", "shop", "--id", "id", "--time", "at")
    done("import", "--file", str(proto), *roles, "--to", str(other))
    with target.open("a") as file:
        file.write(
            "from udfs.pipeline import Count, Model, Pipeline\n"
            "pipeline = Pipeline('imported', events, [Count(window='1h')], Model('m', 1), 'risk')\n"
        )
    decoder = EventDecoder(load_pipeline(str(target)), client.by_id)
    value = io.BytesIO()
    sent = {"payment_id": "p", "card": "c", "amount": 2.5, "at": 7}
    fastavro.schemaless_writer(value, fastavro.parse_schema(json.loads(GOOD)), sent)
    event = decoder.decode(b"c", b"\0" + struct.pack(">I", schema_id) + value.getvalue())
    assert (event.payment_id, event.card, event.amount, event.at) == ("p", "c", 2.5, 7)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=skip", "--cache-dir", str(tmp_path / "mypy")]
    checked = subprocess.run(
        [*command, "--config-file=", str(target), str(other)], capture_output=True, text=True, timeout=120, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_a_subject_or_file_that_is_not_there_is_one_line(tmp_path):
    for arguments in (("nobody-value",), ("--file", str(tmp_path / "none.avsc")), ("--file", "x.txt"), ()):
        result = schema("import", *arguments)
        assert result.exit_code == 1
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
