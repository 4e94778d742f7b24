"""Predictions of more than one number: vectors, labels, several outputs; from the graph to all that reads them."""

import dataclasses
import json
import re

import fastavro
import numpy as np
import pyarrow.parquet as pq
import pytest
import skl2onnx
from google.protobuf import message_factory
from hypothesis import given
from hypothesis import strategies as st
from look_events import write_encoder
from onnx_graphs import edit_manifest
from properties import examples
from skl2onnx.common.data_types import FloatTensorType
from sklearn.linear_model import LogisticRegression
from wire_records import PURCHASE, RECEIPT_MODEL, Shard, batch_of, headers_of, shopper_records, value_of

from flink_jobs.console import CommandError
from flink_jobs.dry_run import served_outputs
from flink_jobs.dry_run_comparison import DryRunComparison, answer_of
from flink_jobs.fork_job import ForkRequest, SideBySide
from flink_jobs.fork_target import FileTarget
from flink_jobs.job_beginning import JobBeginning
from flink_jobs.models_adding import Expectation, parse_outputs, run_models_add_command
from flink_jobs.models_checking import run_models_check_command, run_models_diff_command
from flink_jobs.models_listing import output_texts, problem_with
from flink_jobs.pipeline_model import open_model
from flink_jobs.receipt_models import ReceiptModel
from flink_jobs.recomputed import Recomputed
from flink_jobs.score_job import score_rows
from flink_jobs.served_answers import PREDICTION, ServedAnswers
from flink_jobs.settings import Settings
from flink_jobs.training import TrainingError, check_prediction
from flink_jobs.verify_job import VerifyRequest
from flink_jobs.watch import value_text
from models import adding, checking
from models.adding import Facts
from models.choices import Choices, MissingChoiceError
from models.feature_rows import write_feature_rows
from models.json_document import ModelRefusedError
from models.manifest import Manifest, ModelMismatchError
from models.opened import open_alone
from models.output_comparison import compare_outputs
from models.outputs import Outputs
from udfs.beam import LoadedModel
from udfs.byte_lines import Lines
from udfs.formats import Avro, Json, JsonSchema, Protobuf
from udfs.ladder import Ladder, OpenedRung
from udfs.model_guard import ModelWatch
from udfs.model_schedule import Guard, ModelRef
from udfs.output_batch import read_outputs
from udfs.output_fields import predictions_of
from udfs.output_values import value_reader, value_schema
from udfs.pipeline import Default, DefinitionError, Label, LastScore, Model, Number, OtherModel, Vector
from udfs.predicting import predict_each
from udfs.proto_text import compile_proto, messages_of
from udfs.receipts import NamedModel, Receipt
from udfs.refused import Refused
from udfs.served_models import SHADOW, Duties, Duty, Role
from udfs.sql_features import SqlRefusedError, compile_features
from udfs.sql_scoring import score_columns
from udfs.state_changes import Definition, changes_between
from udfs.wire_formats import EventDecoder, PredictionEncoder

WIDTH = len(PURCHASE.feature_names)
USED = PURCHASE.feature_names[:2]
THREE = ("total", Label("named", ("low", "high")), Vector("vectors", 3))


def pipeline(prediction, root=None, **options):
    return dataclasses.replace(PURCHASE, prediction=prediction, model=Model("encoder", 1, root=root), **options)


@pytest.fixture(autouse=True)
def _trial(monkeypatch):
    """Trials have a test of their own."""
    monkeypatch.setattr(adding, "try_out", lambda folder: None)


def added(tmp_path, prediction, *, file=None, outputs=None, expect=None, **options):
    """The pipeline and the folder of its model, made by `models add`."""
    wanted = pipeline(prediction, tmp_path / "models", **options)
    inputs = {"x": USED} if file is None or file.name == "encoder.onnx" else {}
    file = file or write_encoder(tmp_path, len(USED))
    run_models_add_command(
        wanted, "purchase", file, Choices(inputs, outputs=outputs or {}), Facts(), Expectation(expect, None, 1e-5),
        version=None, root=None, as_json=True,
    )  # fmt: skip
    return wanted, tmp_path / "models" / "encoder" / "1"


def opened(tmp_path, prediction, **options):
    wanted, folder = added(tmp_path, prediction, **options)
    return wanted, open_model(wanted, folder)


def rows_of(count=40, seed=1):
    return np.random.default_rng(seed).uniform(0.5, 8.0, (count, WIDTH)).astype(np.float32).astype(np.float64)


def told(rows):
    """total, label and vectors of rows, as the graph of `write_encoder` computes them."""
    rows = rows.astype(np.float32)
    with np.errstate(divide="ignore"):
        inverse = 1 / rows[:, 0]
    vectors = np.column_stack([rows[:, 0], 2 * rows[:, 1], 2 * rows[:, 1]])
    total = vectors.sum(axis=1)
    vectors[:, 2] = inverse
    return total, np.where(total > 10, "high", "low"), vectors


# what a user writes


def test_a_name_is_one_number_as_ever_and_outputs_are_named_in_order():
    assert (PURCHASE.outputs.is_number, PURCHASE.outputs.shape) == (True, ())
    assert pipeline(("score",)).outputs == Outputs((Number("score"),))
    several = pipeline(list(THREE))
    assert (several.outputs.names, several.outputs.shape) == (("total", "named", "vectors"), (5,))
    assert hash(several) == hash(pipeline(THREE))


@pytest.mark.parametrize(
    ("prediction", "line"),
    [
        ((), "write a name like 'score', or outputs"),
        (Vector("v", 0), "write how many numbers the vector has"),
        (Vector("v", True), "write how many numbers the vector has"),
        (Vector("not a name", 2), "is no name"),
        (Label("l", ("a", 1)), "write its classes"),
        (Label("l", ("a", "a")), "write its classes"),
        (("a", Vector("a", 2)), "has 'a' twice"),
        (("a", 7), "write names, Number, Vector or Label"),
        (Vector("v", 70_000), "at most 65,536"),
        (("a", "user_id"), "'user_id' is already a field of the output"),
    ],
)
def test_outputs_that_are_none_are_refused_in_one_line(prediction, line):
    with pytest.raises(DefinitionError, match=re.escape(line)):
        pipeline(prediction)


def test_only_another_model_can_stand_in_for_more_than_one_number():
    assert pipeline(THREE, fallbacks=[OtherModel(2)]).fallbacks
    for rung in (LastScore(), Default(0.5)):
        with pytest.raises(DefinitionError, match="gives one number, the prediction has total, a number; named"):
            pipeline(THREE, fallbacks=[rung])


# the model


def test_a_model_is_bound_by_names_and_kinds_and_gives_all_outputs(tmp_path, capsys):
    wanted, model = opened(tmp_path, THREE)
    assert json.loads(capsys.readouterr().out)["outputs"] == {
        "total": {"name": "total", "kind": "tensor", "column": 0},
        "named": {"name": "named", "kind": "tensor", "column": 0, "labels": ["low", "high"]},
        "vectors": {"name": "vectors", "kind": "tensor", "size": 3},
    }
    rows = rows_of()
    total, named, vectors = told(rows)
    got = dict(zip(wanted.outputs.names, wanted.outputs.columns(model.predict(rows)), strict=True))
    np.testing.assert_allclose(got["total"], total, rtol=1e-6)
    assert got["named"] == named.tolist()
    np.testing.assert_allclose(got["vectors"], vectors, rtol=1e-6)
    alone = np.concatenate([model.predict(row[None]) for row in rows])
    assert alone.tolist() == model.predict(rows).tolist()
    assert model.predict(rows[:0]).shape == (0, 5)
    assert output_texts(model.manifest)[2] == "vectors, a vector of 3: vectors (tensor)"


def test_a_pipeline_may_take_some_of_a_models_outputs_in_an_order_of_its_own(tmp_path):
    _, folder = added(tmp_path, THREE)
    for prediction in ((Vector("vectors", 3), "total"), "total", Vector("vectors", 3)):
        wanted = pipeline(prediction, tmp_path / "models")
        got = wanted.outputs.columns(open_model(wanted, folder).predict(rows_of()))[-1 if prediction == "total" else 0]
        np.testing.assert_allclose(got, told(rows_of())[0 if prediction == "total" else 2], rtol=1e-6)


def test_outputs_that_a_model_does_not_give_are_refused_before_the_job(tmp_path):
    one, folder = added(tmp_path, Vector("vectors", 3))
    for prediction in (Vector("vectors", 4), Vector("other", 3), "vectors", THREE, "score"):
        wanted = pipeline(prediction, tmp_path / "models")
        with pytest.raises(ModelMismatchError, match="gives vectors, a vector of 3; the pipeline's prediction has"):
            open_model(wanted, folder)
        assert "gives vectors, a vector of 3" in problem_with(wanted, Manifest.read(folder))
    assert problem_with(one, Manifest.read(folder)) is None


def test_a_width_that_no_graph_declares_is_refused_when_the_model_is_tried_out(tmp_path):
    import onnx

    file = write_encoder(tmp_path, len(USED))
    graph = onnx.load(file)
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "any"
    onnx.save(graph, file)
    _, model = opened(tmp_path / "right", Vector("vectors", 3), file=file)
    assert model.predict(rows_of(2)).shape == (2, 3)
    with pytest.raises(ModelMismatchError, match="output 'vectors' has 3 numbers a row, vectors is of 4"):
        added(tmp_path / "wrong", Vector("vectors", 4), file=file)
    assert not list((tmp_path / "wrong").rglob("*.onnx"))


def test_what_cannot_be_derived_is_asked_for_output_by_output(tmp_path):
    with pytest.raises(MissingChoiceError, match="say which output is score with --output score=") as missing:
        added(tmp_path, ("score", Vector("embedding", 3)))
    assert (missing.value.option, missing.value.name) == ("--output", "score")
    wanted, model = opened(
        tmp_path, ("score", Vector("embedding", 3)), outputs=parse_outputs(["score=vectors"], ["score=1"], None, None)
    )
    rows = rows_of()
    scores, embedding = wanted.outputs.columns(model.predict(rows))
    np.testing.assert_allclose(scores, told(rows)[2][:, 1], rtol=1e-6)
    np.testing.assert_allclose(embedding, told(rows)[2], rtol=1e-6)
    with pytest.raises(ModelMismatchError, match="no output can be embedding, a vector of 9: there are vectors: float"):
        added(tmp_path / "nine", Vector("embedding", 9))
    said = parse_outputs(["vectors"], None, None, None)
    with pytest.raises(ModelMismatchError, match=r"write NAME=\.\.\., NAME one of score, embedding"):
        added(tmp_path / "bare", ("score", Vector("embedding", 3)), outputs=said)


@pytest.mark.parametrize("zipmap", [True, False])
def test_probabilities_of_all_classes_and_the_label_of_a_classifier(tmp_path, zipmap):
    rows = rows_of(90)
    classes = np.array(["a", "b", "c"])[np.arange(90) % 3]
    fitted = LogisticRegression(max_iter=2_000).fit(rows, classes)
    made = skl2onnx.convert_sklearn(
        fitted, initial_types=[("X", FloatTensorType([None, WIDTH]))], target_opset={"": 17, "ai.onnx.ml": 3},
        options={id(fitted): {"zipmap": zipmap}},
    )  # fmt: skip
    file = tmp_path / "m.onnx"
    file.write_bytes(made.SerializeToString())
    prediction = (Label("label", ("a", "b", "c")), Vector("probabilities", 3))
    wanted, model = opened(tmp_path, prediction, file=file)
    assert model.manifest.outputs[1].kind == ("zipmap" if zipmap else "tensor")
    label, probabilities = wanted.outputs.columns(model.predict(rows))
    assert label == fitted.predict(rows).tolist()
    np.testing.assert_allclose(probabilities, fitted.predict_proba(rows), atol=1e-5)


def test_rows_of_the_source_are_compared_in_all_outputs(tmp_path):
    import pyarrow as pa

    rows = rows_of()
    total, named, vectors = told(rows)
    columns = {name: rows[:, place] for place, name in enumerate(PURCHASE.feature_names)}
    for off, passes in ((0.0, True), (0.01, False)):
        table = pa.table({**columns, "total": total, "named": named, "vectors": (vectors + off).tolist()})
        expect = tmp_path / "expect.parquet"
        pq.write_table(table, expect)
        if passes:
            added(tmp_path / "passes", THREE, expect=expect)
        else:
            with pytest.raises(ValueError, match=r"differ by 1\.00e-02"):
                added(tmp_path / "fails", THREE, expect=expect)


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda d: d["outputs"]["vectors"].update(size=0), "outputs.vectors.size is 0"),
        (lambda d: d["outputs"]["named"].update(labels=["low", "low"]), "must be a list of different class labels"),
        (lambda d: d["outputs"]["named"].update(labels=[]), "must be a list of different class labels"),
        (lambda d: d["outputs"]["vectors"].update(column=1), "unknown key"),
        (lambda d: d.update(outputs={}), "name at least one output"),
        (lambda d: d.update(output=d["outputs"]["total"]), "unknown key"),
    ],
)
def test_a_manifest_with_outputs_is_read_strictly(tmp_path, edit, line):
    _, folder = added(tmp_path, THREE)
    edit_manifest(folder, edit)
    with pytest.raises(ModelRefusedError, match=re.escape(line)):
        Manifest.read(folder)


# the job


def scored(wanted, model, records):
    """Predictions by offset, and dead letters by offset."""
    shard = Shard(model, wanted)
    found = shard.score(records)
    return (
        {int(headers_of(one)["offset"]): one for one in found if one.topic == wanted.predictions},
        {int(headers_of(one)["offset"]): headers_of(one) for one in found if one.topic == wanted.dead_letters},
    )


def test_the_job_writes_all_outputs(tmp_path):
    wanted, model = opened(tmp_path, THREE, include_features=True)
    predictions, letters = scored(wanted, model, shopper_records(60))
    assert (len(predictions), letters) == (60, {})
    for one in predictions.values():
        body = value_of(one)
        assert list(body) == ["event_id", "user_id", *wanted.outputs.names, "scored_at", "features"]
        row = np.array([[np.nan if each is None else each for each in body["features"].values()]])
        assert wanted.outputs.numbers(body) == model.predict(row)[0].tolist()


def test_an_element_that_is_no_number_and_a_label_that_is_no_class_are_dead_letters(tmp_path):
    key, value = shopper_records(1)[0]
    body = json.loads(value)
    zero, one = (json.dumps({**body, "event_id": f"e{d}", "dwell_time_sec": d}).encode() for d in (0.0, 2.0))
    wanted, model = opened(tmp_path, THREE)
    predictions, letters = scored(wanted, model, [(key, zero), (key, one)])
    assert list(predictions) == [1]
    assert (letters[0]["reason"], letters[0]["exception"]) == ("model_failed", "the model's vectors[2] is inf")
    fewer = pipeline(("total", Label("named", ("low",)), Vector("vectors", 3)), tmp_path / "models")
    edit_manifest(tmp_path / "models" / "encoder" / "1", lambda d: d["outputs"]["named"].update(labels=["low"]))
    long = json.dumps({**body, "dwell_time_sec": 400.0}).encode()
    predictions, letters = scored(fewer, open_model(fewer, tmp_path / "models" / "encoder" / "1"), [(key, long)])
    assert letters[0]["exception"] == "the model's named is none of 'low'"


class Constant:
    """Gives the same outputs to every row."""

    def __init__(self, *numbers):
        self._numbers = numbers

    def predict(self, features):
        return np.tile(self._numbers, (len(features), 1))


def test_another_model_stands_in_with_all_outputs(tmp_path):
    wanted, model = opened(tmp_path, THREE, fallbacks=[OtherModel(2)])
    other = OpenedRung(Constant(1.0, 0.0, 4.0, 5.0, 6.0), NamedModel("encoder", "2", "2" * 64, "c" * 64))
    key, value = shopper_records(1)[0]
    body = json.loads(value)
    records = [(key, json.dumps({**body, "dwell_time_sec": dwell}).encode()) for dwell in (2.0, 0.0, 3.0)]
    shard = Shard(model, wanted)
    shard.scorer._ladder = Ladder(wanted, {2: other})
    found = {int(headers_of(one)["offset"]): one for one in shard.score(records)}
    assert [headers_of(one).get("fallback") for _, one in sorted(found.items())] == [None, "model 2", None]
    assert {name: value_of(found[1])[name] for name in wanted.outputs.names} == {
        "total": 1.0, "named": "low", "vectors": [4.0, 5.0, 6.0],
    }  # fmt: skip
    crashed = Shard(Constant(0.0, 0.0, 0.0, 0.0, 0.0), wanted)
    crashed.scorer._ladder = Ladder(wanted, {2: other})
    outputs = crashed.scorer.score(
        batch_of(records), {0: crashed.state}, crashed={RECEIPT_MODEL.sha256: "SIGSEGV"}
    )
    assert [value_of(one)["vectors"] for one in read_outputs(outputs)] == [[4.0, 5.0, 6.0]] * 3


class Halves:
    """Two models score by turns, and a third one beside them."""

    def __init__(self, wanted, models):
        self._wanted, self._models = wanted, models
        first, second, beside = models
        shadow = (Role(beside, SHADOW),)
        self._known = [Duty(Role(first, "champion"), shadow), Duty(Role(second, "challenger"), shadow)]

    def duties(self, shards, ends, times_ms, entities):
        return Duties(self._known, np.arange(len(times_ms)) % 2)

    def predict(self, role, features):
        return predict_each(self._models[role.model], features, self._wanted.outputs)

    def receipt(self, role):
        topic = "beside" if role.name == SHADOW else None
        return Receipt.of(self._wanted, self.named(role), role=role.name, topic=topic)

    def named(self, role):
        return NamedModel(role.model.name, str(role.model.version), role.model.sha256, "0" * 64)


def test_challengers_and_shadows_give_all_outputs(tmp_path):
    wanted, model = opened(tmp_path, THREE)
    refs = [ModelRef("encoder", version, str(version) * 64, "b" * 64) for version in (1, 2, 3)]
    others = Constant(1.0, 1.0, 2.0, 3.0, 4.0), Constant(5.0, 0.0, 6.0, 7.0, np.nan)
    models = dict(zip(refs, (model, *others), strict=True))
    shard = Shard(model, wanted, Halves(wanted, models))
    records = shopper_records(8)
    outputs = read_outputs(shard.scorer.score(batch_of(records), {0: shard.state}))
    by_version = {}
    for one in outputs:
        by_version.setdefault(headers_of(one)["model-version"], []).append(wanted.outputs.numbers(value_of(one)))
    assert by_version["2"] == [[1.0, 1.0, 2.0, 3.0, 4.0]] * 4
    assert [numbers[1] for numbers in by_version["1"]] == [float(numbers[0] > 10) for numbers in by_version["1"]]
    assert shard.scorer.shadow_failures == 8  # its last number is none


class Fails:
    """Gives two numbers a row, and fails on calls with a negative one."""

    def predict(self, features):
        if (features < 0).any():
            raise ValueError("negative")
        return np.column_stack([features[:, 0], features[:, 0] * 2])


@given(st.lists(st.sampled_from([1.0, -1.0, np.nan]), max_size=9))
@examples(50)
def test_rows_that_fail_are_told_apart_from_the_others(values):
    features = np.array(values).reshape(-1, 1)
    scores, failed = predict_each(Fails(), features, Outputs.of(Vector("v", 2)))
    assert scores.shape == (len(values), 2)
    assert set(failed) == {place for place, value in enumerate(values) if not value > 0}
    good = [place for place in range(len(values)) if place not in failed]
    assert scores[good].tolist() == [[1.0, 2.0]] * len(good)


# formats

EVENT = EventDecoder(PURCHASE).decode(
    b"u1", b'{"event_id":"e1","user_id":"u1","page_id":"home","dwell_time_sec":1.5,"timestamp":1700000000000}'
)
SEVERAL = ("probability", Vector("embedding", 3), Label("decision", ("keep", "not kept")), Label("code", (3, 5)))
BODY = {
    "event_id": "e1", "user_id": "u1", "probability": 0.25, "embedding": [0.5, -0.0, 1e300], "decision": "not kept",
    "code": 3, "scored_at": 7,
}  # fmt: skip


def written(wanted, schema):
    encoder = PredictionEncoder(wanted, model=RECEIPT_MODEL, schema=schema)
    packed = encoder.predictions(
        [EVENT, EVENT], np.array([[0.25, 0.5, -0.0, 1e300, 1.0, 0.0]] * 2), keys=Lines.of([b"u1"] * 2), scored_at_ms=7,
        partitions=np.array([0, 0], np.int32), offsets=np.array([0, 1]), event_times_ms=np.array([5, 5]),
        features=np.zeros((2, WIDTH)),
    )  # fmt: skip
    return [one.value for one in read_outputs(packed)]


@pytest.mark.parametrize("form", [Json(), JsonSchema(), Avro(), Protobuf()])
def test_outputs_are_written_and_read_back_in_every_format(form):
    wanted = pipeline(SEVERAL, output_format=form)
    schema = value_schema(predictions_of(wanted))
    registered = None if schema is None else schema._replace(id=300)
    for value in written(wanted, registered):
        fields = value_reader(predictions_of(wanted), lambda _: registered)(value)
        assert fields == BODY
        assert wanted.outputs.numbers(fields) == [0.25, 0.5, -0.0, 1e300, 1.0, 0.0]
    with pytest.raises(ValueError, match="embedding has 2 numbers, not 3"):
        wanted.outputs.numbers({**BODY, "embedding": [1.0, 2.0]})
    with pytest.raises(ValueError, match="has not the outputs"):
        wanted.outputs.numbers({"probability": 0.25})


def test_schemas_say_what_outputs_are_and_the_formats_libraries_read_them():
    avro = pipeline(SEVERAL, output_format=Avro())
    schema = value_schema(predictions_of(avro))._replace(id=300)
    kinds = {one["name"]: one["type"] for one in json.loads(schema.text)["fields"]}
    assert kinds["embedding"] == {"type": "array", "items": "double"}
    assert (kinds["decision"], kinds["code"]) == ("string", "long")
    import io

    read = fastavro.schemaless_reader(
        io.BytesIO(written(avro, schema)[0][5:]), fastavro.parse_schema(json.loads(schema.text)), None
    )
    assert (read["embedding"], read["decision"]) == ([0.5, -0.0, 1e300], "not kept")
    protobuf = pipeline(SEVERAL, output_format=Protobuf())
    schema = value_schema(predictions_of(protobuf))._replace(id=300)
    assert "  repeated double embedding = 4;  // a vector of 3" in schema.text
    message = message_factory.GetMessageClass(messages_of(compile_proto(schema.text))[0])
    assert list(message.FromString(written(protobuf, schema)[0][6:]).embedding) == [0.5, -0.0, 1e300]
    as_json = value_schema(predictions_of(pipeline(SEVERAL, output_format=JsonSchema())))
    document = json.loads(as_json.text)["properties"]
    assert document["embedding"] == {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}
    assert document["code"] == {"type": "integer", "enum": [3, 5]}
    after = value_schema(predictions_of(protobuf), schema.text).text
    assert after == schema.text  # fields keep their numbers


# whoever reads predictions


def side_by_side(tmp_path, wanted, old, new, target=None):
    count = 12
    offsets = 100 + np.arange(count)
    now = Recomputed(offsets, offsets, np.zeros(count, np.uint8), np.zeros(count, np.int64), rows_of(count))
    before = old.predict(now.features)
    answers = ServedAnswers(wanted, tmp_path)
    rows = np.zeros(count, answers.files.row_type)
    rows["offset"], rows["score"], rows["kind"] = offsets, before, PREDICTION
    rows[:-1].tofile(tmp_path / "000003-000000000000.answers")
    manifest = old.manifest
    answers.models.append(
        ReceiptModel(wanted.events.topic, "encoder", "1", manifest.sha256, manifest.feature_set_hash)
    )
    side = SideBySide(
        ForkRequest(VerifyRequest(wanted, Settings()), new, target=target, most=2), answers,
        JobBeginning({0: 0}, frozenset(), ""),
    )  # fmt: skip
    if target is not None:
        with target:
            side.add((3, 0), now)
    else:
        side.add((3, 0), now)
    return side.report(), before


class Shifted:
    """Another version: all vectors are moved by 1 in their first number."""

    def __init__(self, model, column):
        self._model, self._column, self.manifest = model, column, model.manifest

    def predict(self, features):
        scores = self._model.predict(features)
        scores[:, self._column] += 1.0
        return scores


def test_a_fork_compares_outputs_and_writes_both(tmp_path):
    wanted, model = opened(tmp_path, THREE)
    target = FileTarget(tmp_path / "fork.parquet", wanted.outputs)
    report, before = side_by_side(tmp_path, wanted, model, Shifted(model, 2), target)
    assert (report.again, report.not_again, report.failed, len(report.before.places)) == (11, 0, 0, 11)
    assert [each.difference for each in report.largest] == pytest.approx([1.0, 1.0])
    assert set(report.largest[0].now) == set(wanted.outputs.names)
    found = compare_outputs(wanted.outputs, report.before.scores, report.now.scores)
    assert (found["total"].largest_difference, found["named"].agreement.value) == (0.0, 1.0)
    assert (found["vectors"].same, found["vectors"].euclidean.p50) == (0, pytest.approx(1.0))
    assert 0 < found["vectors"].cosine.largest < 0.5
    table = pq.read_table(tmp_path / "fork.parquet").to_pydict()
    assert table["before_vectors"][0] == before[0, 2:].tolist()
    assert table["before_vectors"][-1] is None
    assert table["vectors"][0] == [before[0, 2] + 1, *before[0, 3:]]


def test_distances_of_vectors_and_changes_of_labels():
    outputs = Outputs.of((Vector("v", 2), Label("l", ("x", "y"))))
    a = np.array([[1.0, 0.0, 0], [0.0, 0.0, 1], [1.0, 1.0, 1]])
    b = np.array([[0.0, 2.0, 1], [0.0, 0.0, 0], [2.0, 2.0, 1]])
    found = compare_outputs(outputs, a, b)
    assert found["v"].cosine.largest == pytest.approx(1.0)
    assert found["v"].euclidean.largest == pytest.approx(5**0.5)
    assert found["l"].changes == (("x", "y", 1), ("y", "x", 1))
    assert found["l"].agreement.value == pytest.approx(1 / 3)
    assert json.loads(json.dumps({name: each.to_json() for name, each in found.items()}))
    assert outputs.apart(a, b).tolist() == pytest.approx([5**0.5, 1.0, 2**0.5])


def test_a_dry_run_compares_the_same_outputs_only():
    wanted = pipeline(THREE)
    definition = json.loads(json.dumps(Definition.of(wanted, 4).settings))
    assert served_outputs(definition["prediction"], wanted) == wanted.outputs
    assert served_outputs("old_name", PURCHASE).names == ("old_name",)
    with pytest.raises(CommandError, match="have total, a number; named"):
        served_outputs(definition["prediction"], PURCHASE)
    answers = [
        dict([answer_of(
            json.dumps({"event_id": "e", "total": 1.0, "named": "low", "vectors": [1.0, x, 3.0]}).encode(),
            {"partition": "0", "offset": "1"}, wanted.outputs, "event_id",
        )]) for x in (2.0, 2.5)
    ]  # fmt: skip
    assert DryRunComparison().compare(*answers).as_json()["max_difference"] == 0.5
    assert DryRunComparison().compare(answers[0], answers[0]).equal == 1


def test_another_prediction_is_a_note_of_an_upgrade_and_loses_no_state():
    changes = changes_between(Definition.of(PURCHASE, 4), pipeline(THREE), 4)
    assert any("a vector of 3" in str(change) for change in changes)
    assert not [change for change in changes if change.effect in ("lost", "blocked")]


def test_a_guard_looks_at_the_shift_of_numbers():
    outputs, guard = Outputs.of(THREE), Guard(events=200, psi=0.25)
    rng = np.random.default_rng(3)
    same, none = rng.normal(0, 1, (200, 5)), {}
    watch = ModelWatch(ModelRef("m", 2, "a" * 64, "b" * 64), guard, outputs)
    moved = same.copy()
    moved[:, 2:] += 5.0
    assert watch.take(moved, none, 0.0, (same, none)) == ""
    watch = ModelWatch(ModelRef("m", 2, "a" * 64, "b" * 64), guard, outputs)
    moved[:, 0] += 5.0
    assert "its total is shifted by a PSI of" in watch.take(moved, none, 0.0, (same, none))


def test_files_are_scored_in_all_outputs(tmp_path):
    _, folder = added(tmp_path, THREE)
    rows = rows_of(5)
    rows[2, 0] = 0.0
    write_feature_rows(tmp_path / "rows.parquet", rows, PURCHASE.feature_names)
    report = score_rows(tmp_path / "rows.parquet", open_alone(str(folder)), [], tmp_path / "scores.parquet")
    assert (report.scored, dict(report.refused)) == (4, {"model_failed": 1})
    table = pq.read_table(tmp_path / "scores.parquet").to_pydict()
    assert table["named"] == np.delete(told(rows)[1], 2).tolist()
    np.testing.assert_allclose(table["vectors"], np.delete(told(rows)[2], 2, axis=0), rtol=1e-6)
    score_rows(tmp_path / "rows.parquet", open_alone(str(folder)), [], tmp_path / "scores.jsonl")
    assert json.loads((tmp_path / "scores.jsonl").read_text().splitlines()[0])["vectors"] == table["vectors"][0]


def test_versions_are_checked_and_diffed_in_all_outputs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(checking, "try_out", lambda folder: None)
    wanted, _ = added(tmp_path, THREE)
    added(tmp_path, THREE)
    write_feature_rows(tmp_path / "rows.parquet", rows_of(6), PURCHASE.feature_names)
    capsys.readouterr()
    run_models_check_command(wanted, "purchase", None, None, as_json=True)
    assert [each["passed"] for each in json.loads(capsys.readouterr().out)["versions"]] == [True, True]
    run_models_diff_command(wanted, (1, 2), tmp_path / "rows.parquet", None, None, as_json=True)
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert (scores["vectors"]["same"], scores["named"]["agreement"]["value"], scores["total"]["ks"]) == (6, 1.0, 0.0)
    run_models_diff_command(wanted, (1, 2), tmp_path / "rows.parquet", None, None, as_json=False)
    assert "vectors: 1 and 2 on the same 6 events" in capsys.readouterr().out


def test_beam_gives_the_outputs_that_the_job_gives(tmp_path):
    wanted, model = opened(tmp_path, THREE)
    rows = rows_of(4)
    rows[1, 0] = 0.0
    _, found = LoadedModel(open_alone(str(tmp_path / "models" / "encoder" / "1")), PURCHASE.feature_names, None).infer(
        list(rows)
    )
    assert isinstance(found[1], Refused)
    for place in (0, 2, 3):
        assert wanted.outputs.numbers(found[place]) == model.predict(rows)[place].tolist()


def test_what_takes_one_number_only_says_so(tmp_path):
    import pandas as pd

    wanted, folder = added(tmp_path, THREE)
    with pytest.raises(SqlRefusedError, match="write one number, and the prediction has total, a number"):
        compile_features(wanted)
    columns = [pd.Series([1.0]) for _ in range(WIDTH)]
    with pytest.raises(DefinitionError, match="SQL takes one number only"):
        score_columns([str(folder), *columns], open_alone, "", keep_missing=False)
    with pytest.raises(TrainingError, match="take its ONNX file with `millrace models add`"):
        check_prediction(wanted)


def test_values_are_shown_short():
    assert value_text([0.5] * 6) == "[0.5000, 0.5000, 0.5000, 0.5000, … 6 in all]"
    assert [value_text(each) for each in (0.25, "low", 3)] == ["0.2500", "low", "3"]
