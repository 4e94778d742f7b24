"""`millrace models check|diff`: every version put to the test, and two of them beside each other."""

import json
import shutil

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_graphs import edit_manifest, write_graph
from typer.testing import CliRunner

from flink_jobs.cli import app
from flink_jobs.pipelines import load_pipeline
from models import checking
from models.comparing import score_differences
from models.feature_rows import FeatureRowsError, read_feature_rows, write_feature_rows
from models.manifest import InputBinding
from models.opened import SHIPPED, open_alone
from models.thresholds import MOST_PROBES, probe_rows, share_touched, thresholds_of

ALL = load_pipeline("purchase").feature_names


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder of models that a test may change; trials have tests of their own."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(checking, "try_out", lambda folder: None)
    monkeypatch.setattr(checking, "_LEAST_S", 0.002)
    shutil.copytree(SHIPPED / "purchase", tmp_path / "models" / "purchase")
    return tmp_path / "models"


def millrace(root, *arguments, as_json=True):
    last = ("--json",) if as_json else ()
    return CliRunner().invoke(app, ["models", *arguments, "--root", str(root), *last])


def document(result):
    assert result.exit_code == 0, result.output
    [line] = result.stdout.splitlines()
    return json.loads(line)


def feature_rows(count=300):
    rows = np.random.default_rng(2).uniform(0, 100, (count, len(ALL)))
    rows[:, 1:5] = np.eye(4)[np.arange(count) % 4]
    return rows


@pytest.fixture
def rows_file(tmp_path):
    write_feature_rows(tmp_path / "rows.parquet", feature_rows(), ALL)
    return str(tmp_path / "rows.parquet")


def test_sound_versions_pass_and_are_timed(root):
    rows = document(millrace(root, "check", "purchase"))["versions"]
    assert [(row["version"], row["passed"], row["problem"]) for row in rows] == [(1, True, None), (2, True, None)]
    assert all(row["us_a_row"]["1"] > row["us_a_row"]["100"] > 0 for row in rows)
    shown = millrace(root, "check", "purchase", "2", as_json=False).stdout
    assert "µs a row, 100 at once" in shown
    assert "passed" in shown


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "model.onnx").write_bytes(b"x"), "its manifest says"),
        (lambda folder: edit_manifest(folder, lambda m: m.update(feature_set_hash="1" * 64)), "other definitions"),
        (lambda folder: edit_manifest(folder, lambda m: m.update(opsets={"ai.onnx": 9})), "opsets"),
        (lambda folder: edit_manifest(folder, lambda m: m.update(version=9)), "holds purchase/9, not purchase/1"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is not there"),
    ],
)
def test_version_that_cannot_be_used_fails_the_check_until_it_is_retired(root, spoil, said):
    spoil(root / "purchase" / "1")
    result = millrace(root, "check", "purchase")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: purchase/1 cannot be used: ")
    assert said in result.stderr
    [first, second] = json.loads(result.stdout)["versions"]
    assert said in first["problem"]
    assert second["passed"]
    assert millrace(root, "check", "purchase", "2").exit_code == 0


def test_retired_version_does_not_fail_the_check(root):
    edit_manifest(root / "purchase" / "1", lambda m: m.update(feature_set_hash="1" * 64))
    document(millrace(root, "retire", "purchase", "1"))
    [first, _] = document(millrace(root, "check", "purchase"))["versions"]
    assert (first["passed"], first["retired"]) == (False, True)


def test_version_that_dies_in_its_trial_fails(root, monkeypatch):
    from models.json_document import ModelRefusedError

    def killed(folder):
        raise ModelRefusedError(f"{folder}: the model killed the process in which it was tried out (SIGSEGV)")

    monkeypatch.setattr(checking, "try_out", killed)
    result = millrace(root, "check", "purchase", "1")
    assert result.exit_code == 1
    assert "SIGSEGV" in result.stderr


def test_diff_says_what_another_version_takes_and_gives(root):
    found = document(millrace(root, "diff", "purchase", "1", "2"))
    assert found["features"]["removed"] == []
    assert len(found["features"]["added"]) == len(ALL) - 5
    assert found["output"][1]["name"] == "probabilities"
    assert found["metrics"]["model.auc"][0] is None
    shown = millrace(root, "diff", "purchase", "1", "2", as_json=False).stdout
    assert "+ feature count_1h\n" in shown
    assert "probability (tensor, column 0) -> probabilities (tensor, column 1)" in shown
    assert "the same model" in millrace(root, "diff", "purchase", "2", "2", as_json=False).stdout


def test_diff_scores_the_rows_of_a_file_with_both(root, rows_file):
    found = document(millrace(root, "diff", "purchase", "1", "2", "--on", rows_file, "--threshold", "0.5"))["scores"]
    rows = feature_rows()
    first, second = (
        open_alone(f"purchase/{version}").predict(rows[:, : 5 if version == 1 else len(ALL)]) for version in (1, 2)
    )
    assert found["largest"] == pytest.approx(np.abs(first - second).max())
    worst = int(np.argmax(np.abs(first - second)))
    assert (found["worst_row"], found["worst"]) == (worst, [first[worst], second[worst]])
    assert found["yes_to_no"] == ((first >= 0.5) & (second < 0.5)).sum() > 0
    shown = millrace(root, "diff", "purchase", "1", "2", "--on", rows_file, as_json=False).stdout
    assert f"most in row {worst}, " in shown
    same = document(millrace(root, "diff", "purchase", "2", "2", "--on", rows_file))["scores"]
    assert (same["same"], same["largest"]) == (300, 0.0)


def test_diff_without_rows_or_with_the_wrong_ones_is_refused(root, tmp_path):
    result = millrace(root, "diff", "purchase", "1", "2", "--threshold", "0.5")
    assert "give some with --on" in result.stderr
    write_feature_rows(tmp_path / "two.parquet", feature_rows()[:, :2], ALL[:2])
    result = millrace(root, "diff", "purchase", "1", "2", "--on", str(tmp_path / "two.parquet"))
    assert "two.parquet has no column page_id_is_product" in result.stderr
    assert "there are 1, 2" in millrace(root, "diff", "purchase", "1", "9").stderr


def test_rows_without_a_number_are_told_apart():
    before, after = np.array([0.1, np.nan, 0.5, np.nan]), np.array([0.1, np.nan, np.nan, 0.2])
    found = score_differences(before, after, 0.2)
    assert (found["same"], found["no_number"], found["largest"]) == (2, 2, 0.0)
    assert (found["yes_to_no"], found["no_to_yes"], found["worst_row"]) == (1, 1, 2)


def test_rows_are_read_by_name_from_parquet_and_csv(tmp_path):
    write_feature_rows(tmp_path / "rows.parquet", np.array([[1.0, 2.0], [np.nan, 4.0]]), ("a", "b"))
    (tmp_path / "rows.csv").write_text("a,t,b\n1,x,2\n,y,4\n")
    for name in ("rows.parquet", "rows.csv"):
        rows = read_feature_rows(tmp_path / name, ("b", "a"))
        assert np.array_equal(rows, [[2.0, 1.0], [4.0, np.nan]], equal_nan=True)
        with pytest.raises(FeatureRowsError, match="no column c"):
            read_feature_rows(tmp_path / name, ("a", "c"))
    with pytest.raises(FeatureRowsError, match="cannot be read"):
        read_feature_rows(tmp_path / "rows.csv", ("t",))
    (tmp_path / "empty.csv").write_text("a\n")
    with pytest.raises(FeatureRowsError, match="has no rows"):
        read_feature_rows(tmp_path / "empty.csv", ("a",))


class TestThresholds:
    def test_shipped_trees_decide_at_as_many_values_as_their_graph_has(self):
        model = (SHIPPED / "purchase" / "2" / "model.onnx").read_bytes()
        found = thresholds_of(model, [InputBinding("features", "float", ALL)])
        assert set(found) <= set(ALL)
        assert len(found) > 10
        rows = feature_rows()
        probes = probe_rows(rows, ALL, found)
        assert share_touched(probes, ALL, found) == (sum(map(len, found.values())),) * 2
        assert share_touched(rows, ALL, found)[0] < 10

    def test_too_many_are_sampled_with_their_neighbours(self):
        many = {"a": np.arange(20_000, dtype=np.float32) + 0.5}
        probes = probe_rows(np.zeros((3, 2)), ("b", "a"), many)
        assert len(probes) == MOST_PROBES
        assert share_touched(probes, ("b", "a"), many) == (10_000, 20_000)
        assert (probes[:, 0] == 0).all()

    def test_columns_are_followed_through_casts_and_concatenation_and_no_further(self, tmp_path):
        def tree(name, place):
            return helper.make_node(
                "TreeEnsembleRegressor", [name], [f"{name}_out"], domain="ai.onnx.ml", n_targets=1,
                nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[place, 0, 0],
                nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values=[0.5 + place, 0.0, 0.0],
                nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0], target_treeids=[0, 0],
                target_nodeids=[1, 2], target_ids=[0, 0], target_weights=[0.0, 1.0],
            )  # fmt: skip

        nodes = [
            helper.make_node("Cast", ["whole"], ["casted"], to=TensorProto.FLOAT),
            helper.make_node("Concat", ["casted", "real"], ["all"], axis=1),
            helper.make_node("Abs", ["real"], ["behind"]),
            tree("all", 2), tree("behind", 0),
            helper.make_node("Add", ["all_out", "behind_out"], ["y"]),
        ]  # fmt: skip
        given = [
            helper.make_tensor_value_info("whole", TensorProto.INT64, ["N", 2]),
            helper.make_tensor_value_info("real", TensorProto.FLOAT, ["N", 1]),
        ]
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])
        path = write_graph(tmp_path / "m", nodes, given, [out], domains=["ai.onnx.ml"])
        bound = [InputBinding("whole", "int64", ("a", "b")), InputBinding("real", "float", ("c",))]
        assert thresholds_of(path.read_bytes(), bound) == {"c": np.float32([2.5])}
