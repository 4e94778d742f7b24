"""`millrace produce`: where the events come from, progress, and what was sent."""

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec
import typer

from flink_jobs.console import INTERRUPTED, CommandError, bar, next_steps, say, show, show_json
from flink_jobs.decoding import event_decoder
from flink_jobs.event_files import EventFileError, FileCounts, WriteRow, file_records
from flink_jobs.event_writing import CheckedWriter, event_writer
from flink_jobs.events_producer import produce_events
from flink_jobs.kafka_admin import topic_partitions
from flink_jobs.local.home import connected
from flink_jobs.local.live_shop import can_generate, live_events
from flink_jobs.settings import Settings
from udfs.event_writer import WrittenRecord
from udfs.formats import Json, Text
from udfs.pipeline import Pipeline

Record = tuple[bytes | None, bytes | None]


def run_produce_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    *,
    file: Path | None,
    rate: float | None,
    speedup: float | None,
    limit: int | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Send events until they or the limit end, or Ctrl-C."""
    if pipeline.events.sources:
        sources = ", ".join(pipeline.events.source_topics)
        raise CommandError(
            f"the job itself writes {pipeline.events.topic}, from the records of {sources}: send yours there, by any "
            "Kafka producer"
        )
    counts = FileCounts()
    events = _events(pipeline, settings, file, rate, speedup, seed, counts)
    connected(settings)
    topic = pipeline.events.topic
    if topic not in topic_partitions(settings.bootstrap, [topic], settings.kafka_properties):
        raise CommandError(f"topic {topic} does not exist: `millrace topics create {name}` makes it")
    source = str(file) if file else f"simulated shoppers at {rate:,.0f}/s"
    end = "Ctrl-C ends" if file is None and limit is None else "Ctrl-C ends it early"
    say(f"sending {source} to {topic} at {settings.bootstrap}; {end}")
    with bar("records") as progress:
        task = progress.add_task("sending", total=limit)
        produced = produce_events(
            settings.bootstrap,
            topic,
            events if limit is None else islice(events, limit),
            rate,
            properties=settings.kafka_properties,
            progress=lambda sent: progress.update(task, completed=sent),
        )
    per_s = produced.records / produced.elapsed_s if produced.elapsed_s else 0.0
    if as_json:
        show_json({**vars(produced), "unconverted": counts.unconverted, "topic": topic})
    else:
        show(f"{produced.records:,} records are in {topic} ({produced.elapsed_s:.1f} s, {per_s:,.0f}/s)")
        if counts.unconverted:
            say(
                f"{counts.unconverted:,} rows of {file} do not fit the event's fields and were sent as they are: "
                f"they become dead letters in {pipeline.dead_letters}",
                style="yellow",
            )
        next_steps((f"millrace run {name} --until-caught-up", "score what is there"))
    if produced.interrupted and (file is not None or limit is not None):
        raise typer.Exit(INTERRUPTED)


def _events(
    pipeline: Pipeline,
    settings: Settings,
    file: Path | None,
    rate: float | None,
    speedup: float | None,
    seed: int | None,
    counts: FileCounts,
) -> Iterator[Record | WrittenRecord]:
    if file is not None:
        if rate is not None and speedup is not None:
            raise CommandError("--rate and --speedup both say the pace: give one of them")
        return file_records(file, pipeline, _writer(pipeline, settings), speedup, counts=counts)
    if speedup is not None:
        raise CommandError("--speedup follows the event times of a file: give --events FILE, or --rate for shoppers")
    if not can_generate(pipeline):
        raise EventFileError(
            f"the simulated shoppers make no events of pipeline {pipeline.name}: give a file with --events FILE"
        )
    live = live_events(rate or 1.0, time.time_ns() // 1_000_000 if seed is None else seed)
    write = _writer(pipeline, settings)
    if write is None:
        return live
    return (write(msgspec.json.decode(value or b"")) or (key, value) for key, value in live)


def _writer(pipeline: Pipeline, settings: Settings) -> WriteRow | None:
    """Makes records of rows; None for JSON objects of the event's fields, which rows are already."""
    events = pipeline.events
    if isinstance(events.format, Json) and isinstance(events.key_format, Text) and not events.fields:
        return None
    return CheckedWriter(pipeline, event_writer(pipeline, settings), event_decoder(pipeline, settings))
