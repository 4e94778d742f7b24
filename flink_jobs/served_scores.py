"""The scores of a model for rows that were served, whatever the batches were that the job scored them in.

A kernel may round a row by its place in the call: vector registers take several numbers at once and what is left over
another way, and a matrix of one row is multiplied by other code than one of many. So a score is the one that was served
if the model says it, to the last bit, for this row in a batch of some size.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.onnx_model import OnnxModel
from models.outputs import Floats, Outputs
from udfs.predicting import predict_each
from udfs.refused import Refused

Truths = npt.NDArray[np.bool_]
SIZES = 1, 64, 2, 3, 4, 7, 8, 15, 16, 31, 129
"""Of batches that are tried: registers hold up to 16 numbers, and kernels take up to 4 of them at once."""
_NEAR, _NEARLY_ZERO = 1e-3, 1e-6  # no other batch makes up for more
_MOST_MISSES = 1_000  # then something else is the matter


class ServedScores(NamedTuple):
    """What a model says of n rows.

    Attributes:
        scores: (n, *shape); what was served where the model says that in a batch of some size.
        failed: Why rows failed, by their place.
        otherwise: (n,) which rows the model scores otherwise when all are scored in one call.
    """

    scores: Floats
    failed: dict[int, Refused]
    otherwise: Truths


def scores_as_served(model: OnnxModel, features: Floats, served: Floats, outputs: Outputs) -> ServedScores:
    """Score rows again.

    Args:
        model: That served them.
        features: (n, F).
        served: (n, *shape).
        outputs: Of the model.
    """
    scores, failed = predict_each(model, features, outputs)
    other = np.flatnonzero(~outputs.alike(scores, served) & _near(outputs, scores, served))
    otherwise, misses = np.zeros(len(scores), np.bool_), 0
    for row in other.tolist():
        if row not in failed and misses < _MOST_MISSES:
            otherwise[row] = _says(model, features[row], served[row], outputs)
            misses = 0 if otherwise[row] else misses + 1
    scores = scores.copy()
    scores[otherwise] = served[otherwise]
    return ServedScores(scores, failed, otherwise)


def _says(model: OnnxModel, row: Floats, served: Floats, outputs: Outputs) -> bool:
    for size in SIZES:
        scores, failed = predict_each(model, np.repeat(row[None, :], size, axis=0), outputs)
        if not failed and outputs.alike(scores, np.broadcast_to(served, scores.shape)).any():
            return True
    return False


def _near(outputs: Outputs, a: Floats, b: Floats) -> Truths:
    near: Truths = np.isclose(a, b, _NEAR, _NEARLY_ZERO)
    return near if outputs.is_number else np.logical_and.reduce(near, axis=1)
