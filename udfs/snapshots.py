"""A shard's entities as words, and back: what a compaction of the log writes, and a restore reads."""

import numpy as np
import numpy.typing as npt

from udfs.compiled import compiled, opened
from udfs.entity_slots import DONE, HEAP_FULL, forget_rows, is_expired
from udfs.kernel_arrays import NEVER_MS, SHARD, SLOTS_USED, WANTED
from udfs.shard_memory import ShardMemory
from udfs.slabs import first_word, resize, rows_of
from udfs.state_log import HEAD, SNAPSHOT, encode


@compiled
def _choose_entities(
    address: int, slot: int, end: int, most_rows: int, slots: npt.NDArray[np.int64]
) -> tuple[int, int, int, int, int]:
    """Take the next entities that are not forgotten, as many as have so many rows together, but at least one.

    Returns:
        The slot to go on with; how many entities were put into `slots`; their rows (and one each), words of rows, and
        bytes of keys with a 0 each.
    """
    shard = opened(address, SHARD)
    stores = len(shard.operations.stores)
    chosen, rows, words, octets = 0, 0, 0, 0
    while slot < end and chosen < len(slots) and rows < most_rows:
        entity = shard.entities[slot]
        if entity.key != 0 and entity.max_time_ms != NEVER_MS and not is_expired(shard, slot):
            slots[chosen] = slot
            chosen += 1
            rows += 1
            octets += entity.key_octets + 1
            for store in range(stores):
                kept = rows_of(shard, slot, store).kept
                rows += kept
                words += kept * shard.operations.stores[store].width
        slot += 1
    return slot, chosen, rows, words, octets


@compiled
def _write_keys(address: int, slots: npt.NDArray[np.int64], keys: npt.NDArray[np.uint8]) -> None:
    shard = opened(address, SHARD)
    octet = 0
    for place in range(len(slots)):
        entity = shard.entities[slots[place]]
        for source in range(8 * entity.key, 8 * entity.key + entity.key_octets):
            keys[octet] = shard.heap.octets[source]
            octet += 1
        if place < len(slots) - 1:
            keys[octet] = 0
            octet += 1


@compiled
def write_entities(
    address: int, slots: npt.NDArray[np.int64], heads: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> None:
    """Fill (entities, HEAD + stores) heads and the words of rows of what is kept of entities, as of `Entry`."""
    shard = opened(address, SHARD)
    stores, word = len(shard.operations.stores), 0
    for place in range(len(slots)):
        slot = slots[place]
        entity = shard.entities[slot]
        heads[place, 0] = entity.max_time_ms
        heads[place, 1] = entity.cut_ms
        heads[place, 2] = entity.partition
        heads[place, 3] = entity.active_ms
        for store in range(stores):
            owned, width = rows_of(shard, slot, store), shard.operations.stores[store].width
            heads[place, HEAD + store] = owned.kept
            begin = first_word(owned, width)
            for source in range(begin, begin + owned.kept * width):
                rows[word] = shard.heap.words[source]
                word += 1


@compiled
def _load_entities(
    address: int, place: int, word: int, slots: npt.NDArray[np.int64], heads: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
) -> tuple[int, int, int]:  # fmt: skip
    """Replace what is kept of entities, from `place` and its first word of `rows` on.

    Returns:
        The place and word to go on with, and what was full.
    """
    shard = opened(address, SHARD)
    stores = len(shard.operations.stores)
    for entity_place in range(place, len(slots)):
        slot, begin = slots[entity_place], word
        forget_rows(shard.address, slot)
        for store in range(stores):
            kept, width = heads[entity_place, HEAD + store], shard.operations.stores[store].width
            if kept == 0:
                continue
            lacking = resize(shard.address, rows_of(shard, slot, store), width, kept)
            if lacking > 0:
                shard.counts[WANTED] = lacking
                return entity_place, begin, HEAP_FULL
            owned = rows_of(shard, slot, store)
            owned.kept = kept
            for offset in range(kept * width):
                shard.heap.words[owned.block + offset] = rows[word]
                word += 1
        entity = shard.entities[slot]
        entity.max_time_ms = heads[entity_place, 0]
        entity.cut_ms = heads[entity_place, 1]
        entity.partition = heads[entity_place, 2]
        entity.active_ms = heads[entity_place, 3]
    return len(slots), word, DONE


class EntityWriter:
    """Writes a shard's entities slice by slice.

    Args:
        memory: The shard's arrays.
        layout: The layout of entries, as JSON.
    """

    def __init__(self, memory: ShardMemory, layout: bytes) -> None:
        self._memory, self._layout = memory, layout
        self.slot, self._end = 0, int(memory.shard.counts[SLOTS_USED])

    @property
    def done(self) -> bool:
        """Whether every entity there was at the beginning is written or forgotten."""
        return self.slot >= self._end

    def next_entry(self, most_rows: int) -> tuple[bytes, int]:
        """An entry with the next entities and the clocks, and how many rows it has (an entity counts as one, too)."""
        memory, stores = self._memory, len(self._memory.shard.operations.stores)
        slots = np.empty(most_rows, np.int64)
        self.slot, count, written, words, octets = _choose_entities(
            memory.address, self.slot, self._end, most_rows, slots
        )
        keys, rows = np.zeros(max(octets - 1, 0), np.uint8), np.empty(words, np.int64)
        heads = np.empty((count, HEAD + stores), np.int64)
        _write_keys(memory.address, slots[:count], keys)
        write_entities(memory.address, slots[:count], heads, rows)
        clocks = memory.shard.clocks_ms
        return encode(SNAPSHOT, self._layout, keys.tobytes(), rows, clocks=clocks, heads=heads), written


def load_entities(
    memory: ShardMemory, slots: npt.NDArray[np.int64], heads: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> None:
    """Put a snapshot's entities, in the shard's own layout, into their slots; what these held is gone."""
    place, word = 0, 0
    while place < len(slots):
        place, word, full = _load_entities(memory.address, place, word, slots, heads, rows)
        if full != DONE:
            memory.grow(full)
