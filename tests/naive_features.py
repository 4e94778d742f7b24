"""The oracle: features by their definition, in a triple loop. Shares no code with the engine but the definitions."""

import functools
import math
import operator

from udfs.aggregates import Aggregate, OneHot, Ratio, Value

COMPARE = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def missing(value):
    return value is None or value != value


def passes(condition, event):
    """A condition's definition (nested lists) on one event."""
    word, *rest = condition
    if word == "not":
        return not passes(rest[0], event)
    if word == "and":
        return passes(rest[0], event) and passes(rest[1], event)
    if word == "or":
        return passes(rest[0], event) or passes(rest[1], event)
    value = getattr(event, rest[0])
    if word == "null":
        return missing(value)
    if missing(value):
        return False
    return value in rest[1:] if word == "in" else COMPARE[word](value, rest[1])


def aggregate_of(definition, t, rows):
    """rows: (event time, value) of the window in (time, arrival) order, without nulls; value None for whole events."""
    name = definition["feature"]
    values = [value for _, value in rows]
    if name == "count":
        return float(len(rows))
    if name == "distinct":
        return float(len(set(values)))
    if name == "sum":
        return float(sum(values))
    if not rows:
        return math.nan
    if name == "mean":
        return sum(values) / len(values)
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
        return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    if name == "ewma":
        newest = rows[-1][0]
        weights = [2.0 ** (-(newest - time) / definition["half_life_ms"]) for time, _ in rows]
        return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    raise AssertionError(name)


class NaiveFeatures:
    """Keeps every event for ever and scans them all for every feature."""

    def __init__(self, pipeline):
        self.pipeline = pipeline
        # asked once: a pipeline derives them from all its features anew each time
        self.retention_ms, self.exact_retention_ms = pipeline.retention_ms, pipeline.exact_retention_ms
        self.tile_retention_ms = functools.cache(pipeline.tile_retention_ms)
        self.lateness_ms, self.definition = pipeline.lateness_ms, functools.cache(lambda feature: feature.definition())
        self.arrived = {}
        self.clocks = {}

    def advance(self, event, record_time_ms, partition, *, wanted=True):
        """Features of one event, in order (none unless wanted), and whether it is late."""
        pipeline = self.pipeline
        entity, t = getattr(event, pipeline.events.entity), getattr(event, pipeline.events.time)
        life = self.arrived.get(entity)
        if life and self.clocks.get(life[-1][1], -math.inf) > max(row[0] for row in life) + self.retention_ms:
            life = None
        self.clocks[partition] = max(self.clocks.get(partition, -math.inf), min(t, record_time_ms))
        if life is None:
            life = self.arrived[entity] = []
        life.append((t, partition, event))
        newest = max(row[0] for row in life)
        features = []
        for feature in pipeline.features if wanted else ():
            features += self.values(feature, life, t, newest)
        return features, t < newest - self.lateness_ms

    def values(self, feature, life, t, newest):
        event = life[-1][2]
        if isinstance(feature, OneHot):
            categories = self.pipeline.fields[feature.field].categories
            return [float(getattr(event, feature.field) == category) for category in categories]
        if isinstance(feature, Value):
            value = getattr(event, feature.field)
            result = math.nan if missing(value) else float(value)
        elif isinstance(feature, Ratio):
            above, below = (self.values(part, life, t, newest)[0] for part in (feature.numerator, feature.denominator))
            result = math.nan if missing(above) or missing(below) or below == 0 else above / below
        else:
            assert isinstance(feature, Aggregate)
            result = self.aggregate(feature, life, t, newest)
        return [feature.fill if missing(result) else result]

    def aggregate(self, feature, life, t, newest):
        definition = self.definition(feature)
        seen = life[:-1] if definition["feature"] in ("previous", "sincelast") else life
        tile, window = definition["tile_ms"], definition["window_ms"]
        rows = []
        for time, _, event in seen:
            if tile is None:
                inside = t - window < time <= t and time > newest - self.exact_retention_ms
            else:
                oldest = (newest - self.tile_retention_ms(tile)) // tile
                inside = t // tile - window // tile < time // tile <= t // tile and time // tile > oldest
            if not inside or (definition["where"] is not None and not passes(definition["where"], event)):
                continue
            value = getattr(event, definition["field"]) if definition["field"] else None
            if definition["field"] and missing(value):
                continue
            rows.append((time, value))
        rows.sort(key=lambda row: row[0])  # stable: equal times stay in order of arrival
        return aggregate_of(definition, t, rows)
