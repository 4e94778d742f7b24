"""Events as columns: what `FeaturePlan.columnise` makes of event objects, made of arrays.

A field is `Numbers` or `Texts` (codes into the values that occur). Wherever an array operation could differ from what
Python does with the values one by one, the values are gone through one by one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.columns import hash_text
from udfs.conditions import Both, Comparison, Condition, Either, IsIn, IsNull, Negation
from udfs.events import Events
from udfs.plan import FeaturePlan

Truths = npt.NDArray[np.bool_]

_EXACT = 2**53
_UNITS_PER_MS = {"us": 1_000, "ns": 1_000_000}


@dataclass(frozen=True)
class Numbers:
    """A field of numbers or truths.

    Attributes:
        values: (n,) int64, float64 or bool.
        nulls: (n,) bool; None where nothing is null.
    """

    values: npt.NDArray[Any]
    nulls: Truths | None = None

    def listed(self) -> list[Any]:
        """The values as Python's, None for null."""
        values: list[Any] = self.values.tolist()
        if self.nulls is None:
            return values
        return [None if null else value for value, null in zip(values, self.nulls.tolist(), strict=True)]

    def taken(self, rows: npt.NDArray[np.int64]) -> "Numbers":
        """Some of the events."""
        return Numbers(self.values[rows], None if self.nulls is None else self.nulls[rows])

    def as_floats(self) -> npt.NDArray[np.float64]:
        """(n,) float64: null as NaN."""
        numbers = self.values.astype(np.float64)
        if self.nulls is not None:
            numbers[self.nulls] = np.nan
        return numbers


@dataclass(frozen=True)
class Texts:
    """A field of texts.

    Attributes:
        codes: (n,) integers: places in `values`; -1 is null.
        values: The texts that may occur.
    """

    codes: npt.NDArray[np.integer[Any]]
    values: Sequence[str]

    def taken(self, rows: npt.NDArray[np.int64]) -> "Texts":
        """Some of the events."""
        return Texts(self.codes[rows], self.values)

    def looked_up(self, table: npt.NDArray[Any], null: Any) -> npt.NDArray[Any]:
        """(n,): what a table has for each value, and `null` for null."""
        found: npt.NDArray[Any] = np.append(table, np.array([null], table.dtype))[self.codes]
        return found


FieldColumn = Numbers | Texts
FieldColumns = Mapping[str, FieldColumn]


def columnise(
    plan: FeaturePlan, fields: FieldColumns, count: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint64], npt.NDArray[np.float64]]:
    """The columns, masks and direct features of n events; see `FeaturePlan.columnise`."""
    columns = np.empty((count, len(plan.columns)))
    for index, column in enumerate(plan.columns):
        columns[:, index] = _read(fields[column.field])
    masks = np.zeros(count, np.uint64)
    for bit, condition in enumerate(plan.conditions):
        masks |= passes(condition, fields).astype(np.uint64) << np.uint64(bit)
    direct = np.zeros((count, plan.direct_width))
    for index, name, categories in plan._direct:
        if categories is None:
            direct[:, index] = _read(fields[name])
        else:
            _one_hot(direct[:, index : index + len(categories)], fields[name], categories)
    return columns, masks, direct


def _read(field: FieldColumn) -> npt.NDArray[np.float64]:
    if isinstance(field, Numbers):
        return field.as_floats()
    return field.looked_up(np.array([hash_text(value) for value in field.values], np.float64), np.nan)


def _one_hot(direct: npt.NDArray[np.float64], field: FieldColumn, categories: Mapping[Any, int]) -> None:
    if isinstance(field, Texts):
        places = field.looked_up(np.array([categories.get(value, -1) for value in field.values], np.int64), -1)
        rows = np.flatnonzero(places >= 0)
        direct[rows, places[rows]] = 1.0
        return
    for value, place in categories.items():
        direct[_without_nulls(field.values == value, field), place] = 1.0


def _without_nulls(passed: Truths, field: Numbers) -> Truths:
    return passed if field.nulls is None else passed & ~field.nulls


def passes(condition: Condition, fields: FieldColumns) -> Truths:
    """(n,) bool: which events pass a condition."""
    if isinstance(condition, Negation):
        return ~passes(condition.condition, fields)
    if isinstance(condition, Both):
        return passes(condition.left, fields) & passes(condition.right, fields)
    if isinstance(condition, Either):
        return passes(condition.left, fields) | passes(condition.right, fields)
    field = fields[condition.fields[0]]
    if isinstance(field, Texts):
        values = [*field.values, None]  # null has the code -1: the last place
        passed: Truths = np.array(condition.passes({condition.fields[0]: values}), np.bool_)[field.codes]
        return passed
    if isinstance(condition, IsNull):
        return _nulls(field)
    if isinstance(condition, Comparison) and _compares_alike(field.values, (condition.value,)):
        return _compared(condition.operator, condition.value, field)
    if isinstance(condition, IsIn) and _compares_alike(field.values, condition.values):
        found = np.zeros(len(field.values), np.bool_)
        for constant in condition.values:
            found |= _compared("==", constant, field)
        return found
    return np.array(condition.passes({condition.fields[0]: field.listed()}), np.bool_)


def _nulls(field: Numbers) -> Truths:
    nulls = np.isnan(field.values) if field.values.dtype == np.float64 else np.zeros(len(field.values), np.bool_)
    return nulls if field.nulls is None else nulls | field.nulls


def _compared(operator: str, constant: Any, field: Numbers) -> Truths:
    compare = {
        "==": np.equal, "!=": np.not_equal, "<": np.less, "<=": np.less_equal,
        ">": np.greater, ">=": np.greater_equal,
    }[operator]  # fmt: skip
    passed: Truths = compare(field.values, constant)
    return passed & ~_nulls(field)


def _compares_alike(values: npt.NDArray[Any], constants: Sequence[Any]) -> bool:
    """Whether numpy, which turns whole numbers into floats to compare them with floats, loses nothing by it."""
    if any(not isinstance(constant, int | float) or abs(constant) > _EXACT for constant in constants):
        return False
    if values.dtype == np.int64 and any(isinstance(constant, float) for constant in constants) and len(values):
        return bool(values.max() <= _EXACT and values.min() >= -_EXACT)
    return True


def times_ms(events: Events, field: Numbers) -> npt.NDArray[np.int64]:
    """(n,) int64: event times in ms; see `Events.times_ms`."""
    values, unit = field.values, events.time_unit
    if unit == "ms":
        whole_ms: npt.NDArray[np.int64] = values if values.dtype == np.int64 else np.floor(values).astype(np.int64)
        return whole_ms
    if values.dtype == np.int64:
        whole: npt.NDArray[np.int64] = values * 1_000 if unit == "s" else values // _UNITS_PER_MS[unit]
        return whole
    return _seconds_in_ms(events, values) if unit == "s" else events.times_ms(values.tolist())


def _seconds_in_ms(events: Events, seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    scaled = seconds * 1_000
    times: npt.NDArray[np.float64] = np.floor(scaled)
    # just below a whole ms the decimal rounding of `Events.times_ms` decides
    near = np.flatnonzero(scaled - times > 0.999)
    times[near] = events.times_ms(seconds[near].tolist())
    whole: npt.NDArray[np.int64] = times.astype(np.int64)
    return whole
