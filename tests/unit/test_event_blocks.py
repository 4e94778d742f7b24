"""Records as columns are the same events, to the last bit, as records decoded one by one."""

import json
from typing import Literal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from properties import examples

from udfs.cells import new_cells, scan_schema
from udfs.event_blocks import decode_block, fields_needed, fields_of_cells
from udfs.json_scan import check_keys, scan_json
from udfs.pipeline import Count, Distinct, Events, Last, Mean, Model, OneHot, Pipeline, Value, field
from udfs.plan import FeaturePlan
from udfs.wire_formats import EventDecoder, Refused


class Visit:
    visit_id: str
    user: str
    page: Literal["home", "cart", "страница"] | None
    amount: float | None
    items: int = 4
    level: Literal[1, 2] = 2
    known: bool | None = True
    note: str | None = "none"
    at: int


class Ride:
    ride: int
    driver: int
    fare: float
    at: float


VISITS = Pipeline(
    name="visits",
    events=Events(Visit, topic="visits", entity="user", time="at", id="visit_id"),
    features=[
        Value("amount", fill=3), Value("items"), Value("known"), OneHot("page"), OneHot("level"),
        Count(where=field("page") == "cart", window="1h"),
        Count(where=(field("amount") > 1) & ~field("note").is_null(), window="1h"),
        Count(where=field("items").isin([1, 2**60]), window="1h"),
        Count(where=field("items") > 0.5, window="1h"),
        Count(where=field("items") != 3, window="1h"),
        Count(where=field("amount") <= 2**60, window="1h"),
        Count(where=field("known") == True, window="1h"),  # noqa: E712
        Count(where=field("level") < 2, window="1h"),
        Count(where=(field("note") == "") | field("amount").is_null(), window="1h"),
        Distinct("note", window="1h"), Mean("amount", window="1h"), Last("items", window="1h"),
    ],
    model=Model("m", version=1),
    prediction="score",
    max_record_bytes=400,
)  # fmt: skip


def rides(unit):
    events = Events(Ride, topic="rides", entity="driver", time="at", id="ride", time_unit=unit)
    return Pipeline("rides", events, [Value("fare"), Mean("fare", window="1h")], Model("m", 1), "score")


def as_block(pipeline, records, *, keyed=True):
    """Scan and decode (key, value) pairs together."""
    plan = FeaturePlan.build(pipeline)
    schema = scan_schema(pipeline.events, fields_needed(plan), from_file=False)
    decode = EventDecoder(pipeline).decode

    def joined(texts):
        lengths = np.array([len(text or b"") for text in texts], np.int64)
        ends = np.cumsum(lengths)
        return np.frombuffer(b"".join(text or b"" for text in texts), np.uint8), ends - lengths, ends

    data, begins, ends = joined([value for _, value in records])
    cells = new_cells(schema, len(records))
    scan_json(data, begins, ends, schema, cells, np.zeros(len(schema.kinds), np.int64))
    cells.plain[ends - begins > pipeline.max_record_bytes] = 0
    if keyed:
        names = [one.name for one in pipeline.events.schema]
        place = names.index(pipeline.events.entity)
        whole = pipeline.events.schema[place].kind == "int"
        check_keys(data, *joined([key for key, _ in records]), int(schema.slots[place]), whole, cells)
    plain = int(cells.plain.sum())
    fields = fields_of_cells(plan, schema, cells, data)
    return decode_block(plan, fields, lambda row: decode(*records[row])), plain


def assert_same(pipeline, records):
    """The block equals the events decoded one by one; how many of them were plain."""
    block, plain = as_block(pipeline, records)
    decode, plan = EventDecoder(pipeline).decode, FeaturePlan.build(pipeline)
    decoded = [decode(*record) for record in records]
    events = [event for event in decoded if not isinstance(event, Refused)]
    assert block.rows.tolist() == [row for row, event in enumerate(decoded) if not isinstance(event, Refused)]
    assert block.refused == [(row, event) for row, event in enumerate(decoded) if isinstance(event, Refused)]
    times, columns, masks, direct = plan.columnise(events)
    assert block.times_ms.tolist() == times.tolist()
    assert block.columns.tobytes() == columns.tobytes()
    assert block.masks.tolist() == masks.tolist()
    assert block.direct.tobytes() == direct.tobytes()
    keys = [block.entities.values[code] for code in block.entities.codes.tolist()]
    assert keys == [str(getattr(event, pipeline.events.entity)) for event in events]
    assert block.ids.to_pylist() == [getattr(event, pipeline.events.id) for event in events]
    return plain


GOOD = {
    "visit_id": "v", "user": "u", "page": "cart", "amount": 1.5, "items": 3, "level": 1, "known": True, "note": "x",
    "at": 1_700_000_000_123,
}  # fmt: skip


def record(key=b"u", **changes):
    return key, json.dumps({**GOOD, **changes}, ensure_ascii=False).encode()


def raw(old, new):
    text = json.dumps(GOOD)
    assert old in text
    return b"u", text.replace(old, new).encode("utf-8", "surrogatepass")


TEXTS = st.one_of(
    st.sampled_from(["", "x", "home", "cart", "страница", 'a"b', "a\\b", "\n", "\u2028", "😀"]), st.text()
)
REALS = st.one_of(
    st.floats(), st.integers(), st.floats(-1e6, 1e6), st.sampled_from([0.1, -0.0, 1e22, 1e23, 5e-324, 1.7e308])
)
VALUES = st.one_of(st.none(), st.booleans(), TEXTS, REALS, st.just([1]), st.just({"a": 1}))


@st.composite
def visits(draw):
    """Mostly good records: a field or two is something else, missing, twice, or in another place."""
    event = {
        "visit_id": draw(TEXTS), "user": draw(TEXTS), "page": draw(st.sampled_from(["home", "cart", "страница", None])),
        "amount": draw(st.one_of(st.none(), REALS)), "items": draw(st.integers(-(2**70), 2**70)),
        "level": draw(st.sampled_from([1, 2])), "known": draw(st.one_of(st.none(), st.booleans())),
        "note": draw(st.one_of(st.none(), TEXTS)), "at": draw(st.integers(-1, 253_402_300_800_000)),
    }  # fmt: skip
    for name in draw(st.lists(st.sampled_from([*event, "more", "and more"]), max_size=2)):
        event[name] = draw(VALUES)
    for name in draw(st.lists(st.sampled_from(list(event)), max_size=1)):
        del event[name]
    items = draw(st.permutations(list(event.items())))
    text = json.dumps(dict(items), ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    key = str(event.get("user")) if draw(st.integers(0, 9)) else draw(TEXTS)
    value = text.encode("utf-8", "surrogatepass")
    if not draw(st.integers(0, 9)):
        place = draw(st.integers(0, len(value) - 1))
        value = value[:place] + draw(st.binary(max_size=2)) + value[place + 1 :]
    return key.encode("utf-8", "surrogatepass"), value


@examples(60)
@given(st.lists(visits(), min_size=1, max_size=8))
@example([(None, None), (b"u", None), (b"", b""), (b"u", b" "), (b"u", b"{}"), (b"u", b"[]"), (b"u", b"\xef\xbb\xbf")])
def test_any_record_is_the_same_event_or_refused_for_the_same_reason(records):
    assert_same(VISITS, records)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1.5", "01.5"), ("1.5", "1."), ("1.5", ".5"), ("1.5", "+1.5"), ("1.5", "1e"), ("1.5", "1.5e+"), ("1.5", "--1"),
        ("1.5", "1e400"), ("1.5", "-1e400"), ("1.5", "1e-400"), ("1.5", "NaN"), ("1.5", "Infinity"), ("1.5", "-"),
        ("1.5", "1_0"), ("1.5", "0x1"), ("1.5", "9007199254740993"), ("1.5", "123456789012345678901234567890"),
        ("1.5", "0.1234567890123456789012345"), ("1.5", "1.5E2"), ("1.5", "-0"), ("1.5", "-0.0"), ("1.5", "true"),
        ("1.5", '"1.5"'), ("3,", "3.0,"), ("3,", "1e2,"), ("3,", "-0,"), ("3,", "123456789012345678,"),
        ("3,", "1234567890123456789,"), ("3,", "99999999999999999999,"), ("3,", "03,"), ("true", "tru"),
        ("true", "True"), ("true", "1"), ('"x"', '"\\u0041"'), ('"x"', '"\\ud800"'), ('"x"', '"\t"'), ('"x"', '"\x7f"'),
        ('"x"', '"\ud800"'), ('"x"', "nul"), ('"x"', '"x" "y"'), ('"x"', "{}"), ('"x"', "[[1, 2], {}]"),
        ('"cart"', '"card"'), ('"cart"', "3"), ('"level": 1', '"level": 3'), ('"level": 1', '"level": null'),
        ('"note"', '"more": {"a": [1, {"b": "]"}]}, "note"'), ('"note"', '"more": "\\"", "note"'),
        ('"note"', '"more": 1e999, "note"'), ('"note"', '"more": 01, "note"'),
        ('"note"', '"n\\u006fte"'), ('"note"', '"note": "y", "note"'), ('"note"', '"items": 4, "note"'), ("}", ",}"),
        ("}", ""), ("}", "} "), ("}", "}x"), ("}", "}{}"), ("{", " \r\n\t{"), (": ", ":"), (": ", " :\n "), (",", ",,"),
        ("1700000000123", "-1"), ("1700000000123", "253402300800000"), ("1700000000123", "253402300799999"),
    ],
)  # fmt: skip
def test_rare_forms_are_left_to_the_decoder_of_the_stream(old, new):
    assert_same(VISITS, [record(), raw(old, new), record(items=4)])


def test_records_of_the_common_form_need_no_slow_way():
    records = [record(amount=0.1 * place, items=place, note=f"käse {place}", page=None) for place in range(500)]
    assert assert_same(VISITS, records) == 500


@pytest.mark.parametrize(
    ("key", "plain"), [(b"7", 1), (b"07", 0), (b"+7", 0), (b"7.0", 0), (b"", 0), (None, 0), (b"77", 0), (b"-7", 0)]
)
def test_whole_numbers_are_entities_by_their_digits(key, plain):
    value = b'{"ride": 1, "driver": 7, "fare": 2.5, "at": 1700000000.25}'
    assert assert_same(rides("s"), [(key, value)]) == plain


@pytest.mark.parametrize("driver", [0, -1, -10, 10, 123456789012345678, -123456789012345678])
def test_any_whole_number_is_its_own_key(driver):
    value = json.dumps({"ride": 1, "driver": driver, "fare": 2.5, "at": 1700000000.25}).encode()
    assert assert_same(rides("s"), [(str(driver).encode(), value)]) == 1


@examples(50)
@given(st.sampled_from(["s", "ms", "us", "ns"]), st.lists(st.floats(0, 4e9) | st.integers(0, 4 * 10**9), min_size=1))
@example("s", [1700000000.9999, 1700000000.999999, 1700000000.001, 0.1 + 0.2, 1.9995, 1.99949999])
def test_times_of_every_unit_are_rounded_as_in_the_stream(unit, times):
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    records = [
        (b"7", json.dumps({"ride": 1, "driver": 7, "fare": 2.5, "at": time * scale}).encode()) for time in times
    ]
    assert_same(rides(unit), records)


@examples(60)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_every_float_is_read_to_the_last_bit(fares):
    records = [(b"7", json.dumps({"ride": 1, "driver": 7, "fare": fare, "at": 1.5}).encode()) for fare in fares]
    assert_same(rides("s"), records)
