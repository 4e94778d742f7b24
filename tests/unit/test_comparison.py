"""Statistics of two models' scores against scipy and scikit-learn, and intervals against simulated samples."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from models.comparison import (
    calibration,
    compare,
    compare_groups,
    ks_distance,
    mean_estimate,
    roc_areas,
    share_estimate,
    stability_index,
)


def sample(rng, count=2_000, ties=False):
    labels = (rng.random(count) < 0.3).astype(float)
    a, b = (1 / (1 + np.exp(-(scale * (labels - 0.5) + rng.normal(size=count)))) for scale in (1.0, 1.6))
    return (np.round(a, 1), np.round(b, 1), labels) if ties else (a, b, labels)


@pytest.mark.parametrize("ties", [False, True])
def test_numbers_are_those_of_the_libraries(ties):
    a, b, labels = sample(np.random.default_rng(1), ties=ties)
    found = compare(a, b, labels)
    assert found.ks == pytest.approx(stats.ks_2samp(a, b).statistic)
    assert found.labelled.a.auc.value == pytest.approx(roc_auc_score(labels, a))
    assert found.labelled.b.auc.value == pytest.approx(roc_auc_score(labels, b))
    assert found.labelled.auc.value == pytest.approx(roc_auc_score(labels, b) - roc_auc_score(labels, a))
    assert found.labelled.b.log_loss.value == pytest.approx(log_loss(labels, b, labels=[0, 1]))
    assert found.labelled.b.brier.value == pytest.approx(brier_score_loss(labels, b))
    assert found.correlation == pytest.approx(stats.pearsonr(a, b).statistic)
    wilson = stats.binomtest(int(((a >= 0.5) == (b >= 0.5)).sum()), len(a)).proportion_ci(method="wilson")
    assert (found.agreement.low, found.agreement.high) == pytest.approx(tuple(wilson))
    assert found.yes_to_no + found.no_to_yes == round((1 - found.agreement.value) * len(a))


def test_variance_of_an_area_is_that_of_all_pairs():
    a, b, labels = sample(np.random.default_rng(2), 60)
    yes = labels > 0
    wins = [np.where(s[yes][:, None] > s[~yes], 1.0, np.where(s[yes][:, None] == s[~yes], 0.5, 0.0)) for s in (a, b)]
    by_positive, by_negative = (np.stack([each.mean(axis=axis) for each in wins]) for axis in (1, 0))
    wanted = np.cov(by_positive) / yes.sum() + np.cov(by_negative) / (~yes).sum()
    found = roc_areas(np.stack([a, b]), yes)
    assert found.covariance == pytest.approx(wanted)


def test_intervals_hold_the_true_number_in_about_95_of_100_samples():
    rng, held = np.random.default_rng(3), {"auc": 0, "mean": 0, "share": 0}
    truth = stats.norm.cdf(1.0 / 2**0.5)
    for _ in range(400):
        yes = rng.random(400) < 0.4
        scores = rng.normal(size=400) + yes
        area = roc_areas(scores[None, :], yes).estimate(0)
        mean, share = mean_estimate(scores - yes), share_estimate(int((rng.random(400) < 0.1).sum()), 400)
        held["auc"] += area.low <= truth <= area.high
        held["mean"] += mean.low <= 0 <= mean.high
        held["share"] += share.low <= 0.1 <= share.high
    assert all(0.92 <= each / 400 <= 0.98 for each in held.values()), held


def test_one_model_with_itself_differs_in_nothing():
    a, _, labels = sample(np.random.default_rng(4))
    found = compare(a, a, labels)
    assert (found.difference.low, found.difference.high, found.ks, found.psi) == (0, 0, 0, 0)
    assert (found.labelled.auc.low, found.labelled.auc.high) == (0, 0)
    assert found.agreement.value == 1


def test_a_shift_is_seen_and_scores_that_are_no_probabilities_have_no_loss():
    rng = np.random.default_rng(5)
    a = rng.normal(size=5_000)
    assert stability_index(a, rng.normal(size=5_000)) < 0.02
    assert stability_index(a, a + 1) > 0.25
    assert ks_distance(a, a + 1) > 0.3
    found = compare(a, a + 1, (a > 0).astype(float)).labelled
    assert (found.a.log_loss, found.brier, found.b.calibration) == (None, None, ())
    assert found.auc.value == 0


def test_a_calibrated_score_has_its_share_of_positives_in_every_bin():
    rng = np.random.default_rng(6)
    scores = rng.random(20_000)
    bins = calibration(scores, rng.random(20_000) < scores)
    assert [each.count for each in bins] == [2_000] * 10
    assert sum(each.positive.low <= each.mean_score <= each.positive.high for each in bins) >= 8


def test_labels_may_be_missing_or_all_alike():
    a, b = np.array([0.1, 0.9, 0.4]), np.array([0.2, 0.8, 0.5])
    assert compare(a, b, np.full(3, np.nan)).labelled is None
    found = compare(a, b, np.array([1.0, np.nan, 1.0])).labelled
    assert (found.count, found.a.auc, found.auc) == (2, None, None)
    with pytest.raises(ValueError, match="3 and 2 scores"):
        compare(a, b[:2])


def test_groups_of_different_events_are_compared_without_pairs():
    rng = np.random.default_rng(7)
    a, _, labels_a = sample(rng, 3_000)
    _, b, labels_b = sample(rng, 1_000)
    labels_b[:100] = np.nan
    found = compare_groups(a, b, labels_a, labels_b)
    assert found.counts == (3_000, 1_000)
    assert found.labelled == (3_000, 900)
    assert found.auc_b.value == pytest.approx(roc_auc_score(labels_b[100:], b[100:]))
    assert found.auc.value == pytest.approx(found.auc_b.value - found.auc_a.value)
    welch = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(welch), rel=0.01)
    assert compare_groups(a, b).auc is None
