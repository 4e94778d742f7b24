"""Keys of entities: bytes in the heap, found by a hash table of slots.

The keys of a batch are one text of bytes: each key in UTF-8, a 0 between two. Inside a key, a 0 is written as 0xFF,
which UTF-8 never has. Keys are compared by all their bytes; the hash only says where to look.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from udfs.compiled import inlined
from udfs.heap import allocate, class_for, words_of
from udfs.kernel_arrays import ENTITIES, FREE_SLOT, NEVER_MS, SEED, SLOTS_USED, Shard


def joined_keys(entities: Sequence[str]) -> bytes:
    """The keys of a batch as one text of bytes."""
    keys = "\0".join(entities).encode("utf-8", "surrogatepass")
    if keys.count(0) == len(entities) - 1:
        return keys
    return b"\0".join(entity.encode("utf-8", "surrogatepass").replace(b"\0", b"\xff") for entity in entities)


@inlined
def end_of(keys: bytes, begin: int) -> int:
    """Where the key ends that begins at a byte."""
    end = begin
    while end < len(keys) and keys[end] != 0:
        end += 1
    return end


@inlined
def hash_of(shard: Shard, keys: bytes | npt.NDArray[np.uint8], begin: int, end: int) -> int:
    """31 bits from bytes begin..end-1."""
    mixed = int(shard.counts[SEED])
    for place in range(begin, end):
        mixed = (mixed ^ keys[place]) * 0x100000001B3
    mixed ^= mixed >> 29
    mixed *= 0x2127599BF4325C37
    return (mixed >> 32) & 0x7FFFFFFF


@inlined
def _is_key(shard: Shard, slot: int, keys: bytes, begin: int, end: int) -> bool:
    entity = shard.entities[slot]
    if entity.key_octets != end - begin:
        return False
    octets, stored = shard.heap.octets, entity.key * 8
    for place in range(end - begin):  # noqa: SIM110  # numba has no generators
        if octets[stored + place] != keys[begin + place]:
            return False
    return True


@inlined
def find(shard: Shard, keys: bytes, begin: int, end: int, hashed: int) -> int:
    """The slot of a key; -1 if it is not known."""
    table = shard.table
    place = hashed & (len(table) - 1)
    while table[place] != 0:
        if table[place] >> 32 == hashed:
            slot = int(table[place] & 0xFFFFFFFF) - 1
            if _is_key(shard, slot, keys, begin, end):
                return slot
        place = (place + 1) & (len(table) - 1)
    return -1


@inlined
def put_in_table(table: npt.NDArray[np.int64], entry: int) -> None:
    """Enter a hash with its slot + 1."""
    place = (entry >> 32) & (len(table) - 1)
    while table[place] != 0:
        place = (place + 1) & (len(table) - 1)
    table[place] = entry


@inlined
def remove_from_table(shard: Shard, slot: int, hashed: int) -> None:
    """Remove a slot, and move up entries that were put aside because of it."""
    table = shard.table
    last = len(table) - 1
    hole = hashed & last
    while table[hole] & 0xFFFFFFFF != slot + 1:
        hole = (hole + 1) & last
    place = hole
    while True:
        place = (place + 1) & last
        if table[place] == 0:
            break
        wanted = (table[place] >> 32) & last
        if (place - wanted) & last >= (place - hole) & last:
            table[hole] = table[place]
            hole = place
    table[hole] = 0


@inlined
def key_class(octets: int) -> int:
    """The size class of a key's block."""
    return class_for((octets + 7) >> 3)


@inlined
def add(shard: Shard, keys: bytes, begin: int, end: int, hashed: int) -> int:
    """A slot for a new key; there is one, and a place in the table.

    Returns:
        The slot, or minus the number of words the heap lacks.
    """
    size_class = key_class(end - begin)
    block = allocate(shard.heap, size_class)
    if block == 0:
        return -words_of(size_class)
    counts = shard.counts
    slot = int(counts[FREE_SLOT])
    if slot >= 0:
        counts[FREE_SLOT] = shard.entities[slot].partition
    else:
        slot = int(counts[SLOTS_USED])
        counts[SLOTS_USED] += 1
    counts[ENTITIES] += 1
    for place in range(end - begin):
        shard.heap.octets[8 * block + place] = keys[begin + place]
    entity = shard.entities[slot]
    entity.key = block
    entity.key_octets = end - begin
    entity.max_time_ms = NEVER_MS
    entity.cut_ms = NEVER_MS
    entity.active_ms = NEVER_MS
    entity.partition = 0
    entity.index = 0
    put_in_table(shard.table, (hashed << 32) | (slot + 1))
    return slot
