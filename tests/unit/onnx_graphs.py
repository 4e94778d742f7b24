"""Small ONNX models and edited manifests for tests."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from models.binding import manifest_for_model
from models.onnx_model import OnnxModel
from models.rule import DWELL_FEATURE, PAGE_FEATURES

HASH = "0" * 64
RULE_FEATURES = (DWELL_FEATURE, *PAGE_FEATURES)


def hash_of(names: Sequence[str]) -> str:
    return HASH


def load(directory: Path, names: Sequence[str], **options) -> OnnxModel:
    return OnnxModel.load(directory, feature_names=names, feature_set_hash=hash_of, **options)


def write_graph(directory: Path, nodes, inputs, outputs, constants=None, functions=(), domains=()) -> Path:
    graph = helper.make_graph(
        nodes, "test", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(each, 1) for each in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))
    directory.mkdir(exist_ok=True, parents=True)
    path = directory / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def write_sum(
    directory: Path, *, dtype=TensorProto.FLOAT, rows="rows", width=2, features=("a", "b"), **options
) -> Path:
    """A model that adds up its columns."""
    shape = [rows] if width is None else [rows, width]
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.DOUBLE)]
    if width is not None:
        nodes.append(helper.make_node("ReduceSum", ["y", "axis"], ["sum"], keepdims=options.pop("keepdims", 0)))
    path = write_graph(
        directory,
        nodes,
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y" if width is None else "sum", TensorProto.DOUBLE, None)],
        {"axis": np.array([1])} if width is not None else {},
    )
    manifest_for_model(
        path, name="sum", version=1, features=features, feature_set_hash=HASH, column=0, **options
    ).write(directory)
    return directory


def edit_manifest(directory: Path, edit: Callable[[dict], object]) -> None:
    path = directory / "manifest.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def resign(directory: Path) -> None:
    digest = hashlib.sha256((directory / "model.onnx").read_bytes()).hexdigest()
    edit_manifest(directory, lambda document: document.update(sha256=digest))


def write_times(root: Path, version: int, factor: int, *, features=("a", "b"), feature_set_hash=HASH) -> Path:
    """`times/<version>`: whole numbers only; outputs are the sum of the columns and the columns, times a factor."""
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("ReduceSum", ["scaled", "axis"], ["total"], keepdims=0),
    ]
    shape = ["rows", len(features)]
    outputs = [helper.make_tensor_value_info("scaled", TensorProto.INT64, shape)]
    outputs.append(helper.make_tensor_value_info("total", TensorProto.INT64, ["rows"]))
    path = write_graph(
        root / "times" / str(version), nodes, [helper.make_tensor_value_info("x", TensorProto.INT64, shape)], outputs,
        {"factor": np.array([factor]), "axis": np.array([1])},
    )  # fmt: skip
    options = {"name": "times", "version": version, "features": features, "feature_set_hash": feature_set_hash}
    manifest_for_model(path, **options, output="total", column=0).write(path.parent)
    return path.parent
