"""Dead letters as they lie in their topic: what each says, and which are wanted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from confluent_kafka import Message

from flink_jobs.backfill_command import time_ms
from flink_jobs.console import CommandError
from udfs.events import Events
from udfs.pipeline import Pipeline
from udfs.raw_record import RecordParts
from udfs.requests import STAGE as REQUEST
from udfs.scoring import STAGES
from udfs.wire_formats import AFTER_DECODING, HEADER, REASONS, Refused

Place = tuple[int, int]
"""Partition and offset."""
Origin = tuple[str, Place]
"""Topic of a record and its place there."""
DecodeNow = Callable[[str, bytes | None, bytes | None, RecordParts], Any]
"""Topic, key, value and the rest of a record -> the event; `Refused`; or None for one that is passed over."""


class DeadLetter(NamedTuple):
    """A record that could not be scored.

    Attributes:
        place: Where the letter lies.
        written_ms: When it was written.
        reason: Of `REASONS`.
        stage: Where on its way it failed.
        detail: What exactly was wrong.
        topic: Of the record.
        source: Its place there.
        record_time_ms: Kafka's timestamp of it; None in letters that do not say.
        key: Its key, or the beginning of it.
        value: Its value, or the beginning of it.
        cut: Whether key or value are not whole.
    """

    place: Place
    written_ms: int
    reason: str
    stage: str
    detail: str
    topic: str
    source: Place
    record_time_ms: int | None
    key: bytes | None
    value: bytes | None
    cut: bool

    @property
    def time_ms(self) -> int:
        """When the record came into its topic; where that is unknown, when the letter was written."""
        return self.written_ms if self.record_time_ms is None else self.record_time_ms

    @property
    def origin(self) -> Origin:
        """Which record it is of."""
        return self.topic, self.source

    @property
    def parts(self) -> RecordParts:
        """What is known of the record beside key and value; of its headers nothing."""
        return RecordParts(*self.source, self.time_ms)

    @property
    def is_counted(self) -> bool:
        """Whether the event is in the job's state already: it was decoded, and failed later."""
        return self.reason in AFTER_DECODING


def letter_of(message: Message, pipeline: Pipeline) -> DeadLetter | None:
    """A record of the topic of dead letters; None if it is not the pipeline's."""
    headers: Any = message.headers() or ()
    told = {
        name.removeprefix(HEADER): (content or b"").decode("utf-8", "replace")
        for name, content in headers
        if name.startswith(HEADER)
    }
    try:
        source = int(told["partition"]), int(told["offset"])
    except (KeyError, ValueError):
        return None
    if told.get("pipeline") != pipeline.name or "reason" not in told:
        return None
    nulls = told.get("null", "").split(",")
    key: Any = message.key()
    value: Any = message.value()
    record_time = told.get("record-time", "")
    return DeadLetter(
        (int(message.partition() or 0), int(message.offset() or 0)),
        message.timestamp()[1],
        told["reason"],
        told.get("stage", ""),
        told.get("exception", ""),
        told.get("topic", ""),
        source,
        int(record_time) if record_time.isdecimal() else None,
        None if "key" in nulls else bytes(key or b""),
        None if "value" in nulls else bytes(value or b""),
        bool(told.keys() & {"cut-from-bytes", "key-cut-from-bytes"}),
    )


@dataclass(frozen=True)
class Wanted:
    """Which dead letters.

    Attributes:
        reasons: Any of these; empty is all.
        stages: Any of these; empty is all.
        partitions: Of the events topic; empty is all.
        offsets: First offset of the events topic, and the one after the last.
        since_ms: Records from this time on, by Kafka's timestamp.
        until_ms: Records before this time.
        event_since_ms: Events from this event time on. Letters that do not decode today have none.
        event_until_ms: Events before this event time.
    """

    reasons: frozenset[str] = frozenset()
    stages: frozenset[str] = frozenset()
    partitions: frozenset[int] = frozenset()
    offsets: tuple[int, int] | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    event_since_ms: int | None = None
    event_until_ms: int | None = None

    def has(self, letter: DeadLetter, events: Events, decode: DecodeNow) -> bool:
        """Whether a letter is one of them."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (not self.stages or letter.stage in self.stages)
            and (not self.partitions or letter.source[0] in self.partitions)
            and (self.offsets is None or self.offsets[0] <= letter.source[1] < self.offsets[1])
            and _between(letter.time_ms, self.since_ms, self.until_ms)
            and self._has_event_time(letter, events, decode)
        )

    def _has_event_time(self, letter: DeadLetter, events: Events, decode: DecodeNow) -> bool:
        if self.event_since_ms is None and self.event_until_ms is None:
            return True
        event = decode(letter.topic, letter.key, letter.value, letter.parts)
        if event is None or isinstance(event, Refused):
            return False
        time_ms = int(events.times_ms([getattr(event, events.time)])[0])
        return _between(time_ms, self.event_since_ms, self.event_until_ms)


def _between(time_ms: int, since_ms: int | None, until_ms: int | None) -> bool:
    return (since_ms is None or time_ms >= since_ms) and (until_ms is None or time_ms < until_ms)


def parse_offsets_range(text: str) -> tuple[int, int]:
    """`FROM:TO` as the first offset and the one after the last; either may be left out, one number is that one.

    Raises:
        CommandError: It is none.
    """
    first, colon, last = text.partition(":")
    if not all(part.isdecimal() or (colon and not part) for part in (first, *([last] if colon else []))):
        raise CommandError(f"--offsets is {text!r}: write FROM:TO (TO itself is left out), FROM:, :TO, or one offset")
    begin = int(first or 0)
    return begin, (int(last) if last else 2**63) if colon else begin + 1


def wanted_of(
    reasons: Sequence[str] | None,
    stages: Sequence[str] | None,
    partitions: Sequence[int] | None,
    offsets: str | None,
    since: str | None,
    until: str | None,
    event_since: str | None,
    event_until: str | None,
) -> Wanted:
    """What the options say.

    Raises:
        CommandError: One of them is none; names it.
    """
    for given, known, option in ((reasons, REASONS, "--reason"), (stages, ("route", REQUEST, *STAGES), "--stage")):
        for each in given or ():
            if each not in known:
                raise CommandError(f"{option} is {each!r}: it is one of {', '.join(known)}")
    return Wanted(
        frozenset(reasons or ()),
        frozenset(stages or ()),
        frozenset(partitions or ()),
        None if offsets is None else parse_offsets_range(offsets),
        None if since is None else time_ms(since, "--since"),
        None if until is None else time_ms(until, "--until"),
        None if event_since is None else time_ms(event_since, "--event-since"),
        None if event_until is None else time_ms(event_until, "--event-until"),
    )
