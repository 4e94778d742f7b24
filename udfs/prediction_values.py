"""The values of predictions in every format, out and in again."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.descriptor import FieldDescriptor

from udfs.avro_events import AvroReader
from udfs.avro_schemas import parsed_record
from udfs.byte_lines import Lines
from udfs.confluent_wire import HEAD_BYTES, head_of, message_indexes, schema_id_of
from udfs.formats import Avro, Json, JsonSchema, Protobuf
from udfs.json_events import json_fields
from udfs.pipeline import Pipeline
from udfs.protobuf_events import MessageReader, compiled_messages, named_message
from udfs.refused import Refused
from udfs.registered_schema import RegisteredSchema, SchemaSource, SchemaUnknownError
from udfs.row_encoder import RowEncoder
from udfs.row_program import RowPlan, avro_plan, protobuf_plan
from udfs.row_writers import (
    FIRST_MESSAGE,
    Fields,
    RowWriter,
    WrittenThing,
    avro_writer,
    protobuf_writer,
    written_message,
    written_record,
)
from udfs.schema_texts import prediction_schema_text

PredictionReader = Callable[[bytes], Fields]
"""A prediction's value -> its fields; `features` is a mapping. Raises ValueError if it is none."""
_WRITTEN = WrittenThing("output_format", "a prediction", " (more with include=)", is_whole=True)


def prediction_fields(pipeline: Pipeline) -> tuple[str, ...]:
    """The names of a prediction's fields, in order."""
    events = pipeline.events
    copied = dict.fromkeys((events.id, events.entity, *pipeline.include))
    return (*copied, *pipeline.outputs.names, "scored_at", *(("features",) if pipeline.include_features else ()))


def prediction_schema(pipeline: Pipeline, previous: str | None = None) -> RegisteredSchema | None:
    """The schema that predictions are written with, without an id; None for plain JSON.

    Args:
        pipeline: Says the format and the fields.
        previous: The Protobuf schema before this one; see `prediction_schema_text`.
    """
    form = pipeline.output_format
    if isinstance(form, Json):
        return None
    return RegisteredSchema(0, form.kind, form.schema or prediction_schema_text(pipeline, form.kind, previous))


def value_writer(
    pipeline: Pipeline, schema: RegisteredSchema
) -> Callable[[list[Iterable[Any]], npt.NDArray[np.float64] | None], Lines]:
    """Writes columns of predictions, and their features, in Avro or Protobuf.

    Args:
        pipeline: Says the format and the fields.
        schema: From `prediction_schema`, with its id if predictions name it.

    Raises:
        DefinitionError: The schema is none, or asks for what a prediction does not have.
    """
    names, features_names = prediction_fields(pipeline), pipeline.feature_names
    write, plan = _writer_and_plan(pipeline, schema, names)
    encoder = plan and RowEncoder(plan)
    picked = [names.index(name) for name in plan.fields] if plan else []

    def values(columns: list[Iterable[Any]], features: npt.NDArray[np.float64] | None) -> Lines:
        columns = [list(column) for column in columns]
        features = features if pipeline.include_features else None
        if encoder is not None:
            found = encoder.encode(list(zip(*[columns[place] for place in picked], strict=True)), features)
            if found is not None:
                return found
        if features is not None:
            columns.append(_feature_rows(features_names, features))
        return Lines.of([write(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)])

    return values


def _writer_and_plan(
    pipeline: Pipeline, schema: RegisteredSchema, names: Sequence[str]
) -> tuple[RowWriter, RowPlan | None]:
    """What writes one prediction, and how many are written at once if that can be."""
    form, features = pipeline.output_format, pipeline.feature_names if pipeline.include_features else ()
    head = head_of(schema.id) if isinstance(form, Avro | Protobuf) and form.framed else b""
    if isinstance(form, Avro):
        record = written_record(names, schema, _WRITTEN)
        return avro_writer(record, head), avro_plan(record, head, names, features)
    assert isinstance(form, Protobuf)
    message = written_message(names, schema, form.message, _WRITTEN)
    head += FIRST_MESSAGE if form.framed else b""
    return protobuf_writer(message, head), protobuf_plan(message, head, names, features)


def _feature_rows(names: Sequence[str], features: npt.NDArray[np.float64]) -> list[Fields]:
    """Features as mappings, null for what is no finite number, as in JSON."""
    rows: list[list[float]] = features.tolist()
    return [{name: x if math.isfinite(x) else None for name, x in zip(names, row, strict=True)} for row in rows]


def prediction_reader(pipeline: Pipeline, schemas: SchemaSource) -> PredictionReader:
    """Reads the values of a pipeline's predictions.

    Args:
        pipeline: Says the format.
        schemas: Where the schemas come from that they name.
    """
    form, schema = pipeline.output_format, prediction_schema(pipeline)
    head = HEAD_BYTES if not isinstance(form, Json) and form.framed else 0
    if isinstance(form, Json | JsonSchema):
        return lambda value: json_fields(value[head:])
    assert schema is not None
    known: dict[int, Callable[[bytes], Any]] = {}
    message = form.message if isinstance(form, Protobuf) else None

    def fields(value: bytes) -> Fields:
        schema_id = schema_id_of(value[:HEAD_BYTES]) if head else 0
        if isinstance(schema_id, Refused):
            raise ValueError(schema_id.detail)
        read = known.get(schema_id)
        if read is None:
            try:
                written = schemas(schema_id) if head else schema
            except SchemaUnknownError as error:
                raise ValueError(str(error)) from error
            read = known[schema_id] = _body_reader(form, written, message)
        found = read(value[head:])
        if isinstance(found, Refused):
            raise ValueError(found.detail)
        return found

    return fields


def _body_reader(
    form: Avro | Protobuf, schema: RegisteredSchema, message: str | None
) -> Callable[[bytes], Fields | Refused]:
    if isinstance(form, Avro):
        found = parsed_record(schema, f"schema {schema.id}")
        if isinstance(found, Refused):
            raise ValueError(found.detail)
        return AvroReader(found).read
    messages = compiled_messages(schema, f"schema {schema.id}")
    if isinstance(messages, Refused):
        raise ValueError(messages.detail)
    read = MessageReader(named_message(messages, message))
    framed = form.framed

    def fields(body: bytes) -> Fields | Refused:
        indexes, at = message_indexes(body, 0) if framed else ((0,), 0)
        if indexes != (0,):
            raise ValueError("it is of another message than the schema's first")
        parsed = read.parse(body[at:])
        return parsed if isinstance(parsed, Refused) else _message_fields(parsed)

    return fields


def _message_fields(message: Any) -> Fields:
    found: Fields = {}
    for one in message.DESCRIPTOR.fields:
        if one.has_presence and not message.HasField(one.name):
            found[one.name] = None
        elif one.type == FieldDescriptor.TYPE_MESSAGE and one.label != FieldDescriptor.LABEL_REPEATED:
            found[one.name] = _message_fields(getattr(message, one.name))
        elif one.label == FieldDescriptor.LABEL_REPEATED and one.type != FieldDescriptor.TYPE_MESSAGE:
            found[one.name] = list(getattr(message, one.name))
        else:
            found[one.name] = getattr(message, one.name)
    return found
