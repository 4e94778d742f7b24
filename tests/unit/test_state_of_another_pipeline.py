"""A pipeline changes while its state lives: what is not marked as warming up is what the oracle says of all events."""

import dataclasses
import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from shard_driver import HOUR_MS, Purchase, Shard, pipeline_of, purchase
from test_against_oracle import NUMBERS, histories, partition_of, pipelines

from udfs.entity_state import WARMING
from udfs.naive_features import NaiveFeatures
from udfs.pipeline import (
    Count,
    Distinct,
    Events,
    Ewma,
    Last,
    Max,
    Mean,
    Min,
    Previous,
    SinceLast,
    Std,
    Sum,
    Value,
    field,
)  # fmt: skip

DAY_MS = 24 * HOUR_MS
START_MS = 20_000 * DAY_MS


class Change:
    """A shard under one pipeline, then under another, with the second one's oracle beside it from the first on."""

    def __init__(self, before, after, compact_after=1024):
        self.before, self.after, self.compact_after = before, after, compact_after
        self.oracle = NaiveFeatures(after)
        self.oracle.retention_ms = before.retention_ms  # what the first one had not forgotten is there for the second
        self.shard = Shard(before, compact_after)

    def advance(self, events, record_times=None, partitions=None):
        """Features and flags of the engine, what the oracle says, and the names of the features that warm up."""
        record_times = [event.time for event in events] if record_times is None else record_times
        partitions = [0] * len(events) if partitions is None else partitions
        rows = zip(events, record_times, partitions, strict=True)
        expected = [self.oracle.advance(event, at, partition).features for event, at, partition in rows]
        advanced = self.shard.advance(events, record_times, partitions)
        warming = [set(text.split(",")) - {""} for text in advanced.warming or [""] * len(events)]
        assert ((advanced.flags & WARMING) > 0).tolist() == [bool(names) for names in warming]
        return advanced.features, np.array(expected), warming

    def change(self):
        log, self.shard = self.shard.log, Shard(self.after, self.compact_after)
        self.shard.log = log
        self.shard.restart()
        self.oracle.retention_ms = self.after.retention_ms

    def assert_complete(self, events, **arguments):
        features, expected, warming = self.advance(events, **arguments)
        np.testing.assert_allclose(features, expected, rtol=1e-9)
        assert warming == [set()] * len(events)


def differing(names, found, expected, warming, absolute):
    """Features that are not what the oracle says although nothing says that they warm up."""
    wrong = ~np.isclose(found, expected, rtol=1e-9, atol=absolute, equal_nan=True)
    return [(row, names[column]) for row, column in np.argwhere(wrong) if names[column] not in warming[row]]


@examples(15)
@given(pipelines(exact_bits_only=False), pipelines(exact_bits_only=False), histories(NUMBERS), st.data())
def test_every_feature_that_is_not_marked_as_warming_up_is_complete(before, after, history, data):
    """Contract: whatever the change, a feature is what it would have been without one, or its receipt says so."""
    cut = data.draw(st.integers(0, len(history)))
    change = Change(before, after, data.draw(st.sampled_from([1, 10, 1024])))
    largest = max([abs(e.amount) for e, _ in history if e.amount is not None and e.amount == e.amount], default=0.0)
    events, times = [event for event, _ in history], [time for _, time in history]
    partitions = [partition_of(event) for event in events]
    for end in range(len(events)):
        if end == cut:
            change.change()
        elif end % 7 == 6:
            change.shard.restart()
        place = slice(end, end + 1)
        if end < cut:
            change.shard.advance(events[place], times[place], partitions[place])
            change.oracle.advance(events[end], times[end], partitions[end], wanted=False)
            continue
        found, expected, warming = change.advance(events[place], times[place], partitions[place])
        assert differing(after.feature_names, found, expected, warming, 1e-7 * largest) == []


@examples(15)
@given(pipelines(exact_bits_only=False), histories(NUMBERS), st.data())
def test_the_same_features_in_another_order_lose_nothing_and_warm_nothing_up(pipeline, history, data):
    features = data.draw(st.permutations(pipeline.features))
    cut = data.draw(st.integers(0, len(history)))
    change = Change(pipeline, dataclasses.replace(pipeline, features=features))
    for begin, end in ((0, cut), (cut, len(history))):
        part = history[begin:end]
        if begin == cut:
            change.change()
        if part:
            events = [event for event, _ in part]
            advanced = change.shard.advance(events, [at for _, at in part], [partition_of(each) for each in events])
            assert advanced.warming is None
            last = advanced.features
    if cut < len(history):
        whole = Shard(change.after)
        events = [event for event, _ in history]
        expected = whole.advance(events, [at for _, at in history], [partition_of(each) for each in events])
        np.testing.assert_array_equal(last, expected.features[cut:])


def visits(count, step_ms=60_000, begin=START_MS):
    pages, labels = ["home", "cart", "pay", None], ["x", "y", None]
    return [
        purchase(begin + place * step_ms, float(place % 17), pages[place % 4], label=labels[place % 3])
        for place in range(count)
    ]


PAID, AMOUNTS = field("page") == "pay", [Sum("amount", window="2h")]


@pytest.mark.parametrize(
    ("before", "added"),
    [
        (AMOUNTS, [Mean("amount", window="1h"), Ewma("amount", window="2h"), Count(window="2h")]),
        (AMOUNTS, [Count(window="1h", where=field("amount") > 3), Distinct("amount", window="1h")]),
        (AMOUNTS, [Count("amount", window="1h"), Count(window="1h", where=field("amount") != 3)]),
        ([Distinct("page", window="2h")], [Count(window="1h", where=~PAID), Count("page", window="2h")]),
        ([Distinct("page", window="2h")], [Count(window="1h", where=field("page").isin(["pay", "cart"]) & ~PAID)]),
        ([Distinct("label", window="2h")], [Count(window="1h", where=field("label") == "x")]),
        ([Distinct("label", window="2h")], [Count("label", window="1h")]),
        ([*AMOUNTS, Count(window="2h", where=PAID)], [Sum("amount", window="2h", where=PAID)]),
    ],
)
def test_a_feature_over_what_is_kept_is_complete_at_once(before, added):
    """Contract: a condition on a kept column, and one that follows from other conditions, is as good as kept."""
    change = Change(pipeline_of(*before), pipeline_of(*before, *added), compact_after=1)
    events = visits(200)
    change.shard.advance(events[:150])
    for event in events[:150]:
        change.oracle.advance(event, event.time, 0, wanted=False)
    change.change()
    change.assert_complete(events[150:])


TILED = [
    kind("amount", window="3h", tile="30m") for kind in (Sum, Mean, Min, Max, Std, Last, Previous, Distinct)
] + [
    Count(window="3h", tile="30m"), Count("label", window="3h", tile="30m"), SinceLast(window="3h", tile="30m"),
    Distinct("label", window="3h", tile="30m", where=PAID), Ewma("amount", window="3h", tile="30m", half_life="1h"),
    Sum("amount", window="3h", tile="30m", where=PAID), Distinct("page", window="3h", tile="30m"),
]  # fmt: skip
EXACT = [dataclasses.replace(feature, tile=None) for feature in TILED]
SHORTER = [dataclasses.replace(feature, tile="10m") for feature in TILED]


@pytest.mark.parametrize("compact_after", [1, 100_000])
@pytest.mark.parametrize(("before", "after"), [(EXACT, TILED), (SHORTER, TILED)], ids=["exact", "shorter tiles"])
def test_tiles_are_made_of_kept_events_and_of_shorter_tiles(before, after, compact_after):
    change = Change(pipeline_of(*before), pipeline_of(*after), compact_after)
    events = visits(200, step_ms=120_000)
    change.shard.advance(events[:150])
    for event in events[:150]:
        change.oracle.advance(event, event.time, 0, wanted=False)
    change.change()
    change.assert_complete(events[150:175])
    change.shard.restart()
    change.assert_complete(events[175:])


def test_counts_sums_and_means_of_tiles_are_found_in_richer_partials():
    tiles = {"window": "3h", "tile": "30m"}
    before = pipeline_of(Std("amount", **tiles), Mean("amount", where=PAID, **tiles))
    added = [Sum("amount", **tiles), Mean("amount", **tiles), Count("amount", **tiles)]
    change = Change(before, pipeline_of(*added, Sum("amount", where=PAID, **tiles)), compact_after=1)
    events = visits(200, step_ms=120_000)
    change.advance(events[:150])
    change.change()
    change.assert_complete(events[150:])


def test_features_over_a_column_that_was_not_kept_warm_up_until_their_window_has_passed():
    before = pipeline_of(Count(window="1h"))
    after = pipeline_of(Count(window="1h"), Sum("amount", window="30m"), Sum("amount", window="2h", tile="1h"))
    change = Change(before, after, compact_after=1)
    events = visits(400)
    change.advance(events[:100])
    last_ms = events[99].time
    change.change()
    for place in range(100, 400, 10):
        if place == 200:
            change.shard.restart()
        found, expected, warming = change.advance(events[place : place + 10])
        assert differing(after.feature_names, found, expected, warming, 0.0) == []
        for event, names in zip(events[place : place + 10], warming, strict=True):
            missing = {"amount_sum_30m": HOUR_MS // 2, "amount_sum_2h_tile_1h": 2 * HOUR_MS}
            assert names == {name for name, window in missing.items() if event.time < last_ms + window}


def test_a_feature_warms_up_to_the_millisecond():
    change = Change(pipeline_of(Count(window="1h")), pipeline_of(Sum("amount", window="1h")), compact_after=1)
    change.shard.advance([purchase(START_MS)])
    change.change()
    advanced = change.shard.advance([purchase(START_MS + HOUR_MS - 1), purchase(START_MS + HOUR_MS)])
    assert advanced.warming == ["amount_sum_1h", ""]


def test_what_warms_up_for_one_change_still_does_after_the_next():
    first, second = Count(window="1h"), Sum("amount", window="2h")
    third = Count(window="2h", where=field("amount") > 3)
    change = Change(pipeline_of(first), pipeline_of(first, second), compact_after=1)
    events = visits(300)
    change.advance(events[:60])
    change.change()
    change.advance(events[60:90])
    change.after = pipeline_of(first, third)
    change.oracle.pipeline = change.after
    change.change()
    _, _, warming = change.advance(events[90:300])
    last_ms = events[59].time + 2 * HOUR_MS
    assert [bool(names) for names in warming] == [event.time < last_ms for event in events[90:300]]


def test_a_longer_window_is_complete_as_far_as_events_were_kept_and_warms_up_for_the_rest():
    before = pipeline_of(Sum("amount", window="1h"))  # kept for two hours: window and lateness
    for window, warms_up_min in (("30m", 0), ("2h", 0), ("3h", 60)):
        change = Change(before, pipeline_of(Sum("amount", window=window)), compact_after=1)
        events = visits(400)
        change.advance(events[:200])
        change.change()
        found, expected, warming = change.advance(events[200:])
        assert [bool(names) for names in warming] == [place < warms_up_min - 1 for place in range(200)]
        assert differing(change.after.feature_names, found, expected, warming, 0.0) == []


def test_a_distinct_that_needs_a_column_because_of_more_conditions_finds_it_in_the_bits_and_the_other_way_round():
    many = [Count(window="1h", where=field("amount") > number) for number in range(20)]
    few, most = [Distinct("page", window="1h")], [Distinct("page", window="1h"), *many, Value("amount")]
    for before, after in ((few, most), (most, few)):
        change = Change(pipeline_of(*before), pipeline_of(*after), compact_after=1)
        events = visits(200)
        change.advance(events[:150])
        change.change()
        _, _, warming = change.advance(events[150:151])
        assert "page_distinct_1h" not in warming[0]
        features, expected, _ = change.advance(events[151:])
        np.testing.assert_array_equal(features[:, 0], expected[:, 0])


@dataclasses.dataclass
class Renamed:
    id: str
    user: str
    page: str | None
    sum: float | None
    label: str | None
    time: int


def test_a_renamed_field_keeps_what_was_kept_of_it_by_its_old_name():
    def features(name):
        above = field(name) > 3
        return [
            Mean(name, window="1h"), Count(window="1h", where=above), Sum(name, window="2h", tile="1h", where=above),
            Distinct(name, window="2h", tile="1h"),
        ]  # fmt: skip

    before = pipeline_of(*features("amount"))
    events = Events(
        Renamed, topic="purchases", entity="user", time="time", id="id", renamed={"sum": "amount"}
    )  # fmt: skip
    after = dataclasses.replace(before, events=events, features=features("sum"))
    for compact_after in (1, 1024):
        change = Change(before, before, compact_after)
        history = visits(200)
        change.advance(history[:150])
        change.after = after
        change.change()
        for restart in (False, True):
            if restart:
                change.after = dataclasses.replace(after, events=dataclasses.replace(events, renamed={}))
                change.change()  # written anew: the old name is not needed any more
            rows = history[150:175] if not restart else history[175:]
            expected = np.array([change.oracle.advance(row, row.time, 0).features for row in rows])
            new = [Renamed(e.id, e.user, e.page, e.amount, e.label, e.time) for e in rows]
            advanced = change.shard.advance(new)
            np.testing.assert_allclose(advanced.features, expected, rtol=1e-9)
            assert advanced.warming is None


@dataclasses.dataclass
class Wider(Purchase):
    page: Literal["home", "cart", "pay", "help"] | None  # type: ignore[assignment]


def test_a_category_that_a_field_gains_was_never_there_before():
    before = pipeline_of(Distinct("page", window="1h"))
    change = Change(before, before, compact_after=1)
    events = visits(100)
    change.advance(events[:80])
    wider = Events(Wider, topic="purchases", entity="user", time="time", id="id")
    change.after = dataclasses.replace(
        before, events=wider, features=[*before.features, Count(window="1h", where=PAID)]
    )
    change.oracle.pipeline = change.after
    change.change()
    change.assert_complete([*events[80:], purchase(events[-1].time, page="help")])


def test_fewer_events_of_an_entity_are_its_newest_and_the_receipt_says_that_some_are_gone():
    change = Change(
        pipeline_of(Count(window="1h")), pipeline_of(Count(window="1h"), max_events_per_entity=10), compact_after=1
    )
    events = visits(31)
    change.shard.advance(events[:30])
    change.change()
    advanced = change.shard.advance(events[30:])
    assert advanced.features[0, 0] == 10
    assert advanced.flags.tolist() == [2]


def test_a_missing_value_is_told_from_a_column_that_was_not_kept():
    change = Change(pipeline_of(Count(window="1h")), pipeline_of(Last("amount", window="1h")), compact_after=1)
    change.shard.advance(visits(10))
    change.change()
    later = START_MS + 3 * HOUR_MS
    advanced = change.shard.advance([purchase(START_MS + HOUR_MS // 2, None), purchase(later, None)])
    assert [math.isnan(value) for value in advanced.features[:, 0]] == [True, True]
    assert advanced.warming == ["amount_last_1h", ""]


def test_who_comes_behind_the_clock_warms_up_after_the_others():
    change = Change(pipeline_of(Count(window="1h")), pipeline_of(Count(window="1h"), Sum("amount", window="1h")))
    change.advance([purchase(START_MS - 90 * HOUR_MS, user="behind"), purchase(START_MS, user="ahead")])
    change.advance([purchase(START_MS - 90 * HOUR_MS + 60_000, user="behind")])
    change.change()
    for step in range(1, 9):
        late = purchase(START_MS - 90 * HOUR_MS + step * 300_000, user="behind")
        events = [late, purchase(START_MS + step * HOUR_MS, user="ahead")]
        found, expected, warming = change.advance(events)
        assert differing(change.after.feature_names, found, expected, warming, 0.0) == []
        assert warming[0] == {"amount_sum_1h"}
        change.shard.restart()
