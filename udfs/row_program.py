"""A schema as steps: what a compiled loop needs to write rows as Avro or Protobuf records.

Covered are flat records, as predictions are: values that may be null, and features as a record, message or map.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from udfs.avro_schemas import without_logical_types
from udfs.confluent_wire import varint, zigzag
from udfs.protobuf_program import BITS_32, BITS_64, LENGTH, VARINT
from udfs.text_scan import Bytes

TEXT, SYMBOL, SIGNED, PLAIN, TRUTH, REAL, REAL_32, CONSTANT, MESSAGE, MESSAGE_END = range(10)
"""Forms: numbers are SIGNED in zigzag, or PLAIN; a MESSAGE has its length before it and goes on to its end."""
NO_FEATURE = -1
MOST_NUMBER_BYTES = 10
_INT, _LONG, _UINT, _ULONG = (-(2**31), 2**31 - 1), (-(2**63), 2**63 - 1), (0, 2**32 - 1), (0, 2**63 - 1)
_AVRO_FORMS: dict[str, tuple[int, tuple[int, int]]] = {
    "string": (TEXT, _LONG), "int": (SIGNED, _INT), "long": (SIGNED, _LONG), "boolean": (TRUTH, _LONG),
    "float": (REAL_32, _LONG), "double": (REAL, _LONG),
}  # fmt: skip
_PROTOBUF_FORMS: dict[int, tuple[int, tuple[int, int], int]] = {
    FieldDescriptor.TYPE_INT32: (PLAIN, _INT, VARINT), FieldDescriptor.TYPE_INT64: (PLAIN, _LONG, VARINT),
    FieldDescriptor.TYPE_UINT32: (PLAIN, _UINT, VARINT), FieldDescriptor.TYPE_UINT64: (PLAIN, _ULONG, VARINT),
    FieldDescriptor.TYPE_SINT32: (SIGNED, _INT, VARINT), FieldDescriptor.TYPE_SINT64: (SIGNED, _LONG, VARINT),
    FieldDescriptor.TYPE_BOOL: (TRUTH, _LONG, VARINT), FieldDescriptor.TYPE_STRING: (TEXT, _LONG, LENGTH),
    FieldDescriptor.TYPE_FLOAT: (REAL_32, _LONG, BITS_32), FieldDescriptor.TYPE_DOUBLE: (REAL, _LONG, BITS_64),
}  # fmt: skip


class RowProgram(NamedTuple):
    """Steps, each of which takes the row's next value, a feature or nothing.

    Attributes:
        forms: (steps,) int64.
        features: (steps,) int64: which feature, or NO_FEATURE.
        least: (steps,) int64: of whole numbers.
        most: (steps,) int64.
        leaves_zeros_out: (steps,) bool: whether 0, false and "" are not written, as of fields without presence.
        nullable: (steps,) bool.
        firsts: (steps,) int64: the first symbol of an enum.
        counts: (steps,) int64: how many symbols; how many bytes are kept for a message's length.
        symbols: uint8: the symbols of all enums, one after the other.
        symbol_ends: (symbols + 1,) int64: where each ends; the first is 0.
        constants: uint8: of each step what is written before a value, then what instead of null.
        constant_ends: (2 * steps + 1,) int64: where each ends; the first is 0.
        length_shift: How lengths of texts are multiplied: in Avro they have a sign.
        row_bytes: The most that a row takes, but for its texts.
    """

    forms: npt.NDArray[np.int64]
    features: npt.NDArray[np.int64]
    least: npt.NDArray[np.int64]
    most: npt.NDArray[np.int64]
    leaves_zeros_out: npt.NDArray[np.bool_]
    nullable: npt.NDArray[np.bool_]
    firsts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    symbols: Bytes
    symbol_ends: npt.NDArray[np.int64]
    constants: Bytes
    constant_ends: npt.NDArray[np.int64]
    length_shift: int
    row_bytes: int


class RowPlan(NamedTuple):
    """How rows are written.

    Attributes:
        program: The steps.
        fields: Which of a row's fields they take, in order.
    """

    program: RowProgram
    fields: tuple[str, ...]


class _Step(NamedTuple):
    form: int
    before: bytes = b""
    if_null: bytes | None = None
    limits: tuple[int, int] = _LONG
    feature: int = NO_FEATURE
    symbols: tuple[str, ...] = ()
    leaves_zeros_out: bool = False
    length_bytes: int = 0


class _NotCoveredError(Exception):
    """Only the library writes such a record."""


def avro_plan(record: Any, head: bytes, names: Sequence[str], features: Sequence[str]) -> RowPlan | None:
    """How rows become Avro records; None where only fastavro writes them.

    Args:
        record: The schema, from `parsed_record`.
        head: What comes before each.
        names: A row's fields.
        features: Names of the features, which are its last field; none if it has none.
    """
    schema = without_logical_types(record)
    named, steps, fields = schema["__named_schemas__"], [_Step(CONSTANT, head)], []
    try:
        for one in schema["fields"]:
            if one["name"] not in names:
                return None
            if features and one["name"] == names[-1]:
                steps += _avro_features(one["type"], named, features)
            else:
                steps.append(_avro_step(one["type"], named))
                fields.append(one["name"])
    except _NotCoveredError:
        return None
    return _plan(steps, fields, length_shift=1)


def _without_null(kind: Any, named: dict[str, Any]) -> tuple[Any, bytes, bytes | None]:
    """What a type is if it is not null, what says so, and what says that it is."""
    before, if_null = b"", None
    if isinstance(kind, list):
        if len(kind) != 2 or "null" not in kind:
            raise _NotCoveredError
        null = kind.index("null")
        before, if_null, kind = zigzag(1 - null), zigzag(null), kind[1 - null]
    if isinstance(kind, str):
        kind = named.get(kind, kind)
    return kind, before, if_null


def _avro_step(kind: Any, named: dict[str, Any]) -> _Step:
    kind, before, if_null = _without_null(kind, named)
    form = kind if isinstance(kind, str) else kind["type"]
    if form == "enum":
        return _Step(SYMBOL, before, if_null, symbols=tuple(kind["symbols"]))
    if form not in _AVRO_FORMS:
        raise _NotCoveredError
    number_form, limits = _AVRO_FORMS[form]
    return _Step(number_form, before, if_null, limits)


def _avro_features(kind: Any, named: dict[str, Any], features: Sequence[str]) -> list[_Step]:
    kind, before, _ = _without_null(kind, named)
    form = kind if isinstance(kind, str) else kind["type"]
    steps = [_Step(CONSTANT, before)]
    if form == "record":
        return steps + [_avro_feature(one["type"], named, features, one["name"]) for one in kind["fields"]]
    if form != "map":
        raise _NotCoveredError
    steps.append(_Step(CONSTANT, zigzag(len(features))))
    for name in features:
        key = zigzag(len(name.encode())) + name.encode()
        step = _avro_feature(kind["values"], named, features, name)
        if_null = None if step.if_null is None else key + step.if_null
        steps.append(step._replace(before=key + step.before, if_null=if_null))
    return [*steps, _Step(CONSTANT, zigzag(0))]


def _avro_feature(kind: Any, named: dict[str, Any], features: Sequence[str], name: str) -> _Step:
    step = _avro_step(kind, named)
    if step.form not in (REAL, REAL_32) or name not in features:
        raise _NotCoveredError
    return step._replace(feature=features.index(name))


def protobuf_plan(message: Descriptor, head: bytes, names: Sequence[str], features: Sequence[str]) -> RowPlan | None:
    """How rows become Protobuf messages; None where only the library writes them.

    Args:
        message: Of the records.
        head: What comes before each.
        names: A row's fields.
        features: Names of the features, which are its last field; none if it has none.
    """
    steps, fields = [_Step(CONSTANT, head)], []
    try:
        for one in sorted(message.fields, key=lambda each: each.number):
            if features and one.name == names[-1]:
                steps += _protobuf_features(one, features)
            else:
                steps.append(_protobuf_step(one))
                fields.append(one.name)
    except _NotCoveredError:
        return None
    return _plan(steps, fields, length_shift=0)


def _tag(number: int, wire: int) -> bytes:
    return varint(number << 3 | wire)


def _protobuf_step(one: FieldDescriptor) -> _Step:
    # of a group of fields of which only one is there, the last that is given counts
    of_group = one.containing_oneof is not None and len(one.containing_oneof.fields) > 1
    if one.type not in _PROTOBUF_FORMS or one.label != FieldDescriptor.LABEL_OPTIONAL or of_group:
        raise _NotCoveredError
    form, limits, wire = _PROTOBUF_FORMS[one.type]
    return _Step(form, _tag(one.number, wire), b"", limits, leaves_zeros_out=not one.has_presence)


def _protobuf_features(one: FieldDescriptor, features: Sequence[str]) -> list[_Step]:
    if one.type != FieldDescriptor.TYPE_MESSAGE:
        raise _NotCoveredError
    inner, tag = one.message_type.fields_by_name, _tag(one.number, LENGTH)
    if one.message_type.GetOptions().map_entry:
        return [_map_entry(tag, inner, features, name) for name in sorted(features)]
    is_required = any(each.label == FieldDescriptor.LABEL_REQUIRED for each in inner.values())
    if one.label != FieldDescriptor.LABEL_OPTIONAL or is_required or not set(features) <= set(inner):
        raise _NotCoveredError
    ordered = sorted(features, key=lambda name: inner[name].number)
    steps = [_protobuf_feature(inner[name], features, name) for name in ordered]
    most = sum(len(step.before) + MOST_NUMBER_BYTES for step in steps)
    return [_Step(MESSAGE, tag, length_bytes=len(varint(most))), *steps, _Step(MESSAGE_END)]


def _protobuf_feature(one: FieldDescriptor, features: Sequence[str], name: str) -> _Step:
    step = _protobuf_step(one)
    if step.form not in (REAL, REAL_32):
        raise _NotCoveredError
    return step._replace(feature=features.index(name))


def _map_entry(tag: bytes, entry: Any, features: Sequence[str], name: str) -> _Step:
    value = _protobuf_feature(entry["value"], features, name)
    key = _tag(1, LENGTH) + varint(len(name.encode())) + name.encode()
    if entry["key"].type != FieldDescriptor.TYPE_STRING:
        raise _NotCoveredError
    size = len(key) + len(value.before) + (8 if value.form == REAL else 4)
    return value._replace(before=tag + varint(size) + key + value.before, leaves_zeros_out=False)


def _plan(steps: Sequence[_Step], fields: Sequence[str], *, length_shift: int) -> RowPlan | None:
    if not fields:  # rows of nothing cannot be counted
        return None
    constants = [constant for step in steps for constant in (step.before, step.if_null or b"")]
    symbols = [symbol.encode() for step in steps for symbol in step.symbols]
    counts = [len(step.symbols) or step.length_bytes for step in steps]
    program = RowProgram(
        np.array([step.form for step in steps], np.int64),
        np.array([step.feature for step in steps], np.int64),
        np.array([step.limits[0] for step in steps], np.int64),
        np.array([step.limits[1] for step in steps], np.int64),
        np.array([step.leaves_zeros_out for step in steps], np.bool_),
        np.array([step.if_null is not None for step in steps], np.bool_),
        np.cumsum([0, *(len(step.symbols) for step in steps[:-1])]).astype(np.int64),
        np.array(counts, np.int64),
        np.frombuffer(b"".join(symbols), np.uint8).copy(),
        np.cumsum([0, *map(len, symbols)]).astype(np.int64),
        np.frombuffer(b"".join(constants), np.uint8).copy(),
        np.cumsum([0, *map(len, constants)]).astype(np.int64),
        length_shift,
        sum(map(len, constants)) + MOST_NUMBER_BYTES * len(steps),
    )
    return RowPlan(program, tuple(fields))
