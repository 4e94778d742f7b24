"""The events of a micro-batch on their way from features to predictions; those that fail on it are taken out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from udfs.entity_state import Advanced


class Owners(NamedTuple):
    """n entities, and (n,) the shards that they are in."""

    entities: Sequence[str]
    shards: npt.NDArray[np.int64]

    def part(self, places: npt.NDArray[np.int64]) -> "Owners":
        """Some of them."""
        return Owners([self.entities[place] for place in places.tolist()], self.shards[places])


@dataclass(frozen=True, slots=True)
class ScoredEvents:
    """n events of a batch of records.

    Attributes:
        events: Decoded.
        rows: (n,) int64: which record each is; None when all records of the batch are events still.
        times_ms: (n,) int64.
        features: (n, F) float64.
        flags: (n,) uint8, as of `Advanced`.
        warming: As of `Advanced`.
        scores: (n, *shape) float64, as of `models.outputs`; without meaning before the model was asked.
        which: (n,) whose duty it is to score each, as of `Duties`; None where one model scores all.
        rungs: (n,) which rung of the ladder scored each, 0 for the model whose duty it is; None where that scored all.
        owners: Whose events they are; None where nobody asks.
        seen: Which rows of lookups each saw, as of `udfs.lookup_join.Joined`; None where there are no lookups.
    """

    events: Sequence[Any]
    rows: npt.NDArray[np.int64] | None
    times_ms: npt.NDArray[np.int64]
    features: npt.NDArray[np.float64]
    flags: npt.NDArray[np.uint8]
    warming: list[str] | None
    scores: npt.NDArray[np.float64]
    which: npt.NDArray[np.intp] | None = None
    rungs: npt.NDArray[np.intp] | None = None
    owners: Owners | None = None
    seen: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.events)

    def row_of(self, place: int) -> int:
        """Which record an event is."""
        return place if self.rows is None else int(self.rows[place])

    def part(self, places: npt.NDArray[np.int64]) -> "ScoredEvents":
        """Some of them."""
        return ScoredEvents(
            [self.events[place] for place in places.tolist()],
            places if self.rows is None else self.rows[places],
            self.times_ms[places],
            self.features[places],
            self.flags[places],
            self.warming and [self.warming[place] for place in places.tolist()],
            self.scores[places] if len(self.scores) else self.scores,
            None if self.which is None else self.which[places],
            None if self.rungs is None else self.rungs[places],
            self.owners and self.owners.part(places),
            self.seen and [self.seen[place] for place in places.tolist()],
        )

    def without(self, failed: Mapping[int, object]) -> "ScoredEvents":
        """All but those at some places."""
        return self.part(np.array([place for place in range(len(self)) if place not in failed], np.int64))


def joined(parts: Sequence[Advanced]) -> Advanced:
    """What several shards gave, one after the other."""
    failed, begin = dict[int, str](), 0
    for part in parts:
        failed |= {begin + place: why for place, why in part.failed.items()}
        begin += len(part.flags)
    warming = None
    if any(part.warming is not None for part in parts):
        warming = [text for part in parts for text in part.warming or [""] * len(part.flags)]
    features = np.concatenate([part.features for part in parts])
    return Advanced(features, np.concatenate([part.flags for part in parts]), warming, failed)
