"""What `millrace produce` writes events with: the formats of the pipeline, with the schemas of the registry."""

from typing import Any

import msgspec

from flink_jobs.console import CommandError
from flink_jobs.schema_check import latest_or_none, next_event_text
from flink_jobs.schema_registry import SchemaRegistry
from flink_jobs.settings import Settings
from udfs.event_writer import EventWriter, Row, WrittenRecord
from udfs.events import EventField
from udfs.formats import Avro, Json, Text
from udfs.pipeline import Pipeline
from udfs.raw_record import RecordParts
from udfs.registered_schema import RegisteredSchema
from udfs.subjects import events_subject
from udfs.wire_formats import EventDecoder, Refused


def event_writer(pipeline: Pipeline, settings: Settings) -> EventWriter:
    """The writer of a pipeline's events. A topic without a schema in the registry gets that of the event class.

    Args:
        pipeline: Says the formats.
        settings: Say the registry.

    Raises:
        CommandError: The registry's schema is of another kind.
        DefinitionError: It asks for a field that the events do not have.
    """
    form, events = pipeline.events.format, pipeline.events
    if isinstance(form, Json):
        return EventWriter(pipeline, None, _key_schema_id(pipeline, settings))
    if form.schema is not None:
        schema = RegisteredSchema(0, form.kind, form.schema)
        return EventWriter(pipeline, schema, _key_schema_id(pipeline, settings))
    registry, subject = SchemaRegistry(settings), events_subject(events)
    latest = latest_or_none(registry, subject)
    if latest is None:
        text = next_event_text(pipeline, None)
        latest = RegisteredSchema(registry.register(subject, form.kind, text), form.kind, text)
    if latest.kind != form.kind:
        raise CommandError(f"{subject} is {latest.kind} in the registry, and {form.kind} in the pipeline")
    return EventWriter(pipeline, latest, _key_schema_id(pipeline, settings))


def _key_schema_id(pipeline: Pipeline, settings: Settings) -> int:
    form, events = pipeline.events.key_format, pipeline.events
    if isinstance(form, Text | Json) or not form.framed:
        return 0
    registry, subject = SchemaRegistry(settings), f"{events.topic}-key"
    latest = latest_or_none(registry, subject)
    if latest is not None:
        return latest.id
    is_whole = events.field(events.entity, "Events: entity").kind == "int"
    if isinstance(form, Avro):
        return registry.register(subject, form.kind, '"long"' if is_whole else '"string"')
    return registry.register(subject, form.kind, '{"type":"integer"}' if is_whole else '{"type":"string"}')


class CheckedWriter:
    """Writes rows that are events, and checks by the first one that what is written is read as it was.

    A schema may say a unit of time, or a type, that this does not write.

    Args:
        pipeline: Whose events.
        write: Its writer.
        decoder: Its decoder.
    """

    def __init__(self, pipeline: Pipeline, write: EventWriter, decoder: EventDecoder) -> None:
        self._pipeline, self._write, self._decoder, self._is_checked = pipeline, write, decoder, False

    def __call__(self, row: Row) -> WrittenRecord | None:
        """The record of a row; None if the format cannot write it.

        Raises:
            CommandError: The first one is read as something else.
        """
        try:
            written = self._write(row)
        except Exception:  # what libraries raise for a value of another type; such a row is sent as it is
            return None
        if not self._is_checked:
            self._check(row, written)
            self._is_checked = True
        return written

    def _check(self, row: Row, written: WrittenRecord) -> None:
        parts = RecordParts(0, 0, written.time_ms or 0, dict(written.headers))
        event = self._decoder.decode(written.key, written.value, parts)
        if isinstance(event, Refused):
            return  # a dead letter, as it would be in JSON
        source = self._pipeline.events.own_source
        for one in self._pipeline.events.schema:
            if source.path_of(one.name) in ("@place", "@topic"):
                continue
            read = getattr(event, one.name)
            if read != _expected(one, row):
                raise CommandError(
                    f"{one.name} is {row.get(one.name)!r} and would be read as {read!r}: `millrace produce` cannot "
                    f"write it with the schema of {self._pipeline.events.topic}"
                )


def _expected(one: EventField, row: Row) -> Any:
    value = row.get(one.name, one.default)
    if one.kind == "vector":
        return value
    return msgspec.convert(value, float) if one.kind == "float" and isinstance(value, int) else value
