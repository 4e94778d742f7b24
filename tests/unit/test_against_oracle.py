"""The engine against the oracle: any pipeline, any history, any batching, any restarts."""

import dataclasses
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from shard_driver import HOUR_MS, Purchase, Shard, pipeline_of

from udfs.entity_state import LATE
from udfs.naive_features import NaiveFeatures
from udfs.pipeline import (
    Count,
    Distinct,
    Ewma,
    Last,
    Max,
    Mean,
    Min,
    OneHot,
    Previous,
    Ratio,
    SinceLast,
    Std,
    Sum,
    Value,
    field,
)  # fmt: skip

NUMBERS = st.one_of(
    st.none(),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, 1e-300, 1e9, math.nan]),
    st.floats(-1e6, 1e6),
)
EXTREMES = st.one_of(NUMBERS, st.sampled_from([1e300, -1e300, math.inf, -math.inf]))
CONDITIONS = st.sampled_from([
    None, None, field("page") == "pay", field("page") != "pay", field("amount") > 1, ~(field("amount") <= 1),
    field("amount").is_null(), (field("page").isin(["home", "cart"])) & (field("amount") >= 0),
    (field("label") == "x") | field("page").is_null(),
])  # fmt: skip
WINDOWS = st.sampled_from([
    {"window": "10s"}, {"window": "1m"}, {"window": "1h"}, {"window": "64ms"}, {"window": "1m", "tile": "10s"},
    {"window": "1h", "tile": "1m"}, {"window": "10s", "tile": "10s"},
])  # fmt: skip


@st.composite
def pipelines(draw, exact_bits_only):
    kinds = [Min, Max, Last, Previous] + ([] if exact_bits_only else [Sum, Mean, Std, Ewma])
    features = {}
    for _ in range(draw(st.integers(1, 6))):
        options = {**draw(WINDOWS), "where": draw(CONDITIONS), "fill": draw(st.sampled_from([math.nan, -7.0]))}
        choice = draw(st.integers(0, 4))
        if choice == 0:
            feature = Count(draw(st.sampled_from([None, "amount", "label"])), **options)
        elif choice == 1:
            feature = SinceLast(**options)
        elif choice == 2:
            feature = Distinct(draw(st.sampled_from(["page", "label", "amount"])), **options)
        else:
            feature = draw(st.sampled_from(kinds))("amount", **options)
        features[feature.name] = feature
    made = list(features.values())
    made += [Value("amount", fill=3), OneHot("page"), Ratio(made[0], Count(window="1m"), fill=0.5)]
    return pipeline_of(*made, lateness=draw(st.sampled_from([None, "5s", "2m", "30m"])))


@st.composite
def histories(draw, numbers):
    events, now = [], draw(st.sampled_from([0, 1_700_000_000_000])) + 100_000
    for _ in range(draw(st.integers(1, 60))):
        now += draw(st.sampled_from([0, 0, 1, 999, 5_000, 10_000, 60_000, HOUR_MS, 5 * HOUR_MS]))
        time = max(now - draw(st.sampled_from([0, 0, 0, 0, 1, 5_000, 70_000, HOUR_MS, 3 * HOUR_MS])), 0)
        page = draw(st.sampled_from(["home", "cart", "pay", None]))
        label = draw(st.sampled_from(["x", "y", "", None]))
        event = Purchase("", draw(st.sampled_from("ab")), page, draw(numbers), label, time)
        record_time = now + draw(st.sampled_from([0, 0, -1000, 10 * HOUR_MS]))
        events += [(event, record_time)] * draw(st.sampled_from([1, 1, 1, 2]))
    return events


def oracle_of(pipeline, history):
    oracle = NaiveFeatures(pipeline)
    rows = [oracle.advance(event, record_time, partition_of(event)) for event, record_time in history]
    return np.array([row for row, _ in rows]), [late for _, late in rows]


def partition_of(event):
    return "ab".index(event.user)


def engine_of(pipeline, history, cuts, compact_after=1024, restart=False, direct_rows=None):
    shard = Shard(pipeline, compact_after, direct_rows)
    parts = []
    for begin, end in zip([0, *cuts], [*cuts, len(history)], strict=True):
        part = history[begin:end]
        if part:
            events = [event for event, _ in part]
            parts.append(shard.advance(events, [time for _, time in part], [partition_of(e) for e in events]))
        if restart:
            shard.restart()
    return np.concatenate([p.features for p in parts]), np.concatenate([p.flags for p in parts])


@examples(15)
@given(pipelines(exact_bits_only=True), histories(EXTREMES))
def test_counts_extremes_and_latest_values_equal_the_oracle_to_the_last_bit(pipeline, history):
    expected, late = oracle_of(pipeline, history)
    features, flags = engine_of(pipeline, history, [])
    np.testing.assert_array_equal(features, expected)
    assert ((flags & LATE) > 0).tolist() == late


@examples(15)
@given(pipelines(exact_bits_only=False), histories(NUMBERS))
def test_sums_and_means_equal_the_oracle_to_nine_digits(pipeline, history):
    expected, _ = oracle_of(pipeline, history)
    features, _ = engine_of(pipeline, history, [])
    largest = max([abs(e.amount) for e, _ in history if e.amount is not None and e.amount == e.amount], default=0.0)
    # values cancel and a deviation squares them: relative to what went in, not to the small rest
    np.testing.assert_allclose(features, expected, rtol=1e-9, atol=1e-7 * largest)


@examples(15)
@given(pipelines(exact_bits_only=False), histories(EXTREMES), st.data())
def test_batching_restarts_and_compaction_change_no_bit(pipeline, history, data):
    whole, whole_flags = engine_of(pipeline, history, [])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(history)), max_size=8)))
    compact_after = data.draw(st.sampled_from([1, 10, 1024]))
    features, flags = engine_of(pipeline, history, cuts, compact_after, restart=True)
    assert features.tobytes() == whole.tobytes()
    assert flags.tobytes() == whole_flags.tobytes()


@examples(15)
@given(pipelines(exact_bits_only=False), histories(EXTREMES), st.data())
def test_what_is_remembered_of_windows_changes_no_bit(pipeline, history, data):
    """Contract: a remembered partial or tally is what folding the window anew gives."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(history)), max_size=8)))
    most_events = data.draw(st.sampled_from([9, 20, 10_000]))
    pipeline = dataclasses.replace(pipeline, max_events_per_entity=most_events)
    folded, flags = engine_of(pipeline, history, [], direct_rows=1 << 20)
    remembered, remembered_flags = engine_of(pipeline, history, cuts, direct_rows=1)
    assert remembered.tobytes() == folded.tobytes()
    assert remembered_flags.tobytes() == flags.tobytes()
