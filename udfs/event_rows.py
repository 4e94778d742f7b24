"""Events from rows: what a decoder of schemas gives, checked and converted like JSON by the event class."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import msgspec

from udfs.byte_lines import Lines
from udfs.events import UNITS_PER_S, EventField, Events
from udfs.refused import Refused
from udfs.sources import Source

Row = dict[str, Any]
Names = tuple[str, ...]
"""A field in a record, from the outermost object in."""
Converter = Callable[[Any], Any]
RowReader = Callable[[bytes], Row | Refused]
"""A record's bytes -> its fields by the event's names, others left out or not; or why it is none."""


class RowEvents:
    """Reads records whose decoder gives rows.

    Args:
        event_class: The event, a msgspec struct.
        read_row: The decoder.
    """

    def __init__(self, event_class: type, read_row: RowReader) -> None:
        self._event_class, self._list_class, self._read_row = event_class, list[event_class], read_row  # type: ignore[valid-type]

    def together(self, values: Lines) -> list[Any] | None:
        """The events of n records; None if one of them is none."""
        rows = list(map(self._read_row, values.tolist()))  # type: ignore[arg-type]  # none is null
        try:
            events: list[Any] = msgspec.convert(rows, self._list_class)
        except (msgspec.ValidationError, RecursionError):  # a refused one is no row either
            return None
        return events

    def one(self, value: bytes) -> Any:
        """The event of a record, or why it is none."""
        row = self._read_row(value)
        if isinstance(row, Refused):
            return row
        try:
            return msgspec.convert(row, self._event_class)
        except msgspec.ValidationError as error:
            return refused_value(error)


def refused_value(error: msgspec.ValidationError) -> Refused:
    """Why fields are not the event's."""
    message = str(error)
    if message.startswith("Object missing required field"):
        return Refused("missing_field", message)
    return Refused("unknown_category" if message.startswith("Invalid enum value") else "wrong_type", message)


def time_converter(events: Events, source: Source, units_per_s: int) -> Converter | None:
    """Turns a time in so many units a second into the unit of the source's times; None if it is in it already."""
    wanted = UNITS_PER_S[source.time_unit or events.time_unit]
    if wanted == units_per_s:
        return None
    if events.field(events.time, "Events: time").kind == "float":
        return partial(_scaled_float, wanted, units_per_s)
    return partial(_scaled, wanted, units_per_s)


def _scaled(wanted: int, units_per_s: int, time: Any) -> Any:
    return time * wanted // units_per_s if isinstance(time, int) else time


def _scaled_float(wanted: int, units_per_s: int, time: Any) -> Any:
    return time * wanted / units_per_s if isinstance(time, int) else time


def paths_of(events: Events, source: Source, name: str) -> list[Names]:
    """Where a field may be in a record's value: the first that is there counts."""
    paths = [tuple(source.path_of(name).split("."))]
    if name in events.renamed and name not in source.fields:
        paths.append((events.renamed[name],))
    return paths


def must_pick(places: Sequence[tuple[str, Names]], wanted: Sequence[EventField], there: Collection[str]) -> bool:
    """Whether a record's fields are not the event's by the same names.

    Args:
        places: The event's fields that the writer has, and where.
        wanted: Those that are read.
        there: The writer's fields.
    """
    own = {field for field, names in places if names == (field,)}
    return len(own) < len(places) or any(one.name in there and one.name not in own for one in wanted)


def picked(row: Row, places: Sequence[tuple[str, Names]]) -> Row:
    """The event's fields from where they are; without those of an object that is null."""
    found: Row = {}
    for field, names in places:
        value: Any = row
        for name in names:
            if value is None:
                break
            value = value[name]
        else:
            found[field] = value
    return found
