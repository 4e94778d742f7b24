"""A sequence model and closed sessions, workers killed: each event is scored once, each session told once."""

import dataclasses
import json
import time

import numpy as np
import pytest
from answers import (
    assert_as_uninterrupted,
    assert_entity_order,
    assert_features_equal,
    expected_of,
    read_answers,
    read_events,
    read_sessions,
    sessions_by_the_oracle,
)
from confluent_kafka import Producer
from jobs import JobProcess
from sequence_models import Gru
from visit_events import PAGES, visits
from workloads import START_MS, make_topics, settings_of

from models.adapting import adapt_inputs
from models.binding import manifest_for_model
from models.choices import Choices
from models.onnx_checks import describe_model

pytestmark = pytest.mark.integration

GRU = Gru(2)
SEQUENCES = ("amount_last_5_1h_pad_right", "page_last_5_1h_pad_right")
LENGTH = "sequence_length_5_1h"
MANY = 1_500


def add_model(pipeline, folder):
    path = GRU.write(folder / "gru" / "1" / "model.onnx")
    said = Choices({"x": SEQUENCES, "lengths": (LENGTH,)})
    inputs, _ = adapt_inputs(describe_model(path), pipeline.feature_names, {}, pipeline.blocks, said, "gru")
    names = [one for names in inputs.values() for one in names]
    manifest_for_model(
        path, name="gru", version=1, features=inputs, feature_set_hash=pipeline.feature_set_hash(names), column=0
    ).write(path.parent)


def send(broker, pipeline, begin_ms, seed, count=MANY):
    """Visits of 40 users with pauses; one in ten late, half of those too late for any open session."""
    rng, now_ms, producer = np.random.default_rng(seed), begin_ms, Producer({"bootstrap.servers": broker.bootstrap})
    for number in range(count):
        now_ms += int(rng.choice([1, 100, 1_000], p=[0.5, 0.4, 0.1]))
        late_ms = int(rng.choice([0, 4_000, 400_000], p=[0.9, 0.05, 0.05]))
        user = f"u{int(rng.integers(40)) if number % 400 < 300 else int(rng.integers(3))}"
        visit = {
            "id": f"{seed}-{number}", "user": user, "page": str(rng.choice(PAGES)),
            "amount": round(float(rng.normal()), 3), "at": now_ms - late_ms,
        }  # fmt: skip
        producer.produce(pipeline.events.topic, json.dumps(visit).encode(), user.encode())
    producer.flush(30)
    return now_ms


def wait_for_sessions(broker, pipeline, events, timeout_s=60.0):
    """The committed sessions, once they have so many events in all."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = read_sessions(broker, pipeline)
        told = sum(each.events for each in found)
        if told >= events or time.monotonic() > deadline:
            assert told == events, f"{told} events in sessions, not {events}"
            return found
        time.sleep(0.5)


def test_killed_workers_lose_no_session_and_repeat_none(broker, tmp_path):
    pipeline = visits("visited", tmp_path / "models")
    add_model(pipeline, tmp_path / "models")
    settings = settings_of(broker, tmp_path / "home", restart_attempts=5, restart_delay_ms=200)
    make_topics(broker, pipeline)
    begin_ms = send(broker, pipeline, START_MS, 0, 100)
    with JobProcess(dataclasses.replace(pipeline, sessions=None), settings, tmp_path / "job") as job:
        job.wait_for("running")
        job.catch_up()
        before = {event.place for event in read_events(broker, pipeline)}
        # a pipeline that begins to follow sessions goes on from the state it has
        job.go_on_as(pipeline, settings)
        begin_ms = send(broker, pipeline, begin_ms, 1)
        job.catch_up()
        job.kill_workers(settings.parallelism)
        # so much later that it does not matter whether they close the sessions of before, or the clock of the machine
        send(broker, pipeline, begin_ms + 3_600_000, 2)
        job.catch_up()
        found = wait_for_sessions(broker, pipeline, 2 * MANY)
        assert job.checkpoints()["failure"], "the job noticed that its workers died"
        job.stop()
    events, answers = read_events(broker, pipeline), read_answers(broker, pipeline)
    assert answers.predictions.keys() == {event.place for event in events}
    assert_as_uninterrupted(pipeline, events, answers.predictions)
    assert_entity_order(pipeline, answers.predictions)
    assert_features_equal(pipeline, answers.predictions, expected_of(pipeline, events, every=5))
    for answer in answers.predictions.values():
        features = answer.body["features"]
        rows = np.array([[features[f"{name}_{place}"] for name in SEQUENCES] for place in range(5)])
        assert answer.body["score"] == pytest.approx(GRU.score(rows[: int(features[LENGTH])]), abs=1e-6)
    closed, still_open = sessions_by_the_oracle(pipeline, [event for event in events if event.place not in before])
    assert sum(each.is_late for each in closed) > 50
    assert sorted(found) == sorted([*closed, *still_open])
