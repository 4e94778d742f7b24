"""Events from rows: what a decoder of schemas gives, checked and converted like JSON by the event class."""

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from udfs.byte_lines import Lines
from udfs.cells import Cells, ScanSchema, new_cells, scan_schema
from udfs.events import UNITS_PER_S, EventField, Events
from udfs.packed_events import PackedEvents
from udfs.refused import Refused
from udfs.sources import Source
from udfs.text_scan import ABSENT, Bytes

Row = dict[str, Any]
Names = tuple[str, ...]
"""A field in a record, from the outermost object in."""
Converter = Callable[[Any], Any]


class RecordReader(Protocol):
    """Reads records, each by its schema."""

    def __call__(self, value: bytes) -> Row | Refused:
        """A record's fields by the event's names, others left out or not; or why it is none."""

    def scan(
        self, content: Bytes, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], schema: ScanSchema,
        cells: Cells,
    ) -> Bytes:  # fmt: skip
        """Fill in the cells of records that are plain: those that are surely what the rows would say.

        Args:
            content: Where the n records are.
            begins: (n,) int64.
            ends: (n,) int64.
            schema: The event's fields.
            cells: Filled; `states` must be 0.

        Returns:
            Where the cells' texts are.
        """


class RowEvents:
    """Reads records with schemas.

    Args:
        events: The fields.
        event_class: The event, or those of its fields that are in the value: a msgspec struct.
        reader: Of the format.
    """

    def __init__(self, events: Events, event_class: type, reader: RecordReader) -> None:
        names: Sequence[str] = event_class.__struct_fields__  # type: ignore[attr-defined]
        self._event_class, self._reader = event_class, reader
        self._vectors = [(one, (one.name,)) for one in events.vectors if one.name in names]
        self._schema, self._packed = scan_schema(events, names, from_file=False), PackedEvents(events, event_class)

    def together(self, values: Lines) -> list[Any] | None:
        """The events of n records; None if one of them is none."""
        if self._vectors:  # the compiled loops know single values
            alone = [self.one(value or b"") for value in values.tolist()]
            return None if any(isinstance(event, Refused) for event in alone) else alone
        ends = values.ends() - 1
        cells = new_cells(self._schema, len(values))
        content = np.frombuffer(values.content, np.uint8)
        data = self._reader.scan(content, ends - values.lengths, ends, self._schema, cells)
        plain = np.flatnonzero(cells.plain)
        found = self._packed.of(cells, plain, self._schema, data)
        if found is None or len(plain) == len(values):
            return found
        quick = iter(found)
        events = [
            next(quick) if is_plain else self.one(values[row] or b"") for row, is_plain in enumerate(cells.plain)
        ]
        return None if any(isinstance(event, Refused) for event in events) else events

    def scan(
        self, content: Bytes, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], schema: ScanSchema,
        cells: Cells,
    ) -> Bytes:  # fmt: skip
        """As of `RecordReader`, for a schema with slots of all fields that no record may lack."""
        data = self._reader.scan(content, begins, ends, schema, cells)
        for slot in schema.slots[~schema.optional]:
            cells.plain[cells.states[slot] == ABSENT] = 0
        return data

    def one(self, value: bytes) -> Any:
        """The event of a record, or why it is none."""
        row = self._reader(value)
        if isinstance(row, Refused):
            return row
        try:
            event: Any = msgspec.convert(row, self._event_class)
        except msgspec.ValidationError as error:
            refused = refused_value(error)
            return (self._problem(row) if refused.reason == "wrong_type" else None) or refused
        for one, _ in self._vectors:
            numbers = getattr(event, one.name)
            # NaN and infinity are numbers to these formats
            if numbers is not None and not math.isfinite(sum(numbers)):
                return self._problem(row) or event
        return event

    def _problem(self, row: Row) -> Refused | None:
        """Which vector is none, if that is what is wrong."""
        from udfs.vector_values import vector_problem

        return vector_problem(row, self._vectors)


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
