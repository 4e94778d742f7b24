"""`millrace models combine`: versions made into one graph score as the arithmetic of what each of them says."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import skl2onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx_graphs import edit_manifest, hash_of, write_graph
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from typer.testing import CliRunner

from flink_jobs.cli import app
from flink_jobs.pipelines import load_pipeline
from models import adding, combining
from models.adding import Facts
from models.binding import manifest_for_model
from models.combining import Recipe, combine
from models.feature_rows import read_feature_rows, write_feature_rows
from models.json_document import ModelRefusedError
from models.manifest import Manifest, ModelMismatchError, OutputBinding
from models.onnx_model import OnnxModel, PredictionError
from models.outputs import Outputs, Vector

EXPORTED = Path(__file__).parents[1] / "fixtures" / "models"
PURCHASE = load_pipeline("purchase")
ALL = PURCHASE.feature_names
THREE = ("dwell_time_sec", "count_1h", "since_last_1h")
AB = ("a", "b")
TARGET = {"": 17, "ai.onnx.ml": 3}


@pytest.fixture(autouse=True)
def _trial(monkeypatch):
    """Trials have a test of their own; a process for each case here would take a second."""
    monkeypatch.setattr(adding, "try_out", lambda folder: None)
    monkeypatch.setenv("COLUMNS", "400")


def millrace(root, *arguments, as_json=True):
    last = ("--json",) if as_json else ()
    return CliRunner().invoke(app, ["models", *map(str, arguments), "--root", str(root), *last])


def document(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refusal(result):
    assert result.exit_code == 1, result.output
    [line] = result.stderr.splitlines()
    return line


def opened(root, version):
    folder = root / "purchase" / str(version)
    return OnnxModel.load(folder, feature_names=ALL, feature_set_hash=PURCHASE.feature_set_hash)


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Versions 1 to 4 that libraries exported: LightGBM (opset 9, a ZipMap), XGBoost, PyTorch (20), for four rows."""
    root = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adding, "try_out", lambda folder: None)
        for name in ("lightgbm", "xgboost", "torch", "torch_fixed"):
            output = ("--output", "value") if name.startswith("torch") else ()
            said = ("--input", ",".join(THREE), *output)
            document(millrace(root, "add", EXPORTED / f"{name}.onnx", "purchase", *said))
    return root


@pytest.fixture
def root(exported, tmp_path):
    """Those versions where a test may add others."""
    shutil.copytree(exported, tmp_path / "models")
    return tmp_path / "models"


def library_rows():
    """Rows of three features, as the libraries that made the models scored them, in all features; missing ones too."""
    rows = read_feature_rows(EXPORTED / "lightgbm.csv", THREE)
    whole = np.full((len(rows), len(ALL)), np.nan)
    whole[:, [ALL.index(each) for each in THREE]] = rows
    return whole


def asked_directly(name):
    """What onnxruntime says of `library_rows`, of the file as its library exported it."""
    session = onnxruntime.InferenceSession((EXPORTED / f"{name}.onnx").read_bytes())
    rows = library_rows()[:, [ALL.index(each) for each in THREE]].astype(np.float32)
    if name == "torch":
        return session.run(["value"], {"features": rows})[0].reshape(-1).astype(np.float64)
    scores = session.run(None, {"input": rows})[1]
    return np.array([row[1] for row in scores], np.float64)


class TestModelsOfLibraries:
    def test_mean_is_weighted_and_counts_relative_to_the_sum(self, root):
        made = document(millrace(root, "combine", "purchase", "--mean", "1,2,3", "--weights", "2,1,1"))
        assert (made["version"], made["combination"]["weights"]) == (5, [0.5, 0.25, 0.25])
        assert made["conversion"]["largest_difference"] <= 1e-12
        expected = 0.5 * asked_directly("lightgbm") + 0.25 * (asked_directly("xgboost") + asked_directly("torch"))
        assert opened(root, 5).predict(library_rows()) == pytest.approx(expected, abs=1e-9)

    def test_members_with_the_same_features_share_an_input(self, root):
        document(millrace(root, "combine", "purchase", "--mean", "1,2,3"))
        assert [(each.name, each.features) for each in opened(root, 5).manifest.inputs] == [("1/input", THREE)]

    def test_vote_is_the_share_at_or_over_the_threshold(self, root):
        threshold = float(np.median(asked_directly("lightgbm")))
        document(millrace(root, "combine", "purchase", "--vote", "1,2,3", "--threshold", threshold))
        names = ("lightgbm", "xgboost", "torch")
        expected = sum((asked_directly(name) >= threshold).astype(float) for name in names) / 3
        scores = opened(root, 5).predict(library_rows())
        assert scores == pytest.approx(expected)
        assert len(set(scores.tolist())) > 1

    @pytest.mark.parametrize("versions", ["1,3", "3,1", "2,1"])
    def test_cascade_asks_the_second_where_the_first_is_unsure(self, root, versions):
        names = {"1": "lightgbm", "2": "xgboost", "3": "torch"}
        first, second = (asked_directly(names[each]) for each in versions.split(","))
        low, high = np.quantile(first, [0.3, 0.7])
        document(millrace(root, "combine", "purchase", "--cascade", versions, "--unsure", f"{low}:{high}"))
        model = opened(root, 5)
        is_unsure = (first >= low) & (first <= high)
        assert 0 < is_unsure.sum() < len(first)
        assert model.predict(library_rows()).tolist() == np.where(is_unsure, second, first).tolist()
        labels = [f"purchase/{each}" for each in versions.split(",")]
        assert model.members(library_rows()) == [labels[int(each)] for each in is_unsure]
        assert opened(root, 1).members(library_rows()) is None

    def test_combination_can_be_a_member(self, root):
        document(millrace(root, "combine", "purchase", "--cascade", "1,3", "--unsure", "0.2:0.6"))
        document(millrace(root, "combine", "purchase", "--cascade", "2,5", "--unsure", "0.3:0.9"))
        document(millrace(root, "combine", "purchase", "--mean", "5,6"))
        light, xgb, torch = map(asked_directly, ("lightgbm", "xgboost", "torch"))
        inner = np.where((light >= 0.2) & (light <= 0.6), torch, light)
        outer = np.where((xgb >= 0.3) & (xgb <= 0.9), inner, xgb)
        assert opened(root, 7).predict(library_rows()) == pytest.approx((inner + outer) / 2, abs=1e-12)


    def test_sequence_output_gives_the_tensor_and_column_that_the_member_says(self, root, tmp_path):
        rows = np.random.default_rng(5).normal(0, 1, (200, 3))
        model = MultiOutputClassifier(LogisticRegression()).fit(rows, (rows[:, :2] > 0.3).astype(int))
        made = skl2onnx.convert_sklearn(
            model, initial_types=[("X", FloatTensorType([None, 3]))], target_opset=TARGET,
            options={id(model): {"zipmap": False}},
        )  # fmt: skip
        (tmp_path / "several.onnx").write_bytes(made.SerializeToString())
        said = ("--input", ",".join(THREE), "--item", 1, "--column", 1)
        document(millrace(root, "add", tmp_path / "several.onnx", "purchase", *said))
        document(millrace(root, "combine", "purchase", "--mean", "5,2", "--weights", "1,0"))
        given = np.zeros((200, len(ALL)))
        given[:, [ALL.index(each) for each in THREE]] = rows
        assert opened(root, 6).predict(given) == pytest.approx(model.predict_proba(rows)[1][:, 1], abs=1e-5)


class TestStack:
    @pytest.fixture
    def rows(self):
        return library_rows()

    def stacker(self, tmp_path, width, **options):
        given = np.random.default_rng(3).uniform(0, 1, (200, width))
        model = LogisticRegression().fit(given, (given[:, 0] > 0.6 * given[:, -1]).astype(int))
        kind = options.pop("kind", FloatTensorType)
        made = skl2onnx.convert_sklearn(
            model, initial_types=[("X", kind([None, width]))], target_opset=TARGET, options={id(model): options}
        )
        path = tmp_path / "stacker.onnx"
        path.write_bytes(made.SerializeToString())
        return model, path

    def test_scores_are_its_only_input_where_nothing_else_is_said(self, root, tmp_path, rows):
        model, file = self.stacker(tmp_path, 2)  # with a ZipMap
        made = document(millrace(root, "combine", "purchase", "--stack", "1,3", "--by", file))
        scores = np.column_stack([asked_directly("lightgbm"), asked_directly("torch")])
        assert opened(root, 5).predict(rows) == pytest.approx(model.predict_proba(scores)[:, 1], abs=1e-5)
        assert len(made["combination"]["stacker_sha256"]) == 64

    def test_features_may_stand_between_the_scores(self, root, tmp_path, rows):
        model, file = self.stacker(tmp_path, 4, zipmap=False, kind=DoubleTensorType)
        said = "X=score_3,count_1h,score_1,dwell_time_sec"
        stack = ("combine", "purchase", "--stack", "1,3", "--by", file)
        assert "score_1, score_3" in (line := refusal(millrace(root, *stack)))
        assert "takes 4 columns of double" in line
        document(millrace(root, *stack, "--input", said))
        whole = ~np.isnan(rows[:, [ALL.index(each) for each in ("count_1h", "dwell_time_sec")]]).any(axis=1)
        columns = [
            asked_directly("torch"), rows[:, ALL.index("count_1h")], asked_directly("lightgbm"),
            rows[:, ALL.index("dwell_time_sec")],
        ]  # fmt: skip
        given = np.column_stack(columns)[whole]
        assert opened(root, 5).predict(rows[whole]) == pytest.approx(model.predict_proba(given)[:, 1], abs=1e-6)

    def test_whole_numbers_take_no_scores(self, root, tmp_path):
        nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
        x = helper.make_tensor_value_info("x", TensorProto.INT64, ["N", 2])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
        file = write_graph(tmp_path / "whole", nodes, [x], [y])
        said = ("--stack", "1,2", "--by", file, "--column", 1)
        assert "takes int64, a score is a float" in refusal(millrace(root, "combine", "purchase", *said))


def linear(directory, weights, *, version, dtype=TensorProto.DOUBLE, functions=()):
    """`line/<version>`: the sum of two columns times weights; NaN stays NaN."""
    where = directory / "line" / str(version)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    value = helper.make_tensor_value_info
    constant = np.array(weights, np.float64 if dtype == TensorProto.DOUBLE else np.float32)[:, None]
    given = [value("x", dtype, ["N", 2])]
    path = write_graph(where, nodes, given, [value("y", dtype, ["N", 1])], {"w": constant})
    manifest_for_model(path, name="line", version=version, features=AB, feature_set_hash=hash_of(AB)).write(where)


def made_of(root, recipe, prediction="score"):
    folder, _ = combine(
        recipe, root=root, name="line", version=None, feature_names=AB, feature_set_hash=hash_of,
        prediction=Outputs.of(prediction), one_hot={}, blocks={}, facts=Facts(),
    )  # fmt: skip
    return OnnxModel.load(folder, feature_names=AB, feature_set_hash=hash_of)


@pytest.fixture(scope="session")
def lines(tmp_path_factory):
    """A cascade of two linear models that is unsure from 0.25 to 0.75, and these alone."""
    root = tmp_path_factory.mktemp("lines")
    linear(root, [1.0, 0.0], version=1)
    linear(root, [0.3, 1.7], version=2, dtype=TensorProto.FLOAT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adding, "try_out", lambda folder: None)
        cascade = made_of(root, Recipe("cascade", (1, 2), unsure=(0.25, 0.75)))
    single = [OnnxModel.load(root / "line" / each, feature_names=AB, feature_set_hash=hash_of) for each in "12"]
    return cascade, *single


VALUES = st.one_of(
    st.sampled_from([0.25, 0.75, np.nextafter(0.25, 0), np.nextafter(0.75, 1), 0.0, 0.5, np.nan, np.inf, -np.inf]),
    st.floats(-2, 2),
)


@given(rows=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=40))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cascade_scores_each_row_as_its_members_do_alone(lines, rows):
    """Whatever the rows beside it, to the last bit: also when none or all are unsure, or there is one."""
    cascade, first, second = lines
    given = np.array(rows, np.float64)
    scores, members = cascade.predict(given), cascade.members(given)
    for row, score, member in zip(given, scores, members, strict=True):
        [cheap], [costly] = first.predict(row[None]), second.predict(row[None])
        is_unsure = not (cheap < 0.25 or cheap > 0.75)
        np.testing.assert_equal(score, costly if is_unsure else cheap)
        assert member == f"line/{2 if is_unsure else 1}"


def failing(root, version):
    """`line/<version>` that raises when it runs on b = 9."""
    where = root / "line" / str(version)
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["x"], ["place"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "place"], ["y"], axis=0),
    ]
    table = {"table": np.linspace(0, 1, 9, dtype=np.float32)}
    path = write_graph(where, nodes, [value("x", TensorProto.FLOAT, ["N", 1])], [value("y", 1, ["N", 1])], table)
    manifest_for_model(path, name="line", version=version, features=("b",), feature_set_hash=hash_of(AB)).write(where)


def test_second_member_runs_only_on_rows_that_are_unsure(tmp_path):
    linear(tmp_path, [1.0, 0.0], version=1)
    failing(tmp_path, 2)
    model = made_of(tmp_path, Recipe("cascade", (1, 2), unsure=(0.25, 0.75)))
    assert model.predict(np.array([[0.0, 9.0], [1.0, 99.0], [0.5, 4.0]])).tolist() == [0.0, 1.0, 0.5]
    assert model.predict(np.array([[0.0, 9.0], [1.0, 99.0]])).tolist() == [0.0, 1.0]
    with pytest.raises(PredictionError, match="out of data bounds"):
        model.predict(np.array([[0.0, 1.0], [0.5, 9.0]]))


def test_vote_and_mean_have_no_number_where_a_member_has_none(tmp_path):
    linear(tmp_path, [1.0, 0.0], version=1)
    linear(tmp_path, [0.0, 1.0], version=2)
    mean, vote = made_of(tmp_path, Recipe("mean", (1, 2))), made_of(tmp_path, Recipe("vote", (1, 2)))
    rows = np.array([[0.0, 1.0], [0.5, 0.5], [np.nan, 1.0], [1.0, np.nan], [0.0, np.inf]])
    np.testing.assert_equal(mean.predict(rows)[:4], [0.5, 0.5, np.nan, np.nan])
    np.testing.assert_equal(vote.predict(rows), [0.5, 1.0, np.nan, np.nan, np.nan])


def test_inputs_of_text_and_whole_numbers_are_picked_too(tmp_path):
    """The second takes a category as text, and a count; names inside are those of the first, subgraph and all."""
    value, pages = helper.make_tensor_value_info, ("page_id_is_home", "page_id_is_product")
    nodes = [
        helper.make_node("LabelEncoder", ["page"], ["x"], domain="ai.onnx.ml", keys_strings=["home", "product"],
                         values_floats=[0.125, 0.5], default_float=1.0),
        helper.make_node("Flatten", ["x"], ["x1"], axis=0), helper.make_node("Squeeze", ["x1"], ["x2"]),
        helper.make_node("Cast", ["count"], ["y"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x2", "y"], ["w"]),
    ]  # fmt: skip
    inputs = [value("page", TensorProto.STRING, ["N", 1]), value("count", TensorProto.INT64, ["N"])]
    second = tmp_path / "line" / "2"
    path = write_graph(second, nodes, inputs, [value("w", 1, ["N"])], domains=["ai.onnx.ml"])
    model = onnx.load(path)
    next(each for each in model.opset_import if each.domain).version = 2
    path.write_bytes(model.SerializeToString())
    names = ("a", *pages, "count")
    manifest_for_model(
        path, name="line", version=2, features={"page": pages, "count": ("count",)}, feature_set_hash=hash_of(names),
        categories={"page": ("home", "product")},
    ).write(second)
    branch = [
        helper.make_graph([helper.make_node("Mul", ["x", "w"], [name])], name, [], [value(name, 1, None)])
        for name in ("z1", "z2")
    ]
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0), helper.make_node("Greater", ["y", "w"], ["page"]),
        helper.make_node("If", ["page"], ["count"], then_branch=branch[0], else_branch=branch[1]),
    ]  # fmt: skip
    first = tmp_path / "line" / "1"
    constants = {"w": np.array(1, np.float32)}
    path = write_graph(first, nodes, [value("x", 1, ["N", 1])], [value("count", 1, ["N", 1])], constants)
    manifest_for_model(
        path, name="line", version=1, features=("a",), feature_set_hash=hash_of(names)
    ).write(first)  # fmt: skip
    folder, manifest = combine(
        Recipe("cascade", (1, 2), unsure=(0.25, 0.75)), root=tmp_path, name="line", version=None, feature_names=names,
        feature_set_hash=hash_of, prediction=Outputs.of("score"), one_hot={}, blocks={}, facts=Facts(),
    )  # fmt: skip
    assert {each.dtype for each in manifest.inputs} == {"float", "string", "int64"}
    cascade = OnnxModel.load(folder, feature_names=names, feature_set_hash=hash_of)
    rows = np.array([[0.5, 1, 0, 3], [0.9, 1, 0, 3], [0.5, 0, 1, 4], [0.25, 0, 0, 5]])
    assert cascade.predict(rows) == pytest.approx([3.125, 0.9, 4.5, 6.0])


def test_of_several_outputs_the_number_that_the_pipeline_predicts_counts(tmp_path):
    for version in (1, 2):
        linear(tmp_path, [float(version), 1.0], version=version)
        where = tmp_path / "line" / str(version)
        outputs = [
            OutputBinding("y", "tensor", field="embedding", size=1),
            OutputBinding("y", "tensor", column=0, field="risk"),
        ]
        manifest_for_model(
            where / "model.onnx", name="line", version=version, features=AB, feature_set_hash=hash_of(AB),
            outputs=outputs,
        ).write(where)  # fmt: skip
    mean = made_of(tmp_path, Recipe("mean", (1, 2)), "risk")
    assert mean.predict(np.array([[2.0, 1.0]])).tolist() == [4.0]
    with pytest.raises(ModelMismatchError, match="the pipeline's prediction has score, a number"):
        made_of(tmp_path, Recipe("mean", (1, 2)), "score")
    with pytest.raises(ModelRefusedError, match="scores of one number are combined, the prediction has embedding"):
        made_of(tmp_path, Recipe("mean", (1, 2)), Vector("embedding", 1))


def test_local_functions_are_resolved(tmp_path):
    linear(tmp_path, [1.0, 0.0], version=1)
    twice = helper.make_function(
        "own", "Twice", ["i"], ["o"], [helper.make_node("Add", ["i", "i"], ["o"])], [helper.make_opsetid("", 17)]
    )
    value, where = helper.make_tensor_value_info, tmp_path / "line" / "2"
    path = write_graph(
        where, [helper.make_node("Twice", ["x"], ["y"], domain="own")], [value("x", 1, ["N", 1])],
        [value("y", 1, ["N", 1])], functions=[twice], domains=["own"],
    )  # fmt: skip
    manifest_for_model(path, name="line", version=2, features=("b",), feature_set_hash=hash_of(AB)).write(where)
    assert made_of(tmp_path, Recipe("mean", (1, 2))).predict(np.array([[1.0, 3.0]])).tolist() == [3.5]


class TestRefusals:
    @pytest.mark.parametrize(
        ("said", "why"),
        [
            (("--mean", "1,4"), "purchase/4: input 'features' is for exactly 4 rows a call"),
            (("--mean", "1,9"), "no version 9 of purchase"),
            (("--mean", "1,1"), "name two or more versions, each once"),
            (("--mean", "1,x"), "write versions with commas between, like --mean 3,4"),
            (("--mean", "1,2", "--weights", "1"), "give 2, one for each version"),
            (("--mean", "1,2", "--weights", "1,-1"), "give numbers from 0 on"),
            (("--mean", "1,2", "--weights", "1,nan"), "--weights: 'nan' is no number"),
            (("--mean", "1,2", "--vote", "1,2"), "say one of --mean, --vote, --stack and --cascade"),
            (("--mean", "1,2", "--unsure", "0:1"), "--unsure goes with --cascade"),
            (("--cascade", "1,2"), "say which scores of the first member are unsure"),
            (("--cascade", "1,2", "--unsure", "0.7:0.3"), "write the lowest and the highest unsure score"),
            (("--cascade", "1,2", "--unsure", "0.7"), "write the lowest and the highest unsure score"),
            (("--cascade", "1,2,3", "--unsure", "0:1"), "a cascade can be a member of another one"),
            (("--stack", "1,2"), "name the further model with --by"),
            (("--stack", "1,2", "--by", "no.onnx"), "no.onnx is not a file"),
        ],
    )
    def test_what_cannot_be_made_is_refused_in_one_line(self, root, said, why):
        assert why in refusal(millrace(root, "combine", "purchase", *said))
        assert sorted(each.name for each in (root / "purchase").iterdir()) == ["1", "2", "3", "4"]

    def test_member_that_is_retired(self, root, tmp_path):
        document(millrace(root, "combine", "purchase", "--mean", "1,2"))
        document(millrace(root, "retire", "purchase", "5", "--reason", "drifted"))
        assert "purchase/5 is retired (drifted)" in refusal(millrace(root, "combine", "purchase", "--mean", "1,5"))

    def test_operators_of_machine_learning_that_changed_their_meaning(self, tmp_path):
        for version, opset in ((1, 1), (2, 4)):
            where, value = tmp_path / "line" / str(version), helper.make_tensor_value_info
            said = {"keys_strings": ["x", "y"], "values_int64s": [0, 1]}
            nodes = [
                helper.make_node(
                    "LabelEncoder", ["x"], ["i"], domain="ai.onnx.ml",
                    **({"classes_strings": ["x", "y"]} if opset == 1 else said),
                ),
                helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
            ]  # fmt: skip
            texts = [value("x", TensorProto.STRING, ["N", 1])]
            path = write_graph(where, nodes, texts, [value("y", 1, ["N", 1])], domains=["ai.onnx.ml"])
            model = onnx.load(path)
            next(each for each in model.opset_import if each.domain).version = opset
            path.write_bytes(model.SerializeToString())
            manifest_for_model(
                path, name="line", version=version, features={"x": AB}, feature_set_hash=hash_of(AB),
                categories={"x": ("x", "y")},
            ).write(where)  # fmt: skip
        with pytest.raises(ModelRefusedError, match="line/1: LabelEncoder is written in version 1 of its operator"):
            made_of(tmp_path, Recipe("mean", (1, 2)))

    def test_graph_that_does_not_score_as_its_members_is_not_written(self, root, monkeypatch):
        right = combining.scores_of

        def wrong(*arguments):
            scores = right(*arguments).copy()
            scores[17] += 0.25
            return scores

        monkeypatch.setattr(combining, "scores_of", wrong)
        line = refusal(millrace(root, "combine", "purchase", "--mean", "1,2"))
        assert "ONNX and its members' own scores differ by 2.50e-01 (allowed 1e-06), most in row 17 of" in line
        assert "dwell_time_sec=" in line
        assert not (root / "purchase" / "5").exists()

    def test_members_that_are_too_large_together(self, root, monkeypatch):
        size = sum((root / "purchase" / each / "model.onnx").stat().st_size for each in "12")
        monkeypatch.setattr(combining, "MAX_MODEL_BYTES", size - 1)
        line = refusal(millrace(root, "combine", "purchase", "--mean", "1,2"))
        assert f"the members have {size:,} bytes together, one graph {size - 1:,} at most" in line

    def test_members_must_be_signed_where_the_pipeline_says_so(self, root, monkeypatch):
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = Ed25519PrivateKey.generate().public_key()
        public = key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()  # fmt: skip
        signed = dataclasses.replace(PURCHASE, model=dataclasses.replace(PURCHASE.model, signed_by=public))
        monkeypatch.setattr("flink_jobs.pipelines.load_pipeline", lambda name: signed)
        assert "is not signed" in refusal(millrace(root, "combine", "purchase", "--mean", "1,2"))


class TestManifest:
    def test_what_it_is_made_of_is_said_everywhere(self, root):
        made = document(millrace(root, "combine", "purchase", "--cascade", "1,3", "--unsure", "0.3:0.7"))
        digests = [opened(root, each).manifest.sha256 for each in (1, 3)]
        assert [each["sha256"] for each in made["combination"]["members"]] == digests
        shown = document(millrace(root, "show", "purchase", 5))
        assert shown["combination"] == made["combination"]
        text = millrace(root, "show", "purchase", 5, as_json=False).stdout
        assert f"cascade of purchase/1 ({digests[0][:12]}), purchase/3" in text
        assert "the second scores what the first gives 0.3 to 0.7, or no number" in text
        assert "cascade of 1, 3" in millrace(root, "ls", "purchase", as_json=False).stdout
        differs = document(millrace(root, "diff", "purchase", 1, 5))
        assert differs["combination"][0] is None
        assert "combined  stands alone -> cascade" in millrace(root, "diff", "purchase", 1, 5, as_json=False).stdout

    def test_member_may_be_retired_and_who_holds_it_is_said(self, root, tmp_path):
        for said in (("--mean", "2,3"), ("--mean", "1,5"), ("--vote", "1,3"), ("--mean", "2,6"), ("--mean", "3,6")):
            document(millrace(root, "combine", "purchase", *said))
        document(millrace(root, "retire", "purchase", 9))
        assert document(millrace(root, "retire", "purchase", 1))["held_by"] == [6, 7, 8]
        assert document(millrace(root, "retire", "purchase", 1, "--undo"))["held_by"] == []
        result = millrace(root, "retire", "purchase", 1, as_json=False)
        assert "goes on scoring within 6, 7, 8, which hold its graph" in result.output

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"kind": "median"}, "write one of mean, vote, stack, cascade"),
            ({"members": []}, "name two or more"),
            ({"weights": [1]}, "give one weight for each member"),
            ({"weights": ["1", 2]}, "must be a list of numbers"),
            ({"unsure": [0, 1]}, "unknown key"),
            ({"kind": "cascade"}, "unknown key"),
        ],
    )
    def test_combination_is_read_strictly(self, root, change, said):
        document(millrace(root, "combine", "purchase", "--mean", "1,2"))
        folder = root / "purchase" / "5"
        manifest = Manifest.read(folder)
        assert Manifest.from_json(manifest.to_json()) == manifest
        edit_manifest(folder, lambda found: found["combination"].update(change))
        with pytest.raises(ModelRefusedError, match=said):
            Manifest.read(folder)
        edit_manifest(folder, lambda found: found.pop("combination"))
        assert Manifest.read(folder) == dataclasses.replace(manifest, combination=None)


def test_rows_of_a_file_are_compared_too(root, tmp_path):
    write_feature_rows(tmp_path / "rows.parquet", library_rows(), ALL)
    plain = document(millrace(root, "combine", "purchase", "--mean", "1,3"))
    more = document(millrace(root, "combine", "purchase", "--mean", "1,3", "--on", tmp_path / "rows.parquet"))
    assert more["conversion"]["rows"] == plain["conversion"]["rows"] + 60
    said = ("--cascade", "1,3", "--unsure", "0.3:0.7", "--on", tmp_path / "rows.parquet")
    scores = asked_directly("lightgbm")
    share = np.mean((scores >= 0.3) & (scores <= 0.7))
    assert document(millrace(root, "combine", "purchase", *said))["unsure_share"] == share
    text = millrace(root, "combine", "purchase", *said, as_json=False).stdout
    assert f"of the rows of rows.parquet, purchase/1 leaves {share:.1%} to purchase/3" in text
