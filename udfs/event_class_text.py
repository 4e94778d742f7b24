"""The Python text of an event class, made from a registered schema."""

import keyword
import re
from typing import NamedTuple

from udfs.written_fields import WrittenField, WrittenRecord

_FORMATS = {"AVRO": "Avro()", "PROTOBUF": "Protobuf()", "JSON": "JsonSchema()"}
_NO_UNIT = {"days": "ms", "timestamp": "ms"}  # they are converted, to whatever the event class says


class Roles(NamedTuple):
    """Which fields are the entity, the time and the id; None where nobody said it."""

    entity: str | None = None
    time: str | None = None
    id: str | None = None


def event_class_text(record: WrittenRecord, kind: str, *, topic: str, source: str, format_text: str | None = None,
                     roles: Roles | None = None) -> str:  # fmt: skip
    """A Python file with the event class and its `Events(...)`.

    `Events(...)` is a comment as long as a role is not known: then the file can be imported, and says what to fill in.

    Args:
        record: The schema's name and fields.
        kind: "AVRO", "PROTOBUF" or "JSON".
        topic: Where the events are.
        source: What the schema is called, for the file's first line.
        format_text: Python for `format=`; None means that records name their schema.
        roles: Fields that the user named. The time is taken from the schema if just one field is a timestamp.

    Raises:
        ValueError: A role is a field that there is not, or that cannot be it.
    """
    read = [one for one in record.fields if one.kind is not None and _why_unreadable(one.name) is None]
    roles = _checked_roles(roles or Roles(), read)
    # only the event's time is converted from Protobuf's own timestamps; nothing else can be done with one
    read = [one for one in read if one.time_unit != "timestamp" or one.name == roles.time]
    # of how many numbers a vector is, only JSON Schema says
    read = [one for one in read if one.kind != "vector" or one.size]
    left_out = [one for one in record.fields if one not in read]
    name = _class_name(record.name)
    class_lines = [f"class {name}:", *(_field_line(one, roles) for one in read)]
    if not read:
        class_lines.append("    pass")
    class_lines += [f"    # not read: {_comment(one)}" for one in left_out]
    events = _events_lines(name, kind, topic, format_text, roles, read)
    needed = ", ".join(sorted({"Events", (format_text or _FORMATS[kind]).partition("(")[0]}))
    typed = ["Annotated"] * any(one.kind == "vector" for one in read)
    typed += ["Literal"] * any(_has_literal(one) for one in read)
    standard = [f"from typing import {', '.join(typed)}"] if typed else []
    ours = [f"from udfs.pipeline import {needed}"]
    paths = ["from pathlib import Path"] * ("Path(" in (format_text or ""))
    if None in roles:
        events = [f"# {line}" for line in ("fill in and uncomment:", *paths, *ours, *events)]
        ours = []
    else:
        standard = paths + standard
    blocks = ["\n".join(lines) for lines in (standard, ours) if lines]
    top = "\n\n".join([f'"""Events of {_one_line(source)}."""', *blocks])
    return "\n".join([top, "", "", *class_lines, "", "", *events]) + "\n"


def _checked_roles(roles: Roles, read: list[WrittenField]) -> Roles:
    by_name = {one.name: one for one in read}
    for role, name in roles._asdict().items():
        if name is None:
            continue
        kinds = ("int", "float") if role == "time" else ("str", "int")
        found = by_name.get(name)
        if found is None:
            known = ", ".join(by_name)
            raise ValueError(f"--{role}: the schema has no field {name!r} that can be read; it has {known}")
        if found.kind not in kinds or (found.time_unit == "timestamp" and role != "time"):
            raise ValueError(f"--{role}: {name} is {found.what}; it must be {' or '.join(kinds)}")
    times = [one.name for one in read if one.time_unit is not None]
    return roles._replace(time=times[0]) if roles.time is None and len(times) == 1 else roles


def _field_line(one: WrittenField, roles: Roles) -> str:
    kind: str = str(one.kind) if one.kind != "vector" else f"Annotated[list[float], {one.size}]"
    if _has_literal(one):
        kind = f"Literal[{', '.join(map(_literal, one.categories or ()))}]"
    has_role = one.name in roles
    optional = " | None" if one.nullable and not has_role else ""
    notes = []
    if one.time_unit in ("ms", "us", "ns"):
        notes.append(f"{one.time_unit} since 1970")
    elif one.time_unit is not None:
        notes.append(f"a {one.what}, converted" if has_role else f"a {one.what}: days since 1970")
    if one.nullable and has_role:
        notes.append("may be missing; such records become dead letters")
    return f"    {one.name}: {kind}{optional}{'  # ' + '; '.join(notes) if notes else ''}"


def _has_literal(one: WrittenField) -> bool:
    kinds = {"str": str, "int": int, "bool": bool}
    if not one.categories or one.kind not in kinds:
        return False
    return all(type(value) is kinds[str(one.kind)] for value in one.categories)


def _events_lines(name: str, kind: str, topic: str, format_text: str | None, roles: Roles,
                  read: list[WrittenField]) -> list[str]:  # fmt: skip
    unit = next((one.time_unit for one in read if one.name == roles.time and one.time_unit), None)
    lines = ["events = Events(", f"    {name},", f"    topic={_literal(topic)},"]
    for role, chosen in roles._asdict().items():
        kinds = ("int", "float") if role == "time" else ("str", "int")
        able = [one.name for one in read if one.kind in kinds and one.time_unit != "timestamp"]
        choices = "" if chosen is not None else f"  # one of {', '.join(able) or 'none: there is no such field'}"
        lines.append(f"    {role}={_literal(chosen or '')},{choices}")
    if unit is not None:
        lines.append(f'    time_unit="{_NO_UNIT.get(unit, unit)}",')
    return [*lines, f"    format={format_text or _FORMATS[kind]},", ")"]


def _class_name(record: str) -> str:
    words = re.findall(r"[^\W_]+", record.rpartition(".")[2])
    name = "".join(word[0].upper() + word[1:] for word in words) or "Event"
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"Event{name}"


def _why_unreadable(name: str) -> str | None:
    if not name.isidentifier() or keyword.iskeyword(name):
        return "its name is none in Python"
    return "its name begins with '_'" if name.startswith("_") else None


def _comment(one: WrittenField) -> str:
    optional = ", optional" if one.nullable else ""
    why = _why_unreadable(one.name)
    return _one_line(f"{one.name} ({one.what}{optional}{f'; {why}' if why else ''})")


def _literal(value: object) -> str:
    """A value as Python, in double quotes where nothing has to be escaped."""
    is_plain = isinstance(value, str) and value.isprintable() and not set(value) & set("\"\\")
    return f'"{value}"' if is_plain else repr(value)


def _one_line(text: str) -> str:
    """Text of a schema must not become code."""
    return "".join(each if each.isprintable() and each not in '"\\' else " " for each in text)
