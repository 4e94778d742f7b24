"""The fields of records with a schema: Avro, Protobuf and JSON Schema in the terms of an event class."""

import json
from typing import Any, NamedTuple

from fastavro.schema import parse_schema
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from udfs.events import Kind
from udfs.protobuf_events import compiled_messages, named_message
from udfs.refused import Refused
from udfs.registered_schema import RegisteredSchema

_AVRO_KINDS: dict[str, Kind] = {
    "string": "str", "int": "int", "long": "int", "float": "float", "double": "float", "boolean": "bool",
}  # fmt: skip
_AVRO_TIMES = {
    f"{local}timestamp-{name}": unit
    for local in ("", "local-")
    for name, unit in (("millis", "ms"), ("micros", "us"), ("nanos", "ns"))
}
_JSON_KINDS: dict[str, Kind] = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}
_PROTOBUF_KINDS: dict[int, Kind] = {
    FieldDescriptor.CPPTYPE_STRING: "str",
    FieldDescriptor.CPPTYPE_INT32: "int",
    FieldDescriptor.CPPTYPE_INT64: "int",
    FieldDescriptor.CPPTYPE_UINT32: "int",
    FieldDescriptor.CPPTYPE_UINT64: "int",
    FieldDescriptor.CPPTYPE_FLOAT: "float",
    FieldDescriptor.CPPTYPE_DOUBLE: "float",
    FieldDescriptor.CPPTYPE_BOOL: "bool",
}
_REFERENCES_MAX = 20


class SchemaTextError(ValueError):
    """A text is no schema, or none of a record; one line says why."""


class WrittenField(NamedTuple):
    """One field as its writer says it.

    Attributes:
        name: On the wire.
        what: Its type in the writer's words, for people.
        kind: Of the values; None for what an event class has no word for, like lists of texts and nested records.
        nullable: Whether it may be null or missing.
        categories: The only values there are, if the schema lists them.
        time_unit: For a timestamp, the unit since 1970: "ms", "us", "ns", "days", or "timestamp" where it becomes
            whatever the event class says.
        other_names: By which a reader may know it too.
        size: Of a vector, if the schema says it.
    """

    name: str
    what: str
    kind: Kind | None
    nullable: bool
    categories: tuple[str | int | bool, ...] | None = None
    time_unit: str | None = None
    other_names: tuple[str, ...] = ()
    size: int | None = None


class WrittenRecord(NamedTuple):
    """A record's name and fields."""

    name: str
    fields: tuple[WrittenField, ...]


def written_record(schema: RegisteredSchema, message: str | None = None) -> WrittenRecord:
    """The record of a schema.

    Args:
        schema: With what it refers to.
        message: Full name of a Protobuf message; None means the first one.

    Raises:
        SchemaTextError: The text is no schema, or none of a record.
    """
    read = {"AVRO": _avro_record, "JSON": _json_record}.get(schema.kind)
    try:
        return _protobuf_record(schema, message) if read is None else read(schema)
    except SchemaTextError:
        raise
    except Exception as error:  # the parsers of the formats have many
        raise SchemaTextError(f"it is no {schema.kind} schema: {' '.join(str(error).split())[:300]}") from error


def _avro_record(schema: RegisteredSchema) -> WrittenRecord:
    named: dict[str, Any] = {}
    for _, _, text in schema.references:
        parse_schema(json.loads(text), named)
    parsed: Any = parse_schema(json.loads(schema.text), named)
    if not isinstance(parsed, dict) or parsed.get("type") != "record":
        raise SchemaTextError("the Avro schema is no record")
    return WrittenRecord(parsed["name"], tuple(_avro_field(one, named) for one in parsed["fields"]))


def _avro_field(one: dict[str, Any], named: dict[str, Any]) -> WrittenField:
    options = one["type"] if isinstance(one["type"], list) else [one["type"]]
    options = [named.get(option, option) if isinstance(option, str) else option for option in options]
    there = [option for option in options if option != "null"]
    parts = [_avro_part(option) for option in there]
    found = parts[0] if len(parts) == 1 else _united(parts)
    what, kind, categories, time_unit = found
    aliases = tuple(one.get("aliases", ()))
    return WrittenField(one["name"], what, kind, len(there) < len(options), categories, time_unit, aliases)


_Part = tuple[str, Kind | None, tuple[Any, ...] | None, str | None]


def _avro_part(option: Any) -> _Part:
    if isinstance(option, str):
        return option, _AVRO_KINDS.get(option), None, None
    kind, logical = option.get("type"), option.get("logicalType")
    if isinstance(kind, dict):
        return _avro_part(kind)
    if logical in _AVRO_TIMES:
        return logical, "int", None, _AVRO_TIMES[logical]
    if logical == "date":
        return logical, "int", None, "days"
    if logical == "decimal":
        return logical, "float" if option.get("scale") else "int", None, None
    if kind == "enum":
        return "enum", "str", tuple(option["symbols"]), None
    if kind == "array" and option["items"] in ("int", "long", "float", "double"):
        return f"array of {option['items']}", "vector", None, None
    return str(logical or kind), _AVRO_KINDS.get(kind), None, None


def _united(parts: list[_Part]) -> _Part:
    """A union of more than null and one type is read only where its values are of one kind, or numbers."""
    kinds = {kind for _, kind, _, _ in parts}
    what = "union of " + ", ".join(part[0] for part in parts) if parts else "null"
    if len(kinds) == 1 or (kinds == {"int", "float"}):
        return what, "float" if len(kinds) > 1 else kinds.pop(), None, None
    return what, None, None, None


def _json_record(schema: RegisteredSchema) -> WrittenRecord:
    document = json.loads(schema.text)
    places = {name: json.loads(text) for name, _, text in schema.references}
    root = _referred(document, document, places)
    if not isinstance(root, dict) or not isinstance(root.get("properties"), dict):
        raise SchemaTextError("the JSON Schema is none of an object with properties")
    required = root.get("required", ())
    fields = [
        _json_field(name, one, name in required, document, places) for name, one in root["properties"].items()
    ]
    return WrittenRecord(str(root.get("title") or "Event"), tuple(fields))


def _referred(one: Any, document: Any, places: dict[str, Any]) -> Any:
    """What a `$ref` stands for: a part of the document, or a schema that is referred to by name."""
    for _ in range(_REFERENCES_MAX):
        if not isinstance(one, dict) or not isinstance(one.get("$ref"), str):
            return one
        name, _, path = one["$ref"].partition("#")
        document = places[name] if name else document
        one = document
        for step in filter(None, path.split("/")):
            one = one[step.replace("~1", "/").replace("~0", "~")]
    raise SchemaTextError("its references go round in a circle")


def _json_field(name: str, one: Any, required: bool, document: Any, places: dict[str, Any]) -> WrittenField:
    one = _referred(one, document, places)
    if not isinstance(one, dict):
        return WrittenField(name, "anything", None, True)
    union = one.get("oneOf") or one.get("anyOf")
    options = [_referred(each, document, places) for each in union] if union else [one]
    categories = tuple(one["enum"]) if "enum" in one else (one["const"],) if "const" in one else None
    types: list[str] = []
    for option in options:
        types += _types(option)
        if isinstance(option, dict) and "enum" in option and len(options) <= 2:
            categories = tuple(option["enum"])
    if not types and categories is not None:
        types = sorted({_json_type(value) for value in categories})
    there = [each for each in types if each != "null"]
    kinds = {_JSON_KINDS.get(each) for each in there}
    kind = kinds.pop() if len(kinds) == 1 else "float" if kinds == {"int", "float"} else None
    nullable = not required or "null" in types or (categories is not None and None in categories)
    values = None if categories is None else tuple(value for value in categories if value is not None)
    what = "enum" if values is not None else " or ".join(there) or "anything"
    if there == ["array"]:
        return _json_list(name, next(each for each in options if "array" in _types(each)), nullable)
    return WrittenField(name, what, kind, nullable, values)


def _types(option: Any) -> list[str]:
    found = option.get("type") if isinstance(option, dict) else None
    return found if isinstance(found, list) else [found] if isinstance(found, str) else []


def _json_list(name: str, option: dict[str, Any], nullable: bool) -> WrittenField:
    of = _types(option.get("items"))
    if not of or not set(of) <= {"number", "integer"}:
        return WrittenField(name, "array", None, nullable)
    least, most = option.get("minItems"), option.get("maxItems")
    size = least if isinstance(least, int) and least == most else None
    what = f"array of {' or '.join(of)}" + (f", {size} of them" if size is not None else "")
    return WrittenField(name, what, "vector", nullable, size=size)


def _json_type(value: object) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return names.get(type(value), "object")


def _protobuf_record(schema: RegisteredSchema, message: str | None) -> WrittenRecord:
    messages = compiled_messages(schema, "the schema")
    if isinstance(messages, Refused):
        raise SchemaTextError(messages.detail)
    found = named_message(messages, message)
    return WrittenRecord(found.name, tuple(_protobuf_field(one) for one in found.fields))


def _protobuf_field(one: FieldDescriptor) -> WrittenField:
    if one.label == FieldDescriptor.LABEL_REPEATED:
        of = _PROTOBUF_KINDS.get(one.cpp_type)
        if of in ("int", "float"):
            return WrittenField(one.name, f"repeated {of}", "vector", False)
        is_map = one.message_type is not None and one.message_type.GetOptions().map_entry
        return WrittenField(one.name, "map" if is_map else "repeated", None, False)
    nullable = one.has_presence and one.label != FieldDescriptor.LABEL_REQUIRED
    if one.type == FieldDescriptor.TYPE_ENUM:
        return WrittenField(one.name, "enum", "str", nullable, tuple(value.name for value in one.enum_type.values))
    if one.type == FieldDescriptor.TYPE_MESSAGE:
        return _protobuf_message(one.name, one.message_type)
    if one.type == FieldDescriptor.TYPE_BYTES:
        return WrittenField(one.name, "bytes", None, nullable)
    kind = _PROTOBUF_KINDS.get(one.cpp_type)
    return WrittenField(one.name, str(kind or "group"), kind, nullable)


def _protobuf_message(name: str, kind: Descriptor) -> WrittenField:
    if kind.full_name == "google.protobuf.Timestamp":
        return WrittenField(name, kind.full_name, "int", True, None, "timestamp")
    if kind.file.name.endswith("google/protobuf/wrappers.proto"):
        inner = _protobuf_field(kind.fields_by_name["value"])
        return inner._replace(name=name, what=kind.full_name, nullable=True)
    return WrittenField(name, f"message {kind.full_name}", None, True)
