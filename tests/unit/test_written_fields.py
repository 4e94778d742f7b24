"""What schemas of all kinds say of their fields, what an event class reads of it, and the classes made of them."""

import io
import json
import struct
from dataclasses import replace
from typing import Any, Literal

import fastavro
import pytest
from google.protobuf import message_factory

from udfs.event_class_text import Roles, event_class_text
from udfs.events import Events
from udfs.output_fields import predictions_of
from udfs.pipeline import Avro, Count, JsonSchema, Model, Pipeline, Protobuf
from udfs.proto_text import compile_proto, messages_of
from udfs.registered_schema import RegisteredSchema
from udfs.schema_reading import Difference, differences, reading_problems
from udfs.schema_texts import event_schema_text
from udfs.subjects import events_subject, output_subject
from udfs.wire_formats import EventDecoder
from udfs.written_fields import SchemaTextError, WrittenField, written_record

COUNTRY = json.dumps({"type": "enum", "name": "com.shop.Country", "symbols": ["DE", "FR"]})
AVRO = RegisteredSchema(
    7,
    "AVRO",
    json.dumps({
        "type": "record", "name": "Payment", "namespace": "com.shop", "fields": [
            {"name": "payment_id", "type": "string"},
            {"name": "card", "type": "string", "aliases": ["card_number"]},
            {"name": "amount", "type": "double"},
            {"name": "country", "type": ["null", "com.shop.Country"], "default": None},
            {"name": "retries", "type": ["null", "int"], "default": None},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            {"name": "tags", "type": {"type": "array", "items": "string"}},
            {"name": "address", "type": {"type": "record", "name": "Address", "fields": []}},
            {"name": "class", "type": "string"},
            {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        ],
    }),
    (("com.shop.Country", "AVRO", COUNTRY),),
)  # fmt: skip
PROTO = RegisteredSchema(
    8,
    "PROTOBUF",
    """syntax = "proto3"; package com.shop;
    import "google/protobuf/timestamp.proto"; import "google/protobuf/wrappers.proto";
    enum Country { UNKNOWN = 0; DE = 1; }
    message Payment {
      string payment_id = 1; string card = 2; double amount = 3; Country country = 4;
      optional int32 retries = 5; google.protobuf.Timestamp at = 6; repeated string tags = 7;
      map<string, string> labels = 8; google.protobuf.BoolValue fresh = 9; bytes raw = 10;
      google.protobuf.Timestamp seen = 11;
    }""",
)
JSON = RegisteredSchema(
    9,
    "JSON",
    json.dumps({
        "title": "payment event", "type": "object", "required": ["payment_id", "card", "at"],
        "definitions": {"money": {"type": "number"}},
        "properties": {
            "payment_id": {"type": "string"}, "card": {"type": "string"},
            "amount": {"$ref": "#/definitions/money"}, "country": {"enum": ["DE", "FR", None]},
            "retries": {"oneOf": [{"type": "null"}, {"type": "integer"}]}, "at": {"type": "integer"},
            "user-agent": {"type": "string"}, "items": {"type": "array"}, "level": {"const": 3},
        },
    }),
)  # fmt: skip
ROLES = Roles(entity="card", time="at", id="payment_id")


class Payment:
    payment_id: str
    card: str
    amount: float
    country: Literal["DE", "FR", "UNKNOWN"] | None
    at: int


def events(event_class: type = Payment, **changes: Any) -> Events:
    chosen = {"topic": "payments", "entity": "card", "time": "at", "id": "payment_id", "format": Avro()}
    return Events(event_class, **{**chosen, **changes})


def pipeline(of: Events) -> Pipeline:
    return Pipeline("pay", of, [Count(window="1h")], Model("pay", 1), "risk")


def fields(schema: RegisteredSchema) -> dict[str, WrittenField]:
    return {one.name: one for one in written_record(schema).fields}


def test_avro_fields_are_told_with_references_units_and_what_cannot_be_read():
    found = fields(AVRO)
    assert found["country"] == WrittenField("country", "enum", "str", True, ("DE", "FR"))
    assert found["at"].time_unit == "us"
    assert (found["retries"].kind, found["retries"].nullable) == ("int", True)
    assert found["price"].kind == "float"
    assert [name for name, one in found.items() if one.kind is None] == ["tags", "address"]
    assert written_record(AVRO).name == "com.shop.Payment"


def test_protobuf_fields_are_told_with_presence_and_well_known_types():
    found = fields(PROTO)
    assert found["country"].categories == ("UNKNOWN", "DE")
    assert [name for name, one in found.items() if one.nullable] == ["retries", "at", "fresh", "seen"]
    assert (found["at"].time_unit, found["fresh"].kind) == ("timestamp", "bool")
    assert [name for name, one in found.items() if one.kind is None] == ["tags", "labels", "raw"]


def test_json_fields_are_told_with_definitions_and_all_ways_to_be_optional():
    found = fields(JSON)
    assert {name: one.kind for name, one in found.items()} == {
        "payment_id": "str", "card": "str", "amount": "float", "country": "str", "retries": "int", "at": "int",
        "user-agent": "str", "items": None, "level": "int",
    }  # fmt: skip
    assert [name for name, one in found.items() if not one.nullable] == ["payment_id", "card", "at"]
    assert (found["country"].categories, found["level"].categories) == (("DE", "FR"), (3,))


@pytest.mark.parametrize(
    ("kind", "text"),
    [("AVRO", "{"), ("AVRO", '"string"'), ("AVRO", '{"type": "record", "name": "A", "fields": [{"name": "x"}]}'),
     ("JSON", "[]"), ("JSON", '{"$ref": "#"}'), ("JSON", '{"$ref": "other.json"}'), ("PROTOBUF", "message {")],
)  # fmt: skip
def test_what_is_no_schema_of_a_record_is_one_line(kind, text):
    with pytest.raises(SchemaTextError) as caught:
        written_record(RegisteredSchema(1, kind, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("schema", [AVRO, PROTO, JSON])
def test_an_event_class_that_fits_has_no_problem_but_what_may_be_missing(schema):
    assert not any(one.refuses_all for one in reading_problems(events(), written_record(schema).fields))


def test_each_field_that_cannot_be_read_is_named_with_the_reason():
    class Other:
        payment_id: int
        card_number: str
        amount: int
        country: Literal["DE"]
        address: str
        new: str
        newer: str | None
        at: int

    problems = reading_problems(events(Other, entity="card_number"), written_record(AVRO).fields)
    assert {one.field: one.refuses_all for one in problems} == {
        "payment_id": True, "amount": True, "country": False, "address": True, "new": True,
    }  # fmt: skip
    texts = {one.field: one.text for one in problems}
    assert texts["amount"] == "is written as double, and int in the event class"
    assert "'FR'" in texts["country"]
    assert "may be null" in texts["country"]


def test_a_renamed_field_is_read_by_its_old_name():
    class Renamed:
        payment_id: str
        card: str
        total: float
        at: int

    assert reading_problems(events(Renamed), written_record(AVRO).fields)
    assert not reading_problems(events(Renamed, renamed={"total": "amount"}), written_record(AVRO).fields)


def test_differences_are_new_gone_and_changed_fields():
    before = [WrittenField("a", "string", "str", False), WrittenField("b", "int", "int", False)]
    after = [WrittenField("b", "long", "int", True), WrittenField("c", "string", "str", False)]
    assert differences(before, after) == [
        Difference("b", "int", "long, optional"), Difference("c", None, "string"), Difference("a", "string", None),
    ]  # fmt: skip
    assert differences(after, after) == []


@pytest.mark.parametrize("kind", ["AVRO", "PROTOBUF", "JSON"])
def test_the_schema_of_an_event_class_can_be_read_by_it(kind):
    found = written_record(RegisteredSchema(1, kind, event_schema_text(events(), kind)))
    # Protobuf has no word for a string of a few values
    assert {one.field for one in reading_problems(events(), found.fields)} <= {"country"}
    assert not any(one.refuses_all for one in reading_problems(events(), found.fields))


def avro_record() -> bytes:
    named: dict[str, Any] = {}
    fastavro.parse_schema(json.loads(COUNTRY), named)
    written = io.BytesIO()
    record = {"payment_id": "p", "card": "c", "amount": 1.5, "country": "FR", "retries": None, "at": 5_000, "tags": []}
    record |= {"address": {}, "class": "x", "price": b"\x01\x00"}
    plain = json.loads(AVRO.text)
    plain["fields"][-1]["type"] = "bytes"
    fastavro.schemaless_writer(written, fastavro.parse_schema(plain, named), record)
    return written.getvalue()


def protobuf_record() -> bytes:
    message = message_factory.GetMessageClass(messages_of(compile_proto(PROTO.text))[0])()
    message.payment_id, message.card, message.amount, message.country = "p", "c", 1.5, 1
    message.at.FromMilliseconds(5)
    return b"\0" + message.SerializeToString()


RECORDS = {
    "AVRO": avro_record,
    "PROTOBUF": protobuf_record,
    "JSON": lambda: json.dumps({"payment_id": "p", "card": "c", "amount": 1.5, "country": "DE", "at": 5}).encode(),
}


@pytest.mark.parametrize("schema", [AVRO, PROTO, JSON])
def test_a_class_made_of_a_schema_reads_its_records(schema):
    """Contract: what import writes can be imported, describes events, and decodes what was written with the schema."""
    text = event_class_text(written_record(schema), schema.kind, topic="payments", source="a test", roles=ROLES)
    namespace: dict[str, Any] = {"__name__": "made"}
    exec(compile(text, "made.py", "exec"), namespace)
    made: Events = namespace["events"]
    decoder = EventDecoder(pipeline(made), lambda _: schema)
    event = decoder.decode(b"c", b"\0" + struct.pack(">I", schema.id) + RECORDS[schema.kind]())
    assert (event.payment_id, event.card, event.amount) == ("p", "c", 1.5)
    assert made.times_ms([event.at]).tolist() == [5]
    assert event.country in ("DE", "FR")
    assert event.retries is None


def test_a_class_without_roles_can_be_imported_and_says_what_to_fill_in():
    text = event_class_text(written_record(JSON), "JSON", topic="payments", source="payments-value")
    namespace: dict[str, Any] = {"__name__": "made"}
    exec(compile(text, "made.py", "exec"), namespace)
    assert "events" not in namespace
    assert "# fill in and uncomment:" in text
    assert "# not read: user-agent (string, optional; its name is none in Python)" in text.replace("    ", "")
    assert "# not read: items (array, optional)" in text


def test_the_only_timestamp_is_the_time():
    text = event_class_text(
        written_record(AVRO), "AVRO", topic="t", source="s", roles=Roles(entity="card", id="payment_id")
    )
    assert '    time="at",' in text
    assert '    time_unit="us",' in text


@pytest.mark.parametrize(
    ("roles", "said"), [(Roles(entity="nobody"), "no field 'nobody'"), (Roles(entity="amount"), "must be str or int"),
                        (Roles(time="card"), "must be int or float"), (Roles(id="tags"), "no field 'tags'")],
)  # fmt: skip
def test_a_role_that_a_field_cannot_have_is_refused(roles, said):
    with pytest.raises(ValueError, match=said):
        event_class_text(written_record(AVRO), "AVRO", topic="t", source="s", roles=roles)


def test_text_of_a_schema_never_becomes_code():
    hostile = {
        'x"""\nimport os': {"type": "string"}, "a\nimport os": {"type": "array"},
        "ok": {"enum": ['"]\nimport os', "b"]},
    }  # fmt: skip
    text = json.dumps({"title": 'E"""\nimport os', "type": "object", "properties": hostile, "required": ["ok"]})
    made = event_class_text(
        written_record(RegisteredSchema(1, "JSON", text)), "JSON", topic='t"\nimport os', source='s"""\nimport os'
    )
    namespace: dict[str, Any] = {"__name__": "made"}
    exec(compile(made, "made.py", "exec"), namespace)
    assert "os" not in namespace


def test_subjects_follow_the_strategy():
    one = pipeline(events())
    assert (events_subject(one.events), output_subject(predictions_of(one))) == ("payments-value", "predictions-value")
    by_record = replace(one, output_format=Protobuf(subject_strategy="record"))
    assert output_subject(predictions_of(by_record)) == "PayPrediction"
    both = events(format=JsonSchema(subject_strategy="topic-record"))
    assert events_subject(both) == "payments-Payment"


def test_fields_from_elsewhere_and_with_defaults_need_not_be_written():
    class Sale:
        sale: str
        card: str
        at: int
        price: float = 1.0
        shop: str

    places = {"at": "@timestamp", "sale": "@place", "card": "@key", "shop": "at.shop"}
    sales = Events(Sale, "sales", entity="card", time="at", id="sale", fields=places)
    written = written_record(RegisteredSchema(1, "AVRO", event_schema_text(sales, "AVRO"))).fields
    assert [one.name for one in written] == ["price", "at"]
    assert reading_problems(sales, written) == []
    assert [one.field for one in reading_problems(sales, written[:1])] == ["shop"]
    assert reading_problems(sales, written[1:]) == []
