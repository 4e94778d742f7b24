"""The hard input: what it promises is in it, for any pipeline, and the same seed gives the same."""

import itertools
import json
from collections import Counter
from typing import Literal

import pytest
from online_retail import RETAIL
from wire_records import PURCHASE

from flink_jobs.hard_events import YEAR_MS, hard_records
from udfs.pipeline import Count, Distinct, Events, Mean, Model, Pipeline, Sum, Value, field
from udfs.wire_formats import EventDecoder, Refused


class Reading:
    """Types that the other two pipelines have not."""

    number: int
    sensor: int
    at: float
    kind: Literal[1, 2, 7] | None
    ok: bool | None
    level: float | None
    note: str | None


READINGS = Pipeline(
    name="readings",
    events=Events(Reading, topic="readings", partitions=2, entity="sensor", time="at", id="number", time_unit="s"),
    features=[
        Value("level"),
        Count(window="10s"),
        Count(where=(field("level") > 2.5) & (field("note") == "alarm"), window="10m"),
        Sum("level", window="1d", tile="1h"),
        Mean("kind", window="10m"),
        Distinct("note", window="10m"),
    ],
    model=Model("readings", version=1),
    prediction="score",
)
PIPELINES = [PURCHASE, RETAIL, READINGS]


def decoded(pipeline, records):
    decode = EventDecoder(pipeline).decode
    return [decode(record.key, record.value) for record in records]


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda each: each.name)
def test_every_record_is_an_event_or_is_refused_for_the_reason_it_was_made_for(pipeline):
    records = list(hard_records(pipeline, 4_000, 3))
    assert len(records) == 4_000
    found = decoded(pipeline, records)
    assert [event.reason if isinstance(event, Refused) else None for event in found] == [r.reason for r in records]
    reasons = Counter(record.reason for record in records)
    assert {"not_json", "wrong_type", "missing_field", "invalid_time", "key_mismatch", "null_value"} <= set(reasons)
    assert reasons[None] > 3_900


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda each: each.name)
def test_the_same_seed_gives_the_same_records_and_another_one_others(pipeline):
    records = list(hard_records(pipeline, 300, 1))
    assert records == list(hard_records(pipeline, 300, 1))
    assert records != list(hard_records(pipeline, 300, 2))


def lives_of(pipeline, events):
    lives = {}
    times = pipeline.events.times_ms([getattr(event, pipeline.events.time) for event in events]).tolist()
    for event, time in zip(events, times, strict=True):
        lives.setdefault(getattr(event, pipeline.events.entity), []).append(time)
    return list(lives.values()), times


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda each: each.name)
def test_times_are_late_equal_unordered_a_window_apart_and_years_apart(pipeline):
    events = [event for event in decoded(pipeline, hard_records(pipeline, 6_000, 1)) if not isinstance(event, Refused)]
    lives, times = lives_of(pipeline, events)
    steps = [after - before for life in lives for before, after in itertools.pairwise(life)]
    assert steps.count(0) > 200
    assert sum(step < 0 for step in steps) > 200
    newest = [max(life[: place + 1]) for life in lives for place in range(len(life))]
    in_order = [time for life in lives for time in life]
    assert sum(time < most - pipeline.lateness_ms for time, most in zip(in_order, newest, strict=True)) > 10
    window = min(feature.window_ms for feature in pipeline.features if hasattr(feature, "window_ms"))
    if pipeline.events.time_unit == "ms":
        assert {window - 1, window, window + 1} & set(steps)
    assert any(abs(step) > YEAR_MS for step in steps) or max(times) - min(times) > 8 * YEAR_MS
    assert max(map(len, lives)) > 40
    assert min(times) <= 1 or max(times) > 3 * 10**12


def test_fields_are_null_huge_tiny_signed_zero_and_what_conditions_compare_with():
    events = [event for event in decoded(READINGS, hard_records(READINGS, 6_000, 1)) if not isinstance(event, Refused)]
    levels = [event.level for event in events]
    assert None in levels
    assert any(level is not None and abs(level) > 1e140 for level in levels)
    assert any(level is not None and 0 < abs(level) < 1e-300 for level in levels)
    assert any(str(level) == "-0.0" for level in levels)
    assert 2.5 in levels
    assert {"alarm", "", "café", "cafe\u0301", None} <= {event.note for event in events}
    assert {1, 2, 7, None} == {event.kind for event in events}
    assert {True, False, None} == {event.ok for event in events}


def test_json_comes_in_every_form_that_producers_write():
    values = [record.value for record in hard_records(PURCHASE, 2_000, 1) if record.reason is None]
    assert any(b'": ' in value for value in values)
    assert any(b"of_no_interest" in value for value in values)
    assert any(next(iter(json.loads(value))) == "timestamp" for value in values)
    assert any(b"\\u" in value for value in values)
    assert any(not value.isascii() for value in values)
