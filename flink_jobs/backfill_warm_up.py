"""Compiles what jobs and backfills run, so that the first does not wait: a tiny backfill from each kind of text."""

import tempfile
from dataclasses import replace
from pathlib import Path

from flink_jobs.backfill_job import run_backfill
from flink_jobs.backfill_request import BackfillRequest
from flink_jobs.history_files import file_pieces
from flink_jobs.history_topic import RawRecords, TopicReader
from flink_jobs.labels import LabelRequest
from udfs.formats import Avro, Protobuf
from udfs.output_fields import predictions_of
from udfs.output_values import value_schema, value_writer
from udfs.pipeline import Count, Events, Model, Pipeline
from udfs.plan import FeaturePlan
from udfs.record_batch import RecordBatch, pack_records
from udfs.schema_texts import event_schema_text, prediction_schema_text
from udfs.wire_formats import EventDecoder

_ENOUGH = 20  # records to be decoded together


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


    _warm_up_formats()


def _warm_up_formats() -> None:
    for form, value in ((Avro, b"\x021\x02"), (Protobuf, b"\x0a\x011\x10\x01")):
        pipeline = _pipeline(_Text)
        schema = event_schema_text(pipeline.events, form.kind)
        pipeline = replace(pipeline, events=replace(pipeline.events, format=form(schema=schema)))
        numbers = [1] * _ENOUGH
        batch = RecordBatch(pack_records([b"1"] * _ENOUGH, [value] * _ENOUGH, numbers, numbers, numbers))
        assert not EventDecoder(pipeline).decode_batch(batch).refused
        pipeline = replace(pipeline, output_format=form(schema=prediction_schema_text(pipeline, form.kind)))
        written = value_schema(predictions_of(pipeline))
        assert written is not None
        value_writer(predictions_of(pipeline), written)([["1"], [0.5], [1]], None)


def _pipeline(kind: type) -> Pipeline:
    events = Events(kind, topic="events", entity="entity", time="time", id="entity")
    return Pipeline("warm-up", events, [Count(window="1m")], Model("warm-up", version=1), "score")
