"""The one way from raw records to events, and from raw predictions to their fields, whatever their format.

Schemas that records name are asked of the registry the settings say, and only if the pipeline's format needs one.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from confluent_kafka import Message

from flink_jobs.settings import Settings, load_settings
from udfs.formats import Json, Text, needs_registry
from udfs.json_events import json_fields
from udfs.output_fields import OutputValues, predictions_of
from udfs.pipeline import Pipeline
from udfs.raw_record import RawRecord, RecordParts
from udfs.record_reader import RecordReader
from udfs.registered_schema import RegisteredSchema, SchemaSource, SchemaUnknownError, no_schemas
from udfs.request_reader import Asked, RequestReader
from udfs.wire_formats import EventDecoder

ValueReader = Callable[[bytes], dict[str, Any]]
"""The fields of a value. Raises ValueError if it is none."""


def schema_source(settings: Settings | None, *formats: object) -> SchemaSource:
    """Where schemas of these formats come from.

    Args:
        settings: Say the registry; None reads them from the environment and the settings file.
        formats: Of records that will be read.
    """
    if not needs_registry(*formats):
        return no_schemas
    from flink_jobs.schema_registry import SchemaRegistry

    return SchemaRegistry(settings or load_settings()).by_id


def event_decoder(pipeline: Pipeline, settings: Settings | None = None) -> EventDecoder:
    """The decoder of a pipeline's events.

    Args:
        pipeline: Says the format.
        settings: See `schema_source`.
    """
    return EventDecoder(pipeline, schema_source(settings, pipeline.events.format))


def parts_of(message: Message) -> RecordParts:
    """What a record is beside its key and value; of two headers with one name the last one counts, as in the job."""
    headers: Any = message.headers() or ()
    place = int(message.partition() or 0), int(message.offset() or 0)
    return RecordParts(*place, message.timestamp()[1], dict(headers))


def decode_message(decoder: EventDecoder, message: Message) -> Any:
    """A record as an event; or `Refused`; or None for one that is passed over."""
    key: Any = message.key()
    value: Any = message.value()
    bytes_of = [None if each is None else bytes(each) for each in (key, value)]
    return decoder.decode(bytes_of[0], bytes_of[1], parts_of(message))


def letter_decoder(pipeline: Pipeline, settings: Settings) -> Callable[..., Any]:
    """Today's decoder of a pipeline's dead letters, of its sources and requests among them; see `DecodeNow`."""
    events, own = pipeline.events, event_decoder(pipeline, settings)
    requests = None if pipeline.requests is None else RequestReader(pipeline)
    sources = {
        source.topic: RecordReader(pipeline, source, schema_source(settings, source.format)).read
        for source in events.sources
    }

    def decode(topic: str, key: bytes | None, value: bytes | None, parts: RecordParts) -> Any:
        if requests is not None and topic == pipeline.requests_topic:
            found = requests.read(RawRecord(key, value, parts), parts.time_ms)
            return found.event if isinstance(found, Asked) else found.why
        read = sources.get(topic)
        return own.decode(key, value, parts) if read is None else read(RawRecord(key, value, parts))

    return decode


def in_json(pipeline: Pipeline) -> Pipeline:
    """The pipeline with JSON events, from no sources, and predictions: for files' rows, and runs on topics of our own.

    What is computed is the same; features and sessions are written to no topic.
    """
    events = replace(
        pipeline.events, format=Json(), key_format=Text(), fields={}, tombstones="dead-letter", sources=()
    )
    return replace(
        pipeline, events=events, output_format=Json(), features_topic=None, features_format=None, sessions=None
    )


def file_decoder(pipeline: Pipeline) -> EventDecoder:
    """The decoder of a file's rows, which `event_files` makes into JSON whatever the topic's format."""
    return EventDecoder(in_json(pipeline))


def prediction_reader(pipeline: Pipeline, settings: Settings | None = None) -> ValueReader:
    """The reader of a pipeline's predictions; arguments as of `value_reader`."""
    return value_reader(predictions_of(pipeline), settings)


def value_reader(values: OutputValues, settings: Settings | None = None) -> ValueReader:
    """The reader of what a job writes.

    Args:
        values: Which of it.
        settings: See `schema_source`.
    """
    if isinstance(values.form, Json):
        return json_fields
    from udfs import output_values

    return output_values.value_reader(values, schema_source(settings, values.form))


def registered_schema(values: OutputValues, settings: Settings) -> RegisteredSchema | None:
    """Register what predictions or features are written with, or find it there; None where they name no schema.

    Args:
        values: Say the format and the fields.
        settings: Say the registry.

    Raises:
        SchemaRefusedError: The registry does not take it: it is not compatible with the subject's.
        RegistryUnreachableError: The registry does not answer.
    """
    form = values.form
    if isinstance(form, Json) or not form.framed:
        return None
    from flink_jobs.schema_registry import SchemaRegistry
    from udfs.output_values import value_schema
    from udfs.subjects import output_subject

    registry, subject = SchemaRegistry(settings), output_subject(values)
    try:
        latest = registry.latest(subject)
    except SchemaUnknownError:
        previous = None
    else:
        previous = latest.text if latest.kind == form.kind else None  # of another kind, the registry says no
    schema = value_schema(values, previous)
    assert schema is not None
    return schema._replace(id=registry.register(subject, schema.kind, schema.text))
