"""One array of words in which everything of variable size lies: keys, rows, and what is remembered of windows.

A block has one of the sizes 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ... words; freed ones wait in a list per size.
An offset of 0 means "no block".
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from udfs.compiled import inlined

SIZE_CLASSES = 120
HANDED_OUT, FREED = SIZE_CLASSES, SIZE_CLASSES + 1
"""Where `Heap.free` counts the words ever handed out (the next block lies there), and those of them freed since."""
_FIRST_OFFSET = 2
MOST_WORDS = 2**32 - 1
"""Offsets are kept in 32 bits."""


class Heap(NamedTuple):
    """Blocks of words.

    Attributes:
        words: (size,) int64.
        numbers: (size,) float64: the same memory.
        octets: (8 * size,) uint8: the same memory.
        free: (SIZE_CLASSES + 2,) int64: the first free block by size class (the next one is in its first word), counts.
    """

    words: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.float64]
    octets: npt.NDArray[np.uint8]
    free: npt.NDArray[np.int64]


def new_heap(words: int) -> Heap:
    """A heap without blocks."""
    free = np.empty(SIZE_CLASSES + 2, np.int64)
    no_blocks(free)
    return heap_of(np.zeros(max(words, 64), np.int64), free)


def no_blocks(free: npt.NDArray[np.int64]) -> None:
    """Make it the `free` of a heap without blocks."""
    free[:] = 0
    free[HANDED_OUT] = _FIRST_OFFSET


def heap_of(words: npt.NDArray[np.int64], free: npt.NDArray[np.int64]) -> Heap:
    """The heap in these words."""
    return Heap(words, words.view(np.float64), words.view(np.uint8), free)


@inlined
def words_of(size_class: int) -> int:
    """How many words a block has."""
    return size_class + 1 if size_class < 4 else (5 + (size_class & 3)) << ((size_class >> 2) - 1)


@inlined
def class_for(words: int) -> int:
    """The smallest size class with that many words."""
    size_class = 0
    while words_of(size_class) < words:
        size_class += 1
    return size_class


@inlined
def allocate(heap: Heap, size_class: int) -> int:
    """A block's offset; 0 when the heap has to grow."""
    offset: int = heap.free[size_class]
    size = words_of(size_class)
    if offset != 0:
        heap.free[size_class] = heap.words[offset]
        heap.free[FREED] -= size
        return offset
    offset = heap.free[HANDED_OUT]
    if offset + size > len(heap.words):
        return 0
    heap.free[HANDED_OUT] = offset + size
    return offset


@inlined
def release(heap: Heap, offset: int, size_class: int) -> None:
    """Give a block back; nothing for offset 0."""
    if offset != 0:
        heap.words[offset] = heap.free[size_class]
        heap.free[size_class] = offset
        heap.free[FREED] += words_of(size_class)
