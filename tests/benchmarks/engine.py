"""The feature engine alone, without Flink: what an event costs, what an entity costs, and how long a batch may take.

    python -m tests.benchmarks.engine [--quick]

CPU time, so that what else runs on the machine counts little; the sizes that are compared take turns, so that a slow
minute hits both. Memory and the million entities are measured in processes of their own: resident bytes over those of
a worker that has compiled its kernels and made its shards, but seen no event.
"""

import argparse
import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import psutil

from flink_jobs.local.shoppers import PAGES, ShopperEvent, shopper_events
from flink_jobs.pipelines import load_pipeline
from udfs.entity_state import ShardState
from udfs.kernel_warm_up import warm_up
from udfs.pipeline import (
    Count,
    Distinct,
    Ewma,
    Last,
    Max,
    Mean,
    Min,
    Model,
    Pipeline,
    SinceLast,
    Std,
    Sum,
    field,
)
from udfs.plan import FeaturePlan

START_MS = 1_760_000_000_000
SHARDS = 32
BATCH = 200
SMALL_BATCHES = (2, 10)
HOUR_S, DAY_S = 3_600, 86_400
KEPT = (1, 10, 100, 1_000)
KEPT_EVENTS_AN_ENTITY = 10
SETTLING_WAVES = 2
TIMED_EVENTS = 400_000
WINDOWS: dict[str, tuple[int, dict[str, str]]] = {
    "1h": (HOUR_S, {"window": "1h"}),
    "24h": (DAY_S, {"window": "24h"}),
    "30d_tiled": (30 * DAY_S, {"window": "30d", "tile": "1h"}),
}


def engine_pipeline(features: Sequence[Any], **settings: Any) -> Pipeline:
    """A pipeline over the shoppers' events."""
    shipped = load_pipeline("purchase").events
    return Pipeline(
        name="engine", events=shipped, features=features, model=Model("engine", version=1), prediction="score",
        **settings,
    )  # fmt: skip


def every_aggregate(**window: str) -> list[Any]:
    """Each aggregate once, plain or with a condition."""
    dwell, at_checkout = "dwell_time_sec", field("page_id") == "checkout"
    return [
        Count(**window), Count(where=at_checkout, **window), Sum(dwell, **window), Mean(dwell, **window),
        Min(dwell, **window), Max(dwell, **window), Std(dwell, **window), Ewma(dwell, **window),
        Last(dwell, where=at_checkout, **window), SinceLast(where=at_checkout, **window),
        Distinct("page_id", **window), Distinct(dwell, **window),
    ]  # fmt: skip


class Shards:
    """Shards of one pipeline as a worker has them; measures what its batches cost."""

    def __init__(self, pipeline: Pipeline, shards: int = 1, *, log: bool = True) -> None:
        self.plan, self._log = FeaturePlan.build(pipeline), log
        self.states = [ShardState(self.plan, log_changes=log) for _ in range(shards)]

    def take(self, events: list[ShopperEvent], shard: int = 0) -> tuple[int, int, int]:
        """CPU time of columnise, advance and take_changes for a batch, ns."""
        clock, state = time.thread_time_ns, self.states[shard]
        users = [event.user_id for event in events]
        record_times_ms, partitions = np.full(len(events), START_MS * 2), np.zeros(len(events), np.int32)
        begun = clock()
        times_ms, columns, masks, direct = self.plan.columnise(events)
        columnised = clock()
        state.advance(users, times_ms, record_times_ms, partitions, columns, masks, direct)
        advanced = clock()
        state.take_changes()
        return columnised - begun, advanced - columnised, clock() - advanced


def _batches(events: Iterator[ShopperEvent], size: int) -> Iterator[list[ShopperEvent]]:
    while batch := list(itertools.islice(events, size)):
        yield batch


def _us(spent_ns: Sequence[tuple[int, ...]], events: int) -> list[float]:
    """Microseconds an event of each step and of all together, the middle one of the batches."""
    steps = np.array(spent_ns) / 1_000 / events
    return [*np.median(steps, axis=0).tolist(), float(np.median(steps.sum(axis=1)))]


def measure_steps(events: int) -> dict[str, float]:
    """The shipped pipeline, by size of batch; 300 shoppers, those of one shard of 10,000."""
    result = {}
    for size in (*SMALL_BATCHES, BATCH):
        shards = Shards(load_pipeline("purchase"))
        stream = shopper_events(300, 1, START_MS)
        spent = [shards.take(batch) for batch in _batches(itertools.islice(stream, events), size)]
        steps = _us(spent[len(spent) // 3 :], size if size == BATCH else 1)
        unit = "us" if size == BATCH else "us_a_batch"
        for name, value in zip(("columnise", "advance", "log", "all"), steps, strict=True):
            result[f"engine_{unit}_{name}_batch_{size}"] = value
    return result


def measure_features(events: int) -> dict[str, float]:
    """Six features against thirty, on shoppers' events; the pipelines take turns."""
    thirty = [*every_aggregate(window="1h"), *every_aggregate(window="10m"), *every_aggregate(window="5m")][:30]
    six = thirty[:1] + thirty[2:7]
    shards = {6: Shards(engine_pipeline(six)), 30: Shards(engine_pipeline(thirty))}
    spent: dict[int, list[tuple[int, int, int]]] = {6: [], 30: []}
    for batch in _batches(itertools.islice(shopper_events(300, 1, START_MS), events), BATCH):
        for count, each in shards.items():
            spent[count].append(each.take(batch))
    return {
        f"engine_us_features_{count}": _us(each[len(each) // 3 :], BATCH)[-1] for count, each in spent.items()
    }


def _steady(entities: int, every_s: float, seed: int) -> Iterator[ShopperEvent]:
    """An event of every entity in turn, each entity's `every_s` apart, without end."""
    rng = np.random.default_rng(seed)
    for number in itertools.count():
        at = START_MS + int((number // entities + 0.9 * rng.random()) * every_s * 1_000)
        page, dwell = PAGES[rng.integers(len(PAGES))], round(rng.exponential(20.0), 3)
        yield ShopperEvent("", f"user-{number % entities:06d}", page, dwell, at)


def measure_kept(entities: int, batches: int) -> dict[str, float]:
    """Every aggregate over windows that hold 1 to 1,000 events of each of a few entities; the numbers take turns.

    The windows are filled without being timed, and no event is kept beyond its window. The entities are few, so that
    what they keep is in the caches at 1,000 as it is at 1: what memory costs is measured with a million entities.
    """
    result = {}
    for window, (window_s, options) in WINDOWS.items():
        shards = {kept: Shards(engine_pipeline(every_aggregate(**options), lateness="1m")) for kept in KEPT}
        streams = {kept: _batches(_steady(entities, window_s / kept, 1), BATCH) for kept in KEPT}
        for kept in KEPT:
            for batch in itertools.islice(streams[kept], math.ceil(kept * entities / BATCH)):
                shards[kept].take(batch)
        spent: dict[int, list[tuple[int, int, int]]] = {kept: [] for kept in KEPT}
        for _ in range(batches):
            for kept in KEPT:
                spent[kept].append(shards[kept].take(next(streams[kept])))
        for kept in KEPT:  # the mean, not the middle: what is remembered is paid for now and then
            result[f"engine_us_kept_{kept}_{window}"] = float(np.sum(spent[kept])) / 1_000 / BATCH / batches
    return result


def _worker_with(entities: int) -> dict[str, float]:
    """In a process of its own: memory, speed and the worst batch of a worker whose entities keep ten events each.

    Every entity has an event a wave, at a time of its own, and the shipped pipeline keeps events for as long as ten
    waves: each further event of an entity drops one.
    """
    warm_up()
    pipeline = load_pipeline("purchase")
    shards, rng = Shards(pipeline, SHARDS), np.random.default_rng(3)
    wave_s = pipeline.exact_retention_ms / 1_000 / KEPT_EVENTS_AN_ENTITY
    mine = [np.arange(shard, entities, SHARDS) for shard in range(SHARDS)]
    process = psutil.Process()
    shards.take(_visits(mine[0][:1], 0, wave_s, rng))
    empty, held, longest_ns = process.memory_info().rss, 0, 0
    spent: list[float] = []
    untimed = KEPT_EVENTS_AN_ENTITY + SETTLING_WAVES
    for wave in range(untimed + math.ceil(TIMED_EVENTS / entities)):
        if wave == untimed:
            held = process.memory_info().rss - empty
        for shard, numbers in _batches_of_wave(mine, rng):
            cost_ns = sum(shards.take(_visits(numbers, wave, wave_s, rng), shard))
            longest_ns = max(longest_ns, cost_ns)
            if wave >= untimed:
                spent.append(cost_ns / len(numbers))
    return {"bytes": held / entities, "us": float(np.mean(spent)) / 1_000, "longest_ms": longest_ns / 1e6}


def _batches_of_wave(mine: list[Any], rng: Any) -> Iterator[tuple[int, Any]]:
    """Each shard's entities in an order of their own, a batch of one shard after one of another."""
    orders = [rng.permutation(numbers) for numbers in mine]
    for begin in range(0, max(map(len, orders)), BATCH):
        yield from ((shard, order[begin : begin + BATCH]) for shard, order in enumerate(orders) if begin < len(order))


def _visits(numbers: Any, wave: int, wave_s: float, rng: Any) -> list[ShopperEvent]:
    times = (START_MS + (wave + rng.random(len(numbers))) * wave_s * 1_000).astype(np.int64)
    pages, dwells = rng.integers(0, len(PAGES), len(numbers)), rng.exponential(20.0, len(numbers))
    return [
        ShopperEvent("", f"user-{number:07d}", PAGES[page], dwell, at)
        for number, page, dwell, at in zip(
            numbers.tolist(), pages.tolist(), dwells.tolist(), times.tolist(), strict=True
        )
    ]


def measure_entities(entities: int) -> dict[str, float]:
    """Many entities against 10,000: bytes, speed and the longest batch."""
    few, many = (_in_a_process(count) for count in (10_000, entities))
    return {
        "engine_bytes_per_entity": many["bytes"],
        "engine_us_10k_entities": few["us"],
        "engine_us_many_entities": many["us"],
        "engine_ratio_1m_entities": few["us"] / many["us"],
        "engine_longest_pause_ms": many["longest_ms"],
    }


def _in_a_process(entities: int) -> dict[str, float]:
    code = f"import json; from tests.benchmarks.engine import _worker_with; print(json.dumps(_worker_with({entities})))"
    ran = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return result


def measure(quick: bool) -> dict[str, float]:
    """Everything above; `quick` takes less than a minute and has 200,000 entities in place of a million."""
    warm_up()
    entities = 200_000 if quick else 1_000_000
    result: dict[str, float] = {"engine_entities": entities, "engine_kept_per_entity": KEPT_EVENTS_AN_ENTITY}
    result |= measure_steps(20_000 if quick else 60_000)
    result |= measure_features(20_000 if quick else 60_000)
    result |= measure_kept(20, 60 if quick else 300)
    result |= measure_entities(entities)
    result = {name: round(value, 3) for name, value in result.items()}
    _print_table(result)
    return result


def _print_table(result: dict[str, float]) -> None:
    print("\nthe engine alone, shipped pipeline (CPU us)")
    print(f"{'':24}{'columnise':>11}{'advance':>11}{'log':>11}{'all':>11}")
    for size in (*SMALL_BATCHES, BATCH):
        unit, label = ("us", "an event") if size == BATCH else ("us_a_batch", "a batch")
        steps = [result[f"engine_{unit}_{step}_batch_{size}"] for step in ("columnise", "advance", "log", "all")]
        print(f"{f'{label} of {size}' if size != BATCH else f'an event, batch {size}':24}" + _row(steps))
    print(f"\n{'us an event':24}{'6 features':>11}{'30':>11}")
    print(f"{'on shoppers':24}" + _row([result["engine_us_features_6"], result["engine_us_features_30"]]))
    print(f"\n{'us an event, kept':24}" + "".join(f"{kept:>11,}" for kept in KEPT))
    for window in WINDOWS:
        print(f"{window.replace('_', ', '):24}" + _row([result[f"engine_us_kept_{kept}_{window}"] for kept in KEPT]))
    print(
        f"\n{result['engine_entities']:,.0f} entities with {KEPT_EVENTS_AN_ENTITY} events each, {SHARDS} shards: "
        f"{result['engine_bytes_per_entity']:.0f} B an entity, {result['engine_ratio_1m_entities']:.2f} of the speed "
        f"with 10,000, longest batch {result['engine_longest_pause_ms']:.1f} ms",
        flush=True,
    )


def _row(values: Sequence[float]) -> str:
    return "".join(f"{value:>11.2f}" for value in values)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.engine")
    parser.add_argument("--quick", action="store_true", help="less than a minute")
    print(json.dumps(measure(parser.parse_args().quick), indent=2))
