"""Avro records to cells in one compiled loop, which goes through all of each with limits: what is broken is found here.

Plain is a record that is whole and whose values are of the event's types. One that is whole and not plain is read by
fastavro, for which nothing is left then that could make it recurse or loop without an end, or count from the end: a
negative branch of a union or symbol of an enum would mean to it what a negative index means in Python.
"""

# numba says what kinds of numbers these are: to mypy, those of numpy are not Python's
# mypy: disable-error-code="no-any-return,return-value,arg-type,assignment"

import numpy as np
import numpy.typing as npt

from udfs.avro_program import (
    ARRAY,
    BOOLEAN,
    BYTES,
    DOUBLE,
    ENUM,
    FLOAT,
    INTEGER,
    LEFT_OUT,
    MAP,
    NOTHING,
    ODD,
    RECORD,
    STRING,
    UNION,
    AvroProgram,
)
from udfs.cells import REAL, TEXT, TRUTH, WHOLE, Cells, ScanSchema, is_text, put_null, put_real, put_text, put_whole
from udfs.compiled import compiled, inlined
from udfs.text_scan import Bytes

MOST_DEPTH = 64
MOST_ITEMS = 1_000_000
(
    WHOLE_RECORD, NO_NUMBER, NO_END, BAD_BRANCH, BAD_SYMBOL, BAD_TEXT, TOO_DEEP, TOO_MANY, LEFT_OVER,
) = range(9)  # fmt: skip
"""What is wrong with a record."""
_LARGEST = 2**63 - 1


@inlined
def read_zigzag(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """A whole number of 64 bits and the place after it; a negative place if there is none."""
    left, shift = np.uint64(0), np.uint64(0)
    while at < end:
        octet = np.uint64(data[at])
        at += 1
        if shift == np.uint64(63) and octet > np.uint64(1):
            return 0, -1
        left |= (octet & np.uint64(0x7F)) << shift
        if octet < np.uint64(0x80):
            return np.int64(left >> np.uint64(1)) ^ -np.int64(left & np.uint64(1)), at
        shift += np.uint64(7)
    return 0, -1


@inlined
def float_at(data: Bytes, at: int, size: int) -> float:
    """The float of 4 or 8 bytes, little-endian."""
    whole = np.uint64(0)
    for place in range(size):
        whole |= np.uint64(data[at + place]) << np.uint64(8 * place)
    # numba takes the bits only of what is made on the spot
    if size == 4:
        return np.float64(np.uint32(whole).view(np.float32))
    return np.uint64(whole).view(np.float64)


@inlined
def put_integer(schema: ScanSchema, cells: Cells, field: int, row: int, value: int, factor: int) -> bool:
    """A whole number times a factor, or divided by it if it is negative; whether it is the field's then."""
    slot = schema.slots[field]
    if schema.kinds[field] == REAL and factor == 1:
        put_real(cells, slot, row, np.float64(value))
        return True
    if schema.kinds[field] != WHOLE:
        return False
    if factor > 1:
        if value > _LARGEST // factor or value < -(_LARGEST // factor):
            return False
        value *= factor
    elif factor < 0:
        value //= -factor
    put_whole(cells, slot, row, value)
    return True


@inlined
def _scan_leaf(
    data: Bytes, at: int, end: int, program: AvroProgram, kind: int, symbols_begin: int,
    schema: ScanSchema, cells: Cells, row: int, target: int, factor: int,
) -> tuple[int, bool, int, int]:  # fmt: skip
    """Read a value that has no parts: the place after it, whether it is plain, what is wrong with it and a number."""
    form, wanted, field = program.kinds[kind], target >= 0, max(target, 0)
    kind_wanted, slot = schema.kinds[field], schema.slots[field]
    if form == NOTHING:
        if wanted:
            put_null(cells, slot, row)
        return at, not wanted or schema.nullable[field], WHOLE_RECORD, 0
    size = 1
    if form in (INTEGER, ENUM, STRING, BYTES):
        size, at = read_zigzag(data, at, end)
        if at < 0:
            return at, False, NO_NUMBER, 0
        if form == INTEGER:
            return at, not wanted or put_integer(schema, cells, field, row, size, factor), WHOLE_RECORD, 0
        if form == ENUM:
            if size < 0 or size >= program.counts[kind]:
                return at, False, BAD_SYMBOL, size
            symbol = program.firsts[kind] + size
            begin, after = program.symbol_ends[symbol], program.symbol_ends[symbol + 1]
            if wanted:
                put_text(cells, slot, row, symbols_begin + begin, symbols_begin + after)
            return at, not wanted or kind_wanted == TEXT, WHOLE_RECORD, 0
    elif form == FLOAT:
        size = 4
    elif form == DOUBLE:
        size = 8
    elif form != BOOLEAN:
        size = program.counts[kind]
    if size < 0 or size > end - at:
        return at, False, NO_END, size
    plain = not wanted
    if form == STRING:
        if not is_text(data, at, at + size):
            return at, False, BAD_TEXT, 0
        if wanted:
            put_text(cells, slot, row, at, at + size)
            plain = kind_wanted == TEXT
    elif wanted and form == BOOLEAN:
        put_whole(cells, slot, row, np.int64(data[at]))
        plain = kind_wanted == TRUTH and data[at] <= 1
    elif wanted and form in (FLOAT, DOUBLE) and kind_wanted == REAL:
        put_real(cells, slot, row, float_at(data, at, size))
        plain = True
    return at + size, plain, WHOLE_RECORD, 0


@inlined
def _scan_record(
    data: Bytes, at: int, end: int, program: AvroProgram, symbols_begin: int, schema: ScanSchema, cells: Cells,
    row: int, stack: npt.NDArray[np.int64],
) -> tuple[bool, int, int]:  # fmt: skip
    """Whether a record is plain, what is wrong with it and a number; `stack` has (type, next part or items to come)."""
    plain, items, depth, most_items = True, 0, 0, max(MOST_ITEMS, end - at)
    stack[0, 0], stack[0, 1] = 0, 0
    while depth >= 0:
        kind, place = stack[depth, 0], stack[depth, 1]
        target, factor = LEFT_OUT, 1
        if program.kinds[kind] == RECORD:
            if place == program.counts[kind]:
                depth -= 1
                continue
            stack[depth, 1] += 1
            if depth == 0:
                target, factor = program.targets[place], program.factors[place]
            part = program.parts[program.firsts[kind] + place]
        else:
            if place == 0:
                count, at = read_zigzag(data, at, end)
                if at >= 0 and count < 0:
                    count = -count
                    _, at = read_zigzag(data, at, end)
                if at < 0:
                    return False, NO_NUMBER, 0
                if count == 0:
                    depth -= 1
                    continue
                if count < 0 or count > most_items - items:
                    return False, TOO_MANY, most_items
                items += count
                stack[depth, 1] = count
                continue
            stack[depth, 1] -= 1
            part = program.parts[program.firsts[kind]]
            if program.kinds[kind] == MAP:
                size, at = read_zigzag(data, at, end)
                if at < 0:
                    return False, NO_NUMBER, 0
                if size < 0 or size > end - at:
                    return False, NO_END, size
                if not is_text(data, at, at + size):
                    return False, BAD_TEXT, 0
                at += size
        while program.kinds[part] == UNION:
            branch, at = read_zigzag(data, at, end)
            if at < 0:
                return False, NO_NUMBER, 0
            if branch < 0 or branch >= program.counts[part]:
                return False, BAD_BRANCH, branch
            part = program.parts[program.firsts[part] + branch]
        form = program.kinds[part]
        if form in (RECORD, ARRAY, MAP):
            plain = plain and target == LEFT_OUT
            depth += 1
            if depth == MOST_DEPTH:
                return False, TOO_DEEP, MOST_DEPTH
            stack[depth, 0], stack[depth, 1] = part, 0
            continue
        at, is_plain, fault, number = _scan_leaf(
            data, at, end, program, part, symbols_begin, schema, cells, row, target, factor
        )
        if fault != WHOLE_RECORD:
            return False, fault, number
        plain = plain and is_plain and target != ODD
    if at != end:
        return False, LEFT_OVER, end - at
    return plain, WHOLE_RECORD, 0


@compiled
def scan_avro(
    data: Bytes, rows: npt.NDArray[np.int64], begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64],
    program: AvroProgram, symbols_begin: int, schema: ScanSchema, cells: Cells, stack: npt.NDArray[np.int64],
) -> tuple[int, int]:  # fmt: skip
    """Read records of one schema.

    Args:
        data: Where they and the program's symbols are.
        rows: (m,) int64: which of the cells' n records.
        begins: (n,) int64: where their bodies begin.
        ends: (n,) int64.
        program: Of the schema; fields of the event that it does not target must be nullable.
        symbols_begin: Where the symbols begin.
        schema: The fields.
        cells: Filled; `states` must be 0.
        stack: (MOST_DEPTH, 2) int64, for the loop's own use.

    Returns:
        What is wrong with the last of them that is broken, WHOLE_RECORD if none is; and a number that belongs to it.
    """
    wrong, of = WHOLE_RECORD, 0
    for row in rows:
        plain, fault, number = _scan_record(
            data, begins[row], ends[row], program, symbols_begin, schema, cells, row, stack
        )
        if plain:
            cells.plain[row] = 1
        if fault != WHOLE_RECORD:
            wrong, of = fault, number
    return wrong, of
