"""The arrays of a shard, and how they grow when a kernel finds them full."""

import numpy as np
import numpy.typing as npt

from udfs.compiled import Parcel, compiled, opened
from udfs.entity_keys import key_class, put_in_table
from udfs.entity_slots import HEAP_FULL, PARTITION_NEW
from udfs.heap import FREED, HANDED_OUT, MOST_WORDS, heap_of, no_blocks, words_of
from udfs.kernel_arrays import (
    ENTITIES,
    ENTITY,
    NEVER_MS,
    OWNER,
    SHARD,
    SLOTS_USED,
    WANTED,
    Operations,
    Shard,
    new_shard,
    no_entities,
)
from udfs.paged_array import PagedArray

_LEAST_WORDS, _LEAST_SLOTS = 8_192, 256
_GROWTH = 16
"""Arrays grow by this fraction: it costs no copy, so they may grow often."""
_MOST_FREED = 8
"""Where more than this fraction of the heap is freed blocks, it is packed anew instead: owners that grow in step leave
sizes nobody wants."""


@compiled
def _move_blocks(address: int, words: npt.NDArray[np.int64]) -> int:
    """Copy the blocks of all entities to other words, one after the other; what is remembered of windows is left out.

    Returns:
        The word after the last one.
    """
    shard = opened(address, SHARD)
    stores, source, end = len(shard.operations.stores), shard.heap.words, 2
    for slot in range(shard.counts[SLOTS_USED]):
        entity = shard.entities[slot]
        entity.index = 0
        if entity.key == 0:
            continue
        for word in range(words_of(key_class(entity.key_octets))):
            words[end + word] = source[entity.key + word]
        entity.key = end
        end += words_of(key_class(entity.key_octets))
        for store in range(stores):
            rows = shard.owners[slot * stores + store]
            if rows.block == 0:
                continue
            begin = rows.first * shard.operations.stores[store].width
            for word in range(rows.kept * shard.operations.stores[store].width):
                words[end + word] = source[rows.block + begin + word]
            rows.block = end
            rows.first = 0
            end += words_of(rows.size_class)
    return end


@compiled
def _copy_table(source: npt.NDArray[np.int64], target: npt.NDArray[np.int64]) -> None:
    for entry in source:
        if entry != 0:
            put_in_table(target, entry)


class ShardMemory:
    """A shard's arrays.

    Attributes:
        shard: The arrays.
        address: Of the parcel with them, for kernels; another one after each growth.
    """

    shard: Shard
    address: int

    def __init__(self, operations: Operations) -> None:
        self._empty = new_shard(operations)
        self._free, self._clocks_ms = self._empty.heap.free, self._empty.clocks_ms
        self._words = PagedArray(np.int64, _LEAST_WORDS)
        self._entities = PagedArray(ENTITY, _LEAST_SLOTS)
        self._owners = PagedArray(OWNER, _LEAST_SLOTS * len(operations.stores))
        self._table = PagedArray(np.int64, _LEAST_SLOTS)
        self._parcel: Parcel | None = None
        self._open()

    def clear(self) -> None:
        """Forget all entities; the memory stays."""
        used = int(self.shard.counts[SLOTS_USED])
        self.shard.entities[:used] = np.zeros(1, ENTITY)
        self.shard.owners[: used * len(self.shard.operations.stores)] = np.zeros(1, OWNER)
        self.shard.table[:] = 0
        self._clocks_ms[:] = NEVER_MS
        no_entities(self.shard.counts)
        no_blocks(self._free)

    def _open(self) -> None:
        heap = heap_of(self._words.array(), self._free)
        self._parcel = Parcel(
            self._empty._replace(
                heap=heap, entities=self._entities.array(), owners=self._owners.array(), table=self._table.array(),
                clocks_ms=self._clocks_ms,
            ),
            SHARD,
        )  # fmt: skip
        self.shard, self.address = self._parcel.content, self._parcel.address

    def _close(self) -> None:
        """Give up all arrays: pages that are looked at cannot be moved."""
        self._parcel = None
        del self.shard, self.address

    def grow(self, full: int) -> None:
        """Make room where a kernel stopped; `full` is what it returned."""
        wanted = int(self.shard.counts[WANTED])
        if full == HEAP_FULL:
            self._grow_heap(wanted)
        elif full == PARTITION_NEW:
            self.know_partitions(wanted + 1)
        else:
            self._grow_slots()

    def know_partitions(self, partitions: int) -> None:
        """Have clocks for at least that many partitions."""
        if partitions > len(self._clocks_ms):
            more = np.full(partitions - len(self._clocks_ms), NEVER_MS, np.int64)
            self._clocks_ms = np.concatenate([self._clocks_ms, more])
            self._open()

    def nbytes(self) -> int:
        """Bytes of all arrays."""
        shard = self.shard
        arrays = (shard.heap.words, shard.entities, shard.owners, shard.table, shard.clocks_ms)
        return sum(array.nbytes for array in arrays)

    def rows_kept(self) -> int:
        """How many rows are kept, an entity counting as one, too."""
        return int(self.shard.owners["kept"].sum()) + int(self.shard.counts[ENTITIES])

    def max_time_ms(self, slot: int) -> int:
        """An entity's largest event time."""
        return int(self.shard.entities["max_time_ms"][slot])

    def events_of(self, slot: int) -> npt.NDArray[np.int64]:
        """(rows, words) int64: a copy of the kept events of an entity."""
        operations, heap = self.shard.operations, self.shard.heap
        rows, width = self.shard.owners[slot * len(operations.stores)], int(operations.stores["width"][0])
        begin = int(rows["block"]) + int(rows["first"]) * width
        return heap.words[begin : begin + int(rows["kept"]) * width].reshape(-1, width).copy()

    def _grow_heap(self, wanted: int) -> None:
        used, freed = int(self._free[HANDED_OUT]), int(self._free[FREED])
        if used > _LEAST_WORDS and freed * _MOST_FREED > used:
            self.pack(wanted)
            return
        words = used + max(wanted, used // _GROWTH, _LEAST_WORDS)
        if words > MOST_WORDS:
            raise MemoryError(f"a shard may keep at most {8 * MOST_WORDS:,} bytes: use more shards")
        self._close()
        self._words.grow(words)
        self._open()

    def pack(self, wanted: int = 0) -> None:
        """Put all blocks side by side, with room for `wanted` words more."""
        used = int(self._free[HANDED_OUT]) - int(self._free[FREED])
        packed = PagedArray(np.int64, used + max(wanted, used // _GROWTH, _LEAST_WORDS))
        end = _move_blocks(self.address, packed.array())
        self._free[:] = 0
        self._free[HANDED_OUT] = end
        self._words = packed
        self._open()

    def _grow_slots(self) -> None:
        counts, stores = self.shard.counts, len(self.shard.operations.stores)
        if 3 * counts[ENTITIES] >= 2 * self._table.length:
            larger = PagedArray(np.int64, 2 * self._table.length)
            _copy_table(self._table.array(), larger.array())
            self._table = larger
        slots = self._entities.length
        if counts[SLOTS_USED] == slots:
            slots += max(slots // _GROWTH, _LEAST_SLOTS)
        self._close()
        self._entities.grow(slots)
        self._owners.grow(slots * stores)
        self._open()
