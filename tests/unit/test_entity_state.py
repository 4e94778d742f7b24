"""What is kept, for how long, and what a restart or another pipeline makes of it."""

import json
import math
import random
import struct
from dataclasses import dataclass

import numpy as np
import pytest
from shard_driver import HOUR_MS, Shard, pipeline_of, purchase

from udfs.entity_state import LATE, TRUNCATED, ShardState
from udfs.errors import StateCorruptError, StateVersionError
from udfs.naive_features import NaiveFeatures
from udfs.pipeline import (
    Count,
    Custom,
    Distinct,
    Ewma,
    Last,
    Mean,
    Previous,
    SinceLast,
    Std,
    Sum,
    Value,
    field,
)  # fmt: skip
from udfs.plan import FeaturePlan
from udfs.state_log import EVENTS, SNAPSHOT, decode, encode


@dataclass(frozen=True)
class Spread(Custom):
    """Greatest minus smallest."""

    def init(self):
        return (math.inf, -math.inf)

    def add(self, state, value, event_time_ms):
        return (min(state[0], value), max(state[1], value))

    def value(self, state):
        return state[1] - state[0] if state[1] >= state[0] else math.nan


MANY = [
    Sum("amount", window="1h"), Mean("amount", window="1h"), Std("amount", window="1h"), Ewma("amount", window="1h"),
    Count(window="1h", where=field("page") == "pay"), SinceLast(window="1h", where=field("page") == "pay"),
    Previous("amount", window="1h"), Last("amount", window="1h", where=field("amount") > 0.999),
    Distinct("amount", window="1h"),
]  # fmt: skip


def busy_history(count, late_share=0.05):
    chance, now, events = random.Random(7), 10 * HOUR_MS, []
    for _ in range(count):
        now += chance.choice([0, 100, 2_000, 5_000])
        time = now - (chance.randrange(HOUR_MS) if chance.random() < late_share else 0)
        page = "pay" if chance.random() < 0.002 else "home"
        events.append(purchase(time, amount=chance.random(), page=page))
    return events


def test_remembered_blocks_of_a_busy_entity_agree_with_the_oracle():
    pipeline, events = pipeline_of(*MANY), busy_history(1_200)
    oracle = NaiveFeatures(pipeline)
    shard = Shard(pipeline)
    features = np.concatenate([shard.advance(events[begin : begin + 100]).features for begin in range(0, 1_200, 100)])
    for place, event in enumerate(events):
        expected, _ = oracle.advance(event, event.time, 0, wanted=place % 100 == 99)
        if expected:
            np.testing.assert_allclose(features[place], expected, rtol=1e-9)


def test_remembered_blocks_change_no_bit():
    """Contract: a block is a function of its events; an empty cache after a restart gives the same bits."""
    pipeline, events = pipeline_of(*MANY, max_events_per_entity=700), busy_history(4_000)
    whole, parts = Shard(pipeline).advance(events), Shard(pipeline)
    for begin in range(0, len(events), 100):
        advanced = parts.advance(events[begin : begin + 100])
        assert advanced.features.tobytes() == whole.features[begin : begin + 100].tobytes()
        if begin % 500 == 0:
            parts.restart()


def test_late_event_sees_its_own_past_and_never_changes_what_was_emitted():
    shard = Shard(pipeline_of(Sum("amount", window="1h")))
    assert shard.feature(purchase(HOUR_MS, 1), purchase(HOUR_MS + 10, 2)) == [1, 3]
    assert shard.feature(purchase(HOUR_MS + 5, 10)) == [11]
    assert shard.feature(purchase(HOUR_MS + 20, 0)) == [13]


def test_event_older_than_what_is_kept_is_flagged_and_sees_nothing():
    shard = Shard(pipeline_of(Count(window="1h")))
    advanced = shard.advance([purchase(10 * HOUR_MS), purchase(HOUR_MS), purchase(10 * HOUR_MS)])
    assert advanced.features[:, 0].tolist() == [1, 0, 2]
    assert advanced.flags.tolist() == [0, LATE, 0]


def test_oldest_event_goes_when_an_entity_has_too_many_and_its_loss_is_flagged():
    shard = Shard(pipeline_of(Count(window="1h"), max_events_per_entity=3))
    advanced = shard.advance([purchase(HOUR_MS + second * 1000) for second in range(5)])
    assert advanced.features[:, 0].tolist() == [1, 2, 3, 3, 3]
    assert advanced.flags.tolist() == [0, 0, 0, TRUNCATED, TRUNCATED]
    shard.restart()
    assert shard.advance([purchase(2 * HOUR_MS + 500)]).flags.tolist() == [TRUNCATED]
    assert shard.advance([purchase(2 * HOUR_MS + 5_000)]).flags.tolist() == [0]


def test_tiles_cover_whole_tiles_and_previous_excludes_the_event_itself():
    shard = Shard(pipeline_of(Sum("amount", window="2h", tile="1h"), Previous("amount", window="2h", tile="1h")))
    advanced = shard.advance([purchase(HOUR_MS + 1, 1), purchase(2 * HOUR_MS - 1, 2), purchase(3 * HOUR_MS - 1, 4)])
    assert advanced.features[:, 0].tolist() == [1, 3, 7]
    np.testing.assert_array_equal(advanced.features[:, 1], [math.nan, 1, 2])
    assert shard.feature(purchase(3 * HOUR_MS, 8)) == [12]


def test_entity_is_forgotten_once_its_partition_has_passed_it_by():
    shard = Shard(pipeline_of(Count(window="1h"), Sum("amount", window="1h", tile="1m")))
    assert shard.feature(purchase(HOUR_MS, user="a")) == [1]
    shard.advance([purchase(10 * HOUR_MS, user="b")])
    advanced = shard.advance([purchase(HOUR_MS, user="a")])
    assert advanced.features.tolist() == [[1, 1]]


def test_an_entity_whose_events_come_behind_the_clock_is_kept_as_long_as_they_come():
    """As when one source of a topic is read hours ahead of another, or a device sends what it stored."""
    shard = Shard(pipeline_of(Count(window="1h"), Sum("amount", window="1h", tile="1m")), compact_after=4)
    for minute in range(0, 180, 10):
        ahead, behind = (50 * HOUR_MS + minute * 60_000, "ahead"), (10 * HOUR_MS + minute * 60_000, "behind")
        for time, user in (ahead, behind):
            advanced = shard.advance([purchase(time, user=user)])
            assert advanced.features.tolist() == [[min(minute // 10 + 1, 6)] * 2]
        shard.restart()
    shard.advance([purchase(55 * HOUR_MS, user="ahead")])
    assert shard.feature(purchase(13 * HOUR_MS, user="behind")) == [1]


def test_an_event_from_the_future_does_not_move_the_clock_past_the_record_time():
    shard = Shard(pipeline_of(Count(window="1h")))
    shard.advance([purchase(HOUR_MS, user="a")])
    shard.advance([purchase(1_000 * HOUR_MS, user="b")], record_times=[HOUR_MS + 1])
    assert shard.feature(purchase(HOUR_MS + 2, user="a")) == [2]


def test_cleaning_up_forgotten_entities_frees_them_and_changes_nothing():
    shard = Shard(pipeline_of(Count(window="1h")), compact_after=1)
    for user in range(3_000):
        shard.advance([purchase(user * HOUR_MS, user=f"u{user}")])
    assert len(shard.state) < 20
    assert len(shard.log) < 20


def test_log_stays_in_proportion_to_what_is_alive():
    shard = Shard(pipeline_of(Count(window="1h")))
    for second in range(5_000):
        shard.advance([purchase(second * 60_000)])
    assert len(shard.log) <= 1_026


def test_custom_aggregate_sees_the_window_of_each_event():
    shard = Shard(pipeline_of(Spread("amount", window="1h", fill=-1)))
    assert shard.plan.feature_names == ("amount_spread_1h",)
    amounts = [None, 3.0, 5.0, 1.0]
    events = [purchase(HOUR_MS + place, amount) for place, amount in enumerate(amounts)]
    assert shard.feature(*events) == [-1, 0, 2, 4]
    shard.restart()
    assert shard.feature(purchase(HOUR_MS + 9, 9.0)) == [8]


@pytest.mark.parametrize("compact_after", [1, 1024])
def test_pipeline_with_other_features_keeps_what_both_know(compact_after):
    """Contract: columns, conditions and tiles are found by name; what is new begins empty."""
    paid = field("page") == "pay"
    before = Shard(
        pipeline_of(
            Sum("amount", window="1h"), Count(window="1h", where=paid), Distinct("label", window="1h"),
            Sum("amount", window="2h", tile="1h"), Distinct("page", window="2h", tile="1h"),
        ),
        compact_after,
    )  # fmt: skip
    for place in range(4):
        before.advance([purchase(HOUR_MS + place, 2.0, page="pay", label="x")])
    after = Shard(
        pipeline_of(
            Count(window="1h", where=field("page") == "home"), Mean("amount", window="1h"),
            Count(window="1h", where=paid), Count(window="3h", tile="3h"), Distinct("page", window="2h", tile="1h"),
            Sum("amount", window="2h", tile="1h"),
        )
    )  # fmt: skip
    after.log = before.log
    after.restart()
    features = after.advance([purchase(HOUR_MS + 9, 7.0, page="home")]).features[0].tolist()
    known = [features[index] for index in (0, 1, 2, 4, 5)]
    assert known == [1, 3, 4, 2, 15]


def entry():
    shard = Shard(pipeline_of(Count(window="1h"), Sum("amount", window="1h")))
    shard.advance([purchase(HOUR_MS), purchase(HOUR_MS, user="ü")])
    return shard.plan, shard.log[0]


def test_state_of_an_unknown_version_is_refused():
    plan, data = entry()
    with pytest.raises(StateVersionError, match="version 9"):
        ShardState.restore(plan, [(0, data[:4] + struct.pack("<H", 9) + data[6:])])


def test_damaged_state_is_refused_wherever_it_is_damaged():
    plan, data = entry()
    for length in range(len(data)):
        with pytest.raises(StateCorruptError):
            ShardState.restore(plan, [(0, data[:length])])
    for place in range(len(data)):
        damaged = data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :]
        with pytest.raises((StateCorruptError, StateVersionError)):
            ShardState.restore(plan, [(0, damaged)])


def test_state_whose_parts_disagree_is_refused_although_its_checksum_is_right():
    shard = Shard(pipeline_of(Count(window="1h"), Sum("amount", window="1h")), compact_after=1)
    for place in range(4):
        shard.advance([purchase(HOUR_MS + place, user=f"u{place}")])
    entries = [decode(data) for data in shard.log.values()]
    for entry in entries:
        layout = json.dumps(entry.layout).encode()
        for keys, heads, rows in (
            (entry.keys + b"\0x", entry.heads, entry.rows),
            (entry.keys, entry.heads[:-1], entry.rows),
            (entry.keys, entry.heads, entry.rows[:-1]),
        ):
            damaged = encode(entry.kind, layout, keys, rows, clocks=entry.clocks, heads=heads)
            if damaged not in shard.log.values():  # events have no heads
                with pytest.raises(StateCorruptError, match="words"):
                    ShardState.restore(shard.plan, [(0, damaged)])
    assert {entry.kind for entry in entries} == {EVENTS, SNAPSHOT}


def test_state_of_five_events_costs_less_than_300_bytes_an_entity():
    features = [
        Count(window="1h"), Mean("amount", window="10m"), Std("amount", window="1h"), Distinct("page", window="1h"),
        SinceLast(window="1d"), Count(window="1d", where=field("page") == "pay"),
    ]  # fmt: skip
    state = ShardState(FeaturePlan.build(pipeline_of(*features)), log_changes=False)
    for round_number in range(5):
        for begin in range(0, 5_000, 500):
            events = [purchase(HOUR_MS + round_number * 60_000, user=f"user-{u}") for u in range(begin, begin + 500)]
            times, columns, masks, direct = state.plan.columnise(events)
            state.advance([e.user for e in events], times, times, np.zeros(500, np.int32), columns, masks, direct)
    assert state.memory_bytes() / 5_000 < 300


def test_huge_integers_and_missing_numbers_are_columns_too():
    plan = FeaturePlan.build(pipeline_of(Value("amount"), Sum("amount", window="1h")))
    _, columns, _, direct = plan.columnise([purchase(1, 10**400), purchase(2, None), purchase(3, 2)])
    np.testing.assert_array_equal(columns[:, 0], [math.inf, math.nan, 2])
    np.testing.assert_array_equal(direct[:, 0], [math.inf, math.nan, 2])


def test_keys_are_told_apart_by_all_their_characters():
    odd = ["", "\0", "\0\0", "a", "a\0", "\0a", "ä", "ÿ", "\udcff", "x" * 300, "x" * 301]
    keys = [*odd, *(str(n) for n in range(500))]
    shard = Shard(pipeline_of(Count(window="1h")))
    for count in (1, 2, 3):
        events = [purchase(HOUR_MS + count, user=key) for key in random.Random(count).sample(keys, len(keys))]
        assert shard.advance(events).features[:, 0].tolist() == [count] * len(keys)
        shard.restart()
    assert len(shard.state) == len(keys)


def test_more_conditions_than_fit_beside_the_time_and_the_last_of_64_are_told_apart():
    for count in (15, 16, 64):
        features = [Count(window="1h", where=field("amount") == number) for number in range(count)]
        shard = Shard(pipeline_of(*features), compact_after=1)
        for _ in range(3):
            shard.advance([purchase(253_402_300_799_999, amount=float(number)) for number in range(count)])
            shard.restart()
        last = shard.advance([purchase(253_402_300_799_999, amount=-1.0)])
        assert last.features[0].tolist() == [3.0] * count


def test_empty_batch_gives_an_empty_matrix():
    shard = Shard(pipeline_of(Count(window="1h")))
    assert shard.advance([]).features.shape == (0, 1)
    assert shard.log == {}
