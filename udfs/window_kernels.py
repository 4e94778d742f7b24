"""Folding the rows of a window, in (event time, arrival) order, independent of history to the last bit.

A fold begins at the window's anchor, the roundest time in it: the rows before are folded one by one towards the past,
the rows from it on one by one towards the future, and the two are merged. The anchor follows from the window alone and
stays while windows slide over it. So a large window need not be folded anew for each event: after every eighth row the
partial is remembered in the entity's index, and the next window begins from there. What is remembered is what would
be computed: remembering, forgetting and restarting never change a result, and an event costs the same however many
rows its window has.
"""

from typing import Any

from udfs.compiled import inlined
from udfs.heap import allocate, class_for, release, words_of
from udfs.kernel_arrays import ANCHOR, BLOCK, END, END_BEFORE, KEPT, LOW, MIDDLE, WANTED, Shard
from udfs.partials import EWMA, LAST, SINCE, Partial, add, empty, load, merge, save
from udfs.slabs import first_word, rows_below, rows_of

DIRECT_ROWS = 32
"""Windows of at most so many rows are folded anew: remembering costs more."""
MARK_EVERY_ROWS = 8
_NUMBERS = 3
"""Most numbers of a partial."""

LINE_WORDS = 6
FROM_ANCHOR, PAST_MARKS, FUTURE_MARKS, MARKS, MARKS_CLASS, MARKS_EACH = range(LINE_WORDS)
"""An operation's line in the index: the anchor, how many partials are remembered on each side of it, the block they
are in with its size class, and for how many there is room on each side. `tallies` has its own use of the others."""


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
def line_of(shard: Shard, slot: int, step: Any) -> int:
    """Where an operation's line in the entity's index lies; 0 when the heap lacks room for an index."""
    entity, lines = shard.entities[slot], shard.operations.limits.lines
    index = int(entity.index)
    if index == 0:
        size_class = class_for(lines * LINE_WORDS)
        index = allocate(shard.heap, size_class)
        if index == 0:
            shard.counts[WANTED] = words_of(size_class)
            return 0
        for word in range(lines * LINE_WORDS):
            shard.heap.words[index + word] = 0
        entity.index = index
    return index + int(step.line) * LINE_WORDS


@inlined
def forget_index(shard: Shard, slot: int) -> None:
    """Forget what is remembered of an entity's windows."""
    entity, words, lines = shard.entities[slot], shard.heap.words, shard.operations.limits.lines
    if entity.index != 0:
        for line in range(entity.index, entity.index + lines * LINE_WORDS, LINE_WORDS):
            release(shard.heap, words[line + MARKS], words[line + MARKS_CLASS])
        release(shard.heap, entity.index, class_for(lines * LINE_WORDS))
        entity.index = 0


@inlined
def _marks_for(shard: Shard, line: int, anchor: int, rows: int) -> bool:
    """Make the line one of this anchor with room for that many rows on each side; False if that cannot be."""
    words, marks = shard.heap.words, rows // MARK_EVERY_ROWS
    if anchor < words[line + FROM_ANCHOR]:
        return False  # an event so late is seldom: fold its window without remembering
    if words[line + MARKS] == 0 or words[line + MARKS_EACH] < marks:
        size_class = class_for(2 * _NUMBERS * (marks + (marks >> 1) + 1))
        block = allocate(shard.heap, size_class)
        if block == 0:
            shard.counts[WANTED] = words_of(size_class)
            return False
        release(shard.heap, words[line + MARKS], words[line + MARKS_CLASS])
        words[line + MARKS] = block
        words[line + MARKS_CLASS] = size_class
        words[line + MARKS_EACH] = words_of(size_class) // (2 * _NUMBERS)
        words[line + FROM_ANCHOR] = -1
    if anchor > words[line + FROM_ANCHOR]:
        words[line + FROM_ANCHOR] = anchor
        words[line + PAST_MARKS] = 0
        words[line + FUTURE_MARKS] = 0
    return True


@inlined
def row_changed(shard: Shard, slot: int, store: int, position: int, first: int) -> None:
    """Forget partials with a row that was changed or inserted and is not the last of its store.

    Args:
        shard: The shard.
        slot: The entity.
        store: Which of its stores.
        position: The row's, now.
        first: The row's time or tile, as anchors have it.
    """
    entity, operations, words = shard.entities[slot], shard.operations, shard.heap.words
    if entity.index == 0:
        return
    bits = operations.limits.mask_bits if store == 0 else 0
    rows, width = rows_of(shard, slot, store), operations.stores[store].width
    for operation in range(len(operations.steps)):
        step = operations.steps[operation]
        if step.line < 0 or step.kind > EWMA or operations.spans[step.span].store != store:
            continue
        line = entity.index + step.line * LINE_WORDS
        anchor = words[line + FROM_ANCHOR]
        middle = rows_below(shard, first_word(rows, width), width, int(rows.kept), anchor << bits)
        if first >= anchor:
            words[line + FUTURE_MARKS] = min(words[line + FUTURE_MARKS], (position - middle) // MARK_EVERY_ROWS)
        else:
            words[line + PAST_MARKS] = min(words[line + PAST_MARKS], (middle - 1 - position) // MARK_EVERY_ROWS)


@inlined
def find_window(shard: Shard, slot: int, number: int, time_ms: int) -> None:
    """Find the rows of a span's window as of an event, for all operations over it."""
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
    # rows that were dropped because there were too many must not lie after the anchor
    after = max(after, dropped)
    if after < until:
        window[ANCHOR] = roundest(after, until)
        window[MIDDLE] = low + rows_below(shard, block + low * width, width, end - low, window[ANCHOR] << bits)
    else:
        window[ANCHOR], window[MIDDLE] = -1, low


@inlined
def end_of(shard: Shard, step: Any) -> int:
    """Where the rows end that an operation takes from its window."""
    window = shard.windows[step.span]
    end: int = window[END_BEFORE] if step.without_own > 0 else window[END]
    return end


@inlined
def _fold_rows(shard: Shard, step: Any, partial: Partial, row: int, stride: int, count: int) -> Partial:
    """Fold further rows into a partial, towards the future (stride > 0) or the past."""
    heap, kind, needed, bits = shard.heap, step.kind, step.needed, shard.operations.limits.mask_bits
    if shard.operations.spans[step.span].store > 0:
        for _ in range(count):
            tile = load(kind, heap.numbers, row + step.column)
            first, second = (partial, tile) if stride > 0 else (tile, partial)
            partial = merge(kind, first, second, step.half_life_ms)
            row += stride
        return partial
    latest = kind in (LAST, SINCE)
    for _ in range(count):
        if latest and stride < 0 and partial[0] >= 0.0:
            break  # the first one found towards the past is the latest
        value = heap.numbers[row + step.column] if step.column >= 0 else 0.0
        if mask_of(shard, row) & needed == needed and value == value:
            partial = add(kind, partial, value, float(heap.words[row] >> bits), step.half_life_ms)
        row += stride
    return partial


@inlined
def fold_window(shard: Shard, slot: int, step: Any) -> Partial:
    """Fold the rows of an operation's window."""
    words, numbers, kind = shard.heap.words, shard.heap.numbers, step.kind
    window, width = shard.windows[step.span], shard.operations.stores[shard.operations.spans[step.span].store].width
    low, end = window[LOW], end_of(shard, step)
    middle = min(max(window[MIDDLE], low), end)
    line = 0
    if end - low > shard.operations.limits.direct_rows and window[ANCHOR] >= 0:
        line = line_of(shard, slot, step)
        if line > 0 and not _marks_for(shard, line, window[ANCHOR], end - low):
            line = 0
    past = partial = empty(kind)
    for towards_future in (False, True):
        count, row, stride = middle - low, window[BLOCK] + (middle - 1) * width, -width
        if towards_future:
            count, row, stride = end - middle, row + width, width
        partial, done = empty(kind), 0
        if line > 0:
            side = FUTURE_MARKS if towards_future else PAST_MARKS
            first_mark = words[line + MARKS] + (words[line + MARKS_EACH] * _NUMBERS if towards_future else 0)
            # the last row of a store may still change: it is in no remembered partial
            lasting = min(count, window[KEPT] - 1 - middle) if towards_future else count
            used = min(words[line + side], count // MARK_EVERY_ROWS)
            if used > 0:
                partial, done = load(kind, numbers, first_mark + (used - 1) * _NUMBERS), used * MARK_EVERY_ROWS
            while done + MARK_EVERY_ROWS <= lasting:
                partial = _fold_rows(shard, step, partial, row + done * stride, stride, MARK_EVERY_ROWS)
                save(kind, numbers, first_mark + used * _NUMBERS, partial)
                done += MARK_EVERY_ROWS
                used += 1
                words[line + side] = used
        partial = _fold_rows(shard, step, partial, row + done * stride, stride, count - done)
        if not towards_future:
            past = partial
    return merge(kind, past, partial, step.half_life_ms)
