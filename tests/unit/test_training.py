"""Training runs the pipeline's own features; the shipped models fit the shipped pipeline."""

import dataclasses

import numpy as np
import pytest
from wire_records import MODELS, PURCHASE, Shard, open_shipped

from flink_jobs.local.shoppers import as_records, labelled_events
from flink_jobs.training import build_shipped_models, compute_features, train_pipeline, train_shipped
from models.manifest import MANIFEST_FILE, MODEL_FILE, Manifest, ModelMismatchError
from models.onnx_model import OnnxModel
from models.train import TrainingError
from udfs.pipeline import Count, Mean, Model, OneHot, Value

EVENTS = 6_000
SMALL = dataclasses.replace(
    PURCHASE,
    features=[Value("dwell_time_sec"), OneHot("page_id"), Count(window="1h"), Mean("dwell_time_sec", window="10m")],
)


def changed(**settings):
    return dataclasses.replace(PURCHASE, **settings)


@pytest.fixture(scope="module")
def labelled():
    return labelled_events(EVENTS, seed=4)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return train_shipped(SMALL, events_total=EVENTS, seed=4, root=tmp_path_factory.mktemp("models"))


def manifest_of(folder):
    return Manifest.from_json((folder / MANIFEST_FILE).read_bytes(), where=str(folder))


def load(folder, pipeline):
    return OnnxModel.load(folder, feature_names=pipeline.feature_names, feature_set_hash=pipeline.feature_set_hash)


def test_decoded_events_and_raw_records_have_the_same_features(labelled):
    events, _ = labelled
    decoded = compute_features(PURCHASE, events)
    raw = compute_features(PURCHASE, as_records(events), batch_events=777)
    np.testing.assert_array_equal(decoded.features, raw.features)
    np.testing.assert_array_equal(decoded.entities, [event.user_id for event in events])
    np.testing.assert_array_equal(raw.event_times_ms, [event.timestamp for event in events])
    assert raw.refused == []


def test_features_of_training_are_those_of_scoring(labelled):
    records = list(as_records(labelled[0][:500]))
    seen = []

    class Watching:
        def predict(self, features):
            seen.append(features.copy())
            return np.zeros(len(features))

    shard = Shard(Watching())
    for begin in range(0, 500, 50):
        shard.score(records[begin : begin + 50], begin)
    np.testing.assert_array_equal(np.concatenate(seen), compute_features(PURCHASE, records).features)


def test_records_that_cannot_be_decoded_are_left_out_and_named(labelled):
    records = list(as_records(labelled[0][:10]))
    records[3], records[7] = (b"u", b"{"), (b"u", None)
    rows = compute_features(PURCHASE, records, batch_events=4)
    assert rows.places.tolist() == [0, 1, 2, 4, 5, 6, 8, 9]
    assert [(place, why.reason) for place, why in rows.refused] == [(3, "not_json"), (7, "null_value")]


def test_nothing_has_no_features():
    rows = compute_features(PURCHASE, [])
    assert rows.features.shape == (0, len(PURCHASE.feature_names))
    assert len(rows.entities) == 0


def test_progress_is_told_after_every_batch(labelled):
    told = []
    compute_features(PURCHASE, labelled[0][:2_500], batch_events=1_000, progress=told.append)
    assert told == [1_000, 2_000, 2_500]


def test_training_twice_gives_the_same_bytes(report, tmp_path):
    again = train_shipped(SMALL, events_total=EVENTS, seed=4, root=tmp_path)
    for file in (MODEL_FILE, MANIFEST_FILE):
        assert (again.folder / file).read_bytes() == (report.folder / file).read_bytes()


def test_a_trained_model_is_saved_under_the_next_version_and_measured_beside_the_rule(report):
    assert report.folder.parts[-2:] == ("purchase", "1")
    assert report.rows == EVENTS
    assert set(report.metrics["baseline"]) == set(report.metrics["model"])
    assert load(report.folder, SMALL).manifest.metrics == report.metrics


def test_a_version_that_is_there_is_not_overwritten_unasked(report, labelled):
    events, labels = labelled
    with pytest.raises(TrainingError, match="save as version 2"):
        train_pipeline(SMALL, events=events, labels=labels, version=1, root=report.folder.parents[1])


def test_a_label_too_few_is_refused(labelled, tmp_path):
    events, labels = labelled
    with pytest.raises(TrainingError, match=r"labels have shape .* give one label for each of 6000 events"):
        train_pipeline(SMALL, events=events, labels=labels[:-1], root=tmp_path)


def test_a_pipeline_without_labels_is_told_so_in_one_line(tmp_path):
    with pytest.raises(TrainingError, match=r"fraud has no labelled events.*millrace backfill.*--from") as refused:
        train_shipped(changed(name="fraud"), root=tmp_path)
    assert "\n" not in str(refused.value)


def test_a_pipeline_saves_into_its_own_models_folder(labelled, tmp_path):
    events, labels = labelled
    own = dataclasses.replace(SMALL, model=Model("mine", version=7, root=tmp_path))
    trained = train_pipeline(own, events=events, labels=labels, version=7)
    assert trained.folder == tmp_path / "mine" / "7"
    assert "baseline" not in trained.metrics


@pytest.mark.parametrize("version", [1, 2])
def test_the_shipped_models_open_with_the_shipped_pipeline(version):
    model = open_shipped(version)
    assert model.manifest.feature_set_hash == PURCHASE.feature_set_hash(model.manifest.features)
    assert "build_shipped_models" in model.manifest.description


def test_the_pipeline_uses_the_trained_model_and_all_its_features_go_in():
    assert PURCHASE.model.version == 2
    assert manifest_of(MODELS / "purchase" / "2").features == PURCHASE.feature_names


def test_the_shipped_model_beats_the_rule_clearly_on_users_it_never_saw():
    metrics = manifest_of(MODELS / "purchase" / "2").metrics
    assert metrics["model"]["auc"] > metrics["baseline"]["auc"] + 0.05
    assert metrics["rows"]["test"] > 10_000


def test_the_shipped_model_beats_the_rule_on_a_simulation_of_another_seed():
    from sklearn.metrics import roc_auc_score

    events, labels = labelled_events(20_000, seed=99)
    features = compute_features(PURCHASE, events).features
    model, rule = (roc_auc_score(labels, open_shipped(version).predict(features)) for version in (2, 1))
    assert model > rule + 0.05


def test_the_shipped_model_is_small_enough_to_ship():
    assert (MODELS / "purchase" / "2" / MODEL_FILE).stat().st_size < 500_000


def test_the_shipped_rule_is_what_its_code_builds(tmp_path, monkeypatch):
    monkeypatch.setattr("flink_jobs.training.train_shipped", lambda *_, **settings: settings)
    assert build_shipped_models(tmp_path)["version"] == 2
    for file in (MODEL_FILE, MANIFEST_FILE):
        assert (tmp_path / "purchase/1" / file).read_bytes() == (MODELS / "purchase/1" / file).read_bytes()


def test_a_feature_with_another_definition_is_refused_with_what_to_do():
    one = changed(features=[Count(window="10m", fill=0) if f == Count(window="10m") else f for f in PURCHASE.features])
    assert one.feature_names == PURCHASE.feature_names
    with pytest.raises(ModelMismatchError, match="undo the change to the features or train a new version") as refused:
        load(MODELS / "purchase" / "2", one)
    assert "\n" not in str(refused.value)


def test_a_feature_that_is_gone_is_refused_by_name():
    one = changed(features=[feature for feature in PURCHASE.features if feature != Count(window="10m")])
    with pytest.raises(ModelMismatchError, match="takes features that the pipeline does not have: count_10m"):
        load(MODELS / "purchase" / "2", one)


def test_a_feature_more_changes_nothing_for_a_model_that_does_not_read_it():
    load(MODELS / "purchase" / "2", changed(features=[Count(window="2h"), *PURCHASE.features]))
