"""Two layouts of a state, compared in words: what is new, what is gone, and what that does to what is kept."""

import json
from dataclasses import dataclass
from typing import Any

from udfs.aggregates import aggregates_of
from udfs.durations import duration_text
from udfs.kept_entities import condition_text, distinct_name, part_name
from udfs.pipeline import Pipeline
from udfs.plan import FeaturePlan
from udfs.state_needs import needs_of
from udfs.state_sources import Layout, Sources, renamed


@dataclass(frozen=True)
class LayoutChange:
    """One difference.

    Attributes:
        what: column, condition, tile, partial or distinct.
        name: Which.
        change: new or gone.
    """

    what: str
    name: str
    change: str

    @property
    def text(self) -> str:
        """Says it, and what it does to a state that goes from the one layout to the other."""
        return f"{self.what} {self.name} is {self.change}: {_EFFECTS[self.what, self.change]}"


_EFFECTS = {
    ("column", "new"): "missing in the events kept before, unless conditions tell it",
    ("column", "gone"): "dropped",
    ("condition", "new"): "not passed by any event kept before, unless their columns tell it",
    ("condition", "gone"): "dropped",
    ("tile", "new"): "made of shorter tiles or kept events, or empty until events come",
    ("tile", "gone"): "dropped",
    ("partial", "new"): "made of others, of shorter tiles or of kept events, or empty in the tiles kept before",
    ("partial", "gone"): "dropped",
    ("distinct", "new"): "made of shorter tiles or kept events, or empty until events come",
    ("distinct", "gone"): "dropped",
}


def layout_changes(before: Layout, after: Layout) -> list[LayoutChange]:
    """What is in one layout and not in the other, by name; the order of columns means nothing."""
    found: list[LayoutChange] = []
    named_before, named_after = _names(before), _names(after)
    for what, names in named_after.items():
        found += [LayoutChange(what, name, "new") for name in names if name not in named_before[what]]
        found += [LayoutChange(what, name, "gone") for name in named_before[what] if name not in names]
    return found


def features_without_state(pipeline: Pipeline, layout: Layout, *, events_kept: bool) -> list[str]:
    """Features for which nothing was kept under a layout: they have only the events that come from now on.

    Args:
        pipeline: Whose features.
        layout: What was kept.
        events_kept: Whether any events were: a layout has a place for them even where no window asks for any.
    """
    plan = FeaturePlan.build(pipeline)
    sources = Sources(renamed(layout, pipeline.events.new_names), plan.layout)
    found: list[str] = []
    for feature in pipeline.features:
        aggregates = aggregates_of((feature,))
        exact = any(aggregate.tile_ms is None for aggregate in aggregates)
        needs = [need for aggregate in aggregates for need in needs_of(plan, aggregate)]
        if any(not sources.of(need).kept_ms for need in needs) or (exact and not events_kept):
            found += feature.names(pipeline.fields)
    return found


def _names(layout: Layout) -> dict[str, list[str]]:
    conditions: list[Any] = [json.loads(each) for each in layout["conditions"]]
    return {
        "column": [_column(name) for name in layout["columns"][: layout["kept_columns"]]],
        "condition": [condition_text(each) for each in conditions],
        "tile": [f"of {duration_text(tile_ms)}" for tile_ms in layout["tiles"]],
        "partial": [f"{part_name(name)}, tiles of {_tile(name)}" for name, _, _ in layout["parts"]],
        "distinct": [f"{distinct_name(name)}, tiles of {_tile(name)}" for name in layout["distincts"]],
    }


def _column(name: str) -> str:
    return f"{name[:-1]} (a text's hash)" if name.endswith("#") else name


def _tile(identity: str) -> str:
    return duration_text(json.loads(identity)[0])
