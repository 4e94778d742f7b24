"""Which features are not complete yet, because an earlier pipeline did not keep all that they need.

A change of pipeline leaves gaps: what is needed and was not kept, or not for so long, of events up to those that were
the latest then. A feature warms up as long as its window reaches back into a gap. Gaps are part of the state, so it is
the same after a restart and in a replay.

    before the change ........ kept ........|  after it
                     |<-------- gap ------->|
                          |<------- window ---------->| event: warms up
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.aggregates import aggregates_of
from udfs.kernel_arrays import NEVER_MS, SLOTS_USED
from udfs.plan import FeaturePlan
from udfs.shard_memory import ShardMemory
from udfs.state_needs import needs_of
from udfs.state_sources import Layout, Sources, needs_met_by

_MOST_AHEAD_MS = 3_600_000
"""An entity whose newest event is dated further ahead of its partition's clock than this says nothing of the others."""


@dataclass(frozen=True)
class Gap:
    """Something that was not kept.

    Attributes:
        need: What, as state_sources.py names it.
        kept_ms: It was kept so far back from the latest event of before the change.
        until_ms: Time of that event in each partition.
    """

    need: str
    kept_ms: int
    until_ms: tuple[int, ...]


def gaps_in(layout: Layout) -> list[Gap]:
    """The gaps of a state with that layout."""
    return [Gap(each["need"], each["kept_ms"], tuple(each["until_ms"])) for each in layout.get("gaps", ())]


def with_gaps(layout: Layout, gaps: Sequence[Gap]) -> Mapping[str, Any]:
    """The layout of a state with gaps, as its log has it."""
    return {**layout, "gaps": [vars(gap) for gap in gaps]} if gaps else layout


def gaps_after_change(plan: FeaturePlan, written: Layout, latest_ms: Sequence[int]) -> list[Gap]:
    """The gaps of a state that the plan's pipeline takes over.

    Args:
        plan: Of the pipeline.
        written: The layout of the one before, fields renamed.
        latest_ms: Time of the latest event so far in each partition.
    """
    sources, before = Sources(written, plan.layout), gaps_in(written)
    reaches: dict[str, int] = {}
    for aggregate in aggregates_of(tuple(plan.pipeline.features)):
        for need in needs_of(plan, aggregate):
            reaches[need] = max(reaches.get(need, 0), aggregate.window_ms + plan.pipeline.lateness_ms)
    gaps = []
    for need, reach_ms in reaches.items():
        source = sources.of(need)
        if source.kept_ms < reach_ms:
            gaps.append(Gap(need, source.kept_ms, tuple(latest_ms)))
        met_by = needs_met_by(need, source, written)
        gaps += [Gap(need, gap.kept_ms, gap.until_ms) for gap in before if gap.need in met_by]
    return [gap for gap in dict.fromkeys(gaps) if gap.kept_ms < reaches[gap.need]]


def entity_times(memory: ShardMemory) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Partition and largest event time of each entity; some may be forgotten."""
    entities = memory.shard.entities[: int(memory.shard.counts[SLOTS_USED])]
    entities = entities[(entities["key"] != 0) & (entities["max_time_ms"] != NEVER_MS)]
    return entities["partition"], entities["max_time_ms"]


def latest_times(memory: ShardMemory) -> list[int]:
    """Time of the latest event in each partition of a shard."""
    clocks = memory.shard.clocks_ms
    latest = clocks.copy()
    partitions, times_ms = entity_times(memory)
    near = times_ms <= clocks[partitions] + _MOST_AHEAD_MS
    np.maximum.at(latest, partitions[near], times_ms[near])
    times: list[int] = latest.tolist()
    return times


class Warming:
    """The features of a pipeline that warm up.

    Args:
        names: Their names.
        complete_from_ms: (features, partitions) int64: a feature of an event before that time is not complete.
        lateness_ms: The pipeline's.
        retention_ms: The pipeline's.
    """

    def __init__(
        self, names: Sequence[str], complete_from_ms: npt.NDArray[np.int64], lateness_ms: int, retention_ms: int
    ) -> None:
        self._complete_from_ms, self._lateness_ms, self._retention_ms = complete_from_ms, lateness_ms, retention_ms
        # an entity may come from a partition that is new since
        self._elsewhere = complete_from_ms.max(axis=1, keepdims=True)
        self._names, self._texts = tuple(names), dict[bytes, str]()

    @classmethod
    def of(cls, plan: FeaturePlan, gaps: Sequence[Gap]) -> "Warming | None":
        """None when no feature's window can reach into a gap."""
        lateness_ms, found = plan.pipeline.lateness_ms, {}
        partitions = max((len(gap.until_ms) for gap in gaps), default=0)
        for feature in plan.pipeline.features:
            complete = np.full(partitions, NEVER_MS, np.int64)
            for aggregate in aggregates_of((feature,)):
                needs = needs_of(plan, aggregate)
                for gap in gaps:
                    if gap.need in needs and gap.kept_ms < aggregate.window_ms + lateness_ms:
                        until = np.array(gap.until_ms) - gap.kept_ms + aggregate.window_ms
                        np.maximum(complete[: len(until)], until, out=complete[: len(until)])
            if (complete > NEVER_MS // 2).any():
                found.update(dict.fromkeys(feature.names(plan.pipeline.fields), complete))
        if not found:
            return None
        return cls(tuple(found), np.array(list(found.values())), lateness_ms, plan.pipeline.retention_ms)

    def is_over(self, memory: ShardMemory) -> bool:
        """Whether every event that could be before is late, or of an entity that was forgotten meanwhile."""
        clocks_ms = memory.shard.clocks_ms
        known = self._complete_from_ms.shape[1]
        clocks = np.full(known, NEVER_MS, np.int64)
        clocks[: len(clocks_ms)] = clocks_ms[:known]
        lacking, slack_ms = self._complete_from_ms > NEVER_MS // 2, self._lateness_ms + self._retention_ms
        if not (clocks > self._complete_from_ms + slack_ms)[lacking].all():
            return False
        # one whose events come behind the clock is kept as long as they come
        newest = entity_times(memory)[1].min(initial=np.iinfo(np.int64).max)
        return bool(newest >= self._complete_from_ms.max() + self._lateness_ms)

    def names_of(self, times_ms: npt.NDArray[np.int64], partitions: npt.NDArray[np.int32]) -> list[str] | None:
        """The features that are not complete for n events, with commas; None if all are for all."""
        known = self._complete_from_ms.shape[1]
        complete_from = self._complete_from_ms[:, np.minimum(partitions, known - 1)]
        complete_from = np.where(partitions < known, complete_from, self._elsewhere)
        incomplete = np.ascontiguousarray((times_ms < complete_from).T)
        if not incomplete.any():
            return None
        return [self._text(row.tobytes()) for row in incomplete]

    def _text(self, row: bytes) -> str:
        if row not in self._texts:
            self._texts[row] = ",".join(name for name, lacks in zip(self._names, row, strict=True) if lacks)
        return self._texts[row]
