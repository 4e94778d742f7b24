"""A running job changes its models, under load and SIGKILLs: every event has the score of the model of its time.

Where that fails, it has what the ladder of fallbacks says; and a model that is over the limits of its guard goes.
One of the models is a cascade of two others.
"""

import contextlib
import dataclasses
import io
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from answers import LiveReader, read_events
from confluent_kafka import Producer
from jobs import JobProcess
from onnx import TensorProto, helper, numpy_helper
from workloads import make_topics, purchase, settings_of

from flink_jobs.committed_reader import read_all
from flink_jobs.explanation import explain
from flink_jobs.job_run import latest_restore_point
from flink_jobs.model_changes import ChangeRefusedError, change_models, planned, planned_and_rolled_back, serving_of
from flink_jobs.models_comparison import run_compare_command
from models.adding import Facts
from models.binding import manifest_for_model
from models.combining import Recipe, combine
from models.manifest import MODEL_FILE
from udfs.model_schedule import ChangeAnswer, Guard, places_of_shares
from udfs.pipeline import Default, LastScore, Model

pytestmark = pytest.mark.integration

STEP = 1_000.0
"""Version n of the model says: the dwell time and n steps."""
LATE_MS = 20_000
WAIT_S = 180.0
"""Models are opened with low priority: on a machine that others load, too, that takes long."""
LONGEST = 49.0
"""Dwell time that no version has a score for."""
NOBODY_KNOWS = -1.0
SHIFTED, CASCADE = 5, 6
UNSURE = 10.0, 30.0
"""Dwell times of which the first version is unsure in the cascade of the first two."""


def write_version(pipeline, root, version, feature="dwell_time_sec"):
    folder = Path(root) / "level" / str(version)
    folder.mkdir(parents=True)
    graph = helper.make_graph(
        [
            helper.make_node("Sub", ["longest", "x"], ["left"]),
            helper.make_node("Log", ["left"], ["log"]),
            helper.make_node("Mul", ["log", "nothing"], ["none"]),  # 0, but NaN where it is 0 times -infinity
            helper.make_node("Sum", ["x", "step", "none"], ["y"]),
        ],
        "level",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["rows", 1])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["rows", 1])],
        [
            numpy_helper.from_array(np.array([number]), name)
            for name, number in (("step", version * STEP), ("longest", LONGEST), ("nothing", 0.0))
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / MODEL_FILE).write_bytes(model.SerializeToString(deterministic=True))
    manifest = manifest_for_model(
        folder / MODEL_FILE,
        name="level",
        version=version,
        features=(feature,),
        feature_set_hash=pipeline.feature_set_hash((feature,)),
    )
    manifest.write(folder)
    return folder


def write_cascade(pipeline, root):
    low, high = (each + STEP for each in UNSURE)
    combine(
        Recipe("cascade", (1, 2), unsure=(low, high)), root=root, name="level", version=CASCADE,
        feature_names=pipeline.feature_names, feature_set_hash=pipeline.feature_set_hash, prediction=pipeline.outputs,
        one_hot={}, blocks={}, facts=Facts(),
    )  # fmt: skip


def score_of(version, dwell):
    """What a version says of an event."""
    if version == CASCADE:
        version = 2 if UNSURE[0] <= dwell <= UNSURE[1] else 1
    return dwell + version * STEP


class Live:
    """Events that happen now, every tenth some seconds late, until told to stop."""

    def __init__(self, broker, topic, per_s=300):
        self._producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
        self._topic, self._pause_s = topic, 1 / per_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._produce, daemon=True)
        self._thread.start()

    def _produce(self):
        number = 0
        while not self._stop.wait(self._pause_s):
            number += 1
            late_ms = LATE_MS if number % 10 == 0 else 0
            event = {
                "event_id": f"e{number}",
                "user_id": f"u{number % 97}",
                "page_id": "home",
                "dwell_time_sec": float(number % (LONGEST + 1)),
                "timestamp": time.time_ns() // 1_000_000 - late_ms,
            }
            self._producer.produce(self._topic, key=event["user_id"], value=msgspec.json.encode(event))
            self._producer.poll(0)
        self._producer.flush(30)

    def end(self):
        self._stop.set()
        self._thread.join(60)


def expected_version(event, schedule):
    """The version that must have scored an event, and the version of its shadow."""
    period = schedule.periods[int(schedule.places(np.array([event["timestamp"]]))[0])].serving
    shares = [each.share for each in period.challengers]
    models = [*(each.model for each in period.challengers), period.champion]
    side = int(places_of_shares([event["user_id"]], shares)[0]) if shares else 0
    return models[side].version, [each.version for each in period.shadows]


def wait_for_rollback(pipeline, settings, reader, job, most_s=60):
    """Until the control topic says what is to be undone, and the job has answered a while longer."""
    deadline = time.monotonic() + most_s
    while not (rollbacks := planned_and_rolled_back(pipeline, settings)[1]):
        assert time.monotonic() < deadline, "nothing was rolled back"
        reader.wait_for(len(reader.messages) + 10, job=job)
    (rollback,) = rollbacks  # each subtask whose guard is breached asks; the first in the topic is done, by all
    answers = []
    while [each.state for each in answers].count("rolled_back") < settings.parallelism:
        assert time.monotonic() < deadline, answers
        told = read_all(settings.bootstrap, [pipeline.models_status_topic])
        answers = [msgspec.json.decode(each.value(), type=ChangeAnswer) for each in told]
        answers = [each for each in answers if each.id == rollback.id]
    assert "breached" in [each.state for each in answers]
    assert all(each.why == rollback.why for each in answers)
    assert f"level/{SHIFTED}: after" in rollback.why
    assert "PSI" in rollback.why


def assert_fallbacks(events, predictions):
    """An event that no model has a score for has the entity's last one of a model, by order of arrival."""
    last, seen = {}, set()
    for place, event in sorted(events.items()):
        answer = predictions[place]
        score, fallback = answer.body["purchase_probability"], answer.headers.get("fallback")
        seen.add(fallback)
        if event["dwell_time_sec"] != LONGEST:
            assert fallback is None
            last[event["user_id"]] = score
            continue
        known = event["user_id"] in last
        expected = ("last-score", last[event["user_id"]]) if known else ("default", NOBODY_KNOWS)
        assert (fallback, score) == expected, (place, event)
    assert {None, "last-score"} <= seen


def test_every_event_is_scored_once_by_the_model_that_is_valid_at_its_time(broker, tmp_path):
    root = tmp_path / "models"
    pipeline = purchase(
        "changed", model=Model("level", version=1, root=root), models_topic="changed-models",
        fallbacks=[LastScore(), Default(NOBODY_KNOWS)], model_budget_ms=10_000,
    )  # fmt: skip
    for version in (1, 2, 3, SHIFTED):
        write_version(pipeline, root, version)
    write_cascade(pipeline, root)
    other = dataclasses.replace(pipeline, features=pipeline.features[1:], models_topic=None)
    write_version(other, root, 4, feature="count_10m")
    (root / "level" / "4" / MODEL_FILE).write_bytes(b"no model")
    settings = settings_of(broker, tmp_path / "home", restart_attempts=5, restart_delay_ms=200)
    make_topics(broker, pipeline)
    traffic = Live(broker, pipeline.events.topic)
    with LiveReader(broker, pipeline) as reader:
        with JobProcess(pipeline, settings, tmp_path / "first") as job:
            job.wait_for("running")
            reader.wait_for(500, job=job)
            second = change_models(pipeline, settings, serving_of(pipeline, settings, CASCADE), wait_s=WAIT_S)
            assert second.late_until_ms is None
            reader.wait_for(len(reader.messages) + 2_500, job=job)
            job.kill_workers(settings.parallelism)
            reader.wait_for(len(reader.messages) + 300, job=job)
            with pytest.raises(ValueError, match="sha256"):
                serving_of(pipeline, settings, 4)
            mixed = serving_of(pipeline, settings, 3, [(1, 0.3), (CASCADE, 0.3)], [2])
            forged = msgspec.structs.replace(mixed.champion, sha256="0" * 64)
            with pytest.raises(ChangeRefusedError, match="asked for was 0000"):
                change_models(pipeline, settings, msgspec.structs.replace(mixed, champion=forged), wait_s=WAIT_S)
            third = change_models(pipeline, settings, mixed, wait_s=WAIT_S)
            reader.wait_for(len(reader.messages) + 1_000, job=job)
            job.kill()
        answered, restore_from = len(reader.messages), latest_restore_point(pipeline, settings)
        with JobProcess(pipeline, settings, tmp_path / "second", restore_from) as job:
            job.wait_for("running")
            reader.wait_for(answered + 1_000, job=job)
            shifted, guard = serving_of(pipeline, settings, SHIFTED), Guard(events=100, psi=0.25)
            fourth = change_models(pipeline, settings, shifted, guard=guard, wait_s=WAIT_S)
            wait_for_rollback(pipeline, settings, reader, job)
            reader.wait_for(len(reader.messages) + 500, job=job)
            traffic.end()
            job.catch_up()
            job.stop()
        answers = reader.answers()
    schedule = planned(pipeline, settings)
    assert [each.from_ms for each in schedule.periods[1:]] == [second.from_ms, third.from_ms, fourth.from_ms]
    assert schedule.periods[-1].serving == schedule.periods[-2].serving == mixed
    events = {event.place: msgspec.json.decode(event.value) for event in read_events(broker, pipeline)}
    assert not answers.dead_letters
    assert answers.predictions.keys() == events.keys()
    versions, shadowed = [], []
    for place, answer in answers.predictions.items():
        version, shadows = expected_version(events[place], schedule)
        if answer.headers["model-version"] == str(SHIFTED):  # until it was rolled back
            assert events[place]["timestamp"] >= fourth.from_ms
            version, shadows = SHIFTED, []
        assert int(answer.headers["model-version"]) == version, (place, events[place])
        versions.append((version, answer.headers.get("role")))
        if "fallback" not in answer.headers:
            assert answer.body["purchase_probability"] == score_of(version, events[place]["dwell_time_sec"])
            shadowed += [place] * len(shadows)
    alone, groups = {1, CASCADE, SHIFTED}, {(3, "champion"), (1, "challenger"), (CASCADE, "challenger")}
    assert set(versions) == {(each, None) for each in alone} | groups
    assert_fallbacks(events, answers.predictions)
    assert_members_explained(pipeline, settings, events, answers.predictions)
    shadow = read_all(broker.bootstrap, [pipeline.shadow_topic])
    headers = [{name: value.decode() for name, value in each.headers()} for each in shadow]
    places = [(int(each["millrace-partition"]), int(each["millrace-offset"])) for each in headers]
    assert sorted(places) == sorted(shadowed)
    assert {(each["millrace-model-version"], each["millrace-role"]) for each in headers} == {("2", "shadow")}
    assert_compared(pipeline, settings, tmp_path, set(shadowed))


def assert_members_explained(pipeline, settings, events, predictions):
    """An event of which the first member was sure, and one of which it was not."""
    found = {}
    for place, answer in predictions.items():
        if answer.headers["model-version"] == str(CASCADE) and "fallback" not in answer.headers:
            is_unsure = UNSURE[0] <= events[place]["dwell_time_sec"] <= UNSURE[1]
            found.setdefault(f"level/{2 if is_unsure else 1}", place)
    assert len(found) == 2
    for member, (partition, offset) in found.items():
        explained = explain(pipeline, settings, f"{partition}:{offset}", None, lambda *_: None)
        assert explained.member == member
        assert explained.score["purchase_probability"] == predictions[partition, offset].body["purchase_probability"]


def assert_compared(pipeline, settings, folder, shadowed):
    """What `millrace models compare` says, with every second event labelled."""
    places = sorted(shadowed)[::2]
    columns = {
        "_partition": [place[0] for place in places],
        "_offset": [place[1] for place in places],
        "_label": [float(number % 2) for number in range(len(places))],
    }
    pq.write_table(pa.table(columns), folder / "set.parquet")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run_compare_command(
            pipeline, "changed", settings, since_ms=None, labels=folder / "set.parquet", threshold=0.5, as_json=True
        )
    found = msgspec.json.decode(out.getvalue())
    champion = found["same_events"]["3 (champion) and 2 (shadow)"]
    challenger = found["same_events"]["1 (challenger) and 2 (shadow)"]
    cascade = found["same_events"][f"{CASCADE} (challenger) and 2 (shadow)"]
    assert champion["count"] + challenger["count"] + cascade["count"] == len(shadowed)
    assert (champion["difference"]["value"], challenger["difference"]["value"]) == (-STEP, STEP)
    assert 0 < cascade["difference"]["value"] < STEP  # it is what its second member says, or a step less
    assert sum(each["labelled"]["count"] for each in (champion, challenger, cascade)) == len(places)
    assert found["groups"]["3 (champion) and 1 (challenger)"]["counts"] == [champion["count"], challenger["count"]]
