"""A store kept in step with a topic of features, on a real broker and a real Redis: nothing lost, nothing older."""

import dataclasses
import json
import threading
import time

import msgspec
import pytest
from confluent_kafka import Producer
from redis_server import RedisServer
from typer.testing import CliRunner
from wire_features import feature_records
from workloads import make_topics, purchase, settings_of, shipped_as

from flink_jobs.cli import app
from flink_jobs.feature_store import open_store
from flink_jobs.kafka_admin import committed_offsets
from flink_jobs.store_sync import StoreSync
from flink_jobs.topics import store_group_id

pytestmark = pytest.mark.integration
WAIT_S, DAY_MS = 60, 86_400_000


class Topic:
    """A topic of features, and what a store of it must have in the end: by entity the newest of its vectors."""

    def __init__(self, broker, pipeline):
        self.pipeline, self.newest, self.sent = pipeline, {}, 0
        self._producer = Producer({"bootstrap.servers": broker.bootstrap})
        self._broker = broker
        make_topics(broker, pipeline)

    def send(self, records):
        for record in records:
            self._put(self._producer, record)
            vector, headers = msgspec.json.decode(record.value), record.headers
            place = int(headers["millrace-event-time"]), int(headers["millrace-offset"])
            if place >= self.newest.get(vector["user_id"], ((-1, -1), None))[0]:
                self.newest[vector["user_id"]] = place, vector["features"]
        assert self._producer.flush(WAIT_S) == 0
        self.sent += len(records)

    def send_and_abort(self, records):
        """A transaction that nobody may see."""
        producer = Producer({"bootstrap.servers": self._broker.bootstrap, "transactional.id": "never-committed"})
        producer.init_transactions(WAIT_S)
        producer.begin_transaction()
        for record in records:
            self._put(producer, record)
        producer.flush(WAIT_S)
        producer.abort_transaction(WAIT_S)

    def _put(self, producer, record):
        headers = [(name, text.encode()) for name, text in record.headers.items()]
        producer.produce(self.pipeline.features_topic, record.value, record.key, headers=headers)

    def assert_in(self, store):
        entities = sorted(self.newest)
        found = store.read(entities, time.time_ns() // 1_000_000)
        missing = [entity for entity, row in zip(entities, found, strict=True) if row is None]
        assert not missing
        for entity, row in zip(entities, found, strict=True):
            place, features = self.newest[entity]
            assert ((row.event_ms, row.offset), row.values) == (place, features), entity


def sync(topic, settings, url, **options):
    until = options.pop("until_caught_up", True)
    store = open_store(topic.pipeline, settings, url)
    one = StoreSync(topic.pipeline, settings, store, url, **options)
    return one.run(lambda: False, until_caught_up=until)


def now_ms():
    return time.time_ns() // 1_000_000


def test_a_store_goes_on_where_it_was_and_a_replay_changes_nothing(broker, tmp_path):
    pipeline = purchase("synced", features_topic="synced-features")
    settings, topic = settings_of(broker, tmp_path / "home"), Topic(broker, pipeline)
    url = f"sqlite:///{tmp_path / 'features.sqlite'}"
    records = feature_records(pipeline, 900, now_ms() - DAY_MS)
    topic.send(records[:500])
    topic.send_and_abort(records[500:600])
    counts = sync(topic, settings, url)
    assert counts.read == 500
    store = open_store(pipeline, settings, url)
    topic.assert_in(store)
    topic.send(records[500:])
    topic.send(records[:100])  # what a job without a checkpoint writes again
    counts = sync(topic, settings, url)
    assert counts.read == 500, "it goes on where it was"
    topic.assert_in(store)
    counts = sync(topic, settings, url, from_start=True)
    assert counts.read == topic.sent
    topic.assert_in(store)
    (tmp_path / "features.sqlite").unlink()
    for more in ("-wal", "-shm"):
        (tmp_path / f"features.sqlite{more}").unlink(missing_ok=True)
    counts = sync(topic, settings, url)
    assert counts.read == topic.sent, "a store that is made anew is filled from the topic's beginning"
    topic.assert_in(open_store(pipeline, settings, url))


def test_a_redis_that_dies_holds_up_reading_and_is_filled_again(broker, tmp_path):
    pipeline = purchase("outlived", features_topic="outlived-features")
    settings, topic = settings_of(broker, tmp_path / "home"), Topic(broker, pipeline)
    server, told, stop = RedisServer(tmp_path), [], threading.Event()
    url = server.url
    records = feature_records(pipeline, 900, now_ms() - DAY_MS)
    topic.send(records[:500])
    running = StoreSync(pipeline, settings, open_store(pipeline, settings, url), url, tell=told.append)
    thread = threading.Thread(target=running.run, args=(stop.is_set,))
    thread.start()
    try:
        wait_for(lambda: running.counts.read == 500)
        group, name = store_group_id(pipeline, url), pipeline.features_topic
        wait_for(lambda: sum(committed_offsets(broker.bootstrap, group, name).values()) == 500)
        server.kill()
        topic.send(records[500:])
        wait_for(lambda: told)
        time.sleep(2)  # two times as long as between two commits
        assert sum(committed_offsets(broker.bootstrap, group, name).values()) == 500, "nothing is written"
        assert running.counts.read == 500
        server.start()
        wait_for(lambda: running.counts.read >= 500 + 900)
        topic.assert_in(open_store(pipeline, settings, url))
        assert "does not answer" in told[0]
        assert "answers again" in told[1]
        assert told[2:] == ["the store is empty: reading all of the topic again"]
    finally:
        stop.set()
        thread.join(WAIT_S)
        server.kill()
    assert not thread.is_alive()
    assert running.counts.waited_s > 2


def wait_for(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_commands_fill_a_store_and_read_it(broker, tmp_path, monkeypatch):
    file = tmp_path / "told.py"
    file.write_text(shipped_as("told", 'features_topic="told-features"'))
    monkeypatch.setenv("MILLRACE_BOOTSTRAP", broker.bootstrap)
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    runner = CliRunner()

    def call(*arguments, status=0):
        result = runner.invoke(app, ["features", arguments[0], str(file), *arguments[1:]])
        assert result.exit_code == status, result.output
        return result

    assert "features sync told" in call("get", "u", status=1).stderr
    assert "millrace topics create" in call("sync", status=1).stderr
    pipeline = dataclasses.replace(purchase("told", features_topic="told-features"), include_features=False)
    topic = Topic(broker, pipeline)
    began_ms = now_ms()
    topic.send(feature_records(pipeline, 100, began_ms - DAY_MS))
    done = json.loads(call("sync", "--until-caught-up", "--json").stdout)
    assert (done["read"], done["written"]) == (100, len(topic.newest))
    assert done["age_ms"]["p50"] > 3_600_000
    entity = min(topic.newest)
    stored, now = (json.loads(call("get", entity, "--json", *more).stdout) for more in ((), ("--as-of", "now")))
    (event_ms, _), features = topic.newest[entity]
    assert stored["features"] == features
    assert stored["age_ms"] >= began_ms - event_ms
    assert {"count_10m", "count_1h"} <= set(stored["passed"])
    assert now["features"]["count_1h"] == 0
    assert now["features"]["dwell_time_sec"] == features["dwell_time_sec"]
    shown = call("get", entity)
    assert "its window has passed since" in shown.stdout
    assert "no features of nobody" in call("get", entity, "nobody", status=1).stderr
