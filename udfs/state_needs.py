"""What features need of a state: kept events with columns and conditions, or what tiles keep of an aggregate."""

import json
from typing import TYPE_CHECKING, Any

from udfs import partials
from udfs.aggregates import Aggregate, Count, Distinct, Ewma, SessionAggregate
from udfs.columns import Column
from udfs.conditions import Comparison, Condition, IsNull, Negation
from udfs.pipeline import Pipeline
from udfs.state_sources import EVENTS, column_need, condition_need, part_need

if TYPE_CHECKING:
    from udfs.plan import FeaturePlan

_KINDS = {
    "count": partials.COUNT, "sum": partials.SUM, "mean": partials.MEAN, "min": partials.MIN, "max": partials.MAX,
    "std": partials.STD, "last": partials.LAST, "sincelast": partials.SINCE, "ewma": partials.EWMA,
    "distinct": partials.DISTINCT, "sessionposition": partials.SESSION_EVENTS,
    "sessionduration": partials.SESSION_START, "sessionpause": partials.SESSION_GAP, "sessioncount": partials.SESSIONS,
}  # fmt: skip
_PART_NAMES = ("count", "sum", "mean", "min", "max", "std", "last", "since", "ewma")


def category_conditions(pipeline: Pipeline, name: str) -> list[Condition]:
    """A condition for each value that a field may have; none for an open type."""
    return [Comparison(name, "==", category) for category in pipeline.fields[name].categories or ()]


def conditions_of(aggregate: Aggregate) -> list[Condition]:
    """What an aggregate's events must pass."""
    conditions = [aggregate.where] if aggregate.where is not None else []
    if isinstance(aggregate, Count) and aggregate.field is not None:
        conditions.append(Negation(IsNull(aggregate.field)))
    return conditions


def tile_identity(aggregate: Aggregate) -> list[Any]:
    """What tells what tiles keep for an aggregate from everything else they keep."""
    where = aggregate.where.definition() if aggregate.where is not None else None
    identity: list[Any] = [aggregate.tile_ms, aggregate.input, where]
    if isinstance(aggregate, Distinct):
        return identity
    return [*identity, _PART_NAMES[kind_of(aggregate)[0]], half_life_ms_of(aggregate)]


def needs_of(plan: "FeaturePlan", aggregate: Aggregate) -> tuple[str, ...]:
    """What an aggregate needs of the state."""
    if aggregate.tile_ms is not None:
        return (part_need(json.dumps(tile_identity(aggregate))),)
    conditions = conditions_of(aggregate)
    needs = [EVENTS]
    if isinstance(aggregate, Distinct) and aggregate.field in plan.in_bits:
        conditions = [*conditions, *category_conditions(plan.pipeline, aggregate.field)]
    elif aggregate.input is not None and not isinstance(aggregate, Count):
        needs.append(column_need(Column(aggregate.input, plan.pipeline.fields[aggregate.input].kind == "str").name))
    return (*needs, *(condition_need(json.dumps(condition.definition())) for condition in conditions))


def kind_of(aggregate: Aggregate) -> tuple[int, bool]:
    """What is folded, and whether over the events before this one only."""
    name = aggregate.definition()["feature"]
    return (partials.LAST, True) if name == "previous" else (_KINDS[name], name == "sincelast")


def half_life_ms_of(aggregate: Aggregate) -> float:
    """The half-life of an aggregate that has one, or the gap of its sessions; else 1, which is never used."""
    if isinstance(aggregate, SessionAggregate):
        return float(aggregate.gap_ms)
    return float(aggregate.half_life_ms) if isinstance(aggregate, Ewma) else 1.0
