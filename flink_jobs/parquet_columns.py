"""Arrow columns of a Parquet file as fields of events; rows whose cells are not of the expected kind are left out."""

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.compute

from udfs.event_blocks import RecordFields, texts_of
from udfs.field_columns import FieldColumn, Numbers, Texts
from udfs.pipeline import EventField, Pipeline

pa: Any = pyarrow
pc: Any = pyarrow.compute

_UNITS_PER_S = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_EXACT = 2**53
_LAST_S = 253_402_300_799  # the end of the year 9999
_LAST_US_IN_NS = 2**63 // 1_000 - 1
Truths = npt.NDArray[np.bool_]


def parquet_fields(batch: Any, pipeline: Pipeline, wanted: Collection[str], margin: int) -> RecordFields:
    """A batch's rows as fields of events, by the rules of `event_files`.

    Args:
        batch: A record batch.
        pipeline: Says the fields.
        wanted: Fields whose values are needed; the others are only checked.
        margin: Most bytes of a record as JSON beside its texts.
    """
    count = len(batch)
    plain, text_bytes = np.ones(count, np.bool_), np.full(count, margin, np.int64)
    columns: dict[str, FieldColumn] = {}
    ids: Any = None
    for one in pipeline.events.schema:
        if one.size is not None:  # read row by row
            plain[:] = False
            continue
        if one.name not in batch.schema.names:
            column: FieldColumn = repeated(one, one.default, count)
        else:
            array = batch.column(batch.schema.get_field_index(one.name))
            is_time = one.name == pipeline.events.time
            column, good = _column(one, array, pipeline.events.time_unit if is_time else None)
            plain &= good
            if one.kind == "str" and (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
                text_bytes += 6 * pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False)
        if not one.nullable:
            nulls = column.codes < 0 if isinstance(column, Texts) else column.nulls
            if nulls is not None:
                plain &= ~nulls
                if isinstance(column, Numbers):
                    column = Numbers(column.values)
        if one.name in wanted:
            columns[one.name] = column
        if one.name == pipeline.events.id:
            ids = _ids(column)
    plain &= text_bytes <= pipeline.max_record_bytes
    return RecordFields(columns, ids, plain)


def repeated(one: EventField, value: Any, count: int) -> FieldColumn:
    """The same value in all rows; None is null."""
    if one.kind == "str":
        return Texts(np.full(count, -1 if value is None else 0), [] if value is None else [value])
    types: dict[str, Any] = {"int": np.int64, "float": np.float64, "bool": np.bool_}
    values = np.full(count, 0 if value is None else value, types[one.kind])
    return Numbers(values, np.full(count, value is None))


def _ids(column: FieldColumn) -> Any:
    if isinstance(column, Numbers):
        return pa.array(column.values)
    return pa.DictionaryArray.from_arrays(
        pa.array(np.maximum(column.codes, 0).astype(np.int32)), pa.array([*column.values, ""], pa.string())
    ).dictionary_decode()


def _column(one: EventField, array: Any, time_unit: str | None) -> tuple[FieldColumn, Truths]:
    """The field's values, and for which rows they are right."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _column(one, array.dictionary_decode(), time_unit)
    nulls = array.is_null().to_numpy(zero_copy_only=False)
    good = np.ones(len(array), np.bool_)
    if one.kind == "str" and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        texts = texts_of(array.cast(pa.string()).fill_null(""), ~nulls)
        if "" in texts.values:  # a text of no length is null, in files
            texts = Texts(np.where(texts.codes == texts.values.index(""), -1, texts.codes), texts.values)
        return texts, good
    if pa.types.is_timestamp(kind) and time_unit is not None:
        return _timestamps(one, array, nulls, time_unit)
    if pa.types.is_boolean(kind) and one.kind == "bool":
        return Numbers(array.fill_null(False).to_numpy(zero_copy_only=False), nulls), good
    if pa.types.is_integer(kind) and one.kind in ("int", "float") and not pa.types.is_uint64(kind):
        whole = array.cast(pa.int64()).fill_null(0).to_numpy()
        if one.kind == "int":
            return Numbers(whole, nulls), good
        return Numbers(whole.astype(np.float64), nulls), (whole <= _EXACT) & (whole >= -_EXACT)
    if pa.types.is_floating(kind) and one.kind in ("int", "float", "str"):
        return _floats(one, array, nulls)
    return repeated(one, None, len(array)), np.zeros(len(array), np.bool_)


def _floats(one: EventField, array: Any, nulls: Truths) -> tuple[FieldColumn, Truths]:
    """Floats; whole ones where the field is a whole number or a text, as files keep numbers that may be missing."""
    values = array.cast(pa.float64()).fill_null(np.nan).to_numpy()
    nulls = nulls | np.isnan(values)
    if one.kind == "float":
        return Numbers(np.where(nulls, 0.0, values), nulls), np.isfinite(values) | nulls
    good = nulls | ((np.floor(values) == values) & (np.abs(values) <= _EXACT))
    whole = np.where(good & ~nulls, values, 0.0).astype(np.int64)
    if one.kind == "int":
        return Numbers(whole, nulls), good
    distinct, codes = np.unique(whole, return_inverse=True)
    return Texts(np.where(nulls, -1, codes), [str(value) for value in distinct.tolist()]), good


def _timestamps(one: EventField, array: Any, nulls: Truths, time_unit: str) -> tuple[FieldColumn, Truths]:
    """Times in the pipeline's unit, from microseconds as Python's times have them."""
    per_s = _UNITS_PER_S[array.type.unit]
    raw = array.cast(pa.int64()).fill_null(0).to_numpy()
    good = (raw >= 0) & (raw <= min(_LAST_S * per_s, 2**63 - 1))
    raw = np.where(good, raw, 0)
    micros = raw // (per_s // 1_000_000) if per_s > 1_000_000 else raw * (1_000_000 // per_s)
    wanted_per_s = _UNITS_PER_S[time_unit]
    if one.kind == "int":
        good &= micros <= _LAST_US_IN_NS
        micros = np.where(good, micros, 0)
        if wanted_per_s > 1_000_000:
            return Numbers(micros * (wanted_per_s // 1_000_000), nulls), good
        return Numbers(micros // (1_000_000 // wanted_per_s), nulls), good
    if wanted_per_s > 1_000_000 or one.kind != "float":
        return repeated(one, None, len(array)), np.zeros(len(array), np.bool_)
    return Numbers(micros / (1_000_000 // wanted_per_s), nulls), good
