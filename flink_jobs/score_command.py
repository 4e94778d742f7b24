"""`millrace score`: what is asked, how far it is, and what came of it."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flink_jobs.backfill_request import BackfillRequest
from flink_jobs.console import CommandError, bar, say, show, show_json
from flink_jobs.feature_files import column_names
from flink_jobs.history_files import file_kind, file_pieces
from flink_jobs.local.home import connected
from flink_jobs.pipeline_model import open_model
from flink_jobs.pipelines import load_pipeline, model_folder
from flink_jobs.score_job import ScoreReport, refused_words, score_events, score_rows
from flink_jobs.settings import Settings
from models.onnx_model import OnnxModel
from models.opened import SHIPPED, find_manifest, open_alone
from models.outputs import Vector
from udfs.lookups import table_topics
from udfs.pipeline import Pipeline

EVENT_ID = "_event_id"


def run_score_command(
    settings: Settings,
    source: Path,
    *,
    model: str | None,
    pipeline_name: str | None,
    target: Path,
    root: Path | None,
    ids: Sequence[str],
    order_by: str | None,
    processes: int | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Score a file."""
    _check_target(target, replace)
    began = time.monotonic()
    with bar("rows") as progress:
        task = progress.add_task("scoring", total=None)

        def told(rows: int) -> None:
            progress.update(task, completed=rows)

        if pipeline_name is None:
            if model is None:
                raise CommandError("give --model NAME/VERSION or its folder; or --pipeline, if the rows are events")
            if order_by is not None or processes is not None:
                raise CommandError("--order-by and --processes are for events of a --pipeline")
            opened = open_alone(model, root or SHIPPED)
            _check_columns(target, opened)
            report = score_rows(source, opened, _ids(source, ids), target, told)
        else:
            if ids:
                raise CommandError("--id is for rows of features: events have the id that their pipeline names")
            pipeline = load_pipeline(pipeline_name)
            opened = _model_of(pipeline, model, root)
            _check_columns(target, opened)
            if table_topics(pipeline.lookups):
                connected(settings)
            request = _request(pipeline, settings, source, target, order_by, processes)
            progress.update(task, description=f"computing features of {source}, then scoring")
            report = score_events(request, opened, target, told)
    elapsed_s = time.monotonic() - began
    document = _document(report, opened, source, target, elapsed_s)
    if as_json:
        show_json(document)
        return
    show(f"{report.scored:,} of {report.rows:,} rows are scored by {document['model']} in {target} ({elapsed_s:.1f} s)")
    if report.letters is not None:
        none = sum(report.refused.values())
        say(f"{none:,} rows have no score: {refused_words(report)}; see {report.letters}", style="yellow")
        for line in report.first_refused:
            say(f"  {line}", style="yellow")


def _document(
    report: ScoreReport, opened: OnnxModel, source: Path, target: Path, elapsed_s: float
) -> dict[str, Any]:
    manifest = opened.manifest
    return {
        "model": f"{manifest.name}/{manifest.version}@{manifest.sha256}",
        "source": str(source),
        "file": str(target),
        "rows": report.rows,
        "scored": report.scored,
        "refused": dict(sorted(report.refused.items())),
        "first_refused": report.first_refused,
        "letters": None if report.letters is None else str(report.letters),
        "elapsed_s": round(elapsed_s, 3),
    }


def _check_target(target: Path, replace: bool) -> None:
    if target.suffix == ".gz" or file_kind(target) is None:
        raise CommandError(f"--to is {target}: write a .parquet, .csv or .jsonl file")
    if target.exists() and not replace:
        raise CommandError(f"{target} is there already: give --replace, or another file")
    if not target.absolute().parent.is_dir():
        raise CommandError(f"--to is {target}: the folder {target.parent} is not there")


def _check_columns(target: Path, opened: OnnxModel) -> None:
    if target.suffix == ".csv" and any(isinstance(each, Vector) for each in opened.prediction.each):
        raise CommandError(f"--to is {target}: CSV has no columns of vectors; write a .parquet or .jsonl file")


def _ids(source: Path, ids: Sequence[str]) -> Sequence[str]:
    """The columns that go along: those asked for, or a training set's id of the event."""
    if "record" in ids or "score" in ids:
        raise CommandError("--id names record or score, columns that the result has already: rename it in the file")
    return ids or ([EVENT_ID] if EVENT_ID in (column_names(source) or ()) else [])


def _model_of(pipeline: Pipeline, model: str | None, root: Path | None) -> OnnxModel:
    """The pipeline's model, or another one that takes its features."""
    if model is None:
        return open_model(pipeline, model_folder(pipeline))
    folder, manifest = find_manifest(model, root or model_folder(pipeline).parent.parent)
    return OnnxModel.load(
        folder,
        feature_names=pipeline.feature_names,
        feature_set_hash=pipeline.feature_set_hash,
        prediction=pipeline.outputs,
        name=manifest.name,
        version=manifest.version,
    )


def _request(
    pipeline: Pipeline, settings: Settings, source: Path, target: Path, order_by: str | None, processes: int | None
) -> BackfillRequest:
    return BackfillRequest(
        pipeline=pipeline,
        source={"files": [str(source)]},
        pieces=lambda: file_pieces([source], pipeline),
        target=target.with_name(f".{target.name}.features.parquet"),
        order_by=order_by,
        shards=settings.shards,
        processes=processes or len(os.sched_getaffinity(0)),
        bootstrap=settings.bootstrap,
        properties=settings.kafka_properties,
    )
