"""The values of predictions and of features in every format, out and in again."""

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
from udfs.output_fields import OutputValues
from udfs.output_writers import ValueWriter
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

ValueReader = Callable[[bytes], Fields]
"""A value -> its fields; `features` is a mapping. Raises ValueError if it is none."""


def value_schema(values: OutputValues, previous: str | None = None) -> RegisteredSchema | None:
    """The schema that values are written with, without an id; None for plain JSON.

    Args:
        values: Which.
        previous: The schema before this one; see `schema_texts`.
    """
    form = values.form
    if isinstance(form, Json):
        return None
    return RegisteredSchema(0, form.kind, form.schema or values.schema_text(form.kind, previous))


def value_writer(values: OutputValues, schema: RegisteredSchema) -> ValueWriter:
    """Writes values in Avro or Protobuf.

    Args:
        values: Which.
        schema: From `value_schema`, with its id if they name it.

    Raises:
        DefinitionError: The schema is none, or asks for what they do not have.
    """
    names, with_features = values.names, bool(values.features)
    write, plan = _writer_and_plan(values, schema)
    encoder = plan and RowEncoder(plan)
    picked = [names.index(name) for name in plan.fields] if plan else []

    def written(columns: list[Iterable[Any]], features: npt.NDArray[np.float64] | None) -> Lines:
        columns = [list(column) for column in columns]
        features = features if with_features else None
        if encoder is not None:
            found = encoder.encode(list(zip(*[columns[place] for place in picked], strict=True)), features)
            if found is not None:
                return found
        if features is not None:
            columns.append(_feature_rows(values.features, features))
        return Lines.of([write(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)])

    return written


def _writer_and_plan(values: OutputValues, schema: RegisteredSchema) -> tuple[RowWriter, RowPlan | None]:
    """What writes one value, and how many are written at once if that can be."""
    form, names, features = values.form, values.names, values.features
    what = WrittenThing(values.setting, values.one, values.more, is_whole=True)
    head = head_of(schema.id) if isinstance(form, Avro | Protobuf) and form.framed else b""
    if isinstance(form, Avro):
        record = written_record(names, schema, what)
        return avro_writer(record, head), avro_plan(record, head, names, features)
    assert isinstance(form, Protobuf)
    message = written_message(names, schema, form.message, what)
    head += FIRST_MESSAGE if form.framed else b""
    return protobuf_writer(message, head), protobuf_plan(message, head, names, features)


def _feature_rows(names: Sequence[str], features: npt.NDArray[np.float64]) -> list[Fields]:
    """Features as mappings, null for what is no finite number, as in JSON."""
    rows: list[list[float]] = features.tolist()
    return [{name: x if math.isfinite(x) else None for name, x in zip(names, row, strict=True)} for row in rows]


def value_reader(values: OutputValues, schemas: SchemaSource) -> ValueReader:
    """Reads values.

    Args:
        values: Which.
        schemas: Where the schemas come from that they name.
    """
    form, schema = values.form, value_schema(values)
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
