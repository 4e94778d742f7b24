"""Compiles what jobs and backfills run, so that the first does not wait: a tiny backfill from each kind of text."""

import tempfile
from pathlib import Path

from flink_jobs.backfill_job import run_backfill
from flink_jobs.backfill_request import BackfillRequest
from flink_jobs.history_files import file_pieces
from flink_jobs.history_topic import RawRecords, TopicReader
from flink_jobs.labels import LabelRequest
from udfs.pipeline import Count, Events, Model, Pipeline
from udfs.plan import FeaturePlan


class _Text:
    entity: str
    time: int


class _Whole:
    entity: int
    time: int


def warm_up_backfill() -> None:
    """Run every compiled loop once; for setup."""
    with tempfile.TemporaryDirectory(prefix="millrace-warm-up-") as name:
        folder = Path(name)
        (folder / "events.jsonl").write_text('{"entity": "a", "time": 1}\n')
        (folder / "labels.csv").write_text("entity,time\na,2\n")
        labels = LabelRequest(str(folder / "labels.csv"), 10)
        pipeline, paths = _pipeline(_Text), [folder / "events.jsonl"]
        run_backfill(
            BackfillRequest(pipeline, {}, lambda: file_pieces(paths, pipeline), folder / "set.parquet", labels=labels)
        )
    for kind, value in ((_Text, b'{"entity": "1", "time": 1}'), (_Whole, b'{"entity": 1, "time": 1}')):
        reader = TopicReader(FeaturePlan.build(_pipeline(kind)), "127.0.0.1:9", None, 1)  # connects to nothing
        reader.block(RawRecords([b"1"], [value], [0], [1], []))
        reader.close()


def _pipeline(kind: type) -> Pipeline:
    events = Events(kind, topic="events", entity="entity", time="time", id="entity")
    return Pipeline("warm-up", events, [Count(window="1m")], Model("warm-up", version=1), "score")
