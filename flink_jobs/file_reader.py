"""Reads pieces of files: blocks of rows as columns, rows that are not plain one by one as `produce` would send them."""

import csv
import functools
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.parquet as pq

from flink_jobs.decoding import file_decoder
from flink_jobs.event_files import EventFileError, Row, converted_row, csv_header, parse_line, record_of
from flink_jobs.history import HistoryBlock, Piece, letters_of
from flink_jobs.history_files import piece_stream
from flink_jobs.parquet_columns import parquet_fields, repeated
from udfs.cells import ScanSchema, new_cells, scan_schema
from udfs.csv_scan import START_RECORD, csv_record_ends, scan_csv
from udfs.event_blocks import RecordFields, decode_block, fields_needed, fields_of_cells
from udfs.json_scan import line_ends, scan_json
from udfs.lookup_join import Join, RowsSeen
from udfs.plan import FeaturePlan

pa: Any = pyarrow

_STRETCH = 256

Rows = Callable[[int], Row | bytes | None]
"""Record of a block -> its row, its bytes if it is none, or None where there is nothing."""


class FileReader:
    """Reads pieces of files.

    Args:
        plan: What is needed of an event.
        rows: Most records of a block.
        order_by: A number field that says the order of arrival; None where the file's order does.
        join: Joins events with the rows of lookups; None where there are none.
    """

    def __init__(self, plan: FeaturePlan, rows: int, order_by: str | None = None, join: Join | None = None) -> None:
        self._plan, self._rows, self._order_by = plan, rows, order_by
        self._seen: RowsSeen | None = None if join is None else lambda events, _: join.of(events).rows
        self._pipeline = plan.pipeline
        self._decode = file_decoder(plan.pipeline).decode
        self._wanted = fields_needed(plan, order_by)
        # JSON may take six bytes for one, and writes a number with up to 24
        self._margin = sum(len(one.name) + 40 for one in plan.pipeline.events.schema)

    def blocks(self, piece: Piece) -> Iterator[HistoryBlock]:
        """The events of a piece, block by block.

        Raises:
            EventFileError: The file is not what its name says.
        """
        try:
            yield from self._parquet(piece) if piece.kind == "parquet" else self._lines(piece)
        except (EOFError, zlib.error, OSError, csv.Error, pa.ArrowException) as error:
            raise EventFileError(f"{Path(piece.source).name} cannot be read: {error}") from error

    def _lines(self, piece: Piece) -> Iterator[HistoryBlock]:
        header = csv_header(Path(piece.source))[0] if piece.kind == "csv" else []
        schema = self._scan_schema(piece)
        done = 0
        for data in piece_stream(piece):
            begins, ends = _spans(data, piece.kind)
            for first in range(0, len(begins), self._rows):
                span = slice(first, first + self._rows)
                yield self._block_of_lines(piece, schema, header, data, begins[span], ends[span], done + first)
            done += len(begins)

    def _scan_schema(self, piece: Piece) -> ScanSchema:
        """The folders' fields are not in the records, and so may be missing there."""
        schema = scan_schema(self._pipeline.events, self._wanted, from_file=True)
        given = [name for name, _ in piece.constants]
        for place, one in enumerate(self._pipeline.events.schema):
            schema.nullable[place] |= one.name in given
            schema.optional[place] |= one.name in given
        return schema

    def _block_of_lines(
        self,
        piece: Piece,
        schema: ScanSchema,
        header: list[str],
        data: bytes,
        begins: npt.NDArray[np.int64],
        ends: npt.NDArray[np.int64],
        first: int,
    ) -> HistoryBlock:
        cells, bytes_of = new_cells(schema, len(begins)), np.frombuffer(data, np.uint8)
        if piece.kind == "csv":
            scan_csv(bytes_of, begins, ends, self._columns(header), schema, cells)
        else:
            scan_json(bytes_of, begins, ends, schema, cells, np.zeros(len(schema.kinds), np.int64))
        cells.plain[6 * (ends - begins) + self._margin > self._pipeline.max_record_bytes] = 0
        fields = fields_of_cells(self._plan, schema, cells, bytes_of)

        def raw(row: int) -> bytes:
            return data[begins[row] : ends[row]]

        def line(row: int) -> Row | bytes | None:
            text = raw(row).strip()
            return parse_line(text) if text else None

        def csv_row(row: int) -> Row | None:
            lines = [f"{part}\n" for part in raw(row).decode("utf-8", "replace").split("\n")]
            return next(csv.DictReader(lines, fieldnames=header), None)

        rows: Rows = csv_row if piece.kind == "csv" else line
        return self._block(piece, fields, rows, raw, first)

    def _columns(self, header: list[str]) -> npt.NDArray[np.int64]:
        """The event's field of each column; of two columns with one name the last counts."""
        names = [one.name for one in self._pipeline.events.schema]
        last = {name: place for place, name in enumerate(header)}
        found = [names.index(name) if name in names and last[name] == at else -1 for at, name in enumerate(header)]
        return np.array(found, np.int64)

    def _parquet(self, piece: Piece) -> Iterator[HistoryBlock]:
        names = set(pq.read_schema(piece.source).names)  # type: ignore[no-untyped-call]
        columns = [one.name for one in self._pipeline.events.schema if one.name in names]
        done = 0
        with pq.ParquetFile(piece.source) as file:  # type: ignore[no-untyped-call]
            groups = range(piece.begin, piece.end)
            for batch in file.iter_batches(self._rows, row_groups=groups, columns=columns, use_threads=False):
                fields = parquet_fields(batch, self._pipeline, self._wanted, self._margin)
                yield self._block(piece, fields, _row_of(batch), None, done)
                done += len(batch)

    def _block(
        self, piece: Piece, fields: RecordFields, rows: Rows, raw: Callable[[int], bytes] | None, first: int
    ) -> HistoryBlock:
        constants = dict(piece.constants)
        self._add_constants(fields, constants)

        def record(row: int) -> tuple[bytes | None, bytes | None] | None:
            found = rows(row)
            if isinstance(found, dict):
                found = {**found, **constants}
            return None if found is None else record_of(found, self._pipeline)

        def slow(row: int) -> Any:
            found = record(row)
            return None if found is None else self._decode(*found)

        def original(row: int) -> tuple[bytes | None, bytes | None]:
            return (None, raw(row)) if raw is not None else (record(row) or (None, None))

        events = decode_block(self._plan, fields, slow, self._order_by, self._seen)
        arrivals = None if events.order is None else sortable(events.order)
        letters = letters_of(events, original, lambda row: first + row)
        return HistoryBlock(len(fields.plain), events, None, events.times_ms, arrivals, letters)

    def _add_constants(self, fields: RecordFields, constants: dict[str, str]) -> None:
        for one in self._pipeline.events.schema:
            if one.name not in constants or one.name not in self._wanted:
                continue
            event, converted = converted_row({one.name: constants[one.name]}, self._pipeline)
            value = event.get(one.name, one.default)  # a folder may say that there is none
            if not converted or (value is None and not one.nullable):
                fields.plain[:] = False
                value = None
            fields.columns[one.name] = repeated(one, value, len(fields.plain))


def sortable(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """(n,) int64 in the order of whole numbers or floats."""
    if values.dtype == np.int64:
        return values
    bits = (values + 0.0).view(np.int64)  # the sum makes -0.0 the same as 0.0
    return np.where(bits < 0, bits ^ np.int64(2**63 - 1), bits)


def _spans(data: bytes, kind: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where the records of a stretch begin and end, without the ends of lines."""
    cells = np.frombuffer(data, np.uint8)
    ends = np.empty(data.count(b"\n"), np.int64)
    count = csv_record_ends(cells, START_RECORD, ends)[0] if kind == "csv" else line_ends(cells, ends)
    ends = ends[:count]
    if len(data) and (len(ends) == 0 or ends[-1] < len(data)):
        ends = np.append(ends, len(data) + 1)  # the last line of a file may have no end
    begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    ends = ends - 1
    returns = (ends > begins) & (cells[np.maximum(ends, 1) - 1] == ord("\r"))
    return begins, ends - returns


def _row_of(batch: Any) -> Rows:
    """A row of an Arrow batch, as Python's values; neighbours are converted together."""

    @functools.lru_cache(maxsize=1)
    def rows_of(stretch: int) -> list[Row]:
        found: list[Row] = batch.slice(stretch * _STRETCH, _STRETCH).to_pylist()
        return found

    return lambda place: rows_of(place // _STRETCH)[place % _STRETCH]
