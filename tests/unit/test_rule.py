"""The rule as a model: the known answer that pipelines are tested against."""

from pathlib import Path

import numpy as np
import pytest
from onnx_graphs import RULE_FEATURES, hash_of, load

from models.rule import PAGE_WEIGHTS, build_rule_model


@pytest.fixture
def rule(tmp_path: Path) -> Path:
    build_rule_model(tmp_path / "rule", name="purchase", version=1, feature_set_hash=hash_of)
    return tmp_path / "rule"


def rule_rows(dwell: np.ndarray, pages: np.ndarray) -> np.ndarray:
    return np.column_stack([dwell, np.eye(4)[pages]])


def python_rule(dwell: float, page: int) -> float:
    return min(round(dwell / 120 * list(PAGE_WEIGHTS.values())[page], 4), 1)


def test_rule_is_what_python_computes(rule: Path):
    rng = np.random.default_rng(0)
    dwell, pages = rng.exponential(60, 20_000), rng.integers(0, 4, 20_000)
    expected = [python_rule(*each) for each in zip(dwell.tolist(), pages.tolist(), strict=True)]
    np.testing.assert_allclose(load(rule, RULE_FEATURES).predict(rule_rows(dwell, pages)), expected, rtol=0, atol=1e-12)


def test_rule_rounds_ties_to_within_one_in_the_fourth_digit(rule: Path):
    dwell = np.repeat((np.arange(0, 9_000) + 0.5) / 1e4 * 120, 4)
    pages = np.tile(np.arange(4), 9_000)
    expected = np.array([python_rule(*each) for each in zip(dwell.tolist(), pages.tolist(), strict=True)])
    found = load(rule, RULE_FEATURES).predict(rule_rows(dwell, pages))
    assert np.abs(found - expected).max() <= 1e-4 + 1e-12


def test_rule_of_an_unknown_page_is_zero_and_of_a_missing_dwell_time_is_nan(rule: Path):
    rows = np.array([[60.0, 0, 0, 0, 0], [np.nan, 1, 0, 0, 0]])
    np.testing.assert_array_equal(load(rule, RULE_FEATURES).predict(rows), [0.0, np.nan])


def test_rule_is_the_same_bytes_every_time(rule: Path, tmp_path: Path):
    build_rule_model(tmp_path / "again", name="purchase", version=1, feature_set_hash=hash_of)
    for file in ("model.onnx", "manifest.json"):
        assert (rule / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
