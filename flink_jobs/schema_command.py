"""`millrace schema check|register|diff`: a pipeline's schemas beside those of the registry, in words."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from flink_jobs.console import CommandError, next_steps, show, show_json
from flink_jobs.schema_check import (
    OutputCheck,
    SchemaCheck,
    check_schemas,
    has_registered_schema,
    latest_or_none,
    next_event_text,
    next_output_text,
    schema_differences,
)
from flink_jobs.schema_registry import SchemaRegistry
from flink_jobs.settings import Settings
from udfs.formats import Format, Json
from udfs.output_fields import outputs_of
from udfs.pipeline import Pipeline
from udfs.registered_schema import RegisteredSchema
from udfs.schema_reading import Difference
from udfs.subjects import events_subject, output_subject


def run_schema_check_command(pipeline: Pipeline, name: str, settings: Settings, *, as_json: bool) -> None:
    """Say what does not fit; fails if a version is unreadable or what the job writes would not be taken."""
    form = pipeline.events.format
    needs_none = not isinstance(form, Json) and not form.framed and not _names_schema(pipeline)
    check = check_schemas(pipeline, None if needs_none else SchemaRegistry(settings))
    if as_json:
        show_json(check.document())
    else:
        _show_events(check)
        for one in check.outputs:
            _show_output(one)
    if not check.passed:
        raise CommandError(_failure(check))
    if not as_json and any(one.changes for one in check.outputs):
        next_steps((f"millrace schema register {name}", "register what the job writes"))


def _names_schema(pipeline: Pipeline) -> bool:
    return any(map(has_registered_schema, outputs_of(pipeline)))


def _show_events(check: SchemaCheck) -> None:
    subject = "the events' one schema" if check.events_subject is None else f"events, {check.events_subject}"
    if check.versions == 0:
        show(f"{subject}: the registry has no schema of it, so there is nothing to compare")
        return
    bad = {one.version for one in check.events if one.refuses_all}
    show(f"{subject}: {check.versions - len(bad)} of {check.versions} versions can be read")
    for one in check.events:
        show(f"  {one.line()}", style="red" if one.refuses_all else "yellow")


def _show_output(check: OutputCheck) -> None:
    what = check.values.what
    if check.subject is None:
        show(f"{what}, {check.values.topic}: {type(check.values.form).__name__}, no schema in the registry")
        return
    verdict = "compatible" if not check.problems else "not compatible"
    changes = f"{len(check.changes)} fields change" if check.changes else "no field changes"
    show(f"{what}, {check.subject}: {verdict} ({check.level}); {changes}")
    for reason in check.problems:
        show(f"  {reason}", style="red")
    for change in check.changes if check.problems else ():
        show(f"  {_change_line(change)}")


def _failure(check: SchemaCheck) -> str:
    said = [f"{one.field} of version {one.version}" for one in check.events if one.refuses_all]
    parts = [f"the event class cannot read {', '.join(said[:5])}"] if said else []
    refused = [one for one in check.outputs if one.problems]
    parts += [f"the registry would refuse the {one.values.what}' schema: {one.problems[0]}" for one in refused]
    return "; ".join(parts)


def run_schema_register_command(
    pipeline: Pipeline, settings: Settings, *, events: bool, as_json: bool
) -> None:
    """Register the schemas of predictions and features, and that of the events if they are to be."""
    if not _names_schema(pipeline) and not events:
        raise CommandError(
            f"predictions of {pipeline.name} name no schema: write output_format=Avro(), Protobuf() or JsonSchema() "
            "in the pipeline; --events registers the event class"
        )
    if events and (isinstance(pipeline.events.format, Json) or not pipeline.events.format.framed):
        raise CommandError(
            f"events of {pipeline.name} name no schema: write format=Avro(), Protobuf() or JsonSchema() in its Events"
        )
    registry, documents = SchemaRegistry(settings), []
    for what, subject, form, make in _schemas(pipeline):
        if isinstance(form, Json) or not form.framed or (what == "events" and not events):
            continue
        latest = latest_or_none(registry, subject)
        schema_id = registry.register(subject, form.kind, make(latest))
        is_new = latest is None or latest.id != schema_id
        documents.append({"what": what, "subject": subject, "kind": form.kind, "id": schema_id, "new": is_new})
        if not as_json:
            state = "is registered" if is_new else "was registered already, nothing changes"
            show(f"{what}, {subject}: {form.kind} schema {schema_id} {state}")
    if as_json:
        show_json({"registered": documents})


def _schemas(
    pipeline: Pipeline,
) -> list[tuple[str, str, Format, Callable[[RegisteredSchema | None], str]]]:
    """Of the events and of all that is written: what it is, its subject, its format, and the schema after a latest."""
    events = pipeline.events
    return [
        ("events", events_subject(events), events.format, partial(next_event_text, pipeline)),
        *(
            (values.what, output_subject(values), values.form, partial(next_output_text, values))
            for values in outputs_of(pipeline)
        ),
    ]


class _Diff(NamedTuple):
    """What a pipeline's schema changes of a subject; `latest` is the id of what it is compared with."""

    subject: str
    latest: int | None
    changes: list[Difference]


def run_schema_diff_command(pipeline: Pipeline, settings: Settings, *, as_json: bool) -> None:
    """Say field by field what the pipeline's schemas change of the registry's latest."""
    registry = SchemaRegistry(settings)
    found: dict[str, _Diff | None] = {}
    for what, subject, form, make in _schemas(pipeline):
        if isinstance(form, Json) or not form.framed:
            found[what] = None
            continue
        latest = latest_or_none(registry, subject)
        if latest is not None and latest.kind != form.kind:
            raise CommandError(f"{subject} is {latest.kind} in the registry, and {form.kind} in the pipeline")
        changes = schema_differences(form.kind, latest, make(latest))
        found[what] = _Diff(subject, None if latest is None else latest.id, changes)
    if as_json:
        show_json({what: None if one is None else _diff_document(one) for what, one in found.items()})
        return
    for what, one in found.items():
        _show_diff(what, one)


def _diff_document(diff: _Diff) -> dict[str, object]:
    return {**diff._asdict(), "changes": [change._asdict() for change in diff.changes]}


def _show_diff(what: str, diff: _Diff | None) -> None:
    if diff is None:
        show(f"{what}: no schema in the registry is theirs")
        return
    if diff.latest is None:
        show(f"{what}, {diff.subject}: not in the registry yet; it would get")
    else:
        verb = "changes" if diff.changes else "no difference from"
        show(f"{what}, {diff.subject}: {verb} schema {diff.latest}, the latest")
    for change in diff.changes:
        show(f"  {_change_line(change)}")


def _change_line(change: Difference) -> str:
    if change.before is None:
        return f"+ {change.field}: {change.after}"
    if change.after is None:
        return f"- {change.field}: {change.before}"
    return f"~ {change.field}: {change.before} -> {change.after}"
