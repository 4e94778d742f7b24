"""Keys in every format are the entity, and nothing else."""

import json

import msgspec
import pytest
from click_events import ROW, clicks, decoded, fields, written

from udfs.event_keys import events_key_reader, key_of
from udfs.formats import Avro, Json, JsonSchema, Protobuf, Text
from udfs.pipeline import Count, DefinitionError, Events, Model, Pipeline
from udfs.registered_schema import RegisteredSchema
from udfs.wire_formats import EventDecoder


class Paid:
    id: str
    card: int
    at: int


def paid(key_format):
    events = Events(Paid, "paid", entity="card", time="at", id="id", key_format=key_format)
    return Pipeline("paid", events, [Count(window="1h")], Model("m", 1), prediction="score")


@pytest.mark.parametrize("key_format", [Text(), Json(), JsonSchema(), Avro(), Avro(schema='"string"')])
@pytest.mark.parametrize("entity", ["u1", "", 'é"\\\n', "u" * 200])
def test_a_text_in_any_key_format_is_the_entity(key_format, entity):
    pipeline = clicks(key_format=key_format)
    key = key_of(pipeline.events, entity, schema_id=12)
    read = events_key_reader(pipeline.events)
    assert read is None or read(key) == entity
    value = msgspec.json.encode({**ROW, "user": entity})
    assert fields(decoded(EventDecoder(pipeline), value, key=key))["user"] == entity
    for wrong in (None, b"", key + b"x", key[:-1], b"\0" + key, b"\xff" + key):
        if wrong != key:
            assert EventDecoder(pipeline).decode(wrong, value).reason == "key_mismatch"


@pytest.mark.parametrize("key_format", [Text(), Json(), JsonSchema(), Avro(), Avro(schema='"long"')])
@pytest.mark.parametrize("entity", [0, 12, -1, 2**63 - 1, -(2**63)])
def test_a_number_in_any_key_format_is_the_entity(key_format, entity):
    pipeline = paid(key_format)
    key = key_of(pipeline.events, str(entity), schema_id=12)
    value = msgspec.json.encode({"id": "a", "card": entity, "at": 5})
    assert decoded(EventDecoder(pipeline), value, key=key).card == entity
    assert EventDecoder(pipeline).decode(key + b"\0", value).reason == "key_mismatch"


def test_an_avro_key_may_be_a_record_of_one_field():
    schema = RegisteredSchema(
        7, "AVRO", json.dumps({"type": "record", "name": "K", "fields": [{"name": "user", "type": "string"}]})
    )
    assert written(schema, {"user": "u1"}) == key_of(clicks(key_format=Avro()).events, "u1", schema_id=7)


def test_a_key_of_protobuf_is_refused_and_the_reason_is_said():
    with pytest.raises(DefinitionError, match="more than one encoding"):
        clicks(key_format=Protobuf())
    with pytest.raises(DefinitionError, match="format is 'avro'; write Json"):
        clicks(format="avro")
    with pytest.raises(DefinitionError, match="subject_strategy is 'x'"):
        Avro(subject_strategy="x")
    with pytest.raises(DefinitionError, match="schema is ' '"):
        Avro(schema=" ")
