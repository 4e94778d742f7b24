"""Decoded events -> the arrays kernels take: field by field, not event by event."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.columns import Column, ValueTable, numbers
from udfs.conditions import Condition
from udfs.pipeline import Pipeline

OneHotPlace = tuple[int, str, dict[Any, int] | None]
"""First direct value, field, and the place of each category; None for the field's own number."""


class EventReader:
    """Reads the events of one pipeline.

    Args:
        pipeline: The pipeline.
        columns: What aggregates read.
        conditions: By bit.
        direct: What features of the event itself read, and where they go.
        direct_width: How many of these features there are.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        columns: Sequence[Column],
        conditions: Sequence[Condition],
        direct: Sequence[OneHotPlace],
        direct_width: int,
    ) -> None:
        self._columns, self._direct_width, self._times_ms = len(columns), direct_width, pipeline.events.times_ms
        self._time = pipeline.events.time
        alone = [condition.fields[0] if len(condition.fields) == 1 else None for condition in conditions]
        self._tables: list[tuple[str, int, ValueTable]] = []
        for found in pipeline.events.schema:
            if found.kind != "str" and found.categories is None:
                continue
            name = found.name
            bits = {bit: conditions[bit] for bit, field in enumerate(alone) if field == name}
            one_hots = [(at, places) for at, field, places in direct if field == name and places is not None]
            column = next((place for place, read in enumerate(columns) if read.field == name and read.hashed), -1)
            if bits or one_hots or column >= 0:
                table = ValueTable(columns[column] if column >= 0 else None, bits, one_hots)
                self._tables.append((name, column, table))
        looked_up = {bit for _, _, table in self._tables for bit in table.conditions}
        self._conditions = [(bit, each) for bit, each in enumerate(conditions) if bit not in looked_up]
        self._numbers: dict[str, tuple[list[int], list[int]]] = {}
        for place, column_read in enumerate(columns):
            if not column_read.hashed:
                self._numbers.setdefault(column_read.field, ([], []))[0].append(place)
        for at, name, places in direct:
            if places is None:
                self._numbers.setdefault(name, ([], []))[1].append(at)
        fields = {self._time, *self._numbers, *(name for name, _, _ in self._tables)}
        fields.update(name for _, condition in self._conditions for name in condition.fields)
        self._fields_of = _field_getter(sorted(fields))

    def read(
        self, events: Sequence[Any]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.uint64], npt.NDArray[np.float64]]:
        """As `FeaturePlan.columnise`."""
        count, values = len(events), self._fields_of(events)
        columns, direct = np.empty((count, self._columns)), np.empty((count, self._direct_width))
        masks = np.zeros(count, np.uint64)
        for name, (into_columns, into_direct) in self._numbers.items():
            read = numbers(values[name])
            for place in into_columns:
                columns[:, place] = read
            for place in into_direct:
                direct[:, place] = read
        for name, column, table in self._tables:
            rows = table.rows_of(values[name])
            if column >= 0:
                columns[:, column] = table.hashes[rows]
            if table.conditions:
                masks |= table.masks[rows]
            for at, end, ones in table.one_hots:
                direct[:, at:end] = ones[rows]
        for bit, condition in self._conditions:
            masks |= np.array(condition.passes(values), np.uint64) << np.uint64(bit)
        return self._times_ms(values[self._time]), columns, masks, direct


def _field_getter(names: Sequence[str]) -> Callable[[Sequence[Any]], Mapping[str, list[Any]]]:
    """A function from events to the values of these fields.

    Written as source, since an attribute that stands in the code is read in a third of the time `getattr` takes.
    """
    for name in names:
        if not name.isidentifier():
            raise ValueError(f"{name!r} is no name of a field")
    lists = ", ".join(f"{name!r}: [event.{name} for event in events]" for name in names)
    getter: Callable[[Sequence[Any]], Mapping[str, list[Any]]] = eval(f"lambda events: {{{lists}}}")  # noqa: S307
    return getter
