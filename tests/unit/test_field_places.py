"""Where an event's fields come from: names and objects of the value, parts of the record, headers, defaults."""

import dataclasses
import json
from typing import Literal

import numpy as np
import pytest
from click_events import CLICK, PROTO_TEXT, Registry, avro, fields, written
from wire_records import encoder_of

from flink_jobs.decoding import file_decoder, in_json
from flink_jobs.event_files import converted_row, record_of
from flink_jobs.history_topic import RawRecords, TopicReader
from flink_jobs.settings import Settings
from flink_jobs.sql_statements import job_statements
from udfs.entity_state import ShardState
from udfs.event_texts import schema_text, texts_of
from udfs.formats import Avro, JsonSchema, Protobuf
from udfs.output_batch import read_outputs
from udfs.pipeline import Count, DefinitionError, Events, Model, Pipeline, Value
from udfs.plan import FeaturePlan
from udfs.raw_record import RecordParts
from udfs.record_batch import RecordBatch, pack_records
from udfs.scoring import Scorer
from udfs.sql_features import SqlRefusedError
from udfs.wire_formats import EventDecoder, Refused

AT = 1_700_000_000_123


class Sale:
    id: str
    user: str
    at: int
    shop: Literal["web", "store"] = "web"
    price: float = 2.5
    tries: int | None
    test: bool = False


PLACES = {
    "id": "@place", "at": "@timestamp", "shop": "@header.shop.name", "price": "order.price", "tries": "@header.tries",
    "test": "@header.test",
}  # fmt: skip


def sales(**changes):
    given = {"entity": "user", "time": "at", "id": "id", "fields": PLACES, **changes}
    events = Events(Sale, "sales", **given)
    return Pipeline("sales", events, [Count(window="1h"), Value("price")], Model("m", 1), prediction="score")


def batch_of(pipeline, *records):
    """(key, value, headers) of each."""
    keys, values, headers = zip(*records, strict=True)
    numbers = list(range(len(records)))
    names = pipeline.events.headers
    times_ms = [AT + number for number in numbers]
    packed = pack_records(keys, values, [3] * len(records), numbers, times_ms, headers=headers, names=names)
    return RecordBatch(packed, names)


def decoded(pipeline, *records, schemas=None):
    """Each record by itself, and in a batch that is decoded together where that can be: both say the same."""
    decoder = EventDecoder(pipeline, *([] if schemas is None else [schemas]))
    alone = [
        decoder.decode(key, value, RecordParts(3, number, AT + number, headers))
        for number, (key, value, headers) in enumerate(records)
    ]
    for repeats in (1, 20):
        found = decoder.decode_batch(batch_of(pipeline, *records * repeats))
        rows = range(len(records) * repeats) if found.rows is None else found.rows.tolist()
        by_row = {**dict(zip(rows, found.events, strict=True)), **found.refused}
        assert [told(by_row.get(row)) for row in range(len(records))] == [told(each) for each in alone]
    return alone[0] if len(records) == 1 else alone


def told(event):
    return event if event is None or isinstance(event, Refused) else fields(event)


def test_fields_come_from_the_value_the_record_and_its_headers():
    headers = {"shop.name": b"store", "tries": b"12", "test": b"true", "other": b"\xff"}
    found = decoded(sales(), (b"ann", b'{"user": "ann", "order": {"price": 3}, "at": "x", "id": 5}', headers))
    assert told(found) == {
        "id": "sales/3/0", "user": "ann", "at": AT, "shop": "store", "price": 3.0, "tries": 12, "test": True,
    }  # fmt: skip


@pytest.mark.parametrize("more", [b"", b', "order": {}', b', "order": null'])
def test_a_field_that_is_not_there_has_its_default(more):
    found = decoded(sales(), (b"ann", b'{"user": "ann"' + more + b"}", {"tries": None}))
    assert (found.shop, found.price, found.tries, found.test) == ("web", 2.5, None, False)


REFUSED = [
    ({"shop.name": b"moon"}, b'{"user": "ann"}', "unknown_category"),
    ({"shop.name": b"\xff"}, b'{"user": "ann"}', "wrong_type"),
    ({"tries": b"1.5"}, b'{"user": "ann"}', "wrong_type"),
    ({"tries": b"1_000"}, b'{"user": "ann"}', "wrong_type"),
    ({"test": b"yes"}, b'{"user": "ann"}', "wrong_type"),
    ({}, b'{"user": "ann", "order": {"price": null}}', "wrong_type"),
    ({}, b'{"user": "ann", "order": []}', "wrong_type"),
    ({}, b'{"order": {}}', "missing_field"),
]


@pytest.mark.parametrize(("headers", "value", "reason"), REFUSED)
def test_what_a_field_cannot_be_is_refused(headers, value, reason):
    assert decoded(sales(), (b"ann", value, headers)).reason == reason


def test_a_header_that_is_needed_is_missed():
    class Told(Sale):
        shop: str

    Told.shop = None
    pipeline = sales()
    pipeline = dataclasses.replace(pipeline, events=dataclasses.replace(pipeline.events, type=Told))
    refused = decoded(pipeline, (b"ann", b'{"user": "ann"}', {}))
    assert refused == Refused("missing_field", "the record has no header shop.name, for shop")


def test_a_record_among_broken_ones_keeps_its_own_time_and_headers():
    good = b'{"user": "ann"}'
    found = decoded(sales(), (b"ann", b"{", {}), (b"ann", good, {"tries": b"7"}), (None, good, {}), (b"ann", good, {}))
    assert [each.reason for each in (found[0], found[2])] == ["not_json", "key_mismatch"]
    assert [(each.at, each.tries, each.id) for each in (found[1], found[3])] == [
        (AT + 1, 7, "sales/3/1"), (AT + 3, None, "sales/3/3"),
    ]  # fmt: skip


@pytest.mark.parametrize(("unit", "time"), [("s", AT // 1_000), ("us", AT * 1_000), ("ns", AT * 1_000_000)])
def test_the_time_of_the_record_is_in_the_unit_of_the_events(unit, time):
    assert decoded(sales(time_unit=unit), (b"ann", b'{"user": "ann"}', {})).at == time


def test_the_entity_may_be_in_the_key_alone():
    found = decoded(sales(fields={**PLACES, "user": "@key"}), (b"ann", b"{}", {}), (None, b"{}", {}))
    assert (found[0].user, found[1].reason) == ("ann", "missing_field")
    framed = sales(fields={**PLACES, "user": "@key"}, key_format=Avro())
    assert decoded(framed, (b"\0\0\0\0\x09\x06ann", b"{}", {})).user == "ann"


def test_without_its_parts_such_a_record_is_not_decoded():
    with pytest.raises(AssertionError, match="give them"):
        EventDecoder(sales()).decode(b"ann", b'{"user": "ann"}')


NESTED = {
    "type": "record", "name": "Order", "fields": [{"name": "price", "type": ["null", "double"], "default": None}],
}  # fmt: skip
USER = ("user", "string", {})
ORDERED = avro(USER, ("order", ["null", NESTED], {"default": None}))
AVRO_ROWS = [
    (ORDERED, {"user": "ann", "order": {"price": 4.0}}, 4.0),
    (ORDERED, {"user": "ann", "order": None}, 2.5),
    (ORDERED, {"user": "ann", "order": {"price": None}}, "wrong_type"),
    (avro(USER), {"user": "ann"}, 2.5),
    (avro(USER, ("price", "double", {})), {"user": "ann", "price": 9.0}, 2.5),  # not where the pipeline says
    (avro(USER, ("basket", NESTED, {"aliases": ["order"]})), {"user": "ann", "basket": {"price": 8.0}}, 8.0),
]


@pytest.mark.parametrize(("schema", "row", "price"), AVRO_ROWS)
def test_fields_in_records_of_avro_records(schema, row, price):
    found = decoded(sales(format=Avro()), (b"ann", written(schema, row), {}), schemas=Registry(schema))
    assert (found.reason if isinstance(found, Refused) else found.price) == price


PROTO_SALES = """
syntax = "proto3";
message Sale { string user = 1; Order order = 2; message Order { optional double price = 1; double weight = 2; } }
"""


ORDER_OF_4 = b"\x12\x09\x09" + b"\0" * 6 + b"\x10@"


@pytest.mark.parametrize(("body", "price"), [(b"", 2.5), (b"\x12\0", 2.5), (ORDER_OF_4, 4.0)])
def test_fields_in_messages_of_protobuf_messages(body, price):
    found = decoded(sales(format=Protobuf(schema=PROTO_SALES)), (b"ann", b"\x0a\x03ann" + body, {}))
    assert found.price == price


def test_defaults_hold_in_every_format():
    class Visit:
        id: str
        user: str
        at: int
        page: str = "home"
        count: int = 3
        more: float | None = 1.5

    events = Events(Visit, "visits", entity="user", time="at", id="id")
    pipeline = Pipeline("visits", events, [Count(window="1h")], Model("m", 1), prediction="score")
    row, wanted = {"id": "e", "user": "ann", "at": AT}, ("home", 3, 1.5)
    schema = avro(*[(name, "string" if isinstance(value, str) else "long", {}) for name, value in row.items()])
    text = PROTO_TEXT.replace("Page page = 3;", "").replace("int32 count = 5;", "optional int32 count = 5;")
    click = CLICK(id="e", user="ann", at=AT).SerializeToString()
    values = {
        JsonSchema(schema="{}"): json.dumps(row).encode(), Avro(schema=schema.text): written(schema, row)[5:],
        Protobuf(schema=text, message="shop.Click"): click,
    }  # fmt: skip
    for form, value in values.items():
        own = dataclasses.replace(pipeline, events=dataclasses.replace(events, format=form))
        found = decoded(own, (b"ann", value, {}))
        assert (found.page, found.count, found.more) == wanted, form
    for without in (row, {**row, "page": "", "count": None}):  # what a file has of missing cells
        event, converted = converted_row(without, pipeline)
        assert converted
        found = file_decoder(pipeline).decode(*record_of(event, pipeline))
        assert (found.page, found.count, found.more) == wanted
    assert decoded(pipeline, (b"ann", json.dumps({**row, "count": None}).encode(), {})).reason == "wrong_type"
    assert decoded(pipeline, (b"ann", json.dumps({**row, "more": None}).encode(), {})).more is None


def test_a_default_is_part_of_what_a_model_was_trained_on():
    class Other(Sale):
        price: float = 3.5

    pipeline = sales()
    other = dataclasses.replace(pipeline, events=dataclasses.replace(pipeline.events, type=Other))
    assert other.feature_set_hash() != pipeline.feature_set_hash()
    assert other.feature_set_hash(["count_1h"]) == pipeline.feature_set_hash(["count_1h"])


def test_ignored_tombstones_are_neither_answered_nor_dead_letters():
    records = [(b"ann", b'{"user": "ann"}', {}), (b"ann", None, {}), (b"ann", b"{", {})]
    assert decoded(sales(), *records)[1].reason == "null_value"
    pipeline = sales(tombstones="ignore")
    assert decoded(pipeline, *records)[1] is None
    plan = FeaturePlan.build(pipeline)

    class Zero:
        def predict(self, features):
            return np.zeros(len(features))

    scorer = Scorer(plan, Zero(), encoder_of(pipeline), lambda: 0)
    outputs = read_outputs(scorer.score(batch_of(pipeline, *records), {0: ShardState(plan)}))
    assert [each.headers["millrace-offset"] for each in outputs] == ["2", "0"]
    assert scorer.passed_over == 1


@pytest.mark.parametrize("tombstones", ["ignore", "dead-letter"])
def test_a_replay_of_the_topic_sees_the_same_events(tombstones):
    pipeline = sales(tombstones=tombstones)
    records = [
        (b"ann", b'{"user": "ann", "order": {"price": 7}}', {"tries": b"1"}), (b"ann", None, {}),
        (b"bob", b'{"user": "bob"}', {"shop.name": b"store"}), (b"bob", b"[]", {}), (b"ann", b'{"user": "ann"}', {}),
    ]  # fmt: skip
    plan = FeaturePlan.build(pipeline)
    reader = TopicReader(plan, "127.0.0.1:9", None, 100)  # connects to nothing
    keys, values, headers = (list(column) for column in zip(*records, strict=True))
    numbers = list(range(len(records)))
    block = reader.block(RawRecords(keys, values, numbers, [AT + number for number in numbers], headers), 3)
    reader.close()
    expected = EventDecoder(pipeline).decode_batch(batch_of(pipeline, *records))
    times_ms, columns, _, direct = plan.columnise(expected.events)
    assert block.events.rows.tolist() == expected.rows.tolist() == [0, 2, 4]
    assert block.events.times_ms.tolist() == times_ms.tolist()
    assert block.events.ids.to_pylist() == [event.id for event in expected.events]
    assert block.events.direct.tobytes() == direct.tobytes()
    assert block.events.columns.tobytes() == columns.tobytes()
    assert {letter.place: letter.reason for letter in block.letters} == {
        row: why.reason for row, why in expected.refused.items()
    }


def test_files_and_topics_of_our_own_have_the_fields_by_their_names():
    plain = in_json(sales(tombstones="ignore"))
    assert (dict(plain.events.fields), plain.events.tombstones, plain.events.headers) == ({}, "dead-letter", [])


WRONG = [
    ({"fields": {"price": "@ts_ms"}}, "only change events"),
    ({"fields": {"price": "@header."}}, "name of a field"),
    ({"fields": {"price": "@headers"}}, "there are @key"),
    ({"fields": {"nobody": "x"}}, "no field 'nobody'"),
    ({"fields": {"price": "shop", "shop": "shop.name"}}, "as a value and as an object"),
    ({"tombstones": "drop"}, "dead-letter, ignore"),
    ({"sources": ["s"]}, "say them of each Source"),
]


@pytest.mark.parametrize(("given", "says"), WRONG)
def test_what_cannot_be_is_refused_where_it_is_defined(given, says):
    with pytest.raises(DefinitionError, match=says):
        sales(**given)


@pytest.mark.parametrize(("name", "default", "says"), [("price", "x", "cannot have"), ("id", "e", "needs its own")])
def test_a_default_that_a_field_cannot_have_is_refused(name, default, says):
    changed = type("Changed", (Sale,), {name: default})
    with pytest.raises(DefinitionError, match=says):
        Events(changed, "sales", entity="user", time="at", id="id")


@dataclasses.dataclass(slots=True)
class Slotted:
    id: str
    at: int
    price: float = 1


def test_defaults_of_a_dataclass_count_and_methods_are_none():
    class Tagged(Slotted):
        @property
        def shown(self):
            return "x"

    schema = Events(Tagged, "t", entity="id", time="at", id="id").schema
    assert [one.default for one in schema] == [None, None, 1.0]


def test_sql_reads_renamed_and_nested_fields_and_defaults_and_refuses_the_others():
    pipeline = sales(fields={"price": "order.price", "at": "order.at", "user": "@key"})
    rows = texts_of([b"ann", b"ann"], [b'{"id":"e","order":{"at":5}}', b"{}"], schema_text(pipeline))
    assert rows[0] == [None, None, "5", "e", "ann", "5", "web", "2.5", None, "false"]
    assert rows[1][0] == "missing_field"
    with pytest.raises(SqlRefusedError, match="id is read from @place"):
        job_statements(sales(), Settings(), None, "m")
    with pytest.raises(SqlRefusedError, match="at is read from"):
        job_statements(sales(fields={"at": "time-s"}), Settings(), None, "m")
