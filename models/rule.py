"""The rule as an ONNX graph: a model with a known answer, to test a pipeline against.

min(round(dwell_time_sec / 120 * weight of the page, 4), 1)
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.binding import manifest_for_model
from models.manifest import MODEL_FILE, Manifest

PAGE_WEIGHTS = {"home": 0.7, "product": 1.2, "checkout": 1.5, "search": 0.9}
DWELL_FEATURE = "dwell_time_sec"
PAGE_FEATURES = tuple(f"page_id_is_{page}" for page in PAGE_WEIGHTS)
SATURATION_SEC = 120.0

# old enough for every onnxruntime of the last years, new enough for Round and Min of doubles
_OPSET = 17
_IR_VERSION = 8


def build_rule_model(
    directory: Path, *, name: str, version: int, feature_set_hash: Callable[[Sequence[str]], str]
) -> Manifest:
    """Write the rule's `model.onnx` and `manifest.json`; the same arguments give the same bytes.

    The graph computes in doubles and rounds by `Round(x * 10000) / 10000`, half to even, which is Python's
    `round(x, 4)` but where x * 10000 falls on a half: there the two may differ by 0.0001, because Python rounds the
    exact binary value. A page that is none of the four scores 0, a dwell time of NaN scores NaN.

    Args:
        directory: The folder of this version, e.g. `models/purchase/1`; made when it is not there.
        name: The model's name.
        version: The model's version.
        feature_set_hash: `pipeline.feature_set_hash` of the pipeline that will use it.

    Returns:
        The manifest written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / MODEL_FILE
    path.write_bytes(_rule_graph().SerializeToString(deterministic=True))
    features = {"dwell_time_sec": (DWELL_FEATURE,), "page_id": PAGE_FEATURES}
    manifest = manifest_for_model(
        path,
        name=name,
        version=version,
        features=features,
        feature_set_hash=feature_set_hash((DWELL_FEATURE, *PAGE_FEATURES)),
        description="A rule: dwell time over two minutes, weighted by page, rounded to four digits, at most 1.",
        example=(60.0, 0.0, 1.0, 0.0, 0.0),
    )
    manifest.write(directory)
    return manifest


def _rule_graph() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Div", ["dwell_time_sec", "saturation_sec"], ["share"]),
        helper.make_node("MatMul", ["page_id", "page_weights"], ["weight"]),
        helper.make_node("Mul", ["share", "weight"], ["score"]),
        helper.make_node("Mul", ["score", "ten_thousand"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["whole"]),
        helper.make_node("Div", ["whole", "ten_thousand"], ["rounded"]),
        helper.make_node("Min", ["rounded", "one"], ["probability"]),
    ]
    constants = {
        "saturation_sec": np.array(SATURATION_SEC),
        "page_weights": np.array([[weight] for weight in PAGE_WEIGHTS.values()]),
        "ten_thousand": np.array(10_000.0),
        "one": np.array(1.0),
    }
    graph = helper.make_graph(
        nodes,
        "rule",
        inputs=[
            helper.make_tensor_value_info("dwell_time_sec", TensorProto.DOUBLE, ["rows", 1]),
            helper.make_tensor_value_info("page_id", TensorProto.DOUBLE, ["rows", len(PAGE_WEIGHTS)]),
        ],
        outputs=[helper.make_tensor_value_info("probability", TensorProto.DOUBLE, ["rows", 1])],
        initializer=[numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(
        graph, producer_name="millrace", opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
    )
    onnx.checker.check_model(model, full_check=True)
    return model
