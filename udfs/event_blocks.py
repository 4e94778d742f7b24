"""A block of records as the arrays the engine takes: plain ones as columns, the others through the stream's decoder.

In: columns of fields, and which records they are right for. Out: an `EventBlock` with every event in order, as if all
had been decoded one by one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow

from udfs.cells import Cells, ScanSchema
from udfs.compiled import compiled
from udfs.events import EventField, Events, last_time
from udfs.field_columns import FieldColumn, Numbers, Texts, columnise, times_ms
from udfs.lookup_join import RowsSeen
from udfs.plan import FeaturePlan
from udfs.text_scan import ABSENT, LONG_NUMBER, VALUE, Bytes, same_bytes
from udfs.wire_formats import Refused

pa: Any = pyarrow  # its compiled part has no types
ArrowArray = Any
Truths = npt.NDArray[np.bool_]
SlowDecoder = Callable[[int], Any]
"""Row -> the event as an object, or `Refused`, or None for a record that is none (an empty line)."""


class IdTooLargeError(ValueError):
    """An event id that a column of whole numbers cannot hold."""


@dataclass
class RecordFields:
    """Fields of n records.

    Attributes:
        columns: By name, (n,) each: at least the fields the plan, the entity and the time need.
        ids: (n,) event ids.
        plain: (n,) bool: the records `columns` and `ids` are right for.
    """

    columns: dict[str, FieldColumn]
    ids: ArrowArray
    plain: Truths


@dataclass(frozen=True)
class EventBlock:
    """n events in order.

    Attributes:
        rows: (n,) int64: the record of each.
        times_ms: (n,) int64.
        columns: (n, columns) float64; see `FeaturePlan.columnise`.
        masks: (n,) uint64.
        direct: (n, direct) float64.
        entities: The Kafka keys.
        ids: (n,) event ids.
        refused: (record, why) of each that is no event.
        order: (n,) int64 or float64: the field that was asked for to sort by; nulls come first.
    """

    rows: npt.NDArray[np.int64]
    times_ms: npt.NDArray[np.int64]
    columns: npt.NDArray[np.float64]
    masks: npt.NDArray[np.uint64]
    direct: npt.NDArray[np.float64]
    entities: Texts
    ids: ArrowArray
    refused: list[tuple[int, Refused]]
    order: npt.NDArray[Any] | None = None


def fields_needed(plan: FeaturePlan, order_by: str | None = None) -> set[str]:
    """The event fields whose values a block needs."""
    events = plan.pipeline.events
    literal = {one.name for one in events.schema if one.categories is not None}
    return {*plan.fields, events.entity, events.id, events.time, *literal, *((order_by,) if order_by else ())}


def fields_of_cells(plan: FeaturePlan, schema: ScanSchema, cells: Cells, data: Bytes) -> RecordFields:
    """Scanned cells as columns."""
    events, needed = plan.pipeline.events, {*plan.fields, plan.pipeline.events.entity}
    plain = cells.plain.astype(np.bool_)
    columns: dict[str, FieldColumn] = {}
    ids: ArrowArray | None = None
    for one, slot in zip(events.schema, schema.slots.tolist(), strict=True):
        if slot < 0:
            continue
        there = plain & (cells.states[slot] == VALUE)
        if one.kind == "str":
            begins, lengths = cells.wholes[slot], np.where(there, cells.lengths[slot], 0)
            if one.name == events.id:
                ids = _text_array(data, begins, lengths)
            if one.name != events.id or one.name in needed:
                columns[one.name] = _texts(data, begins, lengths, there)
        elif one.size is None:
            columns[one.name] = _numbers(one, slot, cells, data, there, plain)
        absent = cells.states[slot] == ABSENT
        if one.default is not None and one.name in columns and absent.any():
            columns[one.name] = _with_default(columns[one.name], one.default, absent)
        if one.kind == "str":
            continue
        if one.name == events.id:
            ids = pa.array(np.where(there, cells.wholes[slot], 0))
    return RecordFields(columns, ids, plain)


def _with_default(column: FieldColumn, default: Any, absent: Truths) -> FieldColumn:
    """A column with the default of the field in rows that do not have it."""
    if isinstance(column, Texts):
        values = column.values if default in column.values else [*column.values, default]
        return Texts(np.where(absent, values.index(default), column.codes), values)
    filled = np.where(absent, default, column.values).astype(column.values.dtype)
    return Numbers(filled, None if column.nulls is None else column.nulls & ~absent)


def _numbers(one: EventField, slot: int, cells: Cells, data: Bytes, there: Truths, plain: Truths) -> Numbers:
    if one.kind == "float":
        reals = cells.reals[slot]
        long = np.flatnonzero(plain & (cells.states[slot] == LONG_NUMBER))
        if len(long):
            texts = _text_array(data, cells.wholes[slot][long], cells.lengths[slot][long])
            reals[long] = texts.cast(pa.float64()).to_numpy()
            there[long] = np.isfinite(reals[long])
            plain[long] &= there[long]
        values: npt.NDArray[Any] = np.where(there, reals, 0.0)
    else:
        values = np.where(there, cells.wholes[slot], 0)
        values = values != 0 if one.kind == "bool" else values
    return Numbers(values, ~there if one.nullable else None)


@compiled
def _copy_spans(
    data: Bytes, begins: npt.NDArray[np.int64], offsets: npt.NDArray[np.int32], copied: npt.NDArray[np.uint8]
) -> None:
    for row in range(len(begins)):
        begin, at = begins[row], offsets[row]
        for place in range(offsets[row + 1] - at):
            copied[at + place] = data[begin + place]


def _text_array(data: Bytes, begins: npt.NDArray[np.int64], lengths: npt.NDArray[Any]) -> ArrowArray:
    """The texts at some places of valid UTF-8."""
    offsets = np.zeros(len(begins) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    copied = np.empty(int(offsets[-1]), np.uint8)
    _copy_spans(data, np.ascontiguousarray(begins), offsets, copied)
    return pa.StringArray.from_buffers(len(begins), pa.py_buffer(offsets), pa.py_buffer(copied))


@compiled
def _code_spans(
    data: Bytes, begins: npt.NDArray[np.int64], lengths: npt.NDArray[np.int32], there: Truths,
    table: npt.NDArray[np.int32], codes: npt.NDArray[np.int32], firsts: npt.NDArray[np.int64],
) -> int:  # fmt: skip
    """Number texts by first occurrence, with a table of twice as many places, a power of two; how many there are."""
    found, last = 0, len(table) - 1
    for row in range(len(begins)):
        if not there[row]:
            codes[row] = -1
            continue
        begin, length = begins[row], lengths[row]
        mixed = np.uint64(0xCBF29CE484222325)  # FNV-1a
        for at in range(begin, begin + length):
            mixed = (mixed ^ np.uint64(data[at])) * np.uint64(0x100000001B3)
        place = np.int64(mixed ^ (mixed >> np.uint64(32))) & last
        while table[place] >= 0:
            first = firsts[table[place]]
            if lengths[first] == length and same_bytes(data, begins[first], data, begin, length):
                break
            place = (place + 1) & last
        if table[place] < 0:
            table[place] = found
            firsts[found] = row
            found += 1
        codes[row] = table[place]
    return found


def _texts(data: Bytes, begins: npt.NDArray[np.int64], lengths: npt.NDArray[np.int32], there: Truths) -> Texts:
    """The texts at some places of valid UTF-8, as codes and values."""
    rows = len(begins)
    codes, firsts = np.empty(rows, np.int32), np.empty(rows, np.int64)
    table = np.full(1 << (2 * rows).bit_length(), -1, np.int32)
    found = _code_spans(data, np.ascontiguousarray(begins), lengths, there, table, codes, firsts)
    first = firsts[:found]
    return Texts(codes, _text_array(data, begins[first], lengths[first]).to_pylist())


def texts_of(texts: ArrowArray, there: Truths) -> Texts:
    """An arrow array as codes and values; null where `there` is false."""
    encoded = texts.dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    return Texts(np.where(there, codes, -1), encoded.dictionary.to_pylist())


def decode_block(
    plan: FeaturePlan,
    fields: RecordFields,
    slow: SlowDecoder,
    order_by: str | None = None,
    seen: RowsSeen | None = None,
) -> EventBlock:
    """Every event of a block of records.

    Args:
        plan: What is needed of an event.
        fields: The columns; records they are not right for are decoded by `slow`.
        slow: See `SlowDecoder`.
        order_by: A number field to give back as `order`.
        seen: Says which rows of lookups events see; None where there are none.
    """
    events = plan.pipeline.events
    # the scanners know single values, and rows of lookups are objects
    if events.vectors or seen is not None:
        return _decoded_slowly(plan, np.arange(len(fields.plain)), slow, fields.ids.type, order_by, seen)
    _check_values(events, fields)
    rows = np.flatnonzero(fields.plain)
    columns, ids = fields.columns, fields.ids
    if len(rows) < len(fields.plain):
        columns = {name: column.taken(rows) for name, column in columns.items()}
        ids = ids.take(pa.array(rows))
    time = columns[events.time]
    assert isinstance(time, Numbers)
    block = EventBlock(
        rows,
        times_ms(events, time),
        *columnise(plan, columns, len(rows)),
        _as_keys(columns[events.entity]),
        ids,
        [],
        None if order_by is None else _order(columns[order_by]),
    )
    if len(rows) == len(fields.plain):
        return block
    return _joined(block, _decoded_slowly(plan, np.flatnonzero(~fields.plain), slow, ids.type, order_by))


def _order(column: FieldColumn) -> npt.NDArray[Any]:
    assert isinstance(column, Numbers)
    values = column.values
    if column.nulls is None:
        return values
    least = -np.inf if values.dtype == np.float64 else np.iinfo(np.int64).min
    return np.where(column.nulls, np.array(least, values.dtype), values)


def _check_values(events: Events, fields: RecordFields) -> None:
    """Leave records with impossible times and unknown categories to the stream's decoder, which says why."""
    time = fields.columns[events.time]
    assert isinstance(time, Numbers)
    fields.plain &= (time.values >= 0) & (time.values <= last_time(events.time_unit))
    for one in events.schema:
        if one.categories is None or one.name not in fields.columns:
            continue
        column = fields.columns[one.name]
        if isinstance(column, Texts):
            known = np.array([value in one.categories for value in column.values], np.bool_)
            fields.plain &= column.looked_up(known, True)
        else:
            known = np.isin(column.values, list(one.categories))
            fields.plain &= known if column.nulls is None else known | column.nulls


def _as_keys(entity: FieldColumn) -> Texts:
    if isinstance(entity, Texts):
        return entity
    values, codes = np.unique(entity.values, return_inverse=True)
    return Texts(codes, [str(value) for value in values.tolist()])


def _decoded_slowly(
    plan: FeaturePlan,
    rows: npt.NDArray[np.int64],
    slow: SlowDecoder,
    id_type: Any,
    order_by: str | None,
    seen: RowsSeen | None = None,
) -> EventBlock:
    events, kept, refused = [], [], []
    for row in rows.tolist():
        event = slow(row)
        if isinstance(event, Refused):
            refused.append((row, event))
        elif event is not None:
            events.append(event)
            kept.append(row)
    schema = plan.pipeline.events
    keys = {key: code for code, key in enumerate(dict.fromkeys(str(getattr(e, schema.entity)) for e in events))}
    codes = np.array([keys[str(getattr(event, schema.entity))] for event in events], np.int64)
    ids = _ids([getattr(event, schema.id) for event in events], id_type)
    order = None
    if order_by is not None:
        real = plan.pipeline.fields[order_by].kind == "float"
        least: Any = -np.inf if real else -(2**63)
        values = [getattr(event, order_by) for event in events]
        values = [least if value is None else value for value in values]
        if not real:
            values = [min(max(value, least), -least - 1) for value in values]
        order = np.array(values, np.float64 if real else np.int64)
    places = np.array(kept, np.int64)
    arrays = plan.columnise(events) if seen is None else plan.columnise(events, seen(events, places))
    return EventBlock(places, *arrays, Texts(codes, list(keys)), ids, refused, order)


def _ids(values: list[Any], id_type: Any) -> ArrowArray:
    try:
        return pa.array(values, id_type)
    except OverflowError:
        largest = max(values, key=abs)
        raise IdTooLargeError(
            f"event id {largest} does not fit into 64 bits, as columns of whole numbers have: declare the id as str"
        ) from None


def _joined(plain: EventBlock, slow: EventBlock) -> EventBlock:
    """Both in the order of the records."""
    rows = np.concatenate([plain.rows, slow.rows])
    order = np.argsort(rows, kind="stable")
    known = {key: code for code, key in enumerate(plain.entities.values)}
    codes = np.array([known.setdefault(key, len(known)) for key in slow.entities.values], np.int64)
    entities = np.concatenate([plain.entities.codes, codes[slow.entities.codes]])

    def both(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
        joined: npt.NDArray[Any] = np.concatenate([a, b])[order]
        return joined

    return EventBlock(
        rows[order],
        both(plain.times_ms, slow.times_ms),
        both(plain.columns, slow.columns),
        both(plain.masks, slow.masks),
        both(plain.direct, slow.direct),
        Texts(entities[order], list(known)),
        pa.concat_arrays([plain.ids, slow.ids]).take(pa.array(order)),
        slow.refused,
        None if plain.order is None or slow.order is None else both(plain.order, slow.order),
    )
