"""Protobuf messages to rows of an event's fields, each record by the schema that it was written with.

A scalar without presence (proto3 without `optional`) that is not in the bytes has its default, 0 or ""; a field with
presence that is not there is a field that the record does not have.
"""

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from udfs.cells import Cells, ScanSchema
from udfs.confluent_wire import HEAD_BYTES, message_indexes, schema_id_of, schema_named_by
from udfs.errors import DefinitionError
from udfs.event_rows import Converter, Names, Row, paths_of
from udfs.events import UNITS_PER_S, Events
from udfs.formats import Protobuf
from udfs.proto_text import ProtoTextError, compile_proto, messages_of
from udfs.protobuf_program import ProtobufProgram, is_timestamp, is_wrapper, protobuf_program
from udfs.protobuf_scan import MOST_DEPTH, scan_protobuf
from udfs.record_heads import rows_by_head
from udfs.refused import Refused
from udfs.registered_schema import RegisteredSchema, SchemaSource
from udfs.sources import Source
from udfs.text_scan import Bytes


class MessageReader:
    """Reads messages of one type."""

    def __init__(self, message: Descriptor) -> None:
        self._parse = message_factory.GetMessageClass(message).FromString

    def parse(self, body: bytes) -> Any:
        """The message, or why it is none."""
        try:
            return self._parse(body)
        except Exception as error:  # whatever protobuf raises on broken bytes, it is this record's fault
            return Refused("not_protobuf", str(error) or type(error).__name__)


class MessagePlan(NamedTuple):
    """How messages of one type are read.

    Attributes:
        parse: Bytes -> message, or why they are none.
        names: Fields of the event that are always there.
        values: Their values of a message; None if there are none.
        present: (field of the event, where the message has it) of those that may be missing.
        lists: Fields of the event that are repeated.
        converters: (field of the event, what turns its value into the event's).
        program: For `scan_protobuf`; None where no record is plain.
    """

    parse: Any
    names: tuple[str, ...]
    values: Any
    present: tuple[tuple[str, Names], ...]
    lists: tuple[str, ...]
    converters: tuple[tuple[str, Converter], ...]
    program: ProtobufProgram | None


class ProtobufRows:
    """Reads Protobuf messages.

    Args:
        events: The event's fields.
        source: Where they are, and whether records name their schema.
        schemas: Where their schemas come from.

    Raises:
        DefinitionError: The one schema of bare records is none.
    """

    def __init__(self, events: Events, source: Source, schemas: SchemaSource) -> None:
        form = source.format
        assert isinstance(form, Protobuf)
        self._events, self._source, self._schemas, self._framed = events, source, schemas, form.schema is None
        self._known: dict[bytes, MessagePlan] = {}
        self._stack = np.zeros((MOST_DEPTH, 2), np.int64)
        if form.schema is not None:
            messages = compiled_messages(RegisteredSchema(0, form.kind, form.schema), "Protobuf: schema")
            if isinstance(messages, Refused):
                raise DefinitionError(messages.detail)
            self._known[b""] = _plan_of(events, source, named_message(messages, form.message))

    def __call__(self, value: bytes) -> Row | Refused:
        """The row of a record, or why it is none."""
        begin = self._begin(value)
        plan = self._of(value, begin)
        if isinstance(plan, Refused):
            return plan
        message = plan.parse(value[begin:])
        if isinstance(message, Refused):
            return message
        row: Row = {} if plan.values is None else dict(zip(plan.names, plan.values(message), strict=True))
        for field, names in plan.present:
            inside = message
            for name in names[:-1]:
                inside = getattr(inside, name)  # of one that is not there, nothing is
            if inside.HasField(names[-1]):
                row[field] = getattr(inside, names[-1])
        for field in plan.lists:
            if not row[field]:  # what is not there and what is empty have the same bytes
                del row[field]
        for field, convert in plan.converters:
            if field in row:
                row[field] = convert(row[field])
        return row

    def scan(
        self, content: Bytes, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], schema: ScanSchema,
        cells: Cells,
    ) -> Bytes:  # fmt: skip
        """As of `RecordReader`."""
        parts, size = [content], len(content)
        found = []
        for head, rows in rows_by_head(content, begins, ends, self._begin):
            plan = self._of(head, len(head))
            if isinstance(plan, Refused) or plan.program is None:
                continue
            found.append((rows, begins + len(head), plan.program, size))
            parts.append(plan.program.symbols)
            size += len(plan.program.symbols)
        data = np.concatenate(parts)
        for rows, bodies, program, symbols_begin in found:
            scan_protobuf(data, rows, bodies, ends, program, symbols_begin, schema, cells, self._stack)
        return data

    def _begin(self, value: bytes) -> int:
        if not self._framed:
            return 0
        # nearly all records are of the first message of their file: a 0 behind the schema's id
        if value[HEAD_BYTES : HEAD_BYTES + 1] == b"\0":
            return HEAD_BYTES + 1
        try:
            return message_indexes(value, HEAD_BYTES)[1]
        except ValueError:
            return 0

    def _of(self, value: bytes, begin: int) -> MessagePlan | Refused:
        plan = self._known.get(value[:begin])
        return self._learn(value, begin) if plan is None else plan

    def _learn(self, value: bytes, begin: int) -> MessagePlan | Refused:
        if begin == 0:
            schema_id = schema_id_of(value[:HEAD_BYTES])
            no_indexes = Refused("wrong_framing", "no message indexes follow the schema's id")
            return schema_id if isinstance(schema_id, Refused) else no_indexes
        written = schema_named_by(value[:HEAD_BYTES], self._schemas)
        if isinstance(written, Refused):
            return written
        messages = compiled_messages(written, f"schema {written.id}")
        if isinstance(messages, Refused):
            return messages
        indexes, _ = message_indexes(value, HEAD_BYTES)
        found = _message_at(messages, indexes)
        if found is None:
            return Refused("wrong_framing", f"schema {written.id} has no message at {'.'.join(map(str, indexes))}")
        self._known[value[:begin]] = _plan_of(self._events, self._source, found)
        return self._known[value[:begin]]


def compiled_messages(written: RegisteredSchema, where: str) -> list[Descriptor] | Refused:
    """The messages of a schema, or why it has none."""
    if written.kind != "PROTOBUF":
        return Refused("unknown_schema", f"{where} is of kind {written.kind}, not Protobuf")
    try:
        messages = messages_of(compile_proto(written.text, [(name, text) for name, _, text in written.references]))
    except (ProtoTextError, TypeError, ValueError) as error:
        return Refused("unknown_schema", f"{where} cannot be read: {error}")
    return messages or Refused("unknown_schema", f"{where} has no message")


def named_message(messages: Sequence[Descriptor], name: str | None) -> Descriptor:
    """The message of a full name; the first one without a name.

    Raises:
        DefinitionError: There is none; says which there are.
    """
    if name is None:
        return messages[0]
    for message in messages:
        for candidate in (message, *_all_nested(message)):
            if name in (candidate.full_name, candidate.name):
                return candidate
    known = ", ".join(message.full_name for message in messages)
    raise DefinitionError(f"Protobuf: message is {name!r}; the schema has {known}")


def _all_nested(message: Descriptor) -> list[Descriptor]:
    return [found for nested in message.nested_types for found in (nested, *_all_nested(nested))]


def _message_at(messages: Sequence[Descriptor], indexes: Sequence[int]) -> Descriptor | None:
    found, among = None, list(messages)
    for index in indexes:
        if not 0 <= index < len(among):
            return None
        found = among[index]
        among = list(found.nested_types)
    return found


def _plan_of(events: Events, source: Source, message: Descriptor) -> MessagePlan:
    always, present, lists, converters = [], [], [], []
    for wanted in source.value_fields(events.schema):
        field = wanted.name
        found = next(filter(None, (_found(message, path) for path in paths_of(events, source, field))), None)
        if found is None:
            continue
        names, one = found
        if one.has_presence:
            present.append((field, names))
        else:
            always.append((field, names))
        if one.label == FieldDescriptor.LABEL_REPEATED and wanted.size is not None:
            lists.append(field)
        convert = _converter(events, source, field, one)
        if convert is not None:
            converters.append((field, convert))
    program = None
    there = {field: names for field, names in (*always, *present)}
    outermost = {names[0] for names in there.values() if len(names) == 1}
    # a field of the message that is read twice, or from within another, is left to the library
    alone = len(outermost) == len(there) and source.time_unit in (None, events.time_unit)
    is_complete = all(one.optional or one.name in there for one in source.value_fields(events.schema))
    if alone and source.changes is None and is_complete:
        places = {one.name: place for place, one in enumerate(events.schema)}
        targets = {names[0]: places[field] for field, names in there.items()}
        program = protobuf_program(message, targets, places[events.time])
    return MessagePlan(
        MessageReader(message).parse,
        tuple(field for field, _ in always),
        _getter([".".join(names) for _, names in always]),
        tuple(present),
        tuple(lists),
        tuple(converters),
        program,
    )


def _found(message: Descriptor, path: Names) -> tuple[Names, FieldDescriptor] | None:
    """A field of a message, or of messages in it; None if there is none."""
    inside: Descriptor | None = message
    one = None
    for name in path:
        one = None if inside is None else inside.fields_by_name.get(name)
        if one is None:
            return None
        inside = one.message_type if one.label != FieldDescriptor.LABEL_REPEATED else None
    return None if one is None else (path, one)


def _getter(names: Sequence[str]) -> Any:
    """Message -> the values of its fields, a tuple."""
    if not names:
        return None
    get = attrgetter(*names)
    return get if len(names) > 1 else lambda message: (get(message),)


def _converter(events: Events, source: Source, field: str, one: FieldDescriptor) -> Converter | None:
    if one.label == FieldDescriptor.LABEL_REPEATED:
        return list if one.type != FieldDescriptor.TYPE_MESSAGE else None
    if one.type == FieldDescriptor.TYPE_ENUM:
        symbols = {value.number: value.name for value in one.enum_type.values}
        return partial(_symbol, symbols)
    if one.type != FieldDescriptor.TYPE_MESSAGE:
        return None
    kind = one.message_type
    if is_timestamp(kind) and field == events.time:
        is_float = events.field(field, "Events: time").kind == "float"
        return partial(_timestamp, UNITS_PER_S[source.time_unit or events.time_unit], is_float)
    return _wrapped if is_wrapper(kind) else None


def _symbol(symbols: dict[int, str], number: int | None) -> str | None:
    # an enum of proto3 is open: a number without a name is no broken record, but no known category either
    return None if number is None else symbols.get(number, str(number))


def _timestamp(units_per_s: int, is_float: bool, time: Any) -> Any:
    if time is None:
        return None
    nanos = time.seconds * 1_000_000_000 + time.nanos
    return nanos * units_per_s / 1_000_000_000 if is_float else nanos * units_per_s // 1_000_000_000


def _wrapped(wrapper: Any) -> Any:
    return None if wrapper is None else wrapper.value
