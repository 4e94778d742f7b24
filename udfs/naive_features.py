"""The oracle: features by their definition, in a triple loop. Shares no code with the engine but the definitions.

Slow on purpose, and without cleverness: whoever doubts it reads it. `millrace parity` and the tests compare the engines
with it, `millrace explain` asks it which events a feature was made of.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from udfs.aggregates import Aggregate, Custom, LastN, OneHot, Ratio, Value
from udfs.features import Feature
from udfs.pipeline import Pipeline

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_UNITS_PER_MS = {"ms": 1, "us": 1_000, "ns": 1_000_000}
_NOT_THIS_EVENT = ("previous", "sincelast")


class Arrived(NamedTuple):
    """An event of an entity.

    Attributes:
        time_ms: Its event time.
        partition: Where it came from.
        event: The event, an object with its fields.
    """

    time_ms: int
    partition: int
    event: Any


class Answer(NamedTuple):
    """What the definition says of one event.

    Attributes:
        features: In the pipeline's order; none when they were not wanted.
        late: Whether it came later than the pipeline's lateness.
    """

    features: list[float]
    late: bool


def _missing(value: Any) -> bool:
    return value is None or value != value


def field_value(event: Any, name: str) -> Any:
    """A field of an event, or like `embedding[3]` a number of a vector, which null has not."""
    if not name.endswith("]"):
        return getattr(event, name)
    vector, place = name[:-1].split("[")
    values = getattr(event, vector)
    return None if values is None else values[int(place)]


def _passes(condition: Sequence[Any], event: Any) -> bool:
    """A condition's definition (nested lists) on one event."""
    word, *rest = condition
    if word == "not":
        return not _passes(rest[0], event)
    if word == "and":
        return _passes(rest[0], event) and _passes(rest[1], event)
    if word == "or":
        return _passes(rest[0], event) or _passes(rest[1], event)
    value = field_value(event, rest[0])
    if word == "null":
        return _missing(value)
    if _missing(value):
        return False
    return value in rest[1:] if word == "in" else _COMPARE[word](value, rest[1])


def aggregate_of(definition: dict[str, Any], t: int, rows: list[tuple[int, Any]]) -> float:
    """rows: (event time, value) of the window in (time, arrival) order, without nulls; value None for whole events."""
    name = definition["feature"]
    values = [value for _, value in rows]
    if name == "count":
        return float(len(rows))
    if name == "sequencelength":
        return float(min(len(rows), definition["n"]))
    if name == "distinct":
        return float(len(set(values)))
    if name == "sum":
        return float(sum(values))
    if name.startswith("session"):
        return _of_sessions(name, t, [time for time, _ in rows], definition["gap_ms"])
    if not rows:
        return math.nan
    if name == "mean":
        return float(sum(values) / len(values))
    if name == "min":
        return float(min(values))
    if name == "max":
        return float(max(values))
    if name in ("last", "previous"):
        return float(values[-1])
    if name == "sincelast":
        return max(t - rows[-1][0], 0) / 1000
    if name == "std":
        mean = sum(values) / len(values)
        return math.sqrt(sum((value - mean) * (value - mean) for value in values) / len(values))
    if name == "ewma":
        newest = rows[-1][0]
        weights = [2.0 ** (-(newest - time) / definition["half_life_ms"]) for time, _ in rows]
        return float(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
    raise AssertionError(name)


def _of_sessions(name: str, t: int, times: list[int], gap_ms: int) -> float:
    """times: of the window's events, in order."""
    sessions: list[list[int]] = []
    for time in times:
        if sessions and time - sessions[-1][-1] <= gap_ms:
            sessions[-1].append(time)
        else:
            sessions.append([time])
    if name == "sessioncount":
        return float(len(sessions))
    if not sessions or t - sessions[-1][-1] > gap_ms:
        return 0.0 if name == "sessionposition" else math.nan
    if name == "sessionposition":
        return float(len(sessions[-1]))
    if name == "sessionduration":
        return (t - sessions[-1][0]) / 1000
    return (sessions[-1][0] - sessions[-2][-1]) / 1000 if len(sessions) > 1 else math.nan


def _item_of(item: LastN, rows: list[Arrived]) -> Arrived | None:
    """The event of a column of a sequence. rows: the window's events, in order."""
    latest, place = rows[-item.n :], item.place or 0
    if item.pad == "left":
        place -= item.n - len(latest)
    return latest[place] if 0 <= place < len(latest) else None


def _custom_of(feature: Custom, rows: list[tuple[int, Any]]) -> float:
    """A user's own aggregate: a fold."""
    state = feature.init()
    for time_ms, value in rows:
        state = feature.add(state, float(value), time_ms)
    return float(feature.value(state))


class NaiveFeatures:
    """Keeps every event for ever and scans all of an entity's for every feature.

    An entity begins anew once its partition's clock has gone on by `retention_ms` without an event of it.

    Args:
        pipeline: Whose features. `max_events_per_entity` is no part of a feature's meaning: nothing is cut here.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        # asked once: a pipeline derives them from all its features anew each time
        self.retention_ms, self.exact_retention_ms = pipeline.retention_ms, pipeline.exact_retention_ms
        self.tile_retention_ms = functools.cache(pipeline.tile_retention_ms)
        self.lateness_ms = pipeline.lateness_ms
        self.definition = functools.cache(lambda feature: feature.definition())
        self.arrived: dict[Any, list[Arrived]] = {}
        self.clocks: dict[int, float] = {}
        self.active_ms: dict[Any, float] = {}

    def advance(self, event: Any, record_time_ms: int, partition: int, *, wanted: bool = True) -> Answer:
        """Take in one event; its features (none unless wanted), and whether it is late."""
        entity, t = getattr(event, self.pipeline.events.entity), self.time_ms(event)
        life = self.arrived.get(entity)
        if life and self.clocks.get(life[-1].partition, -math.inf) > self.active_ms[entity] + self.retention_ms:
            life = None
        self.pass_by(t, record_time_ms, partition)
        if life is None:
            life = self.arrived[entity] = []
        life.append(Arrived(t, partition, event))
        newest = max(row.time_ms for row in life)
        self.active_ms[entity] = max(newest, self.clocks[partition])
        features: list[float] = []
        for feature in self.pipeline.features if wanted else ():
            features += self._values(feature, life, newest)
        return Answer(features, t < newest - self.lateness_ms)

    def pass_by(self, time_ms: int, record_time_ms: int, partition: int) -> None:
        """Take note of an event's time only: entities are forgotten by the clock of their partition."""
        self.clocks[partition] = max(self.clocks.get(partition, -math.inf), min(time_ms, record_time_ms))

    def time_ms(self, event: Any) -> int:
        """An event's time in ms since 1970, rounded down; of a float in seconds, after rounding to a microsecond."""
        time, unit = getattr(event, self.pipeline.events.time), self.pipeline.events.time_unit
        if unit != "s":
            return int(time // _UNITS_PER_MS[unit])
        return int(time * 1_000 if isinstance(time, int) else round(time * 1_000, 3) // 1)

    def window(self, feature: Aggregate, entity: Any) -> list[Arrived]:
        """The events that a feature of an entity's latest event is made of, in (time, arrival) order."""
        life = self.arrived[entity]
        return self._inside(feature, life, max(row.time_ms for row in life))

    def values(self, feature: Feature, entity: Any) -> list[float]:
        """What a feature, or a part of one, says of an entity's latest event."""
        life = self.arrived[entity]
        return self._values(feature, life, max(row.time_ms for row in life))

    def _values(self, feature: Feature, life: list[Arrived], newest: int) -> list[float]:
        event = life[-1].event
        if isinstance(feature, OneHot):
            categories = self.pipeline.fields[feature.field].categories or ()
            return [float(getattr(event, feature.field) == category) for category in categories]
        if isinstance(feature, Value):
            value = field_value(event, feature.field)
            result, fill = (math.nan if _missing(value) else float(value)), feature.fill
        elif isinstance(feature, Ratio):
            above, below = (self._values(part, life, newest)[0] for part in (feature.numerator, feature.denominator))
            result = math.nan if _missing(above) or _missing(below) or below == 0 else above / below
            fill = feature.fill
        else:
            assert isinstance(feature, Aggregate)
            result, fill = self._aggregate(feature, life, newest), feature.fill
        return [fill if _missing(result) else result]

    def _aggregate(self, feature: Aggregate, life: list[Arrived], newest: int) -> float:
        definition, name = self.definition(feature), feature.input
        inside = self._inside(feature, life, newest)
        if isinstance(feature, LastN):
            return self._number(feature, inside)
        rows = [(row.time_ms, field_value(row.event, name) if name else None) for row in inside]
        if isinstance(feature, Custom):
            return _custom_of(feature, rows)
        return aggregate_of(definition, life[-1].time_ms, rows)

    def _number(self, item: LastN, inside: list[Arrived]) -> float:
        """A column of a sequence."""
        if not inside:
            return math.nan
        value = 1 if item.field is None else field_value(inside[0].event, item.field)
        if isinstance(value, str):
            return 1.0 + list(self.pipeline.fields[item.field or ""].categories or ()).index(value)
        return math.nan if _missing(value) else float(value)

    def _inside(self, feature: Aggregate, life: list[Arrived], newest: int) -> list[Arrived]:
        definition, t = self.definition(feature), life[-1].time_ms
        tile, window = definition["tile_ms"], definition["window_ms"]
        where, name = definition["where"], definition["field"]
        rows = []
        for row in life[:-1] if definition["feature"] in _NOT_THIS_EVENT else life:
            time = row.time_ms
            if tile is None:
                inside = t - window < time <= t and time > newest - self.exact_retention_ms
            else:
                oldest = (newest - self.tile_retention_ms(tile)) // tile
                inside = t // tile - window // tile < time // tile <= t // tile and time // tile > oldest
            if not inside or (where is not None and not _passes(where, row.event)):
                continue
            if name and not isinstance(feature, LastN) and _missing(field_value(row.event, name)):
                continue
            rows.append(row)
        rows.sort(key=lambda row: row.time_ms)  # stable: equal times stay in order of arrival
        if not isinstance(feature, LastN):
            return rows
        item = _item_of(feature, rows)
        return [] if item is None else [item]
