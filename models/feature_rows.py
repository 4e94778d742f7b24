"""Rows of features from a Parquet or CSV file, by the names of its columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from models.outputs import Outputs

Floats = npt.NDArray[np.float64]
pa: Any = pyarrow
_csv: Any = pyarrow.csv
_parquet: Any = pyarrow.parquet


class FeatureRowsError(ValueError):
    """A file that has not the rows that are asked for; one line says why."""


def read_feature_rows(path: Path, names: Sequence[str]) -> Floats:
    """Columns of a file as one array; what is null is NaN.

    Args:
        path: A `.parquet` or `.csv` file; a training set of `millrace backfill` is one. CSV is read as floats.
        names: Its columns.

    Returns:
        (n_rows, n_names) float64, at least one row.

    Raises:
        FeatureRowsError: It is no such file, lacks a column, or has one without numbers.
    """
    if not path.is_file():
        raise FeatureRowsError(f"{path} is not a file: give a .parquet or .csv with a column for each feature")
    try:
        known = file_columns(path)
        missing = [name for name in names if name not in known]
        if missing:
            raise FeatureRowsError(f"{path.name} has no column {', '.join(missing)}; it has {', '.join(known)}")
        if path.suffix == ".csv":
            options = _csv.ConvertOptions(include_columns=list(names), column_types=dict.fromkeys(names, pa.float64()))
            table = _csv.read_csv(path, convert_options=options)
        else:
            table = _parquet.read_table(path, columns=list(names))
        columns = [_floats(table[name], name, path) for name in names]
    except (pa.ArrowException, OSError) as error:
        raise FeatureRowsError(f"{path.name} cannot be read: {' '.join(str(error).split()):.300}") from error
    if not len(table):
        raise FeatureRowsError(f"{path.name} has no rows")
    return np.stack(columns, axis=1)


def read_output_rows(path: Path, outputs: Outputs, names: Mapping[str, str]) -> Floats:
    """What a file says of each output of predictions.

    Args:
        path: As of `read_feature_rows`; only Parquet has columns of lists.
        outputs: Of the predictions.
        names: Column of each output.

    Returns:
        (n_rows, *outputs.shape) float64.

    Raises:
        FeatureRowsError: As of `read_feature_rows`; or a value is none of its output.
    """
    if outputs.is_number:
        return read_feature_rows(path, list(names.values()))[:, 0]
    if path.suffix == ".csv":
        raise FeatureRowsError(f"{path.name}: CSV has no columns of several numbers: give a .parquet file")
    missing = [name for name in names.values() if name not in file_columns(path)]
    if missing:
        raise FeatureRowsError(f"{path.name} has no column {', '.join(missing)}")
    try:
        columns = [_parquet.read_table(path, columns=[name])[name].to_pylist() for name in names.values()]
    except (pa.ArrowException, OSError) as error:
        raise FeatureRowsError(f"{path.name} cannot be read: {' '.join(str(error).split()):.300}") from error
    found = []
    for number, row in enumerate(zip(*columns, strict=True)):
        try:
            found.append(outputs.numbers(dict(zip(names, row, strict=True))))
        except ValueError as error:
            raise FeatureRowsError(f"{path.name}: row {number}: {error}") from error
    return np.array(found)


def file_columns(path: Path) -> list[str]:
    """Names of a file's columns.

    Raises:
        FeatureRowsError: It cannot be read.
    """
    try:
        names = _csv.open_csv(path).schema.names if path.suffix == ".csv" else _parquet.read_schema(path).names
    except (pa.ArrowException, OSError) as error:
        raise FeatureRowsError(f"{path.name} cannot be read: {' '.join(str(error).split()):.300}") from error
    return list(names)


def write_feature_rows(path: Path, rows: Floats, names: Sequence[str]) -> None:
    """Write rows (n_rows, n_names) as Parquet."""
    _parquet.write_table(pa.table({name: rows[:, place] for place, name in enumerate(names)}), path)


def _floats(column: Any, name: str, path: Path) -> Floats:
    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise FeatureRowsError(f"{path.name}: column {name} is {kind}, not numbers")
    values: Floats = column.cast(pa.float64()).to_numpy()
    return values
