"""The compiled loop over a batch: store each event, then compute its features, in order of arrival.

One loop for all pipelines: a pipeline is arrays of operations (plan.py), so nothing is compiled for a new one. Numba
because a batch of one shard has tens of events, too few for numpy's cost per call.
"""

import math

import numpy as np
import numpy.typing as npt

from udfs import slabs as slab_functions
from udfs.compiled import compiled, inlined
from udfs.kernel_arrays import NEVER_MS, Batch, Entities, Operations, Stores
from udfs.partials import (
    CUSTOM,
    DIRECT,
    DISTINCT,
    LAST,
    PREVIOUS,
    RATIO,
    SINCE,
    WIDTHS,
    Partial,
    add,
    empty,
    finish,
    merge,
)
from udfs.slabs import Slabs
from udfs.window_kernels import BlockCache, Scratch, count_distinct, fold_window, forget_block

LATE, TRUNCATED = 1, 2
DONE, EXACT_FULL, TILES_FULL, DISTINCTS_FULL = range(4)

_WIDTHS = np.array(WIDTHS, np.int64)


@inlined
def forget_entity(slot: int, operations: Operations, entities: Entities, stores: Stores) -> None:
    """Empty a slot."""
    slab_functions.clear(stores.events, slot)
    groups, distincts = len(operations.tile_ms), len(operations.distincts)
    for group in range(groups):
        slab_functions.clear(stores.tiles, slot * groups + group)
    for distinct in range(distincts):
        slab_functions.clear(stores.distincts, slot * distincts + distinct)
    entities.max_time_ms[slot] = NEVER_MS
    entities.cut_ms[slot] = NEVER_MS
    entities.generation[slot] += 1


@compiled
def forget_entities(slots: npt.NDArray[np.int64], operations: Operations, entities: Entities, stores: Stores) -> None:
    """Empty slots."""
    for slot in slots:
        forget_entity(slot, operations, entities, stores)


@inlined
def _forget_blocks(time_ms: int, slot: int, operations: Operations, entities: Entities, cache: BlockCache) -> None:
    owner = slot + (entities.generation[slot] << 32)
    for operation in range(len(operations.kind)):
        if operations.block[operation] > 0:
            forget_block(cache, owner, operation, time_ms // operations.block[operation])


@inlined
def _store_event(
    event: int, batch: Batch, operations: Operations, entities: Entities, slabs: Slabs, cache: BlockCache
) -> None:
    """Keep an event for exact windows; the oldest goes when there are too many."""
    slot, time_ms = batch.slots[event], batch.times[event]
    position = slab_functions.rows_up_to(slabs, slot, time_ms)
    row = slab_functions.insert(slabs, slot, position, time_ms)
    slabs.masks[row] = batch.masks[event]
    for column in range(slabs.values.shape[1]):
        slabs.values[row, column] = batch.columns[event, column]
    if len(cache.owners) > 0:
        _forget_blocks(time_ms, slot, operations, entities, cache)
    if slabs.kept[slot] > operations.limits[4]:
        dropped_ms = slabs.keys[slabs.start[slot] + slabs.first[slot]]
        if len(cache.owners) > 0:
            _forget_blocks(dropped_ms, slot, operations, entities, cache)
        slab_functions.drop_first(slabs, slot, 1)
        entities.cut_ms[slot] = max(entities.cut_ms[slot], dropped_ms)


@inlined
def _load_partial(kind: int, numbers: npt.NDArray[np.float64], offset: int) -> Partial:
    second = numbers[offset + 1] if _WIDTHS[kind] > 1 else 0.0
    third = numbers[offset + 2] if _WIDTHS[kind] > 2 else 0.0
    return numbers[offset], second, third


@inlined
def _save_partial(kind: int, numbers: npt.NDArray[np.float64], offset: int, partial: Partial) -> None:
    numbers[offset] = partial[0]
    if _WIDTHS[kind] > 1:
        numbers[offset + 1] = partial[1]
    if _WIDTHS[kind] > 2:
        numbers[offset + 2] = partial[2]


@inlined
def _add_to_tile(event: int, group: int, tile: int, batch: Batch, operations: Operations, slabs: Slabs) -> None:
    """Add an event to the partials of its tile."""
    owner = batch.slots[event] * len(operations.tile_ms) + group
    position = slab_functions.rows_up_to(slabs, owner, tile)
    row = slabs.start[owner] + slabs.first[owner] + position - 1
    fresh = position == 0 or slabs.keys[row] != tile
    if fresh:
        row = slab_functions.insert(slabs, owner, position, tile)
    for part in range(len(operations.parts)):
        if operations.parts[part, 0] != group:
            continue
        kind, column, offset = operations.parts[part, 1], operations.parts[part, 2], operations.parts[part, 3]
        partial = empty(kind) if fresh else _load_partial(kind, slabs.values[row], offset)
        value = batch.columns[event, column] if column >= 0 else 0.0
        needed = operations.part_needed[part]
        if batch.masks[event] & needed == needed and value == value:
            half_life = operations.part_half_life[part]
            partial = add(kind, partial, value, float(batch.times[event]), half_life)
        _save_partial(kind, slabs.values[row], offset, partial)


@inlined
def _add_distinct(owner: int, tile: int, value: float, slabs: Slabs) -> None:
    """Keep a value of a tile once; the values of a tile are sorted."""
    begin = slabs.start[owner] + slabs.first[owner]
    low, high = slab_functions.rows_up_to(slabs, owner, tile - 1), slab_functions.rows_up_to(slabs, owner, tile)
    while low < high:
        middle = (low + high) >> 1
        if slabs.values[begin + middle, 0] < value:
            low = middle + 1
        else:
            high = middle
    last = slab_functions.rows_up_to(slabs, owner, tile)
    if low < last and slabs.values[begin + low, 0] == value:
        return
    row = slab_functions.insert(slabs, owner, low, tile)
    slabs.values[row, 0] = value


@inlined
def _fold_tiles(kind: int, offset: int, half_life: float, slabs: Slabs, owner: int, after: int, until: int) -> Partial:
    begin = slabs.start[owner] + slabs.first[owner]
    partial = empty(kind)
    for position in range(
        slab_functions.rows_up_to(slabs, owner, after), slab_functions.rows_up_to(slabs, owner, until)
    ):
        partial = merge(kind, partial, _load_partial(kind, slabs.values[begin + position], offset), half_life)
    return partial


@inlined
def _tiled(
    operation: int, slot: int, time_ms: int, operations: Operations, entities: Entities, stores: Stores,
    scratch: Scratch,
) -> float:  # fmt: skip
    """A tiled aggregate as of a time."""
    kind, group = operations.kind[operation], operations.group[operation]
    tile_ms = operations.tile_ms[group]
    until = time_ms // tile_ms
    oldest = (entities.max_time_ms[slot] - operations.tile_retention_ms[group]) // tile_ms
    after = max(until - operations.window[operation], oldest)
    if after >= until:
        after = until
    if kind == DISTINCT:
        slabs = stores.distincts
        owner = slot * len(operations.distincts) + operations.column[operation]
        begin = slabs.start[owner] + slabs.first[owner]
        low, high = slab_functions.rows_up_to(slabs, owner, after), slab_functions.rows_up_to(slabs, owner, until)
        return count_distinct(0, 0, slabs, begin + low, begin + high, scratch)
    folded = LAST if kind == PREVIOUS else kind
    owner = slot * len(operations.tile_ms) + group
    half_life, offset = operations.half_life[operation], operations.column[operation]
    partial = _fold_tiles(folded, offset, half_life, stores.tiles, owner, after, until)
    return finish(folded, partial, float(time_ms))


@inlined
def _exact(
    operation: int, slot: int, time_ms: int, operations: Operations, entities: Entities, slabs: Slabs,
    cache: BlockCache, scratch: Scratch,
) -> float:  # fmt: skip
    """An exact aggregate as of the event just stored, the last one with a time <= its own."""
    kind, column, needed = operations.kind[operation], operations.column[operation], operations.needed[operation]
    cut_ms = entities.max_time_ms[slot] - operations.limits[2]
    after_ms = max(time_ms - operations.window[operation], cut_ms)
    begin = slabs.start[slot] + slabs.first[slot]
    end = begin + slab_functions.rows_up_to(slabs, slot, time_ms)
    low = begin + slab_functions.rows_up_to(slabs, slot, after_ms)
    until_ms = time_ms
    if kind in (PREVIOUS, SINCE):
        until_ms -= 1  # blocks up to the event's own time may hold the event itself
        # an event that was itself dropped, being the oldest of too many, is not among the rows
        if end > begin and time_ms > cut_ms and slabs.keys[end - 1] == time_ms:
            end -= 1
    end = max(end, low)
    if kind == DISTINCT:
        return count_distinct(column, needed, slabs, low, end, scratch)
    folded = LAST if kind == PREVIOUS else kind
    owner = slot + (entities.generation[slot] << 32)
    half_life, block_ms = operations.half_life[operation], operations.block[operation]
    partial = fold_window(
        folded, column, needed, half_life, block_ms, operation, slabs, low, end, after_ms, until_ms, cache, owner
    )
    return finish(folded, partial, float(time_ms))


@inlined
def _evaluate(
    before: bool, event: int, batch: Batch, operations: Operations, entities: Entities, stores: Stores,
    cache: BlockCache, scratch: Scratch,
    features: npt.NDArray[np.float64],
) -> None:  # fmt: skip
    """Compute the operations of one stage for an event."""
    slot, time_ms = batch.slots[event], batch.times[event]
    for operation in range(len(operations.kind)):
        if operations.before[operation] != before:
            continue
        kind, column = operations.kind[operation], operations.column[operation]
        if kind == DIRECT:
            result = batch.direct[event, column]
        elif kind == RATIO:
            divisor = scratch.results[operations.other[operation]]
            result = scratch.results[column] / divisor if divisor != 0.0 else math.nan
        elif kind == CUSTOM:
            result = math.nan
        elif operations.group[operation] >= 0:
            result = _tiled(operation, slot, time_ms, operations, entities, stores, scratch)
        else:
            result = _exact(operation, slot, time_ms, operations, entities, stores.events, cache, scratch)
        if result != result:
            result = operations.fill[operation]
        scratch.results[operation] = result
        if operations.output[operation] >= 0:
            features[event, operations.output[operation]] = result


@inlined
def _make_room(slot: int, operations: Operations, stores: Stores, missing: npt.NDArray[np.int64]) -> int:
    """Make place for one more row in every store; otherwise which one is full, and in `missing` by how much."""
    groups, distincts = len(operations.tile_ms), len(operations.distincts)
    missing[0] = slab_functions.make_room(stores.events, slot) if operations.limits[3] > 0 else 0
    if missing[0] > 0:
        return EXACT_FULL
    for group in range(groups):
        missing[0] = slab_functions.make_room(stores.tiles, slot * groups + group)
        if missing[0] > 0:
            return TILES_FULL
    for distinct in range(distincts):
        missing[0] = slab_functions.make_room(stores.distincts, slot * distincts + distinct)
        if missing[0] > 0:
            return DISTINCTS_FULL
    return DONE


@inlined
def _evict(slot: int, max_time_ms: int, operations: Operations, stores: Stores) -> None:
    """Drop what no window of the entity may reach any more."""
    groups, distincts = len(operations.tile_ms), len(operations.distincts)
    old = slab_functions.rows_up_to(stores.events, slot, max_time_ms - operations.limits[2])
    if old > 0:
        slab_functions.drop_first(stores.events, slot, old)
    for group in range(groups):
        oldest = (max_time_ms - operations.tile_retention_ms[group]) // operations.tile_ms[group]
        owner = slot * groups + group
        old = slab_functions.rows_up_to(stores.tiles, owner, oldest)
        if old > 0:
            slab_functions.drop_first(stores.tiles, owner, old)
        for distinct in range(distincts):
            if operations.distincts[distinct, 0] == group:
                owner = slot * distincts + distinct
                old = slab_functions.rows_up_to(stores.distincts, owner, oldest)
                if old > 0:
                    slab_functions.drop_first(stores.distincts, owner, old)


@inlined
def _update_tiles(event: int, batch: Batch, operations: Operations, entities: Entities, stores: Stores) -> None:
    """Add an event to its tiles, unless they are forgotten already."""
    slot, distincts = batch.slots[event], len(operations.distincts)
    for group in range(len(operations.tile_ms)):
        tile = batch.times[event] // operations.tile_ms[group]
        oldest = (entities.max_time_ms[slot] - operations.tile_retention_ms[group]) // operations.tile_ms[group]
        if tile <= oldest:
            continue
        if operations.parts.shape[0] > 0:
            _add_to_tile(event, group, tile, batch, operations, stores.tiles)
        for distinct in range(distincts):
            value = batch.columns[event, operations.distincts[distinct, 1]]
            needed = operations.distinct_needed[distinct]
            if operations.distincts[distinct, 0] == group and value == value and batch.masks[event] & needed == needed:
                _add_distinct(slot * distincts + distinct, tile, value, stores.distincts)


@compiled
def advance_batch(
    begin: int, end: int, evaluate: bool, batch: Batch, operations: Operations, entities: Entities,
    clocks_ms: npt.NDArray[np.int64], stores: Stores, cache: BlockCache,
    scratch: Scratch, features: npt.NDArray[np.float64], flags: npt.NDArray[np.uint8],
) -> tuple[int, int]:  # fmt: skip
    """Take in events begin..end-1 and, if `evaluate`, fill their rows of `features` and `flags`.

    Returns:
        The next event, and what was full before it could be taken in: then it can be tried again.
    """
    retention_ms, lateness_ms = operations.limits[0], operations.limits[1]
    for event in range(begin, end):
        slot, time_ms, partition = batch.slots[event], batch.times[event], batch.partitions[event]
        known_ms = entities.max_time_ms[slot]
        if known_ms != NEVER_MS and clocks_ms[entities.partition[slot]] > known_ms + retention_ms:
            forget_entity(slot, operations, entities, stores)
        max_time_ms = max(entities.max_time_ms[slot], time_ms)
        _evict(slot, max_time_ms, operations, stores)  # before making room: it may give back whole slabs
        full = _make_room(slot, operations, stores, scratch.missing)
        if full != DONE:
            return event, full
        entities.max_time_ms[slot] = max_time_ms
        entities.partition[slot] = partition
        clocks_ms[partition] = max(clocks_ms[partition], batch.clocks[event])
        cut_ms = max_time_ms - operations.limits[2]
        if evaluate:
            _evaluate(True, event, batch, operations, entities, stores, cache, scratch, features)
        if operations.limits[3] > 0 and time_ms > cut_ms:
            _store_event(event, batch, operations, entities, stores.events, cache)
        _update_tiles(event, batch, operations, entities, stores)
        if evaluate:
            _evaluate(False, event, batch, operations, entities, stores, cache, scratch, features)
            dropped_ms = entities.cut_ms[slot]
            flag = LATE if time_ms < max_time_ms - lateness_ms else 0
            if dropped_ms > cut_ms and time_ms - operations.limits[3] < dropped_ms:
                flag |= TRUNCATED
            flags[event] = flag
    return end, DONE
