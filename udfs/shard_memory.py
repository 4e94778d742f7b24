"""The arrays of a shard, and how they grow when a kernel finds them full."""

from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.compiled import Parcel, compiled, opened
from udfs.entity_keys import key_class, put_in_table
from udfs.heap import FREED, HANDED_OUT, MOST_WORDS, Heap, heap_of, new_heap, words_of
from udfs.kernel_arrays import ENTITIES, NEVER_MS, SHARD, SLOTS_USED, WANTED, Operations, Shard, new_shard
from udfs.kernels import HEAP_FULL, PARTITION_NEW

_LEAST_WORDS = 1_024
_GROWTH = 16
"""Arrays grow by this fraction: large ones are moved page by page, without a copy, so growing often costs little."""
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
    stores, source, end = len(shard.operations.store_width), shard.heap.words, 2
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
            begin = rows.first * shard.operations.store_width[store]
            for word in range(rows.kept * shard.operations.store_width[store]):
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

    def __init__(self, operations: Operations) -> None:
        self._replace(new_shard(operations))

    def _replace(self, shard: Shard) -> None:
        self.shard = shard
        self._parcel = Parcel(shard, SHARD)
        self.address = self._parcel.address

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
        clocks_ms = self.shard.clocks_ms
        if partitions > len(clocks_ms):
            more = np.full(partitions - len(clocks_ms), NEVER_MS, np.int64)
            self._replace(self.shard._replace(clocks_ms=np.concatenate([clocks_ms, more])))

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
        """(rows, words) int64: the kept events of an entity; valid until the next growth."""
        operations, heap = self.shard.operations, self.shard.heap
        rows, width = self.shard.owners[slot * len(operations.store_width)], int(operations.store_width[0])
        begin = int(rows["block"]) + int(rows["first"]) * width
        return heap.words[begin : begin + int(rows["kept"]) * width].reshape(-1, width)

    def _grow_heap(self, wanted: int) -> None:
        heap = self.shard.heap
        used, freed = int(heap.free[HANDED_OUT]), int(heap.free[FREED])
        if used > _LEAST_WORDS and freed * _MOST_FREED > used:
            self.pack(wanted)
            return
        length = used + max(wanted, used // _GROWTH, _LEAST_WORDS)
        if length > MOST_WORDS:
            raise MemoryError(f"a shard may keep at most {8 * MOST_WORDS:,} bytes: use more shards")
        words = heap.words
        del heap
        self._replace(self.shard._replace(heap=heap_of(_resized(words, length), self.shard.heap.free)))

    def pack(self, wanted: int = 0) -> None:
        """Put all blocks side by side, with room for `wanted` words more."""
        used = int(self.shard.heap.free[HANDED_OUT]) - int(self.shard.heap.free[FREED])
        packed: Heap = new_heap(used + max(wanted, used // _GROWTH, _LEAST_WORDS))
        packed.free[HANDED_OUT] = _move_blocks(self.address, packed.words)
        self._replace(self.shard._replace(heap=packed))

    def _grow_slots(self) -> None:
        shard = self.shard
        table, slots, stores = shard.table, len(shard.entities), len(shard.operations.store_width)
        if 3 * shard.counts[ENTITIES] >= 2 * len(table):
            table = np.zeros(2 * len(table), np.int64)
            _copy_table(shard.table, table)
        if shard.counts[SLOTS_USED] == slots:
            slots += max(slots // _GROWTH, 16)
        entities, owners = _resized(shard.entities, slots), _resized(shard.owners, slots * stores)
        self._replace(shard._replace(entities=entities, owners=owners, table=table))


def _resized(array: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    """The array made longer in place, so that a large one is never in memory twice; views of it end here."""
    array.resize((length, *array.shape[1:]), refcheck=False)
    return array
