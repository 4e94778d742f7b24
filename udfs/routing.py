"""Records of a pipeline's sources -> its events, keyed by their entity, in the order in which they came.

    record of any source -> value -> (changed row) -> the event's fields -> JSON under the entity as key
                                                   -> dead letter of stage `route`
                                                   -> passed over: a tombstone, a change that is no event

In a batch, a record's source stands in its partition: `SOURCE_STEP` times the source's number, plus the partition.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from udfs.byte_lines import Lines
from udfs.output_batch import OutputGroup
from udfs.pipeline import Pipeline
from udfs.raw_record import RawRecord
from udfs.record_batch import RecordBatch
from udfs.record_reader import RecordReader
from udfs.refused import Refused
from udfs.registered_schema import SchemaSource, no_schemas
from udfs.wire_formats import HEADER, DeadLetters

SOURCE_STEP = 1_000_000
"""More partitions than a topic has."""
STAGE = "route"
ORIGIN = ("source-topic", "source-partition", "source-offset")
"""Headers of an event, after `millrace-`: where it comes from."""


class Routed(NamedTuple):
    """What became of a batch.

    Attributes:
        outputs: Events and dead letters, as `output_batch` packs them.
        passed_over: Records that are neither.
    """

    outputs: bytes
    passed_over: int


class Router:
    """Routes the records of one pipeline's sources.

    Args:
        pipeline: Its events have sources.
        schemas: Where the schemas come from that records name.
    """

    def __init__(self, pipeline: Pipeline, schemas: SchemaSource = no_schemas) -> None:
        events = pipeline.events
        self._sources = events.sources
        self._readers = [RecordReader(pipeline, source, schemas) for source in self._sources]
        self._entity_of = operator.attrgetter(events.entity)
        self._getters = [operator.attrgetter(one.name) for one in events.schema]
        self._event: Any = msgspec.defstruct("Event", [(one.name, Any) for one in events.schema], gc=False)
        self._encode_lines = msgspec.json.Encoder().encode_lines
        names = [f"{HEADER}{name}" for name in ORIGIN]
        self._events = OutputGroup(events.topic, {f"{HEADER}pipeline": pipeline.name}, names[1:], names[:1])
        self._dead_letters = [DeadLetters(pipeline, source.topic) for source in self._sources]

    def route(self, records: RecordBatch) -> Routed:
        """Every record of a batch as an event or a dead letter, unless it is passed over."""
        numbers, partitions = np.divmod(records.partitions, SOURCE_STEP)
        found = self._events_of(records, numbers)
        refused = {row: event for row, event in enumerate(found) if isinstance(event, Refused)}
        kept = [row for row, event in enumerate(found) if event is not None and row not in refused]
        events = [found[row] for row in kept]
        outputs = b""
        if kept:
            topics = [self._sources[number].topic.encode() for number in numbers[kept].tolist()]
            places = partitions[kept], records.offsets[kept]
            keys = Lines.of([str(entity).encode() for entity in map(self._entity_of, events)])
            values = Lines.split(self._encode_lines(events))
            outputs = self._events.pack(keys, values, places, [Lines.of(topics)])
        for number, dead_letters in enumerate(self._dead_letters):
            of_source = {row: why for row, why in refused.items() if numbers[row] == number}
            if of_source:
                outputs += dead_letters.pack(records, of_source, stage=STAGE, partitions=partitions)
        return Routed(outputs, len(records) - len(kept) - len(refused))

    def _events_of(self, records: RecordBatch, numbers: npt.NDArray[Any]) -> list[Any]:
        """What becomes of each record: source by source together where all are events, else one by one."""
        values, found = records.values.tolist(), list[Any]([None] * len(records))

        @functools.cache
        def raw() -> list[RawRecord]:
            return [
                record._replace(parts=record.parts._replace(partition=record.parts.partition % SOURCE_STEP))
                for record in records.raw()
            ]

        for number, reader in enumerate(self._readers):
            rows = np.flatnonzero(numbers == number).tolist()
            if not rows:
                continue
            of_source = Lines.of([values[row] for row in rows])
            events = reader.together(of_source, functools.partial(_at, raw, rows))
            if events is not None:
                events = list(map(self._event, *(map(get, events) for get in self._getters)))
            else:
                events = [self._as_written(reader.read(raw()[row])) for row in rows]
            for row, event in zip(rows, events, strict=True):
                found[row] = event
        return found

    def _as_written(self, event: Any) -> Any:
        """An event with its fields in order and by their own names; anything else as it is."""
        if event is None or isinstance(event, Refused):
            return event
        return self._event(*[get(event) for get in self._getters])


def _at(raw: Callable[[], list[RawRecord]], rows: list[int]) -> list[RawRecord]:
    records = raw()
    return [records[row] for row in rows]
