"""Records of a pipeline's sources -> its events, keyed by their entity, in the order in which they came.

    record of any source -> value -> (changed row) -> the event's fields -> JSON under the entity as key
                                                   -> dead letter of stage `route`
                                                   -> passed over: a tombstone, a change that is no event

In a batch, a record's source stands in its partition: `SOURCE_STEP` times the source's number, plus the partition.
"""

import operator
from typing import Any, NamedTuple

import msgspec
import numpy as np

from udfs.byte_lines import Lines
from udfs.output_batch import OutputGroup
from udfs.pipeline import Pipeline
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
        self._encode = msgspec.json.Encoder().encode
        names = [f"{HEADER}{name}" for name in ORIGIN]
        self._events = OutputGroup(events.topic, {f"{HEADER}pipeline": pipeline.name}, names[1:], names[:1])
        self._dead_letters = [DeadLetters(pipeline, source.topic) for source in self._sources]

    def route(self, records: RecordBatch) -> Routed:
        """Every record of a batch as an event or a dead letter, unless it is passed over."""
        keys, values, kept = [], [], []
        refused: dict[int, Refused] = {}
        numbers, partitions = np.divmod(records.partitions, SOURCE_STEP)
        for row, (number, record) in enumerate(zip(numbers.tolist(), records.raw(), strict=True)):
            parts = record.parts._replace(partition=record.parts.partition % SOURCE_STEP)
            event = self._readers[number].read(record._replace(parts=parts))
            if event is None:
                continue
            if isinstance(event, Refused):
                refused[row] = event
                continue
            keys.append(str(self._entity_of(event)).encode())
            values.append(self._encode(self._event(*[get(event) for get in self._getters])))
            kept.append(row)
        outputs = b""
        if kept:
            topics = [self._sources[number].topic.encode() for number in numbers[kept].tolist()]
            places = partitions[kept], records.offsets[kept]
            outputs = self._events.pack(Lines.of(keys), Lines.of(values), places, [Lines.of(topics)])
        for number, dead_letters in enumerate(self._dead_letters):
            of_source = {row: why for row, why in refused.items() if numbers[row] == number}
            if of_source:
                outputs += dead_letters.pack(records, of_source, stage=STAGE, partitions=partitions)
        return Routed(outputs, len(records) - len(kept) - len(refused))
