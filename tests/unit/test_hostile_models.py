"""Models made to do harm: each is refused in one line by a process that it may kill, and ours goes on."""

import os
import signal
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_graphs import HASH, load, write_graph, write_sum

from models import trial
from models.binding import manifest_for_model
from models.json_document import ModelRefusedError
from models.onnx_checks import describe_model
from models.trial import try_out

HUGE = np.array([25_000_000_000], np.int64)  # 100 GB of floats
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)


def folder_of(path, **options):
    manifest = manifest_for_model(
        path, name="m", version=1, features=("a", "b"), feature_set_hash=HASH, column=0, **options
    )
    manifest.write(path.parent)
    return path.parent


def swollen(how):
    """Nodes that make 100 GB of a few bytes and add up to one number."""
    big = {
        "ConstantOfShape": helper.make_node("ConstantOfShape", ["huge"], ["big"]),
        "Expand": helper.make_node("Expand", ["one", "huge"], ["big"]),
        "Tile": helper.make_node("Tile", ["one", "huge"], ["big"]),
    }[how]
    total = helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0)
    return [big, total, helper.make_node("Add", ["x", "sum"], ["y"])]


@pytest.mark.parametrize("how", ["ConstantOfShape", "Expand", "Tile"])
def test_small_model_that_unpacks_to_a_hundred_gigabytes_is_refused(tmp_path, how):
    constants = {"huge": HUGE, "one": np.ones(1, np.float32)}
    path = write_graph(tmp_path / "m", swollen(how), [X], [Y], constants)
    assert path.stat().st_size < 1_000
    with pytest.raises(ModelRefusedError) as refused:
        try_out(folder_of(path), wait_s=20.0)
    assert "\n" not in str(refused.value)


def test_model_without_end_is_refused(tmp_path):
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["at", "at"], ["next"])], "b",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("at", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []),
         helper.make_tensor_value_info("next", TensorProto.FLOAT, None)],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["times", "yes", "x"], ["y"], body=body)
    constants = {"times": np.array(2**62, np.int64), "yes": np.array(True)}
    path = write_graph(tmp_path / "m", [loop], [X], [Y], constants)
    with pytest.raises(ModelRefusedError, match="within 2 s"):
        try_out(folder_of(path), wait_s=2.0)


def test_model_that_kills_its_process_is_refused_by_the_signal_s_name(tmp_path, monkeypatch):
    dying = [sys.executable, "-c", f"import os; os.kill({os.getpid()} and os.getpid(), {int(signal.SIGSEGV)})"]
    run = trial.subprocess.run
    monkeypatch.setattr(trial.subprocess, "run", lambda _command, **options: run(dying, **options))
    with pytest.raises(ModelRefusedError, match=r"killed the process .* \(SIGSEGV\)"):
        try_out(tmp_path)


@pytest.mark.parametrize(("domain", "version"), [("", 99), ("ai.onnx.ml", 99), ("", 0)])
def test_unknown_opset_is_refused(tmp_path, domain, version):
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [X], [Y])
    opsets = {"": 17, domain: version}
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(*each) for each in opsets.items()])
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelRefusedError, match=f"opset {version} of"):
        describe_model(tmp_path / "model.onnx")


def test_good_model_is_taken(tmp_path):
    folder = write_sum(tmp_path / "sum")
    try_out(folder)
    assert load(folder, ("a", "b")).predict(np.array([[1.0, 2.0]])).tolist() == [3.0]
