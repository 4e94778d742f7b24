"""Scoring with ONNX models: columns are found by name, and a row's score is its own."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx_graphs import HASH, RULE_FEATURES, hash_of, load, write_graph, write_sum

from models.binding import manifest_for_model
from models.manifest import ModelMismatchError
from models.onnx_checks import describe_model
from models.onnx_model import PredictionError
from models.rule import build_rule_model

PUBLIC_MODELS = Path(__file__).parents[3] / "shared" / "data" / "onnx_models"


@pytest.fixture
def rule(tmp_path: Path) -> Path:
    build_rule_model(tmp_path / "rule", name="purchase", version=1, feature_set_hash=hash_of)
    return tmp_path / "rule"


def test_columns_are_found_by_name_wherever_the_pipeline_has_them(rule: Path):
    names = (
        "z",
        "page_id_is_search",
        "page_id_is_home",
        "w",
        "dwell_time_sec",
        "page_id_is_product",
        "page_id_is_checkout",
    )
    row = np.array([[9.0, 0, 0, 9, 60, 0, 1]])
    assert load(rule, names).predict(row).tolist() == [0.75]


def test_features_in_any_memory_layout_score_alike(rule: Path):
    rows = np.column_stack([np.arange(8.0), np.eye(4)[np.arange(8) % 4]])
    model = load(rule, RULE_FEATURES)
    np.testing.assert_array_equal(model.predict(np.asfortranarray(rows)), model.predict(rows))
    np.testing.assert_array_equal(model.predict(rows[::2]), model.predict(rows)[::2])


def test_no_rows_give_no_predictions(rule: Path):
    assert load(rule, RULE_FEATURES).predict(np.empty((0, 5))).shape == (0,)


@pytest.mark.parametrize("dtype", [TensorProto.INT64, TensorProto.INT32])
def test_whole_number_inputs_refuse_what_they_cannot_hold(tmp_path: Path, dtype: int):
    model = load(write_sum(tmp_path / "m", dtype=dtype), ("a", "b"))
    assert model.predict(np.array([[1.0, 2.0], [3.0, -4.0]])).tolist() == [3.0, -1.0]
    for wrong in (0.5, np.nan, np.inf, 1e30):
        with pytest.raises(PredictionError, match="feature 'b'"):
            model.predict(np.array([[1.0, 2.0], [3.0, wrong]]))


def test_truth_inputs_take_zero_and_one_only(tmp_path: Path):
    model = load(write_sum(tmp_path / "m", dtype=TensorProto.BOOL), ("a", "b"))
    assert model.predict(np.array([[1.0, 0.0]])).tolist() == [1.0]
    with pytest.raises(PredictionError, match="feature 'a'"):
        model.predict(np.array([[2.0, 0.0]]))


def test_non_finite_predictions_are_returned(tmp_path: Path):
    model = load(write_sum(tmp_path / "m"), ("a", "b"))
    np.testing.assert_array_equal(model.predict(np.array([[1e300, 0], [np.nan, 0]])), [np.inf, np.nan])


def test_one_column_may_be_an_input_of_one_dimension(tmp_path: Path):
    model = load(write_sum(tmp_path / "m", width=None, features=("b",)), ("a", "b"))
    assert model.predict(np.array([[1.0, 2.0], [3.0, 4.0]])).tolist() == [2.0, 4.0]


def test_text_input_gets_the_category_whose_column_is_one(tmp_path: Path):
    encode = helper.make_node(
        "LabelEncoder", ["page"], ["code"], domain="ai.onnx.ml",
        keys_strings=["home", "checkout"], values_floats=[1.0, 2.0], default_float=-1.0,
    )  # fmt: skip
    path = write_graph(
        tmp_path / "m",
        [encode],
        [helper.make_tensor_value_info("page", TensorProto.STRING, ["rows", 1])],
        [helper.make_tensor_value_info("code", TensorProto.FLOAT, ["rows", 1])],
        domains=["ai.onnx.ml"],
    )
    model = onnx.load(path)
    model.opset_import[1].version = 3
    path.write_bytes(model.SerializeToString())
    options = {"name": "m", "version": 1, "features": ("is_home", "is_checkout"), "feature_set_hash": HASH}
    with pytest.raises(ModelMismatchError, match="categories"):
        manifest_for_model(path, **options)
    manifest_for_model(path, **options, categories={"page": ("home", "checkout")}).write(tmp_path / "m")
    found = load(tmp_path / "m", ("is_checkout", "is_home")).predict(np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]))
    assert found.tolist() == [1.0, 2.0, -1.0]


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("rows", ["rows", 1, 3])
def test_fixed_and_open_rows_score_alike(tmp_path: Path, rows: str | int, keepdims: int):
    model = load(write_sum(tmp_path / "m", rows=rows, keepdims=keepdims), ("a", "b"))
    for n_rows in (1, 2, 3, 4, 7):
        features = np.arange(2.0 * n_rows).reshape(n_rows, 2)
        assert model.predict(features).tolist() == features.sum(axis=1).tolist()


def test_a_score_does_not_depend_on_the_batch(tmp_path: Path):
    """Contract: a replay cuts batches elsewhere and must give the same bytes."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=17).tolist()
    classify = helper.make_node(
        "LinearClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml",
        coefficients=[*(-each for each in weights), *weights], intercepts=[-0.1, 0.1],
        classlabels_ints=[0, 1], post_transform="LOGISTIC",
    )  # fmt: skip
    path = write_graph(
        tmp_path / "m",
        [classify],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 17])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 2])],
        domains=["ai.onnx.ml"],
    )
    names = [f"f{each}" for each in range(17)]
    manifest_for_model(path, name="m", version=1, features=names, feature_set_hash=HASH).write(tmp_path / "m")
    model = load(tmp_path / "m", names)
    features = rng.normal(size=(500, 17))
    whole = model.predict(features)
    for step in (1, 3, 50):
        parts = [model.predict(features[start : start + step]) for start in range(0, 500, step)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def public_model(tmp_path: Path, file: str, **options) -> tuple[Path, list[str]]:
    if not PUBLIC_MODELS.is_dir():
        pytest.skip("the models made by others are not there (../shared/data/onnx_models)")
    path = tmp_path / "model.onnx"
    path.write_bytes((PUBLIC_MODELS / file).read_bytes())
    width = options.pop("width", None) or describe_model(path).inputs[0].width
    names = [f"f{each}" for each in range(width or 0)]
    manifest_for_model(path, name="public", version=1, features=names, feature_set_hash=HASH, **options).write(tmp_path)
    return path, names


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("logreg_iris.onnx", {"class_key": 2}),
        ("mul_1.onnx", {"column": 1}),
        ("lightgbm.onnx", {}),
        ("randomforest.onnx", {"class_key": 0}),
        ("treecl2.onnx", {"width": 20, "column": 1}),
    ],
)
def test_models_made_by_others_score_as_in_bare_onnxruntime(tmp_path: Path, file: str, options: dict):
    path, names = public_model(tmp_path, file, **options)
    model = load(tmp_path, [*reversed(names), "other"])
    features = np.random.default_rng(1).uniform(0, 6, size=(25, len(names)))
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    declared = session.get_inputs()[0]
    repeats = declared.shape[0] if isinstance(declared.shape[0], int) else 2
    expected = []
    for row in features.astype(np.float32):
        output = session.run([model.manifest.outputs[0].name], {declared.name: np.tile(row, (repeats, 1))})[0]
        binding = model.manifest.outputs[0]
        key = binding.class_key if binding.kind == "zipmap" else binding.column
        expected.append(float(output[0][key]))
    found = model.predict(np.column_stack([features[:, ::-1], np.full(25, np.nan)]))
    assert found.tolist() == expected
    assert len(set(expected)) > 1


def test_model_that_does_not_take_rows_is_refused(tmp_path: Path):
    with pytest.raises(ModelMismatchError, match="takes 4 events of 5 columns, the manifest gives it 5 features"):
        public_model(tmp_path, "sigmoid.onnx", width=5, column=0)


def test_undeclared_width_that_is_wrong_is_found_when_the_model_is_opened(tmp_path: Path):
    _, names = public_model(tmp_path, "treecl2.onnx", width=19, column=1)
    with pytest.raises(ModelMismatchError, match="cannot score its example row"):
        load(tmp_path, names)


def test_undeclared_output_column_that_is_wrong_is_found_when_the_model_is_opened(tmp_path: Path):
    _, names = public_model(tmp_path, "treecl2.onnx", width=20, column=2)
    with pytest.raises(ModelMismatchError, match="cannot score its example row"):
        load(tmp_path, names)


def test_class_that_a_zipmap_does_not_have_is_found_when_the_model_is_opened(tmp_path: Path):
    _, names = public_model(tmp_path, "logreg_iris.onnx", class_key=7)
    with pytest.raises(ModelMismatchError, match="KeyError"):
        load(tmp_path, names)
