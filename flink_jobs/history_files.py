"""Files as history: JSONL, CSV (both also .gz) and Parquet, alone or in folders like `country=DE/2026-01.parquet`.

Rows mean what they mean to `millrace produce`: cells are converted to the fields' types, ISO times to the pipeline's
unit, and the entity is the key. A row that does not fit is a dead letter with the reason it would have in the stream.
"""

import glob
import gzip
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow.parquet as pq

from flink_jobs.event_files import EventFileError, check_columns, csv_header
from flink_jobs.history import Piece
from udfs.csv_scan import START_RECORD, csv_record_ends
from udfs.pipeline import Pipeline

PIECE_BYTES = 24_000_000
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
PIECE_ROWS = 262_144


def file_pieces(paths: Sequence[Path], pipeline: Pipeline) -> list[Piece]:
    """All rows of files, folders and patterns, in the order given.

    The files of a folder or a pattern come in the order of their paths, numbers in them by value. Folders named
    `field=value` give a field that the files have no column for (in JSONL, always).

    Raises:
        EventFileError: Nothing is there, a file is of another kind, or a column is missing.
    """
    pieces: list[Piece] = []
    for path in paths:
        for file, constants in _files(path, pipeline):
            pieces += _pieces(file, constants, pipeline)
    return pieces


def file_kind(path: Path) -> str | None:
    """jsonl, csv or parquet; None for other files."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        kind = SUFFIXES.get(suffixes[-2]) if len(suffixes) > 1 else None
        return None if kind == "parquet" else kind
    return SUFFIXES.get(suffixes[-1]) if suffixes else None


def _files(path: Path, pipeline: Pipeline) -> list[tuple[Path, tuple[tuple[str, str], ...]]]:
    if path.is_file():
        if file_kind(path) is None:
            raise EventFileError(f"{path.name}: write a .jsonl, .csv (both also .gz) or .parquet file")
        return [(path, ())]
    if path.is_dir():
        found = [each for each in path.rglob("*") if each.is_file() and file_kind(each) and not _is_hidden(each, path)]
        if not found:
            raise EventFileError(f"{path} holds no .jsonl, .csv (both also .gz) or .parquet file")
        return [(each, _constants(each.relative_to(path), pipeline)) for each in sorted(found, key=_natural)]
    matching = [Path(each) for each in glob.glob(str(path), recursive=True)]  # noqa: PTH207  # the pattern may be absolute
    if not matching:
        raise EventFileError(f"{path} is no file, no folder, and no pattern that matches any")
    return [found for each in sorted(matching, key=_natural) for found in _files(each, pipeline)]


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(("_", ".")) for part in path.relative_to(folder).parts)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), part) if place % 2 else (1, 0, part) for place, part in enumerate(parts)]


def _constants(relative: Path, pipeline: Pipeline) -> tuple[tuple[str, str], ...]:
    """What the folders' names say of event fields."""
    found = []
    for part in relative.parts[:-1]:
        name, equals, value = part.partition("=")
        if equals and name in pipeline.fields and name != pipeline.events.id:
            found.append((name, "" if value == NO_VALUE else unquote(value)))
    return tuple(found)


def _pieces(path: Path, constants: tuple[tuple[str, str], ...], pipeline: Pipeline) -> Iterable[Piece]:
    kind, size = file_kind(path), path.stat().st_size
    given = [name for name, _ in constants]
    if kind == "parquet":
        columns = pq.read_schema(path).names  # type: ignore[no-untyped-call]
        check_columns(path, [*columns, *given], pipeline.events.schema)
        return _row_groups(path, tuple(each for each in constants if each[0] not in columns))
    if kind == "csv":
        header, begin = csv_header(path)
        check_columns(path, [*header, *given], pipeline.events.schema)
        constants = tuple(each for each in constants if each[0] not in header)
    else:
        begin = 0
    if path.suffix.lower() == ".gz":
        return [Piece(kind or "", str(path), begin, -1, constants=constants, weight=5 * size, first_record=1)]
    cuts = _csv_cuts(path, begin) if kind == "csv" else _line_cuts(path, size)
    return [
        Piece(kind or "", str(path), begin, end, constants=constants, weight=end - begin, first_record=first)
        for begin, end, first in cuts
    ]


def _row_groups(path: Path, constants: tuple[tuple[str, str], ...]) -> Iterator[Piece]:
    """Stretches of whole row groups, each at least PIECE_ROWS long; `begin` and `end` count row groups."""
    metadata = pq.read_metadata(path)  # type: ignore[no-untyped-call]
    begin, rows, first = 0, 0, 1
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= PIECE_ROWS or group == metadata.num_row_groups - 1:
            yield Piece(
                "parquet", str(path), begin, group + 1, constants=constants, weight=rows * 100, first_record=first
            )
            begin, rows, first = group + 1, 0, first + rows


def _line_cuts(path: Path, size: int) -> Iterator[tuple[int, int, int | None]]:
    begin = 0
    with path.open("rb") as file:
        while begin < size:
            file.seek(min(begin + PIECE_BYTES, size))
            file.readline()
            end = min(file.tell(), size)
            yield begin, end, 1 if begin == 0 else None
            begin = end


def _csv_cuts(path: Path, begin: int) -> Iterator[tuple[int, int, int | None]]:
    """Quotes may hold line feeds, so only reading from the beginning tells where a record ends."""
    state, at, piece_begin, records, piece_first, last_end = START_RECORD, begin, begin, 0, 1, begin
    with path.open("rb") as file:
        file.seek(begin)
        while buffer := file.read(PIECE_BYTES):
            data = np.frombuffer(buffer, np.uint8)
            ends = np.empty(buffer.count(b"\n"), np.int64)
            count, state = csv_record_ends(data, state, ends)
            if count:
                last_end, records = at + int(ends[count - 1]), records + count
                if last_end - piece_begin >= PIECE_BYTES // 2:
                    yield piece_begin, last_end, piece_first
                    piece_begin, piece_first = last_end, records + 1
            at += len(buffer)
    if at > piece_begin:
        yield piece_begin, at, piece_first


def piece_stream(piece: Piece) -> Iterator[bytes]:
    """The bytes of a piece of lines: all of it, or for a compressed file stretches that end with a line feed."""
    path = Path(piece.source)
    if piece.end >= 0:
        with path.open("rb") as file:
            file.seek(piece.begin)
            yield file.read(piece.end - piece.begin)
        return
    with gzip.open(path, "rb") as packed:
        packed.seek(piece.begin)
        rest = b""
        while buffer := packed.read(PIECE_BYTES):
            rest += buffer
            cut = _last_record_end(rest, piece.kind)
            if cut:
                yield rest[:cut]
                rest = rest[cut:]
        if rest:
            yield rest


def _last_record_end(data: bytes, kind: str) -> int:
    if kind != "csv" or b'"' not in data:
        return data.rfind(b"\n") + 1
    cells: Any = np.frombuffer(data, np.uint8)
    ends = np.empty(data.count(b"\n"), np.int64)
    count, _ = csv_record_ends(cells, START_RECORD, ends)
    return int(ends[count - 1]) if count else 0
