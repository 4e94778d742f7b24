"""Fields of events as columns of float64: what aggregates read and the state keeps."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


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
