"""Avro records to an event's fields, each record by the schema that it was written with."""

from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from fastavro import schemaless_reader

from udfs import avro_scan
from udfs.avro_program import LEFT_OUT, avro_program
from udfs.avro_scan import MOST_DEPTH, MOST_ITEMS, WHOLE_RECORD, scan_avro
from udfs.avro_schemas import WriterPlan, plan_of, without_logical_types
from udfs.cells import Cells, ScanSchema, new_cells
from udfs.confluent_wire import HEAD_BYTES, schema_named_by
from udfs.errors import DefinitionError
from udfs.event_rows import Row, picked
from udfs.events import Events
from udfs.formats import Avro
from udfs.record_heads import rows_by_head
from udfs.refused import Refused
from udfs.registered_schema import RegisteredSchema, SchemaSource
from udfs.sources import Source
from udfs.text_scan import Bytes

_FAULTS = {
    avro_scan.NO_NUMBER: "a number does not end",
    avro_scan.NO_END: "{} bytes are said to follow, and there are fewer",
    avro_scan.BAD_BRANCH: "a union has no branch {}",
    avro_scan.BAD_SYMBOL: "an enum has no symbol {}",
    avro_scan.BAD_TEXT: "a text is not UTF-8",
    avro_scan.TOO_DEEP: f"nested more than {MOST_DEPTH} deep",
    avro_scan.TOO_MANY: f"more than {MOST_ITEMS:,} items",
    avro_scan.LEFT_OVER: "{} bytes are left over behind the record",
}
_UNTARGETED = ScanSchema(
    np.zeros(0, np.uint8), np.zeros(1, np.int64), np.zeros(1, np.int64), np.ones(1, np.bool_),
    np.ones(1, np.bool_), np.full(1, -1),
    np.zeros(1, np.bool_), 1, False,
)  # fmt: skip
_ROW = np.zeros(1, np.int64)


class AvroReader:
    """Reads records of one schema, without logical types.

    Args:
        schema: Parsed, a record.
        targets: Which of its fields `scan` reads; see `avro_program`.
    """

    def __init__(self, schema: Any, targets: dict[str, tuple[int, int]] | None = None) -> None:
        self._schema = without_logical_types(schema)
        self._program = avro_program(self._schema, targets or {})
        self._checking = self._program._replace(targets=np.full(len(self._program.targets), LEFT_OUT))
        self._stack = np.zeros((MOST_DEPTH, 2), np.int64)
        self.symbols = self._program.symbols

    def read(self, value: bytes, begin: int = 0) -> Row | Refused:
        """The fields of a record that begins at a byte and ends with the bytes, or why it is none."""
        data, cells = np.frombuffer(bytearray(value), np.uint8), new_cells(_UNTARGETED, 1)
        fault, number = scan_avro(
            data, _ROW, np.array([begin]), np.array([len(value)]), self._checking, 0, _UNTARGETED, cells, self._stack
        )
        if fault != WHOLE_RECORD:
            return Refused("not_avro", _FAULTS[fault].format(number))
        stream = BytesIO(value)
        stream.seek(begin)
        try:
            return schemaless_reader(stream, self._schema, None)  # type: ignore[return-value]
        except Exception as error:  # whatever fastavro raises, it is this record's fault
            # without the address of the stream: a dead letter is the same in every run
            return Refused("not_avro", f"{type(error).__name__}: {str(error).replace(f' from {stream!r}', '')}")

    def scan(
        self, data: Bytes, rows: npt.NDArray[np.int64], begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64],
        symbols_begin: int, schema: ScanSchema, cells: Cells,
    ) -> None:  # fmt: skip
        """Fill in the cells of records that are plain; see `scan_avro`."""
        scan_avro(data, rows, begins, ends, self._program, symbols_begin, schema, cells, self._stack)


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
            self._known[b""] = plan, AvroReader(plan.schema, plan.targets)

    def __call__(self, value: bytes) -> Row | Refused:
        """The row of a record, or why it is none."""
        found = self.document(value)
        return found if isinstance(found, Refused) else self.row(*found)

    def document(self, value: bytes) -> tuple[WriterPlan, Row] | Refused:
        """A record as it was written, and how it is read; or why it is none."""
        head = value[: self._head_bytes]
        known = self._of(head)
        if isinstance(known, Refused):
            return known
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

    def scan(
        self, content: Bytes, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], schema: ScanSchema,
        cells: Cells,
    ) -> Bytes:  # fmt: skip
        """As of `RecordReader`."""
        parts, size = [content], len(content)
        found = []
        for head, rows in rows_by_head(content, begins, ends, lambda _: self._head_bytes):
            known = self._of(head)
            if isinstance(known, Refused) or not known[0].is_complete:
                continue
            found.append((rows, known[1], size))
            parts.append(known[1].symbols)
            size += len(known[1].symbols)
        data = np.concatenate(parts)
        for rows, reader, symbols_begin in found:
            reader.scan(data, rows, begins + self._head_bytes, ends, symbols_begin, schema, cells)
        return data

    def _of(self, head: bytes) -> _Known | Refused:
        known = self._known.get(head)
        return self._learn(head) if known is None else known

    def _learn(self, head: bytes) -> _Known | Refused:
        written = schema_named_by(head, self._schemas)
        if isinstance(written, Refused):
            return written
        plan = plan_of(self._events, self._source, written, f"schema {written.id}")
        if isinstance(plan, Refused):
            return plan
        self._known[head] = plan, AvroReader(plan.schema, plan.targets)
        return self._known[head]
