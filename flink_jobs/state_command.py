"""`millrace state`: what a checkpoint or savepoint keeps, of all entities in numbers or of one in words."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from flink_jobs.backfill_command import time_ms
from flink_jobs.console import CommandError, say, show_json
from flink_jobs.pipelines import PipelineError, load_pipeline
from flink_jobs.restore_points import folder_of, found_folder
from flink_jobs.settings import Settings
from flink_jobs.state_reading import (
    ReadState,
    flink_ready,
    kept_entity,
    read_newest,
    read_state,
    reading,
    shards_with,
    take_savepoint,
)
from flink_jobs.state_view import show_difference, show_entity, show_summary
from udfs.kept_answers import kept_answers
from udfs.kept_entities import describe_entity
from udfs.layout_changes import features_without_state, layout_changes
from udfs.pipeline import Pipeline
from udfs.plan import FeaturePlan
from udfs.state_difference import compare_states, entity_changes
from udfs.state_log import VERSION
from udfs.state_summary import StateSummary, layouts_of, sizes, summarize


def run_state_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    *,
    entity: str | None,
    savepoint: str | None,
    live: bool,
    at: str | None,
    as_json: bool,
) -> None:
    """Show a state, or one entity of it."""
    if savepoint is not None and live:
        raise CommandError("--savepoint reads what is on disk and --live asks the running job: give one of them")
    if at is not None and entity is None:
        raise CommandError("--at says as of when an entity's features are told: give --entity, too")
    at_ms = None if at is None else time_ms(at, "--at")
    if live:
        say(f"- asking the job of {pipeline.name} for a savepoint; it goes on meanwhile")
        savepoint = take_savepoint(pipeline, name, settings)
        say(f"- made {savepoint}; it stays there")
        if not folder_of(savepoint).exists():
            raise CommandError(f"{savepoint} is not on this machine: read it there, with --savepoint")
    with flink_ready(settings):
        state = read_newest(pipeline, name, settings) if savepoint is None else read_state(savepoint)
    plan = FeaturePlan.build(pipeline)
    if entity is not None:
        described = _described(plan, state, entity, at_ms)
        if described is None:
            raise CommandError(_unknown(state, entity))
        document = {**_place(state), **described}
        show_json(document) if as_json else show_entity(document, plan)
        return
    with reading(state):
        document = {**_place(state), **_summarized(plan, state)}
    show_json(document) if as_json else show_summary(document, pipeline, name)


def run_state_diff_command(
    first: str, second: str, settings: Settings, *, pipeline_name: str | None, entity: str | None, as_json: bool
) -> None:
    """Show what the second state has otherwise than the first."""
    folders = found_folder(first), found_folder(second)
    pipeline = _shipped_of(folders[1]) if pipeline_name is None else load_pipeline(pipeline_name)
    with flink_ready(settings):
        states = read_state(first), read_state(second)
    plan = FeaturePlan.build(pipeline)
    document: dict[str, Any] = {"pipeline": pipeline.name, "first": _place(states[0]), "second": _place(states[1])}
    document["layout_changes"] = _layout_changes(*states)
    if entity is not None:
        told = [_described(plan, state, entity, None) for state in states]
        if told == [None, None]:
            raise CommandError(_unknown(states[0], entity))
        document |= {"entity": entity, "before": told[0], "after": told[1], "changes": entity_changes(*told)}
    else:
        with reading(states[1]):
            difference = compare_states(plan, states[0].kept.logs, states[1].kept.logs)
        document |= {**dataclasses.asdict(difference), "same_state": difference.is_empty}
        document["shards"] = _shards(difference.by_shard, *states)
        del document["by_shard"]
    show_json(document) if as_json else show_difference(document)


def _place(state: ReadState) -> dict[str, Any]:
    kept = state.kept
    return {
        "restore_point": state.path, "form": kept.form, "checkpoint_id": kept.checkpoint_id,
        "written_ms": kept.written_ms, "parallelism": kept.parallelism, "offsets": state.offsets,
    }  # fmt: skip


def _summarized(plan: FeaturePlan, state: ReadState) -> dict[str, Any]:
    summary = summarize(plan, state.kept.logs)
    newest = summary.layouts[-1] if summary.layouts else plan.layout
    without = features_without_state(plan.pipeline, newest, events_kept=summary.total("events") > 0)
    return {
        "pipeline": plan.pipeline.name,
        "state_version": VERSION,
        **{what: summary.total(what) for what in ("entities", "events", "tiles", "entries", "bytes")},
        "oldest_event_ms": summary.oldest_ms,
        "newest_event_ms": summary.newest_ms,
        "clocks_ms": summary.clocks_ms,
        "layouts": summary.layouts,
        "layout_changes": [change.text for change in layout_changes(newest, plan.layout)],
        "features": list(plan.feature_names),
        "features_without_state": without if summary.layouts else [],
        "shards": [dataclasses.asdict(shard) for shard in summary.shards],
        "largest_share": _largest_share(summary),
    }


def _largest_share(summary: StateSummary) -> float | None:
    """How much larger the largest shard is than the mean one."""
    total = summary.total("bytes")
    return max(shard.bytes for shard in summary.shards) * len(summary.shards) / total if total else None


def _described(plan: FeaturePlan, state: ReadState, name: str, at_ms: int | None) -> dict[str, Any] | None:
    """What is kept of an entity, and its features as of its newest event or another time; None if nothing is."""
    found = kept_entity(plan, state, name)
    if found is None:
        return None
    shard, entity, clocks = found
    described = describe_entity(plan, entity, clocks)
    answers = kept_answers(plan, entity, clocks, at_ms)
    return {
        "shard": shard,
        **described,
        "features_as_of_ms": described["newest_event_ms"] if at_ms is None else at_ms,
        "features": {each: _as_json(value) for each, value in answers.items()},
    }


def _as_json(value: float | None) -> Any:
    """A feature as JSON holds it: NaN and infinity as text, for a missing value is not the event's own."""
    return value if value is None or math.isfinite(value) else str(value)


def _unknown(state: ReadState, name: str) -> str:
    for shard in shards_with(state, name):
        if any(name.encode() in entry for _, entry in state.kept.logs[shard]):
            return f"nothing is kept of {name!r} in {state.path}: it is forgotten, or its name is part of others'"
    return f"nothing is kept of {name!r} in {state.path}: no event of it has come since it was forgotten, if ever"


def _layout_changes(first: ReadState, second: ReadState) -> list[str]:
    layouts = [layouts_of(state.kept.logs) for state in (first, second)]
    if not all(layouts):
        return []
    return [change.text for change in layout_changes(layouts[0][-1], layouts[1][-1])]


def _shards(by_shard: dict[int, tuple[int, int]], first: ReadState, second: ReadState) -> list[dict[str, Any]]:
    before, after = sizes(first.kept.logs), sizes(second.kept.logs)
    return [
        {"shard": shard, "entities": list(entities), "bytes": [before.get(shard, 0), after.get(shard, 0)]}
        for shard, entities in by_shard.items()
    ]


def _shipped_of(folder: Path) -> Pipeline:
    """The shipped pipeline in whose folder of checkpoints a restore point is."""
    name = folder.parent.parent.name  # of both <pipeline>/savepoints/... and <pipeline>/<job>/chk-...
    try:
        return load_pipeline(name)
    except PipelineError as error:
        raise CommandError(
            f"whose state {folder} is cannot be told from its path ({error}): give --pipeline PIPELINE"
        ) from error
