"""Can a pipeline read what is written to its topic, and may it write what it is about to: the registry knows both."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flink_jobs.schema_registry import SchemaRegistry
from udfs.formats import Json
from udfs.output_fields import OutputValues, outputs_of
from udfs.pipeline import Pipeline
from udfs.registered_schema import RegisteredSchema, SchemaKind, SchemaUnknownError
from udfs.schema_reading import Difference, differences, reading_problems
from udfs.schema_texts import event_schema_text
from udfs.subjects import events_subject, output_subject
from udfs.written_fields import SchemaTextError, written_record


@dataclass(frozen=True)
class FieldProblem:
    """A field that a version of the events' schema does not give as the event class needs it."""

    version: int | None
    field: str
    refuses_all: bool
    text: str

    def line(self) -> str:
        """For people."""
        place = "the schema" if self.version is None else f"version {self.version}"
        effect = "every record is a dead letter" if self.refuses_all else "such records are dead letters"
        return f"{place}: {self.field} {self.text} ({effect})"


@dataclass(frozen=True)
class OutputCheck:
    """What the registry says of the schema of predictions or features.

    Attributes:
        values: Which.
        subject: Theirs; None if they have no registered schema.
        level: The subject's compatibility level.
        problems: Why the registry would not take the schema.
        changes: What it changes.
    """

    values: OutputValues
    subject: str | None = None
    level: str | None = None
    problems: Sequence[str] = ()
    changes: Sequence[Difference] = ()


@dataclass
class SchemaCheck:
    """What came out.

    Attributes:
        events_subject: Whose versions were read; None if the pipeline has the one schema of all events.
        versions: How many there are.
        events: What the event class cannot read of them.
        outputs: Of the predictions, and of the features if they have a topic.
    """

    events_subject: str | None
    versions: int = 0
    events: list[FieldProblem] = field(default_factory=list)
    outputs: list[OutputCheck] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no version is unreadable as a whole, and what the job writes would be taken."""
        return not any(one.problems for one in self.outputs) and not any(one.refuses_all for one in self.events)

    def document(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "ok": self.passed,
            "events": {
                "subject": self.events_subject,
                "versions": self.versions,
                "problems": [vars(one) for one in self.events],
            },
            **{
                one.values.what: {
                    "subject": one.subject,
                    "compatibility": one.level,
                    "problems": list(one.problems),
                    "changes": [change._asdict() for change in one.changes],
                }
                for one in self.outputs
            },
        }


def check_schemas(pipeline: Pipeline, registry: SchemaRegistry | None) -> SchemaCheck:
    """Compare a pipeline with the schemas of its topics.

    Args:
        pipeline: Its event class and formats.
        registry: None is enough where no format needs one.
    """
    form = pipeline.events.format
    own = None if isinstance(form, Json) else form.schema
    check = SchemaCheck(None if own is not None else events_subject(pipeline.events))
    for version, schema in _event_schemas(pipeline, registry, own).items():
        check.versions += 1
        check.events += _unreadable(pipeline, version or None, schema)
    check.outputs = [_output_check(values, registry) for values in outputs_of(pipeline)]
    return check


def has_registered_schema(values: OutputValues) -> bool:
    """Whether predictions or features name a schema of the registry."""
    return not isinstance(values.form, Json) and values.form.framed


def latest_or_none(registry: SchemaRegistry, subject: str) -> RegisteredSchema | None:
    """A subject's newest schema; None while it has none."""
    try:
        return registry.latest(subject)
    except SchemaUnknownError:
        return None


def next_output_text(values: OutputValues, latest: RegisteredSchema | None) -> str:
    """The schema of predictions or features, as it follows the registry's latest."""
    return values.schema_text(values.form.kind, _text_of(latest, values.form.kind))


def next_event_text(pipeline: Pipeline, latest: RegisteredSchema | None) -> str:
    """The schema of the event class, as it follows the registry's latest."""
    kind = pipeline.events.format.kind
    return event_schema_text(pipeline.events, kind, _text_of(latest, kind))


def schema_differences(kind: SchemaKind, before: RegisteredSchema | None, text: str) -> list[Difference]:
    """What a text changes of a schema; everything is new without one.

    Raises:
        SchemaTextError: One of them cannot be read.
    """
    after = written_record(RegisteredSchema(0, kind, text))
    return differences([] if before is None else written_record(before).fields, after.fields)


def _text_of(latest: RegisteredSchema | None, kind: str) -> str | None:
    return latest.text if latest is not None and latest.kind == kind else None


def _event_schemas(
    pipeline: Pipeline, registry: SchemaRegistry | None, own: str | None
) -> dict[int, RegisteredSchema]:
    """The schemas of a pipeline's events by version; 0 for the one that the pipeline itself has."""
    if own is not None:
        return {0: RegisteredSchema(0, pipeline.events.format.kind, own)}
    try:
        return {} if registry is None else registry.versions(events_subject(pipeline.events))
    except SchemaUnknownError:
        return {}


def _unreadable(pipeline: Pipeline, version: int | None, schema: RegisteredSchema) -> list[FieldProblem]:
    form = pipeline.events.format
    if schema.kind != form.kind:
        return [FieldProblem(version, "the record", True, f"is {schema.kind}, and events are read as {form.kind}")]
    try:
        found = written_record(schema, getattr(form, "message", None))
    except SchemaTextError as error:
        return [FieldProblem(version, "the record", True, f"cannot be read: {error}")]
    return [FieldProblem(version, *problem) for problem in reading_problems(pipeline.events, found.fields)]


def _output_check(values: OutputValues, registry: SchemaRegistry | None) -> OutputCheck:
    if registry is None or not has_registered_schema(values):
        return OutputCheck(values)
    kind, subject = values.form.kind, output_subject(values)
    latest = latest_or_none(registry, subject)
    text = next_output_text(values, latest)
    is_alike = latest is None or latest.kind == kind
    return OutputCheck(
        values,
        subject,
        registry.compatibility_level(subject),
        registry.compatible(subject, kind, text),
        schema_differences(kind, latest, text) if is_alike else (),
    )
