"""Hard input for any pipeline, from its event class alone: what makes engines disagree, again and again.

Out of order, late, twice, at equal times, exactly a window apart; nulls, zeros with a sign, huge and tiny numbers;
bursts, gaps of a year, the hours when clocks change, a leap second; entities that come back after they were forgotten;
records that are no events. The same seed gives the same records.
"""

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from flink_jobs.local.broken_records import broken_variants
from udfs.aggregates import aggregates_of
from udfs.conditions import IsIn
from udfs.events import MAX_EVENT_TIME_MS, EventField
from udfs.pipeline import Pipeline

HOUR_MS, DAY_MS, YEAR_MS = 3_600_000, 86_400_000, 31_557_600_000
ACTIVE_ENTITIES = 50  # at a time: so many share a longest window, whatever the number of events
STAY_EVENTS = 40  # of an entity, until another takes its place
BROKEN_SHARE, TWICE_SHARE = 0.01, 0.03
WILD_SHARE = 0.005  # of the records, the last: an entity's time may jump by centuries, after which all else is late
FLOATS = (0.0, -0.0, 1.0, -1.0, 2.5, 0.1, 1e-300, 5e-324, -5e-324, 1e9, 1e15, -1e15)
MANY_BYTES = 200_000  # with a larger limit, one oversized record is enough
HUGE = 1e150  # its square is still a number
INTS = (0, 1, -1, 2, 3, 100, 2**31, -(2**31), 2**53, -(2**53))
TEXTS = ("a", "b", "", " ", "A", "café", "cafe\u0301", "日本", "🦀", 'quo"te', "back\\slash", "new\nline", "x" * 300)


class HardRecord(NamedTuple):
    """A Kafka record.

    Attributes:
        key: Kafka key.
        value: Kafka value.
        reason: The dead letter's reason that it must get; None for an event.
    """

    key: bytes | None
    value: bytes | None
    reason: str | None


def _moments() -> list[int]:
    """When clocks were odd, ms since 1970: each begins a stretch of the input."""
    return [
        round(datetime(*moment, tzinfo=UTC).timestamp() * 1_000)
        for moment in (
            (2016, 12, 31, 23, 59, 50),  # a leap second follows: 23:59:60 has no number of its own
            (2019, 12, 31, 23, 0, 0),
            (2020, 2, 28, 23, 30, 0),  # and a 29th
            (2024, 3, 31, 0, 30, 0),  # summer time in Europe; more than four years later
            (2025, 3, 30, 0, 30, 0),
            (2025, 10, 26, 0, 30, 0),  # and back
        )
    ]


def hard_records(
    pipeline: Pipeline, count: int, seed: int, likely: Mapping[str, Sequence[Any]] | None = None
) -> Iterator[HardRecord]:
    """So many records, the broken ones included.

    Args:
        pipeline: Whose events.
        count: How many.
        seed: Where chance comes from.
        likely: By field, values that it often has, like keys of a table that is there.
    """
    return _Generator(pipeline, count, seed, likely or {}).records()


class HardValues:
    """Values of fields on which engines may disagree, nulls among them.

    Args:
        pipeline: What its conditions compare with is likely, too.
        random: Where chance comes from.
        likely: By field, values that it often has.
    """

    def __init__(
        self, pipeline: Pipeline, random: np.random.Generator, likely: Mapping[str, Sequence[Any]] | None = None
    ) -> None:
        self._random, self._constants = random, _constants(pipeline)
        for name, values in (likely or {}).items():
            self._constants.setdefault(name, []).extend(values)

    def of(self, field: EventField) -> Any:
        """A value of a field."""
        random = self._random
        if field.nullable and random.random() < 0.12:
            return None
        constants = self._constants.get(field.name, [])
        if field.categories is not None:
            return field.categories[int(random.integers(len(field.categories)))]
        if constants and random.random() < 0.3:
            return constants[int(random.integers(len(constants)))]
        match field.kind:
            case "bool":
                return bool(random.integers(2))
            case "str":
                return TEXTS[int(random.integers(len(TEXTS)))] if random.random() < 0.7 else f"t{random.integers(40)}"
            case "int":
                return int(random.choice(INTS)) if random.random() < 0.2 else int(random.integers(-9, 10))
            case "vector":
                return [self._float() for _ in range(field.size or 0)]
        return self._float()

    def _float(self) -> float:
        random = self._random
        chance = random.random()
        if chance < 0.15:
            return float(random.choice(FLOATS))
        if chance < 0.16:
            return float(random.choice([HUGE, -HUGE])) * float(random.random())
        return float(np.exp(random.normal(2.0, 1.5))) * float(random.choice([1, 1, 1, -1]))


def time_value(field: EventField, time_unit: str, time_ms: int) -> Any:
    """A time in ms since 1970 as a field of that unit has it."""
    units = {"s": 1e-3, "ms": 1, "us": 1_000, "ns": 1_000_000}[time_unit]
    if field.kind == "float":
        return time_ms * units
    return int(time_ms * units) if units >= 1 else time_ms // 1_000


class _Generator:
    def __init__(self, pipeline: Pipeline, count: int, seed: int, likely: Mapping[str, Sequence[Any]]) -> None:
        self._pipeline, self._count = pipeline, count
        self._random = np.random.default_rng(seed)
        self._seed, self._values = seed, HardValues(pipeline, self._random, likely)
        self._likely_entities = likely.get(pipeline.events.entity, ())
        windows = {each.window_ms for each in aggregates_of(tuple(pipeline.features))}
        tiles = {each.tile_ms for each in aggregates_of(tuple(pipeline.features)) if each.tile_ms is not None}
        self._windows = sorted(windows | tiles) or [HOUR_MS]
        self._longest, self._lateness = self._windows[-1], max(pipeline.lateness_ms, 1)
        self._made = self._made_events = 0
        self._is_oversized = False
        self._now = 0
        self._seen: dict[Any, int] = {}

    def records(self) -> Iterator[HardRecord]:
        recent: deque[HardRecord] = deque(maxlen=50)
        broken: list[HardRecord] = []
        active = [self._new_entity(number) for number in range(ACTIVE_ENTITIES)]
        moments = _moments()
        wild_from = self._count - int(self._count * WILD_SHARE)
        for number in range(self._count):
            if number % max(1, math.ceil(self._count / len(moments))) == 0:
                self._now = max(self._now, moments[min(number * len(moments) // self._count, len(moments) - 1)])
            chance = self._random.random()
            if recent and chance < TWICE_SHARE:
                yield recent[int(self._random.integers(len(recent)))]
                continue
            if self._random.random() < 1 / STAY_EVENTS:
                active[int(self._random.integers(len(active)))] = self._next_entity()
            is_busiest = self._random.random() < 0.02  # one of them has more than the others
            entity = active[0 if is_busiest else int(self._random.integers(len(active)))]
            event = self._event(entity, wild=number >= wild_from)
            if chance > 1 - BROKEN_SHARE:
                broken = broken or self._broken(event)
                yield broken.pop()
                continue
            record = HardRecord(str(entity).encode(), as_json(event, self._random), None)
            recent.append(record)
            yield record

    def _broken(self, event: dict[str, Any]) -> list[HardRecord]:
        limit = self._pipeline.max_record_bytes
        made = broken_variants(self._pipeline, event, max_record_bytes=limit)
        kept = [each for each in made if each.reason != "too_large" or limit < MANY_BYTES or not self._is_oversized]
        self._is_oversized = True
        order = self._random.permutation(len(kept)).tolist()
        return [HardRecord(kept[place].key, kept[place].value, kept[place].reason) for place in order]

    def _new_entity(self, number: int) -> Any:
        if self._likely_entities and number % 2 == 0:
            return self._likely_entities[number // 2 % len(self._likely_entities)]
        if self._pipeline.fields[self._pipeline.events.entity].kind == "int":
            return number * 7_919 - 1_000
        return f"{TEXTS[number % len(TEXTS)][:40]}{number}"

    def _next_entity(self) -> Any:
        self._made += 1
        if self._made % 5 == 0 and self._seen:  # one that was there before: forgotten or not
            known = list(self._seen)[-2_000:]
            return known[int(self._random.integers(len(known)))]
        return self._new_entity(ACTIVE_ENTITIES + self._made)

    def _event(self, entity: Any, *, wild: bool) -> dict[str, Any]:
        events, event = self._pipeline.events, {}
        self._made_events += 1
        for field in events.schema:
            if field.name == events.entity:
                event[field.name] = entity
            elif field.name == events.time:
                event[field.name] = time_value(field, events.time_unit, self._time_ms(entity, wild))
            elif field.name == events.id:
                event[field.name] = self._made_events if field.kind == "int" else f"{self._seed}n{self._made_events}"
            else:
                event[field.name] = self._values.of(field)
        return event

    def _time_ms(self, entity: Any, wild: bool) -> int:
        random, before = self._random, self._seen.get(entity, self._now)
        self._advance()
        chance = random.random()
        time_ms = self._now
        if wild and chance < 0.2:
            return int(random.choice([0, 1, MAX_EVENT_TIME_MS, MAX_EVENT_TIME_MS - 1, self._now + 50 * YEAR_MS]))
        if chance < 0.10:
            time_ms = before  # equal times
        elif chance < 0.17:  # at the edge of a window or tile, seen from the event before
            window = self._windows[int(random.integers(len(self._windows)))]
            edge = before + window + int(random.integers(-1, 2))
            if edge - self._now < self._longest // 10:
                self._now, time_ms = max(self._now, edge), edge
        elif chance < 0.20:
            window = self._windows[int(random.integers(len(self._windows)))]
            time_ms = self._now // window * window  # the first ms of a tile, an hour, a day
        elif chance < 0.30:
            time_ms -= int(random.exponential(self._windows[0] / 4))
        elif chance < 0.34:
            time_ms -= int(random.integers(self._lateness))
        elif chance < 0.35:
            time_ms -= self._lateness + int(random.integers(self._longest))
        time_ms = min(max(time_ms, 0), MAX_EVENT_TIME_MS)
        self._seen[entity] = max(before, time_ms)
        return time_ms

    def _advance(self) -> None:
        random, shortest = self._random, self._windows[0]
        chance = random.random()
        if chance < 0.5:
            self._now += int(random.exponential(shortest / 30))
        elif chance < 0.51:
            self._now += int(random.integers(max(1, self._longest // 3)))
        elif chance < 0.5101:
            self._now += self._pipeline.retention_ms + int(random.integers(DAY_MS))
        self._now = min(self._now, 9 * 10**12)


def _constants(pipeline: Pipeline) -> dict[str, list[Any]]:
    """What conditions compare each field with, and the nearest numbers on both sides."""
    found: dict[str, list[Any]] = {}
    for aggregate in aggregates_of(tuple(pipeline.features)):
        for part in aggregate.where.comparisons() if aggregate.where is not None else ():
            kind = pipeline.fields[part.field].kind
            for constant in part.values if isinstance(part, IsIn) else (part.value,):
                near = [constant]
                if kind == "float" and not isinstance(constant, str):
                    near = [float(constant), math.nextafter(constant, -math.inf), math.nextafter(constant, math.inf)]
                elif kind == "int" and not isinstance(constant, str):
                    near = [math.floor(constant), math.floor(constant) + 1]
                found.setdefault(part.field, []).extend(near)
    return found


def as_json(event: dict[str, Any], random: np.random.Generator) -> bytes:
    """Fields as JSON, in the forms that producers write: with and without blanks, in another order, with others."""
    chance = random.random()
    if chance < 0.1:
        event = dict(reversed(event.items()))
    if chance < 0.2:
        event = {**event, "of_no_interest": {"a": [1, None, "}{"]}}
    return json.dumps(event, ensure_ascii=chance < 0.5, separators=(",", ":") if chance < 0.7 else None).encode()
