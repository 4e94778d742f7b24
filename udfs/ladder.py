"""The ladder at work: what scores the events of a batch that the model whose duty it is has no score for."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from udfs.fallbacks import LastScore, OtherModel
from udfs.last_scores import LastScores, Scored
from udfs.pipeline import Pipeline
from udfs.predicting import Model, predict_batch
from udfs.receipts import NamedModel, Receipt
from udfs.refused import Refused
from udfs.scored_events import ScoredEvents


class OpenedRung(NamedTuple):
    """A model on the ladder, and what receipts say of it."""

    model: Model
    named: NamedModel


class Ladder:
    """The fallbacks of a pipeline in one subtask.

    Args:
        pipeline: Whose.
        others: Its other models, by version.

    Attributes:
        counts: How many events each rung has scored, by its label.
        last_scores: By shard; whoever restores shards puts them here. Empty where the ladder has no use for them.
        on_use: Told name/version and sha256 of each model before it scores.
    """

    def __init__(self, pipeline: Pipeline, others: Mapping[int, OpenedRung]) -> None:
        self._pipeline, self._others, self._rungs = pipeline, others, pipeline.fallbacks
        self.on_use: Callable[[str, str], None] = lambda *_: None
        self.counts = {rung.label: 0 for rung in self._rungs}
        self.last_scores: dict[int, LastScores] = {}
        self._receipts: dict[tuple[int, NamedModel, str], Receipt] = {}
        # scores of these are no model's, and not to be remembered
        self._no_models = [1 + place for place, each in enumerate(self._rungs) if not isinstance(each, OtherModel)]
        self._last_score = next((each for each in self._rungs if isinstance(each, LastScore)), None)

    @property
    def remembers(self) -> bool:
        """Whether it needs `last_scores`."""
        return self._last_score is not None

    def restored(self, entries: Mapping[int, bytes]) -> LastScores:
        """What a shard knows, from the entries that `LastScores.take_changes` gave; only for one that `remembers`."""
        assert self._last_score is not None
        return LastScores.restore(self._last_score.within_ms, self._last_score.most_entities, entries.items())

    def climb_down(
        self, scored: ScoredEvents, failed: Mapping[int, Refused], crashed: Mapping[str, str]
    ) -> tuple[ScoredEvents, dict[int, Refused]]:
        """Score what failed.

        Args:
            scored: n events with their scores.
            failed: Why events have none, by place.
            crashed: sha256 of models that kill their process on these events; rungs of theirs are left out.

        Returns:
            The events with what their scores are now and which rung gave them, and those that still have none.
        """
        scores, rungs, left = scored.scores.copy(), np.zeros(len(scored), np.intp), dict(failed)
        for number, rung in enumerate(self._rungs, 1):
            if not left:
                break
            places = np.array(sorted(left), np.intp)
            found = np.ones(len(places), np.bool_)
            if isinstance(rung, OtherModel):
                other = self._others[rung.version]
                if other.named.sha256 in crashed:
                    continue
                self.on_use(f"{other.named.name}/{other.named.version}", other.named.sha256)
                others, none = predict_batch(other.model, scored.features[places], self._pipeline.outputs)
                found[list(none)] = False
                scores[places[found]] = others[found]
            elif isinstance(rung, LastScore):
                found = self._last_scored(scored, scores, places, left)
            else:
                scores[places] = rung.score
            rungs[places[found]] = number
            self.counts[rung.label] += int(found.sum())
            for place in places[found].tolist():
                del left[place]
        return replace(scored, scores=scores, rungs=rungs), left

    def _last_scored(
        self,
        scored: ScoredEvents,
        scores: npt.NDArray[np.float64],
        places: npt.NDArray[np.intp],
        left: Mapping[int, Refused],
    ) -> npt.NDArray[np.bool_]:
        """Fill in what events before said, of this batch or of those before; whether there was something."""
        assert scored.owners is not None
        entities, shards = scored.owners.entities, scored.owners.shards.tolist()
        wanted = {entities[place] for place in places.tolist()}
        recent: dict[str, Scored] = {}
        found: list[bool] = []
        times_ms = scored.times_ms.tolist()
        for place, entity in enumerate(entities):
            if place in left:
                known = self.last_scores[shards[place]]
                last = recent.get(entity) or known.get(entity)
                is_found = last is not None and known.is_of_use(last, times_ms[place])
                found.append(is_found)
                if last is not None and is_found:
                    scores[place] = last.score
            elif entity in wanted:
                recent[entity] = Scored(float(scores[place]), times_ms[place])
        return np.array(found, np.bool_)

    def note(self, scored: ScoredEvents) -> None:
        """Remember what models said, in order of arrival."""
        if scored.rungs is not None:
            scored = scored.part(np.flatnonzero(~np.isin(scored.rungs, self._no_models)))
        if scored.owners is None:
            return
        entities, shards = scored.owners
        scores, times_ms = scored.scores.tolist(), scored.times_ms.tolist()
        borders = [0, *(np.flatnonzero(np.diff(shards)) + 1).tolist(), len(scored)]
        for begin, end in pairwise(borders):
            if begin < end:
                part = slice(begin, end)
                self.last_scores[int(shards[begin])].note(entities[part], scores[part], times_ms[part])

    def receipt(self, rung: int, served: NamedModel, role: str) -> Receipt:
        """The receipt of what a rung scored.

        Args:
            rung: Its number, from 1 on.
            served: The model whose duty it was.
            role: What that is among several models.
        """
        key = rung, served, role
        if key not in self._receipts:
            named, label = self.named(rung, served)
            self._receipts[key] = Receipt.of(self._pipeline, named, role=role, fallback=label)
        return self._receipts[key]

    def named(self, rung: int, served: NamedModel) -> tuple[NamedModel, str]:
        """Which model receipts name for a rung, and its label; arguments as of `receipt`."""
        fallback = self._rungs[rung - 1]
        return self._others[fallback.version].named if isinstance(fallback, OtherModel) else served, fallback.label
