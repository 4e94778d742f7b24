"""The compiled loop over a batch: store each event, then compute its features, in order of arrival.

One loop for all pipelines: a pipeline is arrays of operations (plan.py), so nothing is compiled for a new one. Numba
because a batch of one shard has tens of events, too few for numpy's cost per call.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.compiled import called, compiled, inlined, opened
from udfs.entity_slots import DONE, HEAP_FULL, PARTITION_NEW, forget_rows, is_expired, sweep_slots
from udfs.indexes import forget_index, row_changed
from udfs.kernel_arrays import (
    AFTER,
    BEFORE,
    CLOCK,
    COLUMNS,
    END,
    FETCHED,
    LOW,
    MASK,
    PARTITION,
    SHARD,
    TIME,
    WANTED,
    Shard,
)
from udfs.latest_rows import find_latest, item_of, length_of
from udfs.partials import (
    COUNT,
    CUSTOM,
    DIRECT,
    DISTINCT,
    ITEM,
    LATEST_LEFT,
    RATIO,
    add,
    empty,
    finish,
    load,
    save,
)
from udfs.slabs import drop_first, first_word, insert, make_room, rows_below, rows_of
from udfs.tallies import count_distinct, row_inserted, rows_leave
from udfs.window_kernels import find_window, fold_window

LATE, TRUNCATED = 1, 2
_SWEPT_AN_EVENT = 2
"""Slots looked at for each event: each comes up before the number of entities has doubled."""


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


@called
def _drop(address: int, slot: int, store: int, count: int) -> None:
    """Drop a store's first rows."""
    shard = opened(address, SHARD)
    rows_leave(shard.address, slot, store, count)
    if drop_first(shard, rows_of(shard, slot, store), shard.operations.stores[store].width, count):
        forget_index(shard.address, slot)  # it was made for more rows


@inlined
def _oldest_tile(shard: Shard, slot: int, store: Any) -> int:
    """The latest tile that no window of the entity may reach any more."""
    oldest: int = (shard.entities[slot].max_time_ms - store.retention_ms) // store.tile_ms
    return oldest


@inlined
def _evict(shard: Shard, slot: int) -> None:
    """Drop what no window of the entity may reach any more."""
    for number in range(len(shard.operations.stores)):
        rows, store = rows_of(shard, slot, number), shard.operations.stores[number]
        if rows.kept == 0:
            continue
        if store.tile_ms > 0:
            limit = max(_oldest_tile(shard, slot, store), -1) + 1
        else:
            oldest_ms = shard.entities[slot].max_time_ms - store.retention_ms
            limit = (max(oldest_ms, -1) + 1) << shard.operations.limits.mask_bits
        begin = first_word(rows, store.width)
        if shard.heap.words[begin] < limit:
            _drop(shard.address, slot, number, rows_below(shard, begin, store.width, int(rows.kept), limit))


@inlined
def _make_room(shard: Shard, slot: int) -> int:
    """Make place for one more row in every store; otherwise how many words the heap lacks."""
    for store in range(len(shard.operations.stores)):
        if store > 0 or shard.operations.limits.exact_window_ms > 0:
            lacking = make_room(shard, rows_of(shard, slot, store), shard.operations.stores[store].width)
            if lacking > 0:
                return lacking
    return 0


@inlined
def _insert(shard: Shard, slot: int, store: int, position: int, first: int) -> int:
    """Open a row in a store; its word."""
    rows = rows_of(shard, slot, store)
    row = insert(shard, rows, shard.operations.stores[store].width, position, first)
    if position < rows.kept - 1:
        bits = shard.operations.limits.mask_bits if store == 0 else 0
        row_changed(shard.address, slot, store, position, first >> bits)
    return row


@inlined
def _store_event(shard: Shard, slot: int, event: npt.NDArray[np.int64]) -> None:
    """Keep an event for exact windows; the oldest goes when there are too many."""
    limits, words, width = shard.operations.limits, shard.heap.words, shard.operations.stores[0].width
    rows, entity, bits = rows_of(shard, slot, 0), shard.entities[slot], limits.mask_bits
    position = rows_below(shard, first_word(rows, width), width, int(rows.kept), (event[TIME] + 1) << bits)
    row = _insert(shard, slot, 0, position, event[TIME] << bits | (event[MASK] if bits > 0 else 0))
    if limits.mask_words > 0:
        words[row + 1] = event[MASK]
    for column in range(limits.kept_columns):
        words[row + 1 + limits.mask_words + column] = event[COLUMNS + column]
    row_inserted(shard.address, slot, 0, position)
    if rows.kept > limits.most_events:
        dropped_ms = words[first_word(rows, width)] >> bits
        _drop(shard.address, slot, 0, 1)
        entity.cut_ms = max(entity.cut_ms, dropped_ms)


@called
def _add_to_tile(address: int, slot: int, store: int, tile: int, event: npt.NDArray[np.int64]) -> None:
    """Add an event to the partials of its tile."""
    shard = opened(address, SHARD)
    rows, width, numbers = rows_of(shard, slot, store), shard.operations.stores[store].width, shard.heap.numbers
    position = rows_below(shard, first_word(rows, width), width, int(rows.kept), tile + 1)
    row = first_word(rows, width) + (position - 1) * width
    fresh = position == 0 or shard.heap.words[row] != tile
    if fresh:
        row = _insert(shard, slot, store, position, tile)
    elif position < rows.kept:
        row_changed(shard.address, slot, store, position - 1, tile)
    for number in range(len(shard.operations.parts)):
        part = shard.operations.parts[number]
        if part.store != store:
            continue
        partial = empty(part.kind) if fresh else load(part.kind, numbers, row + part.place)
        value = event.view(np.float64)[part.column] if part.column >= 0 else 0.0
        if event[MASK] & part.needed == part.needed and value == value:
            partial = add(part.kind, partial, value, float(event[TIME]), part.half_life_ms)
        save(part.kind, numbers, row + part.place, partial)


@called
def _add_distinct(address: int, slot: int, store: int, tile: int, value: float) -> None:
    """Keep a value of a tile once; the values of a tile are sorted."""
    shard = opened(address, SHARD)
    rows, width, numbers = rows_of(shard, slot, store), shard.operations.stores[store].width, shard.heap.numbers
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
    row_inserted(shard.address, slot, store, low)


@inlined
def _update_tiles(shard: Shard, slot: int, event: npt.NDArray[np.int64]) -> None:
    """Add an event to its tiles, unless they are forgotten already."""
    operations = shard.operations
    first_distinct = len(operations.stores) - len(operations.distincts)
    for number in range(1, len(operations.stores)):
        store = operations.stores[number]
        tile = event[TIME] // store.tile_ms
        if tile <= _oldest_tile(shard, slot, store):
            continue
        if number < first_distinct:
            _add_to_tile(shard.address, slot, number, tile, event)
            continue
        distinct = operations.distincts[number - first_distinct]
        value = event.view(np.float64)[distinct.column]
        if value == value and event[MASK] & distinct.needed == distinct.needed:
            _add_distinct(shard.address, slot, number, tile, value)


@inlined
def _evaluate(
    shard: Shard, slot: int, stage: int, time_ms: int, direct: npt.NDArray[np.float64],
    features: npt.NDArray[np.float64],
) -> None:  # fmt: skip
    """Compute the operations of one stage for an event."""
    operations, results = shard.operations, shard.results
    for span in range(len(operations.spans)):
        if operations.spans[span].stage == stage:
            find_window(shard.address, slot, span, time_ms)
    for number in range(len(operations.steps)):
        step = operations.steps[number]
        kind = step.kind
        if step.stage != stage:
            continue
        if kind == DIRECT:
            result = direct[step.column]
        elif kind == RATIO:
            divisor = results[step.other]
            result = results[step.column] / divisor if divisor != 0.0 else math.nan
        elif kind == CUSTOM:
            result = math.nan
        elif kind == DISTINCT:
            result = float(count_distinct(shard.address, slot, step))
        elif kind == COUNT and step.mark < 0:
            result = float(shard.windows[step.span, END] - shard.windows[step.span, LOW])
        elif kind >= LATEST_LEFT:
            if kind < ITEM:
                find_latest(shard.address, step, number)
                continue
            result = item_of(shard, step) if kind == ITEM else length_of(shard, step)
        else:
            result = finish(kind, fold_window(shard.address, step), float(time_ms), step.half_life_ms)
        if result != result:
            result = step.fill
        results[number] = result
        if step.output >= 0:
            features[step.output] = result


@inlined
def _fetch(shard: Shard, slots: npt.NDArray[np.int64], begin: int, end: int) -> None:
    """Bring what a batch needs into the caches: loads that do not wait for each other overlap."""
    fetched = 0
    for event in range(begin, end):
        fetched += shard.entities[slots[event]].partition + rows_of(shard, slots[event], 0).kept
    for event in range(begin, end):
        fetched += shard.heap.words[rows_of(shard, slots[event], 0).block]
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
    for place in range(begin, end):
        event, slot = events[place], slots[place]
        time_ms, partition, entity = event[TIME], event[PARTITION], shard.entities[slot]
        if partition >= len(clocks_ms):
            shard.counts[WANTED] = partition
            return place, PARTITION_NEW
        if is_expired(shard, slot):
            forget_rows(shard.address, slot)
        max_before_ms = entity.max_time_ms
        entity.max_time_ms = max(max_before_ms, time_ms)
        _evict(shard, slot)  # before making room: it may give back whole blocks
        lacking = _make_room(shard, slot)
        if lacking > 0:
            entity.max_time_ms = max_before_ms
            shard.counts[WANTED] = lacking
            return place, HEAP_FULL
        entity.partition = partition
        clocks_ms[partition] = max(clocks_ms[partition], event[CLOCK])
        entity.active_ms = max(entity.max_time_ms, clocks_ms[partition])
        cut_ms = entity.max_time_ms - limits.exact_retention_ms
        for stage in (BEFORE, AFTER):
            if stage == AFTER:
                if limits.exact_window_ms > 0 and time_ms > cut_ms:
                    _store_event(shard, slot, event)
                _update_tiles(shard, slot, event)
            if len(features) > 0:
                _evaluate(shard, slot, stage, time_ms, direct[place], features[place])
        if len(features) > 0:
            flag = LATE if time_ms < entity.max_time_ms - limits.lateness_ms else 0
            if entity.cut_ms > cut_ms and time_ms - limits.exact_window_ms < entity.cut_ms:
                flag |= TRUNCATED
            flags[place] = flag
    sweep_slots(shard, _SWEPT_AN_EVENT * (end - begin))
    return end, HEAP_FULL if shard.counts[WANTED] > 0 else DONE
