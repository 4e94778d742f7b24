"""An event that breaks something on its way is one dead letter; the others of its batch are scored as ever."""

import dataclasses

import msgspec
import numpy as np
import pytest
from fragile_shop import fragile
from wire_records import PURCHASE, Shard, batch_of, encoder_of, headers_of, shopper_records, value_of

from flink_jobs.training import compute_features
from udfs.naive_features import NaiveFeatures
from udfs.output_batch import read_outputs
from udfs.wire_formats import ENVELOPE_BYTES, EventDecoder, PredictionEncoder, Refused

FRAGILE = fragile("fragile")


class Any:
    def predict(self, features):
        return np.full(len(features), 0.5)


def looks(dwells, user="u1"):
    """Events of one shopper, a second apart."""
    template = msgspec.json.decode(shopper_records(1)[0][1])
    begin_ms = template["timestamp"]
    events = [
        {**template, "event_id": str(at), "user_id": user, "dwell_time_sec": dwell, "timestamp": begin_ms + 1_000 * at}
        for at, dwell in enumerate(dwells)
    ]
    return [(user.encode(), msgspec.json.encode(event)) for event in events]


def by_offset(outputs):
    return {int(headers_of(each)["offset"]): each for each in outputs}


@pytest.mark.parametrize("cuts", [(), (1,), (3, 4), (1, 2, 3, 4, 5)])
def test_an_aggregate_that_raises_makes_a_dead_letter_of_each_event_whose_window_it_fails_on(cuts):
    dwells = [5.0, 13.0, *[7.0] * 3, *[float(n % 10 + 20) for n in range(70)]]
    records, shard, outputs, begin = looks(dwells), Shard(Any(), FRAGILE), [], 0
    for end in (*cuts, len(records)):
        outputs += shard.score(records[begin:end], begin)
        begin = end
    found, oracle, decode = by_offset(outputs), NaiveFeatures(FRAGILE), EventDecoder(FRAGILE).decode
    assert len(outputs) == len(records)
    for offset, record in enumerate(records):
        event, told = decode(*record), headers_of(found[offset])
        try:
            features, _ = oracle.advance(event, event.timestamp, 0)
        except ZeroDivisionError:
            assert (told["reason"], told["stage"]) == ("feature_failed", "features")
            assert told["exception"] == "dwell_time_sec_longest_look_1m: ZeroDivisionError: unlucky"
            assert found[offset].value == record[1]
        else:
            assert list(value_of(found[offset])["features"].values()) == features
    # it is in the state: its window ends a minute later, and the count never lost it
    assert ["reason" in headers_of(found[offset]) for offset in range(len(records))] == [
        1 <= offset < 61 for offset in range(len(records))
    ]


def test_a_training_set_leaves_out_the_events_that_the_job_cannot_score():
    rows = compute_features(FRAGILE, looks([5.0, 13.0, 6.0]))
    assert rows.places.tolist() == [0]
    assert [(place, why.reason) for place, why in rows.refused] == [(1, "feature_failed"), (2, "feature_failed")]


def test_a_prediction_that_cannot_be_written_is_found_by_halving(monkeypatch):
    records, written = shopper_records(64), []
    shard = Shard(Any())
    encode = PredictionEncoder.predictions

    def fussy(self, events, scores, **arguments):
        written.append(len(events))
        if any(event.event_id in broken for event in events):
            raise OverflowError("int too big")
        return encode(self, events, scores, **arguments)

    broken = {msgspec.json.decode(records[at][1])["event_id"] for at in (3, 40)}
    monkeypatch.setattr(PredictionEncoder, "predictions", fussy)
    found = by_offset(shard.score(records))
    assert sorted(found) == list(range(64))
    refused = {offset: headers_of(each) for offset, each in found.items() if "reason" in headers_of(each)}
    assert sorted(refused) == [3, 40]
    assert {(told["reason"], told["stage"], told["exception"]) for told in refused.values()} == {
        ("not_encodable", "encode", "OverflowError: int too big")
    }
    assert len(written) < 30


def test_a_prediction_that_the_sink_would_refuse_for_ever_is_a_dead_letter():
    # the entity is in its key and in its value: together more than a record of the sink may have
    small = dataclasses.replace(PURCHASE, max_record_bytes=200_000)
    giant = looks([1.0], "x" * 199_000)
    records = [*looks([1.0, 2.0]), *giant, *looks([3.0], "u2")]
    outputs = Shard(Any(), small).score(records)
    found = by_offset(outputs)
    told = headers_of(found[2])
    assert (told["reason"], told["stage"]) == ("output_too_large", "encode")
    assert len(outputs) == 4
    assert all(sent_bytes(each) <= 200_000 + ENVELOPE_BYTES for each in outputs)
    assert "reason" not in headers_of(found[3])


def sent_bytes(output):
    return len(output.key) + len(output.value) + sum(len(name) + len(text) for name, text in output.headers.items())


@pytest.mark.parametrize("key_bytes", [0, 57_344, 57_345, 900_000])
def test_a_dead_letter_fits_into_the_sink_however_large_its_key(key_bytes):
    key, value = b"k" * key_bytes, b"v" * 1_500_000
    (letter,) = read_outputs(
        encoder_of().dead_letters(batch_of([(key, value)]), {0: Refused("too_large", "?" * 10_000)}, stage="decode")
    )
    told = headers_of(letter)
    assert sent_bytes(letter) < PURCHASE.max_record_bytes + ENVELOPE_BYTES
    assert told["cut-from-bytes"] == "1500000"
    assert told.get("key-cut-from-bytes") == (str(key_bytes) if key_bytes > 57_344 else None)


@pytest.mark.parametrize(
    ("record", "null"), [((b"", b""), None), ((None, b""), "key"), ((b"", None), "value"), ((None, None), "key,value")]
)
def test_a_dead_letter_tells_an_empty_original_from_one_that_is_null(record, null):
    (letter,) = read_outputs(
        encoder_of().dead_letters(batch_of([record]), {0: Refused("null_value", "no")}, stage="decode")
    )
    assert headers_of(letter).get("null") == null
    assert headers_of(letter)["record-time"] == str(batch_of([record]).record_times_ms[0])
