"""Cells to event objects: as MessagePack of a compiled loop, which msgspec decodes like JSON, checks and all.

https://github.com/msgpack/msgpack/blob/master/spec.md
"""

# numba says what kinds of numbers these are: to mypy, those of numpy are not Python's
# mypy: disable-error-code="no-any-return,return-value,arg-type,assignment"

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from udfs.cells import REAL, TEXT, TRUTH, Cells, ScanSchema
from udfs.compiled import compiled, inlined
from udfs.events import Events
from udfs.text_scan import NULL, VALUE, Bytes

_NIL, _FALSE, _TRUE, _FLOAT, _INT, _STR8, _STR32, _MAP16, _ARRAY32 = (
    0xC0, 0xC2, 0xC3, 0xCB, 0xD3, 0xD9, 0xDB, 0xDE, 0xDD,
)  # fmt: skip
_MOST_VALUE_BYTES = 9  # of all but texts, and more than the head of a text


class PackedEvents:
    """Makes events of cells.

    Args:
        events: All fields.
        event_class: The event, or some of its fields: a msgspec struct.
    """

    def __init__(self, events: Events, event_class: type) -> None:
        self._decode: Any = msgspec.msgpack.Decoder(list[event_class]).decode  # type: ignore[valid-type]
        keys = [msgspec.msgpack.encode(one.name) for one in events.schema]
        self._keys = np.frombuffer(b"".join(keys), np.uint8).copy()
        self._key_ends = np.cumsum([0, *map(len, keys)]).astype(np.int64)

    def of(self, cells: Cells, rows: npt.NDArray[np.int64], schema: ScanSchema, data: Bytes) -> list[Any] | None:
        """The events of some records that are plain, or None if one is none.

        Args:
            cells: With a slot for every field of the struct.
            rows: (m,) int64.
            schema: The fields.
            data: Where the cells' texts are.
        """
        texts = (schema.kinds == TEXT) & (schema.slots >= 0)
        held = np.where(cells.states[schema.slots[texts]] == VALUE, cells.lengths[schema.slots[texts]], 0)
        a_row = 3 + len(self._keys) + _MOST_VALUE_BYTES * len(schema.kinds)
        packed = np.empty(5 + len(rows) * a_row + int(held.sum()), np.uint8)
        size = _pack(packed, cells, rows, schema, data, self._keys, self._key_ends)
        try:
            events: list[Any] = self._decode(memoryview(packed)[:size])
        except msgspec.DecodeError:  # a value that is none of its field's
            return None
        return events


@inlined
def _put_number(packed: Bytes, at: int, number: int, size: int) -> int:
    """A number of some bytes, big-endian; the place after it."""
    whole = np.uint64(number)
    for place in range(size):
        packed[at + place] = np.uint8((whole >> np.uint64(8 * (size - 1 - place))) & np.uint64(0xFF))
    return at + size


@compiled
def _pack(
    packed: Bytes, cells: Cells, rows: npt.NDArray[np.int64], schema: ScanSchema, data: Bytes, keys: Bytes,
    key_ends: npt.NDArray[np.int64],
) -> int:  # fmt: skip
    """Write an array of maps, and return its size."""
    packed[0] = _ARRAY32
    at = _put_number(packed, 1, len(rows), 4)
    for row in rows:
        packed[at] = _MAP16
        fields_at, fields = at + 1, 0
        at += 3
        for field in range(len(schema.kinds)):
            slot = schema.slots[field]
            if slot < 0:
                continue
            state, kind = cells.states[slot, row], schema.kinds[field]
            if state != VALUE and state != NULL:
                continue
            fields += 1
            for place in range(key_ends[field], key_ends[field + 1]):
                packed[at] = keys[place]
                at += 1
            if state == NULL:
                packed[at] = _NIL
                at += 1
            elif kind == TEXT:
                length, begin = np.int64(cells.lengths[slot, row]), cells.wholes[slot, row]
                packed[at] = _STR8 if length < 256 else _STR32
                at = _put_number(packed, at + 1, length, 1 if length < 256 else 4)
                for place in range(length):
                    packed[at + place] = data[begin + place]
                at += length
            elif kind == TRUTH:
                packed[at] = _TRUE if cells.wholes[slot, row] else _FALSE
                at += 1
            else:
                packed[at] = _FLOAT if kind == REAL else _INT
                number = np.float64(cells.reals[slot, row]).view(np.int64) if kind == REAL else cells.wholes[slot, row]
                at = _put_number(packed, at + 1, number, 8)
        _put_number(packed, fields_at, fields, 2)
    return at
