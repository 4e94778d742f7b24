"""Three topics with other keys and formats feed one entity's features: nothing lost or twice, whatever is killed."""

import random
import threading
import time
from collections import Counter

import msgspec
import pytest
from answers import (
    answers_in,
    assert_as_uninterrupted,
    assert_entity_order,
    assert_features_equal,
    expected_of,
    outputs_of,
    read_events,
)
from confluent_kafka import Producer
from jobs import JobProcess
from shop_sources import FORMATS, in_format, shop_pipeline
from workloads import log_model, make_topics, settings_of

from flink_jobs.committed_reader import read_all
from flink_jobs.dead_letter_marks import read_marks
from flink_jobs.dead_letters import Wanted
from flink_jobs.dead_letters_plan import plan_replay
from flink_jobs.dead_letters_reading import open_letter_box
from flink_jobs.dead_letters_replay import replay
from flink_jobs.route_job import route_start
from flink_jobs.topics import COMMITTED, EARLIEST, LATEST
from udfs.raw_record import RawRecord, RecordParts
from udfs.record_reader import RecordReader
from udfs.wire_formats import Refused

pytestmark = pytest.mark.integration

START_MS = 1_760_000_000_000
CUSTOMERS, BEHIND_MS = 40, 5 * 86_400_000
TRAFFIC_S = 3.0


def record(rng, number):
    """Source's number, key and value of a random record; one in twenty is broken, some are passed over."""
    at, customer = START_MS + number * 200, rng.randrange(CUSTOMERS)
    # every other one's events come days behind the clocks, as where one source is read long after another
    at, customer = at - BEHIND_MS * (customer % 2), f"c{customer}"
    if rng.random() < 0.05:
        return rng.randrange(3), rng.choice([None, b"x"]), rng.choice([b"{", b'{"at": 1}', b"[]"])
    kind = rng.randrange(3)
    if kind == 0:
        return 0, rng.choice([None, b"session"]), {"user": {"id": customer}, "at": at, "page": "home"}
    if kind == 1:
        order = {"order_id": f"o{number}", "time_s": at // 1_000, "amount": rng.randrange(1, 500) / 4}
        return 1, customer.encode(), order
    row = {"id": f"a{number}", "customer_id": customer}
    op = rng.choice("curd")
    if rng.random() < 0.1:
        return 2, b"a1", None
    return 2, b"a1", {"op": op, "before": row, "after": None if op == "d" else row, "source": {"ts_ms": at}}


class Traffic:
    """Records at a steady rate, until told to stop."""

    def __init__(self, broker, pipeline, seed):
        self._producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 2})
        self._sources = pipeline.events.sources
        self._stop, self._rng = threading.Event(), random.Random(seed)
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _send(self):
        number = 0
        while not self._stop.wait(0.02):
            for _ in range(8):
                source, key, value = record(self._rng, number)
                value = in_format(self._sources[source].format, value) if isinstance(value, dict) else value
                self._producer.produce(self._sources[source].topic, value, key)
                number += 1
        assert self._producer.flush(30) == 0

    def end(self):
        self._stop.set()
        self._thread.join(60)


def source_records(broker, pipeline):
    """What each record of the sources must become, by topic, partition and offset: an event, a refusal, or nothing."""
    readers = {source.topic: RecordReader(pipeline, source) for source in pipeline.events.sources}
    found = {}
    for message in read_all(broker.bootstrap, list(readers)):
        parts = RecordParts(message.partition(), message.offset(), message.timestamp()[1])
        event = readers[message.topic()].read(RawRecord(message.key(), message.value(), parts))
        place = message.topic(), message.partition(), message.offset()
        found[place] = event if event is None or isinstance(event, Refused) else msgspec.to_builtins(event)
    return found


def routed_places(broker, pipeline):
    """Source's place -> its event's (partition, offset, value), and the dead letters of the hop by place and reason."""
    events, letters = {}, {}
    for message in read_all(broker.bootstrap, [pipeline.events.topic, pipeline.dead_letters]):
        told = {name.removeprefix("millrace-"): value.decode() for name, value in message.headers()}
        if message.topic() == pipeline.events.topic:
            place = told["source-topic"], int(told["source-partition"]), int(told["source-offset"])
            assert place not in events, f"{place} is there twice"
            events[place] = (message.partition(), message.offset(), msgspec.json.decode(message.value()))
        elif told["stage"] == "route":
            place = told["topic"], int(told["partition"]), int(told["offset"])
            assert place not in letters, f"{place} is a dead letter twice"
            letters[place] = told["reason"]
    return events, letters


def assert_each_once_and_in_order(broker, pipeline):
    wanted = source_records(broker, pipeline)
    events, letters = routed_places(broker, pipeline)
    assert letters == {place: each.reason for place, each in wanted.items() if isinstance(each, Refused)}
    assert {place: each[2] for place, each in events.items()} == {
        place: each for place, each in wanted.items() if isinstance(each, dict)
    }
    assert min(Counter(topic for topic, _, _ in events).values()) > 50
    assert letters
    lanes = {}
    for (topic, partition, _), (to, at, value) in sorted(events.items()):
        lanes.setdefault((topic, partition, value["customer"]), []).append((to, at))
    for lane in lanes.values():
        assert lane == sorted(lane), "records of one partition and customer changed their order"


def test_records_of_three_topics_are_events_of_one_customer_once_each_whatever_is_killed(broker, tmp_path):
    model = log_model(shop_pipeline("shop"), tmp_path / "models", column="count_1h")
    pipeline = shop_pipeline("shop", model, FORMATS)
    settings = settings_of(broker, tmp_path / "home", restart_attempts=5, restart_delay_ms=200)
    make_topics(broker, pipeline)
    assert route_start(pipeline, settings, LATEST) == LATEST
    traffic = Traffic(broker, pipeline, 1)
    with JobProcess(pipeline, settings, tmp_path / "first") as job:
        job.wait_for("running")
        job.catch_up()
        job.kill_workers(1)
        traffic.end()
        job.catch_up()
        assert_each_once_and_in_order(broker, pipeline)
        messages = read_all(broker.bootstrap, outputs_of(pipeline))
        mine = [each for each in messages if dict(each.headers())["millrace-topic"] == pipeline.events.topic.encode()]
        answers, events = answers_in(mine, pipeline), read_events(broker, pipeline)
        assert answers.predictions.keys() == {event.place for event in events}
        assert_entity_order(pipeline, answers.predictions)
        assert_as_uninterrupted(pipeline, events, answers.predictions)
        assert_features_equal(pipeline, answers.predictions, expected_of(pipeline, events, every=7))
        counts = {}
        for answer in answers.predictions.values():
            told = answer.body
            counts[told["customer"]] = max(counts.get(told["customer"], 0), told["features"]["count_1h"])
        assert len(counts) == CUSTOMERS
        assert min(counts.values()) > 10, "who comes behind the clock is forgotten with every event"
        before = len(events)
        traffic = Traffic(broker, pipeline, 2)
        time.sleep(TRAFFIC_S)
        job.kill()
    box, options = open_letter_box(pipeline, settings), {"also_refused": True, "also_counted": False}
    plan = plan_replay(box, Wanted(stages=frozenset({"route"})), looked=lambda *_: None, **options)
    fed = replay(box, plan)
    assert (fed.replayed, plan.left_out) == (len(routed_places(broker, pipeline)[1]), {})

    # begun anew without any state, and without what the last run had committed of its offsets: nothing is taken twice
    assert route_start(pipeline, settings, EARLIEST) == COMMITTED
    with JobProcess(pipeline, settings, tmp_path / "anew") as job:
        job.wait_for("running")
        traffic.end()
        job.catch_up()
        job.stop()
    assert_each_once_and_in_order(broker, pipeline)
    assert len(read_events(broker, pipeline)) > before
    again = list(read_marks(pipeline, settings, box.letters_id).by_record.values())
    assert {(mark.topic, *mark.fed_to) for mark in again} <= routed_places(broker, pipeline)[1].keys()
    assert len(again) == fed.replayed
