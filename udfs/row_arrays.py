"""Rows to places, and rows to columns: what numpy does value by value, in loops that read memory in order."""

import numpy as np
import numpy.typing as npt

from udfs.compiled import compiled

_TOGETHER = 64  # rows: their columns stay in the cache while they are written


@compiled
def place_rows(
    values: npt.NDArray[np.float64], positions: npt.NDArray[np.uint32], rows: npt.NDArray[np.float64]
) -> None:
    """`rows[positions] = values`, of (m, width) and (n, width) float64."""
    for row in range(len(positions)):
        place = positions[row]
        for column in range(values.shape[1]):
            rows[place, column] = values[row, column]


@compiled
def turn_rows(rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]) -> None:
    """`columns[:] = rows.T`, of (n, width) and (width, n) float64."""
    for begin in range(0, len(rows), _TOGETHER):
        end = min(begin + _TOGETHER, len(rows))
        for column in range(rows.shape[1]):
            for row in range(begin, end):
                columns[column, row] = rows[row, column]
