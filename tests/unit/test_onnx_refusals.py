"""What is refused before a model scores anything: its files, its graph, its manifest, its features."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import HASH, RULE_FEATURES, edit_manifest, hash_of, load, resign, write_graph

from models.binding import manifest_for_model
from models.json_document import ModelRefusedError
from models.manifest import Manifest, ModelMismatchError
from models.onnx_model import OnnxModel
from models.rule import build_rule_model


@pytest.fixture
def rule(tmp_path: Path) -> Path:
    build_rule_model(tmp_path / "rule", name="purchase", version=1, feature_set_hash=hash_of)
    return tmp_path / "rule"


def test_changed_model_is_refused_before_it_is_parsed(rule: Path, monkeypatch: pytest.MonkeyPatch):
    (rule / "model.onnx").write_bytes(b"not a model")
    parsed: list[bytes] = []
    monkeypatch.setattr("models.onnx_model.describe_bytes", lambda content, where: parsed.append(content))
    with pytest.raises(ModelRefusedError, match="its manifest says"):
        load(rule, RULE_FEATURES)
    assert parsed == []


def test_bytes_that_are_no_model_are_refused(rule: Path):
    (rule / "model.onnx").write_bytes(b"not a model")
    resign(rule)
    with pytest.raises(ModelRefusedError, match="not an ONNX model"):
        load(rule, RULE_FEATURES)


def test_link_out_of_the_folder_is_refused_and_one_inside_is_followed(rule: Path, tmp_path: Path):
    path = rule / "model.onnx"
    path.rename(rule / "data.onnx")
    path.symlink_to("data.onnx")
    load(rule, RULE_FEATURES)
    (rule / "data.onnx").rename(tmp_path / "elsewhere.onnx")
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(ModelRefusedError, match="leads out of its folder"):
        load(rule, RULE_FEATURES)


def test_missing_model_and_pipe_in_its_place_are_refused(rule: Path):
    (rule / "model.onnx").unlink()
    with pytest.raises(ModelRefusedError, match="is not there"):
        load(rule, RULE_FEATURES)
    os.mkfifo(rule / "model.onnx")
    with pytest.raises(ModelRefusedError, match="is not there"):
        load(rule, RULE_FEATURES)


def test_too_big_a_model_is_refused(rule: Path):
    with pytest.raises(ModelRefusedError, match="over 100 bytes"):
        load(rule, RULE_FEATURES, max_bytes=100)


@pytest.mark.parametrize("place", ["initializer", "constant", "subgraph"])
def test_external_data_is_refused_wherever_it_hides(tmp_path: Path, place: str):
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "weights")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret.bin")
    constant = helper.make_node("Constant", [], ["weights"], value=tensor)
    add = helper.make_node("Add", ["x", "weights"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])
    if place == "initializer":
        graph = helper.make_graph([add], "g", [x], [y], [tensor])
    elif place == "constant":
        graph = helper.make_graph([constant, add], "g", [x], [y])
    else:
        branch = helper.make_graph(
            [constant], "b", [], [helper.make_tensor_value_info("weights", TensorProto.FLOAT, [2])]
        )
        choose = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
        graph = helper.make_graph([choose], "g", [x], [y], [numpy_helper.from_array(np.array(True), "yes")])
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(ModelRefusedError, match="keeps its data in another file"):
        manifest_for_model(path, name="m", version=1, features=("a", "b"), feature_set_hash=HASH)


@pytest.mark.parametrize("domain", ["evil.corp", "com.microsoft"])
def test_operator_of_another_domain_is_refused(rule: Path, domain: str):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])
    path = write_graph(rule, [helper.make_node("Load", ["x"], ["y"], domain=domain)], [x], [x], domains=[domain])
    resign(rule)
    with pytest.raises(ModelRefusedError, match=f"'Load' is of domain '{domain}'"):
        load(rule, RULE_FEATURES)
    assert path.exists()


def test_function_that_the_model_brings_itself_is_no_custom_operator(tmp_path: Path):
    twice = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    path = write_graph(
        tmp_path / "m",
        [helper.make_node("Twice", ["x"], ["y"], domain="own")],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 1])],
        functions=[twice],
        domains=["own"],
    )
    manifest_for_model(path, name="m", version=1, features=("a",), feature_set_hash=HASH).write(tmp_path / "m")
    assert load(tmp_path / "m", ("a",)).predict(np.array([[2.0]])).tolist() == [4.0]


def test_feature_that_the_pipeline_lacks_is_named(rule: Path):
    with pytest.raises(ModelMismatchError, match="does not have: page_id_is_search"):
        load(rule, RULE_FEATURES[:-1])


def test_other_definitions_of_the_features_are_refused(rule: Path):
    asked: list[Sequence[str]] = []
    with pytest.raises(ModelMismatchError, match="other definitions of its features"):
        OnnxModel.load(
            rule, feature_names=("z", *RULE_FEATURES), feature_set_hash=lambda names: asked.append(names) or "1" * 64
        )
    assert asked == [RULE_FEATURES]


def test_other_name_or_version_is_refused(rule: Path):
    load(rule, RULE_FEATURES, name="purchase", version=1)
    with pytest.raises(ModelMismatchError, match="holds purchase/1, not purchase/2"):
        load(rule, RULE_FEATURES, name="purchase", version=2)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m["inputs"][0].update(name="dwell"), "no features|no input 'dwell'"),
        (lambda m: m["inputs"][0].update(dtype="float"), "takes double, not float"),
        (lambda m: (m["inputs"][1]["features"].pop(), m["features"].pop(), m["example"].pop()), "takes 4 columns"),
        (lambda m: (m["inputs"].pop(), m.update(features=m["features"][:1], example=None)), "'page_id' of the graph"),
        (lambda m: m["output"].update(name="score"), "no output 'score'"),
        (lambda m: m["output"].update(column=1), "index 1 is out of bounds"),
        (lambda m: m.update(output={"name": "probability", "kind": "zipmap", "class": 1}), "is a tensor"),
        (lambda m: m.update(opsets={"ai.onnx": 9}), "opsets"),
    ],
)
def test_manifest_that_disagrees_with_the_graph_is_refused(rule: Path, edit: Callable[[dict], object], message: str):
    edit_manifest(rule, edit)
    with pytest.raises(ModelMismatchError, match=message):
        load(rule, RULE_FEATURES)


def test_manifest_survives_its_text(rule: Path):
    text = (rule / "manifest.json").read_text()
    manifest = Manifest.from_json(text)
    assert manifest.to_json() == text
    assert manifest.features == RULE_FEATURES


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.pop("sha256"), "sha256 is missing"),
        (lambda m: m.update(sha256="12"), "sha256 is '12'"),
        (lambda m: m.update(colour="red"), "colour is 'red': unknown key"),
        (lambda m: m.update(version=True), "version is True"),
        (lambda m: m.update(version=0), "version is 0"),
        (lambda m: m.update(name="../purchase"), "name is '../purchase'"),
        (lambda m: m.update(format="v9"), "millrace-model-v1"),
        (lambda m: m["inputs"][0].update(dtype="float16"), r"inputs\[0\]\.dtype is 'float16'"),
        (lambda m: m["inputs"][1]["features"].append("page_id_is_home"), r"inputs\[1\]\.features .* twice"),
        (lambda m: m["features"].reverse(), "order of first use"),
        (lambda m: m.update(inputs=[]), "at least one graph input"),
        (lambda m: m["output"].update(column=-1), r"output\.column is -1"),
        (lambda m: m["output"].update(kind="map"), "write tensor, zipmap or sequence"),
        (lambda m: m.update(example=[1.0]), "one number for each of the 5 features"),
        (lambda m: m.update(metrics={"auc": float("nan")}), "NaN is not a JSON number"),
        (lambda m: m.update(metrics=[]), "metrics must be a JSON object"),
    ],
)
def test_wrong_manifest_is_refused_by_file_and_key(rule: Path, edit: Callable[[dict], object], message: str):
    edit_manifest(rule, edit)
    with pytest.raises(ModelRefusedError, match=message) as refusal:
        load(rule, RULE_FEATURES)
    assert str(rule / "manifest.json") in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_key_that_stands_twice_is_refused(rule: Path):
    text = (rule / "manifest.json").read_text()
    with pytest.raises(ModelRefusedError, match="stands twice"):
        Manifest.from_json(text.replace("{", '{"version": 2,', 1))


def test_manifest_that_could_not_be_read_is_not_written(rule: Path):
    with pytest.raises(ModelRefusedError, match="version is 0"):
        replace(Manifest.read(rule), version=0).write(rule)
