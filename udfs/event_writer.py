"""Events to Kafka records of their pipeline's topic: what `udfs.record_reader` reads, written."""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from udfs.confluent_wire import head_of
from udfs.event_keys import key_of
from udfs.events import TIME_UNITS_NS
from udfs.formats import Avro, Json, JsonSchema
from udfs.pipeline import Pipeline
from udfs.registered_schema import RegisteredSchema
from udfs.sources import HEADER_PART, RECORD_TIME

_MS_NS = TIME_UNITS_NS["ms"]
Row = dict[str, Any]


class WrittenRecord(NamedTuple):
    """A record to send.

    Attributes:
        key: The entity.
        value: The fields that are in it.
        headers: Those that are in headers.
        time_ms: Kafka's timestamp, where it is the event time; None is when it is sent.
    """

    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    time_ms: int | None = None


class EventWriter:
    """Writes the events of one pipeline.

    Args:
        pipeline: Says the fields, where they are, and the formats.
        schema: What values are written with, with its id if they name it; None for plain JSON.
        key_schema_id: Of the keys' schema, if they name it.

    Raises:
        DefinitionError: The schema is none, or asks for a field that events do not have.
    """

    def __init__(self, pipeline: Pipeline, schema: RegisteredSchema | None = None, key_schema_id: int = 0) -> None:
        self._events, self._key_schema_id = pipeline.events, key_schema_id
        events, source = pipeline.events, pipeline.events.own_source
        self._paths = [
            (one.name, tuple(source.path_of(one.name).split("."))) for one in source.value_fields(events.schema)
        ]
        self._headers = [
            (one.name, source.path_of(one.name).removeprefix(HEADER_PART))
            for one in events.schema
            if source.path_of(one.name).startswith(HEADER_PART)
        ]
        self._in_record_time = source.path_of(events.time) == RECORD_TIME
        self._unit_ns = TIME_UNITS_NS[events.time_unit]
        names = list(dict.fromkeys(path[0] for _, path in self._paths))
        self._write = _value_writer(pipeline, schema, names)

    def __call__(self, row: Row) -> WrittenRecord:
        """The record of an event.

        Args:
            row: Its fields by name; those that are not there are not written.

        Raises:
            Exception: Whatever the format's library says of values that the schema does not take.
        """
        entity = row.get(self._events.entity)
        key = None if entity is None else key_of(self._events, str(entity), schema_id=self._key_schema_id)
        document: Row = {}
        for name, path in self._paths:
            if name in row:
                inside = document
                for step in path[:-1]:
                    inside = inside.setdefault(step, {})
                inside[path[-1]] = row[name]
        headers = tuple(
            (header, _header(row[name])) for name, header in self._headers if row.get(name) is not None
        )
        time_ms = int(row[self._events.time] * self._unit_ns // _MS_NS) if self._in_record_time else None
        return WrittenRecord(key, self._write(document), headers, time_ms)


def _header(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else msgspec.json.encode(value)


def _value_writer(
    pipeline: Pipeline, schema: RegisteredSchema | None, names: list[str]
) -> Callable[[Row], bytes]:
    form = pipeline.events.format
    if schema is None:
        return msgspec.json.Encoder().encode
    assert not isinstance(form, Json)
    if isinstance(form, JsonSchema):
        head, encode = head_of(schema.id) if form.framed else b"", msgspec.json.Encoder().encode
        return lambda row: head + encode(row)
    # imported when they are needed: most pipelines have JSON
    from udfs import row_writers

    what = row_writers.WrittenThing("events' format", "an event", "", is_whole=False)
    head = head_of(schema.id) if form.framed else b""
    if isinstance(form, Avro):
        return row_writers.avro_writer(row_writers.written_record(names, schema, what), head)
    message = row_writers.written_message(names, schema, form.message, what)
    return row_writers.protobuf_writer(message, head + row_writers.FIRST_MESSAGE if form.framed else b"")
