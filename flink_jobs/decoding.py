"""The one way from raw records to events, and from raw predictions to their fields, whatever their format.

Schemas that records name are asked of the registry the settings say, and only if the pipeline's format needs one.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flink_jobs.settings import Settings, load_settings
from udfs.formats import Json, Text, needs_registry
from udfs.pipeline import Pipeline
from udfs.registered_schema import SchemaSource, no_schemas
from udfs.wire_formats import EventDecoder


def schema_source(settings: Settings | None, *formats: object) -> SchemaSource:
    """Where schemas of these formats come from.

    Args:
        settings: Say the registry; None reads them from the environment and the settings file.
        formats: Of records that will be read.
    """
    if not needs_registry(*formats):
        return no_schemas
    from flink_jobs.schema_registry import SchemaRegistry

    found: SchemaSource = SchemaRegistry(settings or load_settings()).by_id
    return found


def event_decoder(pipeline: Pipeline, settings: Settings | None = None) -> EventDecoder:
    """The decoder of a pipeline's events.

    Args:
        pipeline: Says the format.
        settings: See `schema_source`.
    """
    return EventDecoder(pipeline, schema_source(settings, pipeline.events.format))


def file_decoder(pipeline: Pipeline) -> EventDecoder:
    """The decoder of a file's rows, which `event_files` makes into JSON whatever the topic's format."""
    return EventDecoder(replace(pipeline, events=replace(pipeline.events, format=Json(), key_format=Text())))


PredictionReader = Callable[[bytes], dict[str, Any]]
"""The fields of a prediction's value. Raises ValueError if it is none."""
