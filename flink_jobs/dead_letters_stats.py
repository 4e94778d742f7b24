"""`millrace dead-letters stats`: how many there are, by what, since when, and how many of all events that is."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from flink_jobs.console import next_steps, out, show, show_json
from flink_jobs.dead_letters import DeadLetter, Wanted
from flink_jobs.dead_letters_command import moment, place_text, reading
from flink_jobs.dead_letters_reading import LetterBox, open_letter_box
from flink_jobs.kafka_admin import committed_offsets, topic_starts
from flink_jobs.local.home import connected
from flink_jobs.settings import Settings
from flink_jobs.topics import SQL, STREAM, group_id
from udfs.pipeline import Pipeline

_HOUR_MS = 3_600_000
_HOURS_SHOWN = 24


@dataclass
class Stats:
    """Counts of dead letters.

    Attributes:
        total: All.
        replayed: Those of them that were.
        failed_again: Those of records that were a replay themselves.
        by: For reason, stage, partition (of the record) and hour (ms, of the record): how many.
        first: The one whose record came first.
        last: The one whose record came last.
        kept: Those whose record the events topic still keeps.
    """

    total: int = 0
    replayed: int = 0
    failed_again: int = 0
    by: dict[str, Counter[Any]] = field(
        default_factory=lambda: {name: Counter() for name in ("reason", "stage", "partition", "hour_ms")}
    )
    first: DeadLetter | None = None
    last: DeadLetter | None = None
    kept: int = 0

    def add(self, letter: DeadLetter, box: LetterBox, starts: Mapping[int, int]) -> None:
        """Count one."""
        self.total += 1
        self.replayed += letter.place in box.marks.by_letter
        self.failed_again += box.marks.attempts(letter.origin) > 0
        self.by["reason"][letter.reason] += 1
        self.by["stage"][letter.stage] += 1
        self.by["partition"][letter.source[0]] += 1
        self.by["hour_ms"][letter.time_ms // _HOUR_MS * _HOUR_MS] += 1
        if self.first is None or letter.time_ms < self.first.time_ms:
            self.first = letter
        if self.last is None or letter.time_ms >= self.last.time_ms:
            self.last = letter
        mine = letter.topic == box.pipeline.events.topic
        self.kept += mine and letter.source[1] >= starts.get(letter.source[0], 0)


def run_stats_command(
    pipeline: Pipeline, name: str, settings: Settings, wanted: Wanted, *, as_json: bool
) -> None:
    """Count all that are wanted."""
    connected(settings)
    box, stats = open_letter_box(pipeline, settings), Stats()
    kafka = settings.bootstrap, pipeline.events.topic, settings.kafka_properties
    starts = topic_starts(*kafka)
    with reading(f"reading {box.topic}") as looked:
        for letter in box.all(wanted, looked):
            stats.add(letter, box, starts)
    read = _events_read(pipeline, settings, starts)
    if as_json:
        show_json(_document(box, stats, read))
        return
    if not stats.total:
        show(f"no such dead letter is in {box.topic}")
        return
    _show(box, stats, read)
    next_steps(
        (f"millrace dead-letters ls {name}", "the newest"),
        (f"millrace dead-letters replay {name} --dry-run", "what would be scored today"),
    )


def _events_read(pipeline: Pipeline, settings: Settings, starts: Mapping[int, int]) -> int:
    """How many of the records that the events topic keeps a job has read; the engine that came further counts."""
    read = Counter[int]()
    for engine in (STREAM, SQL):
        group, topic = group_id(pipeline, engine), pipeline.events.topic
        for partition, end in committed_offsets(settings.bootstrap, group, topic, settings.kafka_properties).items():
            read[partition] = max(read[partition], end)
    return sum(max(0, end - starts.get(partition, 0)) for partition, end in read.items())


def _document(box: LetterBox, stats: Stats, read: int) -> dict[str, Any]:
    return {
        "pipeline": box.pipeline.name,
        "topic": box.topic,
        "dead_letters": stats.total,
        "replayed": stats.replayed,
        "failed_again": stats.failed_again,
        "of_records_read": {"dead_letters": stats.kept, "records": read},
        "first_ms": None if stats.first is None else stats.first.time_ms,
        "last_ms": None if stats.last is None else stats.last.time_ms,
        **{f"by_{name}": dict(sorted(counts.items())) for name, counts in stats.by.items()},
    }


def _show(box: LetterBox, stats: Stats, read: int) -> None:
    replayed = f", {stats.replayed:,} of them replayed" if stats.replayed else ""
    again = f", {stats.failed_again:,} after a replay" if stats.failed_again else ""
    show(f"{stats.total:,} dead letters in {box.topic}{replayed}{again}", style="bold")
    if read:
        show(
            f"{stats.kept / read:.2%} of the {read:,} records that were read and are still in "
            f"{box.pipeline.events.topic} (transaction markers count as records)"
        )
    for words, letter in (("first", stats.first), ("last", stats.last)):
        if letter is not None:
            show(f"{words}: {moment(letter.time_ms)} UTC, {letter.reason}, record {place_text(letter.source)}")
    table = Table(box=None)
    for heading in ("", "", "dead letters"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in ("reason", "stage"):
        for value, count in stats.by[name].most_common():
            table.add_row(name, str(value), f"{count:,}")
    for partition, count in sorted(stats.by["partition"].items()):
        table.add_row("partition", str(partition), f"{count:,}")
    for hour_ms, count in sorted(stats.by["hour_ms"].items())[-_HOURS_SHOWN:]:
        table.add_row("hour", moment(hour_ms)[:-3], f"{count:,}")
    out.print(table)
