"""Outputs of predictions as columns of Arrow tables."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow

from models.outputs import Label, Output, Outputs, Vector

pa: Any = pyarrow


def output_type(one: Output) -> Any:
    """Arrow's type of an output."""
    if isinstance(one, Label):
        return pa.string() if isinstance(one.classes[0], str) else pa.int64()
    return pa.list_(pa.float64()) if isinstance(one, Vector) else pa.float64()


def output_columns(outputs: Outputs, scores: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Columns of n predictions, by name.

    Args:
        outputs: What they have.
        scores: (n, *outputs.shape), finite where there are vectors or labels.
    """
    if outputs.is_number:
        return {outputs.names[0]: pa.array(scores)}
    pairs = zip(outputs.each, outputs.columns(scores), strict=True)
    return {one.name: pa.array(values, output_type(one)) for one, values in pairs}
