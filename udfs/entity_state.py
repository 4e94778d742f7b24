"""Everything kept for one shard, and the log that carries it through a restart.

Events go in batch by batch, features come out; `take_changes` says what to write to Flink's state, `restore` reads it.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from udfs import kernels
from udfs.entity_keys import joined_keys
from udfs.entity_slots import DONE, find_slots, sweep
from udfs.kernel_arrays import COLUMNS, ENTITIES, SLOTS_USED, TIME
from udfs.layouts import entities_for, events_for, layout_of
from udfs.plan import FeaturePlan
from udfs.plan_builder import CustomOperation
from udfs.shard_log import ShardLog
from udfs.shard_memory import ShardMemory
from udfs.snapshots import EntityWriter, load_entities
from udfs.state_log import EVENTS, Entry, decode
from udfs.state_sources import Layout, is_alike
from udfs.warming import Gap, Warming, gaps_after_change, gaps_in, latest_times, with_gaps

LATE, TRUNCATED, WARMING, FAILED = kernels.LATE, kernels.TRUNCATED, 4, 8
ENTRY_ROWS = 4_096
"""Rows of an entry of `ShardState.entries`, as of a slice that the log writes in one go."""
_NO_FEATURES, _NO_FLAGS = np.empty((0, 0)), np.empty(0, np.uint8)


@dataclass(frozen=True, slots=True)
class Advanced:
    """What a batch gave.

    Attributes:
        features: (n_events, n_features) float64 in the order of `plan.feature_names`, `fill` applied.
        flags: (n_events,) uint8: LATE, TRUNCATED, WARMING; FAILED where an aggregate of the user's own raised, whose
            feature is NaN then.
        warming: The features that are not complete yet for each event, with commas; None if all are.
        failed: What was raised, by event.
    """

    features: npt.NDArray[np.float64]
    flags: npt.NDArray[np.uint8]
    warming: list[str] | None = None
    failed: dict[int, str] = field(default_factory=dict)


class ShardState:
    """Features of the entities of one shard.

    Args:
        plan: What to compute.
        log_changes: Whether `take_changes` will be called; without it (a backfill) nothing is logged.
        compact_after: Fewest events logged before the log is rewritten.

    Attributes:
        plan: As it was given.
        memory: The shard's arrays.
    """

    def __init__(self, plan: FeaturePlan, *, log_changes: bool = True, compact_after: int = 1024) -> None:
        self.plan = plan
        self._n_features, self._event_words = len(plan.feature_names), COLUMNS + len(plan.columns)
        self.memory = ShardMemory(plan.operations)
        self._log_changes = log_changes
        self._layout = json.dumps(plan.layout).encode()
        self._log = ShardLog(self.memory, self._layout, compact_after)
        self._warming: Warming | None = None

    def __len__(self) -> int:
        """How many entities are known."""
        return int(self.memory.shard.counts[ENTITIES])

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

        An event is in the state from then on, also one whose features cannot be computed: what an aggregate of the
        user's own raises today it may not raise after a fix, and the state must be the same with both.

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
        features, flags = np.empty((count, self._n_features)), np.zeros(count, np.uint8)
        if count == 0:
            return Advanced(features, flags)
        events = self._as_words(event_times_ms, record_times_ms, partitions, columns, masks)
        keys = joined_keys(entities)
        failed = self._take_in(keys, events, np.ascontiguousarray(direct, np.float64), features, flags)
        for codes in self.plan.codes:
            codes.put(features)
        if self._log_changes:
            self._log.add(keys, events)
        return Advanced(features, flags, self.mark_warming(events[:, TIME], partitions, flags), failed)

    def mark_warming(
        self, times_ms: npt.NDArray[np.int64], partitions: npt.NDArray[np.int32], flags: npt.NDArray[np.uint8]
    ) -> list[str] | None:
        """Set the flags of events with features that are not complete, and name these; None if all are complete."""
        warming = None if self._warming is None else self._warming.names_of(times_ms, partitions)
        if warming is not None:
            flags[np.array([text != "" for text in warming])] |= WARMING
        return warming

    def take_in(
        self,
        entities: Sequence[str],
        event_times_ms: npt.NDArray[np.int64],
        record_times_ms: npt.NDArray[np.int64],
        partitions: npt.NDArray[np.int32],
        columns: npt.NDArray[np.float64],
        masks: npt.NDArray[np.uint64],
    ) -> None:
        """What `advance` does, without features and without a log: for a history of which only the state is wanted."""
        events = self._as_words(event_times_ms, record_times_ms, partitions, columns, masks)
        nothing = np.empty((len(events), self.plan.direct_width))
        if len(events):
            self._take_in(joined_keys(entities), events, nothing, _NO_FEATURES, _NO_FLAGS)

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """The whole state as a log of its own, for `restore`: numbered entries, one even where no entity is known."""
        writer, number = EntityWriter(self.memory, self._layout), 0
        while number == 0 or not writer.done:
            yield number, writer.next_entry(ENTRY_ROWS)[0]
            number += 1

    def take_changes(self) -> tuple[dict[int, bytes], list[int]]:
        """What to put into and remove from the shard's map of entries since the last call.

        Returns:
            Entries to put, and numbers of entries to remove.
        """
        if self._warming is not None and self._warming.is_over(self.memory):
            self._warming = None
        return self._log.take_changes()

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

        Columns, conditions and tiles are found by name, or computed from others, so a pipeline with other features
        keeps what can be kept. Features that need more are marked as warming up until their windows are full, and the
        first changes that are taken write the log anew.

        Raises:
            StateVersionError: If an entry has a version this one does not read.
            StateCorruptError: If an entry's bytes do not add up.
        """
        state = cls(plan, log_changes=log_changes, compact_after=compact_after)
        in_order = sorted(entries, key=lambda entry: entry[0])
        events_logged, layouts = 0, list[Layout]()
        for _, data in in_order:
            entry = decode(data)
            if not layouts or entry.layout is not layouts[-1]:
                layouts.append(entry.layout)
            if entry.kind == EVENTS:
                state._replay(entry)
                events_logged += entry.count
            else:
                state._load(entry)
        if in_order:
            state._log.resume(in_order[0][0], in_order[-1][0] + 1, events_logged)
            state._take_over(layouts)
        return state

    def _take_over(self, written: Sequence[Layout]) -> None:
        """Go on with the gaps of a state that had these layouts, one after the other, and with those of the change."""
        wanted, last = self.plan.layout, layout_of(self.plan, written[-1])
        gaps = gaps_in(last)
        if not is_alike(last, wanted):
            gaps = gaps_after_change(self.plan, last, latest_times(self.memory))
        self._warming = Warming.of(self.plan, gaps)
        if self._warming is None or self._warming.is_over(self.memory):
            self._warming, gaps = None, list[Gap]()
        self._layout = json.dumps(with_gaps(wanted, gaps)).encode()
        self._log.layout = self._layout
        if not all(is_alike(each, wanted) for each in written):
            # names that only this change can read would otherwise stay in the log
            self._log.rewrite()

    def forget_expired(self) -> None:
        """Free what is kept of entities that are forgotten already; changes no result.

        Each batch does so for a few slots; this does it for all at once.
        """
        sweep(self.memory.address, int(self.memory.shard.counts[SLOTS_USED]))

    def memory_bytes(self) -> int:
        """Bytes of all arrays."""
        return self.memory.nbytes()

    def _as_words(
        self,
        event_times_ms: npt.NDArray[np.int64],
        record_times_ms: npt.NDArray[np.int64],
        partitions: npt.NDArray[np.int32],
        columns: npt.NDArray[np.float64],
        masks: npt.NDArray[np.uint64],
    ) -> npt.NDArray[np.int64]:
        """(n, words) int64: the events as kernels and the log take them."""
        events = np.empty((len(event_times_ms), self._event_words), np.int64)
        kernels.write_events(
            np.ascontiguousarray(event_times_ms, np.int64), np.ascontiguousarray(record_times_ms, np.int64),
            np.ascontiguousarray(partitions, np.int32), np.ascontiguousarray(columns, np.float64),
            np.ascontiguousarray(masks, np.uint64), events,
        )  # fmt: skip
        return events

    def _take_in(
        self,
        keys: bytes,
        events: npt.NDArray[np.int64],
        direct: npt.NDArray[np.float64],
        features: npt.NDArray[np.float64],
        flags: npt.NDArray[np.uint8],
    ) -> dict[int, str]:
        """What an aggregate of the user's own raised, by event."""
        slots, count, failed = self.slots_of(keys, len(events)), len(events), dict[int, str]()
        if not self.plan.customs or not len(features):
            self._run(0, count, slots, events, direct, features, flags)
            return failed
        for event in range(count):
            self._run(event, event + 1, slots, events, direct, features, flags)
            for custom in self.plan.customs:
                try:
                    value = self._fold(custom, int(slots[event]), int(events[event, TIME]))
                except Exception as error:  # a user's code: whatever it raises, it is this event that has no feature
                    failed.setdefault(event, f"{custom.aggregate.name}: {type(error).__name__}: {error}")
                    flags[event] |= FAILED
                    value = math.nan
                features[event, custom.output] = value
        return failed

    def slots_of(self, keys: bytes, count: int) -> npt.NDArray[np.int64]:
        """The slots of entities, by their joined keys; unknown ones get one."""
        slots, event, begin = np.empty(count, np.int64), 0, 0
        while event < count:
            event, begin, full = find_slots(self.memory.address, event, begin, keys, slots)
            if full != DONE:
                self.memory.grow(full)
        return slots

    def _run(
        self,
        begin: int,
        end: int,
        slots: npt.NDArray[np.int64],
        events: npt.NDArray[np.int64],
        direct: npt.NDArray[np.float64],
        features: npt.NDArray[np.float64],
        flags: npt.NDArray[np.uint8],
    ) -> None:
        while begin < end:
            begin, full = kernels.advance_batch(
                self.memory.address, begin, end, slots, events, direct, features, flags
            )
            if full != DONE:
                self.memory.grow(full)

    def _fold(self, custom: CustomOperation, slot: int, time_ms: int) -> float:
        """A user's own aggregate as of the event just taken in."""
        aggregate, limits = custom.aggregate, self.plan.operations.limits
        rows = self.memory.events_of(slot)
        cut_ms = self.memory.max_time_ms(slot) - limits.exact_retention_ms
        after_ms = max(time_ms - aggregate.window_ms, cut_ms)
        times_ms = rows[:, 0] >> limits.mask_bits
        low, high = np.searchsorted(times_ms, [after_ms, time_ms], side="right")
        masks = rows[:, limits.mask_words]
        values = rows.view(np.float64)[:, 1 + limits.mask_words + custom.column]
        state = aggregate.init()
        for row in range(low, high):
            value = float(values[row])
            if int(masks[row]) & custom.needed == custom.needed and not math.isnan(value):
                state = aggregate.add(state, value, int(times_ms[row]))
        result = float(aggregate.value(state))
        return aggregate.fill if math.isnan(result) else result

    def _replay(self, entry: Entry) -> None:
        """Take in logged events again."""
        if entry.count:
            nothing = np.empty((entry.count, self.plan.direct_width))
            self._take_in(entry.keys, events_for(self.plan, entry), nothing, _NO_FEATURES, _NO_FLAGS)

    def _load(self, entry: Entry) -> None:
        """Take in a snapshot's entities and clocks; what was known of these entities is replaced."""
        heads, rows = entities_for(self.plan, entry)
        partitions = int(heads[:, 2].max(initial=-1)) + 1
        self.memory.know_partitions(max(partitions, len(entry.clocks)))
        clocks_ms = self.memory.shard.clocks_ms[: len(entry.clocks)]
        np.maximum(clocks_ms, entry.clocks, out=clocks_ms)
        if entry.count:
            load_entities(self.memory, self.slots_of(entry.keys, entry.count), heads, rows)
