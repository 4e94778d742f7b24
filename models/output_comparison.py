"""Predictions of two models for the same events, by output: vectors by distance, labels by agreement."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.comparison import Comparison, Estimate, compare, mean_estimate, share_estimate
from models.outputs import Label, Number, Outputs, Vector, distances

Floats = npt.NDArray[np.float64]
_MOST_CHANGES = 10


@dataclass(frozen=True)
class Spread:
    """Distances of vectors: their mean, median, 99th percentile and the largest."""

    mean: Estimate
    p50: float
    p99: float
    largest: float


@dataclass(frozen=True)
class VectorComparison:
    """Vectors of two models.

    Attributes:
        count: How many events.
        same: Events with the same vector, to the last bit.
        cosine: Of 1 - the cosine of their angle.
        euclidean: Of the length of their difference.
    """

    count: int
    same: int
    cosine: Spread
    euclidean: Spread

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@dataclass(frozen=True)
class LabelComparison:
    """Labels of two models.

    Attributes:
        count: How many events.
        agreement: Share of events with the same label.
        changes: Events by label of the first and of the second model, where they differ; the most frequent ones.
    """

    count: int
    agreement: Estimate
    changes: tuple[tuple[str | int, str | int, int], ...]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


OutputComparison = Comparison | VectorComparison | LabelComparison


def compare_outputs(
    outputs: Outputs, a: Floats, b: Floats, labels: Floats | None = None, *, threshold: float = 0.5
) -> dict[str, OutputComparison]:
    """Compare two models.

    Args:
        outputs: Of both.
        a: (n, *outputs.shape) of the first, finite, n at least 1.
        b: The same of the second, for the same events.
        labels: (n,) what came, for outputs that are numbers; see `models.comparison.compare`.
        threshold: Of numbers.

    Returns:
        By the outputs' names.
    """
    found = dict[str, OutputComparison]()
    for (one, first), (_, second) in zip(outputs.parts(a), outputs.parts(b), strict=True):
        if isinstance(one, Number):
            found[one.name] = compare(first, second, labels, threshold=threshold)
        elif isinstance(one, Vector):
            spreads = {name: _spread(values) for name, values in distances(first, second).items()}
            found[one.name] = VectorComparison(len(first), int((first == second).all(axis=1).sum()), **spreads)
        else:
            found[one.name] = _labels(one, first, second)
    return found


def _spread(values: Floats) -> Spread:
    p50, p99 = np.quantile(values, (0.5, 0.99)).tolist()
    return Spread(mean_estimate(values), p50, p99, float(values.max()))


def _labels(one: Label, first: Floats, second: Floats) -> LabelComparison:
    differ = first != second
    pairs = Counter(zip(first[differ].astype(int).tolist(), second[differ].astype(int).tolist(), strict=True))
    changes = tuple((one.classes[a], one.classes[b], count) for (a, b), count in pairs.most_common(_MOST_CHANGES))
    return LabelComparison(len(first), share_estimate(int((~differ).sum()), len(first)), changes)
