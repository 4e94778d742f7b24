"""What a change of pipeline does to its state: for every feature, whether it is kept, computed, warms up or is lost.

kept       the same feature, with all it had
computed   a new or changed feature, complete at once: what the state keeps suffices
warming    complete once its window has passed; until then every receipt says so
removed    what only this feature needs is dropped
lost       the state has it, but not in a form that the new definition can use
blocked    nothing of the state can be used
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from udfs.aggregates import Aggregate, Feature, aggregates_of
from udfs.durations import duration_text
from udfs.pipeline import Pipeline
from udfs.plan import FeaturePlan
from udfs.state_needs import needs_of
from udfs.state_sources import Sources, renamed, with_names

KEPT, COMPUTED, WARMING, REMOVED, LOST, BLOCKED, NOTE = (
    "kept", "computed", "warming", "removed", "lost", "blocked", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """What becomes of one thing.

    Attributes:
        effect: KEPT, COMPUTED, WARMING, REMOVED, LOST, BLOCKED, or NOTE for what is no matter of the state.
        name: Of the feature, or the setting.
        text: What and why, for people.
        warms_up_ms: Event time until a feature is complete; 0 when it is.
    """

    effect: str
    name: str
    text: str
    warms_up_ms: int = 0


@dataclass(frozen=True)
class Definition:
    """A pipeline as the job that wrote a state had it; plain data.

    Attributes:
        features: Name and definition of each.
        fields: Definitions of the event's fields.
        settings: What else a state depends on: entity, time, topic, shards, and the like.
        layout: Of its state.
        model: Name and version.
    """

    features: Sequence[Sequence[Any]]
    fields: Sequence[Sequence[Any]]
    settings: Mapping[str, Any]
    layout: Mapping[str, Any]
    model: str

    @classmethod
    def of(cls, pipeline: Pipeline, shards: int) -> "Definition":
        """That of a pipeline whose state lies in so many shards."""
        events = pipeline.events
        features = [[name, each.definition()] for each in pipeline.features for name in each.names(pipeline.fields)]
        settings = {
            "entity": events.entity,
            "time": events.time,
            "id": events.id,
            "topic": events.topic,
            "predictions": pipeline.predictions,
            "dead_letters": pipeline.dead_letters,
            "features_topic": pipeline.features_topic or "none",
            "sessions_topic": pipeline.sessions_topic or "none",
            "requests_topic": pipeline.requests_topic or "none",
            "lookups": ", ".join(each.name for each in pipeline.lookups) or "none",
            "prediction": prediction_document(pipeline),
            "shards": shards,
            "lateness_ms": pipeline.lateness_ms,
            "max_events_per_entity": pipeline.max_events_per_entity,
        }
        found = {
            "features": features,
            "fields": [each.definition() for each in events.schema],
            "settings": settings,
            "layout": FeaturePlan.build(pipeline).layout,
            "model": f"{pipeline.model.name}/{pipeline.model.version}",
        }
        return cls(**json.loads(json.dumps(found)))


def prediction_document(pipeline: Pipeline) -> str | dict[str, str]:
    """The prediction as plain data: the name of one number, otherwise its outputs in words by name."""
    outputs = pipeline.outputs
    return outputs.names[0] if outputs.is_number else {one.name: one.text for one in outputs.each}


def changes_between(before: Definition, pipeline: Pipeline, shards: int) -> list[Change]:
    """What becomes of the state of a job with the one definition under a pipeline with another.

    Args:
        before: Of the job that wrote the state.
        pipeline: That is to go on from it.
        shards: As it is to run.
    """
    now = Definition.of(pipeline, shards)
    blocked = _blocked(before.settings, now.settings, pipeline)
    if blocked:
        return blocked
    features = _FeatureChanges(before, pipeline)
    found = [features.change_of(feature, name) for feature in pipeline.features for name in _names(feature, pipeline)]
    return [*found, *features.removed(), *_notes(before, now, pipeline)]


def _names(feature: Feature, pipeline: Pipeline) -> tuple[str, ...]:
    return feature.names(pipeline.fields)


_WHY_BLOCKED = {
    "entity": "the state is kept by {before}, and nothing of it is known by {now}",
    "topic": "the state goes with the offsets of {before}, and {now} has others",
    "shards": "the state lies in {before} shards, and entities are found in them by that number",
    "time": "windows of the state go by {before}; together with {now} they would mean nothing",
}


def _blocked(before: Mapping[str, Any], now: Mapping[str, Any], pipeline: Pipeline) -> list[Change]:
    names = pipeline.events.new_names
    return [
        Change(BLOCKED, setting, why.format(before=before[setting], now=now[setting]))
        for setting, why in _WHY_BLOCKED.items()
        if names.get(before[setting], before[setting]) != now[setting]
    ]


class _FeatureChanges:
    def __init__(self, before: Definition, pipeline: Pipeline) -> None:
        names = pipeline.events.new_names
        self._pipeline, self._plan = pipeline, FeaturePlan.build(pipeline)
        self._sources = Sources(renamed(before.layout, names), self._plan.layout)
        self._before = {name: _renamed_definition(definition, names) for name, definition in before.features}
        # by what and of which field they are: vectors make many features, and each would be compared with all
        self._alike = _grouped(self._before.items())
        self._own = _grouped((feature.name, _plain(feature)) for feature in pipeline.features)
        self._gone = {
            name: each
            for name, each in self._before.items()
            if all(each != own for _, own in self._own.get(_group(each), ()))
        }
        self._gone_alike = _grouped(self._gone.items())

    def change_of(self, feature: Feature, name: str) -> Change:
        aggregates = aggregates_of((feature,))
        lacks_ms = max((each.window_ms - self._kept_ms(each) for each in aggregates), default=0)
        plain = _plain(feature)
        same = [known for known, definition in self._alike.get(_group(plain), ()) if definition == plain]
        if same and lacks_ms <= 0:
            was = "" if name in same or not aggregates else f", called {same[0]} before"
            return Change(KEPT, name, f"as it was{was}")
        if not aggregates:
            return Change(COMPUTED, name, "is of the event itself")
        if same:
            why = "its field has another type now"
            return Change(LOST, name, f"{why}; it would begin anew: {_warms(lacks_ms)}", lacks_ms)
        gone = self._gone_alike.get(_group(plain), ())
        earlier = [each for each in gone if _family(each[1]) == _family(plain)]
        lost = self._lost(aggregates, earlier, lacks_ms)
        if lost is not None:
            return Change(LOST, name, f"{lost}; it would begin anew: {_warms(lacks_ms)}", lacks_ms)
        after = f", in place of {earlier[0][0]}" if earlier else ""
        if lacks_ms > 0:
            kept_ms = min(self._kept_ms(each) for each in aggregates)
            known = f"; the last {duration_text(kept_ms)} are known" if kept_ms else ""
            return Change(WARMING, name, f"{_warms(lacks_ms)}{known}{after}", lacks_ms)
        return Change(COMPUTED, name, f"from what is kept{after}")

    def _lost(
        self, aggregates: Sequence[Aggregate], earlier: Sequence[tuple[str, Any]], lacks_ms: int
    ) -> str | None:
        """What the state has for a changed feature and cannot be carried over to it."""
        if lacks_ms <= 0:
            return None
        for known, definition in earlier:
            for aggregate, part in zip(aggregates, _parts(definition), strict=True):
                had_ms = min(part["window_ms"], aggregate.window_ms)
                kept_ms = self._kept_ms(aggregate)
                if kept_ms < had_ms:
                    return f"{known} has the last {duration_text(had_ms)}, which cannot be carried over to it"
        return None

    def _kept_ms(self, aggregate: Aggregate) -> int:
        return min(self._sources.of(need).kept_ms for need in needs_of(self._plan, aggregate))

    def removed(self) -> list[Change]:
        return [
            Change(REMOVED, name, "what only it needs is dropped")
            for name, definition in self._gone.items()
            if all(_family(definition) != _family(own) for _, own in self._own.get(_group(definition), ()))
        ]


def _warms(lacks_ms: int) -> str:
    return f"warms up for {duration_text(lacks_ms)} of event time, marked in receipts"


def _parts(definition: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The aggregates of a feature's definition."""
    parts = definition["parts"] if definition["feature"] == "ratio" else [definition]
    return [part for part in parts if "window_ms" in part]


def _family(definition: Mapping[str, Any]) -> Any:
    """What features have in common that differ in window, tile and fill only."""
    if definition["feature"] == "ratio":
        return ["ratio", *map(_family, definition["parts"])]
    return {name: value for name, value in definition.items() if name not in ("window_ms", "tile_ms", "fill")}


def _group(definition: Mapping[str, Any]) -> tuple[str, str | None]:
    """What features of one family have in common at least."""
    return definition["feature"], definition.get("field")


def _grouped(definitions: Iterable[tuple[str, dict[str, Any]]]) -> dict[Any, list[tuple[str, dict[str, Any]]]]:
    found: dict[Any, list[tuple[str, dict[str, Any]]]] = {}
    for name, definition in definitions:
        found.setdefault(_group(definition), []).append((name, definition))
    return found


def _plain(feature: Feature) -> dict[str, Any]:
    """A feature's definition as it comes out of a file."""
    plain: dict[str, Any] = json.loads(json.dumps(feature.definition()))
    return plain


def _renamed_definition(definition: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A feature's definition with its fields' new names."""
    new = dict(definition)
    if new["feature"] == "ratio":
        new["parts"] = [_renamed_definition(part, names) for part in new["parts"]]
    if new.get("field") is not None:
        new["field"] = names.get(new["field"], new["field"])
    if new.get("where") is not None:
        new["where"] = with_names(new["where"], names)
    return new


def _notes(before: Definition, now: Definition, pipeline: Pipeline) -> list[Change]:
    notes = []
    if before.model != now.model:
        notes.append(Change(NOTE, "model", f"{before.model} becomes {now.model}"))
    names = pipeline.events.new_names
    known = {names.get(name, name): rest for name, *rest in before.fields}
    for name, kind, *_ in now.fields:
        if name not in known:
            is_optional = pipeline.fields[name].optional
            must = "" if is_optional else f"; events without it are dead letters, unless it is `{kind} | None`"
            notes.append(Change(NOTE, "field", f"{name} is new{must}"))
        elif known[name][0] != kind:
            notes.append(Change(NOTE, "field", f"{name} was {known[name][0]}, is {kind}"))
    present = {name for name, *_ in now.fields}
    notes += [Change(NOTE, "field", f"{name} is gone") for name in known if name not in present]
    for setting, was in before.settings.items():
        if setting not in _WHY_BLOCKED and now.settings[setting] != was:
            told = [f"{each:,}" if isinstance(each, int) else str(each) for each in (was, now.settings[setting])]
            notes.append(Change(NOTE, setting, " becomes ".join(told)))
    return notes
