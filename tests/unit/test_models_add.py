"""`millrace models add`: what scikit-learn, LightGBM, XGBoost and PyTorch export becomes a version that scores."""

import functools
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import skl2onnx
from onnx import TensorProto, helper
from onnx_graphs import write_graph
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, Int64TensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from typer.testing import CliRunner

from flink_jobs.cli import app
from flink_jobs.pipeline_model import open_model
from flink_jobs.pipelines import load_pipeline
from models import adding, trial
from models.feature_rows import read_feature_rows, write_feature_rows
from models.manifest import Manifest
from models.onnx_model import OnnxModel

EXPORTED = Path(__file__).parents[1] / "fixtures" / "models"
PURCHASE = load_pipeline("purchase")
ALL = PURCHASE.feature_names
WIDTH = len(ALL)
TWO = ("dwell_time_sec", "count_1h")
PAGES = ("home", "product", "checkout", "search")
TARGET = {"": 17, "ai.onnx.ml": 3}


@pytest.fixture(autouse=True)
def _trial(monkeypatch):
    """Trials have a test of their own; a process for each case here would take a second."""
    monkeypatch.setattr(adding, "try_out", lambda folder: None)
    monkeypatch.setenv("COLUMNS", "250")


def rows_of(count=200, width=WIDTH, seed=5):
    """(n, width) float32 as float64: ones and zeros where the pipeline's features are such."""
    rows = np.random.default_rng(seed).uniform(0, 3, (count, width)).astype(np.float32).astype(np.float64)
    if width == WIDTH:
        rows[:, 1:5] = np.eye(4)[np.arange(count) % 4]
    return rows


def labels_of(rows):
    return (rows[:, 0] > 1.5).astype(np.int64)


def export(path, model, initial_types, **options):
    made = skl2onnx.convert_sklearn(
        model, initial_types=initial_types, target_opset=TARGET, options={id(model): options} if options else None
    )
    path.write_bytes(made.SerializeToString())
    return path


def add(tmp_path, file, *options, as_json=True):
    last = ("--json",) if as_json else ()
    return CliRunner().invoke(
        app, ["models", "add", str(file), "purchase", "--root", str(tmp_path / "models"), *options, *last]
    )


def added(tmp_path, file, *options):
    """The new version, opened as a worker would."""
    result = add(tmp_path, file, *options)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["version"] == 1
    folder = tmp_path / "models" / "purchase" / "1"
    return OnnxModel.load(folder, feature_names=ALL, feature_set_hash=PURCHASE.feature_set_hash)


def refusal(tmp_path, file, *options):
    """The one line; nothing was left behind."""
    result = add(tmp_path, file, *options)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert not list((tmp_path / "models").rglob("*.onnx"))
    assert not list((tmp_path / "models").rglob(".draft*"))
    return line


def test_scikit_learn_classifier_of_all_features_needs_no_option(tmp_path):
    rows = rows_of()
    model = GradientBoostingClassifier(n_estimators=5).fit(rows, labels_of(rows))
    file = export(tmp_path / "m.onnx", model, [("X", FloatTensorType([None, WIDTH]))], zipmap=False)
    scores = added(tmp_path, file).predict(rows)
    assert scores == pytest.approx(model.predict_proba(rows)[:, 1], abs=1e-6)


def test_zipmap_output_is_read_by_its_class(tmp_path):
    rows = rows_of()
    model = LogisticRegression().fit(rows, labels_of(rows))
    file = export(tmp_path / "m.onnx", model, [("X", FloatTensorType([None, WIDTH]))])
    opened = added(tmp_path, file)
    assert (opened.manifest.outputs[0].kind, opened.manifest.outputs[0].class_key) == ("zipmap", 1)
    assert opened.predict(rows) == pytest.approx(model.predict_proba(rows)[:, 1], abs=1e-5)


def test_zipmap_of_texts_asks_which_class(tmp_path):
    rows = rows_of()
    model = RandomForestClassifier(5, random_state=0).fit(rows, np.array(["stay", "churn"])[labels_of(rows)])
    file = export(tmp_path / "m.onnx", model, [("X", FloatTensorType([None, WIDTH]))])
    assert "say which with --class: churn, stay" in refusal(tmp_path, file)
    assert "has classes churn, stay" in refusal(tmp_path, file, "--class", "leave")
    scores = added(tmp_path, file, "--class", "churn").predict(rows)
    assert scores == pytest.approx(model.predict_proba(rows)[:, 0], abs=1e-5)


def test_text_and_number_inputs_with_preprocessing_inside_are_matched_by_name(tmp_path):
    """A ColumnTransformer: a text input of one column is a field with one-hot features, numbers are features."""
    import pandas as pd

    rows = rows_of()
    frame = pd.DataFrame({
        "page_id": np.array(PAGES)[np.arange(len(rows)) % 4], "dwell_time_sec": rows[:, 0], "count_1h": rows[:, 6],
    })  # fmt: skip
    steps = ColumnTransformer([
        ("pages", OneHotEncoder(categories=[list(PAGES)], handle_unknown="ignore"), ["page_id"]),
        ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["dwell_time_sec", "count_1h"]),
    ])
    model = make_pipeline(steps, LogisticRegression()).fit(frame, labels_of(rows))
    types = [("page_id", StringTensorType([None, 1])), *((name, FloatTensorType([None, 1])) for name in TWO)]
    file = export(tmp_path / "m.onnx", model, types)
    opened = added(tmp_path, file)
    assert opened.manifest.inputs[0].categories == PAGES
    assert opened.predict(rows) == pytest.approx(model.predict_proba(frame)[:, 1], abs=1e-5)
    without = rows.copy()
    without[:, 0] = np.nan
    frame["dwell_time_sec"] = np.nan
    assert opened.predict(without) == pytest.approx(model.predict_proba(frame)[:, 1], abs=1e-5)


def test_whole_number_input_takes_the_features_that_are_said(tmp_path):
    rows = np.floor(rows_of(width=2) * 10)
    model = LinearRegression().fit(rows.astype(np.int64), rows[:, 0] - 2 * rows[:, 1])
    file = export(tmp_path / "m.onnx", model, [("X", Int64TensorType([None, 2]))])
    line = refusal(tmp_path, file)
    assert "input 'X' takes 2 columns of int64" in line
    assert "--input X=dwell_time_sec,page_id_is_home" in line
    opened = added(tmp_path, file, "--input", "count_10m,count_1h")
    given = np.full((len(rows), WIDTH), np.nan)
    given[:, [ALL.index("count_10m"), ALL.index("count_1h")]] = rows
    assert opened.predict(given) == pytest.approx(rows[:, 0] - 2 * rows[:, 1], abs=1e-3)


def test_regressor_of_several_targets_asks_for_the_column(tmp_path):
    rows = rows_of()
    model = RandomForestRegressor(3, random_state=0).fit(rows, rows[:, :3])
    file = export(tmp_path / "m.onnx", model, [("X", FloatTensorType([None, WIDTH]))])
    # this exporter declares one column
    assert "declares one column and gives several: say which" in refusal(tmp_path, file)
    assert "cannot score its example row" in refusal(tmp_path, file, "--column", "3")
    assert added(tmp_path, file, "--column", "2").predict(rows) == pytest.approx(model.predict(rows)[:, 2], abs=1e-5)


def test_declared_columns_are_asked_for(tmp_path):
    rows = rows_of()
    model = LinearRegression().fit(rows, rows[:, :3])
    file = export(tmp_path / "m.onnx", model, [("X", FloatTensorType([None, WIDTH]))])
    assert "has 3 columns, a prediction is one number: say which, from 0 on, with --column" in refusal(tmp_path, file)
    assert "there is no column 3" in refusal(tmp_path, file, "--column", "3")
    assert added(tmp_path, file, "--column", "1").predict(rows) == pytest.approx(rows[:, 1], abs=1e-3)


def test_sequence_output_of_a_multi_output_classifier_is_read_by_target_and_column(tmp_path):
    rows = rows_of()
    targets = (rows[:, [0, 6]] > 1.5).astype(np.int64)
    model = MultiOutputClassifier(LogisticRegression()).fit(rows, targets)
    file = export(tmp_path / "m.onnx", model, [("X", FloatTensorType([None, WIDTH]))], zipmap=False)
    assert "say which output" not in (line := refusal(tmp_path, file))
    assert "--item" in line
    assert "--column" in refusal(tmp_path, file, "--item", "1")
    opened = added(tmp_path, file, "--item", "1", "--column", "1")
    assert opened.predict(rows) == pytest.approx(model.predict_proba(rows)[1][:, 1], abs=1e-5)
    assert Manifest.from_json(opened.manifest.to_json()) == opened.manifest


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lightgbm", ()),  # a ZipMap
        ("xgboost", ()),  # a tensor of two columns
        ("xgboost_regressor", ()),
        ("torch", ("--output", "value")),
        ("torch_fixed", ("--output", "value")),  # exported for four rows at once
    ],
)
def test_model_that_its_library_exported_scores_as_in_the_library(tmp_path, name, options):
    """`fixtures/models/make.py` exported them, with the scores of the library itself."""
    said = ("--input", "dwell_time_sec,count_1h,since_last_1h", "--expect", str(EXPORTED / f"{name}.csv"), *options)
    noted = added(tmp_path, EXPORTED / f"{name}.onnx", *said).manifest.metrics["conversion"]
    assert noted["rows"] == 60
    assert noted["largest_difference"] < 1e-6
    assert (noted["thresholds"] > 0) == (not name.startswith("torch"))


def tree_graph(path, *, input_name, outputs, zipmap, rows=None, post="LOGISTIC"):
    """One tree on column 0 at 1.5, in the form that the converters of gradient boosting libraries write."""
    tree = helper.make_node(
        "TreeEnsembleClassifier", [input_name], ["label", "scores"], domain="ai.onnx.ml", post_transform=post,
        nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values=[1.5, 0.0, 0.0], nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0], nodes_missing_value_tracks_true=[1, 0, 0], nodes_hitrates=[1.0, 1.0, 1.0],
        class_treeids=[0, 0], class_nodeids=[1, 2], class_ids=[0, 0], class_weights=[-2.0, 1.0],
        base_values=[0.25], classlabels_int64s=[0, 1],
    )  # fmt: skip
    nodes = [tree]
    if zipmap:
        nodes.append(
            helper.make_node("ZipMap", ["scores"], [outputs], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
        )
        score = helper.make_value_info(
            outputs,
            helper.make_sequence_type_proto(
                helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
            ),
        )
    else:
        nodes.append(helper.make_node("Identity", ["scores"], [outputs]))
        score = helper.make_tensor_value_info(outputs, TensorProto.FLOAT, [rows or "N", 2])
    given = helper.make_tensor_value_info(input_name, TensorProto.FLOAT, [rows or "N", 2])
    label = helper.make_tensor_value_info("label", TensorProto.INT64, [rows or "N"])
    made = write_graph(path.parent / "graph", nodes, [given], [label, score], domains=["ai.onnx.ml"])
    made.rename(path)
    return path


@pytest.mark.parametrize(
    "form",
    [
        {"input_name": "input", "outputs": "probabilities", "zipmap": True},  # onnxmltools of LightGBM
        {"input_name": "input", "outputs": "probabilities", "zipmap": False},  # onnxmltools of XGBoost
        {"input_name": "input", "outputs": "probabilities", "zipmap": False, "rows": 1},  # exported for one row
    ],
    ids=["lightgbm", "xgboost", "batch of one"],
)
def test_graph_as_boosting_libraries_export_it_scores(tmp_path, form):
    file = tree_graph(tmp_path / "m.onnx", **form)
    opened = added(tmp_path, file, "--input", ",".join(TWO))
    rows = rows_of(20)
    wanted = 1 / (1 + np.exp(-np.where(rows[:, 0] <= 1.5, -1.75, 1.25)))
    assert opened.predict(rows) == pytest.approx(wanted, abs=1e-6)


def two_heads(tmp_path, width=64):
    """As torch.onnx exports a module with two heads and the embedding they share: MatMul, Add, Sigmoid."""
    chance = np.random.default_rng(3)
    constants = {
        "w": chance.normal(size=(2, width)).astype(np.float32), "b": np.zeros(width, np.float32),
        "v": chance.normal(size=(width, 1)).astype(np.float32), "u": chance.normal(size=(width, 1)).astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gemm", ["features", "w", "b"], ["linear"]),
        helper.make_node("Relu", ["linear"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "v"], ["risk_logit"]),
        helper.make_node("Sigmoid", ["risk_logit"], ["risk"]),
        helper.make_node("MatMul", ["embedding", "u"], ["value"]),
    ]
    outputs = [("risk", 1), ("value", 1), ("embedding", width)]
    return write_graph(
        tmp_path / "torch", nodes, [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in outputs], constants,
    )  # fmt: skip


def test_model_of_several_outputs_asks_which_one_is_the_prediction(tmp_path):
    file = two_heads(tmp_path)
    said = ("--input", ",".join(TWO))
    assert "say which output is the prediction with --output: risk: float [rows, 1]; value" in refusal(
        tmp_path, file, *said
    )
    assert "no output 'score'" in refusal(tmp_path, file, *said, "--output", "score")
    opened = added(tmp_path, file, *said, "--output", "value")
    rows = rows_of(10)
    session = onnxruntime.InferenceSession(file.read_bytes())
    given = rows[:, [ALL.index(each) for each in TWO]].astype(np.float32)
    assert opened.predict(rows) == pytest.approx(session.run(["value"], {"features": given})[0][:, 0], abs=1e-6)


def test_embedding_is_no_prediction_but_one_of_its_numbers_can_be(tmp_path):
    file = two_heads(tmp_path)
    said = ("--input", ",".join(TWO), "--output", "embedding")
    assert "has 64 columns, a prediction is one number" in refusal(tmp_path, file, *said)
    assert added(tmp_path, file, *said, "--column", "63").predict(rows_of(3)).shape == (3,)


def test_image_model_is_refused(tmp_path):
    image = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, 224, 224])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 224, 224])
    file = write_graph(tmp_path / "image", [helper.make_node("Relu", ["pixels"], ["y"])], [image], [out])
    assert "4 dimensions" in refusal(tmp_path, file)


def test_file_that_is_no_model_or_too_big_is_refused(tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(b"\x00\x01 no model")
    assert "is not an ONNX model" in refusal(tmp_path, tmp_path / "m.onnx")
    assert "is not a file" in refusal(tmp_path, tmp_path / "none.onnx")


def test_model_that_unpacks_to_a_hundred_gigabytes_dies_in_its_trial_and_not_here(tmp_path, monkeypatch):
    monkeypatch.setattr(adding, "try_out", functools.partial(trial.try_out, wait_s=20.0))
    nodes = [
        helper.make_node("Expand", ["one", "huge"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 1])
    constants = {"huge": np.array([25_000_000_000]), "one": np.ones(1, np.float32)}
    file = write_graph(tmp_path / "m", nodes, [x], [y], constants)
    line = refusal(tmp_path, file, "--input", "count_1h")
    assert str(file) in line
    assert ".draft" not in line


def test_features_and_inputs_that_are_not_there_are_named(tmp_path):
    file = two_heads(tmp_path)
    assert "has no feature 'amount'; it has dwell_time_sec" in refusal(tmp_path, file, "--input", "amount,count_1h")
    assert "the graph has no input 'X': it has 'features'" in refusal(tmp_path, file, "--input", "X=count_1h,count_10m")
    line = refusal(tmp_path, file, "--input", "count_1h", "--output", "risk")
    assert "takes 2 columns a row, the manifest gives it 1" in line
    assert str(file) in line


def test_on_a_terminal_what_cannot_be_derived_is_asked_for(tmp_path, monkeypatch):
    file = two_heads(tmp_path)

    class Terminal:
        def isatty(self):
            return True

    answers = iter(["dwell_time_sec, count_1h", "value"])
    asked = []
    monkeypatch.setattr("flink_jobs.models_adding.sys.stdin", Terminal())
    monkeypatch.setattr("flink_jobs.models_adding.typer.prompt", lambda text: asked.append(text) or next(answers))
    from flink_jobs.models_adding import Expectation, run_models_add_command
    from models.adding import Facts
    from models.choices import Choices

    run_models_add_command(
        PURCHASE, "purchase", file, Choices(), Facts(), Expectation(None, None, 1e-5), version=None,
        root=str(tmp_path / "models"), as_json=False,
    )  # fmt: skip
    assert asked == ["input features", "output"]
    manifest = Manifest.read(tmp_path / "models" / "purchase" / "1")
    assert (manifest.features, manifest.outputs[0].name) == (TWO, "value")


def test_versions_count_on_and_a_taken_one_is_refused(tmp_path):
    file = two_heads(tmp_path)
    said = ("--input", ",".join(TWO), "--output", "risk", "--metric", "auc=0.81", "--description", "two heads")
    assert added(tmp_path, file, *said).manifest.metrics == {"auc": 0.81}
    assert json.loads(add(tmp_path, file, *said).stdout)["version"] == 2
    assert json.loads(add(tmp_path, file, *said, "--version", "7").stdout)["version"] == 7
    taken = add(tmp_path, file, *said, "--version", "2")
    assert taken.exit_code == 1
    assert "is there already" in taken.stderr


def test_model_that_cannot_score_ones_takes_an_example(tmp_path):
    table = {"t": np.array([[0.25]], np.float32)}  # row 1 is not there
    gather = [
        helper.make_node("Gather", ["t", "place"], ["y"], axis=0),
    ]
    place = helper.make_tensor_value_info("place", TensorProto.INT64, ["N"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])
    file = write_graph(tmp_path / "gather", gather, [place], [out], table)
    assert "example" in refusal(tmp_path, file, "--input", "place=count_1h")
    opened = added(tmp_path, file, "--input", "place=count_1h", "--example", "count_1h=0")
    assert opened.manifest.example == (0.0,)


class TestComparedWithItsSource:
    """The exported graph takes float32, its source decided on float64: only rows beside thresholds tell."""

    @pytest.fixture
    def forest(self, tmp_path):
        rows = rows_of(400, 2) + np.random.default_rng(1).uniform(0, 1e-8, (400, 2))  # no float32
        model = RandomForestClassifier(5, max_depth=4, random_state=0).fit(rows, labels_of(rows))
        file = export(tmp_path / "m.onnx", model, [("X", FloatTensorType([None, 2]))], zipmap=False)
        return model, file, rows.astype(np.float32).astype(np.float64)

    def scored(self, path, rows, scores, column="expected"):
        write_feature_rows(path, np.column_stack([rows, scores]), (*TWO, column))
        return path

    def test_same_scores_are_noted_in_the_manifest(self, tmp_path, forest):
        model, file, rows = forest
        scored = self.scored(tmp_path / "scored.parquet", rows[:50], model.predict_proba(rows[:50])[:, 1])
        opened = added(tmp_path, file, "--input", ",".join(TWO), "--expect", str(scored))
        noted = opened.manifest.metrics["conversion"]
        assert noted["rows"] == 50
        assert noted["largest_difference"] < 1e-6
        assert 0 <= noted["thresholds_touched"] < noted["thresholds"]
        assert opened.manifest.example == tuple(rows[0])

    def test_other_scores_are_refused_with_the_worst_row(self, tmp_path, forest):
        model, file, rows = forest
        scores = model.predict_proba(rows[:50])[:, 1]
        scores[17] += 0.5
        scored = self.scored(tmp_path / "scored.parquet", rows[:50], scores, "purchase_probability")
        line = refusal(tmp_path, file, "--input", ",".join(TWO), "--expect", str(scored))
        assert "differ by 5.00e-01 (allowed 1e-05), most in row 17 of 50: dwell_time_sec=" in line
        assert f"count_1h={rows[17, 1]}" in line
        assert added(tmp_path, file, "--input", ",".join(TWO), "--expect", str(scored), "--tolerance", "0.6")

    def test_rounded_threshold_is_found_by_probes_and_by_nothing_else(self, tmp_path):
        """The source splits between two neighbours of float32; the graph can only hold one, and holds the wrong one."""
        below = np.nextafter(np.float32(1), np.float32(2))
        above = np.nextafter(below, np.float32(2))
        threshold = (float(below) + float(above)) / 2
        file = tree_graph(tmp_path / "m.onnx", input_name="input", outputs="probabilities", zipmap=False)
        import onnx

        graph = onnx.load(file)
        [values] = [each for each in graph.graph.node[0].attribute if each.name == "nodes_values"]
        values.floats[0] = above
        file.write_bytes(graph.SerializeToString())

        def source(rows):
            return 1 / (1 + np.exp(-np.where(rows[:, 0] <= threshold, -1.75, 1.25)))

        said = ("--input", ",".join(TWO))
        sample = rows_of(500, 2)
        held_out = self.scored(tmp_path / "held_out.parquet", sample, source(sample))
        assert add(tmp_path, file, *said, "--expect", str(held_out)).exit_code == 0
        probes = tmp_path / "probes.parquet"
        probed = CliRunner().invoke(
            app, ["models", "probe", str(file), "purchase", *said, "--on", str(held_out), "--to", str(probes), "--json"]
        )
        assert probed.exit_code == 0, probed.output
        assert json.loads(probed.stdout)["thresholds"] == 1
        made = read_feature_rows(probes, TWO)
        assert set(made[:, 0]) == {below, above, float(np.nextafter(above, np.float32(2)))}
        scored = self.scored(tmp_path / "scored.parquet", made, source(made))
        result = add(tmp_path, file, *said, "--expect", str(scored))
        assert result.exit_code == 1
        assert f"dwell_time_sec={float(above)}" in result.stderr

    def test_file_without_the_scores_says_what_it_has(self, tmp_path, forest):
        _, file, rows = forest
        path = tmp_path / "rows.parquet"
        write_feature_rows(path, rows, TWO)
        said = ("--input", ",".join(TWO), "--expect")
        assert "no column expected or purchase_probability" in refusal(tmp_path, file, *said, str(path))
        assert "has no column y; it has dwell_time_sec, count_1h" in refusal(
            tmp_path, file, *said, str(path), "--expect-column", "y"
        )
        (tmp_path / "no.parquet").write_bytes(b"PAR1 no")
        assert "cannot be read" in refusal(tmp_path, file, *said, str(tmp_path / "no.parquet"), "--expect-column", "y")


def test_double_input_gets_doubles(tmp_path):
    rows = rows_of(300, 2) + np.random.default_rng(1).uniform(0, 1e-8, (300, 2))
    model = LinearRegression().fit(rows, 1e6 * rows[:, 0])
    file = export(tmp_path / "m.onnx", model, [("X", DoubleTensorType([None, 2]))])
    opened = added(tmp_path, file, "--input", ",".join(TWO))
    given = rows_of(300)
    given[:, [ALL.index(each) for each in TWO]] = rows
    assert opened.predict(given) == pytest.approx(model.predict(rows), rel=1e-12)


def test_added_version_opens_for_the_pipeline_and_was_tried_out(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(adding, "try_out", tried.append)
    file = two_heads(tmp_path)
    added(tmp_path, file, "--input", ",".join(TWO), "--output", "risk")
    assert len(tried) == 1
    folder = tmp_path / "models" / "purchase" / "1"
    import dataclasses

    pipeline = dataclasses.replace(
        PURCHASE, model=dataclasses.replace(PURCHASE.model, version=1, root=tmp_path / "models")
    )
    assert open_model(pipeline, folder).predict(rows_of(2)).shape == (2,)
