"""Rows to Avro or Protobuf records in one compiled loop, which gets them as MessagePack and knows the common values.

https://github.com/msgpack/msgpack/blob/master/spec.md
https://avro.apache.org/docs/1.12.0/specification/#binary-encoding
https://protobuf.dev/programming-guides/encoding/
"""

# numba says what kinds of numbers these are: to mypy, those of numpy are not Python's
# mypy: disable-error-code="no-any-return,return-value,arg-type,assignment"

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from udfs.byte_lines import Lines
from udfs.compiled import compiled, inlined
from udfs.row_program import (
    CONSTANT,
    MESSAGE,
    MESSAGE_END,
    REAL,
    REAL_32,
    SIGNED,
    SYMBOL,
    TEXT,
    TRUTH,
    RowPlan,
    RowProgram,
)
from udfs.text_scan import Bytes, same_bytes

_NULL, _TRUTH, _WHOLE, _REAL, _TEXT, _OTHER = range(6)
_NIL, _FALSE, _TRUE, _FLOAT64, _UINT8, _UINT64, _INT8, _INT64, _STR8, _STR32 = (
    0xC0, 0xC2, 0xC3, 0xCB, 0xCC, 0xCF, 0xD0, 0xD3, 0xD9, 0xDB,
)  # fmt: skip
_LARGEST = np.uint64(2**63 - 1)
_NEWLINE = 10
_NO_FEATURES = np.empty((0, 0))


class RowEncoder:
    """Writes rows of one schema."""

    def __init__(self, plan: RowPlan) -> None:
        self._program, self.fields = plan.program, plan.fields
        self._pack = msgspec.msgpack.Encoder().encode

    def encode(self, rows: Sequence[tuple[Any, ...]], features: npt.NDArray[np.float64] | None) -> Lines | None:
        """The records of n rows; None if one of them has a value that only the library knows how to write, or not to.

        Args:
            rows: The fields in the order of the plan.
            features: (n, F), null where they are no finite numbers.
        """
        try:
            packed = np.frombuffer(self._pack(rows), np.uint8)
        except (OverflowError, TypeError, ValueError):  # a whole number of more than 64 bits, text that is no Unicode
            return None
        content = np.empty(len(packed) + len(rows) * (self._program.row_bytes + 1), np.uint8)
        lengths = np.empty(len(rows), np.int32)
        matrix = _NO_FEATURES if features is None else np.ascontiguousarray(features)
        size = _encode(packed, len(rows), len(self.fields), matrix, self._program, content, lengths)
        return None if size < 0 else Lines(lengths, content[:size].tobytes())


@inlined
def _after_array_head(at: int, count: int) -> int:
    return at + (1 if count < 16 else 3 if count < 65_536 else 5)


@inlined
def _big_endian(data: Bytes, at: int, size: int) -> int:
    """The bits (uint64) of 1 to 8 bytes."""
    bits = np.uint64(0)
    for place in range(size):
        bits = bits << np.uint64(8) | np.uint64(data[at + place])
    return bits


@inlined
def _read_value(packed: Bytes, at: int) -> tuple[int, int, float, int]:
    """A value's kind, its number or the length of its text, its float, and the place after it, a text's before it."""
    head = packed[at]
    at += 1
    if head < 0x80 or head >= 0xE0:
        return _WHOLE, np.int64(np.int8(head)), 0.0, at
    if 0xA0 <= head < 0xC0:
        return _TEXT, np.int64(head & 0x1F), 0.0, at
    if head == _NIL:
        return _NULL, 0, 0.0, at
    if head in (_FALSE, _TRUE):
        return _TRUTH, np.int64(head == _TRUE), 0.0, at
    if head == _FLOAT64:
        # numba takes the bits only of what is made on the spot
        return _REAL, 0, np.uint64(_big_endian(packed, at, 8)).view(np.float64), at + 8
    if _STR8 <= head <= _STR32:
        size = 1 << (head - _STR8)
        return _TEXT, np.int64(_big_endian(packed, at, size)), 0.0, at + size
    if _UINT8 <= head <= _UINT64:
        size = 1 << (head - _UINT8)
        bits = _big_endian(packed, at, size)
        return _WHOLE if bits <= _LARGEST else _OTHER, np.int64(bits), 0.0, at + size
    if _INT8 <= head <= _INT64:
        size = 1 << (head - _INT8)
        unused = np.int64(64 - 8 * size)
        return _WHOLE, np.int64(_big_endian(packed, at, size)) << unused >> unused, 0.0, at + size
    return _OTHER, 0, 0.0, at


@inlined
def _put_varint(content: Bytes, at: int, bits: int) -> int:
    """The place after a number (uint64) in as few bytes as it takes."""
    while bits > np.uint64(0x7F):
        content[at] = np.uint8(bits & np.uint64(0x7F) | np.uint64(0x80))
        bits >>= np.uint64(7)
        at += 1
    content[at] = np.uint8(bits)
    return at + 1


@inlined
def _put_constant(content: Bytes, at: int, program: RowProgram, number: int) -> int:
    for place in range(program.constant_ends[number], program.constant_ends[number + 1]):
        content[at] = program.constants[place]
        at += 1
    return at


@inlined
def _symbol(program: RowProgram, step: int, packed: Bytes, at: int, length: int) -> int:
    """The number of an enum's symbol; -1 if it has none like this text."""
    for number in range(program.counts[step]):
        symbol = program.firsts[step] + number
        begin = program.symbol_ends[symbol]
        if program.symbol_ends[symbol + 1] - begin == length and same_bytes(
            program.symbols, begin, packed, at, length
        ):
            return number
    return -1


@inlined
def _end_message(content: Bytes, begin: int, at: int, kept: int) -> int:
    """The place after a message, behind whose tag room was kept for its length."""
    inside = begin + kept
    length = at - inside
    after = _put_varint(content, begin, np.uint64(length))
    if after < inside:
        for place in range(length):
            content[after + place] = content[inside + place]
    return after + length


@inlined
def _bits_of(form: int, kind: int, whole: int, real: float, least: int, most: int) -> tuple[int, bool]:
    """What is written of a number or truth (uint64), and whether that is certain."""
    if form == TRUTH:
        return np.uint64(whole), kind == _TRUTH
    if form in (REAL, REAL_32):
        if kind == _WHOLE:
            real = np.float64(whole)
        elif kind != _REAL:
            return np.uint64(0), False
        if form == REAL:
            return np.uint64(np.float64(real).view(np.uint64)), True
        bits = np.uint64(np.float32(real).view(np.uint32))
        return bits, np.isinf(real) or not np.isinf(np.float32(real))
    if kind != _WHOLE or whole < least or whole > most:
        return np.uint64(0), False
    return np.uint64((whole << 1) ^ (whole >> 63) if form == SIGNED else whole), True


@inlined
def _encode_row(
    packed: Bytes, at: int, row: int, features: npt.NDArray[np.float64], program: RowProgram, content: Bytes, to: int
) -> tuple[int, int]:
    """The places after a row and after its record; a negative one if the row is not plain."""
    opened, kept = 0, 0
    for step in range(len(program.forms)):
        form, feature = program.forms[step], program.features[step]
        if form >= CONSTANT:
            to = _put_constant(content, to, program, 2 * step)
            if form == MESSAGE:
                opened, kept = to, program.counts[step]
                to += kept
            elif form == MESSAGE_END:
                to = _end_message(content, opened, to, kept)
            continue
        kind, whole, real = _REAL, 0, 0.0
        if feature >= 0:
            real = features[row, feature]
            if not np.isfinite(real):
                kind = _NULL
        else:
            kind, whole, real, at = _read_value(packed, at)
        if kind == _NULL:
            if not program.nullable[step]:
                return at, -1
            to = _put_constant(content, to, program, 2 * step + 1)
            continue
        if form in (TEXT, SYMBOL):
            if kind != _TEXT:
                return at, -1
            number = whole if form == TEXT else _symbol(program, step, packed, at, whole)
            if number < 0:
                return at, -1
            if number > 0 or not program.leaves_zeros_out[step]:
                to = _put_constant(content, to, program, 2 * step)
                to = _put_varint(content, to, np.uint64(number) << np.uint64(program.length_shift))
            if form == TEXT:
                for place in range(whole):
                    content[to + place] = packed[at + place]
                to += whole
            at += whole
            continue
        bits, is_certain = _bits_of(form, kind, whole, real, program.least[step], program.most[step])
        if not is_certain:
            return at, -1
        if bits == np.uint64(0) and program.leaves_zeros_out[step]:
            continue
        to = _put_constant(content, to, program, 2 * step)
        if form in (REAL, REAL_32):
            for _ in range(8 if form == REAL else 4):
                content[to] = np.uint8(bits & np.uint64(0xFF))
                bits >>= np.uint64(8)
                to += 1
        else:
            to = _put_varint(content, to, bits)
    return at, to


@compiled
def _encode(
    packed: Bytes, rows: int, fields: int, features: npt.NDArray[np.float64], program: RowProgram, content: Bytes,
    lengths: npt.NDArray[np.int32],
) -> int:  # fmt: skip
    """Write the records of an array of arrays, a newline behind each: their size, or -1 if one is not plain."""
    at, to = _after_array_head(0, rows), 0
    for row in range(rows):
        begin = to
        at, to = _encode_row(packed, _after_array_head(at, fields), row, features, program, content, to)
        if to < 0:
            return to
        lengths[row] = to - begin
        content[to] = _NEWLINE
        to += 1
    return to
