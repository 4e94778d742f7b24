"""What a writer's Avro schema means for an event: where its fields are, and what must be done to their values."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from fastavro.schema import SchemaParseException, UnknownType, parse_schema

from udfs.avro_program import ODD
from udfs.event_rows import Converter, source_names, time_converter
from udfs.events import UNITS_PER_S, Events
from udfs.refused import Refused
from udfs.registered_schema import RegisteredSchema

_TIME_UNITS_PER_S = {
    "timestamp-millis": 1_000, "timestamp-micros": 1_000_000, "timestamp-nanos": 1_000_000_000,
    "local-timestamp-millis": 1_000, "local-timestamp-micros": 1_000_000, "local-timestamp-nanos": 1_000_000_000,
}  # fmt: skip
_DAY_S = 86_400
_PRIMITIVES = {"null", "boolean", "int", "long", "float", "double", "bytes", "string"}
_UNREADABLE = (SchemaParseException, UnknownType, ValueError, KeyError, TypeError, AttributeError, RecursionError)
_MOST_TYPES = 10_000
_MOST_DECIMAL_BYTES = 100
_NAMED = "__named_schemas__"


class WriterPlan(NamedTuple):
    """How records of one schema are read.

    Attributes:
        schema: From `parsed_record`.
        moved: (field, the writer's name of it) where they differ.
        converters: (field, what turns its value into the event's).
        targets: For `avro_program`: by the writer's name of a field, the event's and what whole numbers are scaled by.
        is_complete: Whether the writer has every field that is not optional.
    """

    schema: Any
    moved: tuple[tuple[str, str], ...]
    converters: tuple[tuple[str, Converter], ...]
    targets: dict[str, tuple[int, int]]
    is_complete: bool


def plan_of(events: Events, written: RegisteredSchema, where: str) -> WriterPlan | Refused:
    """How to read records of a schema, or why that cannot be.

    Args:
        events: The event's fields.
        written: The writer's schema.
        where: What the schema is called in errors.
    """
    parsed = parsed_record(written, where)
    if isinstance(parsed, Refused):
        return parsed
    there = {}
    for one in parsed["fields"]:
        there.update(dict.fromkeys(one.get("aliases", ()), one["name"]))
    there.update({one["name"]: one["name"] for one in parsed["fields"]})
    names = source_names(events, there)
    types = {one["name"]: one["type"] for one in parsed["fields"]}
    converters, targets = [], dict[str, tuple[int, int]]()
    for place, one in enumerate(events.schema):
        if one.name not in names:
            continue
        name = names[one.name]
        converter, factor = _conversion(events, one.name, types[name], parsed[_NAMED])
        if converter is not None:
            converters.append((one.name, converter))
        # a field that is read twice is left to the library
        targets[name] = (ODD, 1) if factor is None or name in targets else (place, factor)
    moved = tuple((field, name) for field, name in names.items() if field != name)
    is_complete = all(one.nullable or one.name in names for one in events.schema)
    return WriterPlan(parsed, moved, tuple(converters), targets, is_complete)


def parsed_record(written: RegisteredSchema, where: str) -> Any:
    """The record of a schema, parsed, with all named types that it uses; or why there is none.

    Args:
        written: The schema.
        where: What it is called in errors.
    """
    if written.kind != "AVRO":
        return Refused("unknown_schema", f"{where} is of kind {written.kind}, not Avro")
    named: dict[str, Any] = {}
    try:
        for _, _, text in written.references:
            parse_schema(_loaded(text), named)
        parsed: Any = parse_schema(_loaded(written.text), named)
        if not isinstance(parsed, dict) or parsed.get("type") != "record":
            return Refused("unknown_schema", f"{where} is no record")
        found = {**parsed, _NAMED: named}
        check_size(without_logical_types(found))  # whatever is odd about it is found here
    except _UNREADABLE as error:
        return Refused("unknown_schema", f"{where} cannot be read: {type(error).__name__}: {error}")
    return found


def _loaded(text: str) -> Any:
    text = text.strip()
    return json.loads(text) if text[:1] in ("{", "[", '"') else text


def _options(kind: Any) -> list[Any]:
    return kind if isinstance(kind, list) else [kind]


def _resolved(kind: Any, named: dict[str, Any]) -> Any:
    return named[kind] if isinstance(kind, str) and kind not in _PRIMITIVES else kind


def _conversion(
    events: Events, field: str, kind: Any, named: dict[str, Any]
) -> tuple[Converter | None, int | None]:
    """What the logical type of a field asks for; and what comes to the same for whole numbers.

    That is a factor, or if negative a divisor; None if there is no such number.
    """
    for option in _options(kind):
        option = _resolved(option, named)
        logical = option.get("logicalType") if isinstance(option, dict) else None
        if field == events.time and (logical in _TIME_UNITS_PER_S or logical == "date"):
            given, wanted = _TIME_UNITS_PER_S.get(logical, 1), UNITS_PER_S[events.time_unit]
            factor = wanted // given if wanted >= given else -(given // wanted)
            converter = time_converter(events, given)
            if logical == "date":
                converter, factor = partial(_day, converter), factor * _DAY_S
            is_float = events.field(field, "Events: time").kind == "float"
            return converter, None if is_float and converter is not None else factor
        if logical == "decimal":
            return partial(_decimal, 10 ** int(option.get("scale", 0))), None
    return None, 1


def _day(seconds: Converter | None, days: Any) -> Any:
    if not isinstance(days, int):
        return days
    return days * _DAY_S if seconds is None else seconds(days * _DAY_S)


def _decimal(one: int, unscaled: Any) -> Any:
    if not isinstance(unscaled, bytes) or len(unscaled) > _MOST_DECIMAL_BYTES:
        return unscaled
    number = int.from_bytes(unscaled, "big", signed=True)
    return number // one if number % one == 0 else number / one


def without_logical_types(schema: Any) -> Any:
    """A schema in which all types are what they are stored as: Python's objects for others cost more than they give.

    Args:
        schema: From `parsed_record`.

    Returns:
        Parsed; it names no types but its own.
    """
    named, seen = schema[_NAMED], set[str]()

    def plain(kind: Any) -> Any:
        if isinstance(kind, list):
            return [plain(option) for option in kind]
        if isinstance(kind, str):
            return kind if kind in _PRIMITIVES or kind in seen else plain(named[kind])
        if isinstance(kind.get("type"), (dict, list)):
            return plain(kind["type"])
        name = kind.get("name")
        if name in seen:
            return name
        if name is not None:
            seen.add(name)
        kept = {key: kind[key] for key in ("type", "name", "symbols", "size") if key in kind}
        if "default" in kind and kind["type"] == "enum":
            kept["default"] = kind["default"]
        if kind["type"] in ("record", "error"):
            kept["fields"] = [{"name": one["name"], "type": plain(one["type"])} for one in kind["fields"]]
        for part in ("items", "values"):
            if part in kind:
                kept[part] = plain(kind[part])
        return kept

    own: dict[str, Any] = {}
    parsed: Any = parse_schema(plain(schema), own)
    return {**parsed, _NAMED: own}


def _parts(kind: Any) -> Iterator[Any]:
    if isinstance(kind, list):
        yield from kind
    elif isinstance(kind, dict):
        yield from (one["type"] for one in kind.get("fields", ()))
        yield from (kind[part] for part in ("items", "values") if part in kind)
        if isinstance(kind.get("type"), (dict, list)):
            yield kind["type"]


def check_size(schema: Any) -> None:
    """Refuse a schema whose records could be very large without having bytes.

    Raises:
        ValueError: It has very many types within each other.
    """
    named, visited = schema[_NAMED], 0

    def visit(kind: Any, above: tuple[str, ...]) -> None:
        nonlocal visited
        visited += 1
        if visited > _MOST_TYPES:
            raise ValueError(f"more than {_MOST_TYPES:,} types within each other")
        kind = _resolved(kind, named)
        name = kind.get("name") if isinstance(kind, dict) else None
        if name is not None:
            if name in above:
                return
            above = (*above, name)
        for part in _parts(kind):
            visit(part, above)

    visit(schema, ())
