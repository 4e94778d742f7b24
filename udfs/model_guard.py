"""What a model that was promoted with a guard does with its first events, and whether that is over a limit."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from models.comparison import stability_index
from models.outputs import SCORE, Number, Outputs
from udfs.model_schedule import Guard, ModelRef

Scores = npt.NDArray[np.float64]
Failed = Mapping[int, object]


class ModelWatch:
    """One model in one subtask.

    Args:
        model: Which.
        guard: The limits.
        outputs: Of the predictions; their numbers are looked at for a shift.

    Attributes:
        is_over: Whether there is nothing more to be seen: as many events as the guard says, or a limit.
    """

    def __init__(self, model: ModelRef, guard: Guard, outputs: Outputs = SCORE) -> None:
        self._model, self._guard, self._outputs = model, guard, outputs
        self._events, self._failed, self._elapsed_s = 0, 0, 0.0
        self._scores: list[Scores] = []
        self._before: list[Scores] = []
        self.is_over = False

    @property
    def needs_before(self) -> bool:
        """Whether the scores of the model before are wanted."""
        return self._guard.psi is not None

    def take(self, scores: Scores, failed: Failed, elapsed_s: float, before: tuple[Scores, Failed]) -> str:
        """Look at a batch.

        Args:
            scores: (n, *shape) of the model.
            failed: Events that it has none for, by place.
            elapsed_s: How long it took.
            before: The same of the model before for the same events; of no events where it was not asked.

        Returns:
            Which limit it is over, in words; "" if it is over none, or it cannot be told yet.
        """
        guard = self._guard
        self._events += len(scores)
        self._failed += len(failed)
        self._elapsed_s += elapsed_s
        before_scores, failed_before = before
        if len(before_scores):
            known = np.ones(len(scores), np.bool_)
            known[[*failed, *failed_before]] = False
            self._scores.append(scores[known])
            self._before.append(before_scores[known])
        if guard.failed_share is not None and self._failed > guard.failed_share * guard.events:
            most = f"{guard.failed_share:.4g} of {guard.events:,}"
            return self._over(f"{self._failed:,} have no score of it, more than {most}")
        if self._events < guard.events:
            return ""
        self.is_over = True
        us_per_row = self._elapsed_s * 1e6 / self._events
        if guard.us_per_row is not None and us_per_row > guard.us_per_row:
            return self._over(f"it took {us_per_row:,.0f} us a row, more than {guard.us_per_row:g}")
        compared = sum(map(len, self._scores))
        if guard.psi is not None and compared:
            was, new = (self._outputs.parts(np.concatenate(each)) for each in (self._before, self._scores))
            for (one, scores_before), (_, scores_now) in zip(was, new, strict=True):
                shift = stability_index(scores_before, scores_now) if isinstance(one, Number) else 0.0
                if shift > guard.psi:
                    name = "scores are" if self._outputs.is_number else f"{one.name} is"
                    return self._over(f"its {name} shifted by a PSI of {shift:.3g}, more than {guard.psi:g}")
        return ""

    def _over(self, what: str) -> str:
        self.is_over = True
        return f"{self._model}: after {self._events:,} events in a subtask, {what}"
