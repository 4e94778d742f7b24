"""What time alone does to features: windows go on after an entity's last event, and the stored values do not."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from udfs.aggregates import (
    Aggregate,
    Count,
    Custom,
    Distinct,
    Feature,
    Ratio,
    SequenceLength,
    SessionCount,
    SessionPosition,
    Sum,
    aggregates_of,
)
from udfs.pipeline import Pipeline

_COUNTS = Count | Distinct | SequenceLength | SessionPosition | SessionCount


class Aged(NamedTuple):
    """Features some time after an entity's newest event.

    Attributes:
        values: Those whose windows have passed altogether are what nothing gives; the others are as they were stored.
        passed: Names of the former.
        moving: Names of those that may be others by now, for something may have left their windows.
    """

    values: dict[str, float | None]
    passed: tuple[str, ...]
    moving: tuple[str, ...]


def aged(pipeline: Pipeline, values: Mapping[str, float | None], event_ms: int, now_ms: int) -> Aged:
    """What can be said of features at a later time without the events that they were made of.

    Args:
        pipeline: Whose.
        values: As of the entity's newest event, by name.
        event_ms: When that was.
        now_ms: As of when.
    """
    found, passed, moving = dict(values), list[str](), list[str]()
    for feature in pipeline.features:
        parts = aggregates_of((feature,))
        if now_ms <= event_ms or not parts:
            continue
        name = feature.name
        nothing = _of_nothing(feature)
        if nothing is not None and all(_has_passed(part, event_ms, now_ms) for part in parts):
            found[name] = None if math.isnan(nothing) else nothing
            passed.append(name)
        elif not _stays(feature, values.get(name)):
            moving.append(name)
    return Aged(found, tuple(passed), tuple(moving))


def _has_passed(part: Aggregate, event_ms: int, now_ms: int) -> bool:
    """Whether an event is in no window of this aggregate any more."""
    if part.tile_ms is None:
        return event_ms <= now_ms - part.window_ms
    return event_ms // part.tile_ms <= now_ms // part.tile_ms - part.window_ms // part.tile_ms


def _of_nothing(feature: Feature) -> float | None:
    """What empty windows give; None where the event itself or code of the user's has a say."""
    if isinstance(feature, Ratio):
        above, below = _of_nothing(feature.numerator), _of_nothing(feature.denominator)
        if above is None or below is None:
            return None
        result = above / below if below != 0.0 else math.nan
        return feature.fill if math.isnan(result) else result
    if isinstance(feature, Custom) or not isinstance(feature, Aggregate):
        return None
    return 0.0 if isinstance(feature, _COUNTS | Sum) else feature.fill


def _stays(feature: Feature, value: float | None) -> bool:
    """Whether there is nothing in the window that could leave it."""
    return isinstance(feature, _COUNTS) and value == 0
