"""Flat JSON objects to cells in one compiled loop, without a Python object an event.

Plain is: every wanted field once and of its type, texts without escapes, numbers that are read exactly, nothing nested.
Whatever else a record holds, it is left to `EventDecoder`; what is plain means the same to both.
"""

import numpy as np
import numpy.typing as npt

from udfs.cells import TEXT, TRUTH, Cells, ScanSchema, put_null, put_number, put_text, put_time, put_whole
from udfs.compiled import compiled, inlined
from udfs.text_scan import COLON, MINUS, QUOTE, Bytes, after_space, closing_quote, is_digit, same_bytes, scan_number

_COMMA, _OPEN, _CLOSE = 44, 123, 125
_TRUE = np.frombuffer(b"true", np.uint8).copy()
_FALSE = np.frombuffer(b"false", np.uint8).copy()
_NULL = np.frombuffer(b"null", np.uint8).copy()


@inlined
def _is_word(data: Bytes, at: int, end: int, word: Bytes) -> bool:
    return at + len(word) <= end and same_bytes(data, at, word, 0, len(word))


@inlined
def _is_name(schema: ScanSchema, field: int, data: Bytes, at: int, end: int) -> bool:
    begin = schema.name_ends[field - 1] if field > 0 else 0
    return schema.name_ends[field] - begin == end - at and same_bytes(data, at, schema.names, begin, end - at)


@inlined
def _field_of(schema: ScanSchema, guess: int, data: Bytes, at: int, end: int) -> int:
    """The field of that name, -1 if there is none; `guess` is tried first, records being alike."""
    if guess < len(schema.kinds) and _is_name(schema, guess, data, at, end):
        return guess
    for field in range(len(schema.kinds)):
        if field != guess and _is_name(schema, field, data, at, end):
            return field
    return -1


@inlined
def _unknown_value(data: Bytes, at: int, end: int) -> int:
    """The place after a value of a field the event does not have; negative if it is not plain."""
    if data[at] == QUOTE:
        close = closing_quote(data, at + 1, end)
        return close + 1 if close >= 0 else -1
    if data[at] == MINUS or is_digit(data, at, end):
        after, _, tens, _, complete = scan_number(data, at, end)
        return after if complete and abs(tens) < 250 else -1
    if _is_word(data, at, end, _TRUE) or _is_word(data, at, end, _NULL):
        return at + 4
    return at + 5 if _is_word(data, at, end, _FALSE) else -1


@inlined
def _value(schema: ScanSchema, cells: Cells, field: int, row: int, data: Bytes, at: int, end: int) -> int:
    """Read the value of a field; the place after it, negative if it is not plain."""
    kind, slot = schema.kinds[field], schema.slots[field]
    if data[at] == QUOTE:
        close = closing_quote(data, at + 1, end)
        if close < 0 or (schema.from_file and close == at + 1):
            return -1
        if kind == TEXT:
            put_text(cells, slot, row, at + 1, close)
            return close + 1
        if schema.from_file and schema.is_time[field] and put_time(schema, cells, field, row, data, at + 1, close) > 0:
            return close + 1
        return -1
    if data[at] == MINUS or is_digit(data, at, end):
        return put_number(schema, cells, field, row, data, at, end)
    if _is_word(data, at, end, _NULL):
        if not schema.nullable[field]:
            return -1
        put_null(cells, slot, row)
        return at + 4
    if kind == TRUTH and _is_word(data, at, end, _TRUE):
        put_whole(cells, slot, row, 1)
        return at + 4
    if kind == TRUTH and _is_word(data, at, end, _FALSE):
        put_whole(cells, slot, row, 0)
        return at + 5
    return -1


@inlined
def _scan_record(
    schema: ScanSchema, cells: Cells, row: int, data: Bytes, at: int, end: int, seen: npt.NDArray[np.int64]
) -> bool:
    at = after_space(data, at, end)
    if at >= end or data[at] != _OPEN:
        return False
    at = after_space(data, at + 1, end)
    found, guess = 0, 0
    while at < end and data[at] == QUOTE:
        close = closing_quote(data, at + 1, end)
        if close < 0:
            return False
        field = _field_of(schema, guess, data, at + 1, close)
        at = after_space(data, close + 1, end)
        if at >= end or data[at] != COLON:
            return False
        at = after_space(data, at + 1, end)
        if at >= end:
            return False
        if field < 0:
            at = _unknown_value(data, at, end)
        else:
            if seen[field] == row + 1:  # twice: the last one counts
                return False
            seen[field] = row + 1
            found += 1
            guess = field + 1
            at = _value(schema, cells, field, row, data, at, end)
        if at < 0:
            return False
        at = after_space(data, at, end)
        if at >= end:
            return False
        if data[at] == _CLOSE:
            break
        if data[at] != _COMMA:
            return False
        at = after_space(data, at + 1, end)
        if at >= end or data[at] != QUOTE:
            return False
    if at >= end or data[at] != _CLOSE or after_space(data, at + 1, end) != end:
        return False
    if found < len(schema.kinds):
        for field in range(len(schema.kinds)):
            if seen[field] != row + 1 and not schema.optional[field]:
                return False
    return True


@compiled
def line_ends(data: Bytes, ends: npt.NDArray[np.int64]) -> int:
    """Fill in where lines end, after their line feed; how many there are."""
    count = 0
    for at in range(len(data)):
        if data[at] == 10:
            ends[count] = at + 1
            count += 1
    return count


@compiled
def scan_json(
    data: Bytes, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], schema: ScanSchema, cells: Cells,
    seen: npt.NDArray[np.int64],
) -> None:  # fmt: skip
    """Read n records of JSON.

    Args:
        data: Where they are.
        begins: (n,) int64.
        ends: (n,) int64.
        schema: The fields.
        cells: Filled; `states` must be 0.
        seen: (fields,) int64 of 0, for the loop's own use.
    """
    for row in range(len(begins)):
        if _scan_record(schema, cells, row, data, begins[row], ends[row], seen):
            cells.plain[row] = 1


@inlined
def _same_number(value: int, b: Bytes, begin: int, end: int) -> bool:
    """Whether the bytes are the number as Python writes it."""
    if begin < end and b[begin] == MINUS:
        if value >= 0:
            return False
        begin += 1
    elif value < 0:
        return False
    value = abs(value)
    while end > begin:
        end -= 1
        if b[end] != 48 + value % 10:
            return False
        value //= 10
        if value == 0:
            return end == begin
    return False


@compiled
def check_keys(
    data: Bytes, keys: Bytes, key_begins: npt.NDArray[np.int64], key_ends: npt.NDArray[np.int64], slot: int,
    whole: bool, cells: Cells,
) -> None:  # fmt: skip
    """Leave records whose Kafka key is not their entity to the stream's decoder.

    Args:
        data: Where the records are.
        keys: Where the keys are.
        key_begins: (n,) int64.
        key_ends: (n,) int64; no key is one of no length, so those that are of none are left, too.
        slot: Of the entity.
        whole: Whether the entity is a whole number.
        cells: `plain` is changed.
    """
    for row in range(len(key_begins)):
        if cells.plain[row] == 0:
            continue
        begin, end = key_begins[row], key_ends[row]
        if whole:
            same = _same_number(cells.wholes[slot, row], keys, begin, end)
        else:
            length = cells.lengths[slot, row]
            same = end - begin == length > 0 and same_bytes(data, cells.wholes[slot, row], keys, begin, length)
        if not same:
            cells.plain[row] = 0
