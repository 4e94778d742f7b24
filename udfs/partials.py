"""The algebra of aggregates: a partial aggregate is three numbers that values are added to and that merge in order.

What the three mean depends on the kind: COUNT (n, -, -), SUM (sum, -, -), MEAN (n, sum, -), MIN and MAX (value, -, -),
STD (n, mean, sum of squared deviations), LAST (time, value, -), SINCE (time, -, -), EWMA (weighted sum, weights, time),
SEEN (a whole number whose bits say which categories there were, -, -).
Of sessions they are the first time, the last time (inf and -inf of nothing), and of the last session SESSION_EVENTS the
number of its events (negative where the first session is another), SESSION_START its first time, SESSION_GAP the time
between it and the one before (NaN where there is none); SESSIONS has the number of sessions there.
Compiled once for every pipeline: kinds are numbers, and types are always the same, so each process finds the result
in numba's cache on disk.
"""

import math

import numpy as np
import numpy.typing as npt

from udfs.compiled import inlined

COUNT, SUM, MEAN, MIN, MAX, STD, LAST, SINCE, EWMA, SEEN = range(10)
SESSION_EVENTS, SESSION_START, SESSION_GAP, SESSIONS = range(10, 14)
DISTINCT, DIRECT, RATIO, CUSTOM, LATEST_LEFT, LATEST_RIGHT, ITEM, LENGTH = range(14, 22)

WIDTHS = (1, 1, 2, 1, 1, 3, 2, 1, 3, 1, 3, 3, 3, 3)
"""How many of the three numbers a kept partial of a kind needs, by kind, COUNT to SESSIONS."""

_WIDTHS = np.array(WIDTHS, np.int64)

Partial = tuple[float, float, float]


@inlined
def empty(kind: int) -> Partial:
    """The partial of no values."""
    if kind in (MIN, MAX):
        return math.nan, 0.0, 0.0
    if kind in (LAST, SINCE):
        return -math.inf, math.nan, 0.0
    if kind >= SESSION_EVENTS:
        return math.inf, -math.inf, 0.0
    return 0.0, 0.0, 0.0


@inlined
def load(kind: int, numbers: npt.NDArray[np.float64], place: int) -> Partial:
    """A kept partial."""
    second = numbers[place + 1] if _WIDTHS[kind] > 1 else 0.0
    third = numbers[place + 2] if _WIDTHS[kind] > 2 else 0.0
    return numbers[place], second, third


@inlined
def save(kind: int, numbers: npt.NDArray[np.float64], place: int, partial: Partial) -> None:
    """Keep a partial."""
    numbers[place] = partial[0]
    if _WIDTHS[kind] > 1:
        numbers[place + 1] = partial[1]
    if _WIDTHS[kind] > 2:
        numbers[place + 2] = partial[2]


@inlined
def _decay(age_ms: float, half_life_ms: float) -> float:
    decay: float = 2.0 ** (-age_ms / half_life_ms)
    return decay


@inlined
def _joined(kind: int, left: Partial, right: Partial, gap_ms: float) -> Partial:
    """The sessions of two neighbouring stretches of time; two events no further apart than the gap are in one."""
    first, end, before = left
    begin, last, after = right
    if first > end:
        return right
    if begin > last:
        return left
    joins = begin - end <= gap_ms
    if kind == SESSION_EVENTS:
        if not joins:
            after = -abs(after)
        elif after > 0.0:
            after = before + after if before > 0.0 else before - after
    elif kind == SESSION_START:
        if joins and after == begin:
            after = before
    elif kind == SESSION_GAP:
        if after != after:
            after = before if joins else begin - end
    else:
        after = before + after - (1.0 if joins else 0.0)
    return first, last, after


@inlined
def _session_of(kind: int, time_ms: float) -> Partial:
    """The session of one event."""
    if kind == SESSION_START:
        return time_ms, time_ms, time_ms
    return time_ms, time_ms, math.nan if kind == SESSION_GAP else 1.0


@inlined
def add(kind: int, partial: Partial, value: float, time_ms: float, half_life_ms: float) -> Partial:
    """The partial after one more value, given in any order of time; of equal times, the later arrival last."""
    a, b, c = partial
    if kind == COUNT:
        return a + 1.0, b, c
    if kind == SUM:
        return a + value, b, c
    if kind == MEAN:
        return a + 1.0, b + value, c
    if kind == MIN:
        return (value if not a <= value else a), b, c
    if kind == MAX:
        return (value if not a >= value else a), b, c
    if kind == STD:  # Welford (1962)
        n = a + 1.0
        delta = value - b
        mean = b + delta * (1.0 / n)  # the division waits for nothing
        return n, mean, c + delta * (value - mean)
    if kind in (LAST, SINCE):
        return (time_ms, value, c) if time_ms >= a else (a, b, c)
    if kind == SEEN:
        return float(int(a) | int(value)), b, c
    if kind >= SESSION_EVENTS:
        one = _session_of(kind, time_ms)
        return _joined(kind, partial, one, half_life_ms) if time_ms >= b else _joined(kind, one, partial, half_life_ms)
    if b == 0.0:
        return value, 1.0, time_ms
    if time_ms >= c:
        decay = _decay(time_ms - c, half_life_ms)
        return a * decay + value, b * decay + 1.0, time_ms
    decay = _decay(c - time_ms, half_life_ms)
    return a + value * decay, b + decay, c


@inlined
def merge(kind: int, left: Partial, right: Partial, half_life_ms: float) -> Partial:
    """The partial of two neighbouring stretches of time, the earlier one first."""
    a, b, c = left
    x, y, z = right
    if kind in (COUNT, SUM):
        return a + x, 0.0, 0.0
    if kind == MEAN:
        return a + x, b + y, 0.0
    if kind == MIN:
        return (x if not a <= x and x == x else a), 0.0, 0.0
    if kind == MAX:
        return (x if not a >= x and x == x else a), 0.0, 0.0
    if kind == STD:  # Chan, Golub and LeVeque (1979)
        if a == 0.0:
            return right
        if x == 0.0:
            return left
        n = a + x
        delta = y - b
        return n, b + delta * (x / n), c + z + delta * delta * (a * x / n)
    if kind in (LAST, SINCE):
        return right if x >= a else left
    if kind == SEEN:
        return float(int(a) | int(x)), 0.0, 0.0
    if kind >= SESSION_EVENTS:
        return _joined(kind, left, right, half_life_ms)
    if b == 0.0:
        return right
    if y == 0.0:
        return left
    decay = _decay(z - c, half_life_ms)
    return a * decay + x, b * decay + y, z


@inlined
def finish(kind: int, partial: Partial, time_ms: float, half_life_ms: float) -> float:
    """The aggregate as of a time; NaN of nothing (0 for counts and sums)."""
    a, b, c = partial
    if kind in (COUNT, SUM, MIN, MAX):
        return a
    if kind == MEAN:
        return b / a if a > 0.0 else math.nan
    if kind == STD:
        return math.sqrt(c / a) if a > 0.0 else math.nan
    if kind == LAST:
        return b
    if kind == SINCE:
        return max(time_ms - a, 0.0) / 1000.0 if a > -math.inf else math.nan
    if kind == SEEN:
        bits, seen = int(a), 0.0
        while bits > 0:
            bits &= bits - 1
            seen += 1.0
        return seen
    if kind == SESSIONS:
        return c
    if kind >= SESSION_EVENTS:
        if time_ms - b > half_life_ms:  # the gap has passed since the last event
            return 0.0 if kind == SESSION_EVENTS else math.nan
        return abs(c) if kind == SESSION_EVENTS else (c if kind == SESSION_GAP else time_ms - c) / 1000.0
    return a / b if b > 0.0 else math.nan
