"""JSON objects to events, alone or many at once."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from udfs.byte_lines import Lines
from udfs.confluent_wire import HEAD_BYTES, schema_id_of
from udfs.event_rows import Names, refused_value
from udfs.events import EventField
from udfs.refused import Refused
from udfs.vector_values import vector_problem

_OPEN, _CLOSE = ord("{"), ord("}")


class JsonEvents:
    """Reads JSON.

    Args:
        event_class: The event, a msgspec struct.
        framed: Whether the id of a schema comes first. The schema itself is not needed.
        vectors: The event's vectors, and where they are in an object.
    """

    def __init__(
        self, event_class: type, *, framed: bool = False, vectors: Sequence[tuple[EventField, Names]] = ()
    ) -> None:
        decoder: Any = msgspec.json.Decoder(event_class)
        self._framed, self._vectors = framed, vectors
        self._decode: Callable[[bytes], Any] = decoder.decode
        self._decode_lines: Callable[[bytes], list[Any]] = decoder.decode_lines

    def together(self, values: Lines) -> list[Any] | None:
        """The events of records that each hold one JSON object and nothing else; None if that is not certain.

        All are decoded as one text, in which each has a line. A closing and an opening brace with only a newline
        between them can stand next to each other outside of all values alone; so where every record begins and ends
        with its brace, no value reaches over the end of its record, and n values in n records are one in each.
        """
        if self._framed:
            framed: Any = values.tolist()
            if any(value[0] != 0 if len(value) >= HEAD_BYTES else True for value in framed):
                return None
            values = Lines.of([value[HEAD_BYTES:] for value in framed])
        lengths, content = values.lengths, values.content
        if lengths.min() < 2:
            return None
        ends, letters = values.ends(), np.frombuffer(content, np.uint8)
        if not ((letters[ends - 2] == _CLOSE).all() and (letters[ends - 1 - lengths] == _OPEN).all()):
            return None
        try:
            events = self._decode_lines(content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return events if len(events) == len(values) else None

    def one(self, value: bytes) -> Any:
        """The event of a record, or why it is none."""
        if self._framed:
            schema_id = schema_id_of(value[:HEAD_BYTES])
            if isinstance(schema_id, Refused):
                return schema_id
            value = value[HEAD_BYTES:]
        found = decoded_json(value, self._decode)
        if self._vectors and isinstance(found, Refused) and found.reason == "wrong_type":
            return self._problem(value) or found
        return found

    def _problem(self, value: bytes) -> Refused | None:
        """Which vector of a record is none, if that is what is wrong with it."""
        try:
            row = json.loads(value)  # msgspec says which field, and not which number of it
        except (ValueError, RecursionError):
            return None
        return vector_problem(row, self._vectors) if isinstance(row, dict) else None


def decoded_json(value: bytes, decode: Callable[[bytes], Any]) -> Any:
    """What a JSON decoder makes of a value, or why it makes nothing."""
    try:
        return decode(value)
    except msgspec.ValidationError as error:
        return refused_value(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Refused("not_json", str(error))


def json_fields(value: bytes) -> dict[str, Any]:
    """The fields of an object.

    Raises:
        ValueError: It is none.
    """
    try:
        found = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    return found
