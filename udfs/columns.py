"""Fields of events as columns of float64: what aggregates read and the state keeps."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.compiled import compiled
from udfs.conditions import Condition


@functools.lru_cache(maxsize=65_536)
def hash_text(text: str) -> float:
    """A 62-bit blake2b hash of a text, carried in the bits of a finite, normal float64 (never NaN, never 0)."""
    digest = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
    bits = (digest & ~(1 << 62)) | (1 << 61)
    return float(np.array([bits], dtype=np.uint64).view(np.float64)[0])


def _number(value: float | None) -> float:
    """A number as float64: None is NaN, ints too large for any float are infinite."""
    if value is None:
        return float("nan")
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def numbers(values: Sequence[Any]) -> npt.NDArray[np.float64]:
    """(n,) float64 of n numbers; None is NaN."""
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        return np.array([_number(value) for value in values])


def vectors(values: Sequence[Any], size: int) -> npt.NDArray[np.float64]:
    """(n, size) float64 of n vectors; those of None are NaN."""
    nothing = [float("nan")] * size
    return np.array([nothing if value is None else value for value in values], np.float64).reshape(len(values), size)


@dataclass(frozen=True)
class Column:
    """A field as aggregates read it: numbers as float64 (ints exact up to 2**53), texts by `hash_text`, null as NaN."""

    field: str
    hashed: bool

    @property
    def name(self) -> str:
        """Its name in the state's codec."""
        return f"{self.field}#" if self.hashed else self.field

    def read(self, values: Sequence[Any]) -> npt.NDArray[np.float64]:
        """(n,) float64 of n values of the field."""
        if not self.hashed:
            return numbers(values)
        return np.array([float("nan") if value is None else hash_text(value) for value in values])


class ValueTable(dict[Any, int]):
    """What follows from the value of one field alone, looked up by the value: values of texts and categories repeat.

    The dictionary holds the row of each value seen; an unknown one is added when it is looked up.

    Args:
        hashed: The column of the field's hash, or None.
        conditions: Conditions that read only this field, by bit.
        categories: The place of each category among the field's one-hot features.

    Attributes:
        conditions: As given.
        rows: (values or more, 2 + categories) float64: the hash, bits of the conditions passed, one-hot features.
    """

    _MOST_VALUES = 65_536

    def __init__(self, hashed: Column | None, conditions: dict[int, Condition], categories: dict[Any, int]) -> None:
        super().__init__()
        self.conditions, self._hashed, self._categories = conditions, hashed, categories
        self.rows = np.zeros((0, 2 + len(categories)))

    def rows_of(self, values: Sequence[Any]) -> npt.NDArray[np.int64]:
        """(n,) rows of n values; they are valid until the next call."""
        if len(self) > self._MOST_VALUES:
            self.clear()
        return np.array([self[value] for value in values], np.int64)

    def __missing__(self, value: Any) -> int:
        row = len(self)
        if row == len(self.rows):
            self.rows = np.concatenate([self.rows, np.zeros((row + 8, self.rows.shape[1]))])
        mask = 0
        for bit, condition in self.conditions.items():
            mask |= condition.passes({condition.fields[0]: [value]})[0] << bit
        self.rows[row, 0] = self._hashed.read([value])[0] if self._hashed is not None else 0.0
        self.rows.view(np.uint64)[row, 1] = mask
        self.rows[row, 2:] = 0.0
        if value in self._categories:
            self.rows[row, 2 + self._categories[value]] = 1.0
        self[value] = row
        return row


@compiled
def look_up(
    known: npt.NDArray[np.float64], rows: npt.NDArray[np.int64], column: int, first_direct: int,
    columns: npt.NDArray[np.float64], masks: npt.NDArray[np.uint64], direct: npt.NDArray[np.float64],
) -> None:  # fmt: skip
    """Put what a table knows of n values into the arrays of a batch; with a negative column, no hash."""
    bits = known.view(np.uint64)
    for event in range(len(rows)):
        row = rows[event]
        masks[event] |= bits[row, 1]
        if column >= 0:
            columns[event, column] = known[row, 0]
        for place in range(2, known.shape[1]):
            direct[event, first_direct + place - 2] = known[row, place]
