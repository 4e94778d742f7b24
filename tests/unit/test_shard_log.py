"""The log is rewritten while batches go on; wherever it is cut, it holds the state to the last bit."""

import random

import pytest
from shard_driver import HOUR_MS, Shard, pipeline_of, purchase

from udfs import shard_log
from udfs.entity_state import ShardState
from udfs.pipeline import Count, Distinct, Ewma, Mean, Previous, SinceLast, Std, Sum, field
from udfs.state_log import EVENTS, SNAPSHOT, decode

FEATURES = [
    Sum("amount", window="1h"), Std("amount", window="30m"), Ewma("amount", window="1h"), SinceLast(window="1h"),
    Count(window="1h", where=field("page") == "pay"), Distinct("label", window="1h"),
    Mean("amount", window="2h", tile="10m"), Previous("amount", window="2h", tile="10m"),
    Distinct("page", window="2h", tile="10m"),
]  # fmt: skip


@pytest.fixture
def small_slices(monkeypatch):
    """Rounds of many slices, from few events."""
    monkeypatch.setattr(shard_log, "_LEAST_ROWS", 6)
    monkeypatch.setattr(shard_log, "_MOST_ROWS", 9)
    monkeypatch.setattr(shard_log, "_REMOVED_AT_ONCE", 3)


def shopping(seed, batches, users=40):
    """Batches of events of shoppers who come, are late, stay away until they are forgotten, and come again."""
    chance, now = random.Random(seed), 100 * HOUR_MS
    for _ in range(batches):
        now += chance.choice([1_000, 60_000, 600_000])
        batch = []
        for _ in range(chance.randrange(1, 8)):
            late_ms = chance.choice([0, 0, 0, 1_000, 900_000, 3 * HOUR_MS, 9 * HOUR_MS])
            user = f"user-{int(chance.paretovariate(0.7)) % users}"
            page, label = chance.choice(["home", "cart", "pay", None]), chance.choice(["x", "y", "z", None])
            batch.append(purchase(now - late_ms, chance.random(), page, user, label))
        yield batch


def times_and_partitions(batch):
    return {"record_times": [event.time for event in batch], "partitions": [len(event.user) % 3 for event in batch]}


@pytest.mark.parametrize("lateness", [None, "10m"])
@pytest.mark.usefixtures("small_slices")
def test_state_restored_after_any_call_goes_on_to_the_last_bit(lateness):
    """Contract: between any two slices of a round, with old entries half removed, nothing is lost or counted twice."""
    pipeline = pipeline_of(*FEATURES, lateness=lateness, max_events_per_entity=12)
    batches = list(shopping(5, 260))
    shard, restored = Shard(pipeline, compact_after=20), []
    rounds = 0
    for place, batch in enumerate(batches):
        advanced = shard.advance(batch, **times_and_partitions(batch))
        for began, other in restored:
            again = other.advance(batch, **times_and_partitions(batch))
            assert again.features.tobytes() == advanced.features.tobytes(), (began, place)
            assert again.flags.tobytes() == advanced.flags.tobytes(), (began, place)
        rounds += sum(decode(data).kind == SNAPSHOT for data in shard.log.values()) > 0
        copy = Shard(pipeline, compact_after=20)
        copy.log = dict(shard.log)
        copy.restart()
        restored = [*restored[-24:], (place, copy)]  # each is watched for a few batches: all would take minutes
    assert rounds > 100


@pytest.mark.usefixtures("small_slices")
def test_log_stays_short_although_no_round_ends_before_the_next_restart():
    shard, rows_kept = Shard(pipeline_of(*FEATURES, lateness="10m"), compact_after=10), 0
    for place, batch in enumerate(shopping(6, 600)):
        shard.advance(batch, **times_and_partitions(batch))
        rows_kept = max(rows_kept, shard.state.memory.rows_kept())
        if place % 3 == 0:
            shard.restart()
    events = sum(entry.count for entry in map(decode, shard.log.values()) if entry.kind == EVENTS)
    assert events < 6 * rows_kept


def test_a_call_writes_and_removes_a_bounded_part_of_the_log():
    shard = Shard(pipeline_of(Count(window="1h"), Sum("amount", window="1h")), compact_after=1_000)
    for start in range(0, 20_000, 500):
        shard.advance([purchase(HOUR_MS, user=f"u{user}") for user in range(start, start + 500)])
    largest = removed_at_once = 0
    for second in range(4_000):
        events = [purchase(HOUR_MS + second, user=f"u{(second * 7 + place) % 20_000}") for place in range(10)]
        before = dict(shard.log)
        shard.advance(events)
        largest = max(largest, *(len(data) for number, data in shard.log.items() if number not in before))
        removed_at_once = max(removed_at_once, len(before.keys() - shard.log.keys()))
    assert largest < 60_000
    assert 0 < removed_at_once <= 64
    assert sum(len(data) for data in shard.log.values()) < 12_000_000


def test_log_of_a_full_round_restores_every_entity():
    shard = Shard(pipeline_of(Count(window="1h")), compact_after=1)
    for start in range(0, 3_000, 100):
        shard.advance([purchase(HOUR_MS + start, user=f"u{user}") for user in range(start, start + 100)])
    assert any(decode(data).kind == SNAPSHOT for data in shard.log.values())
    assert len(ShardState.restore(shard.plan, shard.log.items())) == 3_000
