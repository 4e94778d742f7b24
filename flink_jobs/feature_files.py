"""Rows of features in files, JSONL, CSV (both also .gz) and Parquet, block by block as matrices.

Columns are found by name; others are left out. An empty cell, None and NaN are missing values. A row that is none is
left out of its block and says why.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from flink_jobs.event_files import EventFileError, Row, csv_header, csv_rows, jsonl_rows
from flink_jobs.history_files import file_kind
from udfs.feature_rows import rows_of_features
from udfs.refused import Refused

pa: Any = pyarrow
pc: Any = pyarrow.compute
pq: Any = pyarrow.parquet

BLOCK_ROWS = 32_768
_NOT_JSON = Refused("not_json", "the line is no JSON object")


@dataclass(frozen=True)
class FeatureBlock:
    """Some neighbouring rows of a file.

    Attributes:
        rows: How many there were.
        records: (n,) int64: numbers in the file, from 1, of those that can be scored.
        features: (n, F) float64.
        ids: Arrow arrays (n,) of the columns that go along, by name.
        refused: The number in the file of every other row, and why.
    """

    rows: int
    records: npt.NDArray[np.int64]
    features: npt.NDArray[np.float64]
    ids: dict[str, Any]
    refused: list[tuple[int, Refused]]


def column_names(path: Path) -> list[str] | None:
    """The columns of a file; None for JSONL, where every row has its own.

    Raises:
        EventFileError: It is no file of a kind that is read.
    """
    if not path.is_file():
        raise EventFileError(f"{path} is not a file")
    match file_kind(path):
        case "parquet":
            try:
                return list(pq.read_schema(path).names)
            except (pa.ArrowException, OSError) as error:
                raise EventFileError(f"{path.name} is no Parquet file: {error}") from error
        case "csv":
            return csv_header(path)[0]
        case "jsonl":
            return None
    raise EventFileError(f"{path.name}: write a .jsonl, .csv (both also .gz) or .parquet file")


def feature_blocks(path: Path, features: Sequence[str], ids: Sequence[str]) -> Iterator[FeatureBlock]:
    """The rows of a file; of an empty one a block without rows.

    Args:
        path: The file.
        features: Columns that make the matrix, in order.
        ids: Columns that go along as they are; of lines as texts.

    Raises:
        EventFileError: A column is missing, or holds no numbers in all of a Parquet file.
    """
    columns = column_names(path)
    missing = [name for name in (*features, *ids) if columns is not None and name not in columns]
    if columns is not None and missing:
        raise EventFileError(f"{path.name} has no column {', '.join(missing)}; it has {', '.join(columns)}")
    try:
        match file_kind(path):
            case "parquet":
                yield from _parquet_blocks(path, features, ids)
            case "csv":
                yield from _line_blocks(map(_numbers_of_texts(features), csv_rows(path)), features, ids)
            case _:
                yield from _line_blocks(jsonl_rows(path), features, ids)
    except (EOFError, OSError, pa.ArrowException) as error:
        raise EventFileError(f"{path.name} cannot be read: {error}") from error


def _parquet_blocks(path: Path, features: Sequence[str], ids: Sequence[str]) -> Iterator[FeatureBlock]:
    done = 0
    with pq.ParquetFile(path) as file:
        batches = file.iter_batches(BLOCK_ROWS, columns=list(dict.fromkeys([*features, *ids])))
        for batch in batches if file.metadata.num_rows else [pa.RecordBatch.from_pylist([], file.schema_arrow)]:
            found = np.empty((len(batch), len(features)))
            for place, name in enumerate(features):
                column = batch.column(batch.schema.get_field_index(name))
                kind = column.type
                if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
                    raise EventFileError(f"{path.name}: column {name} is {kind}, no numbers")
                # Arrow refuses whole numbers that a float does not hold exactly, which numpy rounds as a row's would be
                numbers = column.cast(pa.float64(), safe=False)
                found[:, place] = pc.fill_null(numbers, float("nan")).to_numpy(zero_copy_only=False)
            along = {name: _decoded(batch.column(batch.schema.get_field_index(name))) for name in ids}
            yield FeatureBlock(len(batch), np.arange(done + 1, done + 1 + len(batch)), found, along, [])
            done += len(batch)


def _line_blocks(
    rows: Iterator[Row | bytes | Refused], features: Sequence[str], ids: Sequence[str]
) -> Iterator[FeatureBlock]:
    done = 0
    while (block := list(islice(rows, BLOCK_ROWS))) or not done:
        found, places, refused = rows_of_features([row if isinstance(row, dict) else {} for row in block], features)
        for place, row in enumerate(block):
            if not isinstance(row, dict):
                refused[place] = row if isinstance(row, Refused) else _NOT_JSON
        good = [row for row, why in zip(block, refused, strict=True) if why is None and isinstance(row, dict)]
        along = {name: pa.array([_text(row.get(name)) for row in good], pa.string()) for name in ids}
        why = [(done + 1 + place, one) for place, one in enumerate(refused) if one is not None]
        yield FeatureBlock(len(block), np.array(places, np.int64) + done + 1, found, along, why)
        if not block:
            return
        done += len(block)


def _numbers_of_texts(features: Sequence[str]) -> Callable[[Any], Row | Refused]:
    """CSV's cells as numbers where they are; a cell that is none stays and is refused."""

    def convert(row: Any) -> Row | Refused:
        if None in row:  # it cannot be told which is whose
            return Refused("wrong_type", f"the row has {len(row[None])} cells beyond the header's columns")
        found = dict(row)
        for name in features:
            cell = found[name]
            if cell is None:  # a row that ends early
                del found[name]
            elif not cell.strip():
                found[name] = None
            else:
                try:
                    found[name] = float(cell)
                except ValueError:
                    continue
        return found

    return convert


def _decoded(column: Any) -> Any:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
