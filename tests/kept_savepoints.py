"""A pipeline whose state is kept in tests/fixtures, version by version, and the events that it was made of.

Nothing here may change what a released version was given: later versions must go on from those states. To add those of
a new version, with tests/ and the project on PYTHONPATH:

    python tests/kept_savepoints.py tests/fixtures/savepoints/<name> tests/fixtures/state_logs/<name>.state
"""

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

import numpy as np

FOLDER = Path(__file__).parent / "fixtures" / "savepoints"
LOGS = Path(__file__).parent / "fixtures" / "state_logs"
START_MS, PARTITIONS, KEPT, MORE = 1_750_000_000_000, 2, 300, 200


@dataclass
class Visit:
    id: str
    user: str
    page: Literal["home", "cart", "pay"] | None
    amount: float | None
    label: str | None
    time: int


@dataclass
class VisitWithCountry(Visit):
    country: str | None = None


def kept_pipeline(models):
    """Every kind of state: events with columns and conditions, categories in bits, tiles, tiled values."""
    from udfs.pipeline import (
        Count,
        Distinct,
        Events,
        Ewma,
        Last,
        Max,
        Mean,
        Model,
        Pipeline,
        SinceLast,
        Std,
        Sum,
        Value,
        field,
    )

    tiles = {"window": "6h", "tile": "1h"}
    return Pipeline(
        name="kept",
        events=Events(Visit, topic="kept-events", partitions=PARTITIONS, entity="user", time="time", id="id"),
        features=[
            Value("amount", fill=1.0), Count(window="1h"), Mean("amount", window="1h"), Std("amount", window="2h"),
            Count(window="2h", where=field("page") == "pay"), Distinct("page", window="1h"),
            Distinct("label", window="2h"), SinceLast(window="2h"), Sum("amount", **tiles), Max("amount", **tiles),
            Count(where=field("amount") > 5, **tiles), Distinct("label", **tiles), Ewma("amount", **tiles),
            Last("amount", where=field("label") == "x", **tiles),
        ],
        model=Model("log", version=1, root=models),
        prediction="score",
        predictions="kept-predictions",
        lateness="1h",
        include_features=True,
    )  # fmt: skip


def kept_events(count=KEPT + MORE, users=9):
    """(key, value) of the records, the first `KEPT` of which are in the states."""
    chance = np.random.default_rng(11)
    records = []
    for number in range(count):
        late_ms = int(chance.integers(0, 2_400_000)) if chance.random() < 0.1 else 0
        visit = {
            "id": str(number),
            "user": f"u{int(chance.integers(0, users))}",
            "page": ["home", "cart", "pay", None][int(chance.integers(0, 4))],
            "amount": None if chance.random() < 0.1 else round(float(chance.random()) * 10 + 0.5, 3),
            "label": ["x", "y", "z", None][int(chance.integers(0, 4))],
            "time": START_MS + number * 60_000 - late_ms,
        }
        records.append((visit["user"].encode(), json.dumps(visit).encode()))
    return records


def decoded(pipeline, records):
    """The records as events."""
    from udfs.wire_formats import EventDecoder

    return [EventDecoder(pipeline).decode(key, value) for key, value in records]


def advance(state, pipeline, events):
    """Take events in, all from one partition; their features."""
    times, columns, masks, direct = state.plan.columnise(events)
    partitions = np.zeros(len(events), np.int32)
    return state.advance([event.user for event in events], times, times, partitions, columns, masks, direct)


def make_log(target):
    """Keep the log of a shard that has seen the kept events: events as they came, and compacted ones."""
    from udfs.entity_state import ShardState
    from udfs.plan import FeaturePlan
    from udfs.state_file import packed

    pipeline, log = kept_pipeline(None), {}
    state = ShardState(FeaturePlan.build(pipeline), compact_after=64)
    events = decoded(pipeline, kept_events()[:KEPT])
    for begin in range(0, KEPT, 20):
        advance(state, pipeline, events[begin : begin + 20])
        put, removed = state.take_changes()
        log.update(put)
        for number in removed:
            del log[number]
    target.write_bytes(b"".join(packed(sorted(log.items()))))


def make(target):
    """Run a job of the version that is installed over the kept events, and keep its savepoint."""
    sys.path.insert(0, str(Path(__file__).parent / "integration"))
    from workloads import log_model

    from flink_jobs.events_producer import produce_events
    from flink_jobs.job_run import start_job
    from flink_jobs.kafka_admin import create_topics
    from flink_jobs.local.broker import Broker
    from flink_jobs.settings import Settings
    from flink_jobs.topics import topic_specs

    with tempfile.TemporaryDirectory() as folder:
        pipeline = kept_pipeline(Path(folder) / "models")
        log_model(pipeline, Path(folder) / "models", "amount")
        broker = Broker.start(Path(folder) / "broker", die_with_parent=True)
        try:
            create_topics(broker.bootstrap, topic_specs(pipeline))
            produce_events(broker.bootstrap, pipeline.events.topic, kept_events()[:KEPT])
            # without transactions: no other broker knows them
            settings = Settings(bootstrap=broker.bootstrap, home=Path(folder), guarantee="at-least-once")
            job = start_job(pipeline, settings)
            job.wait_until_running()
            job.wait_until_caught_up()
            savepoint = job.stop()
            shutil.copytree(urlparse(savepoint).path, target)
        finally:
            broker.kill()


if __name__ == "__main__":
    make_log(Path(sys.argv[2]).absolute())
    make(Path(sys.argv[1]).absolute())
