"""The features of one event, and what they were made of: events of its entity, and rows of lookups.

The events of the entity's shard go through the engine, as they did in the job; the oracle says which of them each
feature used, and the answers of all of them which rows they saw.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from confluent_kafka import Message

from flink_jobs.decoding import decode_message, event_decoder
from flink_jobs.event_lookup import Found, Looked, answer_spans_from
from flink_jobs.job_beginning import JobBeginning
from flink_jobs.lookup_tables import histories_of, keep_histories
from flink_jobs.row_marks import RowState, StretchRows, windows_read_rows
from flink_jobs.served_answers import ServedAnswers
from flink_jobs.served_rows import SeenRow, ServedPlaces, ServedRows
from flink_jobs.settings import Settings
from flink_jobs.topic_scan import scan
from flink_jobs.verify_job import own_folder
from udfs.aggregates import Aggregate, Ratio
from udfs.entity_state import FAILED, ShardState
from udfs.event_keys import shard_text
from udfs.key_places import key_shards
from udfs.naive_features import Arrived, NaiveFeatures
from udfs.naive_join import fields_of_row, with_rows
from udfs.pipeline import Pipeline
from udfs.plan import FeaturePlan
from udfs.scoring import FLAG_NAMES
from udfs.wire_formats import Refused

Place = tuple[int, int]


@dataclass(frozen=True)
class Stretch:
    """Which events are read.

    Attributes:
        begin: First offset of them.
        answers_from_ms: Their answers came after this time; 0 for any.
        beginning: Of the job, where it was given a state from history or a user says it; else None.
    """

    begin: int
    answers_from_ms: int
    beginning: JobBeginning | None


@dataclass(frozen=True)
class UsedEvent:
    """An event that a feature was made of.

    Attributes:
        place: Partition and offset.
        time_ms: Its event time.
        fields: Its fields.
        features: Names of the features that used it.
    """

    place: Place
    time_ms: int
    fields: dict[str, Any]
    features: tuple[str, ...]


@dataclass(frozen=True)
class Computed:
    """What comes out for an event now.

    Attributes:
        features: By name.
        flags: As a receipt has them.
        events: Those that the features were made of, in order of arrival; the event itself is the last.
        read_from: First offset that was read.
        read: Records read.
        failed: Whether an aggregate of the user's own raised, whose feature is NaN then.
        rows: By lookup, the row that the event saw.
        wrong: What is wrong with the rows that its answer names, in words.
        unsure: Why the features cannot be computed again as they were; None if they can.
    """

    features: dict[str, float]
    flags: str
    events: list[UsedEvent]
    read_from: int
    read: int
    failed: bool = False
    rows: dict[str, SeenRow] = field(default_factory=dict)
    wrong: tuple[str, ...] = ()
    unsure: str | None = None


def compute(pipeline: Pipeline, settings: Settings, found: Found, stretch: Stretch, looked: Looked) -> Computed:
    """The features of an event, from the events of its shard in its partition, and what they were made of.

    Args:
        pipeline: Whose features.
        settings: Where Kafka is, and the number of shards.
        found: The event.
        stretch: What to read.
        looked: See `Looked`.
    """
    partition, offset = found.place
    spans = {partition: (stretch.begin, offset + 1)}
    read = 0
    with _served_rows(pipeline, settings, stretch, looked) as served:
        shard = _Shard(pipeline, settings.shards, found, served)
        for messages in scan(settings.bootstrap, settings.kafka_properties, pipeline.events.topic, spans):
            shard.take(messages)
            read += len(messages)
            looked(f"reading {pipeline.events.topic}/{partition}", read, offset + 1 - stretch.begin)
    features, flags = shard.latest
    names = pipeline.feature_names
    given = dict(zip(names, features, strict=True))
    return Computed(
        given, FLAG_NAMES[flags & ~FAILED], shard.used(), stretch.begin, read, bool(flags & FAILED), **shard.seen()
    )


@contextmanager
def _served_rows(
    pipeline: Pipeline, settings: Settings, stretch: Stretch, looked: Looked
) -> Iterator[ServedRows | None]:
    """Says which rows events saw; None of a pipeline without lookups."""
    if not pipeline.lookups:
        yield None
        return
    kafka = settings.bootstrap, settings.kafka_properties
    with own_folder(settings) as folder:
        (folder / "answers").mkdir()
        answers = ServedAnswers(pipeline, folder / "answers", settings)
        spans = dict(answer_spans_from(pipeline, settings, stretch.answers_from_ms, later=True))
        total = sum(max(0, end - begin) for each in spans.values() for begin, end in each.values())
        answers.read(*kafka, spans, lambda done: looked("reading which rows were seen", done, total))
        histories = histories_of(pipeline, keep_histories(pipeline, folder / "lookups", *kafka).files)
        live, ends = ({}, {}) if stretch.beginning is None else (stretch.beginning.live, stretch.beginning.row_ends)
        yield ServedRows(pipeline, histories, ServedPlaces(answers.files, live, ends, None))


class _Shard:
    """The events of one shard, through the engine; those of one entity through the oracle too."""

    def __init__(self, pipeline: Pipeline, shards: int, found: Found, served: ServedRows | None) -> None:
        self._pipeline, self._shards, self._partition = pipeline, shards, found.place[0]
        self._plan, self._decoder = FeaturePlan.build(pipeline), event_decoder(pipeline)
        self._state, self._oracle = ShardState(self._plan, log_changes=False), NaiveFeatures(pipeline)
        self._key = _bytes(found.record.key()) or b""
        self._key_text, self._shard = shard_text(pipeline.events, self._key), self._shard_of(self._key)
        self._known: dict[bytes, bool] = {}
        self._places: dict[int, Place] = {}
        self._entity: Any = None
        self._served, self._rows, self._gone_ms = served, dict[str, SeenRow](), list[int]()
        self.latest: tuple[list[float], int] = [], 0

    def take(self, messages: list[Message]) -> None:
        """Take in the records that are of the shard."""
        events, records = list[Any](), list[Message]()
        for message in messages:
            key: Any = message.key()
            if key is None or not self._is_mine(key):
                continue
            event = decode_message(self._decoder, message)
            if event is None or isinstance(event, Refused):
                continue
            events.append(event)
            records.append(message)
        if not events:
            return
        offsets = [int(message.offset() or 0) for message in records]
        seen = None if self._served is None else self._served.seen(events, self._partition, np.array(offsets))
        self._follow(events, records, seen or {})
        names = [str(getattr(event, self._pipeline.events.entity)) for event in events]
        rows = {name: [each.row for each in found] for name, found in (seen or {}).items()}
        times_ms, columns, masks, direct = self._plan.columnise(events, rows)
        partitions = np.full(len(events), self._partition, np.int32)
        record_times_ms = np.array([message.timestamp()[1] for message in records], np.int64)
        advanced = self._state.advance(names, times_ms, record_times_ms, partitions, columns, masks, direct)
        self.latest = advanced.features[-1].tolist(), int(advanced.flags[-1])

    def _follow(
        self, events: Sequence[Any], records: Sequence[Message], seen: Mapping[str, Sequence[SeenRow]]
    ) -> None:
        """Tell the oracle of the entity's events, and of the times of others."""
        for number, (event, message) in enumerate(zip(events, records, strict=True)):
            key: Any = message.key()
            record_time_ms, time_ms = message.timestamp()[1], self._oracle.time_ms(event)
            if shard_text(self._pipeline.events, key) != self._key_text:
                self._oracle.pass_by(time_ms, record_time_ms, self._partition)
                continue
            self._rows = {name: found[number] for name, found in seen.items()}
            self._entity = getattr(event, self._pipeline.events.entity)
            rows = {name: fields_of_row(each.row) for name, each in self._rows.items()}
            told = with_rows(self._pipeline, event, rows) if rows else event
            self._places[id(told)] = self._partition, int(message.offset() or 0)
            self._oracle.advance(told, record_time_ms, self._partition, wanted=False)
            if any(each.state == RowState.GONE for each in self._rows.values()):
                self._gone_ms.append(time_ms)

    def seen(self) -> dict[str, Any]:
        """What `Computed` says of rows, for the last event."""
        if self._served is None:
            return {}
        states = np.array([[each.state for each in self._rows.values()]], np.uint8)
        begin_ms = self._oracle.arrived[self._entity][-1].time_ms - self._pipeline.longest_window_ms
        among = windows_read_rows(self._pipeline) and any(time_ms > begin_ms for time_ms in self._gone_ms)
        said = StretchRows(tuple(self._rows), states, np.array([among]))
        return {"rows": self._rows, "wrong": tuple(said.right(np.array([0]))), "unsure": said.why_unsure(0)}

    def used(self) -> list[UsedEvent]:
        """The events that the features of the last event were made of."""
        by_event: dict[int, tuple[Arrived, list[str]]] = {}
        latest = self._oracle.arrived[self._entity][-1]
        by_event[id(latest.event)] = latest, []
        for feature in self._pipeline.features:
            parts = (feature.numerator, feature.denominator) if isinstance(feature, Ratio) else (feature,)
            names = feature.names(self._pipeline.fields)
            for part in parts:
                inside = self._oracle.window(part, self._entity) if isinstance(part, Aggregate) else [latest]
                for row in inside:
                    known = by_event.setdefault(id(row.event), (row, []))[1]
                    known.extend(name for name in names if name not in known)
        fields = [one.name for one in self._pipeline.events.schema]
        used = [
            UsedEvent(
                self._places[number], row.time_ms, {name: getattr(row.event, name) for name in fields}, tuple(names)
            )
            for number, (row, names) in by_event.items()
        ]
        return sorted(used, key=lambda each: each.place)

    def _is_mine(self, key: bytes) -> bool:
        if key not in self._known:
            self._known[key] = self._shard_of(key) == self._shard
        return self._known[key]

    def _shard_of(self, key: bytes) -> int:
        return int(key_shards([shard_text(self._pipeline.events, key)], self._shards)[0])


def _bytes(content: Any) -> bytes | None:
    return None if content is None else bytes(content)
