"""Rows of a file as events of a pipeline: JSONL, CSV (both also .gz) and Parquet.

In: a file whose columns are named like the pipeline's event fields; other columns are left out. Out: Kafka keys and
values. Cells are converted to the fields' types, ISO-8601 times to the pipeline's time unit (without an offset they
are UTC). An empty cell, None and NaN are null, or the default of a field that has one and cannot be null. A row that
cannot be converted is sent as it is and counted: refusing it is the job's business, which makes a dead letter of it
with a reason.
"""

import csv
import gzip
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq

from udfs.event_writer import WrittenRecord
from udfs.pipeline import EventField, Pipeline

Row = dict[str, Any]
Record = tuple[bytes | None, bytes | None]
WriteRow = Callable[[Row], WrittenRecord | None]

UNITS_PER_S = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
TRUE_WORDS, FALSE_WORDS = frozenset({"true", "yes", "1"}), frozenset({"false", "no", "0"})
PARQUET_ROWS = 8_192
_encode_json, _decode_json = msgspec.json.Encoder().encode, msgspec.json.Decoder().decode
LONGEST_WAIT_S = 0.25  # a pause in the file is waited for in such steps, so that Ctrl-C is heard


class EventFileError(ValueError):
    """The file cannot be events of this pipeline; the message says why in one line."""


@dataclass
class FileCounts:
    """What was read so far; `unconverted` rows were sent as they are."""

    rows: int = 0
    unconverted: int = 0


def file_events(
    path: Path | str,
    pipeline: Pipeline,
    speedup: float | None = None,
    *,
    counts: FileCounts | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Record]:
    """Kafka key (the entity) and value (JSON) of each row; see `file_records`."""
    found: Any = file_records(path, pipeline, None, speedup, counts=counts, clock=clock, sleep=sleep)
    return found  # type: ignore[no-any-return]


def file_records(
    path: Path | str,
    pipeline: Pipeline,
    write: WriteRow | None,
    speedup: float | None = None,
    *,
    counts: FileCounts | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Record | WrittenRecord]:
    """The Kafka record of each row.

    Args:
        path: `.jsonl`, `.csv`, either with `.gz`, or `.parquet`.
        pipeline: Says which fields an event has and of what type.
        write: Makes a record of a row, or None where it cannot; such a row is sent as JSON under the entity, as all are
            without it.
        speedup: Wait between rows as long as between their event times, divided by this; None never waits.
        counts: Kept up to date while the events are taken.
        clock: Seconds, for the pace.
        sleep: Waits, for the pace.

    Raises:
        EventFileError: No such file, an unknown kind of file, or a column is missing: raised at once, not on the
            first row. A CSV cell above the reader's limit: raised at its row.
    """
    path = Path(path)
    if speedup is not None and not speedup > 0:
        raise EventFileError(f"speedup is {speedup}: write a number above 0, e.g. 60 for a minute a second")
    rows = file_rows(path, pipeline.events.schema)
    return _records(rows, pipeline, speedup, counts or FileCounts(), write, clock, sleep)


def _records(
    rows: Iterator[Row | bytes],
    pipeline: Pipeline,
    speedup: float | None,
    counts: FileCounts,
    write: WriteRow | None,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Iterator[Record | WrittenRecord]:
    events = pipeline.events
    units_per_s = UNITS_PER_S[events.time_unit]
    first: tuple[float, float] | None = None
    for row in rows:
        counts.rows += 1
        if isinstance(row, bytes):
            counts.unconverted += 1
            yield None, row
            continue
        event, converted = converted_row(row, pipeline)
        written = None if write is None else write(event)
        counts.unconverted += not converted or (write is not None and written is None)
        event_time = event.get(events.time)
        if speedup is not None and isinstance(event_time, int | float):
            first = first or (clock(), event_time)
            due = first[0] + (event_time - first[1]) / units_per_s / speedup
            while (wait_s := due - clock()) > 0:
                sleep(min(wait_s, LONGEST_WAIT_S))
        yield _as_record(event, pipeline) if written is None else written


def record_of(row: Row | bytes, pipeline: Pipeline) -> Record:
    """The Kafka record that `file_events` makes of a row."""
    return (None, row) if isinstance(row, bytes) else _as_record(converted_row(row, pipeline)[0], pipeline)


def parse_line(line: bytes) -> Row | bytes:
    """A line of JSON as a row, or as it is when it is none."""
    try:
        row = _decode_json(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return line
    return row if isinstance(row, dict) else line


def _as_record(event: Row, pipeline: Pipeline) -> Record:
    entity = event.get(pipeline.events.entity)
    return None if entity is None else str(entity).encode(), _encode_json(event)


def converted_row(row: Row, pipeline: Pipeline) -> tuple[Row, bool]:
    """The row's fields converted where that is possible, and whether it was everywhere."""
    events = pipeline.events
    return converted_fields(row, events.schema, events.time, events.time_unit)


def converted_fields(row: Row, schema: Sequence[EventField], time: str | None, unit: str) -> tuple[Row, bool]:
    """As `converted_row`, of fields one of which may be a time in some unit."""
    event: Row = {}
    converted = True
    for field in schema:
        if field.name not in row:
            converted &= field.optional
            continue
        cell = row[field.name]
        if field.default is not None and not field.nullable and _is_missing(cell):
            continue
        try:
            event[field.name] = _time(cell, field, unit) if field.name == time else _converted(cell, field)
        except (ValueError, TypeError, OverflowError):
            kept = isinstance(cell, str | int | list)
            event[field.name] = None if _is_missing(cell) else cell if kept else str(cell)
            converted = False
    return event, converted


def _converted(cell: Any, field: EventField) -> Any:
    if _is_missing(cell):
        if field.nullable:
            return None
        raise ValueError("missing")
    match field.kind:
        case "str":
            # Numbers that a file keeps as floats because some are missing: 17850.0 is the customer 17850.
            return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
        case "int":
            return _whole(cell)
        case "float":
            number = float(cell)
            if not math.isfinite(number):
                raise ValueError("JSON has no infinity")
            return number
        case "bool":
            word = str(cell).strip().lower()
            if word not in TRUE_WORDS | FALSE_WORDS:
                raise ValueError("neither true nor false")
            return word in TRUE_WORDS
        case "vector":
            return _vector(cell)


def _vector(cell: Any) -> list[float]:
    """The numbers of a list, or of the JSON text of one, as a CSV file has it; how many is for the decoder to say."""
    if isinstance(cell, str):
        cell = _decode_json(cell.encode())
    if not isinstance(cell, list) or not all(isinstance(each, int | float) for each in cell):
        raise ValueError("no list of numbers")
    return [float(each) for each in cell]


def _is_missing(cell: Any) -> bool:
    return cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell))


def _whole(cell: Any) -> int:
    if isinstance(cell, int):
        return int(cell)
    try:
        return int(cell) if isinstance(cell, str) else _whole_float(float(cell))
    except ValueError:
        return _whole_float(float(cell))


def _whole_float(number: float) -> int:
    if not number.is_integer():
        raise ValueError("not a whole number")
    return int(number)


def _time(cell: Any, field: EventField, unit: str) -> Any:
    if isinstance(cell, str):
        try:
            return _converted(cell, field)
        except ValueError:
            cell = datetime.fromisoformat(cell.strip())
    if isinstance(cell, date) and not isinstance(cell, datetime):
        cell = datetime(cell.year, cell.month, cell.day, tzinfo=UTC)
    if not isinstance(cell, datetime):
        return _converted(cell, field)
    moment = cell if cell.tzinfo else cell.replace(tzinfo=UTC)
    since_1970 = moment - datetime(1970, 1, 1, tzinfo=UTC)
    whole_us = (since_1970.days * 86_400 + since_1970.seconds) * 1_000_000 + since_1970.microseconds
    if field.kind == "float":
        return whole_us * UNITS_PER_S[unit] / 1_000_000
    return whole_us * UNITS_PER_S[unit] // 1_000_000


def file_rows(path: Path, schema: Sequence[EventField]) -> Iterator[Row | bytes]:
    """The rows of a JSONL, CSV or Parquet file as they are; a line of JSONL that is none as bytes.

    Args:
        path: As of `file_records`.
        schema: The fields that are wanted.

    Raises:
        EventFileError: As of `file_records`.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes or [""])[-1]
    if not path.is_file():
        raise EventFileError(f"{path} is not a file")
    match kind:
        case ".jsonl" | ".ndjson":
            return jsonl_rows(path)
        case ".csv":
            check_columns(path, csv_header(path)[0], schema)
            return csv_rows(path)
        case ".parquet":
            columns = pq.read_schema(path).names  # type: ignore[no-untyped-call]
            check_columns(path, columns, schema)
            return _parquet_rows(path, [field.name for field in schema if field.name in columns])
    raise EventFileError(f"{path.name}: write a .jsonl, .csv (both also .gz) or .parquet file")


def first_row(path: Path) -> Row | None:
    """The first row of a JSONL or CSV file that is one; None if there is none."""
    rows = csv_rows(path) if ".csv" in [suffix.lower() for suffix in path.suffixes] else jsonl_rows(path)
    return next((row for row in rows if isinstance(row, dict)), None)


def csv_header(path: Path) -> tuple[list[str], int]:
    """The columns of a CSV file, and where its first record begins."""
    with _opened(path) as file:
        line = file.readline()
    return next(csv.reader([line.decode("utf-8-sig", "replace")]), []), len(line)


def check_columns(path: Path, columns: list[str], schema: Sequence[EventField]) -> None:
    """Refuse a file without a column for a field that every row has.

    Raises:
        EventFileError: Names the columns.
    """
    missing = [f.name for f in schema if not f.optional and f.name not in columns]
    if missing:
        raise EventFileError(f"{path.name} has no column {', '.join(missing)}; it has {', '.join(columns)}")


def _opened(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def jsonl_rows(path: Path) -> Iterator[Row | bytes]:
    """The rows of a JSONL file, blank lines left out; a line that is none as it is."""
    with _opened(path) as file:
        for line in file:
            line = line.strip()
            if line:
                yield parse_line(line)


def csv_rows(path: Path) -> Iterator[Row | bytes]:
    """The rows of a CSV file as texts; a cell that a row lacks is None, cells beyond the header are under None."""
    with _opened(path) as file:
        text = (line.decode("utf-8-sig" if number == 0 else "utf-8", "replace") for number, line in enumerate(file))
        try:
            yield from csv.DictReader(text)
        except csv.Error as error:
            raise EventFileError(f"{path.name} is not CSV that can be read: {error}") from error


def _parquet_rows(path: Path, columns: list[str]) -> Iterator[Row | bytes]:
    with pq.ParquetFile(path) as file:  # type: ignore[no-untyped-call]
        for batch in file.iter_batches(PARQUET_ROWS, columns=columns):
            yield from batch.to_pylist()
