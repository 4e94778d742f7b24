"""Topics in Avro and Protobuf as history: the bits that the stream's decoder gives, records that are none included."""

import dataclasses
from typing import Literal

import pytest
from click_events import Registry, avro, proto_class, written
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_records import batch_of

from flink_jobs import history_topic
from flink_jobs.history_topic import RawRecords, TopicReader
from udfs.confluent_wire import head_of
from udfs.event_decoder import EventDecoder
from udfs.formats import Avro, Protobuf
from udfs.pipeline import Count, Distinct, Events, Last, Model, Pipeline, Value, field
from udfs.plan import FeaturePlan
from udfs.registered_schema import RegisteredSchema


class Visit:
    id: str
    user: str
    page: Literal["home", "cart"]
    price: float | None
    count: int
    at: int
    note: str  # which no feature needs
    paid: bool = False
    shop: str = "web"


PIPELINE = Pipeline(
    "visits",
    Events(Visit, "visits", entity="user", time="at", id="id"),
    [
        Value("price"), Count(where=field("page") == "cart", window="1h"), Distinct("shop", window="1h"),
        Last("count", window="1h"), Count(where=field("paid") == True, window="1h"),  # noqa: E712
        Count(where=field("price") > 1, window="1h"), Count(where=field("price").is_null(), window="1h"),
    ],
    Model("m", 1),
    "score",
)  # fmt: skip
ENUM = {"type": "enum", "name": "Page", "symbols": ["home", "cart", "other"]}
FIELDS = [
    ("id", "string", {}), ("user", "string", {}), ("page", ENUM, {}), ("price", ["null", "double"], {}),
    ("count", "long", {}), ("at", "long", {}), ("note", ["string", "null"], {}),
]  # fmt: skip
SCHEMAS = [
    avro(*FIELDS, number=1),
    avro(*FIELDS[:2], ("page", "string", {}), *FIELDS[3:], ("shop", "string", {}), ("paid", "boolean", {}), number=2),
    avro(*FIELDS[:3], ("price", "float", {}), *FIELDS[4:], ("more", {"type": "array", "items": "long"}, {}), number=3),
    avro(*FIELDS[:-1], number=4),  # lacks what an event must have
]
PROTO_TEXT = """
syntax = "proto3";
enum Page { home = 0; cart = 1; other = 2; }
message Visit {
  string id = 1; string user = 2; Page page = 3; optional double price = 4; int64 count = 5; int64 at = 6;
  optional string note = 7; optional bool paid = 8; optional string shop = 9;
}
message Later {
  string note = 1; string shop = 2; bool paid = 3; string id = 4; string user = 5; string page = 6; float price = 7;
  sint32 count = 8; uint64 at = 9;
}
"""
PROTO = RegisteredSchema(3, "PROTOBUF", PROTO_TEXT)
REGISTRIES = {Avro: Registry(*SCHEMAS), Protobuf: Registry(PROTO)}
VISIT, LATER = proto_class("Visit", PROTO_TEXT), proto_class("Later", PROTO_TEXT)
users = st.sampled_from(["u1", "u2", "zoë", ""])
rows = st.fixed_dictionaries(
    {
        "id": st.text(max_size=3), "user": users, "page": st.sampled_from(["home", "cart", "other"]),
        "price": st.none() | st.floats(width=32) | st.sampled_from([0.0, -0.0, 2.5]),
        "count": st.sampled_from([0, 1, -1, 2**31 - 1]), "at": st.sampled_from([0, 1_700_000_000_123, 2**62]),
        "note": st.none() | st.sampled_from(["", "n"]), "shop": st.sampled_from(["web", "", "é"]),
        "paid": st.booleans(),
    }
)  # fmt: skip


def in_avro(row, version):
    row = {**row, "more": [1, 2]}
    if version == 2:
        row["price"] = row["price"] or 0.0
    return written(SCHEMAS[version], row)


def in_protobuf(row, version):
    pages = {"home": 0, "cart": 1, "other": 2}
    given_fields = {name: value for name, value in row.items() if value is not None}
    if version % 2:
        return head_of(3) + b"\x02\x02" + LATER(**given_fields).SerializeToString()
    if version == 2:
        del given_fields["shop"], given_fields["paid"]
    return head_of(3) + b"\0" + VISIT(**{**given_fields, "page": pages[row["page"]]}).SerializeToString()


WRITERS = {Avro: in_avro, Protobuf: in_protobuf}
broken = st.sampled_from([None, b"", b"\0", b"{}", head_of(9) + b"\0", head_of(1), head_of(3), head_of(3) + b"\0\xff"])


@pytest.fixture(scope="module", params=[Avro, Protobuf])
def reader(request):
    form = request.param
    pipeline = dataclasses.replace(PIPELINE, events=dataclasses.replace(PIPELINE.events, format=form()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history_topic, "event_decoder", lambda one: EventDecoder(one, REGISTRIES[form]))
        reader = TopicReader(FeaturePlan.build(pipeline), "127.0.0.1:9", None, 100)  # connects to nothing
    yield form, pipeline, reader
    reader.close()


def check(pipeline, form, reader, records):
    """Compare what both make of the records; returns how many of them the stream's decoder was asked for alone."""
    asked = []
    slow = reader._decoder.decode
    reader._decoder.decode = lambda *args: (asked.append(args), slow(*args))[1]
    keys, values = (list(column) for column in zip(*records, strict=True))
    numbers = list(range(len(records)))
    block = reader.block(RawRecords(keys, values, numbers, numbers, []), 2)
    reader._decoder.decode = slow
    plan = FeaturePlan.build(pipeline)
    expected = EventDecoder(pipeline, REGISTRIES[form]).decode_batch(batch_of(records))
    times_ms, columns, masks, direct = plan.columnise(expected.events)
    events = block.events
    assert events.rows.tolist() == (numbers if expected.rows is None else expected.rows.tolist())
    assert events.times_ms.tolist() == times_ms.tolist()
    assert events.ids.to_pylist() == [event.id for event in expected.events]
    assert [events.entities.values[code] for code in events.entities.codes] == expected.entities
    assert events.masks.tolist() == masks.tolist()
    assert events.direct.tobytes() == direct.tobytes()
    assert events.columns.tobytes() == columns.tobytes()
    assert [(one.place, one.reason, one.detail) for one in block.letters] == [
        (row, why.reason, why.detail) for row, why in expected.refused.items()
    ]
    return len(asked)


@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_a_topic_as_history_has_the_bits_of_the_stream(reader, data):
    form, pipeline, topic = reader
    records = []
    for row, version in data.draw(st.lists(st.tuples(rows, st.integers(0, 3)), min_size=1, max_size=20)):
        missing_note = form is Avro and version == 3
        value = WRITERS[form](row if not missing_note else {**row, "note": "n"}, version)
        key = data.draw(st.just(row["user"].encode()) | st.sampled_from([None, b"u1", b""]))
        records.append((key, data.draw(st.just(value) | st.just(value[:-1]) | broken)))
    check(pipeline, form, topic, records)


def test_common_records_are_read_a_batch_at_a_time(reader):
    form, pipeline, topic = reader
    row = {
        "id": "e", "user": "u1", "page": "cart", "price": 1.5, "count": 3, "at": 1_700_000_000_123, "note": "n",
        "shop": "web", "paid": True,
    }  # fmt: skip
    records = [(b"u1", WRITERS[form](row, version)) for version in (0, 1, 2) * 10]
    assert check(pipeline, form, topic, records) == 0
    lacking = [(b"u1", WRITERS[form]({**row, "note": None}, 0))]
    assert check(pipeline, form, topic, records + lacking) == 1


class Tick:
    id: str
    machine: int
    at: int


def test_a_record_without_a_value_is_no_message_of_defaults():
    text = 'syntax = "proto3"; message Tick { string id = 1; int64 machine = 2; int64 at = 3; }'
    events = Events(Tick, "ticks", entity="machine", time="at", id="id", format=Protobuf(schema=text))
    plan = FeaturePlan.build(Pipeline("ticks", events, [Count(window="1h")], Model("m", 1), "score"))
    topic = TopicReader(plan, "127.0.0.1:9", None, 100)  # connects to nothing
    block = topic.block(RawRecords([b"0", b"0"], [b"", None], [0, 1], [0, 0], []))
    topic.close()
    assert block.events.rows.tolist() == [0]
    assert [(one.place, one.reason) for one in block.letters] == [(1, "null_value")]
