"""Folding the rows of a window, in (event time, arrival) order, independent of history to the last bit.

A fold begins at the window's anchor, the roundest time in it: the rows before are folded one by one towards the past,
the rows from it on one by one towards the future, and the two are merged. The anchor follows from the window alone and
stays while windows slide over it. So a large window need not be folded anew for each event: the entity's index has
marks on the way, and a fold goes on from the last one. A mark has what folding would give: remembering, forgetting and
restarting never change a result, and an event costs the same however many rows its window has.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.compiled import called, inlined, opened
from udfs.indexes import FUTURE_MARKS, PAST_MARKS, ROWS_A_MARK, mark_place, marks_at
from udfs.kernel_arrays import BLOCK, END, END_BEFORE, KEPT, LINE, LOW, MIDDLE, SHARD, Shard
from udfs.partials import (
    LAST,
    SEEN,
    SINCE,
    Partial,
    add,
    empty,
    load,
    merge,
    save,
)
from udfs.slabs import first_word, rows_below, rows_of

DIRECT_ROWS = 32
"""Windows of at most so many rows are folded anew: remembering costs more."""


@inlined
def roundest(after: int, until: int) -> int:
    """The number in (after, until] that the highest power of two divides; until >= 0."""
    if after < 0:
        return 0
    differ = after ^ until
    differ |= differ >> 1
    differ |= differ >> 2
    differ |= differ >> 4
    differ |= differ >> 8
    differ |= differ >> 16
    differ |= differ >> 32
    return until & ~(differ >> 1)


@inlined
def mask_of(shard: Shard, row: int) -> int:
    """The conditions a kept event passed."""
    limits, words = shard.operations.limits, shard.heap.words
    mask: int = words[row + 1] if limits.mask_words > 0 else words[row] & ((1 << limits.mask_bits) - 1)
    return mask


@inlined
def _lasting(window: npt.NDArray[np.int64]) -> int:
    """Where the rows end that marks may have: the last row of a store may still change."""
    return min(int(window[END]), int(window[KEPT]) - 1)


@called
def find_window(address: int, slot: int, number: int, time_ms: int) -> None:
    """Find the rows of a span's window as of an event, and marks for it, for all operations over it."""
    shard = opened(address, SHARD)
    operations, window, words = shard.operations, shard.windows[number], shard.heap.words
    span, entity = operations.spans[number], shard.entities[slot]
    store, rows = operations.stores[span.store], rows_of(shard, slot, span.store)
    oldest, until, bits, dropped = entity.max_time_ms - store.retention_ms, time_ms, 0, -1
    if store.tile_ms > 0:
        oldest, until = oldest // store.tile_ms, until // store.tile_ms
    else:
        bits, dropped = operations.limits.mask_bits, entity.cut_ms
    after = min(max(until - span.window, oldest, -1), until)
    width, block, kept = store.width, first_word(rows, store.width), int(rows.kept)
    end = rows_below(shard, block, width, kept, (until + 1) << bits)
    low = rows_below(shard, block, width, end, (after + 1) << bits)
    # an event that is too late is not among the rows, nor one that was dropped as the oldest of too many
    own = store.tile_ms == 0 and time_ms > after and end > low and words[block + (end - 1) * width] >> bits == time_ms
    window[BLOCK], window[LOW], window[END], window[KEPT] = block, low, end, kept
    window[END_BEFORE] = end - 1 if own else end
    window[MIDDLE], window[LINE] = low, 0
    # rows that were dropped because there were too many must not lie after the anchor
    after = max(after, dropped)
    if span.mark_words > 0 and after < until:
        anchor = roundest(after, until)
        window[MIDDLE] = low + rows_below(shard, block + low * width, width, end - low, anchor << bits)
        if end - low > operations.limits.direct_rows:
            past, future = window[MIDDLE] - low, _lasting(window) - window[MIDDLE]
            window[LINE] = marks_at(
                shard.address, slot, span, anchor, past // ROWS_A_MARK, max(future // ROWS_A_MARK, 0)
            )
            _mark(shard.address, number)


@inlined
def end_of(shard: Shard, step: Any) -> int:
    """Where the rows end that an operation takes from its window."""
    window = shard.windows[step.span]
    end: int = window[END_BEFORE] if step.without_own > 0 else window[END]
    return end


@called
def _mark(address: int, number: int) -> None:
    """Make the marks that a span's window lacks."""
    shard = opened(address, SHARD)
    window, span = shard.windows[number], shard.operations.spans[number]
    words, numbers = shard.heap.words, shard.heap.numbers
    line, middle, width = window[LINE], window[MIDDLE], shard.operations.stores[span.store].width
    if line == 0:
        return
    for side in (PAST_MARKS, FUTURE_MARKS):
        rows, row, stride = middle - window[LOW], window[BLOCK] + (middle - 1) * width, -width
        if side == FUTURE_MARKS:
            rows, row, stride = _lasting(window) - middle, row + width, width
        while (words[line + side] + 1) * ROWS_A_MARK <= rows:
            made = words[line + side]
            before, place = mark_place(shard, line, span, side, made - 1), mark_place(shard, line, span, side, made)
            for operation in range(len(shard.operations.steps)):
                step = shard.operations.steps[operation]
                if step.span == number and step.mark >= 0:
                    partial = load(step.kind, numbers, before + step.mark) if made > 0 else empty(step.kind)
                    partial = _fold_rows(shard, step, partial, row + made * ROWS_A_MARK * stride, stride, ROWS_A_MARK)
                    save(step.kind, numbers, place + step.mark, partial)
            words[line + side] = made + 1


@called
def fold_window(address: int, step: Any) -> Partial:
    """Fold the rows of an operation's window."""
    shard = opened(address, SHARD)
    words, window, span = shard.heap.words, shard.windows[step.span], shard.operations.spans[step.span]
    end, line, width = end_of(shard, step), window[LINE], shard.operations.stores[span.store].width
    middle = min(window[MIDDLE], end)
    past = partial = empty(step.kind)
    for side in (PAST_MARKS, FUTURE_MARKS):
        count, row, stride = middle - window[LOW], window[BLOCK] + (middle - 1) * width, -width
        if side == FUTURE_MARKS:
            past = partial
            count, row, stride = end - middle, row + width, width
        partial, done = empty(step.kind), 0
        if line > 0:
            marks = min(words[line + side], count // ROWS_A_MARK)
            if marks > 0:
                place = mark_place(shard, line, span, side, marks - 1) + step.mark
                partial, done = load(step.kind, shard.heap.numbers, place), marks * ROWS_A_MARK
        partial = _fold_rows(shard, step, partial, row + done * stride, stride, count - done)
    return merge(step.kind, past, partial, step.half_life_ms)


@inlined
def _fold_rows(shard: Shard, step: Any, partial: Partial, row: int, stride: int, count: int) -> Partial:
    """Fold further rows into a partial, towards the future (stride > 0) or the past."""
    kind, numbers, needed, half_life_ms = step.kind, shard.heap.numbers, step.needed, step.half_life_ms
    if shard.operations.spans[step.span].store > 0:
        for _ in range(count):
            tile = load(kind, numbers, row + step.column)
            first, second = (partial, tile) if stride > 0 else (tile, partial)
            partial = merge(kind, first, second, half_life_ms)
            row += stride
        return partial
    for _ in range(count):
        if kind in (LAST, SINCE) and stride < 0 and partial[0] >= 0.0:
            break  # the first one found towards the past is the latest
        mask, value = mask_of(shard, row), 0.0
        if kind == SEEN:
            value = float(mask & step.column)
        elif step.column >= 0:
            value = numbers[row + step.column]
        if mask & needed == needed and value == value:
            time_ms = float(shard.heap.words[row] >> shard.operations.limits.mask_bits)
            partial = add(kind, partial, value, time_ms, half_life_ms)
        row += stride
    return partial
