"""Scores of a batch by one model: of every row that has one, and why the others have none."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.budget import OverBudgetError, TimedModel
from models.outputs import SCORE, Outputs
from udfs.refused import Refused

Features = npt.NDArray[np.float64]


class Model(Protocol):
    """What scoring needs of a model."""

    def predict(self, features: Features) -> npt.NDArray[np.float64]:
        """Scores (n, *shape) of features (n, F), as of `models.outputs`; raises when a row cannot be scored."""


def predict_batch(
    model: Model, features: Features, outputs: Outputs = SCORE
) -> tuple[Features, dict[int, Refused]]:
    """As `predict_each`, within the model's budget if it has one."""
    if not isinstance(model, TimedModel):
        return predict_each(model, features, outputs)
    with model.batch():
        return predict_each(model, features, outputs)


def predict_each(model: Model, features: Features, outputs: Outputs = SCORE) -> tuple[Features, dict[int, Refused]]:
    """One call for all rows; if it fails, halves until only the rows that fail are left.

    A score that is not a number cannot be written as JSON and helps nobody: its row counts as failed.

    Args:
        model: Scores the rows.
        features: (n, F) float64.
        outputs: What it gives.

    Returns:
        Scores (n, *outputs.shape) float64, and why rows failed by their place; what their scores are then means
        nothing.
    """
    try:
        scores = model.predict(features)
    except OverBudgetError as error:  # a part of the rows would have no more time
        why = Refused("model_over_budget", str(error))
        return outputs.nothing(len(features)), dict.fromkeys(range(len(features)), why)
    except Exception as error:  # whatever a model raises, it is this row's or that row's fault, not the job's
        if len(features) == 1:
            return outputs.nothing(1), {0: Refused("model_failed", f"{type(error).__name__}: {error}")}
        half = len(features) // 2
        first, first_failed = predict_each(model, features[:half], outputs)
        second, second_failed = predict_each(model, features[half:], outputs)
        failed = first_failed | {half + place: why for place, why in second_failed.items()}
        return np.concatenate([first, second]), failed
    odd = np.flatnonzero(~outputs.finite(scores)).tolist()
    return scores, {place: Refused("model_failed", outputs.problem(scores[place])) for place in odd}
