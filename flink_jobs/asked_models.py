"""The models of a subtask as requests are scored by them: as of their time, as events are."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from flink_jobs.model_serving import ModelServing
from models.outputs import Outputs
from udfs.predicting import Features, predict_batch
from udfs.receipts import NamedModel, Receipt
from udfs.refused import Refused
from udfs.served_models import Duties, Role


class AskedModels:
    """`ModelServing` for requests.

    Anybody may make them up: they say nothing of how far events have come, and no guard looks at their scores.

    Args:
        serving: Of the subtask.
        outputs: What models give.
    """

    def __init__(self, serving: ModelServing, outputs: Outputs) -> None:
        self._serving, self._outputs = serving, outputs

    def duties(
        self, shards: Sequence[int], ends: Sequence[int], times_ms: npt.NDArray[np.int64], entities: Sequence[str]
    ) -> Duties:
        """See `ModelServing.duties`."""
        return self._serving.served.duties(shards, ends, times_ms, entities)

    def predict(self, role: Role, features: Features) -> tuple[Features, dict[int, Refused]]:
        """See `ModelServing.predict`."""
        return predict_batch(self._serving.model(role), features, self._outputs)

    def receipt(self, role: Role) -> Receipt:
        """See `ModelServing.receipt`."""
        return self._serving.receipt(role)

    def named(self, role: Role) -> NamedModel:
        """See `ModelServing.named`."""
        return self._serving.named(role)
