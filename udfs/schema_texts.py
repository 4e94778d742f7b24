"""Schemas of what a pipeline reads and writes, as Avro, Protobuf and JSON Schema text, derived from its definition.

| in the event class | Avro | Protobuf (proto3) | JSON Schema (draft 7) |
|---|---|---|---|
| str, int | string, long | string, int64 | string, integer |
| float, bool | double, boolean | double, bool | number, boolean |
| Literal["a", "b"] | enum; string if a value is no Avro name | string | enum |
| T or None | union with null, default null | optional T | null allowed, not required |
| time in ms, us, ns (int) | timestamp-millis, -micros, -nanos | int64 | integer |
"""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from udfs.errors import DefinitionError
from udfs.events import EventField, Events
from udfs.pipeline import Pipeline
from udfs.registered_schema import SchemaKind

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOGICAL_TIMES = {"ms": "timestamp-millis", "us": "timestamp-micros", "ns": "timestamp-nanos"}
_AVRO = {"str": "string", "int": "long", "float": "double", "bool": "boolean"}
_PROTOBUF = {"str": "string", "int": "int64", "float": "double", "bool": "bool"}
_JSON = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_PROTOBUF_FIELD = re.compile(r"^  (?:optional )?\w+ (\w+) = (\d+);", re.MULTILINE)
_PROTOBUF_RESERVED = re.compile(r"^  reserved ([\d, ]+);", re.MULTILINE)


class _Field(NamedTuple):
    """One field of a schema; `inner` are the fields of a nested record, `time_unit` is that of a time."""

    field: EventField
    time_unit: str | None = None
    inner: tuple["_Field", ...] = ()


def event_schema_text(events: Events, kind: SchemaKind, previous: str | None = None) -> str:
    """The schema of a pipeline's events; its record is called like the event class.

    Args:
        events: The event class and which field is the time.
        kind: "AVRO", "PROTOBUF" or "JSON".
        previous: The Protobuf schema before this one: fields keep the numbers that they have there.

    Raises:
        DefinitionError: A field or the class has a name that the format does not allow; names it.
    """
    fields = tuple(_Field(one, events.time_unit if one.name == events.time else None) for one in events.schema)
    return _text(events.type.__name__, fields, kind, previous)


def prediction_schema_text(pipeline: Pipeline, kind: SchemaKind, previous: str | None = None) -> str:
    """The schema of a pipeline's predictions: id, entity, included fields, prediction, `scored_at`, features.

    Args:
        pipeline: Says the fields.
        kind: "AVRO", "PROTOBUF" or "JSON".
        previous: The Protobuf schema before this one: fields keep the numbers that they have there.

    Raises:
        DefinitionError: A field has a name that the format does not allow; names it.
    """
    events = pipeline.events
    copied = dict.fromkeys((events.id, events.entity, *pipeline.include))
    fields = [_Field(pipeline.fields[name], events.time_unit if name == events.time else None) for name in copied]
    fields += [_number(pipeline.prediction), _Field(EventField("scored_at", "int", False, None), "ms")]
    if pipeline.include_features:
        inner = tuple(_number(name, nullable=True) for name in pipeline.feature_names)
        fields.append(_Field(EventField("features", "float", False, None), inner=inner))
    return _text(prediction_record_name(pipeline), fields, kind, previous)


def prediction_record_name(pipeline: Pipeline) -> str:
    """Name of the record of a pipeline's predictions, e.g. `PurchasePrediction`."""
    words = "".join(word.capitalize() for word in re.split("[-_]", pipeline.name) if word)
    return f"{'' if words[0].isalpha() else 'P'}{words}Prediction"


def _number(name: str, *, nullable: bool = False) -> _Field:
    return _Field(EventField(name, "float", nullable, None))


def _text(record: str, fields: Sequence[_Field], kind: SchemaKind, previous: str | None) -> str:
    if kind == "JSON":
        return json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **_json_record(record, fields)})
    for name in (record, *(one.field.name for outer in fields for one in (outer, *outer.inner))):
        if not _NAME.fullmatch(name):
            raise DefinitionError(
                f"{name!r} is no name for {'Avro' if kind == 'AVRO' else 'Protobuf'}, which allows letters of ASCII, "
                "digits and '_': rename it, or use JSON"
            )
    if kind == "AVRO":
        return json.dumps(_avro_record(record, fields))
    return 'syntax = "proto3";\n\n' + _protobuf_message(record, fields, previous or "")


def _avro_record(record: str, fields: Sequence[_Field]) -> dict[str, Any]:
    return {"type": "record", "name": record, "fields": [_avro_field(record, one) for one in fields]}


def _avro_field(record: str, one: _Field) -> dict[str, Any]:
    name, categories = one.field.name, one.field.categories
    found: Any = _AVRO[one.field.kind]
    if one.inner:
        found = _avro_record(f"{record}_{name}", one.inner)
    elif categories is not None and all(isinstance(each, str) and _NAME.fullmatch(each) for each in categories):
        found = {"type": "enum", "name": f"{record}_{name}", "symbols": list(categories)}
    elif one.field.kind == "int" and one.time_unit in _LOGICAL_TIMES:
        found = {"type": "long", "logicalType": _LOGICAL_TIMES[one.time_unit]}
    if one.field.nullable:
        return {"name": name, "type": ["null", found], "default": None}
    return {"name": name, "type": found}


def _json_record(title: str, fields: Sequence[_Field]) -> dict[str, Any]:
    """A closed record: with an open one, a new field could have been there before with another meaning."""
    return {
        "title": title,
        "type": "object",
        "properties": {one.field.name: _json_field(title, one) for one in fields},
        "required": [one.field.name for one in fields if not one.field.nullable],
        "additionalProperties": False,
    }


def _json_field(title: str, one: _Field) -> dict[str, Any]:
    if one.inner:
        return _json_record(f"{title}_{one.field.name}", one.inner)
    kind = _JSON[one.field.kind]
    found: dict[str, Any] = {"type": [kind, "null"] if one.field.nullable else kind}
    if one.field.categories is not None:
        found["enum"] = [*one.field.categories, *([None] if one.field.nullable else [])]
    if one.time_unit is not None:
        found["description"] = f"{one.time_unit} since 1970"
    return found


def _protobuf_message(message: str, fields: Sequence[_Field], previous: str) -> str:
    numbers, reserved = _kept_numbers(message, previous)
    names = [one.field.name for one in fields]
    reserved |= {number for name, number in numbers.items() if name not in names}
    next_number = max([0, *numbers.values(), *reserved]) + 1
    lines = [f"message {message} {{"]
    inner_messages = []
    for one in fields:
        number = numbers.get(one.field.name)
        if number is None:
            number, next_number = next_number, next_number + 1
        kind = f"{message}_{one.field.name}" if one.inner else _PROTOBUF[one.field.kind]
        if one.inner:
            inner_messages.append(_protobuf_message(kind, one.inner, previous))
        lines.append(f"  {'optional ' if one.field.nullable else ''}{kind} {one.field.name} = {number};{_comment(one)}")
    if reserved:
        lines.append(f"  reserved {', '.join(map(str, sorted(reserved)))};")
    return "\n".join([*lines, "}\n", *inner_messages])


def _comment(one: _Field) -> str:
    if one.time_unit is not None:
        return f"  // {one.time_unit} since 1970"
    if one.field.categories is not None:
        return f"  // one of {json.dumps(list(one.field.categories))[1:-1]}"
    return ""


def _kept_numbers(message: str, previous: str) -> tuple[dict[str, int], set[int]]:
    """Numbers by field of a message that was written here before, and those that no field may have again."""
    start = previous.find(f"message {message} {{")
    if start < 0:
        return {}, set()
    body = previous[start : previous.find("}", start)]
    reserved = {int(number) for found in _PROTOBUF_RESERVED.findall(body) for number in found.split(",")}
    return {name: int(number) for name, number in _PROTOBUF_FIELD.findall(body)}, reserved
