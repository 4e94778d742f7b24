"""Can an event class read what was written with a schema, and what differs between two schemas, field by field."""

from collections.abc import Sequence
from typing import NamedTuple

from udfs.event_rows import paths_of
from udfs.events import EventField, Events, Kind
from udfs.written_fields import WrittenField

READS: dict[Kind, tuple[Kind, ...]] = {
    "str": ("str",), "int": ("int",), "float": ("int", "float"), "bool": ("bool",), "vector": ("vector",),
}  # fmt: skip
"""Kinds of values that a field of the event takes: whole numbers where numbers are wanted, and no other conversion."""


class ReadingProblem(NamedTuple):
    """A field of the event that records of a schema do not give.

    Attributes:
        field: Its name in the event class.
        refuses_all: Whether every record becomes a dead letter, or only those with certain values.
        text: Why, for people.
    """

    field: str
    refuses_all: bool
    text: str


class Difference(NamedTuple):
    """A field that two schemas do not have alike; None where one does not have it."""

    field: str
    before: str | None
    after: str | None


def reading_problems(events: Events, written: Sequence[WrittenField]) -> list[ReadingProblem]:
    """What keeps records with these fields from being events.

    Args:
        events: The event's fields, and how they were called before.
        written: The fields of the records' schema.
    """
    there = {name: one for one in reversed(written) for name in (*one.other_names, one.name)}
    there |= {one.name: one for one in written}
    problems, source = [], events.own_source
    for field in source.value_fields(events.schema):
        found = next(filter(None, (there.get(path[0]) for path in paths_of(events, source, field.name))), None)
        if found is not None and "." in source.path_of(field.name):
            continue  # what is in an object is seen when a record comes
        problem = _problem(field, found, is_time=field.name == events.time)
        if problem is not None:
            problems.append(ReadingProblem(field.name, *problem))
    return problems


def _problem(field: EventField, found: WrittenField | None, *, is_time: bool) -> tuple[bool, str] | None:
    """Whether all records are refused, and why; None if none is."""
    if found is None:
        return None if field.optional else (True, "is not written, and not optional in the event class")
    timestamp = found.time_unit == "timestamp"
    if found.kind not in READS[field.kind] and not (is_time and found.time_unit is not None):
        return True, f"is written as {found.what}, and {field.kind} in the event class"
    if timestamp and not is_time:
        return True, f"is written as {found.what}, which is read as the event's time only"
    if field.size is not None and found.size not in (None, field.size):
        return True, f"has {found.size} numbers, and {field.size} in the event class"
    reasons = []
    if found.nullable and not field.optional:
        reasons.append("may be null or missing, and is not optional in the event class")
    if field.categories is not None:
        others = None if found.categories is None else [one for one in found.categories if one not in field.categories]
        if others is None:
            reasons.append("may have any value, and has only those of its Literal in the event class")
        elif others:
            reasons.append(f"may be {', '.join(map(repr, others[:5]))}, which its Literal in the event class has not")
    return (False, "; ".join(reasons)) if reasons else None


def differences(before: Sequence[WrittenField], after: Sequence[WrittenField]) -> list[Difference]:
    """Fields that are new, gone or different, in the order of `after` and then of `before`."""
    old, new = ({one.name: described(one) for one in fields} for fields in (before, after))
    names = list(dict.fromkeys((*new, *old)))
    return [Difference(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def described(field: WrittenField) -> str:
    """A field's type in a few words."""
    text = field.what
    if field.categories is not None:
        text += f" of {', '.join(map(repr, field.categories))}"
    return f"{text}, optional" if field.nullable else text
