"""The rows of the last n events of a window that pass a condition, found without looking at all of them.

Rows are looked at from the newest on. Marks have counts of those that pass, so stretches without any are skipped: it
takes a few rows for each one found, and the logarithm of how many there are.
"""

import math
from typing import Any

from udfs.compiled import called, inlined, opened
from udfs.indexes import FUTURE_MARKS, PAST_MARKS, ROWS_A_MARK, mark_place
from udfs.kernel_arrays import BLOCK, LINE, LOW, MIDDLE, SHARD, Shard
from udfs.partials import LATEST_RIGHT
from udfs.window_kernels import end_of, mask_of


@inlined
def _passed(shard: Shard, step: Any, side: int, mark: int) -> float:
    """How many rows between the anchor and a mark pass; 0 before the first mark."""
    if mark < 0:
        return 0.0
    span, line = shard.operations.spans[step.span], shard.windows[step.span, LINE]
    return float(shard.heap.numbers[mark_place(shard, line, span, side, mark) + step.column])


@called
def _skipped(address: int, step: Any, position: int) -> int:
    """The newest row up to `position` that may pass, by the marks that begin there."""
    shard = opened(address, SHARD)
    window, words = shard.windows[step.span], shard.heap.words
    line, middle = window[LINE], window[MIDDLE]
    if line == 0:
        return position
    if position >= middle:
        rows = position + 1 - middle
        mark = rows // ROWS_A_MARK - 1
        if rows % ROWS_A_MARK != 0 or mark >= words[line + FUTURE_MARKS]:
            return position
        passed = _passed(shard, step, FUTURE_MARKS, mark)
        if passed != _passed(shard, step, FUTURE_MARKS, mark - 1):
            return position
        low, high = -1, mark - 1
        while low < high:
            half = (low + high) >> 1
            if _passed(shard, step, FUTURE_MARKS, half) == passed:
                high = half
            else:
                low = half + 1
        return int(middle + (low + 1) * ROWS_A_MARK - 1)
    rows = middle - 1 - position
    mark = rows // ROWS_A_MARK
    marks = min(int(words[line + PAST_MARKS]), int(middle - window[LOW]) // ROWS_A_MARK)
    if rows % ROWS_A_MARK != 0 or mark >= marks:
        return position
    passed = _passed(shard, step, PAST_MARKS, mark - 1)
    if passed != _passed(shard, step, PAST_MARKS, mark):
        return position
    low, high = mark, marks - 1
    while low < high:
        half = (low + high + 1) >> 1
        if _passed(shard, step, PAST_MARKS, half) == passed:
            low = half
        else:
            high = half - 1
    return int(middle - 1 - (low + 1) * ROWS_A_MARK)


@called
def find_latest(address: int, step: Any, number: int) -> None:
    """Put the words of the latest rows of an operation's window into `Shard.results`.

    Args:
        address: Of the shard's parcel.
        step: The operation: how many rows, and on which side -1 stands for those that are not there.
        number: Its place: there and in the places after it the words go, the oldest first.
    """
    shard = opened(address, SHARD)
    window, results, wanted, needed = shard.windows[step.span], shard.results, int(step.other), step.needed
    width = shard.operations.stores[shard.operations.spans[step.span].store].width
    low, end, found = window[LOW], end_of(shard, step), 0
    position = end - 1
    while position >= low and found < wanted:
        if needed != 0:
            before = position
            position = _skipped(shard.address, step, position)
            if position < before:
                continue
        row = window[BLOCK] + position * width
        if needed == 0 or mask_of(shard, row) & needed == needed:
            found += 1
            results[number + wanted - found] = float(row)
        position -= 1
    for place in range(wanted - found):
        results[number + place] = -1.0
    if step.kind == LATEST_RIGHT and found < wanted:
        for place in range(wanted):
            results[number + place] = results[number + place + wanted - found] if place < found else -1.0


@inlined
def item_of(shard: Shard, step: Any) -> float:
    """A number of one of the rows that were found, 1 where only the row matters; NaN where there is none."""
    row = int(shard.results[step.other])
    if row < 0:
        return math.nan
    return float(shard.heap.numbers[row + step.column]) if step.column >= 0 else 1.0


@inlined
def length_of(shard: Shard, step: Any) -> float:
    """How many rows were found."""
    found = 0.0
    for place in range(step.other, step.other + step.column):
        if shard.results[place] >= 0.0:
            found += 1.0
    return found
