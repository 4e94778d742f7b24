"""Rows to Avro and Protobuf records: of predictions, and of events that we send."""

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import fastavro
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor

from udfs.avro_schemas import parsed_record
from udfs.errors import DefinitionError
from udfs.protobuf_events import compiled_messages, named_message
from udfs.refused import Refused
from udfs.registered_schema import RegisteredSchema

Fields = dict[str, Any]
RowWriter = Callable[[Fields], bytes]
"""The fields of a record, those of objects within it as mappings -> its bytes. Raises whatever its library raises."""
FIRST_MESSAGE = b"\0"  # the message indexes of a file's first message


class WrittenThing(NamedTuple):
    """What rows are.

    Attributes:
        setting: That says the schema, for errors.
        thing: That has the fields, for errors.
        more: How to have more of them, for errors.
        is_whole: Whether every field of a Protobuf schema must be one of a row.
    """

    setting: str
    thing: str
    more: str
    is_whole: bool


def written_record(names: Sequence[str], schema: RegisteredSchema, what: WrittenThing) -> Any:
    """The Avro record that rows are written as; see `parsed_record`.

    Args:
        names: Fields that a row has.
        schema: What they are written with.
        what: See there.

    Raises:
        DefinitionError: The schema is none, or asks for what a row does not have.
    """
    found = parsed_record(schema, f"{what.setting}: schema")
    if isinstance(found, Refused):
        raise DefinitionError(found.detail)
    unknown = [one["name"] for one in found["fields"] if one["name"] not in names and "default" not in one]
    _check_known(unknown, names, what)
    return found


def avro_writer(record: Any, head: bytes) -> RowWriter:
    """Writes rows as Avro records, with some bytes before each."""
    write = fastavro.schemaless_writer

    def row(fields: Fields) -> bytes:
        content = BytesIO(head)
        content.seek(len(head))
        write(content, record, fields)
        return content.getvalue()

    return row


def written_message(
    names: Sequence[str], schema: RegisteredSchema, message: str | None, what: WrittenThing
) -> Descriptor:
    """The Protobuf message that rows are written as.

    Args:
        names: Fields that a row has.
        schema: What they are written with.
        message: Which of its messages; None is the first one.
        what: See there.

    Raises:
        DefinitionError: The schema is none, or asks for what a row does not have.
    """
    messages = compiled_messages(schema, f"{what.setting}: schema")
    if isinstance(messages, Refused):
        raise DefinitionError(messages.detail)
    descriptor = named_message(messages, message)
    if what.is_whole:
        _check_known(sorted(set(descriptor.fields_by_name) - set(names)), names, what)
    return descriptor


def protobuf_writer(message: Descriptor, head: bytes) -> RowWriter:
    """Writes rows as Protobuf messages, with some bytes before each; None is a field that is not there."""
    make: Any = message_factory.GetMessageClass(message)
    there = set(message.fields_by_name)

    def row(fields: Fields) -> bytes:
        given = {
            name: _given(value) if type(value) is dict else value
            for name, value in fields.items()
            if value is not None and name in there
        }
        content: bytes = make(**given).SerializeToString(deterministic=True)
        return head + content

    return row


def _given(fields: Fields) -> Fields:
    return {
        name: _given(value) if type(value) is dict else value for name, value in fields.items() if value is not None
    }


def _check_known(unknown: Sequence[str], names: Sequence[str], what: WrittenThing) -> None:
    if unknown:
        raise DefinitionError(
            f"{what.setting}: schema asks for {', '.join(unknown)}; {what.thing} has {', '.join(names)}{what.more}"
        )
