"""A long run at a steady rate: does memory stay flat, and is every event answered exactly once?

A sample of every process each `SAMPLE_S` seconds: proportional set size, and for the Java machine also what is alive
in its heap after collections (`memory.py`), so that garbage does not look like growth. The first third is warm-up:
windows, caches and pools fill. Over the rest a line is fitted (Theil-Sen: the median of the slopes between all pairs,
which single outliers do not move). Flat means that it rises by less than `FLAT_SHARE` of the level in `FLAT_MINUTES`;
a run of a few minutes is warm-up to its end and says so by not being flat.

The shop's clock runs faster than ours, about 170 times at 5,000 events/s, so that events leave their windows and
entities are forgotten within minutes.
"""

import itertools
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from flink_jobs.committed_reader import CommittedReader
from flink_jobs.events_producer import produce_events
from flink_jobs.kafka_admin import TopicSpec, create_topics
from flink_jobs.local.broker import Broker
from flink_jobs.local.shoppers import ShopperEvent, as_records, shopper_events
from tests.benchmarks.contest import SEED, SHOPPERS, START_MS
from tests.benchmarks.memory import WHOLE_HEAP, JobMemory, memory_of
from tests.benchmarks.outcomes import ContestantError
from tests.benchmarks.steered_job import JobTask, SteeredJob, steered_job
from tests.benchmarks.visibility_reader import event_number

MINUTES, MINUTES_QUICK = 20.0, 3.0
RATE = 5_000.0
PARTITIONS = 3
SAMPLE_S = 10.0
WARM_UP_SHARE = 1 / 3
FLAT_SHARE, FLAT_MINUTES = 0.05, 10.0
PARTS = JobMemory._fields

Samples = npt.NDArray[np.float64]


class _Scored(msgspec.Struct, gc=False):
    event_id: str


def measure(quick: bool) -> dict[str, float]:
    """Soak for 20 minutes, or 3."""
    return soak(MINUTES_QUICK if quick else MINUTES)


def soak(minutes: float, rate: float = RATE) -> dict[str, float]:
    """Run the job under load, sample it, check its answers; prints a row a minute and the verdict."""
    print(f"\nsoak: {rate:,.0f} events/s for {minutes:g} minutes", flush=True)
    print(f"{'minute':>8}{'MB: Python':>12}{'Java heap':>11}{'Java native':>13}{'whole':>8}", flush=True)
    with tempfile.TemporaryDirectory(prefix="millrace-soak-") as name:
        broker = Broker.start(Path(name) / "broker", die_with_parent=True)
        try:
            for topic in ("soak", "soak-scored", "purchase-dead-letters"):
                create_topics(broker.bootstrap, [TopicSpec(topic, PARTITIONS)])
            task = JobTask(broker.bootstrap, "soak", "soak-scored", {})
            with steered_job(task, Path(name) / "job", WHOLE_HEAP) as job:
                job.wait_for("running")
                with _traffic(broker.bootstrap, "soak", rate) as traffic:
                    samples = _sample(job, minutes * 60)
                job.ask("catch_up")
                job.ask("stop")
            _check_exactly_once(broker.bootstrap, "soak-scored", traffic.sent)
        finally:
            broker.stop()
    return {"soak_minutes": minutes, "soak_events": traffic.sent} | _verdict(samples)


class _Traffic:
    """A thread that sends the events of simulated shoppers."""

    def __init__(self, bootstrap: str, topic: str, rate: float) -> None:
        self.sent = 0
        self.ended = threading.Event()
        self._arguments = bootstrap, topic, as_records(_events()), rate
        self.thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        self.sent = produce_events(*self._arguments, should_stop=self.ended.is_set).records


@contextmanager
def _traffic(bootstrap: str, topic: str, rate: float) -> Iterator[_Traffic]:
    traffic = _Traffic(bootstrap, topic, rate)
    traffic.thread.start()
    try:
        yield traffic
    finally:
        traffic.ended.set()
        traffic.thread.join()


def _events() -> Iterator[ShopperEvent]:
    return shopper_events(SHOPPERS, SEED, START_MS)


def _sample(job: SteeredJob, seconds: float) -> Samples:
    """Rows of (seconds since the start, bytes of each of `PARTS`)."""
    rows: list[tuple[float, ...]] = []
    started = time.monotonic()
    minute = 0
    while (passed_s := time.monotonic() - started) < seconds:
        memory = memory_of(job)
        rows.append((passed_s, *memory))
        if passed_s >= minute * 60:
            sizes = "".join(f"{size / 1e6:>{width}.0f}" for size, width in zip(memory, (12, 11, 13), strict=True))
            print(f"{minute:>8}{sizes}{memory.whole / 1e6:>8.0f}", flush=True)
            minute += 1
        time.sleep(max(0.0, len(rows) * SAMPLE_S - (time.monotonic() - started)))
    return np.array(rows)


def _verdict(samples: Samples) -> dict[str, float]:
    """Slopes in MB a minute of each part and of the whole, and whether the whole is flat (1) or not (0)."""
    late = samples[samples[:, 0] >= samples[-1, 0] * WARM_UP_SHARE]
    minutes, whole = late[:, 0] / 60, late[:, 1:].sum(axis=1)
    slopes = {part: slope(minutes, late[:, column + 1]) / 1e6 for column, part in enumerate(PARTS)}
    rise = float(slope(minutes, whole) * FLAT_MINUTES / np.median(whole))
    flat = rise < FLAT_SHARE
    parts = ", ".join(f"{part} {value:+.2f}" for part, value in slopes.items())
    print(f"MB a minute over the last {minutes[-1] - minutes[0]:.1f} minutes: {parts}", flush=True)
    print(f"{'flat' if flat else 'NOT FLAT'}: {rise:+.1%} in {FLAT_MINUTES:.0f} minutes", flush=True)
    return {
        "soak_flat": float(flat),
        "soak_rise_percent_in_10_minutes": round(rise * 100, 2),
        "soak_whole_mb": round(float(np.median(whole)) / 1e6, 1),
        **{f"soak_slope_{part}_mb_per_minute": round(value, 3) for part, value in slopes.items()},
    }


def slope(x: Samples, y: Samples) -> float:
    """The median of the slopes between all pairs of points (Theil 1950, Sen 1968)."""
    first, second = np.triu_indices(len(x), k=1)
    return float(np.median((y[second] - y[first]) / (x[second] - x[first])))


def _check_exactly_once(bootstrap: str, topic: str, sent: int) -> None:
    """Raise ContestantError unless each event that was sent has exactly one prediction."""
    decode = msgspec.json.Decoder(_Scored).decode
    seen: list[int] = []
    reader = CommittedReader(bootstrap, [topic])
    try:
        while not reader.at_end:
            seen += [event_number(decode(message.value()).event_id) for message in reader.read(0.2)]
    finally:
        reader.close()
    wanted = np.fromiter((event_number(event.event_id) for event in itertools.islice(_events(), sent)), np.int64, sent)
    found = np.sort(np.array(seen, np.int64))
    if not np.array_equal(found, wanted):
        missing, unique = len(np.setdiff1d(wanted, found)), len(np.unique(found))
        raise ContestantError(
            f"{sent} events: {missing} have no prediction, {len(found) - unique} predictions came twice"
        )
    print(f"{sent:,} events, each with exactly one prediction", flush=True)
