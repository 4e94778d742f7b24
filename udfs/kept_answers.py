"""What the features of an entity would be, from what is kept of it, at a time of one's choice.

An event without values is taken into a copy of the entity: nulls change no aggregate but a plain count, which is put
right, and what is made of whole events (sequences, sessions), which is computed without it. So these are the answers
of the engine itself, tiles and a user's own aggregates included.
"""

import dataclasses
import json
import math
from collections.abc import Sequence

import numpy as np

from udfs.aggregates import Count, Feature, OneHot, Ratio, Value
from udfs.durations import UNITS_MS, duration_text
from udfs.entity_state import ShardState
from udfs.kept_entities import KeptEntity
from udfs.partials import (
    LATEST_LEFT,
    LATEST_RIGHT,
    SESSION_EVENTS,
    SESSION_GAP,
    SESSION_START,
    SESSIONS,
)
from udfs.pipeline import Pipeline
from udfs.plan import FeaturePlan
from udfs.state_log import SNAPSHOT, Words, encode

_OF_WHOLE_EVENTS = (LATEST_LEFT, LATEST_RIGHT, SESSION_EVENTS, SESSION_START, SESSION_GAP, SESSIONS)


def kept_answers(
    plan: FeaturePlan, entity: KeptEntity, clocks: Words, time_ms: int | None = None
) -> dict[str, float | None]:
    """Each feature over what is kept, as of a time: by default that of the entity's newest event.

    For features of earlier events only (Previous, SinceLast) it is what the next event would get at that time. Features
    of the event itself (Value, OneHot) have no answer.

    Args:
        plan: The state's.
        entity: From the state.
        clocks: (partitions,) int64 ms.
        time_ms: Event time.

    Returns:
        By feature name: the value, NaN where it is missing; None where only an event can tell.
    """
    pipeline, at_ms = plan.pipeline, int(entity.head[0]) if time_ms is None else time_ms
    answers: dict[str, float | None] = {}
    aggregates = [each for each in pipeline.features if not isinstance(each, Value | OneHot | Ratio)]
    known = _probe(plan, entity, clocks, at_ms, aggregates)
    for feature in pipeline.features:
        names = feature.names(pipeline.fields)
        if isinstance(feature, Ratio):
            answers[names[0]] = _ratio(plan, entity, clocks, at_ms, feature)
        else:
            answers.update({name: known.get(name) for name in names})
    return answers


def _ratio(plan: FeaturePlan, entity: KeptEntity, clocks: Words, at_ms: int, ratio: Ratio) -> float | None:
    parts = (ratio.numerator, ratio.denominator)
    if any(isinstance(part, Value) for part in parts):
        return None
    above, below = (_probe(plan, entity, clocks, at_ms, [part])[part.name] for part in parts)
    result = above / below if below != 0.0 else math.nan
    return ratio.fill if math.isnan(result) else result


def _probe(
    plan: FeaturePlan, entity: KeptEntity, clocks: Words, at_ms: int, features: Sequence[Feature]
) -> dict[str, float]:
    """Some features of the entity, from an event without values."""
    if not features:
        return {}
    probing = FeaturePlan.build(_keeping_all(plan.pipeline, features))
    steps = probing.operations.steps
    steps["without_own"][np.isin(steps["kind"], _OF_WHOLE_EVENTS)] = 1
    layout = json.dumps(plan.layout).encode()
    alone = encode(SNAPSHOT, layout, entity.key, entity.rows, clocks=clocks, heads=entity.head[None, :])
    state = ShardState.restore(probing, [(0, alone)], log_changes=False)
    times_ms = np.array([at_ms], np.int64)
    columns, direct = np.full((1, len(probing.columns)), np.nan), np.full((1, probing.direct_width), np.nan)
    partitions, masks = entity.head[2:3].astype(np.int32), np.zeros(1, np.uint64)
    advanced = state.advance([entity.name], times_ms, times_ms, partitions, columns, masks, direct)
    values = dict(zip(probing.feature_names, advanced.features[0].tolist(), strict=True))
    for feature in features:
        if isinstance(feature, Count) and feature.field is None and feature.where is None:
            values[feature.name] -= 1.0
    return values


def _keeping_all(pipeline: Pipeline, features: Sequence[Feature]) -> Pipeline:
    """The pipeline with some of its features, keeping at least as much: the probe must push nothing out."""
    lateness_ms = min(pipeline.retention_ms, 3_660 * UNITS_MS["d"])
    return dataclasses.replace(
        pipeline, features=features, lateness=duration_text(lateness_ms) if lateness_ms else None,
        max_events_per_entity=pipeline.max_events_per_entity + 1, include_features=False,
    )  # fmt: skip
