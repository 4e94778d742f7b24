"""Debezium's change events: which row was changed, how and when; the row itself is read as any other record is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from udfs.confluent_wire import HEAD_BYTES, schema_id_of
from udfs.event_rows import Row, refused_value
from udfs.json_events import decoded_json
from udfs.refused import Refused
from udfs.sources import Debezium

_DELETE = "d"
_NO_ROW = msgspec.Raw(b"null")


class Change(NamedTuple):
    """A change.

    Attributes:
        row: The changed row, with the event's fields.
        operation: c, u, d or r.
        time_ms: When the database was changed; None if the change does not say.
    """

    row: Any
    operation: str
    time_ms: int | None


ChangeReader = Callable[[bytes], Change | Refused | None]
"""A record's value -> the change; why it is none; or None for one that nobody asked for."""


class _Moment(msgspec.Struct):
    ts_ms: int | None = None


class _Envelope(msgspec.Struct):
    op: str | None = None
    ts_ms: int | None = None
    source: _Moment | None = None
    before: Any = None
    after: Any = None


class _JsonChange(_Envelope):
    before: msgspec.Raw = _NO_ROW
    after: msgspec.Raw = _NO_ROW


class _JsonEnvelope(_JsonChange):
    payload: _JsonChange | None = None


_DECODE_JSON = msgspec.json.Decoder(_JsonEnvelope).decode


def json_changes(changes: Debezium, row_type: Any, *, framed: bool) -> ChangeReader:
    """Reads change events in JSON, alone or as the `payload` of a document.

    Args:
        changes: Which are wanted.
        row_type: What the row becomes.
        framed: Whether the id of a schema comes first.
    """
    decode_row = msgspec.json.Decoder(row_type).decode

    def read(value: bytes) -> Change | Refused | None:
        if framed:
            schema_id = schema_id_of(value[:HEAD_BYTES])
            if isinstance(schema_id, Refused):
                return schema_id
            value = value[HEAD_BYTES:]
        document = decoded_json(value, _DECODE_JSON)
        if isinstance(document, Refused):
            return document
        envelope: _Envelope = document.payload or document
        return _change(changes, envelope, lambda row: decoded_json(bytes(row), decode_row), _NO_ROW)

    return read


def avro_changes(changes: Debezium, row_type: Any, rows: Any) -> ChangeReader:
    """Reads change events in Avro.

    Args:
        changes: Which are wanted.
        row_type: What the row becomes.
        rows: Reads records: `AvroRows`.
    """

    def read(value: bytes) -> Change | Refused | None:
        found = rows.document(value)
        if isinstance(found, Refused):
            return found
        plan, document = found
        try:
            envelope = msgspec.convert(document, _Envelope)
        except msgspec.ValidationError as error:
            return refused_value(error)
        return _change(changes, envelope, lambda row: _converted(rows.row(plan, row), row_type), None)

    return read


def _converted(row: Row, row_type: Any) -> Any:
    try:
        return msgspec.convert(row, row_type)
    except msgspec.ValidationError as error:
        return refused_value(error)


def _change(
    changes: Debezium, envelope: _Envelope, read_row: Callable[[Any], Any], no_row: Any
) -> Change | Refused | None:
    operation = envelope.op
    if operation is None:
        return Refused("missing_field", "no field `op`: this is no change event of Debezium")
    if operation not in changes.letters:
        return None
    is_delete = operation == _DELETE
    written = envelope.before if is_delete else envelope.after
    if written == no_row:
        return Refused("missing_field", f"a change of kind {operation} without `{'before' if is_delete else 'after'}`")
    row = read_row(written)
    if isinstance(row, Refused):
        return row
    told = None if envelope.source is None else envelope.source.ts_ms
    return Change(row, operation, envelope.ts_ms if told is None else told)
