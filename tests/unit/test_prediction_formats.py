"""Predictions in every format: what is written is read back, by the format's own library too."""

import dataclasses
import io
import json

import fastavro
import msgspec
import numpy as np
import pytest
from google.protobuf import message_factory
from wire_records import PURCHASE, RECEIPT_MODEL, read_outputs

from flink_jobs.decoding import prediction_reader
from udfs.byte_lines import Lines
from udfs.confluent_wire import head_of
from udfs.formats import Avro, Json, JsonSchema, Protobuf
from udfs.output_fields import predictions_of
from udfs.output_values import value_reader, value_schema
from udfs.pipeline import DefinitionError
from udfs.proto_text import compile_proto, messages_of
from udfs.wire_formats import EventDecoder, PredictionEncoder

EVENT = EventDecoder(PURCHASE).decode(
    b"u1", b'{"event_id":"e1","user_id":"u1","page_id":"home","dwell_time_sec":1.5,"timestamp":1700000000000}'
)
BODY = {"event_id": "e1", "user_id": "u1", "page_id": "home", "purchase_probability": 0.25, "scored_at": 7}


def pipeline(output_format, *, features=True):
    return dataclasses.replace(PURCHASE, include=("page_id",), include_features=features, output_format=output_format)


def written(wanted, *, schema=None, score=0.25, event=EVENT, features=None):
    encoder = PredictionEncoder(wanted, model=RECEIPT_MODEL, schema=schema)
    width = len(wanted.feature_names)
    matrix = np.arange(width, dtype=np.float64)[None] if features is None else features
    packed = encoder.predictions(
        [event], np.array([score]), keys=Lines.of([b"u1"]), scored_at_ms=7, partitions=np.array([0], np.int32),
        offsets=np.array([0]), event_times_ms=np.array([5]), features=matrix,
    )  # fmt: skip
    return read_outputs(packed)[0].value


def expected(wanted):
    features = {name: float(place) for place, name in enumerate(wanted.feature_names)}
    return BODY | ({"features": features} if wanted.include_features else {})


@pytest.mark.parametrize("features", [True, False])
@pytest.mark.parametrize("form", [Json(), JsonSchema(), Avro(), Protobuf()])
def test_a_prediction_with_a_registered_schema_is_read_back(form, features):
    wanted = pipeline(form, features=features)
    schema = value_schema(predictions_of(wanted))
    registered = None if schema is None else schema._replace(id=300)
    value = written(wanted, schema=registered)
    assert value_reader(predictions_of(wanted), lambda _: registered)(value) == expected(wanted)
    assert isinstance(form, Json) or value.startswith(head_of(300))


def test_features_that_are_no_finite_number_are_null():
    for form in (Json(), Avro(), Protobuf()):
        wanted = pipeline(form)
        schema = value_schema(predictions_of(wanted))
        registered = None if schema is None else schema._replace(id=300)
        odd = np.full((1, len(wanted.feature_names)), np.nan)
        odd[0, 1] = np.inf
        value = written(wanted, schema=registered, features=odd)
        read = value_reader(predictions_of(wanted), lambda _, one=registered: one)
        assert set(read(value)["features"].values()) == {None}


def test_other_libraries_read_what_is_written():
    avro = pipeline(Avro())
    schema = value_schema(predictions_of(avro))._replace(id=300)
    body = io.BytesIO(written(avro, schema=schema)[5:])
    read = fastavro.schemaless_reader(body, fastavro.parse_schema(json.loads(schema.text)), None)
    assert read["purchase_probability"] == 0.25
    assert read["scored_at"].timestamp() == 0.007

    protobuf = pipeline(Protobuf())
    schema = value_schema(predictions_of(protobuf))._replace(id=300)
    message = message_factory.GetMessageClass(messages_of(compile_proto(schema.text))[0])
    value = written(protobuf, schema=schema)
    assert value[5:6] == b"\0"
    assert message.FromString(value[6:]).page_id == "home"


SMALL = {"type": "record", "name": "Small", "fields": [
    {"name": "user_id", "type": "string"}, {"name": "purchase_probability", "type": "float"},
    {"name": "origin", "type": "string", "default": "millrace"},
]}  # fmt: skip


def test_a_schema_of_ones_own_says_which_fields_are_written_bare():
    wanted = pipeline(Avro(schema=json.dumps(SMALL)))
    assert prediction_reader(wanted)(written(wanted)) == {
        "user_id": "u1", "purchase_probability": 0.25, "origin": "millrace",
    }  # fmt: skip
    text = """syntax = "proto3"; message A { string x = 1; }
        message P { string user_id = 2; double purchase_probability = 1; }"""
    wanted = pipeline(Protobuf(schema=text, message="P"))
    assert prediction_reader(wanted)(written(wanted)) == {"user_id": "u1", "purchase_probability": 0.25}


def test_a_schema_that_asks_for_what_no_prediction_has_is_refused():
    asks = json.dumps({**SMALL, "fields": [*SMALL["fields"], {"name": "colour", "type": "string"}]})
    with pytest.raises(DefinitionError, match="asks for colour; a prediction has event_id, user_id"):
        written(pipeline(Avro(schema=asks)))
    with pytest.raises(DefinitionError, match="register it before"):
        written(pipeline(Avro()))
    with pytest.raises(DefinitionError, match="message is 'Q'; the schema has P"):
        written(pipeline(Protobuf(schema='syntax = "proto3"; message P { string user_id = 1; }', message="Q")))


@pytest.mark.parametrize("form", [Json(), JsonSchema(), Avro(), Protobuf()])
@pytest.mark.parametrize("broken", [b"", b"\0", b"\0\0\0\1\x2c", b"\1\2\3\4\5\6\7", b"\0\0\0\1\x2c\0\xff\xff"])
def test_what_is_no_prediction_is_a_value_error(form, broken):
    wanted = pipeline(form)
    schema = value_schema(predictions_of(wanted))
    with pytest.raises(ValueError):
        value_reader(predictions_of(wanted), lambda _: schema)(broken)
    assert msgspec.json.decode(written(pipeline(Json()))) == expected(pipeline(Json()))
