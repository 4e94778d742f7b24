"""Folding the kept events of a window, in (event time, arrival) order, independent of history to the last bit.

A window is cut into blocks of time: block b of width w holds the times [b*w, (b+1)*w). Each block is folded from its
first event, then the blocks are merged in order. Where a block lies wholly inside a window, its partial is a function
of its events alone, so it may be remembered: a window of very many events then costs its blocks, not its events, and
remembering, forgetting and restarting never change a result.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from udfs.compiled import inlined
from udfs.partials import COUNT, LAST, MAX, MEAN, MIN, SINCE, STD, SUM, Partial, add, empty, merge
from udfs.slabs import Slabs

BLOCKS_PER_WINDOW = 64
REMEMBER_FROM_ROWS = 256
"""Windows of fewer events are folded event by event: looking blocks up costs more."""


class BlockCache(NamedTuple):
    """Partials of whole blocks, direct-mapped: a collision only costs time.

    Attributes:
        owners: (entries,) int64: the entity's slot and generation; -1 is free. Entries are a power of two, or 0.
        blocks: (entries, 2) int64: operation, block.
        rows: (entries,) int64: how many rows the block has.
        partials: (entries, 3) float64.
    """

    owners: npt.NDArray[np.int64]
    blocks: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    partials: npt.NDArray[np.float64]


def new_block_cache(entries: int) -> BlockCache:
    """A cache with `entries` places, a power of two; 0 remembers nothing."""
    return BlockCache(
        np.full(entries, -1, np.int64),
        np.zeros((entries, 2), np.int64),
        np.zeros(entries, np.int64),
        np.zeros((entries, 3)),
    )


@inlined
def _place(cache: BlockCache, owner: int, operation: int, block: int) -> int:
    mixed = owner * 0x9E3779B1 + operation * 0x85EBCA77 + block * 0xC2B2AE3D
    return (mixed ^ (mixed >> 15)) & (len(cache.owners) - 1)


@inlined
def forget_block(cache: BlockCache, owner: int, operation: int, block: int) -> None:
    """Forget a block whose events change."""
    place = _place(cache, owner, operation, block)
    if cache.owners[place] == owner and cache.blocks[place, 0] == operation and cache.blocks[place, 1] == block:
        cache.owners[place] = -1


@inlined
def _fold_rows(kind: int, column: int, needed: int, half_life_ms: float, slabs: Slabs, begin: int, end: int) -> Partial:
    """Fold rows begin..end-1, one after the other; the deviation in two passes."""
    keys, masks, values = slabs.keys, slabs.masks, slabs.values
    if kind == COUNT:
        count = 0
        for row in range(begin, end):
            if masks[row] & needed == needed:
                count += 1
        return float(count), 0.0, 0.0
    if kind in (SUM, MEAN, STD):
        count, total = 0, 0.0
        for row in range(begin, end):
            value = values[row, column]
            if masks[row] & needed == needed and value == value:
                count += 1
                total += value
        if kind == SUM:
            return total, 0.0, 0.0
        if kind == MEAN or count == 0:
            return float(count), total, 0.0
        mean, squares = total / count, 0.0
        for row in range(begin, end):
            value = values[row, column]
            if masks[row] & needed == needed and value == value:
                squares += (value - mean) * (value - mean)
        return float(count), mean, squares
    if kind in (LAST, SINCE):
        for row in range(end - 1, begin - 1, -1):
            value = values[row, column] if kind == LAST else 0.0
            if masks[row] & needed == needed and value == value:
                return float(keys[row]), value, 0.0
        return empty(kind)
    partial = empty(kind)
    for row in range(begin, end):
        value = values[row, column]
        if masks[row] & needed == needed and value == value:
            partial = add(kind, partial, value, float(keys[row]), half_life_ms)
    return partial


@inlined
def _end_of_block(keys: npt.NDArray[np.int64], begin: int, end: int, next_block: int) -> int:
    """The first row from `begin` on whose time lies in a later block."""
    if end - begin > 16:
        low, high = begin, end
        while low < high:
            middle = (low + high) >> 1
            if keys[middle] < next_block:
                low = middle + 1
            else:
                high = middle
        return low
    while begin < end and keys[begin] < next_block:
        begin += 1
    return begin


@inlined
def fold_window(
    kind: int, column: int, needed: int, half_life_ms: float, block_ms: int, operation: int,
    slabs: Slabs, begin: int, end: int, after_ms: int, until_ms: int, cache: BlockCache, owner: int,
) -> Partial:  # fmt: skip
    """Fold rows begin..end-1: the owner's with a time in (after_ms, until_ms], and maybe later ones at the end.

    Blocks wholly inside (after_ms, until_ms] are looked up and remembered.
    """
    in_one_go = kind == COUNT or kind == MIN or kind == MAX or kind == LAST or kind == SINCE  # blocks change no bit
    if kind == COUNT and needed == 0:
        return float(end - begin), 0.0, 0.0
    remember = end - begin > REMEMBER_FROM_ROWS and len(cache.owners) > 0
    if in_one_go and not remember:
        return _fold_rows(kind, column, needed, half_life_ms, slabs, begin, end)
    partial = empty(kind)
    row = begin
    while row < end:
        block = slabs.keys[row] // block_ms
        whole = remember and block * block_ms > after_ms and (block + 1) * block_ms - 1 <= until_ms
        place = 0
        if whole:
            place = _place(cache, owner, operation, block)
            if cache.owners[place] == owner and cache.blocks[place, 0] == operation and cache.blocks[place, 1] == block:
                kept = (cache.partials[place, 0], cache.partials[place, 1], cache.partials[place, 2])
                partial = merge(kind, partial, kept, half_life_ms)
                row += cache.rows[place]
                continue
        next_row = _end_of_block(slabs.keys, row, end, (block + 1) * block_ms)
        folded = _fold_rows(kind, column, needed, half_life_ms, slabs, row, next_row)
        if whole:
            cache.owners[place] = owner
            cache.blocks[place, 0] = operation
            cache.blocks[place, 1] = block
            cache.rows[place] = next_row - row
            cache.partials[place, 0], cache.partials[place, 1], cache.partials[place, 2] = folded
        partial = merge(kind, partial, folded, half_life_ms)
        row = next_row
    return partial


class Scratch(NamedTuple):
    """Room for intermediate results: kernels make no arrays of their own.

    Attributes:
        results: (ops,) float64.
        table: float64, a power of two at least twice the rows of any entity whose distinct values are counted.
        number: (1,) float64.
        bits: (1,) int64: the same memory as `number`.
        missing: (1,) int64.
    """

    results: npt.NDArray[np.float64]
    table: npt.NDArray[np.float64]
    number: npt.NDArray[np.float64]
    bits: npt.NDArray[np.int64]
    missing: npt.NDArray[np.int64]


def new_scratch(operations: int) -> Scratch:
    """Room for that many operations and small tables."""
    number = np.zeros(1)
    return Scratch(np.empty(operations), np.empty(1024), number, number.view(np.int64), np.zeros(1, np.int64))


@inlined
def count_distinct(column: int, needed: int, slabs: Slabs, begin: int, end: int, scratch: Scratch) -> float:
    """How many different values rows begin..end-1 have, by open addressing; NaN is none."""
    masked = len(slabs.masks) > 0
    places, found = 8, 0
    while places < 2 * (end - begin):
        places *= 2
    for place in range(places):
        scratch.table[place] = math.nan
    for row in range(begin, end):
        value = slabs.values[row, column]
        if value != value or (masked and slabs.masks[row] & needed != needed):
            continue
        scratch.number[0] = value + 0.0  # -0.0 and 0.0 are one value
        mixed = (scratch.bits[0] ^ (scratch.bits[0] >> 32)) * 0x9E3779B1
        place = (mixed >> 8) & (places - 1)
        while scratch.table[place] == scratch.table[place] and scratch.table[place] != value:
            place = (place + 1) & (places - 1)
        if scratch.table[place] != scratch.table[place]:
            scratch.table[place] = value
            found += 1
    return float(found)
