"""The outputs of a graph in the terms of a prediction: what onnxruntime gives for rows, as numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from models.manifest import OutputBinding

Floats = npt.NDArray[np.float64]


class OutputShapeError(ValueError):
    """A graph gave something else than its manifest says."""


class OutputReader:
    """Reads one output of a prediction.

    Args:
        binding: Where it is.
        where: What errors call the model.
    """

    def __init__(self, binding: OutputBinding, where: str) -> None:
        self._binding, self._where = binding, where
        self._codes = {label: float(code) for code, label in enumerate(binding.labels)}
        kinds: dict[str, Callable[[Any, int], Floats]] = {
            "tensor": self._tensor, "zipmap": self._zipmap, "sequence": self._sequence,
        }  # fmt: skip
        self.read = kinds[binding.kind]

    def _tensor(self, output: npt.NDArray[Any], rows: int) -> Floats:
        """(rows,) of a number or label, whose code is NaN if it is none of the classes; (rows, size) of a vector."""
        binding = self._binding
        if rows != 1 and (output.ndim == 0 or len(output) != rows):
            message = f"{self._where}: output {binding.name!r} has shape {output.shape} for {rows} rows"
            raise OutputShapeError(message)
        numbers = output.reshape(rows, -1)
        if binding.size is not None:
            if numbers.shape[1] != binding.size:
                message = (
                    f"{self._where}: output {binding.name!r} has {numbers.shape[1]} numbers a row, {binding.field} is "
                    f"of {binding.size}"
                )
                raise OutputShapeError(message)
            return numbers.astype(np.float64)
        column = numbers[:, binding.column]
        if self._codes:
            return np.array([self._codes.get(label, np.nan) for label in column.tolist()])
        return column.astype(np.float64)

    def _zipmap(self, output: list[dict[Any, float]], rows: int) -> Floats:
        keys = self._binding.class_keys
        if keys:
            return np.array([[scores[key] for key in keys] for scores in output], np.float64)
        key = self._binding.class_key
        return np.fromiter((scores[key] for scores in output), np.float64, rows)

    def _sequence(self, output: list[npt.NDArray[Any]], rows: int) -> Floats:
        return self._tensor(output[self._binding.item or 0], rows)
