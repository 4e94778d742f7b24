"""Folding the rows of a window, in (event time, arrival) order, independent of history to the last bit.

A fold begins at the window's anchor, the roundest time in it: the rows before are folded one by one towards the past,
the rows from it on one by one towards the future, and the two are merged. The anchor follows from the window alone and
stays while windows slide over it. So a large window need not be folded anew for each event: after every eighth row the
partial is remembered in the entity's index, and the next window begins from there. What is remembered is what would
be computed: remembering, forgetting and restarting never change a result, and an event costs the same however many
rows its window has.
"""

from udfs.compiled import inlined
from udfs.heap import allocate, class_for, release, words_of
from udfs.kernel_arrays import ANCHOR, BLOCK, END, END_BEFORE, KEPT, LOW, MIDDLE, WANTED, Shard
from udfs.partials import EWMA, LAST, SINCE, Partial, add, empty, load, merge, save
from udfs.slabs import first_word, rows_below

DIRECT_ROWS = 32
"""Windows of at most so many rows are folded anew: remembering costs more."""
MARK_EVERY_ROWS = 8
_NUMBERS = 3
"""Most numbers of a partial."""

LINE_WORDS = 6
FROM_ANCHOR, PAST_MARKS, FUTURE_MARKS, MARKS, MARKS_CLASS, MARKS_EACH = range(LINE_WORDS)
"""An operation's line in the index: the anchor, how many partials are remembered on each side of it, the block they
are in with its size class, and for how many there is room on each side. `tallies` has its own use of all but the block."""


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
    if limits.mask_words > 0:
        mask: int = words[row + 1]
        return mask
    return words[row] & ((1 << limits.mask_bits) - 1)


@inlined
def line_of(shard: Shard, slot: int, operation: int) -> int:
    """Where an operation's line in the entity's index lies; 0 when the heap lacks room for an index."""
    entity, limits = shard.entities[slot], shard.operations.limits
    index = int(entity.index)
    if index == 0:
        size_class = class_for(limits.lines * LINE_WORDS)
        index = allocate(shard.heap, size_class)
        if index == 0:
            shard.counts[WANTED] = words_of(size_class)
            return 0
        for word in range(limits.lines * LINE_WORDS):
            shard.heap.words[index + word] = 0
        entity.index = index
    return index + shard.operations.line[operation] * LINE_WORDS


@inlined
def forget_index(shard: Shard, slot: int) -> None:
    """Forget what is remembered of an entity's windows."""
    entity, words = shard.entities[slot], shard.heap.words
    if entity.index != 0:
        lines = shard.operations.limits.lines
        for line in range(lines):
            at = entity.index + line * LINE_WORDS
            release(shard.heap, words[at + MARKS], words[at + MARKS_CLASS])
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
    rows, width = shard.owners[slot * len(operations.store_width) + store], operations.store_width[store]
    for operation in range(len(operations.kind)):
        if operations.line[operation] < 0 or operations.kind[operation] > EWMA:
            continue
        if operations.span_store[operations.span[operation]] != store:
            continue
        line = entity.index + operations.line[operation] * LINE_WORDS
        anchor = words[line + FROM_ANCHOR]
        middle = rows_below(shard, first_word(rows, width), width, int(rows.kept), anchor << bits)
        if first >= anchor:
            words[line + FUTURE_MARKS] = min(words[line + FUTURE_MARKS], (position - middle) // MARK_EVERY_ROWS)
        else:
            words[line + PAST_MARKS] = min(words[line + PAST_MARKS], (middle - 1 - position) // MARK_EVERY_ROWS)


@inlined
def find_window(shard: Shard, slot: int, span: int, time_ms: int) -> None:
    """Find the rows of a span's window as of an event, for all operations over it."""
    operations, window, words = shard.operations, shard.windows[span], shard.heap.words
    store = operations.span_store[span]
    rows = shard.owners[slot * len(operations.store_width) + store]
    entity, width, tile_ms = shard.entities[slot], operations.store_width[store], operations.store_tile_ms[store]
    oldest, until, bits, dropped = entity.max_time_ms - operations.store_retention_ms[store], time_ms, 0, -1
    if tile_ms > 0:
        oldest, until = oldest // tile_ms, until // tile_ms
    else:
        bits, dropped = operations.limits.mask_bits, entity.cut_ms
    after = min(max(until - operations.span_window[span], oldest, -1), until)
    block, kept = first_word(rows, width), int(rows.kept)
    end = rows_below(shard, block, width, kept, (until + 1) << bits)
    low = rows_below(shard, block, width, end, (after + 1) << bits)
    # an event that is too late is not among the rows, nor one that was dropped as the oldest of too many
    own = tile_ms == 0 and time_ms > after and end > low and words[block + (end - 1) * width] >> bits == time_ms
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
def end_of(shard: Shard, operation: int) -> int:
    """Where the rows end that an operation takes from its window."""
    operations = shard.operations
    end: int = shard.windows[operations.span[operation], END_BEFORE if operations.without_own[operation] else END]
    return end


@inlined
def _fold_rows(shard: Shard, operation: int, partial: Partial, row: int, step: int, count: int) -> Partial:
    """Fold further rows into a partial, towards the future (step > 0) or the past."""
    operations, heap = shard.operations, shard.heap
    kind, column, needed = operations.kind[operation], operations.column[operation], operations.needed[operation]
    half_life_ms, bits = operations.half_life[operation], operations.limits.mask_bits
    if operations.span_store[operations.span[operation]] > 0:
        for _ in range(count):
            tile = load(kind, heap.numbers, row + column)
            first, second = (partial, tile) if step > 0 else (tile, partial)
            partial = merge(kind, first, second, half_life_ms)
            row += step
        return partial
    latest = kind == LAST or kind == SINCE
    for _ in range(count):
        if latest and step < 0 and partial[0] >= 0.0:
            break  # the first one found towards the past is the latest
        value = heap.numbers[row + column] if column >= 0 else 0.0
        if mask_of(shard, row) & needed == needed and value == value:
            partial = add(kind, partial, value, float(heap.words[row] >> bits), half_life_ms)
        row += step
    return partial


@inlined
def fold_window(shard: Shard, slot: int, operation: int) -> Partial:
    """Fold the rows of an operation's window."""
    operations, words, numbers = shard.operations, shard.heap.words, shard.heap.numbers
    span, kind, half_life_ms = operations.span[operation], operations.kind[operation], operations.half_life[operation]
    window, width = shard.windows[span], operations.store_width[operations.span_store[span]]
    low, end = window[LOW], end_of(shard, operation)
    middle = min(max(window[MIDDLE], low), end)
    line = 0
    if end - low > operations.limits.direct_rows and window[ANCHOR] >= 0:
        line = line_of(shard, slot, operation)
        if line > 0 and not _marks_for(shard, line, window[ANCHOR], end - low):
            line = 0
    past = empty(kind)
    partial = past
    for towards_future in (False, True):
        count, row, step = middle - low, window[BLOCK] + (middle - 1) * width, -width
        if towards_future:
            count, row, step = end - middle, row + width, width
        partial, done = empty(kind), 0
        if line > 0:
            side = FUTURE_MARKS if towards_future else PAST_MARKS
            first_mark = words[line + MARKS] + (words[line + MARKS_EACH] * _NUMBERS if towards_future else 0)
            # the last row of a store may still change: it is in no remembered partial
            lasting = min(count, window[KEPT] - 1 - middle) if towards_future else count
            known = words[line + side]
            used = min(known, count // MARK_EVERY_ROWS)
            if used > 0:
                partial, done = load(kind, numbers, first_mark + (used - 1) * _NUMBERS), used * MARK_EVERY_ROWS
            while done + MARK_EVERY_ROWS <= lasting:
                partial = _fold_rows(shard, operation, partial, row + done * step, step, MARK_EVERY_ROWS)
                save(kind, numbers, first_mark + used * _NUMBERS, partial)
                done += MARK_EVERY_ROWS
                used += 1
                words[line + side] = used
        partial = _fold_rows(shard, operation, partial, row + done * step, step, count - done)
        if not towards_future:
            past = partial
    return merge(kind, past, partial, half_life_ms)
