"""A Protobuf message as arrays: what a compiled loop needs to go through messages and to find an event's fields."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from udfs.text_scan import Bytes

VARINT, BITS_64, LENGTH, BITS_32 = 0, 1, 2, 5
"""Wire types."""
(
    SIGNED, SIGNED_32, UNSIGNED, UNSIGNED_32, ZIGZAG, ZIGZAG_32, TRUTH, ENUM, FLOATING, FIXED, SIGNED_FIXED, TEXT,
    BYTES, MESSAGE, WRAPPER, TIMESTAMP,
) = range(16)  # fmt: skip
"""Forms of values."""
LEFT_OUT, SECONDS, NANOS = -1, -2, -3
"""Targets of fields that the event does not have, and of the parts of its time."""
_FORMS = {
    FieldDescriptor.TYPE_INT64: (SIGNED, VARINT), FieldDescriptor.TYPE_INT32: (SIGNED_32, VARINT),
    FieldDescriptor.TYPE_UINT64: (UNSIGNED, VARINT), FieldDescriptor.TYPE_UINT32: (UNSIGNED_32, VARINT),
    FieldDescriptor.TYPE_SINT64: (ZIGZAG, VARINT), FieldDescriptor.TYPE_SINT32: (ZIGZAG_32, VARINT),
    FieldDescriptor.TYPE_BOOL: (TRUTH, VARINT), FieldDescriptor.TYPE_ENUM: (ENUM, VARINT),
    FieldDescriptor.TYPE_DOUBLE: (FLOATING, BITS_64), FieldDescriptor.TYPE_FLOAT: (FLOATING, BITS_32),
    FieldDescriptor.TYPE_FIXED64: (FIXED, BITS_64), FieldDescriptor.TYPE_FIXED32: (FIXED, BITS_32),
    FieldDescriptor.TYPE_SFIXED64: (SIGNED_FIXED, BITS_64), FieldDescriptor.TYPE_SFIXED32: (SIGNED_FIXED, BITS_32),
    FieldDescriptor.TYPE_STRING: (TEXT, LENGTH), FieldDescriptor.TYPE_BYTES: (BYTES, LENGTH),
    FieldDescriptor.TYPE_MESSAGE: (MESSAGE, LENGTH),
}  # fmt: skip
_TIMESTAMP_PARTS = {"seconds": SECONDS, "nanos": NANOS}


class ProtobufProgram(NamedTuple):
    """A message and those within it, the event's first; the fields of each are in a row.

    Attributes:
        firsts: (messages + 1,) int64: the first field of each.
        numbers: (fields,) int64: as on the wire.
        forms: (fields,) int64.
        wires: (fields,) int64.
        targets: (fields,) int64: the event's field, or LEFT_OUT, SECONDS, NANOS.
        odd: (fields,) bool: whether the library must read a record that has it.
        defaults: (fields,) bool: whether one that is not there has its default, and is not null.
        inner: (fields,) int64: the message in it; or the first symbol of an enum.
        inner_ends: (fields,) int64: behind the last symbol of an enum.
        symbols: uint8: the symbols of all enums, one after the other.
        symbol_ends: (symbols + 1,) int64: where each ends; the first is 0.
        symbol_numbers: (symbols,) int64.
    """

    firsts: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    forms: npt.NDArray[np.int64]
    wires: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    odd: npt.NDArray[np.bool_]
    defaults: npt.NDArray[np.bool_]
    inner: npt.NDArray[np.int64]
    inner_ends: npt.NDArray[np.int64]
    symbols: Bytes
    symbol_ends: npt.NDArray[np.int64]
    symbol_numbers: npt.NDArray[np.int64]


def is_wrapper(message: Descriptor) -> bool:
    """Whether it is one of Google's, like DoubleValue: a value or None."""
    return str(message.file.name) == "google/protobuf/wrappers.proto"


def is_timestamp(message: Descriptor) -> bool:
    """Whether it is Google's."""
    return str(message.full_name) == "google.protobuf.Timestamp"


def protobuf_program(message: Descriptor, targets: Mapping[str, int], time: int) -> ProtobufProgram | None:
    """The program of a message; None where only the library can read one.

    Args:
        message: Of the records.
        targets: The event's field by the message's name of it.
        time: The event's field that is its time.
    """
    return _Builder(message).program(targets, time)


class _UnreadableError(Exception):
    """Only the library reads such a message."""


class _Builder:
    def __init__(self, message: Descriptor) -> None:
        self._messages: list[tuple[Descriptor, Mapping[str, int]]] = []
        self._shared: dict[str, int] = {}
        self._symbols: list[tuple[int, bytes]] = []
        self._root = message

    def program(self, targets: Mapping[str, int], time: int) -> ProtobufProgram | None:
        self._messages.append((self._root, targets))
        firsts, rows = [0], list[tuple[int, ...]]()
        try:
            for message, wanted in self._messages:  # which grows meanwhile
                rows += [self._field(one, wanted.get(one.name, LEFT_OUT), time) for one in message.fields]
                firsts.append(len(rows))
        except _UnreadableError:
            return None
        numbers, forms, wires, found, odd, defaults, inner, inner_ends = np.array(rows or np.zeros((0, 8))).T
        return ProtobufProgram(
            np.array(firsts, np.int64),
            numbers.astype(np.int64),
            forms.astype(np.int64),
            wires.astype(np.int64),
            found.astype(np.int64),
            odd.astype(np.bool_),
            defaults.astype(np.bool_),
            inner.astype(np.int64),
            inner_ends.astype(np.int64),
            np.frombuffer(b"".join(name for _, name in self._symbols), np.uint8).copy(),
            np.cumsum([0, *(len(name) for _, name in self._symbols)]).astype(np.int64),
            np.array([number for number, _ in self._symbols], np.int64),
        )

    def _field(self, one: FieldDescriptor, target: int, time: int) -> tuple[int, ...]:
        repeated = one.label == FieldDescriptor.LABEL_REPEATED
        if one.type not in _FORMS or one.label == FieldDescriptor.LABEL_REQUIRED or (repeated and target != LEFT_OUT):
            raise _UnreadableError
        form, wire = _FORMS[one.type]
        # a field of a group of which only one is there takes the others away
        odd = target != LEFT_OUT and one.containing_oneof is not None and len(one.containing_oneof.fields) > 1
        inner = inner_ends = 0
        if form == ENUM:
            inner, inner_ends = self._enum(one.enum_type)
        elif form == MESSAGE:
            kind = one.message_type
            if target != LEFT_OUT and is_wrapper(kind):
                form, inner = WRAPPER, self._message(kind, {"value": target})
            elif target == time and is_timestamp(kind):
                form, inner = TIMESTAMP, self._message(kind, _TIMESTAMP_PARTS)
            else:
                odd, inner = odd or target != LEFT_OUT, self._message(kind, {})
        return one.number, form, wire, target, odd, not one.has_presence, inner, inner_ends

    def _message(self, message: Descriptor, targets: Mapping[str, int]) -> int:
        if not targets and message.full_name in self._shared:
            return self._shared[message.full_name]
        number = len(self._messages)
        if not targets:
            self._shared[message.full_name] = number
        self._messages.append((message, targets))
        return number

    def _enum(self, enum: EnumDescriptor) -> tuple[int, int]:
        if enum.is_closed:
            raise _UnreadableError
        first = len(self._symbols)
        names = {value.number: value.name.encode() for value in enum.values}
        self._symbols += names.items()
        return first, len(self._symbols)
