"""Decoded events -> the arrays kernels take: field by field, not event by event."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from udfs.columns import Column, ValueTable, look_up, numbers, vectors
from udfs.conditions import Condition
from udfs.errors import DefinitionError
from udfs.events import split_element, value_getter
from udfs.lookups import split_lookup
from udfs.pipeline import Pipeline

OneHotPlace = tuple[int, str, dict[Any, int] | None]
"""First direct value, field, and the place of each category; None for the field's own number."""


class _Vector(NamedTuple):
    """A vector that is read: of which table, its size, and which of its numbers go into which columns."""

    table: str
    name: str
    size: int
    get: Callable[[Any], Any]
    columns: list[tuple[int, int]]
    direct: list[tuple[int, int]]


class EventReader:
    """Reads the events of one pipeline.

    Args:
        pipeline: The pipeline.
        columns: What aggregates read.
        conditions: By bit.
        direct: What features of the event itself read, and where they go.
        direct_width: How many of these features there are.

    Attributes:
        fields: Names of the event fields that are read, those that name rows of lookups included.
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
        self._tables: list[tuple[str, int, int, ValueTable]] = []
        for found in pipeline.fields.values():
            if found.kind != "str" and found.categories is None:
                continue
            name = found.name
            bits = {bit: conditions[bit] for bit, field in enumerate(alone) if field == name}
            # one at most: two of a field would have the same names
            one_hots = [(at, places) for at, field, places in direct if field == name and places is not None]
            first_direct, categories = one_hots[0] if one_hots else (0, {})
            column = next((place for place, read in enumerate(columns) if read.field == name and read.hashed), -1)
            if bits or one_hots or column >= 0:
                table = ValueTable(columns[column] if column >= 0 else None, bits, categories)
                self._tables.append((name, column, first_direct, table))
        looked_up = {bit for *_, table in self._tables for bit in table.conditions}
        self._conditions = [(bit, each) for bit, each in enumerate(conditions) if bit not in looked_up]
        self._numbers: dict[str, tuple[list[int], list[int]]] = {}
        for place, column_read in enumerate(columns):
            if not column_read.hashed:
                self._numbers.setdefault(column_read.field, ([], []))[0].append(place)
        for at, name, places in direct:
            if places is None:
                self._numbers.setdefault(name, ([], []))[1].append(at)
        compared = {name for _, condition in self._conditions for name in condition.fields}
        self._vectors = self._take_vectors({name: one.size for name, one in pipeline.fields.items() if one.size})
        names = {self._time, *self._numbers, *compared, *(name for name, *_ in self._tables)}
        whole = {split_element(name)[0] for name in (*names, *(each.name for each in self._vectors))}
        of_rows = {name for name in whole if split_lookup(name)}
        self.fields = tuple(sorted(whole - of_rows | {each.event_field for each in pipeline.lookups}))
        self._getters = {name: value_getter(name) for name in sorted(names) if not split_lookup(name)}
        self._row_getters = {name: _of_row(name) for name in sorted(names) if split_lookup(name)}
        self._needs_rows = f"pipeline {pipeline.name} reads lookups, with which this is not joined" if of_rows else ""

    def _take_vectors(self, sizes: dict[str, int]) -> list["_Vector"]:
        """The numbers of vectors, each vector's together: one array a vector, not one a number."""
        found: dict[str, _Vector] = {}
        for name in list(self._numbers):
            vector, place = split_element(name)
            if place is not None:
                columns, direct = self._numbers.pop(name)
                table, field = split_lookup(vector) or ("", vector)
                read = found.setdefault(vector, _Vector(table, vector, sizes[vector], attrgetter(field), [], []))
                read.columns.extend((place, column) for column in columns)
                read.direct.extend((place, column) for column in direct)
        return list(found.values())

    def read(
        self, events: Sequence[Any], rows: Mapping[str, Sequence[Any]]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.uint64], npt.NDArray[np.float64]]:
        """As `FeaturePlan.columnise`."""
        count = len(events)
        values = {name: list(map(getter, events)) for name, getter in self._getters.items()}
        if self._needs_rows:
            if not rows:
                raise DefinitionError(self._needs_rows)
            values |= {name: list(map(getter, rows[table])) for name, (table, getter) in self._row_getters.items()}
        columns, direct = np.empty((count, self._columns)), np.empty((count, self._direct_width))
        masks = np.zeros(count, np.uint64)
        for name, (into_columns, into_direct) in self._numbers.items():
            read = numbers(values[name])
            for place in into_columns:
                columns[:, place] = read
            for place in into_direct:
                direct[:, place] = read
        for vector in self._vectors:
            whole = vectors(list(map(vector.get, rows[vector.table] if vector.table else events)), vector.size)
            for pairs, into in ((vector.columns, columns), (vector.direct, direct)):
                if pairs:
                    places, to = zip(*pairs, strict=True)
                    into[:, to] = whole[:, places]
        for name, column, first_direct, table in self._tables:
            known = table.rows_of(values[name])
            look_up(table.rows, known, column, first_direct, columns, masks, direct)
        for bit, condition in self._conditions:
            masks |= np.array(condition.passes(values), np.uint64) << np.uint64(bit)
        return self._times_ms(values[self._time]), columns, masks, direct


def _of_row(name: str) -> tuple[str, Callable[[Any], Any]]:
    """The table that a field like `products.price` or `products.taste[3]` is of, and what reads it of a row."""
    table, _, field = name.partition(".")
    return table, value_getter(field)
