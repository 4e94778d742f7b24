"""A Kafka record as it was read, and what of it beside its value can be a field of an event."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec

from udfs.event_keys import KeyReader, key_reader
from udfs.events import TIME_UNITS_NS, EventField, Events
from udfs.refused import Refused
from udfs.sources import CHANGED_MS, HEADER_PART, KEY, PLACE, RECORD_TIME, Source

_KIND_TYPES: dict[str, type] = {"int": int, "float": float, "bool": bool}


class RecordParts(NamedTuple):
    """What a record is beside its key and value.

    Attributes:
        partition: Of its topic.
        offset: There.
        time_ms: Kafka's timestamp.
        headers: At least those that fields are read from; of two with one name the last one.
    """

    partition: int
    offset: int
    time_ms: int
    headers: Mapping[str, bytes | None] = {}


class RawRecord(NamedTuple):
    """A record: key and value as Kafka has them, and the rest."""

    key: bytes | None
    value: bytes | None
    parts: RecordParts


PartReader = Callable[[RawRecord], Any]
"""The value of an event's field; or why it has none."""


def part_reader(events: Events, source: Source, one: EventField) -> PartReader:
    """Reads a field that is not in the record's value.

    Args:
        events: Say the unit of time.
        source: Says which part it is.
        one: The field.
    """
    path = source.path_of(one.name)
    if path == RECORD_TIME:
        convert = time_conversion(events, source) if one.name == events.time else None
        return _time if convert is None else lambda record: convert(record.parts.time_ms)
    if path == PLACE:
        return lambda record: f"{source.topic}/{record.parts.partition}/{record.parts.offset}"
    if path == KEY:
        return partial(_key_as, one, key_reader(source.key_format, is_whole=one.kind == "int"))
    if path.startswith(HEADER_PART):
        return partial(_header_as, one, path.removeprefix(HEADER_PART))
    return lambda _: source.topic


def time_conversion(events: Events, source: Source) -> Callable[[Any], Any] | None:
    """From the unit in the source's records to that of the events; None if they are alike. Whole times stay whole."""
    is_ms = source.path_of(events.time) in (RECORD_TIME, CHANGED_MS)
    from_ns = TIME_UNITS_NS["ms" if is_ms else source.time_unit or events.time_unit]
    to_ns = TIME_UNITS_NS[events.time_unit]
    if from_ns == to_ns:
        return None
    if events.field(events.time, "Events: time").kind == "int":
        return lambda value: value * from_ns // to_ns
    return lambda value: value * from_ns / to_ns


def _time(record: RawRecord) -> int:
    return record.parts.time_ms


def _missing(one: EventField, what: str) -> Any:
    return one.default if one.optional else Refused("missing_field", f"the record has no {what}, for {one.name}")


def _key_as(one: EventField, read: KeyReader | None, record: RawRecord) -> Any:
    if record.key is None:
        return _missing(one, "key")
    try:
        text = record.key.decode() if read is None else read(record.key)
        if text is None:
            raise ValueError
        value: str | int = text if one.kind == "str" else int(text)
    except ValueError:
        return Refused("wrong_type", f"the key is {record.key[:80]!r}, which is no {one.kind} for {one.name}")
    return _among(one, value, "the key")


def _header_as(one: EventField, name: str, record: RawRecord) -> Any:
    content = record.parts.headers.get(name)
    if content is None:
        return _missing(one, f"header {name}")
    try:
        value = content.decode() if one.kind == "str" else msgspec.json.decode(content, type=_KIND_TYPES[one.kind])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Refused("wrong_type", f"header {name} is {content[:80]!r}, which is no {one.kind} for {one.name}")
    return _among(one, value, f"header {name}")


def _among(one: EventField, value: Any, what: str) -> Any:
    if one.categories is not None and value not in one.categories:
        return Refused("unknown_category", f"{what} is {value!r:.80}, which {one.name} cannot be")
    return value
