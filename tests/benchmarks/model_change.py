"""How long a running job pauses when it changes its model: the longest time in which nothing was scored.

The shipped pipeline at a steady rate, at-least-once; its model is promoted from one version to the other and back. The
longest gap between two predictions' `scored_at` around each change is compared with those of equally long spans
without one, for a busy machine has gaps of its own. Lost and doubled answers are counted as well.
"""

import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from flink_jobs.committed_reader import read_all
from flink_jobs.kafka_admin import create_topics
from flink_jobs.local.broker import Broker
from flink_jobs.model_changes import change_models, serving_of
from flink_jobs.settings import load_settings
from flink_jobs.topics import topic_specs
from tests.benchmarks.companions import committed_end, companion
from tests.benchmarks.outcomes import ContestantError
from tests.benchmarks.steered_job import JobTask, steered_job

RATE = 2_000.0
START_S = 120.0
QUICK, FULL = (20.0, 3), (40.0, 10)
"""Seconds to warm up, and how many changes."""
BETWEEN_S = 8.0


def measure(quick: bool) -> dict[str, float]:
    """Change the model some times; prints the pauses."""
    warm_up_s, changes = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="millrace-change-") as folder:
        home = Path(folder)
        broker = Broker.start(home / "broker", die_with_parent=True)
        try:
            return _measured(broker, home, warm_up_s, changes)
        finally:
            broker.stop()


def _measured(broker: Broker, home: Path, warm_up_s: float, changes: int) -> dict[str, float]:
    task = JobTask(broker.bootstrap, "events", "answers", {"guarantee": "at-least-once"}, None, "models")
    pipeline, settings = task.pipeline, load_settings(bootstrap=broker.bootstrap, home=home / "job")
    create_topics(broker.bootstrap, topic_specs(pipeline))
    most = str(int(RATE * (START_S + warm_up_s + changes * (BETWEEN_S + 30))))
    producing = [broker.bootstrap, "events", str(RATE), most, str(home / "sent.npz")]
    with steered_job(task, home / "job") as job:
        job.wait_for("running")
        asked: list[_Change] = []
        load_ms: list[float] = []
        with companion("tests.benchmarks.paced_producer", producing, home / "producer"):
            deadline = time.monotonic() + START_S
            while not committed_end(broker.bootstrap, "answers"):
                if time.monotonic() > deadline:
                    raise ContestantError(f"no prediction within {START_S:.0f} s")
                time.sleep(0.2)
            time.sleep(warm_up_s)
            quiet = time.time()
            time.sleep(BETWEEN_S * 2)
            for number in range(changes):
                serving = serving_of(pipeline, settings, 1 + number % 2)
                begin = time.time()
                # the rows' event times are those of the events; all of them are past this one
                changed = change_models(pipeline, settings, serving, at_ms=0)
                ready = [each for each in changed.answers if each.state == "ready"]
                asked.append(_Change(begin, max(each.at_ms for each in ready) / 1e3, time.time()))
                load_ms += [each.load_ms for each in ready]
                time.sleep(BETWEEN_S)
        job.ask("catch_up")
        job.ask("stop")
    return _figures(broker, quiet, asked, load_ms)


class _Change(NamedTuple):
    """When a change was asked for, when all subtasks had opened the model, and when all used it, in seconds."""

    asked: float
    ready: float
    serving: float


class _Answer(msgspec.Struct, gc=False):
    scored_at: int


def _figures(
    broker: Broker, quiet: float, asked: list[_Change], load_ms: list[float]
) -> dict[str, float]:
    decode = msgspec.json.Decoder(_Answer).decode
    answers = list(read_all(broker.bootstrap, ["answers"]))
    scored_s = np.sort(np.array([decode(each.value()).scored_at for each in answers])) / 1e3
    places = Counter(_place(each.headers()) for each in answers)
    events = sum(1 for _ in read_all(broker.bootstrap, ["events"]))
    opening = [_longest_gap_ms(scored_s, each.asked, each.ready) for each in asked]
    at_change = [_longest_gap_ms(scored_s, each.ready, each.serving + 1.0) for each in asked]
    length = max(each.serving - each.asked for each in asked) + 1.0
    beside = [_longest_gap_ms(scored_s, begin, begin + length) for begin in np.arange(quiet, quiet + BETWEEN_S, 2.0)]
    versions = Counter(dict(each.headers())["millrace-model-version"].decode() for each in answers)
    found = {
        "model_change_pause_max_ms": max(at_change),
        "model_change_pause_p50_ms": float(np.median(at_change)),
        "model_change_opening_max_ms": max(opening),
        "model_change_opening_p50_ms": float(np.median(opening)),
        "model_change_gap_without_max_ms": max(beside),
        "model_change_gap_without_p50_ms": float(np.median(beside)),
        "model_change_load_max_ms": max(load_ms),
        "model_change_lost": float(events - len(places)),
        "model_change_doubled": float(sum(times - 1 for times in places.values())),
    }
    print(f"\n{len(asked)} changes at {RATE:,.0f} events/s; answers by version {dict(versions)}")
    for name, value in found.items():
        print(f"{name:40}{value:>10,.1f}")
    return {name: round(value, 1) for name, value in found.items()}


def _place(headers: Any) -> tuple[bytes, bytes]:
    told = dict(headers)
    return told["millrace-partition"], told["millrace-offset"]


def _longest_gap_ms(scored_s: "np.ndarray[Any, Any]", begin: float, end: float) -> float:
    inside = scored_s[(scored_s >= begin) & (scored_s <= end)]
    return float(np.diff(inside).max(initial=0.0) * 1e3)
