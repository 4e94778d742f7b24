"""`millrace verify`: what is asked, progress, and what was found, the first differences shown whole."""

import contextlib
import json
import os
from typing import Any

from confluent_kafka import Message
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from flink_jobs.answer_comparison import DIFFERENT, DUPLICATED, MISSING, NO_EVENT, WRONG_VECTOR, Finding
from flink_jobs.backfill_command import time_ms
from flink_jobs.committed_reader import receipt
from flink_jobs.console import CommandError, err, next_steps, say, show, show_json
from flink_jobs.decoding import ValueReader, prediction_reader
from flink_jobs.local.home import connected
from flink_jobs.row_marks import NO_ROW, OLDER_ROW
from flink_jobs.settings import Settings
from flink_jobs.topic_scan import record_at
from flink_jobs.verify_job import VerifyReport, VerifyRequest, verify
from udfs.fallbacks import OTHER_MODEL
from udfs.pipeline import Pipeline

WORDS = {
    DIFFERENT: "differ",
    MISSING: "are missing: events with neither a prediction nor a dead letter",
    DUPLICATED: "are duplicated: answers beyond the first of an event",
    NO_EVENT: "answer records that are no events",
    WRONG_VECTOR: "feature vectors are not what comes out now",
}
ROW_WORDS = {
    OLDER_ROW: "an older row of lookup {} than a backfill would give them now: the newer one came after them",
    NO_ROW: "no row of lookup {}, where a backfill would give them one now: it came after them",
}


def run_verify_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    *,
    since: str | None,
    until: str | None,
    job_began: str | None,
    processes: int | None,
    most: int,
    as_json: bool,
) -> None:
    """Verify; fails when something that was served is not what comes out now."""
    connected(settings)
    request = VerifyRequest(
        pipeline,
        settings,
        None if since is None else time_ms(since, "--since"),
        None if until is None else time_ms(until, "--until"),
        job_began,
        processes or len(os.sched_getaffinity(0)),
        most,
    )
    say(f"{name}: computing again what is committed in {pipeline.predictions}; nothing is written to Kafka")
    report = _verified(request)
    details = [_whole(finding, pipeline, settings) for finding in report.findings.first]
    if as_json:
        show_json(_as_json(report, details))
    else:
        _show(report, details, pipeline, name)
    if not report.findings.holds:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(report.findings.counts.items()))
        raise CommandError(f"what was served is not what comes out now: {counts}")


def _verified(request: VerifyRequest) -> VerifyReport:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeElapsedColumn(), console=err, transient=True) as bars:
        task = bars.add_task("beginning", total=1.0)
        return verify(request, lambda text, share: bars.update(task, description=text, completed=share))


def _whole(finding: Finding, pipeline: Pipeline, settings: Settings) -> dict[str, Any]:
    """A finding with the event and the answers as they are in Kafka."""
    kafka = settings.bootstrap, settings.kafka_properties
    event = record_at(*kafka, pipeline.events.topic, *finding.place)
    answers = [record_at(*kafka, *place) for place in finding.served]
    read = prediction_reader(pipeline, settings)
    return {
        "kind": finding.kind,
        "event": f"{pipeline.events.topic}/{finding.place[0]}/{finding.place[1]}",
        "what": finding.what,
        "value": None if event is None else value_of(event),
        "served": [
            {"at": "/".join(map(str, place)), "value": value_of(answer, read), "receipt": receipt(answer)}
            for place, answer in zip(finding.served, answers, strict=True)
            if answer is not None
        ],
        "now": finding.now,
    }


def value_of(message: Message, read: ValueReader | None = None) -> Any:
    """A record's value: what a reader of predictions says, JSON where it is that, else as text."""
    content: Any = message.value()
    if content is None:
        return None
    if read is not None:
        with contextlib.suppress(ValueError):
            return read(content)
    try:
        return json.loads(content)
    except ValueError:
        return content[:2_000].decode("utf-8", "replace")


def _as_json(report: VerifyReport, details: list[dict[str, Any]]) -> dict[str, Any]:
    findings = report.findings
    return {
        "ok": findings.holds,
        "events": report.events,
        "answers": report.answers,
        "equal": findings.equal,
        "dead_letters": findings.dead_letters,
        "other_batch": findings.other_batch,
        "vectors": findings.vectors,
        **{kind: findings.counts[kind] for kind in WORDS},
        "waiting": findings.waiting,
        "fallbacks": dict(sorted(findings.fallbacks.items())),
        "taken_as_told": dict(sorted(findings.taken_as_told.items())),
        "unverifiable": dict(sorted(findings.unverifiable.items())),
        "lookups": {name: dict(counts) for name, counts in findings.rows.items()},
        "foreign": report.foreign,
        "job_began": report.beginning.as_start,
        "job_began_text": report.beginning.text,
        "first": details,
        "elapsed_s": round(report.elapsed_s, 3),
    }


def _show(report: VerifyReport, details: list[dict[str, Any]], pipeline: Pipeline, name: str) -> None:
    findings = report.findings
    letters = f", {findings.dead_letters:,} of them dead letters" if findings.dead_letters else ""
    show(f"{findings.equal:,} answers are to the last bit what comes out now{letters} ({report.elapsed_s:.1f} s)")
    if findings.other_batch:
        show(f"  {findings.other_batch:,} of them in a batch of another size: the model rounds by the place in it")
    if findings.vectors:
        show(f"  {findings.vectors:,} feature vectors are, too")
    for kind, words in WORDS.items():
        if findings.counts[kind]:
            show(f"  {findings.counts[kind]:,} {words}", style="red")
    for fallback, count in sorted(findings.fallbacks.items()):
        is_model = fallback.startswith(OTHER_MODEL)
        words = "of them are of" if is_model else "more are what comes out now, but for their scores, which are of"
        show(f"  {count:,} {words} the fallback {fallback}")
    for reason, count in sorted(findings.taken_as_told.items()):
        show(f"  {count:,} more are dead letters ({reason}): what a job alone tries is not tried again")
    for why, count in sorted(findings.unverifiable.items()):
        show(f"  {count:,} cannot be verified: {why}", style="yellow")
    for lookup, counts in findings.rows.items():
        for what, words in ROW_WORDS.items():
            if counts[what]:
                show(f"  {counts[what]:,} events saw {words.format(lookup)}")
    if findings.waiting:
        show(f"  {findings.waiting:,} events have no answer yet: no checkpoint of the job covers them")
    if report.foreign:
        show(f"  {report.foreign:,} records in the topics of answers are not of pipeline {pipeline.name}")
    show(f"  {report.beginning.text}")
    for detail in details:
        _show_detail(detail)
    different = [detail["event"] for detail in details if detail["kind"] == DIFFERENT and "features" in detail["now"]]
    if different:
        next_steps((f"millrace explain {name} {different[0]}", "the events behind one of them"))


def _show_detail(detail: dict[str, Any]) -> None:
    show("")
    show(f"{detail['event']} {detail['kind']}: {detail['what']}", style="bold")
    show(f"  event   {json.dumps(detail['value'], ensure_ascii=False)}")
    for answer in detail["served"]:
        show(f"  served  {json.dumps(answer['value'], ensure_ascii=False)}")
        told = "  ".join(f"{name} {text}" for name, text in answer["receipt"].items())
        show(f"          at {answer['at']}: {told}")
    show(f"  now     {json.dumps(detail['now'], ensure_ascii=False)}")
