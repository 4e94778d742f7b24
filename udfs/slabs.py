"""Sorted rows of many owners in a few flat arrays, so that an entity costs no Python objects.

An owner's rows lie in one slab: a stretch of the arrays whose capacity is a power of two. Full slabs move to one twice
as large; freed ones wait in a list per size. Rows are sorted by key, equal keys in the order they were inserted.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from udfs.compiled import compiled, inlined

SMALLEST = 1
"""Size class of the smallest slab: 2 rows."""
HIGH_WATER = 40
"""Where `free` holds the number of rows ever handed out."""


class Slabs(NamedTuple):
    """Rows and where each owner's lie.

    Attributes:
        keys: (rows,) int64: event time in ms, or tile.
        masks: (rows,) uint64: conditions the event passed; (0,) where not needed.
        values: (rows, width) float64.
        start: (owners,) int64: the slab's first row.
        first: (owners,) int32: the first kept row, counted from `start`.
        kept: (owners,) int32: how many rows are kept.
        size_class: (owners,) int8: the slab holds 2 ** size_class rows; 0 is no slab.
        free: (41,) int64: the first free slab per size class or -1 (the next one is in its first key); high water.
    """

    keys: npt.NDArray[np.int64]
    masks: npt.NDArray[np.uint64]
    values: npt.NDArray[np.float64]
    start: npt.NDArray[np.int64]
    first: npt.NDArray[np.int32]
    kept: npt.NDArray[np.int32]
    size_class: npt.NDArray[np.int8]
    free: npt.NDArray[np.int64]


def new_slabs(width: int) -> Slabs:
    """Slabs without rows or owners."""
    free = np.full(HIGH_WATER + 1, -1, dtype=np.int64)
    free[HIGH_WATER] = 0
    none32 = np.empty(0, np.int32)
    return Slabs(
        np.empty(0, np.int64), np.empty(0, np.uint64), np.empty((0, width)), np.empty(0, np.int64),
        none32, none32.copy(), np.empty(0, np.int8), free,
    )  # fmt: skip


def _grown(array: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    larger = np.zeros((length, *array.shape[1:]), dtype=array.dtype)
    larger[: len(array)] = array
    return larger


def with_owners(slabs: Slabs, owners: int) -> Slabs:
    """The slabs with places for more owners."""
    return slabs._replace(
        start=_grown(slabs.start, owners),
        first=_grown(slabs.first, owners),
        kept=_grown(slabs.kept, owners),
        size_class=_grown(slabs.size_class, owners),
    )


def with_rows(slabs: Slabs, missing: int, masked: bool) -> Slabs:
    """The slabs with at least `missing` more rows to hand out, and an eighth more than before."""
    length = max(len(slabs.keys) + len(slabs.keys) // 8, int(slabs.free[HIGH_WATER]) + missing, 64)
    masks = _grown(slabs.masks, length) if masked else slabs.masks
    return slabs._replace(keys=_grown(slabs.keys, length), masks=masks, values=_grown(slabs.values, length))


@inlined
def _allocate(slabs: Slabs, size_class: int) -> int:
    """A free slab's first row; -1 when the arrays have to grow."""
    head: int = slabs.free[size_class]
    if head >= 0:
        slabs.free[size_class] = slabs.keys[head]
        return head
    head = slabs.free[HIGH_WATER]
    if head + (1 << size_class) > len(slabs.keys):
        return -1
    slabs.free[HIGH_WATER] = head + (1 << size_class)
    return head


@inlined
def _free(slabs: Slabs, owner: int) -> None:
    size_class = slabs.size_class[owner]
    if size_class > 0:
        start = slabs.start[owner]
        slabs.keys[start] = slabs.free[size_class]
        slabs.free[size_class] = start
        slabs.size_class[owner] = 0


@inlined
def clear(slabs: Slabs, owner: int) -> None:
    """Forget all rows of an owner."""
    _free(slabs, owner)
    slabs.first[owner] = 0
    slabs.kept[owner] = 0


@inlined
def _copy_rows(slabs: Slabs, source: int, target: int, count: int) -> None:
    """Move rows; right for overlapping stretches when target < source."""
    masked = len(slabs.masks) > 0
    for row in range(count):
        slabs.keys[target + row] = slabs.keys[source + row]
        if masked:
            slabs.masks[target + row] = slabs.masks[source + row]
        for column in range(slabs.values.shape[1]):
            slabs.values[target + row, column] = slabs.values[source + row, column]


@inlined
def resize(slabs: Slabs, owner: int, size_class: int) -> bool:
    """Move an owner's rows to a slab of another size; False when the arrays have to grow first."""
    start = _allocate(slabs, size_class)
    if start < 0:
        return False
    _copy_rows(slabs, slabs.start[owner] + slabs.first[owner], start, slabs.kept[owner])
    _free(slabs, owner)
    slabs.start[owner] = start
    slabs.first[owner] = 0
    slabs.size_class[owner] = size_class
    return True


@inlined
def make_room(slabs: Slabs, owner: int) -> int:
    """Make place for one more row; otherwise how many rows the arrays lack, having changed nothing."""
    size_class = slabs.size_class[owner]
    capacity = 1 << size_class if size_class > 0 else 0
    first = slabs.first[owner]
    if first + slabs.kept[owner] < capacity:
        return 0
    if capacity > 0 and 2 * first >= capacity:
        start = slabs.start[owner]
        _copy_rows(slabs, start + first, start, slabs.kept[owner])
        slabs.first[owner] = 0
        return 0
    larger = max(size_class + 1, SMALLEST)
    return 0 if resize(slabs, owner, larger) else 1 << larger


@inlined
def insert(slabs: Slabs, owner: int, position: int, key: int) -> int:
    """Open a row at a position counted from the first kept row (room was made); its index in the arrays."""
    masked = len(slabs.masks) > 0
    begin = slabs.start[owner] + slabs.first[owner]
    row: int = begin + slabs.kept[owner]
    while row > begin + position:
        slabs.keys[row] = slabs.keys[row - 1]
        if masked:
            slabs.masks[row] = slabs.masks[row - 1]
        for column in range(slabs.values.shape[1]):
            slabs.values[row, column] = slabs.values[row - 1, column]
        row -= 1
    slabs.keys[row] = key
    slabs.kept[owner] += 1
    return row


@inlined
def rows_up_to(slabs: Slabs, owner: int, key: int) -> int:
    """How many of the owner's rows have a key <= `key`."""
    begin = slabs.start[owner] + slabs.first[owner]
    count: int = slabs.kept[owner]
    if count == 0 or slabs.keys[begin + count - 1] <= key:
        return count
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) >> 1
        if slabs.keys[begin + middle] <= key:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def drop_first(slabs: Slabs, owner: int, dropped: int) -> None:
    """Forget the owner's first rows, and give back memory that is mostly empty."""
    slabs.first[owner] += dropped
    slabs.kept[owner] -= dropped
    count = slabs.kept[owner]
    if count == 0:
        clear(slabs, owner)
        return
    size_class = slabs.size_class[owner]
    if size_class > 3 and count << 3 <= 1 << size_class:
        resize(slabs, owner, size_class - 2)


@compiled
def load_rows(
    slabs: Slabs, owners: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], keys: npt.NDArray[np.int64],
    masks: npt.NDArray[np.uint64], values: npt.NDArray[np.float64],
) -> None:  # fmt: skip
    """Give each owner its rows, which lie one owner after the other (the arrays are large enough)."""
    masked = len(slabs.masks) > 0
    source = 0
    for place in range(len(owners)):
        count = counts[place]
        if count == 0:
            continue
        owner, size_class = owners[place], SMALLEST
        while 1 << size_class < count:
            size_class += 1
        clear(slabs, owner)
        resize(slabs, owner, size_class)
        start = slabs.start[owner]
        for row in range(count):
            slabs.keys[start + row] = keys[source + row]
            if masked:
                slabs.masks[start + row] = masks[source + row]
            for column in range(slabs.values.shape[1]):
                slabs.values[start + row, column] = values[source + row, column]
        slabs.kept[owner] = count
        source += count


def with_room(slabs: Slabs, missing: int, masked: bool) -> Slabs:
    """The slabs with at least `missing` more rows to hand out.

    Packed anew where a fifth of the rows lies in freed slabs: owners that grow in step leave sizes nobody wants.
    """
    sizes = slabs.size_class.astype(np.int64)
    taken = int((np.int64(1) << sizes)[sizes > 0].sum())
    if len(slabs.keys) < 1024 or 5 * taken > 4 * int(slabs.free[HIGH_WATER]):
        return with_rows(slabs, missing, masked)
    owners = np.flatnonzero(slabs.kept > 0)
    rows, counts = rows_of(slabs, owners), slabs.kept[owners].astype(np.int64)
    packed = with_owners(new_slabs(slabs.values.shape[1]), len(slabs.start))
    needed = rows_needed(counts)
    packed = with_rows(packed, needed + max(missing, needed // 8), masked)
    masks = slabs.masks[rows] if masked else slabs.masks
    load_rows(packed, owners, counts, slabs.keys[rows], masks, slabs.values[rows])
    return packed


def rows_needed(counts: npt.NDArray[np.int64]) -> int:
    """How many rows of the arrays slabs of these many rows take."""
    exponents = np.maximum(np.ceil(np.log2(np.maximum(counts, 1))), SMALLEST).astype(np.int64)
    return int((np.int64(1) << exponents)[counts > 0].sum())


def rows_of(slabs: Slabs, owners: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Indices of the kept rows of owners, one owner after the other."""
    counts = slabs.kept[owners].astype(np.int64)
    begins: npt.NDArray[np.int64] = slabs.start[owners] + slabs.first[owners]
    ends = np.cumsum(counts)
    rows: npt.NDArray[np.int64] = np.repeat(begins - (ends - counts), counts) + np.arange(int(counts.sum()))
    return rows
