"""CSV to cells in compiled loops: where records end, then their cells.

The rules are those of Python's csv module with its defaults, as `produce` reads such files. A cell with a doubled
quote, or anything else that is rare, makes its record one for the slow way.
"""

import numpy as np
import numpy.typing as npt

from udfs.cells import (
    TEXT,
    TRUTH,
    Cells,
    ScanSchema,
    is_text,
    put_null,
    put_number,
    put_text,
    put_time,
    put_whole,
)
from udfs.compiled import compiled, inlined
from udfs.text_scan import MINUS, QUOTE, Bytes, is_digit

_COMMA, _NEWLINE, _RETURN = 44, 10, 13
START_RECORD, _START_CELL, _IN_CELL, _IN_QUOTES, _AFTER_QUOTE = range(5)
_WORDS = tuple(np.frombuffer(word, np.uint8).copy() for word in (b"false", b"no", b"0", b"true", b"yes", b"1"))


@compiled
def csv_record_ends(data: Bytes, state: int, ends: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Where records end: after their line feed.

    Args:
        data: A stretch of a file.
        state: START_RECORD at the beginning of the file, then what the stretch before gave.
        ends: (at least as many as line feeds,) int64: filled.

    Returns:
        How many ends were found, and the state after the last byte.
    """
    count = 0
    for at in range(len(data)):
        byte = data[at]
        if state == _IN_QUOTES:
            if byte == QUOTE:
                state = _AFTER_QUOTE
        elif byte == _NEWLINE:
            ends[count] = at + 1
            count += 1
            state = START_RECORD
        elif byte == _COMMA:
            state = _START_CELL
        elif byte == QUOTE and state != _IN_CELL:
            state = _IN_QUOTES
        else:
            state = _IN_CELL
    return count, state


@inlined
def _is_word(data: Bytes, at: int, end: int, word: Bytes) -> bool:
    if end - at != len(word):
        return False
    for place in range(len(word)):  # noqa: SIM110  # numba takes no generators
        if data[at + place] | 32 != word[place]:
            return False
    return True


@inlined
def _put_truth(cells: Cells, slot: int, row: int, data: Bytes, at: int, end: int) -> bool:
    if _is_word(data, at, end, _WORDS[0]) or _is_word(data, at, end, _WORDS[1]) or _is_word(data, at, end, _WORDS[2]):
        put_whole(cells, slot, row, 0)
        return True
    if _is_word(data, at, end, _WORDS[3]) or _is_word(data, at, end, _WORDS[4]) or _is_word(data, at, end, _WORDS[5]):
        put_whole(cells, slot, row, 1)
        return True
    return False


@inlined
def _put_cell(schema: ScanSchema, cells: Cells, field: int, row: int, data: Bytes, at: int, end: int) -> bool:
    """Read a cell; False if it is not plain."""
    kind, slot = schema.kinds[field], schema.slots[field]
    if at == end:
        put_null(cells, slot, row)
        return bool(schema.nullable[field])
    if kind == TEXT:
        put_text(cells, slot, row, at, end)
        return is_text(data, at, end)
    if kind == TRUTH:
        return _put_truth(cells, slot, row, data, at, end)
    if data[at] == MINUS or is_digit(data, at, end):
        if put_number(schema, cells, field, row, data, at, end) == end:
            return True
        return bool(schema.is_time[field]) and put_time(schema, cells, field, row, data, at, end) >= 0
    return False


@inlined
def _scan_record(
    schema: ScanSchema, cells: Cells, row: int, data: Bytes, at: int, end: int, fields: npt.NDArray[np.int64]
) -> bool:
    for column in range(len(fields)):
        begin = at
        if at < end and data[at] == QUOTE:
            begin = at + 1
            at = begin
            while at < end and data[at] != QUOTE:
                at += 1
            if at >= end:
                return False
            close = at
            at += 1
            if at < end and data[at] != _COMMA:  # a doubled quote, or text after the closing one
                return False
        else:
            while at < end and data[at] != _COMMA and data[at] != _RETURN:
                at += 1
            close = at
            if at < end and data[at] == _RETURN:
                return False
        field = fields[column]
        if field >= 0 and not _put_cell(schema, cells, field, row, data, begin, close):
            return False
        if column == len(fields) - 1:
            return at == end
        if at >= end:
            return False
        at += 1
    return False


@compiled
def scan_csv(
    data: Bytes, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], fields: npt.NDArray[np.int64],
    schema: ScanSchema, cells: Cells,
) -> None:  # fmt: skip
    """Read n records of CSV.

    Args:
        data: Where they are.
        begins: (n,) int64.
        ends: (n,) int64, without the line's end.
        fields: (columns,) int64: the event's field in each column, -1 for columns the event does not have.
        schema: The event's fields; those without a column must be optional.
        cells: Filled; `states` must be 0.
    """
    for row in range(len(begins)):
        if _scan_record(schema, cells, row, data, begins[row], ends[row], fields):
            cells.plain[row] = 1
