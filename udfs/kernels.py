"""The compiled loop over a batch: store each event, then compute its features, in order of arrival.

One loop for all pipelines: a pipeline is arrays of operations (plan.py), so nothing is compiled for a new one. Numba
because a batch of one shard has tens of events, too few for numpy's cost per call.
"""

import math

import numpy as np
import numpy.typing as npt

from udfs import entity_keys
from udfs.compiled import compiled, inlined, opened
from udfs.heap import release
from udfs.kernel_arrays import (
    AFTER,
    BEFORE,
    CLOCK,
    COLUMNS,
    END,
    ENTITIES,
    FETCHED,
    FREE_SLOT,
    LOW,
    MASK,
    NEVER_MS,
    PARTITION,
    SHARD,
    SLOTS_USED,
    SWEPT,
    TIME,
    WANTED,
    Shard,
)
from udfs.partials import COUNT, CUSTOM, DIRECT, DISTINCT, RATIO, add, empty, finish, load, save
from udfs.slabs import clear, drop_first, first_word, insert, make_room, rows_below
from udfs.tallies import count_distinct, row_inserted, rows_leave
from udfs.window_kernels import find_window, fold_window, forget_index, row_changed

LATE, TRUNCATED = 1, 2
DONE, HEAP_FULL, SLOTS_FULL, PARTITION_NEW = range(4)
"""Why a kernel stopped; `counts[WANTED]` says how much is wanted."""

_SWEPT_AN_EVENT = 2
"""Slots looked at for each event: each comes up before the number of entities has doubled."""


@inlined
def forget_rows(shard: Shard, slot: int) -> None:
    """Empty a slot's stores."""
    forget_index(shard, slot)
    stores = len(shard.operations.store_width)
    for store in range(stores):
        clear(shard, slot * stores + store)
    entity = shard.entities[slot]
    entity.max_time_ms = NEVER_MS
    entity.cut_ms = NEVER_MS


@inlined
def is_expired(shard: Shard, slot: int) -> bool:
    """Whether an entity is forgotten: what is left of it changes no result any more."""
    entity = shard.entities[slot]
    if entity.max_time_ms == NEVER_MS:
        return False
    reach_ms = entity.max_time_ms + shard.operations.limits.retention_ms
    passed: bool = shard.clocks_ms[entity.partition] > reach_ms
    return passed


@inlined
def _sweep(shard: Shard, count: int) -> None:
    """Free the slots of forgotten entities, of the next `count` slots."""
    counts, octets = shard.counts, shard.heap.octets
    for _ in range(min(count, counts[SLOTS_USED])):
        slot = counts[SWEPT] if counts[SWEPT] < counts[SLOTS_USED] else 0
        counts[SWEPT] = slot + 1
        entity = shard.entities[slot]
        if entity.key == 0 or not is_expired(shard, slot):
            continue
        forget_rows(shard, slot)
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
    _sweep(opened(address, SHARD), count)


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
    while event < len(slots):
        end = begin
        while end < len(keys) and keys[end] != 0:
            end += 1
        hashed = entity_keys.hash_of(shard, keys, begin, end)
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


@compiled
def write_events(
    times_ms: npt.NDArray[np.int64], record_times_ms: npt.NDArray[np.int64], partitions: npt.NDArray[np.int32],
    columns: npt.NDArray[np.float64], masks: npt.NDArray[np.uint64], events: npt.NDArray[np.int64],
) -> None:  # fmt: skip
    """Fill (n, COLUMNS + columns) words of a batch's events."""
    numbers = events.view(np.float64)
    for event in range(len(times_ms)):
        events[event, TIME] = times_ms[event]
        events[event, CLOCK] = min(times_ms[event], record_times_ms[event])
        events[event, PARTITION] = partitions[event]
        events[event, MASK] = np.int64(masks[event])
        for column in range(columns.shape[1]):
            numbers[event, COLUMNS + column] = columns[event, column]


@inlined
def _drop(shard: Shard, slot: int, store: int, count: int) -> None:
    """Drop a store's first rows."""
    rows_leave(shard, slot, store, count)
    owner = slot * len(shard.operations.store_width) + store
    if drop_first(shard, owner, shard.operations.store_width[store], count):
        forget_index(shard, slot)  # it was made for more rows


@inlined
def _evict(shard: Shard, slot: int, max_time_ms: int) -> None:
    """Drop what no window of the entity may reach any more."""
    operations, words = shard.operations, shard.heap.words
    stores = len(operations.store_width)
    for store in range(stores):
        rows, width = shard.owners[slot * stores + store], operations.store_width[store]
        if rows.kept == 0:
            continue
        oldest, bits = max_time_ms - operations.store_retention_ms[store], operations.limits.mask_bits
        if operations.store_tile_ms[store] > 0:
            oldest, bits = oldest // operations.store_tile_ms[store], 0
        limit = (max(oldest, -1) + 1) << bits
        begin = first_word(rows, width)
        if words[begin] < limit:
            _drop(shard, slot, store, rows_below(shard, begin, width, int(rows.kept), limit))


@inlined
def _make_room(shard: Shard, slot: int) -> int:
    """Make place for one more row in every store; otherwise how many words the heap lacks."""
    stores = len(shard.operations.store_width)
    for store in range(stores):
        if store > 0 or shard.operations.limits.exact_window_ms > 0:
            lacking = make_room(shard, slot * stores + store, shard.operations.store_width[store])
            if lacking > 0:
                return lacking
    return 0


@inlined
def _insert(shard: Shard, slot: int, store: int, position: int, first: int) -> int:
    """Open a row in a store; its word."""
    owner, width = slot * len(shard.operations.store_width) + store, shard.operations.store_width[store]
    last = position == shard.owners[owner].kept
    row = insert(shard, owner, width, position, first)
    if not last:
        bits = shard.operations.limits.mask_bits if store == 0 else 0
        row_changed(shard, slot, store, position, first >> bits)
    return row


@inlined
def _store_event(shard: Shard, slot: int, events: npt.NDArray[np.int64], event: int) -> None:
    """Keep an event for exact windows; the oldest goes when there are too many."""
    operations, words = shard.operations, shard.heap.words
    limits, width, time_ms, mask = operations.limits, operations.store_width[0], events[event, TIME], events[event, MASK]
    rows, entity = shard.owners[slot * len(operations.store_width)], shard.entities[slot]
    bits = limits.mask_bits
    position = rows_below(shard, first_word(rows, width), width, int(rows.kept), (time_ms + 1) << bits)
    row = _insert(shard, slot, 0, position, time_ms << bits | (mask if bits > 0 else 0))
    if limits.mask_words > 0:
        words[row + 1] = mask
    for column in range(limits.kept_columns):
        words[row + 1 + limits.mask_words + column] = events[event, COLUMNS + column]
    row_inserted(shard, slot, 0, position)
    if rows.kept > limits.most_events:
        dropped_ms = words[first_word(rows, width)] >> bits
        _drop(shard, slot, 0, 1)
        entity.cut_ms = max(entity.cut_ms, dropped_ms)


@inlined
def _add_to_tile(shard: Shard, slot: int, store: int, tile: int, events: npt.NDArray[np.int64], event: int) -> None:
    """Add an event to the partials of its tile."""
    operations, numbers = shard.operations, events.view(np.float64)
    width, rows = operations.store_width[store], shard.owners[slot * len(operations.store_width) + store]
    position = rows_below(shard, first_word(rows, width), width, int(rows.kept), tile + 1)
    row = first_word(rows, width) + (position - 1) * width
    fresh = position == 0 or shard.heap.words[row] != tile
    if fresh:
        row = _insert(shard, slot, store, position, tile)
    elif position < rows.kept:
        row_changed(shard, slot, store, position - 1, tile)
    for part in range(len(operations.parts)):
        if operations.parts[part, 0] != store:
            continue
        kind, column, place = operations.parts[part, 1], operations.parts[part, 2], row + operations.parts[part, 3]
        partial = empty(kind) if fresh else load(kind, shard.heap.numbers, place)
        value = numbers[event, column] if column >= 0 else 0.0
        needed = operations.part_needed[part]
        if events[event, MASK] & needed == needed and value == value:
            partial = add(kind, partial, value, float(events[event, TIME]), operations.part_half_life[part])
        save(kind, shard.heap.numbers, place, partial)


@inlined
def _add_distinct(shard: Shard, slot: int, store: int, tile: int, value: float) -> None:
    """Keep a value of a tile once; the values of a tile are sorted."""
    width, numbers = 2, shard.heap.numbers
    rows = shard.owners[slot * len(shard.operations.store_width) + store]
    begin = first_word(rows, width)
    low = rows_below(shard, begin, width, int(rows.kept), tile)
    last = low + rows_below(shard, begin + low * width, width, rows.kept - low, tile + 1)
    high = last
    while low < high:
        middle = (low + high) >> 1
        if numbers[begin + middle * width + 1] < value:
            low = middle + 1
        else:
            high = middle
    if low < last and numbers[begin + low * width + 1] == value:
        return
    row = _insert(shard, slot, store, low, tile)
    numbers[row + 1] = value
    row_inserted(shard, slot, store, low)


@inlined
def _update_tiles(shard: Shard, slot: int, events: npt.NDArray[np.int64], event: int) -> None:
    """Add an event to its tiles, unless they are forgotten already."""
    operations, numbers = shard.operations, events.view(np.float64)
    groups = len(operations.store_width) - 1 - len(operations.distincts)
    for store in range(1, 1 + groups):
        tile_ms = operations.store_tile_ms[store]
        tile = events[event, TIME] // tile_ms
        if tile > (shard.entities[slot].max_time_ms - operations.store_retention_ms[store]) // tile_ms:
            _add_to_tile(shard, slot, store, tile, events, event)
    for distinct in range(len(operations.distincts)):
        store, needed = 1 + groups + distinct, operations.distincts[distinct, 1]
        tile_ms = operations.store_tile_ms[store]
        tile = events[event, TIME] // tile_ms
        value = numbers[event, operations.distincts[distinct, 0]]
        if value != value or events[event, MASK] & needed != needed:
            continue
        if tile > (shard.entities[slot].max_time_ms - operations.store_retention_ms[store]) // tile_ms:
            _add_distinct(shard, slot, store, tile, value)


@inlined
def _evaluate(
    shard: Shard, slot: int, stage: int, time_ms: int, direct: npt.NDArray[np.float64],
    features: npt.NDArray[np.float64], event: int,
) -> None:  # fmt: skip
    """Compute the operations of one stage for an event."""
    operations, results = shard.operations, shard.results
    for span in range(len(operations.span_store)):
        if operations.span_stage[span] == stage:
            find_window(shard, slot, span, time_ms)
    for operation in range(len(operations.kind)):
        if operations.stage[operation] != stage:
            continue
        kind, column, span = operations.kind[operation], operations.column[operation], operations.span[operation]
        if kind == DIRECT:
            result = direct[event, column]
        elif kind == RATIO:
            divisor = results[operations.other[operation]]
            result = results[column] / divisor if divisor != 0.0 else math.nan
        elif kind == CUSTOM:
            result = math.nan
        elif kind == DISTINCT:
            result = float(count_distinct(shard, slot, operation))
        elif kind == COUNT and operations.line[operation] < 0:
            result = float(shard.windows[span, END] - shard.windows[span, LOW])
        else:
            result = finish(kind, fold_window(shard, slot, operation), float(time_ms))
        if result != result:
            result = operations.fill[operation]
        results[operation] = result
        if operations.output[operation] >= 0:
            features[event, operations.output[operation]] = result


@inlined
def _fetch(shard: Shard, slots: npt.NDArray[np.int64], begin: int, end: int) -> None:
    """Bring what a batch needs into the caches: loads that do not wait for each other overlap."""
    stores = len(shard.operations.store_width)
    fetched = 0
    for event in range(begin, end):
        fetched += shard.entities[slots[event]].partition + shard.owners[slots[event] * stores].kept
    for event in range(begin, end):
        fetched += shard.heap.words[shard.owners[slots[event] * stores].block]
    shard.counts[FETCHED] = fetched  # or the compiler would leave the loads out


@compiled
def advance_batch(
    address: int, begin: int, end: int, slots: npt.NDArray[np.int64], events: npt.NDArray[np.int64],
    direct: npt.NDArray[np.float64], features: npt.NDArray[np.float64], flags: npt.NDArray[np.uint8],
) -> tuple[int, int]:  # fmt: skip
    """Take in events begin..end-1 and fill their rows of `features` and `flags`, unless these are empty.

    Returns:
        The next event, and what was full before it could be taken in: then it can be tried again. When all were taken
        in, HEAP_FULL says that there was no room to remember partials: later events would be faster with more.
    """
    shard = opened(address, SHARD)
    limits, clocks_ms = shard.operations.limits, shard.clocks_ms
    _fetch(shard, slots, begin, end)
    shard.counts[WANTED] = 0
    for event in range(begin, end):
        slot, time_ms, partition = slots[event], events[event, TIME], events[event, PARTITION]
        if partition >= len(clocks_ms):
            shard.counts[WANTED] = partition
            return event, PARTITION_NEW
        if is_expired(shard, slot):
            forget_rows(shard, slot)
        entity = shard.entities[slot]
        max_time_ms = max(entity.max_time_ms, time_ms)
        _evict(shard, slot, max_time_ms)  # before making room: it may give back whole blocks
        lacking = _make_room(shard, slot)
        if lacking > 0:
            shard.counts[WANTED] = lacking
            return event, HEAP_FULL
        entity.max_time_ms = max_time_ms
        entity.partition = partition
        clocks_ms[partition] = max(clocks_ms[partition], events[event, CLOCK])
        cut_ms = max_time_ms - limits.exact_retention_ms
        for stage in (BEFORE, AFTER):
            if stage == AFTER:
                if limits.exact_window_ms > 0 and time_ms > cut_ms:
                    _store_event(shard, slot, events, event)
                _update_tiles(shard, slot, events, event)
            if len(features) > 0:
                _evaluate(shard, slot, stage, time_ms, direct, features, event)
        if len(features) > 0:
            dropped_ms = entity.cut_ms
            flag = LATE if time_ms < max_time_ms - limits.lateness_ms else 0
            if dropped_ms > cut_ms and time_ms - limits.exact_window_ms < dropped_ms:
                flag |= TRUNCATED
            flags[event] = flag
    _sweep(shard, _SWEPT_AN_EVENT * (end - begin))
    return end, HEAP_FULL if shard.counts[WANTED] > 0 else DONE
