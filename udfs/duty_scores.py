"""Scores of a batch by the models whose duty each event is."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from udfs.predicting import Features, Model, predict_batch
from udfs.receipts import NamedModel, Receipt
from udfs.refused import Refused
from udfs.served_models import Duties, Role, Which, by_role


class ModelChoice(Protocol):
    """Which model scores which event, where it may be another than the pipeline's own."""

    def duties(
        self, shards: Sequence[int], ends: Sequence[int], times_ms: npt.NDArray[np.int64], entities: Sequence[str]
    ) -> Duties:
        """Who scores each event; see `ServedModels.duties`."""

    def predict(self, role: Role, features: Features) -> tuple[Features, dict[int, Refused]]:
        """What `predict_batch` gives for a role's model."""

    def receipt(self, role: Role) -> Receipt:
        """The receipt of its predictions."""

    def named(self, role: Role) -> NamedModel:
        """What receipts say of it."""


def scores_by_duty(
    model: Model,
    named: NamedModel,
    choice: ModelChoice | None,
    features: Features,
    which: Which,
    duties: Duties | None,
    crashed: Mapping[str, str],
) -> tuple[Features, dict[int, Refused]]:
    """What `predict_each` gives, of the models whose duty it is; one that kills its process fails on all.

    Args:
        model: The pipeline's own.
        named: What receipts say of it.
        choice: Has the models of duties; None means always `model`.
        features: (n, F) float64.
        which: (n,) whose duty each row is, as of `Duties`; None where one model scores all.
        duties: Who scores; None means `model`.
        crashed: How models kill their process on these rows, by the models' sha256: they are not asked.
    """
    count = len(features)
    if choice is None or duties is None:
        if named.sha256 in crashed:
            return _crashed(crashed[named.sha256], count)
        return predict_batch(model, features)
    scores, failed = np.zeros(count), dict[int, Refused]()
    for role, places in by_role(duties.known, which, count).items():
        if role.model.sha256 in crashed:
            part, part_failed = _crashed(crashed[role.model.sha256], len(places))
        else:
            part, part_failed = choice.predict(role, features if len(places) == count else features[places])
        scores[places] = part
        failed |= {int(places[place]): why for place, why in part_failed.items()}
    return scores, failed


def _crashed(how: str, count: int) -> tuple[Features, dict[int, Refused]]:
    return np.zeros(count), dict.fromkeys(range(count), Refused("model_crashed", how))
