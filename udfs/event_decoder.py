"""Raw records of a pipeline's topic -> events whose key is their entity, a batch at once or one by one."""

from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from udfs.byte_lines import Lines
from udfs.event_keys import events_key_reader
from udfs.pipeline import Pipeline
from udfs.raw_record import RawRecord, RecordParts
from udfs.record_batch import RecordBatch
from udfs.record_reader import RecordReader
from udfs.refused import Refused
from udfs.registered_schema import SchemaSource, no_schemas

_NOWHERE = RecordParts(0, 0, 0)


class DecodedBatch(NamedTuple):
    """A batch of records, decoded.

    Attributes:
        events: n events, objects with the event's fields.
        entities: Their n entities.
        rows: (n,) int64: which record each event is; None when all records are events.
        refused: Why others are none, by row. Records that are neither are passed over.
    """

    events: list[Any]
    entities: list[str]
    rows: npt.NDArray[np.int64] | None
    refused: dict[int, Refused]


class EventDecoder:
    """Raw records to typed events of one pipeline.

    Args:
        pipeline: Says the fields, the format, the entity, the time and the largest record.
        schemas: Where the schemas come from that records name; None if this pipeline's records name none.

    Attributes:
        needs_parts: Whether events have fields of parts of the record beside key and value.
        scan: See `RecordReader.scan`.

    Raises:
        DefinitionError: A schema of the pipeline is none.
    """

    def __init__(self, pipeline: Pipeline, schemas: SchemaSource = no_schemas) -> None:
        events = pipeline.events
        self._reader = RecordReader(pipeline, events.own_source, schemas)
        self.needs_parts = self._reader.needs_parts
        self.scan, self._entity = self._reader.scan, events.entity
        self._key_text, self._entity_of = events_key_reader(events), attrgetter(events.entity)

    def decode_batch(self, records: RecordBatch) -> DecodedBatch:
        """All records of a batch: together where that is safe, and one by one where one of them is broken."""
        events = self._reader.together(records.values, records.raw)
        if events is not None:
            entities = list(map(str, map(self._entity_of, events)))
            if self._are_keys(entities, records.keys):
                return DecodedBatch(events, entities, None, {})
        return self._decode_one_by_one(records)

    def _are_keys(self, entities: list[str], keys: Lines) -> bool:
        """Whether each entity is the key of its record; False if that is not certain."""
        if self._key_text is not None:
            return all(
                key is not None and self._key_text(key) == entity
                for entity, key in zip(entities, keys.tolist(), strict=True)
            )
        text = "\n".join(entities)
        lengths = list(map(len, entities))
        return text.isascii() and lengths == keys.lengths.tolist() and f"{text}\n".encode() == keys.content

    def _decode_one_by_one(self, records: RecordBatch) -> DecodedBatch:
        events, entities, rows = [], [], []
        refused: dict[int, Refused] = {}
        for row, record in enumerate(records.raw()):
            event = self._decoded(record)
            if isinstance(event, Refused):
                refused[row] = event
            elif event is not None:
                events.append(event)
                entities.append(str(self._entity_of(event)))
                rows.append(row)
        all_are = len(rows) == len(records)
        return DecodedBatch(events, entities, None if all_are else np.array(rows, np.int64), refused)

    def decode(self, key: bytes | None, value: bytes | None, parts: RecordParts | None = None) -> Any:
        """One record as an event object; or `Refused`; or None for one that is passed over.

        Args:
            key: Kafka's.
            value: Kafka's.
            parts: The rest of the record; may be left out if `needs_parts` is false.

        Raises:
            RegistryUnreachableError: Nothing can be said about the record until the registry answers.
        """
        assert parts is not None or not self.needs_parts, "fields are read from parts of the record: give them"
        return self._decoded(RawRecord(key, value, parts or _NOWHERE))

    def _decoded(self, record: RawRecord) -> Any:
        event = self._reader.read(record)
        if event is None or isinstance(event, Refused):
            return event
        entity, key = str(self._entity_of(event)), record.key
        if key is None or not self._is_key(entity, key):
            shown = "missing" if key is None else repr(key[:80])
            return Refused("key_mismatch", f"the key is {shown}, {self._entity} is {entity[:80]!r}")
        return event

    def _is_key(self, entity: str, key: bytes) -> bool:
        return key == entity.encode() if self._key_text is None else self._key_text(key) == entity
