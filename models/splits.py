"""Which rows a model is fitted on, which say when to stop, and which it is measured on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Truths = npt.NDArray[np.bool_]

HELD_OUT_SHARE = 0.15  # for validation (when to stop) and again for the test (the metrics)


@dataclass(frozen=True)
class Split:
    """Masks (n_rows,) of three parts that share no row; rows in none of them are left out.

    Attributes:
        training: Fitted on.
        validation: Tell when more gains nothing.
        test: Measured on.
        facts: How it was made, for the manifest.
    """

    training: Truths
    validation: Truths
    test: Truths
    facts: Mapping[str, Any] = field(default_factory=dict)

    def parts(self) -> tuple[tuple[str, Truths], ...]:
        """Each part with its name."""
        return ("training", self.training), ("validation", self.validation), ("test", self.test)


def split_by_entity(groups: npt.NDArray[Any], seed: int) -> Split:
    """All rows of an entity in one part; the order of the rows does not matter.

    Args:
        groups: (n_rows,) entity of each row.
        seed: Of the choice.
    """
    entities, entity_of_row = np.unique(groups, return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(entities))[entity_of_row]
    held_out = max(1, round(len(entities) * HELD_OUT_SHARE))
    return Split(place >= 2 * held_out, (place >= held_out) & (place < 2 * held_out), place < held_out)


def split_by_time(times_ms: npt.NDArray[np.int64], horizon_ms: int) -> Split:
    """The last rows are the test, those before them the validation; the order of the rows does not matter.

    A label looks ahead by the horizon. A row whose label reaches into the next part is left out: a model must not be
    fitted on what happened in the time it is measured on.

    Args:
        times_ms: (n_rows,) int64: event times.
        horizon_ms: How far a label looks ahead.
    """
    ordered = np.sort(times_ms)
    cuts = [int(ordered[int(len(ordered) * (1 - share * HELD_OUT_SHARE))]) for share in (2, 1)]
    validation_ms, test_ms = cuts
    known_ms = times_ms + horizon_ms
    split = Split(
        known_ms < validation_ms, (times_ms >= validation_ms) & (known_ms < test_ms), times_ms >= test_ms
    )
    left_out = len(times_ms) - int(sum(part.sum() for _, part in split.parts()))
    facts = {
        "split": "time", "validation_from_ms": validation_ms, "test_from_ms": test_ms, "left_out_at_the_cuts": left_out,
    }  # fmt: skip
    return Split(split.training, split.validation, split.test, facts)
