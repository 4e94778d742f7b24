"""A shard's entities as log entries, and back: what a compaction of the log writes."""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.errors import StateCorruptError
from udfs.kernel_arrays import Entities, Stores
from udfs.partials import empty
from udfs.plan import FeaturePlan
from udfs.slabs import Slabs, load_rows, rows_needed, rows_of, with_rows
from udfs.state_log import SNAPSHOT, Entry, encode, map_bits, map_columns

_ROWS_PER_ENTRY = 8_192
"""Keeps an entry near half a megabyte, well inside what one state request may carry."""


def owners_of(slots: npt.NDArray[np.int64], each: int) -> npt.NDArray[np.int64]:
    """The owners of slots in a store with `each` owners a slot, one slot after the other."""
    return (slots[:, None] * each + np.arange(each)).ravel()


def snapshot_entries(
    plan: FeaturePlan,
    layout: bytes,
    slots_by_entity: dict[str, int],
    entities: Entities,
    stores: Stores,
    clocks_ms: npt.NDArray[np.int64],
) -> list[bytes]:
    """Everything kept, as entries of a bounded number of entities; at least one, for the clocks."""
    keys = list(slots_by_entity)
    slots = np.fromiter(slots_by_entity.values(), np.int64, len(keys))
    groups, distincts = len(plan.operations.tile_ms), len(plan.operations.distincts)
    rows = stores.events.kept[slots].astype(np.int64) + 1
    rows += stores.tiles.kept[owners_of(slots, groups)].reshape(len(keys), groups).sum(axis=1, dtype=np.int64)
    rows += stores.distincts.kept[owners_of(slots, distincts)].reshape(len(keys), distincts).sum(axis=1, dtype=np.int64)
    part_of = (np.cumsum(rows) - rows) // _ROWS_PER_ENTRY
    cuts = [0, *(np.flatnonzero(np.diff(part_of)) + 1).tolist(), len(keys)]
    entries = []
    for begin, end in itertools.pairwise(cuts):
        part = slots[begin:end]
        events, tiles = rows_of(stores.events, part), rows_of(stores.tiles, owners_of(part, groups))
        values = rows_of(stores.distincts, owners_of(part, distincts))
        arrays: dict[str, npt.NDArray[Any]] = {
            "max_times": entities.max_time_ms[part],
            "cuts": entities.cut_ms[part],
            "partitions": entities.partition[part],
            "clocks": clocks_ms,
            "event_counts": stores.events.kept[part],
            "event_times": stores.events.keys[events],
            "event_masks": stores.events.masks[events],
            "event_values": stores.events.values[events],
            "tile_counts": stores.tiles.kept[owners_of(part, groups)],
            "tiles": stores.tiles.keys[tiles],
            "tile_values": stores.tiles.values[tiles],
            "distinct_counts": stores.distincts.kept[owners_of(part, distincts)],
            "distinct_tiles": stores.distincts.keys[values],
            "distinct_values": stores.distincts.values[values],
        }
        entries.append(encode(SNAPSHOT, layout, keys[begin:end], arrays))
    return entries


def load_snapshot(
    plan: FeaturePlan, entry: Entry, slots: npt.NDArray[np.int64], entities: Entities, stores: Stores
) -> Stores:
    """Put a snapshot's entities into their slots.

    Returns:
        The stores, with larger arrays where needed.
    """
    arrays, layout, wanted, count = entry.arrays, entry.layout, plan.layout, len(slots)
    groups, distincts = len(layout["tiles"]), len(layout["distincts"])
    for name, length in (
        ("max_times", count), ("cuts", count), ("partitions", count), ("event_counts", count),
        ("tile_counts", count * groups), ("distinct_counts", count * distincts),
    ):  # fmt: skip
        entry.check_length(name, length)
    for counts, names in (
        ("event_counts", ("event_times", "event_masks", "event_values")),
        ("tile_counts", ("tiles", "tile_values")),
        ("distinct_counts", ("distinct_tiles", "distinct_values")),
    ):
        for name in names:
            entry.check_length(name, int(arrays[counts].sum()))
    if len(np.unique(slots)) != count or stores.events.kept[slots].any():
        raise StateCorruptError("state entry: an entity appears twice in the snapshot")
    entities.max_time_ms[slots] = arrays["max_times"]
    entities.cut_ms[slots] = arrays["cuts"]
    entities.partition[slots] = arrays["partitions"]
    written_columns = layout["columns"][: layout["kept_columns"]]
    wanted_columns = wanted["columns"][: wanted["kept_columns"]]
    masks = map_bits(arrays["event_masks"], layout["conditions"], wanted["conditions"])
    values = map_columns(arrays["event_values"], written_columns, wanted_columns)
    if plan.operations.limits[3] > 0:
        stores = stores._replace(
            events=_load(stores.events, slots, arrays["event_counts"], arrays["event_times"], masks, values)
        )
    return _load_distincts(plan, entry, slots, _load_tiles(plan, entry, slots, stores))


def _load(
    slabs: Slabs,
    owners: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int32],
    keys: npt.NDArray[np.int64],
    masks: npt.NDArray[np.uint64],
    values: npt.NDArray[np.float64],
) -> Slabs:
    counts_64 = np.ascontiguousarray(counts, np.int64)
    slabs = with_rows(slabs, rows_needed(counts_64), masked=len(masks) > 0 or len(slabs.masks) > 0)
    load_rows(slabs, np.ascontiguousarray(owners), counts_64, keys, masks, np.ascontiguousarray(values))
    return slabs


def _chosen(
    counts: npt.NDArray[np.int32], each: int, index: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Of rows that lie owner after owner, those of every `each`-th owner: their counts, and which rows they are."""
    mine = np.arange(len(counts)) % each == index
    return counts[mine], np.repeat(mine, counts)


def _load_tiles(plan: FeaturePlan, entry: Entry, slots: npt.NDArray[np.int64], stores: Stores) -> Stores:
    arrays, written, wanted = entry.arrays, entry.layout, plan.layout
    none = np.empty(0, np.uint64)
    places = {name: (offset, width) for name, offset, width in written["parts"]}
    for group, tile_ms in enumerate(wanted["tiles"]):
        if tile_ms not in written["tiles"]:
            continue
        counts, rows = _chosen(arrays["tile_counts"], len(written["tiles"]), written["tiles"].index(tile_ms))
        old = arrays["tile_values"][rows]
        values = np.zeros((len(old), plan.tile_width))
        for part, (name, offset, width) in enumerate(wanted["parts"]):
            if plan.operations.parts[part, 0] != group:
                continue
            if name in places:
                source = places[name][0]
                values[:, offset : offset + width] = old[:, source : source + width]
            else:
                values[:, offset : offset + width] = empty(int(plan.operations.parts[part, 1]))[:width]
        owners = slots * len(wanted["tiles"]) + group
        stores = stores._replace(tiles=_load(stores.tiles, owners, counts, arrays["tiles"][rows], none, values))
    return stores


def _load_distincts(plan: FeaturePlan, entry: Entry, slots: npt.NDArray[np.int64], stores: Stores) -> Stores:
    arrays, written, wanted = entry.arrays, entry.layout["distincts"], plan.layout["distincts"]
    none = np.empty(0, np.uint64)
    for distinct, name in enumerate(wanted):
        if name not in written:
            continue
        counts, rows = _chosen(arrays["distinct_counts"], len(written), written.index(name))
        owners, tiles = slots * len(wanted) + distinct, arrays["distinct_tiles"][rows]
        values = arrays["distinct_values"][rows]
        stores = stores._replace(distincts=_load(stores.distincts, owners, counts, tiles, none, values))
    return stores
