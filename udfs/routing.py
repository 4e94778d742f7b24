"""Records of a pipeline's sources -> its events, keyed by their entity, in the order in which they came.

    record of any source -> value -> (changed row) -> the event's fields -> JSON under the entity as key
                                                   -> dead letter of stage `route`
                                                   -> passed over: a tombstone, a change that is no event

In a batch, a record's source stands in its partition: `SOURCE_STEP` times the source's number, plus the partition.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from udfs.byte_lines import Lines
from udfs.events import TIME_UNITS_NS, EventField, last_time
from udfs.json_events import decoded_json
from udfs.output_batch import OutputGroup
from udfs.pipeline import Pipeline
from udfs.record_batch import RecordBatch
from udfs.refused import NO_VALUE, Refused, invalid_time, too_large
from udfs.sources import CHANGED_MS, KEY, OPERATION, PLACE, RECORD_TIME, TOPIC, Source
from udfs.wire_formats import HEADER, DeadLetters, struct_field

SOURCE_STEP = 1_000_000
"""More partitions than a topic has."""
STAGE = "route"
ORIGIN = ("source-topic", "source-partition", "source-offset")
"""Headers of an event, after `millrace-`: where it comes from."""
_DELETE = "d"


class RawRecord(NamedTuple):
    """A record of a source.

    Attributes:
        key: Kafka's.
        value: Kafka's.
        partition: Of the source's topic.
        offset: There.
        time_ms: Kafka's timestamp.
    """

    key: bytes | None
    value: bytes | None
    partition: int
    offset: int
    time_ms: int


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
    """

    def __init__(self, pipeline: Pipeline) -> None:
        events = pipeline.events
        self._sources = events.sources
        self._readers = [SourceReader(pipeline, source) for source in self._sources]
        self._entity, self._max_bytes = events.entity, pipeline.max_record_bytes
        self._encode = msgspec.json.Encoder().encode
        names = [f"{HEADER}{name}" for name in ORIGIN]
        self._events = OutputGroup(events.topic, {f"{HEADER}pipeline": pipeline.name}, names[1:], names[:1])
        self._dead_letters = [DeadLetters(pipeline, source.topic) for source in self._sources]

    def route(self, records: RecordBatch) -> Routed:
        """Every record of a batch as an event or a dead letter, unless it is passed over."""
        keys, values, kept = [], [], []
        refused: dict[int, Refused] = {}
        numbers, partitions = np.divmod(records.partitions, SOURCE_STEP)
        columns = (records.keys.tolist(), records.values.tolist(), partitions.tolist(), records.offsets.tolist())
        raw = map(RawRecord, *columns, records.record_times_ms.tolist())
        for row, (number, record) in enumerate(zip(numbers.tolist(), raw, strict=True)):
            event = self._readers[number].read(record)
            if row in records.sizes:
                event = too_large(records.sizes[row], self._max_bytes)
            if event is None:
                continue
            if isinstance(event, Refused):
                refused[row] = event
                continue
            keys.append(str(event[self._entity]).encode())
            values.append(self._encode(event))
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


class SourceReader:
    """Reads the records of one source as fields of an event.

    Args:
        pipeline: Whose events they become.
        source: Says where the fields are.
    """

    def __init__(self, pipeline: Pipeline, source: Source) -> None:
        self._source, self._max_bytes = source, pipeline.max_record_bytes
        self._letters = None if source.changes is None else source.changes.letters
        events = pipeline.events
        self._constants = dict(source.constants)
        wanted = [one for one in events.schema if one.name not in source.constants]
        self._parts = [one for one in wanted if source.path_of(one.name).startswith("@")]
        leaves = [(one, tuple(source.path_of(one.name).split("."))) for one in wanted if one not in self._parts]
        row_type, attributes = _row_type(leaves)
        self._decode_row = msgspec.json.Decoder(row_type).decode
        self._getters = [(name, _getter(attribute)) for name, attribute in attributes.items()]
        self._names = [one.name for one in events.schema]
        self._time, self._last_time = events.time, last_time(events.time_unit)
        self._to_time = _time_conversion(events.field(events.time, "Events: time"), events.time_unit, source)

    def read(self, record: RawRecord) -> "dict[str, Any] | Refused | None":
        """The event by field; why it is none; or None for a record that is passed over."""
        if record.value is None:
            return None if self._letters is not None else NO_VALUE
        if len(record.value) > self._max_bytes:
            return too_large(len(record.value), self._max_bytes)
        change: _Change | None = None
        if self._letters is None:
            row = decoded_json(record.value, self._decode_row)
        else:
            found = self._changed_row(record.value)
            if found is None or isinstance(found, Refused):
                return found
            row, change = found
        if isinstance(row, Refused):
            return row
        event = {name: get(row) for name, get in self._getters}
        event.update(self._constants)
        for one in self._parts:
            part = self._part(one, record, change)
            if isinstance(part, Refused):
                return part
            event[one.name] = part
        time = event[self._time] = self._to_time(event[self._time])
        if not 0 <= time <= self._last_time:
            return invalid_time(self._time, time)
        return {name: event[name] for name in self._names}

    def _changed_row(self, value: bytes) -> "tuple[Any, _Change] | Refused | None":
        envelope = decoded_json(value, _DECODE_ENVELOPE)
        if isinstance(envelope, Refused):
            return envelope
        change = envelope.payload or envelope
        if change.op is None:
            return Refused("missing_field", "no field `op`: this is no change event of Debezium")
        if change.op not in (self._letters or ()):
            return None
        row = change.before if change.op == _DELETE else change.after
        if row == _NO_ROW:
            which = "before" if change.op == _DELETE else "after"
            return Refused("missing_field", f"a change of kind {change.op} without `{which}`")
        return decoded_json(bytes(row), self._decode_row), change

    def _part(self, one: EventField, record: RawRecord, change: "_Change | None") -> Any:
        path = self._source.path_of(one.name)
        if path == RECORD_TIME:
            return record.time_ms
        if path == PLACE:
            return f"{self._source.topic}/{record.partition}/{record.offset}"
        if path == TOPIC:
            return self._source.topic
        if path == KEY:
            return _key_as(one, record.key)
        assert change is not None
        if path == OPERATION:
            return change.op
        moment = change.source.ts_ms if change.source is not None and change.source.ts_ms is not None else change.ts_ms
        if moment is None:
            return Refused("missing_field", f"the change has no `ts_ms`, which {one.name} is read from")
        return moment


_NO_ROW = msgspec.Raw(b"null")


class _Moment(msgspec.Struct):
    ts_ms: int | None = None


class _Change(msgspec.Struct):
    op: str | None = None
    ts_ms: int | None = None
    source: _Moment | None = None
    before: msgspec.Raw = _NO_ROW
    after: msgspec.Raw = _NO_ROW


class _Envelope(_Change):
    payload: _Change | None = None


_DECODE_ENVELOPE = msgspec.json.Decoder(_Envelope).decode


def _row_type(leaves: Sequence[tuple[EventField, tuple[str, ...]]]) -> tuple[Any, dict[str, str]]:
    """An object of a record with the fields that are wanted of it, itself or deeper.

    Args:
        leaves: Fields of an event, and where each is in the object.

    Returns:
        A struct, and for each field the attribute it is in, below others if there are dots.
    """
    here = {path[0]: one for one, path in leaves if len(path) == 1}
    deeper: dict[str, list[tuple[EventField, tuple[str, ...]]]] = {}
    for one, path in leaves:
        if len(path) > 1:
            deeper.setdefault(path[0], []).append((one, path[1:]))
    # attributes have names of their own, for a record's may be anything, and one may give several fields
    attributes = {name: f"_{number}" for number, name in enumerate([*here, *deeper])}
    fields: list[Any] = []
    for name, one in here.items():
        _, *kind_and_default = struct_field(one)
        fields.append((attributes[name], *kind_and_default))
    found = {one.name: attributes[path[0]] for one, path in leaves if len(path) == 1}
    for name, below in deeper.items():
        level, places = _row_type(below)
        is_optional = all(one.nullable for one, _ in below)
        fields.append((attributes[name], level | None, None) if is_optional else (attributes[name], level))
        found.update({field: f"{attributes[name]}.{deep}" for field, deep in places.items()})
    rename = {attribute: name for name, attribute in attributes.items()}
    return msgspec.defstruct("Record", fields, rename=rename, gc=False, kw_only=True), found


def _getter(attributes: str) -> Callable[[Any], Any]:
    """Reads an attribute, below others if there are dots; None where one of those is None."""
    if "." not in attributes:
        return operator.attrgetter(attributes)
    names = attributes.split(".")

    def get(row: Any) -> Any:
        for name in names:
            if row is None:
                return None
            row = getattr(row, name)
        return row

    return get


def _key_as(one: EventField, key: bytes | None) -> Any:
    if key is None:
        no_key = Refused("missing_field", f"the record has no key, which {one.name} is read from")
        return None if one.nullable else no_key
    try:
        text = key.decode()
        value: str | int = text if one.kind == "str" else int(text)
    except ValueError:
        return Refused("wrong_type", f"the key is {key[:80]!r}, which is no {one.kind} for {one.name}")
    if one.categories is not None and value not in one.categories:
        return Refused("unknown_category", f"the key is {key[:80]!r}, which {one.name} cannot be")
    return value


def _time_conversion(time: EventField, unit: str, source: Source) -> Callable[[Any], Any]:
    """From the unit in the source's records to that of the events, rounded down where the field is whole."""
    is_ms = source.path_of(time.name) in (RECORD_TIME, CHANGED_MS)
    from_ns, to_ns = TIME_UNITS_NS["ms" if is_ms else source.time_unit or unit], TIME_UNITS_NS[unit]
    if from_ns == to_ns:
        return lambda value: value
    if time.kind == "int":
        return lambda value: value * from_ns // to_ns
    return lambda value: value * from_ns / to_ns
