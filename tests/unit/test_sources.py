"""Records of several topics become events of one: where fields come from, change events, and what is refused."""

import dataclasses
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from shop_sources import FORMATS, ShopEvent, in_format, shop_pipeline

from flink_jobs.console import CommandError
from flink_jobs.produce_command import run_produce_command
from flink_jobs.settings import Settings
from udfs.output_batch import read_outputs
from udfs.pipeline import Avro, Debezium, DefinitionError, Events, Source
from udfs.raw_record import RawRecord, RecordParts
from udfs.record_batch import RecordBatch, pack_records
from udfs.record_reader import RecordReader
from udfs.routing import SOURCE_STEP, Router
from udfs.wire_formats import REASONS, EventDecoder, Refused

SHOP = shop_pipeline("shop")
CLICKS, ORDERS, ADDRESSES = range(3)
AT = 1_700_000_000_000
CLICK = {"user": {"id": "ann", "tags": [1, {}]}, "at": AT, "page": "home", "more": None}
ORDER = {"order_id": "o1", "time_s": 1_700_000_001, "amount": 12}
ROW = {"id": "a7", "customer_id": "ann", "street": "Elm"}


def change(op, *, wrapped=False, **parts):
    envelope = {"op": op, "ts_ms": 9, "source": {"ts_ms": AT + 2_000, "db": "shop"}, **parts}
    return {"schema": {"type": "struct"}, "payload": envelope} if wrapped else envelope


def routed(*records, pipeline=SHOP):
    """(source, key, document or bytes) of each -> outputs and how many were passed over."""
    forms = [source.format for source in pipeline.events.sources]
    values = [value if isinstance(value, bytes | None) else in_format(forms[at], value) for at, _, value in records]
    places = [source * SOURCE_STEP + 1 for source, _, _ in records]
    batch = pack_records([key for _, key, _ in records], values, places, list(range(len(records))), [AT] * len(records))
    found = Router(pipeline).route(RecordBatch(batch))
    return SimpleNamespace(outputs=read_outputs(found.outputs), passed_over=found.passed_over)


def event_of(*records):
    (output,) = routed(*records).outputs
    assert output.topic == SHOP.events.topic, output
    event = EventDecoder(SHOP).decode(output.key, output.value)
    assert not isinstance(event, Refused), event
    return {name: getattr(event, name) for name in msgspec.json.decode(output.value)}


def refusal_of(*records):
    (output,) = routed(*records).outputs
    assert output.topic == SHOP.dead_letters, output
    return output


def test_a_field_is_found_in_an_object_and_a_record_without_id_is_known_by_its_place():
    assert event_of((CLICKS, None, CLICK)) == {
        "event_id": "shop-clicks/1/0", "customer": "ann", "kind": "click", "at": AT, "page": "home", "amount": None,
    }  # fmt: skip


def test_the_entity_is_taken_from_the_key_and_seconds_become_milliseconds():
    assert event_of((ORDERS, b"ann", ORDER)) == {
        "event_id": "o1", "customer": "ann", "kind": "order", "at": AT + 1_000, "page": None, "amount": 12.0,
    }  # fmt: skip


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("op", "side"), [("c", "after"), ("u", "after"), ("d", "before")])
def test_a_changed_row_is_an_event_at_the_time_of_the_change(op, side, wrapped):
    other = {"before" if side == "after" else "after": {"id": None, "customer_id": 5}}
    rest = {} if op == "c" else other if op == "u" else {"after": None}
    event = event_of((ADDRESSES, b'{"id":"a7"}', change(op, wrapped=wrapped, **{side: ROW}, **rest)))
    assert (event["event_id"], event["customer"], event["kind"], event["at"]) == ("a7", "ann", "address", AT + 2_000)


def test_tombstones_and_changes_that_nobody_asked_for_are_passed_over():
    found = routed(
        (ADDRESSES, b"a7", None), (ADDRESSES, b"a7", change("r", after=ROW)), (ADDRESSES, b"a7", change("t"))
    )
    assert (found.outputs, found.passed_over) == ([], 3)


WITHIN = shop_pipeline("shop", formats=FORMATS)
MOVED = {"source": {"ts_ms": AT + 2_000}, "before": None, "after": None}


@pytest.mark.parametrize("op", ["c", "u", "d"])
def test_sources_in_other_formats_become_the_same_events(op):
    row = {"id": "a7", "customer_id": "ann"}
    moved = {**MOVED, "op": op, "before" if op == "d" else "after": row}
    records = [(CLICKS, None, CLICK), (ORDERS, b"ann", ORDER), (ADDRESSES, b"a7", moved)]
    expected = routed(*records).outputs
    assert [(each.topic, each.key, each.value) for each in routed(*records, pipeline=WITHIN).outputs] == [
        (each.topic, each.key, each.value) for each in expected
    ]
    assert len({each.topic for each in expected}) == 1


OTHERWISE = [
    (ADDRESSES, b"a7", None, []),
    (ADDRESSES, b"a7", {**MOVED, "op": "t"}, []),
    (ADDRESSES, b"a7", {**MOVED, "op": "c"}, ["missing_field"]),
    (ADDRESSES, b"a7", b"x", ["not_avro"]),
    (ORDERS, b"ann", b"x", ["not_protobuf"]),
    (ORDERS, b"ann", b"", ["invalid_time"]),
    (ORDERS, None, ORDER, ["missing_field"]),
    (ORDERS, b"ann", None, ["null_value"]),
]


@pytest.mark.parametrize(("source", "key", "value", "reasons"), OTHERWISE)
def test_what_is_no_event_in_another_format(source, key, value, reasons):
    if value == b"":
        value = in_format(FORMATS["orders"], {"time_s": -5})
    found = routed((source, key, value), pipeline=WITHIN)
    assert [each.headers["millrace-reason"] for each in found.outputs] == reasons
    assert found.passed_over == (not reasons)


def test_tombstones_of_a_source_may_be_ignored_and_those_of_changes_kept():
    clicks, orders, addresses = SHOP.events.sources
    sources = [
        dataclasses.replace(clicks, tombstones="ignore"), orders,
        dataclasses.replace(addresses, tombstones="dead-letter"),
    ]  # fmt: skip
    pipeline = dataclasses.replace(SHOP, events=dataclasses.replace(SHOP.events, sources=sources))
    found = routed((CLICKS, b"x", None), (ADDRESSES, b"x", None), pipeline=pipeline)
    assert (found.passed_over, [each.headers["millrace-topic"] for each in found.outputs]) == (1, ["shop-addresses"])


def test_a_timestamp_of_a_schema_says_its_own_unit_also_in_a_source_with_another():
    kind = {"type": "long", "logicalType": "timestamp-micros"}
    schema = {"type": "record", "name": "Order", "fields": [
        {"name": "order_id", "type": "string"}, {"name": "time_s", "type": kind}, {"name": "amount", "type": "double"},
    ]}  # fmt: skip
    pipeline = shop_pipeline("shop", formats={"orders": Avro(schema=msgspec.json.encode(schema).decode())})
    (event,) = routed((ORDERS, b"ann", {**ORDER, "time_s": 1_700_000_001_999_999}), pipeline=pipeline).outputs
    assert msgspec.json.decode(event.value)["at"] == 1_700_000_001_000


def test_an_event_says_where_it_comes_from_and_all_keep_their_order():
    found = routed((ORDERS, b"ann", ORDER), (CLICKS, b"x", CLICK), (ORDERS, b"ann", {**ORDER, "order_id": "o2"}))
    assert [record.key for record in found.outputs] == [b"ann"] * 3
    assert [record.headers["millrace-source-topic"] for record in found.outputs] == [
        "shop-orders", "shop-clicks", "shop-orders",
    ]  # fmt: skip
    assert [record.headers["millrace-source-offset"] for record in found.outputs] == ["0", "1", "2"]
    assert {record.headers["millrace-source-partition"] for record in found.outputs} == {"1"}


REFUSED = [
    (CLICKS, None, None, "null_value"),
    (CLICKS, None, b"{", "not_json"),
    (CLICKS, None, {**CLICK, "user": {}}, "missing_field"),
    (CLICKS, None, {**CLICK, "user": None}, "wrong_type"),
    (CLICKS, None, {**CLICK, "user": {"id": 5}}, "wrong_type"),
    (CLICKS, None, {**CLICK, "at": -1}, "invalid_time"),
    (CLICKS, None, b" " * (SHOP.max_record_bytes + 1), "too_large"),
    (ORDERS, None, ORDER, "missing_field"),
    (ORDERS, b"\xff", ORDER, "wrong_type"),
    (ADDRESSES, None, {"id": "a7"}, "missing_field"),
    (ADDRESSES, None, change("c", after=None), "missing_field"),
    (ADDRESSES, None, change("c", after={**ROW, "id": 7}), "wrong_type"),
    (ADDRESSES, None, change("c", after=ROW, source=None, ts_ms=None), "missing_field"),
    (ADDRESSES, None, change("c", after="text"), "wrong_type"),
]


@pytest.mark.parametrize(("source", "key", "value", "reason"), REFUSED)
def test_a_record_that_is_no_event_is_a_dead_letter_with_its_own_bytes_and_place(source, key, value, reason):
    letter = refusal_of((source, key, value))
    headers = {name.removeprefix("millrace-"): text for name, text in letter.headers.items()}
    assert (headers["reason"], headers["stage"]) == (reason, "route"), headers
    assert (headers["topic"], headers["partition"], headers["offset"]) == (SHOP.events.sources[source].topic, "1", "0")
    value = value if isinstance(value, bytes | None) else msgspec.json.encode(value)
    assert letter.value == (value or b"")[: SHOP.max_record_bytes]
    assert letter.key == (key or b"")


def test_good_records_beside_refused_ones_are_events():
    found = routed((CLICKS, None, b"{"), (CLICKS, None, CLICK), (ORDERS, None, ORDER), (ORDERS, b"bob", ORDER))
    assert [record.topic for record in found.outputs] == [SHOP.events.topic] * 2 + [SHOP.dead_letters] * 2


@examples(60)
@given(st.sampled_from([CLICKS, ORDERS, ADDRESSES]), st.none() | st.binary(max_size=9), st.binary(max_size=99))
def test_arbitrary_bytes_are_refused_and_never_raise(source, key, value):
    found = RecordReader(SHOP, SHOP.events.sources[source]).read(RawRecord(key, value, RecordParts(0, 0, AT)))
    assert isinstance(found, Refused)
    assert found.reason in REASONS


def test_a_float_time_keeps_its_fraction_of_another_unit():
    class Measured(ShopEvent):
        at: float

    source = Source("m", fields={"event_id": "@place", "customer": "@key"}, constants={"kind": "click"}, time_unit="ms")
    events = Events(Measured, topic="e", entity="customer", time="at", id="event_id", time_unit="s", sources=[source])
    reader = RecordReader(dataclasses.replace(SHOP, events=events), source)
    assert reader.read(RawRecord(b"k", b'{"at": 1500}', RecordParts(0, 0, AT))).at == 1.5


WRONG = [
    ({"fields": {"customer": "@op"}}, "only change events"),
    ({"fields": {"customer": "@nothing"}}, "there are @key"),
    ({"fields": {"at": "@key", "customer": "@timestamp"}}, "customer is str"),
    ({"fields": {"nobody": "x"}}, "no field 'nobody'"),
    ({"fields": {"customer": "a..b"}}, "name of a field"),
    ({"fields": {"customer": "u", "page": "u.page"}}, "as a value and as an object"),
    ({"constants": {"kind": "other"}}, "cannot have"),
    ({"constants": {"amount": True}}, "cannot have"),
    ({"fields": {"page": "p"}, "constants": {"page": "x"}}, "leave it in one"),
    ({"time_unit": "min"}, "time_unit"),
    ({"topic": "shop-events"}, "events' own topic"),
    ({"changes": "debezium"}, "changes=Debezium()"),
]


@pytest.mark.parametrize(("given_", "says"), WRONG)
def test_a_source_that_cannot_give_the_fields_is_refused_where_it_is_defined(given_, says):
    with pytest.raises(DefinitionError, match=says):
        dataclasses.replace(SHOP.events, sources=[Source(**{"topic": "s", **given_})])


def test_two_sources_of_one_topic_and_unknown_operations_are_refused():
    with pytest.raises(DefinitionError, match="two sources"):
        dataclasses.replace(SHOP.events, sources=[Source("s"), Source("s")])
    with pytest.raises(DefinitionError, match="some of create"):
        Debezium(operations=("insert",))
    with pytest.raises(DefinitionError, match="different topics"):
        dataclasses.replace(SHOP, predictions="shop-clicks")


def test_produce_does_not_write_a_topic_that_the_job_writes():
    with pytest.raises(CommandError, match="from the records of shop-clicks, shop-orders"):
        run_produce_command(
            SHOP, "shop", Settings(), file=None, rate=1.0, speedup=None, limit=1, seed=1, as_json=False
        )


@pytest.mark.parametrize("pipeline", [SHOP, WITHIN])
@pytest.mark.parametrize("broken", [None, (CLICKS, None, b"{"), (ORDERS, None, b"x"), (ADDRESSES, b"a7", b"[]")])
def test_many_records_of_all_sources_become_what_each_becomes_alone(pipeline, broken):
    row = {"id": "a7", "customer_id": "ann"}
    records = [
        one
        for number in range(15)
        for one in (
            (CLICKS, None, {**CLICK, "at": AT + number}),
            (ORDERS, b"u%d" % number, {**ORDER, "order_id": f"o{number}"}),
            (ADDRESSES, b"a7", {**MOVED, "op": "u", "after": row}), (ADDRESSES, b"a7", {**MOVED, "op": "r"}),
        )
    ]  # fmt: skip
    if broken is not None:
        records.insert(20, broken)
    together = routed(*records, pipeline=pipeline)
    alone = [routed(one, pipeline=pipeline) for one in records]
    events = [each for each in together.outputs if each.topic == pipeline.events.topic]
    # by themselves all are at offset 0, which is the id of a click
    assert [(each.key, {**msgspec.json.decode(each.value), "event_id": ""}) for each in events] == [
        (each.key, {**msgspec.json.decode(each.value), "event_id": ""})
        for one in alone for each in one.outputs if each.topic == pipeline.events.topic
    ]  # fmt: skip
    clicks = [msgspec.json.decode(each.value)["event_id"] for each in events if b'"click"' in each.value]
    assert clicks == [f"shop-clicks/1/{row}" for row, one in enumerate(records) if one[0] == CLICKS and one != broken]
    assert together.passed_over == sum(one.passed_over for one in alone) == 15
    assert len(together.outputs) - len(events) == (broken is not None)
