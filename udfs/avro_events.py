"""Avro records to rows of an event's fields, each record by the schema that it was written with."""

from io import BytesIO
from typing import Any

from fastavro import schemaless_reader

from udfs.avro_schemas import WriterPlan, needs_walk, plan_of, without_logical_types
from udfs.avro_walk import AvroWalk
from udfs.confluent_wire import HEAD_BYTES, schema_named_by
from udfs.errors import DefinitionError
from udfs.event_rows import Row, picked
from udfs.events import Events
from udfs.formats import Avro
from udfs.refused import Refused
from udfs.registered_schema import RegisteredSchema, SchemaSource
from udfs.sources import Source


class AvroReader:
    """Reads records of one schema, without logical types.

    Args:
        schema: Parsed, a record.
    """

    def __init__(self, schema: Any) -> None:
        self._schema = without_logical_types(schema)
        self._walk = AvroWalk(self._schema) if needs_walk(self._schema) else None

    def read(self, value: bytes, begin: int = 0) -> Row | Refused:
        """The fields of a record that begins at a byte and ends with the bytes, or why it is none."""
        stream = BytesIO(value)
        stream.seek(begin)
        try:
            if self._walk is not None:
                self._walk.check(value, begin)
            row: Any = schemaless_reader(stream, self._schema, None)
        except Exception as error:  # whatever fastavro raises on broken bytes, it is this record's fault
            # without the address of the stream: a dead letter is the same in every run
            return Refused("not_avro", f"{type(error).__name__}: {str(error).replace(f' from {stream!r}', '')}")
        if stream.tell() != len(value):
            return Refused("not_avro", f"{len(value) - stream.tell()} bytes are left over behind the record")
        return row  # type: ignore[no-any-return]


_Known = tuple[WriterPlan, AvroReader]


class AvroRows:
    """Reads Avro records.

    Args:
        events: The event's fields.
        source: Where they are, and whether records name their schema.
        schemas: Where their schemas come from.

    Raises:
        DefinitionError: The one schema of bare records is none.
    """

    def __init__(self, events: Events, source: Source, schemas: SchemaSource) -> None:
        form = source.format
        assert isinstance(form, Avro)
        self._events, self._source, self._schemas = events, source, schemas
        self._known: dict[bytes, _Known] = {}
        self._head_bytes = HEAD_BYTES if form.schema is None else 0
        if form.schema is not None:
            plan = plan_of(events, source, RegisteredSchema(0, form.kind, form.schema), "Avro: schema")
            if isinstance(plan, Refused):
                raise DefinitionError(plan.detail)
            self._known[b""] = plan, AvroReader(plan.schema)

    def __call__(self, value: bytes) -> Row | Refused:
        """The row of a record, or why it is none."""
        found = self.document(value)
        return found if isinstance(found, Refused) else self.row(*found)

    def document(self, value: bytes) -> tuple[WriterPlan, Row] | Refused:
        """A record as it was written, and how it is read; or why it is none."""
        head = value[: self._head_bytes]
        known = self._known.get(head)
        if known is None:
            found = self._learn(head)
            if isinstance(found, Refused):
                return found
            known = found
        plan, reader = known
        row = reader.read(value, len(head))
        return row if isinstance(row, Refused) else (plan, row)

    @staticmethod
    def row(plan: WriterPlan, written: Row) -> Row:
        """The event's fields of a record, or of the changed row in it."""
        row = picked(written, plan.places) if plan.places else written
        for field, convert in plan.converters:
            if field in row:
                row[field] = convert(row[field])
        return row

    def _learn(self, head: bytes) -> _Known | Refused:
        written = schema_named_by(head, self._schemas)
        if isinstance(written, Refused):
            return written
        plan = plan_of(self._events, self._source, written, f"schema {written.id}")
        if isinstance(plan, Refused):
            return plan
        self._known[head] = plan, AvroReader(plan.schema)
        return self._known[head]
