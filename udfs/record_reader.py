"""Raw records of one topic -> events, wherever in a record their fields are.

    value of a format -> the fields that are in it -> with parts of the record, constants, times in the events' unit

One mechanism for the topic of a pipeline's events, as others write it, and for its sources.
"""

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from udfs.byte_lines import Lines
from udfs.cells import Cells, ScanSchema
from udfs.change_events import Change, ChangeReader, avro_changes, json_changes
from udfs.event_rows import RowEvents
from udfs.events import EventField, Events, last_time
from udfs.formats import Avro, JsonSchema, Protobuf
from udfs.json_events import JsonEvents
from udfs.raw_record import RawRecord, part_reader, time_conversion
from udfs.record_fields import Getter, flat_type, nested_type
from udfs.refused import NO_VALUE, Refused, invalid_time, too_large
from udfs.registered_schema import SchemaSource, no_schemas
from udfs.sources import CHANGED_MS, OPERATION, Source
from udfs.text_scan import Bytes

_FEWEST_TOGETHER = 12
"""Below this many records, decoding them one by one takes less than preparing to decode them together."""
_Column = tuple[Callable[[Any], Any], bool]
"""What gives a field, and whether it takes the raw record rather than what its value became."""


class Readable(Protocol):
    """What records are read for: a pipeline, or a table of lookups."""

    @property
    def events(self) -> Events:
        """What a record becomes."""

    @property
    def max_record_bytes(self) -> int:
        """A larger record is refused."""


class RecordReader:
    """Reads the records of one topic.

    Args:
        pipeline: Whose events they become, or the lookup whose rows they are.
        source: Says where the fields are, and the format.
        schemas: Where the schemas come from that records name.

    Attributes:
        needs_parts: Whether fields are read from parts of the record beside key and value.

    Raises:
        DefinitionError: A schema of the source is none.
    """

    def __init__(self, pipeline: Readable, source: Source, schemas: SchemaSource = no_schemas) -> None:
        events = pipeline.events
        self._max_bytes, self._source = pipeline.max_record_bytes, source
        self._time, self._last_time = events.time, last_time(events.time_unit)
        self._time_of, self._has_vectors = attrgetter(events.time), bool(events.vectors)
        value_fields = source.value_fields(events.schema)
        record_type, getters, nested = _record_type(events, source, value_fields)
        self._changes: ChangeReader | None = None
        if source.changes is not None:
            self._changes = _change_reader(events, source, record_type, schemas)
        else:
            self._values = _value_reader(events, source, record_type, schemas)
        others = [one for one in events.schema if one not in value_fields]
        self.needs_parts = any(one.name not in source.constants for one in others)
        to_time = None if any(one.name == events.time for one in others) else time_conversion(events, source)
        self._columns: list[_Column] | None = None
        if nested or others or to_time is not None or self._changes is not None:
            self._columns = [_column(events, source, one, getters, to_time) for one in events.schema]
            self._event: Any = msgspec.defstruct("Event", [(one.name, Any) for one in events.schema], gc=False)

    def together(self, values: Lines, raw: Callable[[], list[RawRecord]]) -> list[Any] | None:
        """The events of n records; None if one of them is none, or that is not certain.

        Args:
            values: Theirs.
            raw: Gives them one by one, if that is needed.
        """
        lengths = values.lengths
        if self._changes is not None or len(values) < _FEWEST_TOGETHER:
            return None
        if lengths.min() < 0 or lengths.max() > self._max_bytes:
            return None
        events = self._values.together(values)
        if events is None:
            return None
        if self._columns is not None:
            records = raw() if self.needs_parts else []
            columns = [list(map(get, records if of_raw else events)) for get, of_raw in self._columns]
            if any(Refused in set(map(type, column)) for column in columns):
                return None
            events = list(map(self._event, *columns))
        times = list(map(self._time_of, events))
        # a time that is no number is not found by min and max
        in_range = min(times) >= 0 and max(times) <= self._last_time and sum(times) >= 0
        return events if in_range else None

    def scan(
        self, content: Bytes, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], schema: ScanSchema,
        cells: Cells,
    ) -> Bytes | None:  # fmt: skip
        """Fill in the cells of values with schemas; None where they can only be read one by one.

        See `RowEvents.scan`; a record that is too large, or has no value, is for the caller to leave out.
        """
        if self._columns is not None or not isinstance(self._values, RowEvents) or self._has_vectors:
            return None
        return self._values.scan(content, begins, ends, schema, cells)

    def read(self, record: RawRecord) -> Any:
        """The event of a record; why it is none; or None for a record that is passed over.

        Raises:
            RegistryUnreachableError: Nothing can be said about the record until the registry answers.
        """
        if record.value is None:
            return None if self._source.ignores_tombstones else NO_VALUE
        if len(record.value) > self._max_bytes:
            return too_large(max(record.size, len(record.value)), self._max_bytes)
        found = self._values.one(record.value) if self._changes is None else self._changes(record.value)
        if found is None or isinstance(found, Refused):
            return found
        if self._columns is not None:
            values = [get(record if of_raw else found) for get, of_raw in self._columns]
            for value in values:
                if isinstance(value, Refused):
                    return value
            found = self._event(*values)
        time = self._time_of(found)
        return found if 0 <= time <= self._last_time else invalid_time(self._time, time)


def _record_type(
    events: Events, source: Source, fields: Sequence[EventField]
) -> tuple[Any, dict[str, Getter], bool]:
    """What a record's value becomes, what reads the fields of that, and whether it differs from an event."""
    flat: dict[str, Getter] = {one.name: attrgetter(one.name) for one in fields}
    if isinstance(source.format, Avro | Protobuf):
        return flat_type(fields, list(flat)), flat, False
    paths = [tuple(source.path_of(one.name).split(".")) for one in fields]
    if all(len(path) == 1 for path in paths) and len(set(paths)) == len(paths):
        return flat_type(fields, [path[0] for path in paths]), flat, False
    record_type, getters = nested_type(list(zip(fields, paths, strict=True)))
    return record_type, getters, True


def _column(
    events: Events,
    source: Source,
    one: EventField,
    getters: dict[str, Getter],
    to_time: Callable[[Any], Any] | None,
) -> _Column:
    """What gives a field of an event."""
    if one.name in source.constants:
        constant = source.constants[one.name]
        return lambda _: constant, False
    path = source.path_of(one.name)
    if one.name in getters:
        get = getters[one.name]
        if source.changes is not None:
            get = _of_row(get)
        return get if one.name != events.time or to_time is None else _converted(get, to_time), False
    if path == OPERATION:
        return attrgetter("operation"), False
    if path == CHANGED_MS:
        convert = time_conversion(events, source) if one.name == events.time else None
        get = partial(_changed_ms, one)
        return get if convert is None else _converted(get, convert), False
    return part_reader(events, source, one), True


def _of_row(get: Getter) -> Getter:
    return lambda change: get(change.row)


def _converted(get: Getter, convert: Callable[[Any], Any]) -> Getter:
    def converted(found: Any) -> Any:
        value = get(found)
        return value if isinstance(value, Refused) else convert(value)

    return converted


def _changed_ms(one: EventField, change: Change) -> Any:
    """When a row was changed."""
    if change.time_ms is not None:
        return change.time_ms
    missing = Refused("missing_field", f"the change has no `ts_ms`, which {one.name} is read from")
    return one.default if one.optional else missing


def _value_reader(events: Events, source: Source, record_type: Any, schemas: SchemaSource) -> "JsonEvents | RowEvents":
    form = source.format
    # imported when they are needed: most pipelines have JSON, and each import is time of every worker's start
    if isinstance(form, Avro):
        from udfs.avro_events import AvroRows

        return RowEvents(events, record_type, AvroRows(events, source, schemas))
    if isinstance(form, Protobuf):
        from udfs.protobuf_events import ProtobufRows

        return RowEvents(events, record_type, ProtobufRows(events, source, schemas))
    given = [one for one in source.value_fields(events.schema) if one.size is not None]
    vectors = [(one, tuple(source.path_of(one.name).split("."))) for one in given]
    return JsonEvents(record_type, framed=isinstance(form, JsonSchema) and form.framed, vectors=vectors)


def _change_reader(events: Events, source: Source, row_type: Any, schemas: SchemaSource) -> ChangeReader:
    form, changes = source.format, source.changes
    assert changes is not None
    if isinstance(form, Avro):
        from udfs.avro_events import AvroRows

        return avro_changes(changes, row_type, AvroRows(events, source, schemas))
    return json_changes(changes, row_type, framed=isinstance(form, JsonSchema) and form.framed)
