"""Sorted rows of many owners in the heap, so that an entity costs no Python objects.

An owner's rows lie in one block. Full blocks move to a larger one. Rows are sorted by their first word, equal ones in
the order they were inserted. `rows` is an element of `Shard.owners`, `width` the number of words of a row.
"""

from typing import Any

from udfs.compiled import called, inlined, opened
from udfs.heap import allocate, class_for, release, words_of
from udfs.kernel_arrays import SHARD, Shard

_FEW_WORDS = 128
"""So many words are moved within a block rather than to a larger one."""


@inlined
def rows_of(shard: Shard, slot: int, store: int) -> Any:
    """The rows of an entity in one of its stores."""
    return shard.owners[slot * len(shard.operations.stores) + store]


@inlined
def first_word(rows: Any, width: int) -> int:
    """Where an owner's first kept row lies in the heap."""
    word: int = rows.block + rows.first * width
    return word


@inlined
def clear(shard: Shard, rows: Any) -> None:
    """Forget all rows of an owner."""
    release(shard.heap, rows.block, rows.size_class)
    rows.block = 0
    rows.first = 0
    rows.kept = 0


@inlined
def _move_down(shard: Shard, rows: Any, width: int) -> None:
    """Begin the block with the first kept row."""
    words, source, target = shard.heap.words, first_word(rows, width), int(rows.block)
    for word in range(rows.kept * width):
        words[target + word] = words[source + word]
    rows.first = 0


@called
def resize(address: int, rows: Any, width: int, needed: int) -> int:
    """Move an owner's rows to a block for that many rows.

    Returns:
        0, or how many words the heap lacks, having changed nothing.
    """
    shard = opened(address, SHARD)
    words, size_class = shard.heap.words, class_for(needed * width)
    block = allocate(shard.heap, size_class)
    if block == 0:
        return words_of(size_class)
    source = first_word(rows, width)
    for word in range(rows.kept * width):
        words[block + word] = words[source + word]
    release(shard.heap, rows.block, rows.size_class)
    rows.block = block
    rows.first = 0
    rows.size_class = size_class
    return 0


@inlined
def make_room(shard: Shard, rows: Any, width: int) -> int:
    """Make place for one more row; returns as `resize` does."""
    if rows.block != 0:
        if (rows.first + rows.kept + 1) * width <= words_of(rows.size_class):
            return 0
        if rows.first > 0 and (4 * rows.first > rows.kept or rows.kept * width <= _FEW_WORDS):
            _move_down(shard, rows, width)
            return 0
    return resize(shard.address, rows, width, rows.kept + 1)


@inlined
def insert(shard: Shard, rows: Any, width: int, position: int, first: int) -> int:
    """Open a row, `position` rows after the first one (room was made), that begins with the word `first`.

    Returns:
        Where the row lies in the heap.
    """
    words, begin = shard.heap.words, first_word(rows, width)
    row: int = begin + position * width
    word = begin + rows.kept * width - 1
    while word >= row:
        words[word + width] = words[word]
        word -= 1
    words[row] = first
    rows.kept += 1
    return row


@inlined
def rows_below(shard: Shard, block: int, width: int, kept: int, limit: int) -> int:
    """How many of the rows from word `block` on have a first word < `limit`."""
    words = shard.heap.words
    if kept == 0 or words[block + (kept - 1) * width] < limit:
        return kept
    below, unknown = 0, kept - 1
    while unknown > 0:
        half = (unknown + 1) >> 1
        below += half if words[block + (below + half - 1) * width] < limit else 0  # no branch to foretell
        unknown -= half
    return below


@inlined
def drop_first(shard: Shard, rows: Any, width: int, dropped: int) -> bool:
    """Forget the owner's first rows, and give back memory that is mostly empty.

    Returns:
        Whether memory was given back.
    """
    rows.first += dropped
    rows.kept -= dropped
    if rows.kept == 0:
        clear(shard, rows)
        return True
    if words_of(rows.size_class) >= 32 and 4 * rows.kept * width <= words_of(rows.size_class):
        return resize(shard.address, rows, width, 2 * rows.kept) == 0
    return False
