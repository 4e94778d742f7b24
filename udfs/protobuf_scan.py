"""Protobuf messages to cells in one compiled loop; what is rare or broken is left to the library, whose verdict counts.

https://protobuf.dev/programming-guides/encoding/
"""

# numba says what kinds of numbers these are: to mypy, those of numpy are not Python's
# mypy: disable-error-code="no-any-return,return-value,arg-type,assignment"

import numpy as np
import numpy.typing as npt

from udfs.avro_scan import float_at, put_integer
from udfs.cells import REAL, WHOLE, Cells, ScanSchema, is_text, put_real, put_text, put_whole
from udfs.cells import TEXT as TEXT_KIND
from udfs.cells import TRUTH as TRUTH_KIND
from udfs.compiled import compiled, inlined
from udfs.protobuf_program import (
    BITS_32,
    BITS_64,
    ENUM,
    FIXED,
    FLOATING,
    LENGTH,
    MESSAGE,
    NANOS,
    SECONDS,
    SIGNED_32,
    SIGNED_FIXED,
    TEXT,
    TIMESTAMP,
    TRUTH,
    UNSIGNED,
    UNSIGNED_32,
    VARINT,
    WRAPPER,
    ZIGZAG,
    ZIGZAG_32,
    ProtobufProgram,
)
from udfs.text_scan import ABSENT, Bytes

MOST_DEPTH = 64
_LARGEST = np.uint64(2**63 - 1)
_LOW = np.uint64(2**32 - 1)
_LARGEST_TAG = 2**32
_NANOS_PER_S = 1_000_000_000
_MOST_SECONDS = 9_000_000_000


@inlined
def _read_varint(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """The 64 bits of a number (uint64) and the place after it; a negative place if it is not plain."""
    bits, shift = np.uint64(0), np.uint64(0)
    while at < end:
        octet = np.uint64(data[at])
        at += 1
        if shift == np.uint64(63) and octet > np.uint64(1):
            return bits, -1
        bits |= (octet & np.uint64(0x7F)) << shift
        if octet < np.uint64(0x80):
            return bits, at
        shift += np.uint64(7)
    return bits, -1


@inlined
def _put_symbol(
    program: ProtobufProgram, place: int, number: int, symbols_begin: int, schema: ScanSchema, cells: Cells,
    field: int, row: int,
) -> bool:  # fmt: skip
    for symbol in range(program.inner[place], program.inner_ends[place]):
        if program.symbol_numbers[symbol] == number:
            begin, after = program.symbol_ends[symbol], program.symbol_ends[symbol + 1]
            put_text(cells, schema.slots[field], row, symbols_begin + begin, symbols_begin + after)
            return schema.kinds[field] == TEXT_KIND
    return False


@inlined
def _put_default(
    program: ProtobufProgram, place: int, symbols_begin: int, schema: ScanSchema, cells: Cells, field: int, row: int
) -> bool:
    """What a field without presence has that is not in the bytes; whether that is plain."""
    form, slot, kind = program.forms[place], schema.slots[field], schema.kinds[field]
    if form == ENUM:
        return _put_symbol(program, place, 0, symbols_begin, schema, cells, field, row)
    if form == TEXT:
        put_text(cells, slot, row, 0, 0)
        return kind == TEXT_KIND
    if form == TRUTH:
        put_whole(cells, slot, row, 0)
        return kind == TRUTH_KIND
    if form == FLOATING:
        put_real(cells, slot, row, 0.0)
        return kind == REAL
    return form < TEXT and put_integer(schema, cells, field, row, 0, 1)


@inlined
def _integer(form: int, bits: int) -> tuple[int, bool]:
    """The number that 64 bits mean, and whether it is within int64."""
    low = bits & _LOW
    if form == SIGNED_32:
        return np.int64(np.int32(low)), True
    if form == UNSIGNED_32:
        return np.int64(low), True
    if form == ZIGZAG:
        return np.int64(bits >> np.uint64(1)) ^ -np.int64(bits & np.uint64(1)), True
    if form == ZIGZAG_32:
        return np.int64(low >> np.uint64(1)) ^ -np.int64(low & np.uint64(1)), True
    return np.int64(bits), (form != UNSIGNED and form != FIXED) or bits <= _LARGEST


@inlined
def _after_packed(data: Bytes, at: int, end: int, wire: int) -> bool:
    """Whether the bytes are numbers of a wire type."""
    if wire in (BITS_32, BITS_64):
        return (end - at) % (4 if wire == BITS_32 else 8) == 0
    while at < end:
        _, at = _read_varint(data, at, end)
        if at < 0:
            return False
    return wire == VARINT


@inlined
def _field_of(program: ProtobufProgram, message: int, guess: int, number: int) -> int:
    """The place of a message's field, -1 if it has none; `guess` is tried first."""
    first, end = program.firsts[message], program.firsts[message + 1]
    if first <= guess < end and program.numbers[guess] == number:
        return guess
    for place in range(first, end):
        if program.numbers[place] == number:
            return place
    return -1


@inlined
def _put_time(schema: ScanSchema, cells: Cells, row: int, seconds: int, nanos: int) -> bool:
    if seconds > _MOST_SECONDS or seconds < -_MOST_SECONDS:
        return False
    for field in range(len(schema.kinds)):
        if schema.is_time[field]:
            time = (seconds * _NANOS_PER_S + nanos) // (_NANOS_PER_S // schema.units_per_s)
            put_whole(cells, schema.slots[field], row, time)
            return schema.kinds[field] == WHOLE
    return False


@inlined
def _scan_message(
    data: Bytes, at: int, end: int, program: ProtobufProgram, symbols_begin: int, schema: ScanSchema, cells: Cells,
    row: int, stack: npt.NDArray[np.int64],
) -> bool:  # fmt: skip
    """Whether a message is plain; `stack` has (message, where it ends)."""
    for place in range(program.firsts[1]):
        field = program.targets[place]
        is_default = field >= 0 and program.defaults[place]
        if is_default and not _put_default(program, place, symbols_begin, schema, cells, field, row):
            return False
    depth, guess, has_time, seconds, nanos = 0, 0, False, 0, 0
    stack[0, 0], stack[0, 1] = 0, end
    while depth >= 0:
        message, limit = stack[depth, 0], stack[depth, 1]
        if at == limit:
            depth -= 1
            continue
        bits, at = _read_varint(data, at, limit)
        tag = np.int64(bits)
        if at < 0 or tag < 8 or tag >= _LARGEST_TAG:
            return False
        wire, place = tag & 7, _field_of(program, message, guess, tag >> 3)
        guess = place + 1
        bits, size = np.uint64(0), 4 if wire == BITS_32 else 8 if wire == BITS_64 else 0
        if wire in (VARINT, LENGTH):
            bits, at = _read_varint(data, at, limit)
            if wire == LENGTH:
                size = np.int64(bits)
        elif size == 0:
            return False
        if at < 0 or size < 0 or size > limit - at:
            return False
        begin, at = at, at + size
        if place < 0:
            continue
        form, field, slot = program.forms[place], program.targets[place], -1
        if program.odd[place]:
            return False
        if wire != program.wires[place]:
            if wire != LENGTH or not _after_packed(data, begin, at, program.wires[place]):
                return False
            continue
        if field >= 0:
            slot = schema.slots[field]
        if form == TEXT:
            if not is_text(data, begin, at):
                return False
            if field >= 0:
                put_text(cells, slot, row, begin, at)
                if schema.kinds[field] != TEXT_KIND:
                    return False
        elif form in (MESSAGE, WRAPPER, TIMESTAMP):
            inner = program.inner[place]
            if form == WRAPPER and (slot < 0 or cells.states[slot, row] == ABSENT):
                value = program.firsts[inner]
                if not _put_default(program, value, symbols_begin, schema, cells, field, row):
                    return False
            has_time = has_time or form == TIMESTAMP
            depth += 1
            if depth == MOST_DEPTH:
                return False
            stack[depth, 0], stack[depth, 1] = inner, at
            at = begin
        elif field != -1:
            if form == FLOATING:
                put_real(cells, slot, row, float_at(data, begin, size))
                if schema.kinds[field] != REAL:
                    return False
                continue
            if form == TRUTH:
                put_whole(cells, slot, row, np.int64(bits != np.uint64(0)))
                if schema.kinds[field] != TRUTH_KIND:
                    return False
                continue
            if form in (FIXED, SIGNED_FIXED):
                for octet in range(size):
                    bits |= np.uint64(data[begin + octet]) << np.uint64(8 * octet)
            number, fits = _integer(SIGNED_32 if form == ENUM or (form == SIGNED_FIXED and size == 4) else form, bits)
            if field == SECONDS:
                seconds = number
            elif field == NANOS:
                nanos = number
            elif form == ENUM:
                if not _put_symbol(program, place, number, symbols_begin, schema, cells, field, row):
                    return False
            elif not fits or form > SIGNED_FIXED or not put_integer(schema, cells, field, row, number, 1):
                return False
    return not has_time or _put_time(schema, cells, row, seconds, nanos)


@compiled
def scan_protobuf(
    data: Bytes, rows: npt.NDArray[np.int64], begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64],
    program: ProtobufProgram, symbols_begin: int, schema: ScanSchema, cells: Cells, stack: npt.NDArray[np.int64],
) -> None:  # fmt: skip
    """Read messages of one type.

    Args:
        data: Where they and the program's symbols are.
        rows: (m,) int64: which of the cells' n records.
        begins: (n,) int64: where their bodies begin.
        ends: (n,) int64.
        program: Of the type; fields of the event that it does not target must be nullable.
        symbols_begin: Where the symbols begin.
        schema: The fields.
        cells: Filled; `states` must be 0.
        stack: (MOST_DEPTH, 2) int64, for the loop's own use.
    """
    for row in rows:
        if _scan_message(data, begins[row], ends[row], program, symbols_begin, schema, cells, row, stack):
            cells.plain[row] = 1
