"""What is remembered of an entity's windows: an index of lines in the heap, made once it has many rows.

There is a line for each span whose windows are folded, with partials at marks, and one for each Distinct, with a tally.
Nothing in an index is needed: it may be forgotten at any time, and there need not be room for it.

A mark is made after every few rows on both sides of an anchor, a time (or tile) that windows begin to be folded at:
it has the partials, of all operations over the span, of the rows between the anchor and the mark.
"""

from typing import Any

from udfs.compiled import called, inlined, opened
from udfs.heap import allocate, class_for, release, words_of
from udfs.kernel_arrays import SHARD, WANTED, Shard
from udfs.slabs import first_word, rows_below, rows_of

ROWS_A_MARK = 8
LINE_WORDS = 6
ANCHOR, PAST_MARKS, FUTURE_MARKS, LINE_BLOCK, BLOCK_CLASS, ROOM = range(LINE_WORDS)
"""A span's line: the anchor, how many marks there are on each side of it, the block they are in with its size class,
and for how many it has room: those of the past from its beginning on, those of the future from its end. The lines of
tallies have their block in the same place."""


@inlined
def line_of(shard: Shard, slot: int, line: int) -> int:
    """Where a line of the entity's index lies; 0 when the heap lacks room for an index."""
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
    return index + line * LINE_WORDS


@called
def forget_index(address: int, slot: int) -> None:
    """Forget what is remembered of an entity's windows."""
    shard = opened(address, SHARD)
    entity, words, lines = shard.entities[slot], shard.heap.words, shard.operations.limits.lines
    if entity.index != 0:
        for line in range(entity.index, entity.index + lines * LINE_WORDS, LINE_WORDS):
            release(shard.heap, words[line + LINE_BLOCK], words[line + BLOCK_CLASS])
        release(shard.heap, entity.index, class_for(lines * LINE_WORDS))
        entity.index = 0


@called
def marks_at(address: int, slot: int, span: Any, anchor: int, past: int, future: int) -> int:
    """The line of a span, with room for so many marks on each side of this anchor; 0 if that cannot be."""
    shard = opened(address, SHARD)
    words, line = shard.heap.words, line_of(shard, slot, span.line)
    if line == 0 or anchor < words[line + ANCHOR]:
        return 0  # an event so late is seldom: fold its window without remembering
    if anchor > words[line + ANCHOR]:
        words[line + ANCHOR] = anchor
        words[line + PAST_MARKS] = 0
        words[line + FUTURE_MARKS] = 0
    future = max(future, words[line + FUTURE_MARKS])
    if past + future > words[line + ROOM]:
        size_class = class_for(span.mark_words * (past + future + ((past + future) >> 1) + 1))
        block = allocate(shard.heap, size_class)
        if block == 0:
            shard.counts[WANTED] = words_of(size_class)
            return 0
        release(shard.heap, words[line + LINE_BLOCK], words[line + BLOCK_CLASS])
        words[line + LINE_BLOCK] = block
        words[line + BLOCK_CLASS] = size_class
        words[line + ROOM] = words_of(size_class) // span.mark_words
        words[line + PAST_MARKS] = 0
        words[line + FUTURE_MARKS] = 0
    # windows leave behind the marks that are furthest in the past: their room is for the future
    words[line + PAST_MARKS] = min(words[line + PAST_MARKS], past)
    return line


@inlined
def mark_place(shard: Shard, line: int, span: Any, side: int, mark: int) -> int:
    """The word at which the partials of a mark begin."""
    words = shard.heap.words
    number = words[line + ROOM] - 1 - mark if side == FUTURE_MARKS else mark
    place: int = words[line + LINE_BLOCK] + number * span.mark_words
    return place


@called
def row_changed(address: int, slot: int, store: int, position: int, first: int) -> None:
    """Forget marks beyond a row that was changed or inserted and is not the last of its store.

    Args:
        address: Of the shard's parcel.
        slot: The entity.
        store: Which of its stores.
        position: The row's, now.
        first: The row's time or tile, as anchors have it.
    """
    shard = opened(address, SHARD)
    entity, operations, words = shard.entities[slot], shard.operations, shard.heap.words
    if entity.index == 0:
        return
    bits = operations.limits.mask_bits if store == 0 else 0
    rows, width = rows_of(shard, slot, store), operations.stores[store].width
    for number in range(len(operations.spans)):
        span = operations.spans[number]
        if span.line < 0 or span.store != store:
            continue
        line = entity.index + span.line * LINE_WORDS
        anchor = words[line + ANCHOR]
        middle = rows_below(shard, first_word(rows, width), width, int(rows.kept), anchor << bits)
        if first >= anchor:
            words[line + FUTURE_MARKS] = min(words[line + FUTURE_MARKS], (position - middle) // ROWS_A_MARK)
        else:
            words[line + PAST_MARKS] = min(words[line + PAST_MARKS], (middle - 1 - position) // ROWS_A_MARK)
