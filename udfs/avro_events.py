"""Avro records to rows of an event's fields, each record by the schema that it was written with."""

from io import BytesIO
from typing import Any

from fastavro import schemaless_reader

from udfs.avro_schemas import WriterPlan, needs_walk, plan_of, without_logical_types
from udfs.avro_walk import AvroWalk
from udfs.confluent_wire import HEAD_BYTES, schema_named_by
from udfs.errors import DefinitionError
from udfs.event_rows import Row
from udfs.events import Events
from udfs.formats import Avro
from udfs.refused import Refused
from udfs.registered_schema import RegisteredSchema, SchemaSource


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
        form: Says whether records name their schema.
        schemas: Where their schemas come from.

    Raises:
        DefinitionError: The one schema of bare records is none.
    """

    def __init__(self, events: Events, form: Avro, schemas: SchemaSource) -> None:
        self._events, self._schemas = events, schemas
        self._known: dict[bytes, _Known] = {}
        self._head_bytes = HEAD_BYTES if form.schema is None else 0
        if form.schema is not None:
            plan = plan_of(events, RegisteredSchema(0, form.kind, form.schema), "Avro: schema")
            if isinstance(plan, Refused):
                raise DefinitionError(plan.detail)
            self._known[b""] = plan, AvroReader(plan.schema)

    def __call__(self, value: bytes) -> Row | Refused:
        """The row of a record, or why it is none."""
        head = value[: self._head_bytes]
        known = self._known.get(head)
        if known is None:
            found = self._learn(head)
            if isinstance(found, Refused):
                return found
            known = found
        plan, reader = known
        row = reader.read(value, len(head))
        if isinstance(row, Refused):
            return row
        if plan.moved:
            moved = {field: row[name] for field, name in plan.moved}
            row.update(moved)
        for field, convert in plan.converters:
            row[field] = convert(row[field])
        return row

    def _learn(self, head: bytes) -> _Known | Refused:
        written = schema_named_by(head, self._schemas)
        if isinstance(written, Refused):
            return written
        plan = plan_of(self._events, written, f"schema {written.id}")
        if isinstance(plan, Refused):
            return plan
        self._known[head] = plan, AvroReader(plan.schema)
        return self._known[head]
