"""Fields of events as columns of float64: what aggregates read and the state keeps."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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
        categories: For each one-hot feature of the field, its first direct value and the place of each category.

    Attributes:
        conditions: As given.
        hashes: (rows,) float64.
        masks: (rows,) uint64: bits of the conditions passed.
        one_hots: For each one-hot feature its first and last direct value + 1, and (rows, categories) float64.
    """

    _MOST_VALUES = 65_536

    def __init__(
        self, hashed: Column | None, conditions: dict[int, Condition], categories: list[tuple[int, dict[Any, int]]]
    ) -> None:
        super().__init__()
        self._hashed, self.conditions, self._categories = hashed, conditions, categories
        self._forget()

    def rows_of(self, values: Sequence[Any]) -> npt.NDArray[np.intp]:
        """(n,) rows of n values; they are valid until the next call."""
        if len(self) > self._MOST_VALUES:
            self._forget()
        return np.array([self[value] for value in values], np.intp)

    def _forget(self) -> None:
        self.clear()
        self.hashes, self.masks = np.empty(0), np.empty(0, np.uint64)
        self.one_hots = [(at, at + len(places), np.empty((0, len(places)))) for at, places in self._categories]

    def __missing__(self, value: Any) -> int:
        row = len(self)
        if row == len(self.masks):
            self._grow(2 * row + 8)
        if self._hashed is not None:
            self.hashes[row] = self._hashed.read([value])[0]
        mask = 0
        for bit, condition in self.conditions.items():
            mask |= condition.passes({condition.fields[0]: [value]})[0] << bit
        self.masks[row] = mask
        for (_, _, ones), (_, places) in zip(self.one_hots, self._categories, strict=True):
            ones[row] = 0.0
            if value in places:
                ones[row, places[value]] = 1.0
        self[value] = row
        return row

    def _grow(self, rows: int) -> None:
        self.hashes, self.masks = np.resize(self.hashes, rows), np.resize(self.masks, rows)
        self.one_hots = [(at, end, np.resize(ones, (rows, end - at))) for at, end, ones in self.one_hots]
