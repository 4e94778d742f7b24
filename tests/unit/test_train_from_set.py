"""A model is fitted on a training set of its pipeline's features, and on no other."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backfills import backfill, write_lines
from shard_driver import Purchase, pipeline_of
from typer.testing import CliRunner

from flink_jobs.cli import app
from flink_jobs.labels import LabelRequest
from flink_jobs.training import train_from_set
from flink_jobs.training_set import TrainingSetError
from models.manifest import Manifest
from models.onnx_model import OnnxModel
from models.train import TrainingError
from udfs.pipeline import Count, Model, Sum, Value

MINUTE_MS = 60_000


def pipeline(root=None, **changes):
    made = pipeline_of(Value("amount"), Count(window="10m"), Sum("amount", window="1h"))
    return dataclasses.replace(made, model=Model("buys", version=1, root=root), **changes)


@pytest.fixture(scope="module")
def training_set(tmp_path_factory):
    """Users who buy soon after they looked at something dear."""
    folder, rng = tmp_path_factory.mktemp("set"), np.random.default_rng(1)
    events, buys = [], []
    for place in range(6_000):
        user, amount, at = f"u{rng.integers(60)}", float(rng.exponential(10)), 1_700_000_000_000 + place * 5_000
        events.append(Purchase(str(place), user, "home", amount, None, at))
        if rng.random() < amount / 60:
            buys.append(f"{user},{at + 90_000}")
    (folder / "buys.csv").write_text("\n".join(["user,time", *buys]))
    labels = LabelRequest(str(folder / "buys.csv"), 2 * MINUTE_MS)
    path = folder / "set.parquet"
    backfill(pipeline(), write_lines(folder / "h.jsonl", events), path, labels=labels)
    return path


def test_any_pipeline_is_trained_on_its_training_set(training_set, tmp_path):
    report = train_from_set(pipeline(tmp_path), training_set, seed=3)
    assert (report.version, report.folder) == (1, tmp_path / "buys" / "1")
    manifest = Manifest.read(report.folder)
    assert manifest.features == pipeline().feature_names
    assert manifest.feature_set_hash == pipeline().feature_set_hash()
    assert manifest.metrics["model"]["auc"] > 0.6 > manifest.metrics["baseline"]["auc"] == 0.5
    assert manifest.metrics["largest_conversion_difference"] < 1e-5
    model = OnnxModel.load(
        report.folder, feature_names=pipeline().feature_names, feature_set_hash=pipeline().feature_set_hash
    )
    low, high = model.predict(np.array([[1.0, 1, 1], [60.0, 1, 60]]))
    assert high > low


def test_the_test_is_later_than_everything_fitted_on_and_the_labels_between_are_left_out(training_set, tmp_path):
    metrics = train_from_set(pipeline(tmp_path), training_set).metrics
    table = pq.read_table(training_set, columns=["_event_time", "_label"]).drop_null()
    times = np.sort(table["_event_time"].cast(pa.int64()).to_numpy())
    assert metrics["test_from_ms"] == times[int(len(times) * 0.85)]
    assert metrics["rows"]["test"] == (times >= metrics["test_from_ms"]).sum()
    known = times + 2 * MINUTE_MS
    assert metrics["rows"]["training"] == (known < metrics["validation_from_ms"]).sum()
    assert metrics["left_out_at_the_cuts"] > 40
    assert metrics["known_entities"]["rows"] + metrics["new_entities"]["rows"] == metrics["rows"]["test"]


def test_the_next_version_is_made_and_the_same_set_gives_the_same_bytes(training_set, tmp_path):
    reports = [train_from_set(pipeline(tmp_path), training_set, seed=5) for _ in range(2)]
    assert [report.version for report in reports] == [1, 2]
    assert len({(report.folder / "model.onnx").read_bytes() for report in reports}) == 1


@pytest.mark.parametrize(("features", "said"), [
    ([Value("amount"), Count(window="5m"), Sum("amount", window="1h")], "it has no feature count_5m"),
    ([Value("amount"), Count(window="10m")], "it has the feature amount_sum_1h, which the pipeline does not have"),
    ([Value("amount"), Count(window="10m"), Sum("amount", window="1h", fill=7)], "sum_1h fill was None and is 7.0"),
    ([Count(window="10m"), Value("amount"), Sum("amount", window="1h")], "its features are in another order"),
])  # fmt: skip
def test_a_set_of_other_features_is_refused_with_the_one_that_differs(training_set, tmp_path, features, said):
    with pytest.raises(TrainingSetError, match=said):
        train_from_set(pipeline(tmp_path, features=features), training_set)


def test_a_field_of_another_type_is_refused_with_its_name(training_set, tmp_path):
    class Whole(Purchase):
        amount: int | None

    events = dataclasses.replace(pipeline().events, type=Whole)
    with pytest.raises(TrainingSetError, match="field amount has another type"):
        train_from_set(pipeline(tmp_path, events=events), training_set)


def test_what_is_no_training_set_is_refused(tmp_path):
    with pytest.raises(TrainingSetError, match="is not a file"):
        train_from_set(pipeline(tmp_path), tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(TrainingSetError, match="is no Parquet file"):
        train_from_set(pipeline(tmp_path), tmp_path / "text.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(TrainingSetError, match="its metadata does not say so"):
        train_from_set(pipeline(tmp_path), tmp_path / "other.parquet")


def with_column(training_set, path, name, values):
    table = pq.read_table(training_set)
    pq.write_table(table.append_column(name, values), path)
    return path


def test_a_users_own_column_may_be_the_label(training_set, tmp_path):
    size = pq.read_metadata(training_set).num_rows
    path = with_column(training_set, tmp_path / "own.parquet", "dear", pa.array(np.arange(size) % 3 == 0))
    report = train_from_set(pipeline(tmp_path), path, label="dear")
    assert report.rows == size
    assert report.metrics["left_out_at_the_cuts"] == 0
    texts = with_column(training_set, tmp_path / "texts.parquet", "text", pa.array(["x"] * size))
    with pytest.raises(TrainingSetError, match="holds no numbers"):
        train_from_set(pipeline(tmp_path), texts, label="text")


@pytest.mark.parametrize(("label", "said"), [("bought", "no column 'bought'"), ("amount", "is a feature")])
def test_a_column_that_cannot_be_the_label_is_refused(training_set, tmp_path, label, said):
    with pytest.raises(TrainingSetError, match=said):
        train_from_set(pipeline(tmp_path), training_set, label=label)


def test_labels_that_are_not_0_and_1_are_refused(training_set, tmp_path):
    size = pq.read_metadata(training_set).num_rows
    path = with_column(training_set, tmp_path / "own.parquet", "many", pa.array(np.arange(size) % 3))
    with pytest.raises(TrainingError, match="other values than 0 and 1"):
        train_from_set(pipeline(tmp_path), path, label="many")


PIPELINE_FILE = """
from udfs.pipeline import Count, Events, Model, Pipeline, Sum, Value
class Purchase:
    id: str
    user: str
    amount: float | None
    time: int
pipeline = Pipeline(
    name="p", events=Events(Purchase, topic="purchases", entity="user", time="time", id="id"),
    features=[Value("amount"), Count(window="10m"), Sum("amount", window="1h")],
    model=Model("buys", version=1, root="models"), prediction="s",
)
"""


def test_from_history_to_model_by_command(training_set, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "p.py").write_text(PIPELINE_FILE)
    source, made = training_set.parent, "set.parquet"
    ran = CliRunner().invoke(app, [
        "backfill", "p.py", "--from", str(source / "h.jsonl"), "--to", made, "--labels", str(source / "buys.csv"),
        "--label-horizon", "2m", "--processes", "1", "--json",
    ])  # fmt: skip
    assert ran.exit_code == 0, ran.output
    report = json.loads(ran.stdout)
    assert (report["rows"], report["refused"], report["file"]) == (6_000, {}, made)
    ran = CliRunner().invoke(app, ["train", "p.py", "--from", made])
    assert ran.exit_code == 0, ran.output
    assert "trained buys/1" in ran.stdout
    assert "known_entities: rows " in ran.stdout
    assert "millrace run p.py" in ran.stderr
