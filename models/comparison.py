"""Two models on the same events: how far their scores agree and, with labels, which is better, with intervals of 95 %.

Values in, values out. Intervals of means are normal ones (n is in the thousands wherever this is used), those of shares
are Wilson's, those of areas under the ROC curve are DeLong's: their covariance makes the comparison a paired one.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 10
_Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""
_LEAST_PROBABILITY = 1e-15


@dataclass(frozen=True)
class Estimate:
    """A number and the interval that holds the true one in 95 of 100 samples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Distribution:
    """Scores of a model: their mean and quantiles by level."""

    mean: float
    quantiles: Mapping[float, float]


@dataclass(frozen=True)
class CalibrationBin:
    """Events with neighbouring scores: how many, their mean score, and the share of them that were positive."""

    count: int
    mean_score: float
    positive: Estimate


@dataclass(frozen=True)
class Quality:
    """How good a model's scores are against labels.

    Attributes:
        auc: Area under the ROC curve; None where all labels are alike.
        log_loss: Mean of -log of the probability given to what came; None where scores are no probabilities.
        brier: Mean squared distance of score and label; None as above.
        calibration: Bins of equally many events by score; empty as above.
    """

    auc: Estimate | None
    log_loss: Estimate | None
    brier: Estimate | None
    calibration: tuple[CalibrationBin, ...]


@dataclass(frozen=True)
class LabelledComparison:
    """Both models against labels; differences are b - a, of the same events.

    Attributes:
        count: Events with a label.
        positive: Share of positives among them.
        a: The first model.
        b: The second one.
        auc: Difference of the areas.
        log_loss: Difference of the losses: below 0, b is better.
        brier: As `log_loss`.
    """

    count: int
    positive: float
    a: Quality
    b: Quality
    auc: Estimate | None
    log_loss: Estimate | None
    brier: Estimate | None


@dataclass(frozen=True)
class Comparison:
    """Scores of two models of the same events.

    Attributes:
        count: How many events.
        a: Of the first model.
        b: Of the second one.
        difference: Mean of b - a.
        largest_difference: Largest absolute one.
        correlation: Pearson's; None where one model's scores are all equal.
        ks: Kolmogorov and Smirnov's largest distance between the two distributions.
        psi: Population stability index over ten classes with equally many of a's scores; above 0.25 is held a shift.
        agreement: Share of events with the same decision.
        yes_to_no: Events that a decides positively and b does not.
        no_to_yes: The reverse.
        labelled: With labels.
    """

    count: int
    a: Distribution
    b: Distribution
    difference: Estimate
    largest_difference: float
    correlation: float | None
    ks: float
    psi: float
    agreement: Estimate
    yes_to_no: int
    no_to_yes: int
    labelled: LabelledComparison | None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def compare(a: Floats, b: Floats, labels: Floats | None = None, *, threshold: float = 0.5) -> Comparison:
    """Compare two models.

    Args:
        a: (n,) scores of the first, finite.
        b: (n,) scores of the second for the same events, finite.
        labels: (n,) 0 or 1, NaN where none is known.
        threshold: A score at or above it is a yes.

    Raises:
        ValueError: There is no event, or the lengths differ.
    """
    if len(a) == 0 or len(a) != len(b) or (labels is not None and len(labels) != len(a)):
        message = f"{len(a)} and {len(b)} scores: give those of the same events, at least one"
        raise ValueError(message)
    yes_a, yes_b = a >= threshold, b >= threshold
    known = None if labels is None else np.isfinite(labels)
    labelled = None
    if labels is not None and known is not None and known.any():
        labelled = _with_labels(a[known], b[known], labels[known] > 0)
    varies = a.std() > 0 and b.std() > 0
    return Comparison(
        count=len(a),
        a=_distribution(a),
        b=_distribution(b),
        difference=mean_estimate(b - a),
        largest_difference=float(np.abs(b - a).max()),
        correlation=float(np.corrcoef(a, b)[0, 1]) if varies else None,
        ks=ks_distance(a, b),
        psi=stability_index(a, b),
        agreement=share_estimate(int((yes_a == yes_b).sum()), len(a)),
        yes_to_no=int((yes_a & ~yes_b).sum()),
        no_to_yes=int((~yes_a & yes_b).sum()),
        labelled=labelled,
    )


@dataclass(frozen=True)
class GroupComparison:
    """Scores of two models of different entities, as champion and challenger have them; differences are b - a.

    Attributes:
        counts: Events of each.
        a: Of the first model.
        b: Of the second one.
        difference: Of the mean scores.
        ks: As of `Comparison`.
        psi: As of `Comparison`.
        labelled: Events with a label, of each.
        auc_a: Area under the ROC curve; None without labels of both kinds.
        auc_b: As `auc_a`.
        auc: Difference of the areas.
    """

    counts: tuple[int, int]
    a: Distribution
    b: Distribution
    difference: Estimate
    ks: float
    psi: float
    labelled: tuple[int, int]
    auc_a: Estimate | None
    auc_b: Estimate | None
    auc: Estimate | None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def compare_groups(
    a: Floats, b: Floats, labels_a: Floats | None = None, labels_b: Floats | None = None
) -> GroupComparison:
    """Compare two models that scored different events; arguments as of `compare`, lengths may differ."""
    if len(a) == 0 or len(b) == 0:
        message = f"{len(a)} and {len(b)} scores: there must be some of each model"
        raise ValueError(message)
    areas, known = [], []
    for scores, labels in ((a, labels_a), (b, labels_b)):
        has = np.zeros(len(scores), bool) if labels is None else np.isfinite(labels)
        known.append(int(has.sum()))
        areas.append(None if labels is None else roc_areas(scores[has][None, :], labels[has] > 0))
    first, second = areas
    auc = None
    if first is not None and second is not None:
        variance = float(first.covariance[0, 0] + second.covariance[0, 0])
        auc = _around(float(second.areas[0] - first.areas[0]), variance)
    spread = float(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)) if min(len(a), len(b)) > 1 else 0.0
    return GroupComparison(
        counts=(len(a), len(b)),
        a=_distribution(a),
        b=_distribution(b),
        difference=_around(float(b.mean() - a.mean()), spread),
        ks=ks_distance(a, b),
        psi=stability_index(a, b),
        labelled=(known[0], known[1]),
        auc_a=None if first is None else first.estimate(0),
        auc_b=None if second is None else second.estimate(0),
        auc=auc,
    )


def _around(value: float, variance: float) -> Estimate:
    half = _Z * max(0.0, variance) ** 0.5
    return Estimate(value, value - half, value + half)


def _distribution(scores: Floats) -> Distribution:
    levels = np.quantile(scores, QUANTILES).tolist()
    return Distribution(float(scores.mean()), dict(zip(QUANTILES, levels, strict=True)))


def mean_estimate(values: Floats) -> Estimate:
    """The mean, with the interval of the central limit theorem; of one value there is no interval but itself."""
    mean = float(values.mean())
    half = _Z * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return Estimate(mean, mean - half, mean + half)


def share_estimate(hits: int, count: int) -> Estimate:
    """A share, with the score interval of E. B. Wilson, "Probable inference", JASA 22 (1927)."""
    share, square = hits / count, _Z**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = _Z / (1 + square / count) * (share * (1 - share) / count + square / (4 * count**2)) ** 0.5
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half))


def ks_distance(a: Floats, b: Floats) -> float:
    """Largest distance of the two empirical distribution functions."""
    places = np.concatenate([a, b])
    below_a = np.searchsorted(np.sort(a), places, side="right") / len(a)
    below_b = np.searchsorted(np.sort(b), places, side="right") / len(b)
    return float(np.abs(below_a - below_b).max())


def stability_index(a: Floats, b: Floats, classes: int = 10) -> float:
    """Sum of (p_b - p_a) ln(p_b / p_a) over classes that a's quantiles part; an empty one counts as half an event."""
    borders = np.unique(np.quantile(a, np.linspace(0, 1, classes + 1)[1:-1]))
    counts = [np.bincount(np.searchsorted(borders, each, side="right"), minlength=len(borders) + 1) for each in (a, b)]
    p_a, p_b = (np.maximum(each, 0.5) / each.sum() for each in counts)
    return float(((p_b - p_a) * np.log(p_b / p_a)).sum())


def _with_labels(a: Floats, b: Floats, is_positive: npt.NDArray[np.bool_]) -> LabelledComparison:
    areas = roc_areas(np.stack([a, b]), is_positive)
    losses = [_losses(each, is_positive) for each in (a, b)]
    qualities, differences = [], list[Estimate | None]()
    for number, scores in enumerate((a, b)):
        own = losses[number]
        qualities.append(
            Quality(
                auc=None if areas is None else areas.estimate(number),
                log_loss=None if own is None else mean_estimate(own[0]),
                brier=None if own is None else mean_estimate(own[1]),
                calibration=() if own is None else calibration(scores, is_positive),
            )
        )
    for first, second in zip(*(each or (None, None) for each in losses), strict=True):
        differences.append(None if first is None or second is None else mean_estimate(second - first))
    return LabelledComparison(
        count=len(a),
        positive=float(is_positive.mean()),
        a=qualities[0],
        b=qualities[1],
        auc=None if areas is None else areas.difference(),
        log_loss=differences[0],
        brier=differences[1],
    )


def _losses(scores: Floats, is_positive: npt.NDArray[np.bool_]) -> tuple[Floats, Floats] | None:
    """Logarithmic and squared loss of each event; None where a score is no probability."""
    if scores.min() < 0 or scores.max() > 1:
        return None
    given = np.where(is_positive, scores, 1 - scores)
    return -np.log(np.maximum(given, _LEAST_PROBABILITY)), (scores - is_positive) ** 2


def calibration(scores: Floats, is_positive: npt.NDArray[np.bool_]) -> tuple[CalibrationBin, ...]:
    """Bins of equally many events, lowest scores first; fewer bins where there are fewer events."""
    order = np.argsort(scores, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    return tuple(
        CalibrationBin(len(part), float(scores[part].mean()), share_estimate(int(is_positive[part].sum()), len(part)))
        for part in parts
    )


@dataclass(frozen=True)
class RocAreas:
    """Areas under the ROC curves of some models on the same events, and their covariance (m, m)."""

    areas: Floats
    covariance: Floats

    def estimate(self, number: int) -> Estimate:
        """One of them."""
        area, half = float(self.areas[number]), _Z * float(self.covariance[number, number]) ** 0.5
        return Estimate(area, max(0.0, area - half), min(1.0, area + half))

    def difference(self) -> Estimate:
        """The second less the first."""
        contrast = np.array([-1.0, 1.0])
        return _around(float(contrast @ self.areas[:2]), float(contrast @ self.covariance[:2, :2] @ contrast))


def roc_areas(scores: Floats, is_positive: npt.NDArray[np.bool_]) -> RocAreas | None:
    """Areas and covariance by E. DeLong et al., Biometrics 44 (1988), computed with midranks as X. Sun and W. Xu show.

    Args:
        scores: (m, n): m models, n events.
        is_positive: (n,)

    Returns:
        None where all labels are alike.
    """
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    if not positives or not negatives:
        return None
    among_all = np.stack([_midranks(each) for each in scores])
    among_positives = np.stack([_midranks(each[is_positive]) for each in scores])
    among_negatives = np.stack([_midranks(each[~is_positive]) for each in scores])
    of_positives = (among_all[:, is_positive] - among_positives) / negatives
    of_negatives = 1 - (among_all[:, ~is_positive] - among_negatives) / positives
    covariance = np.zeros((len(scores), len(scores)))
    if positives > 1:
        covariance += np.atleast_2d(np.cov(of_positives)) / positives
    if negatives > 1:
        covariance += np.atleast_2d(np.cov(of_negatives)) / negatives
    return RocAreas(of_positives.mean(axis=1), covariance)


def _midranks(values: Floats) -> Floats:
    """Ranks from 1 on; equal values have the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[places].astype(np.float64)
    return ranks
