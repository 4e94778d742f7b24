"""Cells of many records, field by field: what the scanners fill and `field_columns` reads."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from udfs.compiled import inlined
from udfs.events import UNITS_PER_S, Events
from udfs.text_scan import (
    LONG_NUMBER,
    NULL,
    VALUE,
    Bytes,
    after_utf8,
    is_exact,
    iso_time_us,
    scaled,
    scan_number,
)

TEXT, WHOLE, REAL, TRUTH = range(4)
_KINDS = {"str": TEXT, "int": WHOLE, "float": REAL, "bool": TRUTH, "vector": TEXT}
"""Records with vectors are read by the stream's decoder, whatever a scanner makes of them."""
_LAST_US_IN_NS = 2**63 // 1_000 - 1


class ScanSchema(NamedTuple):
    """The event's fields as the scanners read them; one array element a field.

    Attributes:
        names: uint8: all names, one after the other.
        name_ends: (fields,) int64: where each name ends.
        kinds: (fields,) int64: TEXT, WHOLE, REAL or TRUTH.
        nullable: (fields,) bool.
        optional: (fields,) bool: whether records may be without it.
        slots: (fields,) int64: the field's row in `Cells`; -1 for fields that are only checked.
        is_time: (fields,) bool.
        units_per_s: Units of the event time in a second.
        from_file: Whether cells are converted as a file's are: texts may be ISO times, and those of no length are null.
    """

    names: Bytes
    name_ends: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.int64]
    nullable: npt.NDArray[np.bool_]
    optional: npt.NDArray[np.bool_]
    slots: npt.NDArray[np.int64]
    is_time: npt.NDArray[np.bool_]
    units_per_s: int
    from_file: bool


class Cells(NamedTuple):
    """Cells of n records; (slots, n) each but the last.

    Attributes:
        states: uint8: ABSENT, NULL, VALUE, or LONG_NUMBER (its place and length are here instead of its value).
        wholes: int64: a whole number, a truth as 0 or 1, or the place at which a text begins.
        lengths: int32: bytes of a text.
        reals: float64: a number of a float field.
        plain: (n,) uint8: 1 for records that were read; the others are for the stream's decoder.
    """

    states: npt.NDArray[np.uint8]
    wholes: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]
    reals: npt.NDArray[np.float64]
    plain: npt.NDArray[np.uint8]


def scan_schema(events: Events, wanted: Collection[str], *, from_file: bool) -> ScanSchema:
    """The schema of a pipeline's events.

    Args:
        events: The fields.
        wanted: Those whose values are needed.
        from_file: Whether cells are converted as a file's are: ISO times, and a text of no length is null.
    """
    fields = events.schema
    names = [one.name.encode() for one in fields]
    stored = [one.name for one in fields if one.name in wanted]
    slots = [stored.index(one.name) if one.name in wanted else -1 for one in fields]
    return ScanSchema(
        np.frombuffer(b"".join(names), np.uint8).copy(),
        np.cumsum([len(name) for name in names]).astype(np.int64),
        np.array([_KINDS[one.kind] for one in fields], np.int64),
        np.array([one.nullable for one in fields], np.bool_),
        np.array([one.optional for one in fields], np.bool_),
        np.array(slots, np.int64),
        np.array([one.name == events.time for one in fields], np.bool_),
        UNITS_PER_S[events.time_unit],
        from_file,
    )


def with_required(schema: ScanSchema) -> ScanSchema:
    """With a slot for every field that no record may lack, behind the others, to see whether it is there."""
    slots = schema.slots.copy()
    checked = (slots < 0) & ~schema.optional
    slots[checked] = slots.max(initial=-1) + 1 + np.arange(checked.sum())
    return schema._replace(slots=slots)


def new_cells(schema: ScanSchema, records: int) -> Cells:
    """Room for the cells of so many records."""
    slots = int((schema.slots >= 0).sum())
    return Cells(
        np.zeros((slots, records), np.uint8),
        np.empty((slots, records), np.int64),
        np.empty((slots, records), np.int32),
        np.empty((slots, records)),
        np.zeros(records, np.uint8),
    )


@inlined
def put_text(cells: Cells, slot: int, row: int, begin: int, end: int) -> None:
    """A text, by its place."""
    if slot >= 0:
        cells.states[slot, row] = VALUE
        cells.wholes[slot, row] = begin
        cells.lengths[slot, row] = end - begin


@inlined
def put_whole(cells: Cells, slot: int, row: int, value: int) -> None:
    """A whole number or a truth."""
    if slot >= 0:
        cells.states[slot, row] = VALUE
        cells.wholes[slot, row] = value


@inlined
def put_real(cells: Cells, slot: int, row: int, value: float) -> None:
    """A number of a float field."""
    if slot >= 0:
        cells.states[slot, row] = VALUE
        cells.reals[slot, row] = value


@inlined
def put_null(cells: Cells, slot: int, row: int) -> None:
    """Nothing."""
    if slot >= 0:
        cells.states[slot, row] = NULL
        cells.lengths[slot, row] = 0


@inlined
def put_number(schema: ScanSchema, cells: Cells, field: int, row: int, data: Bytes, at: int, end: int) -> int:
    """The number that begins here, for an int or float field; the place after it, negative if it is not plain."""
    slot = schema.slots[field]
    after, mantissa, tens, whole, complete = scan_number(data, at, end)
    if after < 0:
        return after
    if schema.kinds[field] == WHOLE:
        if not whole or not complete:
            return -1
        put_whole(cells, slot, row, mantissa)
        return after
    if schema.kinds[field] != REAL:
        return -1
    if complete and is_exact(mantissa, tens):
        put_real(cells, slot, row, scaled(mantissa, tens))
        return after
    # a float that is no number of the usual size, or a whole one with many digits, is read elsewhere
    if whole or tens < -300 or tens > 250:
        return -1
    if slot >= 0:
        cells.states[slot, row] = LONG_NUMBER
        cells.wholes[slot, row] = at
        cells.lengths[slot, row] = after - at
    return after


@inlined
def put_time(schema: ScanSchema, cells: Cells, field: int, row: int, data: Bytes, at: int, end: int) -> int:
    """An ISO time as a number in the pipeline's unit; negative if it is not plain."""
    micros = iso_time_us(data, at, end)
    if micros < 0:
        return -1
    per_s, slot = schema.units_per_s, schema.slots[field]
    if schema.kinds[field] == WHOLE:
        if per_s > 1_000_000:
            if micros > _LAST_US_IN_NS:
                return -1
            put_whole(cells, slot, row, micros * (per_s // 1_000_000))
        else:
            put_whole(cells, slot, row, micros // (1_000_000 // per_s))
        return end
    if per_s > 1_000_000:  # a float64 cannot hold it
        return -1
    put_real(cells, slot, row, micros / (1_000_000 // per_s))
    return end


@inlined
def is_text(data: Bytes, at: int, end: int) -> bool:
    """Whether the bytes are UTF-8."""
    while at < end:
        if data[at] < 128:
            at += 1
        else:
            at = after_utf8(data, at, end)
            if at < 0:
                return False
    return True
