"""Models made by others score rows: all through the scorer, one in a job, because a job for each would take long."""

import dataclasses
import shutil
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
from answers import Answer, LiveReader, assert_as_uninterrupted, feature_matrix, read_answers, read_events
from jobs import JobProcess
from look_events import Look, write_encoder
from workloads import PURCHASE, START_MS, make_topics, named, settings_of

from flink_jobs.events_producer import produce_events
from flink_jobs.local.broken_records import broken_variants
from flink_jobs.local.shoppers import as_records, shopper_events
from flink_jobs.pipeline_model import named_model, open_model
from flink_jobs.verify_job import VerifyRequest, verify
from models.binding import manifest_for_model
from models.manifest import MODEL_FILE, ModelMismatchError, OutputBinding
from udfs.entity_state import ShardState
from udfs.output_batch import read_outputs
from udfs.pipeline import Count, Events, Label, Last, Mean, Min, Model, Pipeline, Value, Vector
from udfs.plan import FeaturePlan
from udfs.record_batch import RecordBatch, pack_records
from udfs.scoring import Scorer
from udfs.wire_formats import PredictionEncoder

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "onnx_models"
TWO = ("dwell_time_sec", "count_10m")
FOUR = (*TWO, "dwell_time_sec_mean_1h", "dwell_time_sec_max_1h")
TWENTY = dataclasses.replace(
    PURCHASE, features=[*PURCHASE.features, Count(window="30m"), Min("dwell_time_sec", window="1h")]
)
MODELS = {
    "logreg_iris": TWO,
    "mul_1": TWO,
    "lightgbm": TWO,
    "randomforest": FOUR,
    # turned round until the features that its trees look at lie where the trees decide: they are of other data
    "treecl2": TWENTY.feature_names[17:] + TWENTY.feature_names[:17],
}
COLUMN = {"mul_1": {"column": 1}, "treecl2": {"column": 1}}
IN_A_JOB = "treecl2"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="../shared/data/onnx_models is not there"),
]


def pipeline_with(name, root):
    """A pipeline that scores with the model, and the folder of the model with the manifest that it needs."""
    model = name.replace("_", "-")
    folder = root / model / "1"
    folder.mkdir(parents=True)
    shutil.copyfile(FOLDER / f"{name}.onnx", folder / MODEL_FILE)
    pipeline = named(TWENTY, f"foreign-{model}", model=Model(model, version=1, root=root))
    manifest = manifest_for_model(
        folder / MODEL_FILE,
        name=model,
        version=1,
        features=MODELS[name],
        feature_set_hash=pipeline.feature_set_hash(MODELS[name]),
        **COLUMN.get(name, {}),
    )
    manifest.write(folder)
    return pipeline, folder


def events(count):
    return list(as_records(islice(shopper_events(50, 9, START_MS), count)))


def asked_directly(name, rows):
    """(n,) what onnxruntime says to rows (n, features), one call a row: the row in every place of the call."""
    session = onnxruntime.InferenceSession((FOLDER / f"{name}.onnx").read_bytes())
    [given] = session.get_inputs()
    places = given.shape[0] if isinstance(given.shape[0], int) else 1
    found = []
    for row in rows.astype(np.float32):
        output = session.run(None, {given.name: np.repeat(row[None], places, axis=0)})[-1]
        found.append(output[0][1])
    return np.array(found, np.float64)


def assert_scored_as_by_onnxruntime(name, pipeline, predictions):
    matrix = feature_matrix(pipeline, predictions)
    columns = [pipeline.feature_names.index(each) for each in MODELS[name]]
    scores = np.array([answer.body[pipeline.prediction] for answer in predictions])
    np.testing.assert_allclose(scores, asked_directly(name, matrix[:, columns]), rtol=1e-6, atol=1e-7)
    assert len(set(scores.tolist())) > 1


@pytest.mark.parametrize("name", MODELS)
def test_model_scores_rows_as_onnxruntime_does(name, tmp_path):
    pipeline, folder = pipeline_with(name, tmp_path)
    model = open_model(pipeline, folder)
    encoder = PredictionEncoder(pipeline, model=named_model(model.manifest))
    plan = FeaturePlan.build(pipeline)
    records = events(300)
    places = list(range(len(records)))
    keys, values = zip(*records, strict=True)
    batch = RecordBatch(pack_records(keys, values, [0] * len(records), places, [START_MS] * len(records)))
    state = ShardState(plan, log_changes=False)
    outputs = read_outputs(Scorer(plan, model, encoder, lambda: START_MS).score(batch, {0: state}))
    assert [output.topic for output in outputs] == [pipeline.predictions] * len(records)
    answers = [Answer((0, at), (0, at), each.key, each.value, {}) for at, each in enumerate(outputs)]
    assert_scored_as_by_onnxruntime(name, pipeline, answers)


def test_model_that_cannot_score_a_row_is_refused(tmp_path):
    path = tmp_path / "sigmoid.onnx"
    shutil.copyfile(FOLDER / "sigmoid.onnx", path)
    with pytest.raises(ModelMismatchError, match="output 'y' has"):
        manifest_for_model(path, name="sigmoid", version=1, features=TWO, feature_set_hash="00" * 32)


def test_model_scores_a_topic_in_a_job(broker, tmp_path):
    pipeline, _ = pipeline_with(IN_A_JOB, tmp_path / "models")
    make_topics(broker, pipeline)
    with (
        LiveReader(broker, pipeline) as reader,
        JobProcess(pipeline, settings_of(broker, tmp_path / "home"), tmp_path / "job") as job,
    ):
        produce_events(broker.bootstrap, pipeline.events.topic, events(2_000))
        job.wait_for("running")
        job.catch_up()
        job.stop()
        answers = reader.answers()
    assert answers.predictions.keys() == {event.place for event in read_events(broker, pipeline)}
    assert_scored_as_by_onnxruntime(IN_A_JOB, pipeline, list(answers.predictions.values()))


def looks_pipeline(root):
    """Vectors in and out: a model of three outputs that takes a vector of the event, with its own features beside."""
    folder = root / "looks" / "1"
    folder.mkdir(parents=True)
    shutil.copyfile(write_encoder(root, 3), folder / MODEL_FILE)
    pipeline = Pipeline(
        "looks",
        Events(Look, "looks-events", partitions=2, entity="user", time="at", id="id"),
        [Value("taste"), Value("shape", fill=0.5), Mean("shape", window="1h"), Last("taste", window="10m")],
        Model("looks", 1, root=root),
        ("total", Label("named", ("low", "high")), Vector("vectors", 3)),
        "looks-predictions",
        include_features=True,
    )
    manifest_for_model(
        folder / MODEL_FILE,
        name="looks",
        version=1,
        features=pipeline.blocks["shape"],
        feature_set_hash=pipeline.feature_set_hash(pipeline.blocks["shape"]),
        outputs=[
            OutputBinding("total", "tensor", column=0, field="total"),
            OutputBinding("named", "tensor", column=0, field="named", labels=("low", "high")),
            OutputBinding("vectors", "tensor", field="vectors", size=3),
        ],
    ).write(folder)
    return pipeline, folder


def looks(pipeline, count, seed=7):
    """Records of looks, every hundredth broken in a way that a vector may be."""
    rng, records = np.random.default_rng(seed), []
    for number in range(count):
        shape = None if number % 7 == 0 else rng.uniform(0.1, 6.0, 3).tolist()
        row = {"id": f"e{number}", "user": f"u{number % 40}", "page": "home", "shape": shape,
               "taste": rng.normal(size=2).tolist(), "at": START_MS + 1_000 * number}  # fmt: skip
        records.append((row["user"].encode(), msgspec.json.encode(row)))
        if number % 100 == 99:
            broken = [each for each in broken_variants(pipeline, row, max_record_bytes=100) if "vector" in each.kind]
            records.append((broken[number // 100 % len(broken)].key, broken[number // 100 % len(broken)].value))
    return records


def test_vectors_in_and_several_outputs_out_survive_a_killed_worker(broker, tmp_path):
    pipeline, folder = looks_pipeline(tmp_path / "models")
    settings = settings_of(broker, tmp_path / "home", restart_attempts=3, restart_delay_ms=200)
    make_topics(broker, pipeline)
    records = looks(pipeline, 2_000)
    with LiveReader(broker, pipeline) as reader, JobProcess(pipeline, settings, tmp_path / "job") as job:
        produce_events(broker.bootstrap, pipeline.events.topic, records[:1_000])
        job.wait_for("running")
        reader.wait_for(200, job=job)
        job.kill_workers(settings.parallelism)
        produce_events(broker.bootstrap, pipeline.events.topic, records[1_000:])
        job.catch_up()
        job.stop()
        during = reader.answers()
    after, came = read_answers(broker, pipeline), read_events(broker, pipeline)
    assert during == after
    assert {*after.predictions, *after.dead_letters} == {event.place for event in came}
    assert len(after.dead_letters) == 20
    reasons = {answer.headers["reason"] for answer in after.dead_letters.values()}
    assert reasons == {"wrong_type"}
    assert "taste[1] is None, not a number" in {answer.headers["exception"] for answer in after.dead_letters.values()}
    assert_as_uninterrupted(pipeline, came, after.predictions)
    answers = list(after.predictions.values())
    scores = open_model(pipeline, folder).predict(feature_matrix(pipeline, answers))
    assert [pipeline.outputs.numbers(answer.body) for answer in answers] == scores.tolist()
    assert {answer.body["named"] for answer in answers} == {"low", "high"}
    findings = verify(VerifyRequest(pipeline, settings)).findings
    assert (findings.holds, findings.equal) == (True, len(came)), findings
