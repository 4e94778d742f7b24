"""Whatever is killed while events are in flight: exactly one answer each, and features as if nothing had happened."""

import threading

import online_retail
import pytest
from answers import (
    LiveReader,
    assert_as_uninterrupted,
    assert_dead_letters,
    assert_entity_order,
    assert_receipts,
    read_answers,
    read_events,
    read_sessions,
    read_vectors,
    sessions_by_the_oracle,
)
from jobs import JobProcess
from online_retail import RETAIL, every_nth_customer, lines_of, orders_again
from workloads import make_topics, order_lines, purchase, retail, settings_of, shoppers

from flink_jobs.events_producer import produce_events
from flink_jobs.job_run import latest_restore_point
from flink_jobs.training import train_pipeline
from udfs.pipeline import Model, Sessions

pytestmark = pytest.mark.integration

RECORDS, RATE = 40_000, 400
BESIDE = {"features_topic": "killed-features", "sessions": Sessions(gap="30m", idle=None)}
BETWEEN = 1_500  # answers between two kills: the job works again, on state that it has changed since


def workload(folder):
    """Real order lines and a model trained on them; where the data is not, generated shoppers."""
    if not online_retail.is_there():
        return purchase("killed", **BESIDE), *shoppers(RECORDS)
    lines = lines_of(every_nth_customer(40))
    labels = orders_again(lines)
    known = [line for line, label in zip(lines, labels, strict=True) if label >= 0]
    train_pipeline(RETAIL, events=known, labels=labels[labels >= 0], root=folder)
    model = Model("retail", version=1, root=folder)
    return retail("killed", model, **BESIDE), *order_lines(RECORDS)


class Traffic:
    """Events at a steady rate until told to stop, so that something is in flight whenever something is killed."""

    def __init__(self, broker, topic, records):
        self._stop = threading.Event()
        self._arguments = (broker.bootstrap, topic, records, RATE)
        self._produced = None
        self._thread = threading.Thread(target=self._produce, daemon=True)
        self._thread.start()

    def _produce(self):
        self._produced = produce_events(*self._arguments, should_stop=self._stop.is_set)

    def end(self):
        """How many records there are in all."""
        self._stop.set()
        self._thread.join(60)
        return self._produced.records


def test_killed_workers_and_a_killed_job_lose_nothing_and_repeat_nothing(broker, tmp_path):
    pipeline, records, broken = workload(tmp_path / "models")
    settings = settings_of(broker, tmp_path / "home", restart_attempts=5, restart_delay_ms=200)
    make_topics(broker, pipeline)
    with LiveReader(broker, pipeline) as reader:
        with JobProcess(pipeline, settings, tmp_path / "first") as job:
            job.wait_for("running")
            traffic = Traffic(broker, pipeline.events.topic, records)
            for _ in range(2):
                reader.wait_for(len(reader.messages) + BETWEEN, job=job)
                job.kill_workers(settings.parallelism)
            reader.wait_for(len(reader.messages) + BETWEEN, job=job)
            assert job.checkpoints()["failure"], "the job noticed that its workers died"
            job.kill()
        answered = len(reader.messages)
        restore_from = latest_restore_point(pipeline, settings)
        with JobProcess(pipeline, settings, tmp_path / "second", restore_from) as job:
            job.wait_for("running")
            reader.wait_for(answered + BETWEEN, job=job)
            produced = traffic.end()
            job.catch_up()
            assert job.checkpoints()["failure"] is None, "nothing of the killed job disturbs the next"
            job.stop()
        during = reader.answers()
    after, events = read_answers(broker, pipeline), read_events(broker, pipeline)
    assert len(events) == produced > answered + BETWEEN
    assert during == after
    reasons = {event.place: broken[event.key, event.value] for event in events if (event.key, event.value) in broken}
    assert after.predictions.keys() | after.dead_letters.keys() == {event.place for event in events}
    assert_dead_letters(pipeline, events, after.dead_letters, reasons)
    assert_receipts(pipeline, events, after.predictions)
    assert_entity_order(pipeline, after.predictions)
    assert_as_uninterrupted(pipeline, events, after.predictions)
    closed, _ = sessions_by_the_oracle(pipeline, events)
    assert sorted(read_sessions(broker, pipeline)) == sorted(closed)
    assert len(closed) > 100
    vectors = read_vectors(broker, pipeline)
    in_state = {place for place, letter in after.dead_letters.items() if letter.headers["stage"] == "model"}
    assert vectors.keys() == after.predictions.keys() | in_state
    assert_entity_order(pipeline, vectors)
    for place, prediction in after.predictions.items():
        vector = vectors[place]
        assert (vector.key, vector.body["features"]) == (prediction.key, prediction.body["features"])
        assert vector.headers["event-time"] == prediction.headers["event-time"]
