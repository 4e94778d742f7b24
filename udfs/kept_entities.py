"""What a shard's state keeps of its entities, as plain data: for people, and to compare two states.

A state is taken apart by its own snapshot entries, so that nothing is said that a restore would not know.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from udfs.columns import hash_text
from udfs.entity_keys import joined_keys
from udfs.entity_state import ShardState
from udfs.kernel_arrays import NEVER_MS
from udfs.layouts import Stores
from udfs.partials import COUNT, EWMA, LAST, MAX, MEAN, MIN, SINCE, STD, SUM
from udfs.plan import FeaturePlan
from udfs.state_log import HEAD, Entry, Words, decode, store_widths

_NAMES = {COUNT: "count", SUM: "sum", MEAN: "mean", MIN: "min", MAX: "max", STD: "std", LAST: "last",
          SINCE: "latest_ms", EWMA: "ewma"}  # fmt: skip


@dataclass(frozen=True)
class KeptEntity:
    """An entity as a state keeps it.

    Attributes:
        key: Its key, as `joined_keys` writes it.
        head: (4 + stores,) int64: as of `Entry`.
        rows: (words,) int64: the rows of its stores, one store after the other.
    """

    key: bytes
    head: Words
    rows: Words

    @property
    def name(self) -> str:
        """The key as text."""
        return self.key.replace(b"\xff", b"\0").decode("utf-8", "surrogatepass")

    @property
    def content(self) -> bytes:
        """Equal for two entities of which the same is kept, to the last bit."""
        return self.head.tobytes() + self.rows.tobytes()


def kept_entries(state: ShardState) -> Iterator[Entry]:
    """The whole state as snapshot entries, in the layout of its plan; forgotten entities are left out."""
    for _, entry in state.entries():
        yield decode(entry)


def kept_entities(entry: Entry) -> Iterator[KeptEntity]:
    """The entities of a snapshot entry."""
    ends = np.cumsum((entry.heads[:, HEAD:] * store_widths(entry.layout)).sum(axis=1))
    begin = 0
    for key, head, end in zip(entry.keys.split(b"\0") if entry.count else (), entry.heads, ends, strict=True):
        yield KeptEntity(key, head, entry.rows[begin:end])
        begin = int(end)


def find_entity(state: ShardState, name: str) -> tuple[KeptEntity, Words] | None:
    """An entity by its name, and the clocks of the partitions; None if it is unknown or forgotten."""
    key = joined_keys([name])
    for entry in kept_entries(state):
        if key not in entry.keys:
            continue
        for entity in kept_entities(entry):
            if entity.key == key:
                return entity, entry.clocks
    return None


def describe_entity(plan: FeaturePlan, entity: KeptEntity, clocks: Words) -> dict[str, Any]:
    """What is kept of an entity, by the names of fields.

    Args:
        plan: The state's.
        entity: From the state.
        clocks: (partitions,) int64 ms.
    """
    newest_ms, dropped_ms, partition, active_ms = (int(number) for number in entity.head[:HEAD])
    stores = Stores(_alone(plan, entity))
    tiles = plan.layout["tiles"]
    return {
        "entity": entity.name,
        "partition": partition,
        "newest_event_ms": newest_ms,
        "clock_ms": int(clocks[partition]),
        "forgotten_after_ms": active_ms + plan.pipeline.retention_ms,
        "dropped_until_ms": None if dropped_ms == NEVER_MS else dropped_ms,
        "events": _events(plan, stores),
        "tiles": [tile for group in range(len(tiles)) for tile in _tiles(plan, stores, group)],
        "distinct": [values for number in range(len(plan.layout["distincts"])) for values in _distincts(
            plan, stores, number)],
    }  # fmt: skip


def _alone(plan: FeaturePlan, entity: KeptEntity) -> Entry:
    nothing = np.empty(0, np.int64)
    return Entry(2, plan.layout, 1, entity.key, nothing, entity.head[None, :], entity.rows)


def _events(plan: FeaturePlan, stores: Stores) -> list[dict[str, Any]]:
    bits, in_word = int(plan.operations.limits.mask_bits), int(plan.operations.limits.mask_words)
    columns = plan.columns[: plan.kept_columns]
    _, rows = stores.of(0)
    events = []
    for row in rows:
        passed = int(row[1]) if in_word else int(row[0]) & ((1 << bits) - 1)
        values = row[1 + in_word :].view(np.float64)
        events.append({
            "time_ms": int(row[0]) >> bits,
            "columns": {
                column.field: _value(plan, column.field, column.hashed, value)
                for column, value in zip(columns, values, strict=True)
            },
            "conditions": [each.name for bit, each in enumerate(plan.conditions) if passed >> bit & 1],
        })
    return events


def _value(plan: FeaturePlan, field: str, hashed: bool, value: float) -> Any:
    """A kept number as the event had it: None for null; of a text only its hash is kept, unless it has categories."""
    if np.isnan(value):
        return None
    if not hashed:
        return _number(plan, field, float(value))
    for category in plan.pipeline.fields[field].categories or ():
        if hash_text(str(category)) == value:
            return category
    return f"#{int(np.float64(value).view(np.uint64)):016x}"


def _number(plan: FeaturePlan, field: str, value: float) -> Any:
    kind = plan.pipeline.fields[field].kind
    if kind == "bool":
        return bool(value)
    return int(value) if kind == "int" and np.isfinite(value) else value


def _tiles(plan: FeaturePlan, stores: Stores, group: int) -> Iterator[dict[str, Any]]:
    tile_ms = plan.layout["tiles"][group]
    _, rows = stores.of(1 + group)
    parts = [
        (part_name(name), int(part["kind"]), offset, numbers)
        for (name, offset, numbers), part in zip(plan.layout["parts"], plan.operations.parts, strict=True)
        if part["store"] == 1 + group
    ]
    for row in rows:
        numbers = row[1:].view(np.float64)
        values = {name: _partial(kind, numbers[at : at + width].tolist()) for name, kind, at, width in parts}
        yield {"tile_ms": tile_ms, "begin_ms": int(row[0]) * tile_ms, "values": values}


def _partial(kind: int, numbers: Sequence[float]) -> Any:
    """A partial aggregate as people write it; None where it has seen no value."""
    first = numbers[0]
    if kind in (COUNT, SUM):
        return first
    if kind in (MIN, MAX):
        return None if first != first else first
    if kind == LAST:
        return None if first == -np.inf else {"value": numbers[1], "time_ms": int(first)}
    if kind == SINCE:
        return None if first == -np.inf else int(first)
    if kind == EWMA:
        return {"mean": numbers[0] / numbers[1], "newest_ms": int(numbers[2])} if numbers[1] else None
    if not first:
        return None
    names = ("count", "sum") if kind == MEAN else ("count", "mean", "squared_deviations")
    return dict(zip(names, numbers, strict=True))


def _distincts(plan: FeaturePlan, stores: Stores, number: int) -> Iterator[dict[str, Any]]:
    identity = plan.layout["distincts"][number]
    tile_ms, field, _ = json.loads(identity)
    _, rows = stores.of(1 + len(plan.layout["tiles"]) + number)
    hashed = plan.pipeline.fields[field].kind == "str"
    by_tile: dict[int, list[Any]] = {}
    for row in rows:
        value = float(row[1:2].view(np.float64)[0])
        by_tile.setdefault(int(row[0]), []).append(_value(plan, field, hashed, value))
    for tile, values in by_tile.items():
        yield {
            "name": distinct_name(identity),
            "tile_ms": tile_ms,
            "begin_ms": tile * tile_ms,
            "values": values,
        }


def part_name(identity: str) -> str:
    """What a tile's partial is of, from its name in a layout: `amount_sum`, `count where page == 'pay'`."""
    _, field, where, kind, half_life_ms = json.loads(identity)
    return _named(field, where, kind if kind != "ewma" else f"ewma, half-life {half_life_ms:g} ms")


def distinct_name(identity: str) -> str:
    """What a tiled Distinct counts, from its name in a layout."""
    _, field, where = json.loads(identity)
    return _named(field, where, "distinct")


def _named(field: str | None, where: Any, kind: str) -> str:
    of = kind if field is None else f"{field} {kind}"
    return of if where is None else f"{of} where {condition_text(where)}"


def condition_text(definition: Sequence[Any]) -> str:
    """A condition's definition (nested lists) as an expression."""
    word, *rest = definition
    if word == "not":
        return f"not ({condition_text(rest[0])})"
    if word in ("and", "or"):
        return f"({condition_text(rest[0])}) {word} ({condition_text(rest[1])})"
    if word == "null":
        return f"{rest[0]} is null"
    if word == "in":
        return f"{rest[0]} in {tuple(rest[1:])!r}"
    return f"{rest[0]} {word} {rest[1]!r}"
