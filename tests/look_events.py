"""Events with vectors, and a model of several outputs, for tests."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from onnx import TensorProto, helper, numpy_helper


@dataclasses.dataclass
class Look:
    id: str
    user: str
    page: Literal["home", "cart"]
    shape: Annotated[list[float], 3] | None
    taste: Annotated[list[float], 2]
    at: int


def write_encoder(directory: Path, width: int, *, size=3) -> Path:
    """A graph of `x` (n, width) with outputs `vectors` [n, size], `total` [n], the sum of these, `above` [n] int64,
    whether it is over 10, and `named` [n], the same as "high" and "low"; the last column of `vectors` is 1 / the first
    input. The first input alone decides about NaN."""
    weights = np.zeros((width, size), np.float32)
    weights[0, 0], weights[min(1, width - 1), 1:] = 1.0, 2.0
    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["product"]),
        helper.make_node("Slice", ["x", "begin", "end", "columns"], ["first"]),
        helper.make_node("Reciprocal", ["first"], ["inverse"]),
        helper.make_node("Slice", ["product", "begin", "but_one", "columns"], ["most"]),
        helper.make_node("Concat", ["most", "inverse"], ["vectors"], axis=1),
        helper.make_node("ReduceSum", ["product", "columns"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "ten"], ["is_above"]),
        helper.make_node("Cast", ["is_above"], ["above"], to=TensorProto.INT64),
        helper.make_node(
            "LabelEncoder", ["above"], ["named"], domain="ai.onnx.ml", keys_int64s=[0, 1],
            values_strings=["low", "high"],
        ),
    ]
    outputs = [
        helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["rows", size]),
        helper.make_tensor_value_info("total", TensorProto.FLOAT, ["rows"]),
        helper.make_tensor_value_info("above", TensorProto.INT64, ["rows"]),
        helper.make_tensor_value_info("named", TensorProto.STRING, ["rows"]),
    ]
    constants = {
        "weights": weights, "begin": np.array([0]), "end": np.array([1]), "but_one": np.array([size - 1]),
        "columns": np.array([1]), "ten": np.array(10.0, np.float32),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "encoder", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", width])], outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    path = directory / "encoder.onnx"
    directory.mkdir(exist_ok=True, parents=True)
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path
