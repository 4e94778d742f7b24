"""`millrace features sync|get`: an online store kept in step with a pipeline's features, and what it says."""

import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
from rich.table import Table

from flink_jobs.console import CommandError, StopSignal, next_steps, out, say, show, show_json
from flink_jobs.feature_store import StoredFeatures, open_store, store_url, ttl_ms
from flink_jobs.kafka_admin import topic_partitions
from flink_jobs.local.home import connected
from flink_jobs.settings import Settings
from flink_jobs.store_sync import StoreSync, SyncCounts
from udfs.durations import duration_text, parse_duration
from udfs.feature_age import Aged, aged
from udfs.pipeline import Pipeline

EVENT, NOW = "event", "now"
PROGRESS_S = 10.0
FOR_EVER = "none"


def run_features_sync_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    *,
    store: str | None,
    ttl: str | None,
    from_start: bool,
    until_caught_up: bool,
    as_json: bool,
) -> None:
    """Write features into the store until told to stop; says what was written and how old it was then."""
    topic = _topic_of(pipeline)
    connected(settings)
    if not topic_partitions(settings.bootstrap, [topic], settings.kafka_properties):
        raise CommandError(f"topic {topic} does not exist: `millrace topics create {name}` makes it")
    asked_ms = None if ttl is None else 0 if ttl == FOR_EVER else parse_duration(ttl, "--ttl")
    url, keep_ms = store or store_url(pipeline, settings), ttl_ms(pipeline, asked_ms)
    kept = "for ever" if keep_ms is None else f"for {duration_text(keep_ms)} after they were written"
    say(f"{topic} to {url}; rows are kept {kept}; Ctrl-C ends")
    opened = open_store(pipeline, settings, url, keep_ms=keep_ms)
    with StopSignal() as stop:
        sync = StoreSync(pipeline, settings, opened, url, from_start=from_start, tell=say)
        progress = _Progress(sync.counts, stop)
        counts = sync.run(progress.should_stop, until_caught_up=until_caught_up)
    document = _sync_document(counts, url)
    if as_json:
        show_json(document)
        return
    show(f"{counts.written:,} rows written from {counts.read:,} records of {topic}")
    if counts.not_newer:
        show(f"  {counts.not_newer:,} were not newer than what the store had")
    for why, count in counts.left_out.items():
        show(f"  {count:,} records left out: {why}", style="yellow")
    if counts.ages_ms:
        p50, p99 = document["age_ms"]["p50"], document["age_ms"]["p99"]
        show(f"  events could be read {p50:,} ms (half of them), {p99:,} ms (99 of 100) after they had happened")
    next_steps((f"millrace features get {name} ENTITY", "what the store has"))


class _Progress:
    """Says every ten seconds what was written, where something was."""

    def __init__(self, counts: SyncCounts, stop: StopSignal) -> None:
        self._counts, self._stop, self._said, self._said_at = counts, stop, 0, time.monotonic()

    def should_stop(self) -> bool:
        """Asked again and again, whether or not there is something to write."""
        now, counts = time.monotonic(), self._counts
        if now - self._said_at >= PROGRESS_S and counts.written > self._said:
            say(f"{counts.written:,} rows written, the last of an event {counts.ages_ms[-1] / 1_000:,.1f} s before")
            self._said, self._said_at = counts.written, now
        return self._stop.requested


def _topic_of(pipeline: Pipeline) -> str:
    if pipeline.features_topic is None:
        raise CommandError(
            f"pipeline {pipeline.name} writes no features: give it features_topic='{pipeline.name}-features'"
        )
    return pipeline.features_topic


def _sync_document(counts: SyncCounts, url: str) -> dict[str, Any]:
    ages = np.array(counts.ages_ms) if counts.ages_ms else None
    return {
        "store": url,
        "read": counts.read,
        "written": counts.written,
        "not_newer": counts.not_newer,
        "left_out": dict(counts.left_out),
        "waited_s": round(counts.waited_s, 3),
        "age_ms": None if ages is None else {f"p{p}": round(float(np.percentile(ages, p))) for p in (50, 99)},
    }


def run_features_get_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    *,
    entities: list[str],
    store: str | None,
    as_of: str,
    as_json: bool,
) -> None:
    """Show the features of entities, as of when they are, and what time has done to them since; 1 if one is unknown."""
    _topic_of(pipeline)
    if as_of not in (EVENT, NOW):
        raise CommandError(f"--as-of is {as_of!r}: write event (what was stored), or now")
    opened = open_store(pipeline, settings, store or store_url(pipeline, settings), must_exist=True)
    now_ms = time.time_ns() // 1_000_000
    try:
        found = opened.read(entities, now_ms)
    finally:
        opened.close()
    for entity, row in zip(entities, found, strict=True):
        if as_json:
            show_json(_row_document(pipeline, entity, row, now_ms, as_of))
        else:
            _show_row(pipeline, entity, row, now_ms, as_of)
    unknown = [entity for entity, row in zip(entities, found, strict=True) if row is None]
    if unknown:
        raise CommandError(
            f"the store has no features of {', '.join(unknown)}: `millrace features sync {name}` fills it"
        )


def _row_document(
    pipeline: Pipeline, entity: str, row: StoredFeatures | None, now_ms: int, as_of: str
) -> dict[str, Any]:
    if row is None:
        return {pipeline.events.entity: entity, "features": None}
    since = aged(pipeline, row.values, row.event_ms, now_ms)
    return {
        pipeline.events.entity: entity,
        "event_time": _text(row.event_ms),
        "as_of": _text(now_ms if as_of == NOW else row.event_ms),
        "age_ms": now_ms - row.event_ms,
        "features": since.values if as_of == NOW else row.values,
        "passed": list(since.passed),
        "moving": list(since.moving),
    }


def _show_row(pipeline: Pipeline, entity: str, row: StoredFeatures | None, now_ms: int, as_of: str) -> None:
    if row is None:
        show(f"{pipeline.events.entity} {entity}: nothing is stored", style="yellow")
        return
    since = aged(pipeline, row.values, row.event_ms, now_ms)
    age = f"{(now_ms - row.event_ms) / 1_000:,.1f} s ago"
    show(f"{pipeline.events.entity} {entity}: newest event at {_text(row.event_ms)}, {age}", style="bold")
    table = Table(box=None)
    for heading in ("feature", "as of now" if as_of == NOW else "as of that event", ""):
        table.add_column(heading)
    for feature, value in (since.values if as_of == NOW else row.values).items():
        table.add_row(feature, "missing" if value is None else f"{value:.6g}", _remark(feature, since, as_of))
    out.print(table)


def _remark(feature: str, since: Aged, as_of: str) -> str:
    if feature in since.passed:
        return "its window has passed" if as_of == NOW else "its window has passed since"
    return "may have moved since" if feature in since.moving else ""


def _text(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
