"""Events from rows: what a decoder of schemas gives, checked and converted like JSON by the event class."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from udfs.byte_lines import Lines
from udfs.cells import Cells, ScanSchema, new_cells, scan_schema
from udfs.events import UNITS_PER_S, Events
from udfs.packed_events import PackedEvents
from udfs.refused import Refused
from udfs.text_scan import Bytes

Row = dict[str, Any]
Converter = Callable[[Any], Any]


class RecordReader(Protocol):
    """Reads records, each by its schema."""

    def __call__(self, value: bytes) -> Row | Refused:
        """A record's fields by the event's names, others left out or not; or why it is none."""

    def scan(
        self, content: bytes, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], schema: ScanSchema,
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
        event_class: The event, a msgspec struct.
        reader: Of the format.
    """

    def __init__(self, events: Events, event_class: type, reader: RecordReader) -> None:
        names = [one.name for one in events.schema]
        self._event_class, self._reader = event_class, reader
        self._schema, self._packed = scan_schema(events, names, from_file=False), PackedEvents(event_class, names)

    def together(self, values: Lines) -> list[Any] | None:
        """The events of n records; None if one of them is none."""
        ends = values.ends() - 1
        cells = new_cells(self._schema, len(values))
        data = self._reader.scan(values.content, ends - values.lengths, ends, self._schema, cells)
        plain = np.flatnonzero(cells.plain)
        found = self._packed.of(cells, plain, self._schema, data)
        if found is None or len(plain) == len(values):
            return found
        quick = iter(found)
        events = [
            next(quick) if is_plain else self.one(values[row] or b"") for row, is_plain in enumerate(cells.plain)
        ]
        return None if any(isinstance(event, Refused) for event in events) else events

    def one(self, value: bytes) -> Any:
        """The event of a record, or why it is none."""
        row = self._reader(value)
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


def time_converter(events: Events, units_per_s: int) -> Converter | None:
    """Turns a time in so many units a second into the pipeline's unit; None if it is in it already."""
    wanted = UNITS_PER_S[events.time_unit]
    if wanted == units_per_s:
        return None
    if events.field(events.time, "Events: time").kind == "float":
        return partial(_scaled_float, wanted, units_per_s)
    return partial(_scaled, wanted, units_per_s)


def _scaled(wanted: int, units_per_s: int, time: Any) -> Any:
    return time * wanted // units_per_s if isinstance(time, int) else time


def _scaled_float(wanted: int, units_per_s: int, time: Any) -> Any:
    return time * wanted / units_per_s if isinstance(time, int) else time


def source_names(events: Events, there: Mapping[str, str]) -> dict[str, str]:
    """The writer's name of each field of the event that the writer has.

    Args:
        events: The event's fields, and how they were called before.
        there: The writer's names by themselves and by other names of theirs.
    """
    names = {}
    for one in events.schema:
        for name in (one.name, events.renamed.get(one.name)):
            if name is not None and name in there:
                names[one.name] = there[name]
                break
    return names
