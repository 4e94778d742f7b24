"""Scores of a batch by the models whose duty each event is."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.outputs import Outputs
from udfs.predicting import Features, Model, predict_batch
from udfs.receipts import NamedModel, Receipt
from udfs.refused import Refused
from udfs.scored_events import ScoredEvents
from udfs.served_models import Duties, Role, by_role


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


class DutyScores:
    """Scores by the models whose duty each event is.

    Args:
        model: The pipeline's own.
        named: What receipts say of it.
        choice: Has the models of duties; None means always `model`.
        outputs: What models give.
    """

    def __init__(self, model: Model, named: NamedModel, choice: ModelChoice | None, outputs: Outputs) -> None:
        self._model, self._named, self._choice, self._outputs = model, named, choice, outputs

    def of(
        self, scored: ScoredEvents, duties: Duties | None, crashed: Mapping[str, str]
    ) -> tuple[Features, dict[int, Refused]]:
        """What `predict_each` gives; a model that kills its process fails on all.

        Args:
            scored: n events, not scored yet.
            duties: Who scores them; None means the pipeline's own model.
            crashed: How models kill their process on these events, by the models' sha256: they are not asked.
        """
        count, features, outputs = len(scored), scored.features, self._outputs
        if self._choice is None or duties is None:
            if self._named.sha256 in crashed:
                return _crashed(crashed[self._named.sha256], count, outputs)
            return predict_batch(self._model, features, outputs)
        scores, failed = outputs.nothing(count), dict[int, Refused]()
        for role, places in by_role(duties.known, scored.which, count).items():
            if role.model.sha256 in crashed:
                part, part_failed = _crashed(crashed[role.model.sha256], len(places), outputs)
            else:
                part, part_failed = self._choice.predict(role, features if len(places) == count else features[places])
            scores[places] = part
            failed |= {int(places[place]): why for place, why in part_failed.items()}
        return scores, failed


def _crashed(how: str, count: int, outputs: Outputs) -> tuple[Features, dict[int, Refused]]:
    return outputs.nothing(count), dict.fromkeys(range(count), Refused("model_crashed", how))
