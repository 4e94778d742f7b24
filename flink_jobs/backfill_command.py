"""`millrace backfill`: what is asked, progress with an estimate, and what came of it."""

import math
import os
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flink_jobs.backfill_job import BackfillReport, run_backfill
from flink_jobs.backfill_request import BackfillRequest, alone
from flink_jobs.console import CommandError, next_steps, say, show, show_json
from flink_jobs.history_files import file_pieces
from flink_jobs.history_progress import with_progress
from flink_jobs.history_topic import EARLIEST, topic_pieces
from flink_jobs.kafka_admin import topic_partitions
from flink_jobs.labels import DEFAULT_COLUMN, LabelRequest
from flink_jobs.local.home import connected
from flink_jobs.settings import Settings
from udfs.durations import duration_text, parse_duration
from udfs.lookups import table_topics
from udfs.pipeline import Pipeline

KAFKA = "kafka"
SUSPICIOUS_SHARE = 0.05


def run_backfill_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    *,
    sources: Sequence[str],
    target: Path,
    start: str | None,
    since: str | None,
    until: str | None,
    labels: str | None,
    label_horizon: str | None,
    label_column: str | None,
    label_absent: str | None,
    labels_until: str | None,
    order_by: str | None,
    processes: int | None,
    fresh: bool,
    replace: bool,
    as_json: bool,
) -> None:
    """Make a training set, or go on with one that was begun."""
    _check_target(target, replace)
    asked = _label_request(settings, labels, label_horizon, label_column, label_absent, labels_until)
    source, pieces = _source(pipeline, name, settings, sources, start, order_by)
    if KAFKA in sources or (asked is not None and asked.is_topic) or table_topics(pipeline.lookups):
        connected(settings)
    request = BackfillRequest(
        pipeline=pipeline,
        source=source,
        pieces=pieces,
        target=target,
        since_ms=None if since is None else time_ms(since, "--since"),
        until_ms=None if until is None else time_ms(until, "--until"),
        labels=asked,
        order_by=order_by,
        shards=settings.shards,
        processes=processes or len(os.sched_getaffinity(0)),
        bootstrap=settings.bootstrap,
        properties=settings.kafka_properties,
    )
    if fresh and request.work_folder.exists():
        with alone(request.work_folder):
            shutil.rmtree(request.work_folder)
    goes_on = "going on with" if request.work_folder.exists() else "replaying"
    what = f"topic {pipeline.events.topic} at {settings.bootstrap}" if KAFKA in sources else ", ".join(sources)
    say(f"{goes_on} {what} into {target}, {request.processes} processes; Ctrl-C stops, the same command goes on")
    began = time.monotonic()
    report = with_progress(lambda advance: run_backfill(request, advance), request.work_folder)
    elapsed_s = time.monotonic() - began
    if as_json:
        show_json(_as_json(report, request, elapsed_s))
        return
    _show(report, request, elapsed_s)
    next_steps((f"millrace train {name} --from {target}", "fit a model on it"))


def time_ms(text: str, option: str) -> int:
    """A time on the command line as ms since 1970; without an offset it is UTC.

    Raises:
        CommandError: It is none; names the option.
    """
    if text.isdecimal():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"{option} is {text!r}: write a time like 2026-01-31T12:00:00Z, or milliseconds since 1970"
        ) from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000)


def _check_target(target: Path, replace: bool) -> None:
    if target.is_dir():
        raise CommandError(f"--to is {target}, a folder: write the name of a file, like training_set.parquet")
    if not target.parent.is_dir():
        raise CommandError(f"--to is {target}: there is no folder {target.parent}")
    if target.exists() and not replace:
        raise CommandError(f"{target} is there already: give --replace to write it anew, or another name with --to")


def _source(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    sources: Sequence[str],
    start: str | None,
    order_by: str | None,
) -> tuple[dict[str, Any], Any]:
    """The history in words, and what finds its pieces."""
    topic = pipeline.events.topic
    if KAFKA not in sources:
        if start is not None:
            raise CommandError("--start is for --from kafka; events of files are chosen with --since and --until")
        if order_by is not None:
            field = pipeline.events.field(order_by, "--order-by")
            if field.kind not in ("int", "float"):
                raise CommandError(f"--order-by names {order_by!r}, a {field.kind}: name a field with a number")
        paths = [Path(each) for each in sources]
        return {"files": [str(each) for each in sources]}, lambda: file_pieces(paths, pipeline)
    if len(sources) > 1:
        raise CommandError("--from kafka reads the pipeline's topic: give files in another backfill")
    if order_by is not None:
        raise CommandError("--order-by is for files: a topic has the order of its offsets")

    def pieces() -> Any:
        if topic not in topic_partitions(settings.bootstrap, [topic], settings.kafka_properties):
            raise CommandError(f"topic {topic} does not exist: `millrace topics create {name}` makes it")
        return topic_pieces(settings.bootstrap, topic, settings.kafka_properties, start or EARLIEST)

    return {"topic": topic, "start": start or EARLIEST}, pieces


def _label_request(
    settings: Settings,
    labels: str | None,
    horizon: str | None,
    column: str | None,
    absent: str | None,
    until: str | None,
) -> LabelRequest | None:
    if labels is None:
        options = ("--label-horizon", "--label-column", "--label-absent", "--labels-until")
        for option, value in zip(options, (horizon, column, absent, until), strict=True):
            if value is not None:
                raise CommandError(f"{option} says how labels are joined: give them with --labels FILE or TOPIC")
        return None
    if horizon is None:
        raise CommandError("--labels needs --label-horizon: how long after an event a label event counts, like 30m")
    if absent not in (None, "0", "missing"):
        raise CommandError(f"--label-absent is {absent!r}: write 0 or missing")
    return LabelRequest(
        labels,
        parse_duration(horizon, "--label-horizon"),
        column or DEFAULT_COLUMN,
        {None: None, "0": 0.0, "missing": math.nan}[absent],
        None if until is None else time_ms(until, "--labels-until"),
        settings.bootstrap,
        settings.kafka_properties,
    )


def _as_json(report: BackfillReport, request: BackfillRequest, elapsed_s: float) -> dict[str, Any]:
    return {
        **vars(report),
        "letters": None if report.letters is None else str(report.letters),
        "file": str(request.target),
        "feature_set_hash": request.pipeline.feature_set_hash(),
        "features": len(request.pipeline.feature_names),
        "elapsed_s": round(elapsed_s, 3),
        "events_per_s": round(report.events / elapsed_s, 1) if elapsed_s else None,
    }


def _show(report: BackfillReport, request: BackfillRequest, elapsed_s: float) -> None:
    features = len(request.pipeline.feature_names)
    speed = f"{elapsed_s:.1f} s" + ("" if report.resumed else f", {report.events / max(elapsed_s, 1e-3):,.0f} events/s")
    show(f"{report.rows:,} rows of {features} features are in {request.target} ({speed})")
    if report.rows < report.events:
        show(f"  {report.events - report.rows:,} events outside --since and --until only fed the windows")
    if report.late or report.truncated:
        show(f"  {report.late:,} rows are flagged late, {report.truncated:,} truncated")
    if request.labels is not None:
        _show_labels(report, request.labels)
    if any(report.missing.values()):
        counted = ", ".join(f"{why} {count:,}" for why, count in report.missing.items() if count)
        show(f"  events without a row of a lookup got its defaults: {counted}")
    if report.letters is not None:
        reasons = {**report.refused}
        for reason, count in report.labels_refused.items():
            reasons[f"label {reason}"] = count
        counted = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
        say(f"{sum(reasons.values()):,} records are no events: {counted}; see {report.letters}", style="yellow")
    if report.behind > SUSPICIOUS_SHARE * report.events and request.order_by is None and "files" in request.source:
        say(
            f"{report.behind / report.events:.0%} of the events come more than "
            f"{duration_text(max(request.pipeline.retention_ms, 1))} behind earlier rows, when their entities may be "
            f"forgotten: if the rows are not in order of arrival, give --order-by {request.pipeline.events.time}",
            style="yellow",
        )


def _show_labels(report: BackfillReport, labels: LabelRequest) -> None:
    known = "no time"
    if report.labels_until_ms is not None:
        known = datetime.fromtimestamp(report.labels_until_ms / 1_000, UTC).isoformat(timespec="seconds")
    horizon = duration_text(labels.horizon_ms)
    mean = f", mean {report.label_sum / report.labelled:.4g}" if report.labelled else ""
    show(
        f"  {report.labelled:,} rows have a label{mean}; {report.rows - report.labelled:,} have none "
        f"({report.label_events:,} label events, known until {known}; the horizon is {horizon})"
    )
    if report.labelled and report.label_sum == report.labelled and report.label_values and labels.absent is None:
        say(
            f"every label is 1: where {labels.column!r} is given, an event without a label event has no label; "
            "--label-absent 0 makes it 0",
            style="yellow",
        )
