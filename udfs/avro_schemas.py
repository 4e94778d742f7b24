"""What a writer's Avro schema means for an event: where its fields are, and what must be done to their values."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from fastavro.schema import SchemaParseException, UnknownType, parse_schema

from udfs.event_rows import Converter, Names, must_pick, paths_of, time_converter
from udfs.events import Events
from udfs.refused import Refused
from udfs.registered_schema import RegisteredSchema
from udfs.sources import Source

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
        places: (field, where the writer has it), if they differ; else none.
        converters: (field, what turns its value into the event's).
    """

    schema: Any
    places: tuple[tuple[str, Names], ...]
    converters: tuple[tuple[str, Converter], ...]


AFTER = "after"
"""The changed row in a change event; of a deletion it is `before`, with the same fields."""


def plan_of(events: Events, source: Source, written: RegisteredSchema, where: str) -> WriterPlan | Refused:
    """How to read records of a schema, or why that cannot be.

    Args:
        events: The event's fields.
        source: Says where they are.
        written: The writer's schema.
        where: What the schema is called in errors.
    """
    parsed = parsed_record(written, where)
    if isinstance(parsed, Refused):
        return parsed
    named, record = parsed[_NAMED], parsed
    if source.changes is not None:
        after = _found(parsed, (AFTER,), named)
        record = None if after is None else _record_of(after[1], named)
        if record is None:
            return Refused("unknown_schema", f"{where} has no record `{AFTER}`: it is of no change event of Debezium")
    places, converters = [], []
    wanted = source.value_fields(events.schema)
    for one in wanted:
        found = next(filter(None, (_found(record, path, named) for path in paths_of(events, source, one.name))), None)
        if found is None:
            continue
        places.append((one.name, found[0]))
        converter = _converter(events, source, one.name, found[1], named)
        if converter is not None:
            converters.append((one.name, converter))
    differ = must_pick(places, wanted, [each["name"] for each in record["fields"]])
    return WriterPlan(parsed, tuple(places) if differ else (), tuple(converters))


def _record_of(kind: Any, named: dict[str, Any]) -> Any:
    """The record that a type is or may be; None if it may be none."""
    resolved = (_resolved(option, named) for option in _options(kind))
    return next((one for one in resolved if isinstance(one, dict) and one.get("type") == "record"), None)


def _found(record: Any, path: Names, named: dict[str, Any]) -> tuple[Names, Any] | None:
    """The writer's names of a field, and its type; None if it has none."""
    names, kind = [], record
    for wanted in path:
        inside = _record_of(kind, named)
        if inside is None:
            return None
        mine = [one for one in inside["fields"] if one["name"] == wanted]
        one = next(iter(mine or [one for one in inside["fields"] if wanted in one.get("aliases", ())]), None)
        if one is None:
            return None
        names.append(one["name"])
        kind = one["type"]
    return tuple(names), kind


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
        needs_walk(without_logical_types(found))  # whatever is odd about it is found here
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


def _converter(events: Events, source: Source, field: str, kind: Any, named: dict[str, Any]) -> Converter | None:
    """What the logical type of a field asks for."""
    for option in _options(kind):
        option = _resolved(option, named)
        logical = option.get("logicalType") if isinstance(option, dict) else None
        if logical in _TIME_UNITS_PER_S and field == events.time:
            return time_converter(events, source, _TIME_UNITS_PER_S[logical])
        if logical == "date" and field == events.time:
            seconds = time_converter(events, source, 1)
            return partial(_day, seconds)
        if logical == "decimal":
            return partial(_decimal, 10 ** int(option.get("scale", 0)))
    return None


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


def needs_walk(schema: Any) -> bool:
    """Whether a type holds itself, or an array has items that may take no bytes.

    Its records can be nested without an end, or claim endless items: they are gone through with limits before fastavro
    sees them.
    """
    named, visited = schema[_NAMED], 0

    def holds_itself(kind: Any, above: tuple[str, ...]) -> bool:
        nonlocal visited
        visited += 1
        if visited > _MOST_TYPES:
            raise ValueError(f"more than {_MOST_TYPES:,} types within each other")
        kind = _resolved(kind, named)
        name = kind.get("name") if isinstance(kind, dict) else None
        if name is not None:
            if name in above:
                return True
            above = (*above, name)
        return any(holds_itself(part, above) for part in _parts(kind))

    def takes_nothing(kind: Any) -> bool:
        kind = _resolved(kind, named)
        if isinstance(kind, str):
            return kind == "null"
        if isinstance(kind, list):
            return False
        if isinstance(kind.get("type"), (dict, list)):
            return takes_nothing(kind["type"])
        if kind["type"] == "fixed":
            return bool(kind["size"] == 0)
        if kind["type"] in ("record", "error"):
            return all(takes_nothing(one["type"]) for one in kind["fields"])
        return bool(kind["type"] == "null")

    def has_empty_items(kind: Any) -> bool:
        kind = _resolved(kind, named)
        empty = isinstance(kind, dict) and "items" in kind and takes_nothing(kind["items"])
        return empty or any(has_empty_items(part) for part in _parts(kind))

    return holds_itself(schema, ()) or has_empty_items(schema)
