"""Aggregates of arrays: what SQL gathers of a window with ARRAY_AGG, one array a row, in order of event time.

SQL's own SUM takes a number that leaves the window off the sum again, so that rounding errors stay for ever and one
overflow spoils all that follows. Here each row's window is folded anew, in its order. NaN stands for null.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Arrays = Sequence[npt.NDArray[np.float64]]


class Windows(NamedTuple):
    """The windows of n rows in one.

    Attributes:
        values: (m,) float64: all values, window by window.
        rows: (m,) int64: whose window a value is in.
        length: n.
    """

    values: Floats
    rows: npt.NDArray[np.int64]
    length: int

    @classmethod
    def of(cls, arrays: Arrays) -> "Windows":
        """Windows of n arrays; none may be null."""
        lengths = [len(array) for array in arrays]
        values = np.concatenate(arrays).astype(np.float64, copy=False) if len(arrays) else np.zeros(0)
        return cls(values, np.repeat(np.arange(len(lengths)), lengths), len(lengths))

    def where(self, kept: npt.NDArray[np.bool_]) -> "Windows":
        """Without some of the values."""
        return Windows(self.values[kept], self.rows[kept], self.length)

    def known(self) -> "Windows":
        """Without nulls."""
        return self.where(~np.isnan(self.values))

    def sums(self, values: Floats | None = None) -> Floats:
        """(n,): what the values of each window sum up to, added one after the other."""
        return np.bincount(self.rows, self.values if values is None else values, self.length).astype(np.float64)

    def counts(self) -> Floats:
        """(n,): how many values each window has."""
        return np.bincount(self.rows, minlength=self.length).astype(np.float64)

    def latest(self) -> Floats:
        """(n,): the last value of each window; NaN of nothing."""
        found = np.full(self.length, np.nan)
        found[self.rows] = self.values  # of several for one row the last one stays
        return found


def window_sum(arrays: Arrays) -> Floats:
    """(n,) sums; 0 of nothing."""
    return Windows.of(arrays).known().sums()


def window_mean(arrays: Arrays) -> Floats:
    """(n,) arithmetic means; NaN of nothing."""
    windows = Windows.of(arrays).known()
    with np.errstate(invalid="ignore"):
        means: Floats = windows.sums() / windows.counts()
    return means


def window_std(arrays: Arrays) -> Floats:
    """(n,) population standard deviations, in two passes; NaN of nothing."""
    windows = Windows.of(arrays).known()
    with np.errstate(invalid="ignore", over="ignore"):
        counts = windows.counts()
        deviations = windows.values - (windows.sums() / counts)[windows.rows]
        spread: Floats = np.sqrt(windows.sums(deviations * deviations) / counts)
    return spread


def window_last(arrays: Arrays) -> Floats:
    """(n,) latest values; NaN of nothing."""
    return Windows.of(arrays).known().latest()


def window_ewma(arrays: Arrays, times_ms: Arrays, half_life_ms: float) -> Floats:
    """(n,) means weighted by 2 ** -(age / half_life); NaN of nothing.

    Args:
        arrays: The values.
        times_ms: Their times, one for each value, nulls included.
        half_life_ms: The age at which a value weighs half.
    """
    windows, times = Windows.of(arrays), Windows.of(times_ms)
    kept = ~np.isnan(windows.values)
    windows, times = windows.where(kept), times.where(kept)
    weights = np.exp2((times.values - times.latest()[times.rows]) / half_life_ms)
    with np.errstate(invalid="ignore"):
        means: Floats = windows.sums(windows.values * weights) / windows.sums(weights)
    return means


def window_previous(arrays: Arrays, offsets: Arrays, own_offsets: Floats) -> Floats:
    """(n,) the latest value that arrived before the row's own; NaN of nothing.

    Args:
        arrays: The values.
        offsets: The Kafka offset of each value, nulls included: they tell which of two equal times came first.
        own_offsets: (n,) the offset of the row itself.
    """
    windows, arrived = Windows.of(arrays), Windows.of(offsets)
    earlier = (arrived.values < own_offsets[arrived.rows]) & ~np.isnan(windows.values)
    return windows.where(earlier).latest()


def window_since_last(times_ms: Arrays, offsets: Arrays, own_times_ms: Floats, own_offsets: Floats) -> Floats:
    """(n,) seconds since the latest event that arrived before the row's own; NaN if there is none.

    Args:
        times_ms: The times of the window's events; null for those that do not count.
        offsets: The Kafka offset of each.
        own_times_ms: (n,) the time of the row itself.
        own_offsets: (n,) its offset.
    """
    return np.maximum(own_times_ms - window_previous(times_ms, offsets, own_offsets), 0.0) / 1_000.0
