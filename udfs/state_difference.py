"""Two states of one pipeline, compared: which entities came, went and changed, and what of one entity did."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from udfs.durations import duration_text, time_text
from udfs.entity_state import ShardState
from udfs.kept_entities import KeptEntity, kept_entities, kept_entries
from udfs.kernel_arrays import NEVER_MS
from udfs.plan import FeaturePlan
from udfs.state_log import Words
from udfs.state_summary import Logs

_EXAMPLES = 10
_FACTS = {"partition": "partition", "newest_event_ms": "newest event", "dropped_until_ms": "events dropped up to"}


@dataclass
class Some:
    """How many entities, and the names of the first."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, entity: KeptEntity) -> None:
        """One more."""
        self.count += 1
        if len(self.first) < _EXAMPLES:
            self.first.append(entity.name)


@dataclass
class StateDifference:
    """What the second state has otherwise than the first.

    Attributes:
        same: Entities of which the same is kept, to the last bit.
        added: Only in the second.
        changed: In both, with something else.
        forgotten: Only in the first, because the second's clock has passed their time.
        gone: Only in the first although they should still be kept.
        by_shard: By shard key: entities in the first and the second.
    """

    same: int = 0
    added: Some = field(default_factory=Some)
    changed: Some = field(default_factory=Some)
    forgotten: Some = field(default_factory=Some)
    gone: Some = field(default_factory=Some)
    by_shard: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether both keep the same of the same entities."""
        return not any(each.count for each in (self.added, self.changed, self.forgotten, self.gone))


def compare_states(plan: FeaturePlan, first: Logs, second: Logs) -> StateDifference:
    """Compare entity by entity, both as the plan's pipeline would go on with them.

    Raises:
        StateVersionError: An entry has a version this Millrace does not read.
        StateCorruptError: An entry's bytes do not add up.
    """
    found = StateDifference()
    for shard in sorted({*first, *second}):
        before, after = _Shard(plan, first, shard), _Shard(plan, second, shard)
        found.by_shard[shard] = len(before.entities), len(after.entities)
        for key, entity in before.entities.items():
            other = after.entities.get(key)
            if other is None:
                (found.forgotten if after.has_forgotten(entity) else found.gone).add(entity)
            elif entity.content == other.content:
                found.same += 1
            else:
                found.changed.add(other)
        for key, entity in after.entities.items():
            if key not in before.entities:
                found.added.add(entity)
    return found


class _Shard:
    """One shard of a state, taken apart."""

    def __init__(self, plan: FeaturePlan, logs: Logs, shard: int) -> None:
        self._retention_ms = plan.pipeline.retention_ms
        state = ShardState.restore(plan, logs.get(shard, ()), log_changes=False)
        entries = list(kept_entries(state))
        self._clocks: Words = entries[0].clocks
        self.entities: dict[bytes, KeptEntity] = {
            entity.key: entity for entry in entries for entity in kept_entities(entry)
        }

    def has_forgotten(self, entity: KeptEntity) -> bool:
        """Whether this state's clock has passed an entity of another one."""
        partition, active_ms = int(entity.head[2]), int(entity.head[3])
        clock_ms = int(self._clocks[partition]) if partition < len(self._clocks) else NEVER_MS
        return clock_ms > active_ms + self._retention_ms


def entity_changes(before: dict[str, Any] | None, after: dict[str, Any] | None) -> list[str]:
    """What differs between two descriptions of an entity (`describe_entity`), a line each.

    Either may be None: not kept. Descriptions may have `features`, by name.
    """
    if before is None or after is None:
        if before is after:
            return []
        return ["it is kept only in the second" if before is None else "it is kept only in the first"]
    lines = [
        f"{words}: {_told(name, before[name])} -> {_told(name, after[name])}"
        for name, words in _FACTS.items()
        if before[name] != after[name]
    ]
    for kind, place in (("events", "event"), ("tiles", "tile"), ("distinct", "values")):
        lines += _moved(before[kind], after[kind], place)
    earlier, later = before.get("features", {}), after.get("features", {})
    # repr: a missing value (NaN) is the same as another
    lines += [
        f"feature {name}: {earlier.get(name)!r} -> {later.get(name)!r}"
        for name in {**earlier, **later}
        if repr(earlier.get(name)) != repr(later.get(name))
    ]
    return lines


def _moved(before: list[dict[str, Any]], after: list[dict[str, Any]], word: str) -> Iterator[str]:
    first, second = ([_one_line(each) for each in one] for one in (before, after))
    left = Counter(second)
    for line in first:
        if left[line]:
            left[line] -= 1
        else:
            yield f"{word} gone: {line}"
    yield from (f"{word} added: {line}" for line in left.elements())


def _one_line(each: dict[str, Any]) -> str:
    told = (f"{name.removesuffix('_ms')} {_told(name, value)}" for name, value in each.items() if value not in ({}, []))
    return ", ".join(told)


def _told(name: str, value: Any) -> Any:
    if name == "tile_ms":
        return duration_text(value)
    return time_text(value) if name.endswith("_ms") and value is not None else value
