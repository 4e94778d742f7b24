"""Bytes in and out: whatever arrives is an event or has a reason, and what leaves can be read back."""

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from properties import examples
from wire_records import PURCHASE, SCORED_AT_MS, batch_of, encoder_of, headers_of, shopper_records, value_of

from flink_jobs.local.broken_records import broken_records
from udfs.byte_lines import Lines
from udfs.output_batch import read_outputs
from udfs.pipeline import Count, Events, Model, Pipeline
from udfs.wire_formats import REASONS, EventDecoder, Refused, printable

BROKEN = broken_records(np.random.default_rng(5))
EVENT = {"event_id": "e1", "user_id": "u", "page_id": "home", "dwell_time_sec": 2.5, "timestamp": 1_700_000_000_000}
DECODER = EventDecoder(PURCHASE)


def encoded(**changes):
    return msgspec.json.encode({**EVENT, **changes})


def dead_letter(value, refused, key=b"u", pipeline=PURCHASE):
    records = batch_of([(key, value)], first_offset=77, partition=1)
    (record,) = read_outputs(encoder_of(pipeline).dead_letters(records, {0: refused}, stage="decode"))
    return record


class Payment:
    id: int
    card: int
    time: float
    amount: float | None
    kind: str | None


OPTIONAL = Pipeline(
    name="cards",
    events=Events(Payment, topic="cards", entity="card", time="time", id="id", time_unit="s"),
    features=[Count(window="1h")],
    model=Model("cards", version=1),
    prediction="risk",
    include=("kind", "card", "amount"),
)


@pytest.mark.parametrize("broken", BROKEN, ids=[one.kind for one in BROKEN])
def test_every_kind_of_broken_record_gets_its_reason(broken):
    refused = DECODER.decode(broken.key, broken.value)
    assert isinstance(refused, Refused)
    assert refused.reason == broken.reason
    assert refused.detail


def test_a_good_record_becomes_an_event_with_typed_fields():
    event = DECODER.decode(b"u", encoded(dwell_time_sec=3))
    assert (event.event_id, event.page_id, event.timestamp) == ("e1", "home", EVENT["timestamp"])
    assert type(event.dwell_time_sec) is float


def test_fields_the_pipeline_does_not_know_are_let_through():
    assert DECODER.decode(b"u", encoded(campaign={"name": ["spring"]})).event_id == "e1"


def test_the_largest_record_is_decoded_and_one_byte_more_is_too_large():
    limit = PURCHASE.max_record_bytes
    padding = "x" * (limit - len(encoded(event_id="")))
    assert DECODER.decode(b"u", encoded(event_id=padding)).event_id == padding
    assert DECODER.decode(b"u", encoded(event_id=padding + "x")).reason == "too_large"


@pytest.mark.parametrize(("time", "good"), [(0, True), (-1, False), (253_402_300_799_999, True), (2**70, False)])
def test_times_from_1970_to_9999_are_taken_and_others_refused(time, good):
    decoded = DECODER.decode(b"u", encoded().replace(str(EVENT["timestamp"]).encode(), str(time).encode()))
    assert (decoded.timestamp == time) if good else (decoded.reason in ("invalid_time", "wrong_type"))


def test_optional_fields_may_be_null_or_left_out_and_a_number_may_be_the_key():
    decode = EventDecoder(OPTIONAL).decode
    event = decode(b"12", b'{"id": 1, "card": 12, "amount": null, "time": 1.5}')
    assert (event.amount, event.kind, event.card) == (None, None, 12)
    assert decode(b"012", b'{"id": 1, "card": 12, "time": 1.5}').reason == "key_mismatch"
    assert decode(b"12", b'{"id": 1, "card": 12, "time": 253402300800}').reason == "invalid_time"


class Refund:
    amount: float | None
    id: int
    card: int
    time: int


def test_an_optional_field_may_stand_before_a_required_one():
    events = Events(Refund, topic="refunds", entity="card", time="time", id="id")
    pipeline = dataclasses.replace(OPTIONAL, events=events, include=())
    assert EventDecoder(pipeline).decode(b"12", b'{"id": 1, "card": 12, "time": 5}').amount is None


@examples(50)
@given(st.one_of(st.none(), st.binary(max_size=40)), st.one_of(st.none(), st.binary(max_size=200)))
@example(b"u", b'{"event_id":"\\ud800","user_id":"\\ud800","page_id":"home","dwell_time_sec":1,"timestamp":1}')
@example(b"u", b"[" * 100_000)
@example(b"u", b'{"timestamp":' + b"9" * 5_000 + b"}")
@example(b"u", b'{"event_id":"\xed\xa0\x80"}')
@example(b"", b"")
def test_arbitrary_bytes_are_refused_and_never_raise(key, value):
    refused = DECODER.decode(key, value)
    assert refused.reason in REASONS
    assert headers_of(dead_letter(value, refused, key))["reason"] == refused.reason


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=3,
)


@examples(40)
@given(st.dictionaries(st.sampled_from([*EVENT, "other"]), JSON), st.binary(max_size=10))
def test_any_json_in_any_field_is_an_event_or_has_a_reason(changes, key):
    value = msgspec.json.encode({**EVENT, **changes})
    decoded = DECODER.decode(key, value)
    assert not isinstance(decoded, Refused) or decoded.reason in REASONS


@examples(50)
@given(st.text())
def test_texts_of_headers_have_no_control_characters(text):
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)


def test_a_hostile_exception_can_neither_forge_a_header_nor_fill_the_topic():
    forged = "\x1emillrace-reason\x1ffine\n\x1b[31m\x00\u202e\ud800" + "x" * 10_000
    headers = headers_of(dead_letter(b"{}", Refused("not_json", forged)))
    assert headers["reason"] == "not_json"
    assert headers["exception"].isprintable()
    assert len(headers["exception"]) == 300


def test_a_dead_letter_says_where_it_came_from_and_carries_the_original_bytes():
    record = dead_letter(b"\xff\x00{", Refused("not_json", "no"), key=b"\xfe")
    assert record.topic == "purchase-dead-letters"
    assert (record.key, record.value) == (b"\xfe", b"\xff\x00{")
    assert headers_of(record) == {
        "pipeline": "purchase", "reason": "not_json", "stage": "decode", "topic": "user-events", "partition": "1",
        "offset": "77", "exception": "no", "record-time": "1700000000077",
    }  # fmt: skip


def test_an_oversized_dead_letter_is_cut_and_says_from_how_many_bytes():
    small = dataclasses.replace(PURCHASE, max_record_bytes=100)
    value = encoded(event_id="x" * 500)
    record = dead_letter(value, EventDecoder(small).decode(b"u", value), pipeline=small)
    assert record.value == value[:100]
    assert headers_of(record)["reason"] == "too_large"
    assert headers_of(record)["cut-from-bytes"] == str(len(value))
    assert "cut-from-bytes" not in headers_of(dead_letter(encoded(), Refused("model_failed", "no")))


def test_a_record_without_key_or_value_leaves_as_empty_bytes():
    record = dead_letter(None, DECODER.decode(None, None), key=None)
    assert (record.key, record.value) == (b"", b"")
    assert headers_of(record)["reason"] == "null_value"


def prediction_of(pipeline, event, flags=None):
    (record,) = read_outputs(
        encoder_of(pipeline).predictions(
            [event],
            np.array([0.25]),
            keys=Lines.of([b"u"]),
            scored_at_ms=SCORED_AT_MS,
            partitions=np.array([1], np.int32),
            offsets=np.array([5]),
            event_times_ms=np.array([123]),
            flags=flags,
        )
    )
    return record


def test_a_prediction_holds_id_entity_score_and_time_in_that_order():
    record = prediction_of(PURCHASE, DECODER.decode(b"u", encoded()))
    assert record.value == b'{"event_id":"e1","user_id":"u","purchase_probability":0.25,"scored_at":1800000000000}'
    assert (record.topic, record.key) == ("predictions", b"u")


def test_included_fields_are_copied_once_and_null_stays_null():
    event = EventDecoder(OPTIONAL).decode(b"12", b'{"id": 1, "card": 12, "kind": "a", "time": 1.5}')
    expected = {"id": 1, "card": 12, "kind": "a", "amount": None, "risk": 0.25, "scored_at": SCORED_AT_MS}
    assert list(value_of(prediction_of(OPTIONAL, event)).items()) == list(expected.items())


def test_a_receipt_says_model_features_and_source_and_flags_only_when_there_are_some():
    event = DECODER.decode(b"u", encoded())
    receipt = {
        "pipeline": "purchase", "model": "purchase", "model-version": "1", "model-sha256": "ab" * 32,
        "feature-set": "cd" * 32, "topic": "user-events", "partition": "1", "offset": "5", "event-time": "123",
    }  # fmt: skip
    assert headers_of(prediction_of(PURCHASE, event)) == receipt
    assert headers_of(prediction_of(PURCHASE, event, ["late,truncated"])) == {**receipt, "flags": "late,truncated"}


def decoded(records, pipeline=PURCHASE):
    return EventDecoder(pipeline).decode_batch(batch_of(records))


def one_by_one(records, pipeline=PURCHASE):
    decoder = EventDecoder(pipeline)
    results = [decoder.decode(*record) for record in records]
    events = [result for result in results if not isinstance(result, Refused)]
    return events, {row: result for row, result in enumerate(results) if isinstance(result, Refused)}


def same_as_one_by_one(records):
    batch, (events, refused) = decoded(records), one_by_one(records)
    assert list(map(msgspec.structs.astuple, batch.events)) == list(map(msgspec.structs.astuple, events))
    assert batch.refused == refused
    assert batch.entities == [event.user_id for event in events]
    rows = [row for row in range(len(records)) if row not in refused]
    assert (list(range(len(records))) if batch.rows is None else batch.rows.tolist()) == rows
    return batch


def test_good_records_are_decoded_together():
    batch = same_as_one_by_one(shopper_records(200))
    assert batch.rows is None


# values that are no JSON object each, but would be as many objects as there are if their text were joined
ACROSS_RECORDS = [
    [b'{"x":[{}', b"{}]}", b"{}{}"],
    [b'{"x":[', b"]}", b"{}{}"],
    [b'{"x":"}', b'{"}', b"{}\n{}"],
    [b'{"x":{}', b"}", b"{}\n{}"],
    [b"{}{}", b""],
    [b"{} {}", b" "],
    [b"{}\n{}", b"\n"],
    [b"{},{}", b"{}"],
    [b"", b"{}\n{}"],
]


@pytest.mark.parametrize("values", ACROSS_RECORDS)
def test_no_value_reaches_into_the_next_record(values):
    event = encoded()
    hostile = [value.replace(b"{}", event) for value in values]
    for place in (0, 7, 20):
        records = [(b"u", event)] * 20
        records[place:place] = [(b"u", value) for value in hostile]
        same_as_one_by_one(records)


@examples(50)
@given(st.lists(st.sampled_from([b"{", b"}", b"[", b"]", b'"', b",", b"\n", b"{}", b'{"a":', b"E", b" "]), max_size=6))
def test_any_pieces_of_json_are_decoded_as_they_are_alone(pieces):
    value = b"".join(pieces).replace(b"E", encoded())
    cut = len(value) // 2
    records = [(b"u", encoded())] * 14
    records[5:5] = [(b"u", value[:cut]), (b"u", value[cut:])]
    same_as_one_by_one(records)


def test_keys_that_are_only_joined_like_the_entities_are_refused():
    users = ["a\nb", "c", *"defghijklmnop"]
    keys = [b"a", b"b\nc", *[user.encode() for user in users[2:]]]
    batch = same_as_one_by_one([(key, encoded(user_id=user)) for key, user in zip(keys, users, strict=True)])
    assert {why.reason for why in batch.refused.values()} == {"key_mismatch"}
    assert list(batch.refused) == [0, 1]


def test_entities_beyond_ascii_are_found_in_their_keys():
    users = [f"käufer-{place}-🛒" for place in range(20)]
    assert not same_as_one_by_one([(user.encode(), encoded(user_id=user)) for user in users]).refused


def test_included_features_stand_in_the_prediction_and_missing_ones_are_null():
    pipeline = dataclasses.replace(PURCHASE, include_features=True)
    features = np.arange(float(len(PURCHASE.feature_names)))[None]
    features[0, 3] = np.nan
    (record,) = read_outputs(
        encoder_of(pipeline).predictions(
            [DECODER.decode(b"u", encoded())], np.array([0.5]), keys=Lines.of([b"u"]), scored_at_ms=1,
            partitions=np.zeros(1, np.int32), offsets=np.zeros(1, np.int64), event_times_ms=np.zeros(1, np.int64),
            features=features,
        )
    )  # fmt: skip
    assert list(value_of(record)["features"].items()) == [
        (name, None if place == 3 else float(place)) for place, name in enumerate(PURCHASE.feature_names)
    ]
