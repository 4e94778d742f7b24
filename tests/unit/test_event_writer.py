"""What `millrace produce` writes in a format is read as the row that it was made of."""

import dataclasses
import json

import pytest
from click_events import Registry, avro
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from test_field_places import AT, PLACES, sales, told

from flink_jobs.console import CommandError
from flink_jobs.event_files import FileCounts, file_records
from flink_jobs.event_writing import CheckedWriter
from udfs.confluent_wire import HEAD_BYTES
from udfs.errors import DefinitionError
from udfs.event_writer import EventWriter
from udfs.formats import Avro, Json, JsonSchema, Protobuf, Text
from udfs.raw_record import RecordParts
from udfs.registered_schema import RegisteredSchema
from udfs.schema_texts import event_schema_text
from udfs.wire_formats import EventDecoder

FORMATS = [Json(), JsonSchema(), Avro(), Protobuf()]
KEYS = [Text(), Json(), Avro()]
RENAMED = {"price": "cost", "tries": "more.tries", "test": "more.deep.test"}
ROW = {"id": "e1", "user": "ann", "at": AT, "shop": "store", "price": 4.5, "tries": 3, "test": True}


def writer_of(pipeline):
    form = pipeline.events.format
    if isinstance(form, Json):
        return EventWriter(pipeline), EventDecoder(pipeline)
    text = event_schema_text(pipeline.events, form.kind)
    schema = RegisteredSchema(7, form.kind, text)
    return EventWriter(pipeline, schema, 9), EventDecoder(pipeline, Registry(schema))


def read_back(decoder, record):
    parts = RecordParts(0, 1, record.time_ms or 0, dict(record.headers))
    return told(decoder.decode(record.key, record.value, parts))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("key_form", KEYS)
@pytest.mark.parametrize("places", [{}, PLACES, RENAMED, {**RENAMED, "user": "@key"}])
def test_a_row_comes_back(form, key_form, places):
    pipeline = sales(format=form, key_format=key_form, fields=places)
    write, decoder = writer_of(pipeline)
    wanted = {**ROW, "id": "sales/0/1"} if "id" in places else ROW
    assert read_back(decoder, write(ROW)) == wanted
    without = {name: value for name, value in ROW.items() if name not in ("shop", "price", "tries", "test")}
    assert read_back(decoder, write(without)) == {**wanted, "shop": "web", "price": 2.5, "tries": None, "test": False}


@examples(60)
@given(
    st.sampled_from(FORMATS),
    st.fixed_dictionaries(
        {"id": st.text(), "user": st.text(), "at": st.integers(0, 2**42), "price": st.floats(allow_nan=False)},
        optional={"shop": st.sampled_from(["web", "store"]), "tries": st.none() | st.integers(-(2**63), 2**63 - 1)},
    ),
)
def test_any_row_comes_back(form, row):
    write, decoder = writer_of(sales(format=form, fields=RENAMED))
    if isinstance(form, Json | JsonSchema) and row["price"] in (float("inf"), -float("inf")):
        return  # JSON has none
    assert read_back(decoder, write(row)) == {"shop": "web", "tries": None, "test": False, **row}


def checked(pipeline, schema):
    return CheckedWriter(pipeline, EventWriter(pipeline, schema), EventDecoder(pipeline, Registry(schema)))


FIELDS = [("id", "string", {}), ("user", "string", {}), ("price", "double", {})]


def test_a_schema_that_lacks_a_field_or_has_another_unit_of_time_is_noticed():
    with pytest.raises(CommandError, match="shop is 'store' and would be read as 'web'"):
        checked(sales(format=Avro(), fields={}), avro(*FIELDS, ("at", "long", {})))(ROW)
    schema = avro(*FIELDS, ("at", {"type": "long", "logicalType": "timestamp-micros"}, {}))
    with pytest.raises(CommandError, match=f"at is {AT} and would be read as {AT // 1_000}"):
        checked(sales(format=Avro(), fields={}), schema)(ROW)


def test_a_schema_that_asks_for_what_no_event_has_is_refused():
    pipeline = sales(format=Avro(), fields={})
    with pytest.raises(DefinitionError, match="schema asks for color; an event has id, user, at"):
        EventWriter(pipeline, avro(*FIELDS, ("at", "long", {}), ("color", "string", {})))


def test_rows_that_the_format_cannot_write_are_sent_as_they_are(tmp_path):
    path = tmp_path / "sales.jsonl"
    row = {name: ROW[name] for name in ("id", "user", "price", "at")}
    rows = [row, {**row, "price": "much"}, {**row, "at": "2023-11-14T22:13:20.123Z"}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\nno object\n")
    pipeline = sales(format=Avro(), fields={})
    schema = avro(*FIELDS, ("at", "long", {}))
    counts = FileCounts()
    first, broken, third, none = file_records(path, pipeline, checked(pipeline, schema), counts=counts)
    assert first.value[:HEAD_BYTES] == b"\0\0\0\0\1"
    assert json.loads(broken[1]) == {**row, "price": "much"}
    assert (first.key, first.value) == (third.key, third.value)
    assert none == (None, b"no object")
    assert (counts.rows, counts.unconverted) == (4, 2)


def test_a_field_that_is_not_there_is_not_written():
    pipeline = dataclasses.replace(sales(fields=RENAMED))
    assert json.loads(EventWriter(pipeline)({"id": "e", "user": "u", "at": 1, "tries": 2}).value) == {
        "id": "e", "user": "u", "at": 1, "more": {"tries": 2},
    }  # fmt: skip
