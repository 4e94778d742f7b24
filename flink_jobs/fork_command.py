"""`millrace fork`: what is asked, how far it is, and how another version of the model would have answered."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from flink_jobs.backfill_command import time_ms
from flink_jobs.console import CommandError, err, next_steps, out, say, show, show_json
from flink_jobs.decoding import decode_message, event_decoder
from flink_jobs.fork_job import ForkReport, ForkRequest, fork
from flink_jobs.fork_target import FileTarget, ForkTarget, TopicTarget
from flink_jobs.kafka_admin import topic_ends, topic_partitions, topic_starts
from flink_jobs.local.home import connected
from flink_jobs.models_comparison import outputs_json, pair_table, paired, read_labels
from flink_jobs.preflight import check_model
from flink_jobs.settings import Settings
from flink_jobs.topic_scan import scan
from flink_jobs.verify_job import VerifyRequest
from flink_jobs.watch import value_text
from models.onnx_model import OnnxModel
from udfs.durations import UNITS_MS, parse_duration
from udfs.pipeline import Pipeline
from udfs.wire_formats import Refused

TOPIC = "topic"
_LAST_RECORDS = 1_000
_UNITS = tuple(UNITS_MS)


def run_fork_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    *,
    version: int,
    against: int | None,
    since: str | None,
    until: str | None,
    threshold: float,
    labels: Path | None,
    target: str | None,
    job_began: str | None,
    processes: int | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Score what was answered by another version, and say what would have been different."""
    connected(settings)
    known = None if labels is None else read_labels(labels)
    model = model_of_version(pipeline, version)
    base = None if against is None else model_of_version(pipeline, against)
    history = VerifyRequest(
        pipeline,
        settings,
        None if since is None else since_ms(pipeline, settings, since),
        None if until is None else time_ms(until, "--until"),
        job_began,
        processes or len(os.sched_getaffinity(0)),
    )
    to = _target(pipeline, settings, model, target, replace=replace)
    label = f"{model.manifest.name}/{model.manifest.version}"
    say(f"{name}: scoring by {label} what is in {pipeline.events.topic}; the running job notices nothing")
    began = time.monotonic()
    report = _forked(ForkRequest(history, model, base, to))
    if not len(report.before.places):
        reasons = ", ".join(f"{why} {count:,}" for why, count in report.left_out.items()) or "no event is that new"
        raise CommandError(f"no event has scores of both ({reasons}): give an earlier --since, or --against VERSION")
    pairs = paired(pipeline.outputs, report.before, report.now, known, threshold)
    if as_json:
        comparison = {f"{a} and {b}": outputs_json(pipeline.outputs, found) for (a, b), found in pairs.items()}
        show_json(_as_json(report, label, threshold, comparison, time.monotonic() - began))
        return
    for (a, b), found in pairs.items():
        for output, one in found.items():
            out.print(pair_table(a, b, one, threshold, "" if pipeline.outputs.is_number else f"{output}: "))
    _show(report, pipeline, name, base, time.monotonic() - began)
    if to is not None:
        show(f"{report.written:,} predictions by {label} are in {to.topic if isinstance(to, TopicTarget) else target}")


def model_of_version(pipeline: Pipeline, version: int) -> OnnxModel:
    """Another version of the pipeline's model, checked as before a job starts.

    Raises:
        PreflightError: It is not there, or cannot score the pipeline's features.
    """
    return check_model(dataclasses.replace(pipeline, model=dataclasses.replace(pipeline.model, version=version)))


def since_ms(pipeline: Pipeline, settings: Settings, text: str) -> int:
    """A time, or a duration before the newest event, like 6h.

    Raises:
        CommandError: It is neither, or there is no event.
    """
    if not text.endswith(_UNITS) or not text[:1].isdecimal():
        return time_ms(text, "--since")
    return newest_event_ms(pipeline, settings) - parse_duration(text, "--since")


def newest_event_ms(pipeline: Pipeline, settings: Settings) -> int:
    """Event time of the newest event among the last records of each partition; none is newer than its record.

    Raises:
        CommandError: There is none.
    """
    topic, events = pipeline.events.topic, pipeline.events
    place = settings.bootstrap, topic, settings.kafka_properties
    if topic not in topic_partitions(settings.bootstrap, [topic], settings.kafka_properties):
        raise CommandError(f"topic {topic} does not exist at {settings.bootstrap}")
    starts, ends = topic_starts(*place), topic_ends(*place, isolation="read_committed")
    spans = {partition: (max(starts.get(partition, 0), end - _LAST_RECORDS), end) for partition, end in ends.items()}
    decoder, newest = event_decoder(pipeline, settings), -1
    for messages in scan(settings.bootstrap, settings.kafka_properties, topic, spans):
        for message in messages:
            event = decode_message(decoder, message)
            if event is not None and not isinstance(event, Refused):
                event_ms = int(events.times_ms([getattr(event, events.time)])[0])
                newest = max(newest, min(event_ms, message.timestamp()[1]))
    if newest < 0:
        raise CommandError(f"no event is among the last records of {topic}: give a time with --since")
    return newest


def _target(
    pipeline: Pipeline, settings: Settings, model: OnnxModel, target: str | None, *, replace: bool
) -> ForkTarget | None:
    if target is None:
        return None
    if target == TOPIC:
        return TopicTarget(pipeline, settings, model, replace=replace)
    path = Path(target)
    if path.suffix != ".parquet" or not path.absolute().parent.is_dir():
        raise CommandError(f"--to is {target}: write {TOPIC}, or the name of a .parquet file in a folder that is there")
    if path.exists() and not replace:
        raise CommandError(f"{path} is there already: give --replace to write it anew")
    return FileTarget(path, pipeline.outputs)


def _forked(request: ForkRequest) -> ForkReport:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeElapsedColumn(), console=err, transient=True) as bars:
        task = bars.add_task("beginning", total=1.0)
        return fork(request, lambda text, share: bars.update(task, description=text, completed=share))


def _show(report: ForkReport, pipeline: Pipeline, name: str, base: OnnxModel | None, elapsed_s: float) -> None:
    show(f"{report.events:,} events in {elapsed_s:.1f} s; {report.beginning.text}")
    if report.failed:
        show(f"{report.failed:,} events would be dead letters: the model fails on them", style="yellow")
    for why, count in report.left_out.items():
        show(f"{count:,} events are left out: {why}", style="yellow")
    if base is None:
        checked = report.again + report.not_again
        style = "yellow" if report.not_again else None
        show(f"{report.again:,} of {checked:,} served scores come out again to the last bit", style=style)
        if report.not_again:
            show("the others had other windows: say where the job began with --job-began, as for verify", style=style)
    for each in report.largest:
        place = f"{pipeline.events.topic}/{each.partition}/{each.offset}"
        show(f"{place}: {_value_text(each.before)} -> {_value_text(each.now)}")
    if report.largest:
        first = report.largest[0]
        next_steps((
            f"millrace explain {name} {pipeline.events.topic}/{first.partition}/{first.offset}",
            "the events and features behind the largest difference",
        ))


def _value_text(value: Any) -> str:
    """A number, or outputs by name."""
    if not isinstance(value, dict):
        return value_text(value)
    return ", ".join(f"{name} {value_text(one)}" for name, one in value.items())


def _as_json(
    report: ForkReport, label: str, threshold: float, comparison: dict[str, Any], elapsed_s: float
) -> dict[str, Any]:
    return {
        "model": label,
        "threshold": threshold,
        "events": report.events,
        "compared": len(report.before.places),
        "failed": report.failed,
        "left_out": dict(report.left_out),
        "again": report.again,
        "not_again": report.not_again,
        "unchecked": report.unchecked,
        "beginning": report.beginning.text,
        "comparison": comparison,
        "largest": [each._asdict() for each in report.largest],
        "written": report.written,
        "elapsed_s": round(elapsed_s, 3),
    }
