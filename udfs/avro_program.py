"""A writer's Avro schema as arrays: what a compiled loop needs to go through records and to find an event's fields."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from udfs.text_scan import Bytes

(
    NOTHING, BOOLEAN, INTEGER, FLOAT, DOUBLE, STRING, BYTES, FIXED, ENUM, UNION, RECORD, ARRAY, MAP,
) = range(13)  # fmt: skip
"""Kinds of types."""
_PRIMITIVES = {
    "null": NOTHING, "boolean": BOOLEAN, "int": INTEGER, "long": INTEGER, "float": FLOAT, "double": DOUBLE,
    "string": STRING, "bytes": BYTES,
}  # fmt: skip
LEFT_OUT, ODD = -1, -2
"""Targets of fields that the event does not have, and of those whose values are left to the library."""


class AvroProgram(NamedTuple):
    """A schema. The first of the types is the record.

    Attributes:
        kinds: (types,) int64.
        firsts: (types,) int64: the first of a union's, record's, array's or map's parts, or of an enum's symbols.
        counts: (types,) int64: how many parts or symbols; the bytes of a fixed type.
        parts: (parts,) int64: types.
        targets: (fields of the record,) int64: the event's field, LEFT_OUT or ODD.
        factors: (fields of the record,) int64: what a whole number is multiplied with, or if negative divided by.
        symbols: uint8: the symbols of all enums, one after the other.
        symbol_ends: (symbols + 1,) int64: where each ends; the first is 0.
    """

    kinds: npt.NDArray[np.int64]
    firsts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    factors: npt.NDArray[np.int64]
    symbols: Bytes
    symbol_ends: npt.NDArray[np.int64]


def avro_program(schema: Any, targets: Mapping[str, tuple[int, int]]) -> AvroProgram:
    """The program of a record's schema.

    Args:
        schema: From `without_logical_types`.
        targets: Target and factor by the writer's name of a field; others are left out.
    """
    return _Builder(schema).program(targets)


class _Builder:
    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._types: list[list[int]] = []
        self._parts: list[int] = []
        self._symbols: list[bytes] = []
        self._named: dict[str, int] = {}

    def program(self, targets: Mapping[str, tuple[int, int]]) -> AvroProgram:
        self._add(self._schema)
        types = np.array(self._types, np.int64)
        found = [targets.get(one["name"], (LEFT_OUT, 1)) for one in self._schema["fields"]]
        return AvroProgram(
            types[:, 0].copy(),
            types[:, 1].copy(),
            types[:, 2].copy(),
            np.array(self._parts, np.int64),
            np.array([target for target, _ in found], np.int64),
            np.array([factor for _, factor in found], np.int64),
            np.frombuffer(b"".join(self._symbols), np.uint8).copy(),
            np.cumsum([0, *map(len, self._symbols)]).astype(np.int64),
        )

    def _add(self, kind: Any) -> int:
        """The number of a type, which is new unless it is named."""
        if isinstance(kind, str) and kind not in _PRIMITIVES:
            return self._named[kind]
        number = len(self._types)
        if isinstance(kind, list):
            self._types.append([UNION, 0, len(kind)])
            self._add_parts(number, kind)
            return number
        form = kind if isinstance(kind, str) else kind["type"]
        if not isinstance(kind, str) and "name" in kind:
            self._named[kind["name"]] = number
        if form in _PRIMITIVES:
            self._types.append([_PRIMITIVES[form], 0, 0])
        elif form == "fixed":
            self._types.append([FIXED, 0, kind["size"]])
        elif form == "enum":
            self._types.append([ENUM, len(self._symbols), len(kind["symbols"])])
            self._symbols += [symbol.encode() for symbol in kind["symbols"]]
        elif form in ("array", "map"):
            self._types.append([ARRAY if form == "array" else MAP, 0, 1])
            self._add_parts(number, [kind["items" if form == "array" else "values"]])
        else:
            self._types.append([RECORD, 0, len(kind["fields"])])
            self._add_parts(number, [one["type"] for one in kind["fields"]])
        return number

    def _add_parts(self, number: int, kinds: list[Any]) -> None:
        first = len(self._parts)
        self._types[number][1] = first
        self._parts += [0] * len(kinds)
        for place, kind in enumerate(kinds):
            self._parts[first + place] = self._add(kind)
