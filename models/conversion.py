"""Whether an ONNX graph scores as its source does: both scores of the same rows, and the worst row if they differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LARGEST_DIFFERENCE = 1e-5  # of a probability, between the source model and its ONNX graph


class ConversionError(ValueError):
    """The ONNX graph does not compute what the source model computes."""


@dataclass(frozen=True)
class Worst:
    """The row where two scores differ most.

    Attributes:
        row: Its place.
        difference: Between the scores; infinite where only one of them is a number.
    """

    row: int
    difference: float


def worst_row(scores: Floats, expected: Floats, *, relative: bool = False) -> Worst:
    """Where two scores of the same rows differ most; NaN is the same as NaN, infinity as itself.

    Args:
        scores: (n_rows,) or (n_rows, width).
        expected: The same.
        relative: Whether a difference counts relative to an expected score that is over 1: float32 has 7 digits.
    """
    with np.errstate(invalid="ignore"):
        differences = np.abs(scores - expected)
        if relative:
            differences = differences / np.maximum(np.abs(expected), 1.0)
    same = (scores == expected) | (np.isnan(scores) & np.isnan(expected))
    differences = np.where(same, 0.0, np.where(np.isnan(differences), np.inf, differences))
    if differences.ndim > 1:
        differences = differences.max(axis=1)
    row = int(np.argmax(differences))
    return Worst(row, float(differences[row]))


def refuse_difference(worst: Worst, rows: npt.NDArray[Any], names: Sequence[str], allowed: float) -> None:
    """Refuse a difference that is too large.

    Args:
        worst: Where the scores differ most.
        rows: (n_rows, n_names), what was scored.
        names: Of the columns.
        allowed: The largest difference.

    Raises:
        ConversionError: With the worst row.
    """
    if worst.difference <= allowed:
        return
    message = (
        f"ONNX and source model differ by {worst.difference:.2e} (allowed {allowed:.0e}), most in row {worst.row} of "
        f"{len(rows)}: {row_text(rows, worst.row, names)}"
    )
    raise ConversionError(message)


def row_text(rows: npt.NDArray[Any], row: int, names: Sequence[str]) -> str:
    """A row in words."""
    return ", ".join(f"{name}={value}" for name, value in zip(names, rows[row].tolist(), strict=True))
