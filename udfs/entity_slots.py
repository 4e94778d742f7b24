"""Entities and their slots: found or given by key, emptied, and freed once they are forgotten."""

import numpy as np
import numpy.typing as npt

from udfs import entity_keys
from udfs.compiled import called, compiled, inlined, opened
from udfs.heap import release
from udfs.indexes import forget_index
from udfs.kernel_arrays import ENTITIES, FETCHED, FREE_SLOT, NEVER_MS, SHARD, SLOTS_USED, SWEPT, WANTED, Shard
from udfs.slabs import clear, rows_of

DONE, HEAP_FULL, SLOTS_FULL, PARTITION_NEW = range(4)
"""Why a kernel stopped; `counts[WANTED]` says how much is wanted."""

_RESTS_A_WINDOW = 16
"""An entity rests when it had no event for this part of the longest window: its index would be made anew this often at
most."""


@called
def forget_rows(address: int, slot: int) -> None:
    """Empty a slot's stores."""
    shard = opened(address, SHARD)
    forget_index(shard.address, slot)
    for store in range(len(shard.operations.stores)):
        clear(shard, rows_of(shard, slot, store))
    entity = shard.entities[slot]
    entity.max_time_ms = NEVER_MS
    entity.cut_ms = NEVER_MS
    entity.active_ms = NEVER_MS


@inlined
def is_expired(shard: Shard, slot: int) -> bool:
    """Whether an entity is forgotten: what is left of it changes no result any more.

    The clock counts from the entity's latest event on, also where that came far behind it: an entity from a source that
    is read later than the others is forgotten no sooner than they are.
    """
    entity = shard.entities[slot]
    if entity.max_time_ms == NEVER_MS:
        return False
    reach_ms = entity.active_ms + shard.operations.limits.retention_ms
    passed: bool = shard.clocks_ms[entity.partition] > reach_ms
    return passed


@inlined
def sweep_slots(shard: Shard, count: int) -> None:
    """Free the slots of forgotten entities, and the indexes of those that rest, of the next `count` slots."""
    counts, octets, limits = shard.counts, shard.heap.octets, shard.operations.limits
    rest_ms = (limits.retention_ms - limits.lateness_ms) // _RESTS_A_WINDOW
    for _ in range(min(count, counts[SLOTS_USED])):
        slot = counts[SWEPT] if counts[SWEPT] < counts[SLOTS_USED] else 0
        counts[SWEPT] = slot + 1
        entity = shard.entities[slot]
        if entity.key == 0:
            continue
        if entity.index != 0 and shard.clocks_ms[entity.partition] > entity.active_ms + rest_ms:
            forget_index(shard.address, slot)
        if not is_expired(shard, slot):
            continue
        forget_rows(shard.address, slot)
        begin = 8 * entity.key
        hashed = entity_keys.hash_of(shard, octets, begin, begin + entity.key_octets)
        entity_keys.remove_from_table(shard, slot, hashed)
        release(shard.heap, entity.key, entity_keys.key_class(entity.key_octets))
        entity.key = 0
        entity.partition = counts[FREE_SLOT]
        counts[FREE_SLOT] = slot
        counts[ENTITIES] -= 1


@compiled
def sweep(address: int, count: int) -> None:
    """Free the slots of forgotten entities, of the next `count` slots."""
    sweep_slots(opened(address, SHARD), count)


@inlined
def _hash_keys(shard: Shard, event: int, begin: int, keys: bytes, hashes: npt.NDArray[np.int64]) -> None:
    """Hash the keys from an event on, and bring what is looked up by them into the caches.

    Loads that do not wait for each other overlap: a step of the way for all keys, then the next one.
    """
    table, last = shard.table, len(shard.table) - 1
    for place in range(event, len(hashes)):
        end = entity_keys.end_of(keys, begin)
        hashes[place] = entity_keys.hash_of(shard, keys, begin, end)
        begin = end + 1
    fetched = 0
    for place in range(event, len(hashes)):
        fetched += table[hashes[place] & last]
    for place in range(event, len(hashes)):
        slot = (table[hashes[place] & last] & 0xFFFFFFFF) - 1
        fetched += shard.entities[max(slot, 0)].key
    for place in range(event, len(hashes)):
        slot = (table[hashes[place] & last] & 0xFFFFFFFF) - 1
        fetched += shard.heap.octets[8 * shard.entities[max(slot, 0)].key]
    shard.counts[FETCHED] = fetched  # or the compiler would leave the loads out


@compiled
def find_slots(
    address: int, event: int, begin: int, keys: bytes, slots: npt.NDArray[np.int64]
) -> tuple[int, int, int]:
    """The slots of a batch's entities; unknown ones get one.

    Args:
        address: Of the shard's parcel.
        event: Where to begin, and
        begin: at which byte of the keys.
        keys: From `joined_keys`.
        slots: (n,) int64, to be filled.

    Returns:
        The event and the byte to go on with, and what was full.
    """
    shard = opened(address, SHARD)
    _hash_keys(shard, event, begin, keys, slots)
    while event < len(slots):
        end, hashed = entity_keys.end_of(keys, begin), slots[event]
        slot = entity_keys.find(shard, keys, begin, end, hashed)
        if slot < 0:
            slots_used_up = shard.counts[FREE_SLOT] < 0 and shard.counts[SLOTS_USED] == len(shard.entities)
            if slots_used_up or 3 * shard.counts[ENTITIES] >= 2 * len(shard.table):
                return event, begin, SLOTS_FULL
            slot = entity_keys.add(shard, keys, begin, end, hashed)
            if slot < 0:
                shard.counts[WANTED] = -slot
                return event, begin, HEAP_FULL
        slots[event] = slot
        event += 1
        begin = end + 1
    return event, begin, DONE
