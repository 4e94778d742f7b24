"""Vectors of records that are none: which field, and which of its numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from udfs.event_rows import Names
from udfs.events import EventField, element_name
from udfs.refused import Refused


def vector_problem(row: Mapping[str, Any], vectors: Sequence[tuple[EventField, Names]]) -> Refused | None:
    """Why the first vector of a record that is none is none; None if all are.

    Args:
        row: The fields of the record.
        vectors: The event's vectors, and where they are in the record.
    """
    for one, names in vectors:
        value: Any = row
        for name in names:
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            problem = _problem(one, value)
            if problem:
                return Refused("wrong_type", problem)
    return None


def _problem(one: EventField, value: Any) -> str:
    if not isinstance(value, list):
        return f"{one.name} is {value!r:.80}, not a list of {one.size} numbers"
    if len(value) != one.size:
        return f"{one.name} has {len(value)} numbers, not {one.size}"
    for place, number in enumerate(value):
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            return f"{element_name(one.name, place)} is {number!r:.80}, not a number"
    return ""
