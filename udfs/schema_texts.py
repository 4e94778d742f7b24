"""Schemas of what a pipeline reads and writes, as Avro, Protobuf and JSON Schema text, derived from its definition.

| in the event class | Avro | Protobuf (proto3) | JSON Schema (draft 7) |
|---|---|---|---|
| str, int | string, long | string, int64 | string, integer |
| float, bool | double, boolean | double, bool | number, boolean |
| Literal["a", "b"] | enum; string if a value is no Avro name | string | enum |
| T or None | union with null, default null | optional T | null allowed, not required |
| T = default | T with the default | optional T | not required |
| a vector of size d | array of double | repeated double | array of d numbers |
| time in ms, us, ns (int) | timestamp-millis, -micros, -nanos | int64 | integer |

A schema that follows a registered one is made compatible with it where that is possible (Confluent's BACKWARD: who has
the new schema reads records of the old): a field that is new is optional, for older records have none; in Protobuf it
gets a number of its own. Fields that are gone stay in Protobuf and, where records are closed, in JSON Schema:
registries call it incompatible to take them out, and to have reserved the name of one that comes back.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from models.outputs import Label, Output, Vector
from udfs.errors import DefinitionError
from udfs.events import EventField, Events
from udfs.pipeline import Pipeline
from udfs.registered_schema import SchemaKind
from udfs.session_topic import SESSION_FIELDS

PREDICTION, FEATURES, SESSION = "Prediction", "Features", "Session"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOGICAL_TIMES = {"ms": "timestamp-millis", "us": "timestamp-micros", "ns": "timestamp-nanos"}
_AVRO = {"str": "string", "int": "long", "float": "double", "bool": "boolean"}
_PROTOBUF = {"str": "string", "int": "int64", "float": "double", "bool": "bool"}
_JSON = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_PROTOBUF_FIELD = re.compile(r"^  (?:optional |repeated )?\w+ (\w+) = (\d+);.*$", re.MULTILINE)
_PROTOBUF_MESSAGE = re.compile(r"^message (\w+) {\n.*?^}\n", re.MULTILINE | re.DOTALL)


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
        previous: The schema that it follows, as it is registered; None if it is the first.

    Raises:
        DefinitionError: A field or the class has a name that the format does not allow; names it.
    """
    source = events.own_source
    leaves = []
    for one in source.value_fields(events.schema):
        time_unit = events.time_unit if one.name == events.time else None
        leaves.append((tuple(source.path_of(one.name).split(".")), _Field(one, time_unit)))
    return _text(events.type.__name__, _placed(leaves), kind, previous)


def _placed(leaves: Sequence[tuple[tuple[str, ...], _Field]]) -> tuple[_Field, ...]:
    """Fields by their names in the record, those of objects within them."""
    below: dict[str, list[tuple[tuple[str, ...], _Field]]] = {}
    for path, one in leaves:
        below.setdefault(path[0], []).append((path[1:], one))
    found = []
    for name, parts in below.items():
        rest, one = parts[0]
        if rest:
            is_optional = all(leaf.field.optional for _, leaf in parts)
            one = _Field(EventField(name, "str", is_optional, None), inner=_placed(parts))
        found.append(one._replace(field=replace(one.field, name=name)))
    return tuple(found)


def prediction_schema_text(pipeline: Pipeline, kind: SchemaKind, previous: str | None = None) -> str:
    """The schema of a pipeline's predictions: id, entity, included fields, prediction, `scored_at`, features.

    Args:
        pipeline: Says the fields.
        kind: "AVRO", "PROTOBUF" or "JSON".
        previous: The schema that it follows, as it is registered; None if it is the first.

    Raises:
        DefinitionError: A field has a name that the format does not allow; names it.
    """
    events = pipeline.events
    copied = dict.fromkeys((events.id, events.entity, *pipeline.include))
    fields = [_Field(pipeline.fields[name], events.time_unit if name == events.time else None) for name in copied]
    fields += [_Field(_output_field(one)) for one in pipeline.outputs.each]
    fields.append(_Field(EventField("scored_at", "int", False, None), "ms"))
    if pipeline.include_features:
        fields.append(_features(pipeline))
    return _text(record_name(pipeline, PREDICTION), fields, kind, previous)


def features_schema_text(pipeline: Pipeline, kind: SchemaKind, previous: str | None = None) -> str:
    """The schema of a pipeline's feature vectors: id, entity, event time and features; arguments as above."""
    unit, time = pipeline.events.time_unit, pipeline.events.time
    fields = [_Field(pipeline.fields[name], unit if name == time else None) for name in pipeline.identity_fields]
    return _text(record_name(pipeline, FEATURES), [*fields, _features(pipeline)], kind, previous)


def sessions_schema_text(pipeline: Pipeline, kind: SchemaKind, previous: str | None = None) -> str:
    """The schema of a pipeline's closed sessions: entity, and `session_topic.SESSION_FIELDS`; arguments as above."""
    first, last, events, length, late = SESSION_FIELDS
    fields = [
        _Field(pipeline.fields[pipeline.events.entity]),
        *(_Field(EventField(time, "int", False, None), "ms") for time in (first, last)),
        _Field(EventField(events, "int", False, None)),
        _Field(EventField(length, "float", False, None)),
        _Field(EventField(late, "bool", False, None)),
    ]
    return _text(record_name(pipeline, SESSION), fields, kind, previous)


def record_name(pipeline: Pipeline, what: str) -> str:
    """Name of the record of what a pipeline's job writes, e.g. `PurchasePrediction`."""
    words = "".join(word.capitalize() for word in re.split("[-_]", pipeline.name) if word)
    return f"{'' if words[0].isalpha() else 'P'}{words}{what}"


def _features(pipeline: Pipeline) -> _Field:
    inner = tuple(_number(name, nullable=True) for name in pipeline.feature_names)
    return _Field(EventField("features", "float", False, None), inner=inner)


def _output_field(one: Output) -> EventField:
    if isinstance(one, Label):
        return EventField(one.name, "str" if isinstance(one.classes[0], str) else "int", False, one.classes)
    if isinstance(one, Vector):
        return EventField(one.name, "vector", False, None, size=one.size)
    return EventField(one.name, "float", False, None)


def _number(name: str, *, nullable: bool = False) -> _Field:
    return _Field(EventField(name, "float", nullable, None))


def _text(record: str, fields: Sequence[_Field], kind: SchemaKind, previous: str | None) -> str:
    if kind == "JSON":
        found = _json_record(record, fields, json.loads(previous) if previous else None)
        return _compact({"$schema": "http://json-schema.org/draft-07/schema#", **found})
    for name in (record, *_names(fields)):
        if not _NAME.fullmatch(name):
            raise DefinitionError(
                f"{name!r} is no name for {'Avro' if kind == 'AVRO' else 'Protobuf'}, which allows letters of ASCII, "
                "digits and '_': rename it, or use JSON"
            )
    if kind == "AVRO":
        return _compact(_avro_record(record, fields, json.loads(previous) if previous else None))
    messages = _protobuf_messages(record, fields, previous or "")
    kept = {found[1]: found[0] for found in _PROTOBUF_MESSAGE.finditer(previous or "") if found[1] not in messages}
    return "\n".join(['syntax = "proto3";\n', *messages.values(), *kept.values()])


def _names(fields: Sequence[_Field]) -> Iterator[str]:
    for one in fields:
        yield one.field.name
        yield from _names(one.inner)


def _compact(document: dict[str, Any]) -> str:
    """JSON as registries write it."""
    return json.dumps(document, separators=(",", ":"))


def _avro_record(record: str, fields: Sequence[_Field], previous: Any) -> dict[str, Any]:
    before = previous if isinstance(previous, dict) and previous.get("type") == "record" else None
    kept = {name: before[name] for name in ("name", "namespace", "doc") if name in before} if before else {}
    types = None if before is None else {one["name"]: one["type"] for one in before["fields"]}
    return {"type": "record", "name": record, **kept, "fields": [_avro_field(record, one, types) for one in fields]}


def _avro_field(record: str, one: _Field, before: dict[str, Any] | None) -> dict[str, Any]:
    name, categories = one.field.name, one.field.categories
    options = before.get(name) if before is not None else None
    options = options if isinstance(options, list) else [options]
    found: Any = _AVRO.get(one.field.kind)
    if one.inner:
        inner = next((each for each in options if isinstance(each, dict)), None)
        found = _avro_record(f"{record}_{name}", one.inner, inner)
    elif categories is not None and all(isinstance(each, str) and _NAME.fullmatch(each) for each in categories):
        found = {"type": "enum", "name": f"{record}_{name}", "symbols": list(categories)}
    elif one.field.size is not None:
        found = {"type": "array", "items": "double"}
    elif one.field.kind == "int" and one.time_unit in _LOGICAL_TIMES:
        found = {"type": "long", "logicalType": _LOGICAL_TIMES[one.time_unit]}
    default = one.field.default
    if default is not None:
        nullable = one.field.nullable or "null" in options
        return {"name": name, "type": [found, "null"] if nullable else found, "default": default}
    if one.field.nullable or (before is not None and (name not in before or "null" in options)):
        return {"name": name, "type": ["null", found], "default": None}
    return {"name": name, "type": found}


def _json_record(title: str, fields: Sequence[_Field], previous: Any) -> dict[str, Any]:
    """A closed record: in an open one, a new field could have been there before with another meaning."""
    before = previous.get("properties", {}) if isinstance(previous, dict) else None
    names = [one.field.name for one in fields]
    always = names if before is None else [name for name in names if name in previous.get("required", ())]
    properties = {one.field.name: _json_field(title, one, (before or {}).get(one.field.name)) for one in fields}
    return {
        "title": title,
        "type": "object",
        "properties": {**properties, **{name: kept for name, kept in (before or {}).items() if name not in names}},
        "required": [one.field.name for one in fields if one.field.name in always and not one.field.optional],
        "additionalProperties": False,
    }


def _json_field(title: str, one: _Field, previous: Any) -> dict[str, Any]:
    if one.inner:
        return _json_record(f"{title}_{one.field.name}", one.inner, previous)
    size = one.field.size
    kind = _JSON[one.field.kind] if size is None else "array"
    found: dict[str, Any] = {"type": [kind, "null"] if one.field.nullable else kind}
    if size is not None:
        found |= {"items": {"type": "number"}, "minItems": size, "maxItems": size}
    if one.field.categories is not None:
        found["enum"] = [*one.field.categories, *([None] if one.field.nullable else [])]
    if one.field.default is not None:
        found["default"] = one.field.default
    if one.time_unit is not None:
        found["description"] = f"{one.time_unit} since 1970"
    return found


def _protobuf_messages(message: str, fields: Sequence[_Field], previous: str) -> dict[str, str]:
    """The message, and after it those of its nested records, by name."""
    body = next((found[0] for found in _PROTOBUF_MESSAGE.finditer(previous) if found[1] == message), "")
    before = {found[1]: found for found in _PROTOBUF_FIELD.finditer(body)}
    next_number = max((int(found[2]) for found in before.values()), default=0) + 1
    lines, inner_messages = [f"message {message} {{"], dict[str, str]()
    for one in fields:
        name = one.field.name
        number = int(before[name][2]) if name in before else next_number
        next_number += name not in before
        kind = f"{message}_{name}" if one.inner else _PROTOBUF.get(one.field.kind, "double")
        if one.inner:
            inner_messages |= _protobuf_messages(kind, one.inner, previous)
        label = "repeated " if one.field.size is not None else "optional " if one.field.optional else ""
        lines.append(f"  {label}{kind} {name} = {number};{_comment(one)}")
    lines += [found[0] for name, found in before.items() if name not in [one.field.name for one in fields]]
    return {message: "\n".join([*lines, "}\n"]), **inner_messages}


def _comment(one: _Field) -> str:
    if one.time_unit is not None:
        return f"  // {one.time_unit} since 1970"
    if one.field.size is not None:
        return f"  // a vector of {one.field.size}"
    if one.field.categories is not None:
        return f"  // one of {json.dumps(list(one.field.categories))[1:-1]}"
    return ""
