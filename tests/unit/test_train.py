"""Training: entities stay in one split, the graph computes what the source does, the same seed gives the same bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models.train
from models.conversion import ConversionError
from models.manifest import Manifest
from models.onnx_model import OnnxModel
from models.registry import next_version
from models.splits import split_by_entity, split_by_time
from models.train import Trained, TrainingError, train_classifier

NAMES = ("dwell_time_sec", "count_1h", "page_id_is_checkout")


def hash_of(names: Sequence[str]) -> str:
    return f"{len(names):064x}"


def training_set(rows: int = 3_000, entities: int = 200) -> dict[str, Any]:
    """Shoppers who buy the more often the longer they look; some values are missing, which means something too."""
    rng = np.random.default_rng(7)
    features = np.column_stack([rng.exponential(60, rows), rng.integers(1, 20, rows), rng.random(rows) < 0.3])
    features[rng.random(rows) < 0.2, 0] = np.nan
    leaning = np.nan_to_num(features[:, 0], nan=90.0) / 60 + features[:, 2] + rng.normal(size=rows)
    return {
        "features": features,
        "labels": (leaning > 2).astype(np.int64),
        "groups": np.array([f"user-{each}" for each in rng.integers(0, entities, rows)]),
        "feature_names": NAMES,
    }


@pytest.fixture(scope="module")
def trained() -> Trained:
    data = training_set()
    return train_classifier(**data, baseline=np.clip(np.nan_to_num(data["features"][:, 0]) / 120, 0, 1))


def test_trained_model_beats_the_baseline_on_entities_it_never_saw(trained: Trained):
    model, baseline = trained.metrics["model"], trained.metrics["baseline"]
    assert model["auc"] > baseline["auc"] + 0.02
    assert model["log_loss"] < baseline["log_loss"]
    assert model["brier"] < baseline["brier"]
    assert sum(trained.metrics["rows"].values()) == 3_000


def test_the_same_seed_gives_the_same_bytes(trained: Trained, tmp_path: Path):
    again = train_classifier(**training_set(), baseline=None)
    assert again.model_bytes == trained.model_bytes
    assert again.training_data_sha256 == trained.training_data_sha256
    folders = [
        each.save(tmp_path / place, name="purchase", version=2, feature_set_hash=hash_of)
        for place, each in (("a", trained), ("b", trained))
    ]
    assert (folders[0] / "manifest.json").read_bytes() == (folders[1] / "manifest.json").read_bytes()


def masks_of(groups: Any, seed: int) -> list[Any]:
    return [mask for _, mask in split_by_entity(groups, seed).parts()]


def test_no_entity_is_in_two_splits_and_the_order_of_rows_does_not_matter():
    groups = training_set()["groups"]
    masks = masks_of(groups, seed=3)
    assert (sum(mask.astype(int) for mask in masks) == 1).all()
    seen = [set(groups[mask]) for mask in masks]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    assert min(len(each) for each in seen) == 30
    assert [set(groups[::-1][mask]) for mask in masks_of(groups[::-1], seed=3)] == seen
    assert [set(groups[mask]) for mask in masks_of(groups, seed=4)] != seen


def test_saved_model_is_opened_by_its_manifest_and_scores_missing_values(trained: Trained, tmp_path: Path):
    folder = trained.save(tmp_path, name="purchase", version=2, feature_set_hash=hash_of, description="Buys soon.")
    assert folder == tmp_path / "purchase" / "2"
    manifest = Manifest.read(folder)
    assert manifest.features == NAMES
    assert manifest.metrics == trained.metrics
    assert manifest.training_data_sha256 == trained.training_data_sha256
    model = OnnxModel.load(folder, feature_names=NAMES[::-1], feature_set_hash=hash_of, name="purchase", version=2)
    low, high, missing = model.predict(np.array([[0.0, 5, 1], [1.0, 5, 300], [0.0, 5, np.nan]]))
    assert 0 <= low < missing < high <= 1


def test_neighbouring_float32_values_stay_on_their_sides_of_a_threshold(monkeypatch: pytest.MonkeyPatch):
    """Contract: the threshold between two neighbours is no float32, and the nearest one may be the value above."""
    below = np.nextafter(np.float32(1), np.float32(2))
    above = np.nextafter(below, np.float32(2))
    data = training_set()
    data["features"][:, 1] = np.where(data["labels"] == 1, above, below)
    assert train_classifier(**data).metrics["model"]["auc"] == 1.0
    monkeypatch.setattr(models.train, "_round_thresholds_down", lambda model: None)
    with pytest.raises(ConversionError, match=r"count_1h=1\.000000"):
        train_classifier(**data)


def test_conversion_that_differs_is_refused_and_the_worst_row_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models.train, "LARGEST_DIFFERENCE", 0.0)
    with pytest.raises(ConversionError, match=r"most in row \d+ of \d+: dwell_time_sec=.*, count_1h="):
        train_classifier(**training_set())


def test_another_training_set_has_another_digest(trained: Trained):
    data = training_set()
    digest = models.train._training_data_sha256
    same = (data["features"], data["labels"], data["groups"], NAMES)
    assert digest(*same) == trained.training_data_sha256
    quiet, negative_nan = data["features"], np.copysign(data["features"], np.where(np.isnan(data["features"]), -1, 1))
    assert digest(negative_nan, *same[1:]) == digest(quiet, *same[1:])
    assert digest(quiet + 1, *same[1:]) != trained.training_data_sha256
    assert digest(*same[:2], same[2][::-1], NAMES) != trained.training_data_sha256
    assert digest(*same[:3], NAMES[::-1]) != trained.training_data_sha256


def test_next_version_is_one_above_the_highest(tmp_path: Path):
    assert next_version(tmp_path, "purchase") == 1
    for folder in ("1", "9", "10", "draft"):
        (tmp_path / "purchase" / folder).mkdir(parents=True)
    assert next_version(tmp_path, "purchase") == 11


def test_saved_version_is_not_overwritten_by_accident(trained: Trained, tmp_path: Path):
    trained.save(tmp_path, name="purchase", version=1, feature_set_hash=hash_of)
    with pytest.raises(TrainingError, match="save as version 2"):
        trained.save(tmp_path, name="purchase", version=1, feature_set_hash=hash_of)
    trained.save(tmp_path, name="purchase", version=1, feature_set_hash=hash_of, replace=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feature_names": NAMES[:2]}, "one column for each of 2"),
        ({"labels": np.zeros(5)}, "labels have shape"),
        ({"labels": np.full(3_000, 2)}, "other values than 0 and 1"),
        ({"labels": np.zeros(3_000)}, "have one label"),
        ({"groups": np.zeros(3_000)}, "1 entities are too few"),
        ({"baseline": np.full(3_000, np.nan)}, "outside 0 to 1"),
        ({"features": np.full((3_000, 3), np.nan)}, "'dwell_time_sec' is missing in every training row"),
    ],
)
def test_unusable_training_set_is_refused_with_what_to_change(change: dict[str, Any], message: str):
    with pytest.raises(TrainingError, match=message):
        train_classifier(**(training_set() | change))


def test_features_without_any_signal_still_make_a_model():
    data = training_set() | {"features": np.ones((3_000, 3))}
    assert train_classifier(**data).metrics["model"]["auc"] == 0.5


def test_split_by_time_keeps_labels_from_reaching_into_the_next_part():
    times = np.random.default_rng(0).permutation(np.arange(1_000)) * 10
    split = split_by_time(times, horizon_ms=95)
    assert split.facts["validation_from_ms"] == 7_000
    assert split.facts["test_from_ms"] == 8_500
    assert times[split.training].max() == 6_900
    assert (times[split.validation].min(), times[split.validation].max()) == (7_000, 8_400)
    assert times[split.test].min() == 8_500
    assert split.facts["left_out_at_the_cuts"] == 18


def test_split_by_time_measures_known_and_new_entities_apart():
    data = training_set()
    times = np.arange(3_000)
    late_comers = (times >= 2_700) & (times % 3 == 0)
    data["groups"] = np.where(late_comers, "new", data["groups"])
    metrics = train_classifier(**data, split=split_by_time(times, 10)).metrics
    assert metrics["new_entities"]["rows"] == 100
    assert metrics["known_entities"]["rows"] == 350
    assert metrics["known_entities"]["auc"] > 0.7
    assert metrics["rows"]["test"] == 450
    assert metrics["split"] == "time"


def test_split_by_time_of_too_short_a_history_is_refused():
    with pytest.raises(TrainingError, match="bring a longer history"):
        train_classifier(**training_set(), split=split_by_time(np.arange(3_000), 10_000))
