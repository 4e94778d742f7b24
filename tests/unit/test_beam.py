"""Beam's RunInference with our model folders: the bits of the job, refused rows that say why, models swapped."""

import dataclasses
import math
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.inference.base import PredictionResult
from onnx import TensorProto, helper
from onnx_graphs import HASH, edit_manifest, write_graph, write_times
from wire_records import PURCHASE, Shard, open_shipped, shopper_records, value_of

from models.binding import manifest_for_model
from models.json_document import ModelRefusedError
from models.onnx_model import PredictionError
from models.opened import open_alone
from udfs.beam import MillraceModelHandler
from udfs.refused import Refused

Row = namedtuple("Row", "a b")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for version in (1, 2, 3):
        write_times(tmp_path, version, 10**version)
    return tmp_path


def infer(handler: MillraceModelHandler, rows) -> list[PredictionResult]:
    return handler.run_inference(rows, handler.load_model())


def inferences(handler: MillraceModelHandler, rows) -> list:
    return [result.inference for result in infer(handler, rows)]


def test_pipelines_of_the_direct_runner():
    tests = Path(__file__).with_name("beam_pipelines.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", str(tests)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout
    assert "3 passed" in ran.stdout


@pytest.mark.parametrize("version", [1, 2])
def test_scores_have_the_bits_of_the_streaming_job_whatever_the_batches(version):
    job = Shard(open_shipped(version), dataclasses.replace(PURCHASE, include_features=True)).score(shopper_records(700))
    answers = [value_of(output) for output in job]
    rows = [answer["features"] for answer in answers]
    for most in (1, 64, 700):
        handler = MillraceModelHandler(f"purchase/{version}", features=PURCHASE.feature_names, max_batch_size=most)
        found = [inference for begin in range(0, 700, most) for inference in inferences(handler, rows[begin:][:most])]
        assert found == [answer[PURCHASE.prediction] for answer in answers]


@pytest.mark.parametrize(
    "row", [{"b": 2, "a": 1, "c": "x"}, Row(1, 2), beam.Row(b=2.0, a=1.0), [1, 2], (1.0, 2), np.array([1, 2])]
)
def test_rows_may_be_named_or_in_order(root, row):
    assert inferences(MillraceModelHandler("times/1", root=root), [row, row]) == [30.0, 30.0]


def test_rows_of_different_forms_may_be_in_one_batch(root):
    rows = [Row(1, 2), np.array([3, 4]), {"a": True, "b": np.float32(4)}]
    assert inferences(MillraceModelHandler("times/1", root=root), rows) == [30.0, 70.0, 50.0]


def test_none_is_a_missing_value():
    names = open_alone("purchase/2").manifest.features
    rows = [dict.fromkeys(names, 1.0) | {names[-1]: value} for value in (None, math.nan, 2.0)]
    first, second, _ = inferences(MillraceModelHandler("purchase/2"), rows)
    assert first == second


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ({"a": 1}, "missing_field", "no feature b"),
        (namedtuple("Half", "a")(1), "missing_field", "no feature b"),
        ({"a": 1, "b": "2"}, "wrong_type", "feature b is '2'"),
        ({"a": 1, "b": [2]}, "wrong_type", r"feature b is \[2\]"),
        ({"a": 1, "b": 10**400}, "wrong_type", "no float holds"),
        ([1, 2, 3], "wrong_type", "3 values, not 2: a, b"),
        (np.array([["1", "2"]]), "wrong_type", "1 values, not 2"),
        ({"a": 1, "b": 0.5}, "model_failed", "feature 'b' is 0.5"),
        ({"a": 1, "b": None}, "model_failed", "feature 'b' is nan"),
    ],
)
@pytest.mark.parametrize("outputs", [None, "total"])
def test_a_bad_row_says_why_and_the_others_of_its_batch_are_scored(root, row, reason, detail, outputs):
    handler = MillraceModelHandler("times/1", root=root, outputs=outputs)
    *others, found = inferences(handler, [Row(place, 1) for place in range(9)] + [row])
    assert [each if outputs is None else each["total"] for each in others] == [10 + 10 * place for place in range(9)]
    assert isinstance(found, Refused)
    assert found.reason == reason
    assert re.search(detail, found.detail)


def test_all_outputs_of_the_graph_come_on_request(root):
    [found] = inferences(MillraceModelHandler("times/2", root=root, outputs="all"), [Row(1, 2)])
    assert {name: np.asarray(value).tolist() for name, value in found.items()} == {"scaled": [100, 200], "total": 300}
    [chosen] = inferences(MillraceModelHandler("times/2", root=root, outputs=["scaled"]), [Row(1, 2)])
    assert list(chosen) == ["scaled"]


def test_all_outputs_agree_with_the_score():
    model = open_alone("purchase/2")
    rows = np.random.default_rng(4).exponential(20, (50, len(model.manifest.features)))
    output = model.manifest.outputs[0]
    found = [row[output.name] for row in inferences(MillraceModelHandler("purchase/2", outputs="all"), list(rows))]
    assert [float(value[output.column]) for value in found] == model.predict(rows).tolist()


def test_an_output_that_is_not_one_value_a_row_is_refused(tmp_path):
    nodes = [
        helper.make_node("ReduceSum", ["x", "axis"], ["total"], keepdims=0),
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
    ]
    path = write_graph(
        tmp_path / "m", nodes, [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["rows", 2])],
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in ("total", "most")],
        {"axis": np.array([1])},
    )  # fmt: skip
    options = {"name": "m", "version": 1, "features": ("a", "b"), "feature_set_hash": HASH}
    manifest_for_model(path, **options, output="total", column=0).write(path.parent)
    with pytest.raises(PredictionError, match="output 'most' has not one value for each of 2 rows"):
        open_alone(str(path.parent)).outputs(np.ones((1, 2)))


def test_a_refused_model_is_told_and_the_one_before_stays(root, caplog):
    handler = MillraceModelHandler("times/1", root=root)
    handler.load_model()
    handler.update_model_path("times/2")
    kept = handler.load_model()
    handler.update_model_path("times/7")
    assert handler.load_model() is kept
    assert "model times/7 is refused, the one before stays: no model 'times/7'" in caplog.text
    write_times(root, 7, 5)
    handler.update_model_path("times/7")
    assert infer(handler, [Row(1, 1)])[0].inference == 10.0


def test_a_worker_that_begins_with_a_refused_model_has_the_first(root):
    handler = MillraceModelHandler("times/1", root=root)
    handler.update_model_path("times/7")
    assert infer(handler, [Row(1, 1)])[0].inference == 20.0


@pytest.mark.parametrize(
    ("features", "feature_set_hash", "why"),
    [
        (("a", "c"), HASH, "does not have: c"),
        (("a", "b"), "1" * 64, "other definitions of its features"),
    ],
)
def test_a_model_that_disagrees_with_the_features_is_refused(root, caplog, features, feature_set_hash, why):
    write_times(root, 4, 4, features=features, feature_set_hash=feature_set_hash)
    handler = MillraceModelHandler("times/1", root=root)
    handler.update_model_path("times/4")
    assert infer(handler, [Row(1, 1)])[0].model_id.startswith("times/1@")
    assert why in caplog.text


def test_a_model_may_take_its_features_from_among_more(root):
    write_times(root, 4, 4, features=("c", "a"))
    handler = MillraceModelHandler("times/1", root=root, features=("a", "b", "c"))
    handler.update_model_path("times/4")
    assert inferences(handler, [[1, 2, 3]]) == [16.0]


def test_two_generations_are_open_at_most(root):
    handler = MillraceModelHandler("times/1", root=root)
    opened = []
    for version in (1, 2, 1, 2, 3, 2, 1):
        handler.update_model_path(f"times/{version}")
        opened.append(handler.load_model())
    assert opened[0] is opened[2]
    assert opened[1] is opened[3] is opened[5]
    assert opened[6] is not opened[0]


def test_the_watcher_of_beam_says_nothing_until_it_has_seen_a_new_file(root):
    handler = MillraceModelHandler("times/1", root=root)
    handler.update_model_path("")
    assert infer(handler, [Row(1, 1)])[0].inference == 20.0


def test_a_wrong_model_is_refused_where_the_pipeline_is_built(root):
    with pytest.raises(ModelRefusedError, match="no model 'times/9'"):
        MillraceModelHandler("times/9", root=root)
    with pytest.raises(ModelRefusedError, match="asked for was"):
        MillraceModelHandler(f"times/1@{'0' * 64}", root=root)


def test_a_changed_file_is_not_opened(root):
    edit_manifest(root / "times" / "1", lambda document: document.update(sha256="0" * 64))
    with pytest.raises(ModelRefusedError, match="the file was changed"):
        MillraceModelHandler("times/1", root=root).load_model()


def test_no_rows_are_no_results():
    assert infer(MillraceModelHandler("purchase/1"), []) == []
