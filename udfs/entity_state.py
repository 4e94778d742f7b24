"""Everything kept for one shard, and the log that carries it through a restart.

Events go in batch by batch, features come out; `take_changes` says what to write to Flink's state, `restore` reads it.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs import kernels
from udfs.kernel_arrays import NEVER_MS, Batch, Entities, Stores
from udfs.pipeline import Distinct, Events, Model, Pipeline, Sum
from udfs.plan import CustomOperation, FeaturePlan
from udfs.slabs import HIGH_WATER, new_slabs, rows_up_to, with_owners, with_room
from udfs.snapshots import load_snapshot, owners_of, snapshot_entries
from udfs.state_log import EVENTS, Entry, decode, encode, map_bits, map_columns
from udfs.window_kernels import REMEMBER_FROM_ROWS, new_block_cache, new_scratch

LATE, TRUNCATED = kernels.LATE, kernels.TRUNCATED
_CACHE_ENTRIES = 1 << 14


@dataclass(frozen=True)
class Advanced:
    """What a batch gave.

    Attributes:
        features: (n_events, n_features) float64 in the order of `plan.feature_names`, `fill` applied.
        flags: (n_events,) uint8: LATE, TRUNCATED.
    """

    features: npt.NDArray[np.float64]
    flags: npt.NDArray[np.uint8]


class ShardState:
    """Features of the entities of one shard.

    Args:
        plan: What to compute.
        log_changes: Whether `take_changes` will be called; without it (a backfill) nothing is logged.
        compact_after: Fewest events logged before the log is rewritten.
    """

    def __init__(self, plan: FeaturePlan, *, log_changes: bool = True, compact_after: int = 1024) -> None:
        self.plan = plan
        self._log_changes, self._compact_after = log_changes, compact_after
        self._slots: dict[str, int] = {}
        self._free_slots: list[int] = []
        self._capacity = 0
        empty = np.empty(0, np.int64)
        self._entities = Entities(empty, empty.copy(), np.empty(0, np.int32), empty.copy())
        self._stores = Stores(new_slabs(plan.kept_columns), new_slabs(plan.tile_width), new_slabs(1))
        self._clocks_ms = np.full(1, NEVER_MS, np.int64)
        self._cache = new_block_cache(0)
        self._scratch = new_scratch(len(plan.operations.kind))
        self._layout = json.dumps(plan.layout).encode()
        self._pending: list[tuple[list[str], Batch]] = []
        self._entries: list[int] = []
        self._next_entry = 0
        self._logged = 0
        self._alive_then = 0
        self._entities_then = 0

    def __len__(self) -> int:
        """How many entities are known."""
        return len(self._slots)

    def advance(
        self,
        entities: Sequence[str],
        event_times_ms: npt.NDArray[np.int64],
        record_times_ms: npt.NDArray[np.int64],
        partitions: npt.NDArray[np.int32],
        columns: npt.NDArray[np.float64],
        masks: npt.NDArray[np.uint64],
        direct: npt.NDArray[np.float64],
    ) -> Advanced:
        """Take in n events, in order of arrival, and compute their features.

        The arrays are kept until the next `take_changes`: do not change them.

        Args:
            entities: n entity keys.
            event_times_ms: (n,) int64, from `plan.columnise`.
            record_times_ms: (n,) int64, Kafka's record timestamps.
            partitions: (n,) int32, Kafka's partitions.
            columns: (n, len(plan.columns)) float64, from `plan.columnise`.
            masks: (n,) uint64, from `plan.columnise`.
            direct: (n, plan.direct_width) float64, from `plan.columnise`.
        """
        count = len(entities)
        features, flags = np.empty((count, len(self.plan.feature_names))), np.zeros(count, np.uint8)
        if count == 0:
            return Advanced(features, flags)
        times = np.ascontiguousarray(event_times_ms, np.int64)
        batch = Batch(
            self._slots_of(entities),
            times,
            np.minimum(times, record_times_ms),
            np.ascontiguousarray(partitions, np.int32),
            np.ascontiguousarray(columns, np.float64),
            np.ascontiguousarray(masks, np.uint64),
            np.ascontiguousarray(direct, np.float64),
        )
        if self.plan.customs:
            for event in range(count):
                self._run(event, event + 1, batch, features, flags, True)
                for custom in self.plan.customs:
                    features[event, custom.output] = self._fold(custom, int(batch.slots[event]), int(times[event]))
        else:
            self._run(0, count, batch, features, flags, True)
        if self._log_changes:
            self._pending.append((list(entities), batch))
            self._logged += count
        self._remember_blocks(batch.slots)
        if len(self._slots) > 2 * self._entities_then + 1024:
            self.forget_expired()
        return Advanced(features, flags)

    def take_changes(self) -> tuple[dict[int, bytes], list[int]]:
        """What to put into and remove from the shard's map of entries since the last call.

        Returns:
            Entries to put, and numbers of entries to remove.
        """
        if not self._pending:
            return {}, []
        removed: list[int] = []
        if self._logged > max(self._compact_after, self._alive_then):
            self.forget_expired()
            entries = snapshot_entries(
                self.plan, self._layout, self._slots, self._entities, self._stores, self._clocks_ms
            )
            removed, self._entries = self._entries, []
            self._logged, self._alive_then = 0, self._alive()
        else:
            entries = [self._events_entry()]
        self._pending = []
        put = {self._next_entry + number: entry for number, entry in enumerate(entries)}
        self._entries += put
        self._next_entry += len(put)
        return put, removed

    @classmethod
    def restore(
        cls,
        plan: FeaturePlan,
        entries: Iterable[tuple[int, bytes]],
        *,
        log_changes: bool = True,
        compact_after: int = 1024,
    ) -> "ShardState":
        """The state whose log this is; features continue to the last bit.

        Columns, conditions and tiles are found by name, so a pipeline with other features keeps what both know.

        Raises:
            StateVersionError: If an entry has a version this one does not read.
            StateCorruptError: If an entry's bytes do not add up.
        """
        state = cls(plan, log_changes=log_changes, compact_after=compact_after)
        for number, data in sorted(entries, key=lambda entry: entry[0]):
            entry = decode(data)
            if entry.kind == EVENTS:
                state._replay(entry)
            else:
                state._load(entry)
                state._alive_then = state._alive()
            state._entries.append(number)
            state._next_entry = number + 1
        return state

    def forget_expired(self) -> None:
        """Free what is kept of entities that are forgotten already; changes no result."""
        slots = np.fromiter(self._slots.values(), np.int64, len(self._slots))
        reach_ms = self._entities.max_time_ms[slots] + self.plan.operations.limits[0]
        expired = self._clocks_ms[self._entities.partition[slots]] > reach_ms
        if expired.any():
            gone = slots[expired]
            for key, is_gone in zip(list(self._slots), expired.tolist(), strict=True):
                if is_gone:
                    self._free_slots.append(self._slots.pop(key))
            kernels.forget_entities(gone, self.plan.operations, self._entities, self._stores)
        self._entities_then = len(self._slots)

    def memory_bytes(self) -> int:
        """Bytes of all arrays (not of the keys)."""
        arrays: list[npt.NDArray[Any]] = [*self._entities, self._clocks_ms, *self._cache]
        for slabs in self._stores:
            arrays += slabs
        return sum(array.nbytes for array in arrays)

    def _alive(self) -> int:
        return len(self._slots) + sum(int(slabs.kept.sum()) for slabs in self._stores)

    def _slots_of(self, entities: Sequence[str]) -> npt.NDArray[np.int64]:
        known = self._slots
        slots = [known.get(entity, -1) for entity in entities]
        if -1 in slots:
            for place, entity in enumerate(entities):
                if slots[place] < 0:
                    slot = known.get(entity, -1)
                    if slot < 0:
                        slot = known[entity] = self._free_slots.pop() if self._free_slots else len(known)
                    slots[place] = slot
            if len(known) + len(self._free_slots) > self._capacity:
                self._grow_slots(len(known) + len(self._free_slots))
        return np.array(slots, np.int64)

    def _grow_slots(self, needed: int) -> None:
        before, capacity = self._capacity, max(needed, self._capacity + self._capacity // 4, 16)
        fills = (NEVER_MS, NEVER_MS, 0, 0)
        grown = []
        arrays: tuple[npt.NDArray[Any], ...] = self._entities
        for array, fill in zip(arrays, fills, strict=True):
            larger = np.full(capacity, fill, array.dtype)
            larger[:before] = array
            grown.append(larger)
        self._entities = Entities(*grown)
        groups, distincts = len(self.plan.operations.tile_ms), len(self.plan.operations.distincts)
        self._stores = Stores(
            with_owners(self._stores.events, capacity),
            with_owners(self._stores.tiles, capacity * groups),
            with_owners(self._stores.distincts, capacity * distincts),
        )
        self._capacity = capacity

    def _run(
        self,
        begin: int,
        end: int,
        batch: Batch,
        features: npt.NDArray[np.float64],
        flags: npt.NDArray[np.uint8],
        evaluate: bool,
    ) -> None:
        highest = int(batch.partitions.max())
        if highest >= len(self._clocks_ms):
            more = np.full(highest + 1 - len(self._clocks_ms), NEVER_MS, np.int64)
            self._clocks_ms = np.concatenate([self._clocks_ms, more])
        self._fit_table(batch.slots, end - begin)
        while begin < end:
            begin, full = kernels.advance_batch(
                begin, end, evaluate, batch, self.plan.operations, self._entities, self._clocks_ms, self._stores,
                self._cache, self._scratch, features, flags,
            )  # fmt: skip
            if full != kernels.DONE:
                self._grow_rows(full, int(self._scratch.missing[0]))

    def _fit_table(self, slots: npt.NDArray[np.int64], added: int) -> None:
        """Give the table for distinct values room for every entity of a batch."""
        room = len(self._scratch.table) // 2
        events, values = self._stores.events, self._stores.distincts
        if max(int(events.free[HIGH_WATER]), int(values.free[HIGH_WATER])) + added <= room:
            return
        most = int(events.kept[slots].max())
        distincts = len(self.plan.operations.distincts)
        if distincts:
            most = max(most, int(values.kept[owners_of(slots, distincts)].max()))
        if most + added > room:
            larger = np.empty(1 << (2 * (most + added)).bit_length())
            self._scratch = self._scratch._replace(table=larger)

    def _grow_rows(self, full: int, missing: int) -> None:
        name = {kernels.EXACT_FULL: "events", kernels.TILES_FULL: "tiles", kernels.DISTINCTS_FULL: "distincts"}[full]
        grown = with_room(getattr(self._stores, name), missing, masked=name == "events")
        self._stores = self._stores._replace(**{name: grown})

    def _remember_blocks(self, slots: npt.NDArray[np.int64]) -> None:
        """Begin remembering blocks when the first entity has many events."""
        if len(self._cache.owners) == 0 and self._stores.events.free[HIGH_WATER] > REMEMBER_FROM_ROWS:
            most = self._stores.events.kept[slots].max()
            if most > REMEMBER_FROM_ROWS:
                self._cache = new_block_cache(_CACHE_ENTRIES)

    def _fold(self, custom: CustomOperation, slot: int, time_ms: int) -> float:
        """A user's own aggregate as of the event just taken in."""
        events, aggregate = self._stores.events, custom.aggregate
        cut_ms = int(self._entities.max_time_ms[slot] - self.plan.operations.limits[2])
        begin = int(events.start[slot] + events.first[slot])
        low = begin + rows_up_to(events, slot, max(time_ms - aggregate.window_ms, cut_ms))
        high = begin + rows_up_to(events, slot, time_ms)
        state = aggregate.init()
        for row in range(low, high):
            value = float(events.values[row, custom.column])
            if int(events.masks[row]) & custom.needed == custom.needed and not math.isnan(value):
                state = aggregate.add(state, value, int(events.keys[row]))
        result = float(aggregate.value(state))
        return aggregate.fill if math.isnan(result) else result

    def _events_entry(self) -> bytes:
        batches = [batch for _, batch in self._pending]
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name in ("times", "clocks", "partitions", "columns", "masks"):
            parts = [getattr(batch, name) for batch in batches]
            arrays[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        entities = [entity for keys, _ in self._pending for entity in keys]
        return encode(EVENTS, self._layout, entities, arrays)

    def _replay(self, entry: Entry) -> None:
        """Take in logged events again."""
        arrays, layout, wanted = entry.arrays, entry.layout, self.plan.layout
        for name in ("times", "clocks", "partitions", "columns", "masks"):
            entry.check_length(name, len(entry.entities))
        if not entry.entities:
            return
        batch = Batch(
            self._slots_of(entry.entities),
            arrays["times"],
            arrays["clocks"],
            arrays["partitions"],
            map_columns(arrays["columns"], layout["columns"], wanted["columns"]),
            map_bits(arrays["masks"], layout["conditions"], wanted["conditions"]),
            np.empty((len(entry.entities), self.plan.direct_width)),
        )
        nothing = np.empty((0, len(self.plan.feature_names))), np.empty(0, np.uint8)
        self._run(0, len(entry.entities), batch, *nothing, False)
        self._logged += len(entry.entities)

    def _load(self, entry: Entry) -> None:
        """Take in a snapshot's entities."""
        clocks = entry.arrays["clocks"]
        more = np.full(max(len(clocks) - len(self._clocks_ms), 0), NEVER_MS, np.int64)
        self._clocks_ms = np.concatenate([self._clocks_ms, more])
        self._clocks_ms[: len(clocks)] = np.maximum(self._clocks_ms[: len(clocks)], clocks)
        slots = self._slots_of(entry.entities)
        self._stores = load_snapshot(self.plan, entry, slots, self._entities, self._stores)


class _Sample:
    key: str
    number: float
    time: int


def _smallest_pipeline() -> Pipeline:
    """Touches every store; the kernels are the same for all pipelines."""
    return Pipeline(
        name="warm-up",
        events=Events(_Sample, topic="events", entity="key", time="time", id="key"),
        features=[
            Sum("number", window="1m"), Sum("number", window="1m", tile="1s"),
            Distinct("number", window="1m", tile="1s"),
        ],
        model=Model("warm-up", version=1),
        prediction="score",
    )  # fmt: skip


def warm_up() -> None:
    """Compile every kernel, or load it from numba's cache on disk; for setup and the start of a worker."""
    plan = FeaturePlan.build(_smallest_pipeline())
    state = ShardState(plan, compact_after=1)
    stored: dict[int, bytes] = {}
    for time_ms in (1_000, 2_000, 1_500):
        one = np.array([time_ms])
        columns, direct = np.ones((1, len(plan.columns))), np.ones((1, plan.direct_width))
        state.advance(["a"], one, one, np.zeros(1, np.int32), columns, np.ones(1, np.uint64), direct)
        put, removed = state.take_changes()
        stored.update(put)
        for number in removed:
            del stored[number]
    ShardState.restore(plan, stored.items()).forget_expired()
    kernels.forget_entities(np.zeros(1, np.int64), plan.operations, state._entities, state._stores)
