"""Requests among events, their workers killed: each is answered once, in order, and no event ever notices."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest
import requests as http
from answers import answers_in, assert_as_uninterrupted, outputs_of, read_events
from confluent_kafka import Producer
from jobs import JobProcess, kill_all
from workloads import START_MS, make_topics, purchase, settings_of, shipped_as

from flink_jobs.committed_reader import CommittedReader, read_all, receipt
from flink_jobs.local.processes import free_port
from flink_jobs.local.shoppers import as_records, shopper_events
from flink_jobs.score_client import ClientClosedError, RequestRefusedError, ScoreClient
from udfs.entity_copies import Scratch, copies_of
from udfs.entity_state import ShardState
from udfs.pipeline import Requests
from udfs.plan import FeaturePlan
from udfs.raw_record import RawRecord, RecordParts
from udfs.request_reader import Asked, RequestReader, request_bytes
from udfs.wire_formats import EventDecoder

pytestmark = pytest.mark.integration

REQUESTS = Requests(max_age="1h", reply_topics=("asked-elsewhere",))
FIELDS = {"dwell_time_sec": 12.0, "page_id": "checkout"}
LONGEST_WINDOW_MS = 3_600_000
BEFORE = 500


class Traffic:
    """Events, and now and then a request for the entity of the last one or of somebody else, until told to stop."""

    def __init__(self, broker, pipeline):
        self._producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 1})
        self._pipeline, self._stop, self._rng = pipeline, threading.Event(), random.Random(3)
        self._events = as_records(shopper_events(60, 11, START_MS))
        self.asked, self.letters = {}, 0

    def send_events(self, count):
        for _ in range(count):
            self._event()
        self._producer.flush(30)

    def begin(self):
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _event(self):
        key, value = next(self._events)
        self._producer.produce(self._pipeline.events.topic, value, key)
        return msgspec.json.decode(value)

    def _send(self):
        known = []
        while not self._stop.wait(0.01):
            for _ in range(4):
                event = self._event()
                known.append(event["user_id"])
                nobody = ["nobody"] if len(known) % 50 == 0 else []
                for entity in (event["user_id"], self._rng.choice(known), *nobody):
                    request_id = f"r{len(self.asked)}"
                    to = self._rng.choice([None, "asked-elsewhere"])
                    key, content = request_bytes(
                        request_id, entity, FIELDS, as_of_ms=event["timestamp"], reply_to=to
                    )
                    self.asked[request_id] = (key, content)
                    self._producer.produce(self._pipeline.requests_topic, content, key)
                if len(known) % 40 == 0:
                    self.letters += 1
                    wrong = b'{"request_id": "x", "reply_to": "asked-predictions"}'
                    self._producer.produce(self._pipeline.requests_topic, wrong)
            self._producer.poll(0)
        self._producer.flush(30)

    def end(self):
        self._stop.set()
        self._thread.join(60)


class Replies:
    """What a reader of committed replies has seen, by the request's id."""

    def __init__(self, broker, pipeline):
        self._reader = CommittedReader(broker.bootstrap, pipeline.reply_topics)
        self.seen = []

    def wait_for(self, count, job, timeout_s=120.0):
        deadline = time.monotonic() + timeout_s
        while len(self.seen) < count:
            self.seen += self._reader.read(0.2)
            assert time.monotonic() < deadline, f"{len(self.seen)} of {count} replies: {job.checkpoints()}"

    def rest(self):
        """Nothing more comes."""
        for _ in range(10):
            self.seen += self._reader.read(0.2)
        self._reader.close()
        return {message.key().decode(): message for message in self.seen}


def wait_until_noticed(job, timeout_s=60.0):
    """Until the job knows that its workers died; events and requests go on meanwhile."""
    deadline = time.monotonic() + timeout_s
    while not job.checkpoints()["failure"]:
        assert time.monotonic() < deadline, "the job did not notice that its workers died"
        time.sleep(0.2)


def served(pipeline_file, bootstrap, folder, port, *options):
    """`millrace serve` in a process of its own."""
    with (folder / "serve.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "flink_jobs.cli", "serve", str(pipeline_file), "--port", str(port), *options],
            env={**os.environ, "MILLRACE_BOOTSTRAP": bootstrap, "MILLRACE_HOME": str(folder)},
            stdout=log, stderr=log,
        )  # fmt: skip


def wait_until_ready(url, process, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while True:
        assert process.poll() is None
        assert time.monotonic() < deadline
        try:
            if http.get(f"{url}/health/ready", timeout=5).status_code == 200:
                return
        except http.ConnectionError:
            time.sleep(0.1)


def assert_http(pipeline_file, pipeline, broker, folder, entity):
    """The front by real calls; what is asked here has an id of the front's own."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = served(pipeline_file, broker.bootstrap, folder, port, "--timeout", "30000", "--in-flight", "3")
    try:
        wait_until_ready(url, process)
        assert http.get(f"{url}/health/live", timeout=5).json() == {"status": "live"}
        answer = http.post(f"{url}/score", json={"entity": entity, "fields": FIELDS}, timeout=60)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert told["entity"] == entity
        assert 0 <= told["purchase_probability"] <= 1
        assert told["model"]["model"] == "purchase"
        wrong = [
            ({"entity": "nobody", "fields": FIELDS}, 404, "unknown_entity"),
            ({"entity": entity, "fields": {**FIELDS, "colour": "red"}}, 422, "wrong_request"),
            ({"entity": entity, "fields": {"page_id": "home"}}, 422, "missing_field"),
            ({"entity": entity, "fields": FIELDS, "as_of": -1}, 422, "invalid_time"),
            ({"entity": entity, "fields": FIELDS, "timeout_ms": 1}, 504, "timeout"),
            ({"entity": "x" * 70_000}, 413, "too_large"),
        ]
        for body, status, reason in wrong:
            answer = http.post(f"{url}/score", json=body, timeout=60)
            assert (answer.status_code, answer.json()["error"]["reason"]) == (status, reason), answer.text
        answer = http.post(f"{url}/score", data=b"{", timeout=60)
        assert (answer.status_code, answer.json()["error"]["reason"]) == (400, "not_json")
        with ThreadPoolExecutor(10) as pool:
            good = {"entity": entity, "fields": FIELDS}
            at_once = [pool.submit(http.post, f"{url}/score", json=good, timeout=60) for _ in range(20)]
            assert {each.result().status_code for each in at_once} == {200, 429}
        page = http.get(f"{url}/openapi.json", timeout=5).json()
        body = page["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert set(body["properties"]["fields"]["properties"]) == {"event_id", "dwell_time_sec", "page_id"}
        process.send_signal(signal.SIGINT)
        assert process.wait(20) in (0, 130)
    finally:
        kill_all(process)
    return told["request_id"]


def first_event(pipeline, settings, entity):
    """Send the first event of an entity; its place, once Kafka has it."""
    event = {"event_id": f"first-{entity}", "user_id": entity, "timestamp": START_MS, **FIELDS}
    places, producer = [], Producer({"bootstrap.servers": settings.bootstrap})
    producer.produce(
        pipeline.events.topic, msgspec.json.encode(event), entity,
        on_delivery=lambda _, message: places.append((message.partition(), message.offset())),
    )  # fmt: skip
    producer.flush(30)
    return places[0]


async def ask_many(pipeline, settings, entities):
    """Many at once by the client; the ids of what was answered."""
    async with ScoreClient(pipeline, settings) as client:
        # who is new to the job is known as soon as the first event is acknowledged
        fresh = [f"fresh-{number}" for number in range(5)]
        places = [first_event(pipeline, settings, each) for each in fresh]
        asked = [client.score(each, FIELDS, after=place, timeout=60) for each, place in zip(fresh, places, strict=True)]
        assert [answer.entity for answer in await asyncio.gather(*asked)] == fresh
        assert await client.answers_kafka()
        answers = await asyncio.gather(*(client.score(each, FIELDS, timeout=60) for each in entities))
        assert [answer.entity for answer in answers] == entities
        with pytest.raises(RequestRefusedError, match="unknown_entity"):
            await client.score("nobody", timeout=60, **FIELDS)
        with pytest.raises(TimeoutError):
            await client.score(entities[0], FIELDS, timeout=0.001)
        assert client.waiting == 0
        left = asyncio.ensure_future(client.score(entities[0], FIELDS, timeout=60))
        await asyncio.sleep(0.01)
    with pytest.raises(ClientClosedError):
        await left
    return [answer.request_id for answer in answers]


def assert_in_order(pipeline, events, replies, asked):
    """Each reply has the features of its event on some prefix of the entity's events, no shorter than those before.

    An entity may be unknown before its first event, and once its last one has left the longest window.
    """
    plan, decode = FeaturePlan.build(pipeline), EventDecoder(pipeline).decode
    scratch = Scratch(plan)
    lives, requests, read = defaultdict(list), defaultdict(list), RequestReader(pipeline).read
    now_ms = time.time_ns() // 1_000_000
    for event in events:
        lives[event.key.decode()].append(decode(event.key, event.value))
    newest_ms = max(each.timestamp for life in lives.values() for each in life)
    for request_id, (key, content) in asked.items():
        parsed = read(RawRecord(key, content, RecordParts(0, 0, now_ms)), now_ms)
        assert isinstance(parsed, Asked), parsed
        told = msgspec.json.decode(replies[request_id].value())
        if key == b"nobody":
            assert told["error"]["reason"] == "unknown_entity"
        elif "error" in told:
            assert told["error"]["reason"] == "unknown_entity"
            requests[key.decode()].append((parsed, None))
        else:
            requests[key.decode()].append((parsed, [np.nan if x is None else x for x in told["features"].values()]))
    for entity, in_order in requests.items():
        state, read_events_so_far, life = ShardState(plan, log_changes=False), 0, lives[entity]
        times = [each.timestamp for each in life]
        forgotten = [0, *(n for n, gap in enumerate(np.diff([*times, newest_ms]), 1) if gap > LONGEST_WINDOW_MS)]
        for number, (parsed, features) in enumerate(in_order):
            while True:
                if features is None:
                    if read_events_so_far in forgotten:
                        break
                elif read_events_so_far:
                    copies = copies_of(state, [entity])
                    found = scratch.advance([copies], *plan.columnise([parsed.event])).features[0]
                    if np.array_equal(found, np.array(features), equal_nan=True):
                        break
                assert read_events_so_far < len(life), f"request {number} of {entity} is out of order"
                columns = plan.columnise([life[read_events_so_far]])
                state.advance([entity], columns[0], columns[0], np.zeros(1, np.int32), *columns[1:])
                read_events_so_far += 1


def test_requests_among_events_are_answered_once_in_order_and_change_nothing(broker, tmp_path):
    pipeline = purchase("asked", requests=REQUESTS)
    before = purchase("asked")
    settings = settings_of(broker, tmp_path / "home", restart_attempts=5, restart_delay_ms=200)
    make_topics(broker, pipeline)
    traffic, replies = Traffic(broker, pipeline), Replies(broker, pipeline)
    traffic.send_events(BEFORE)
    with JobProcess(before, settings, tmp_path / "job") as job:
        job.wait_for("running")
        job.catch_up()
        # a pipeline that begins to answer requests goes on from the state it has
        job.go_on_as(pipeline, settings)
        traffic.begin()
        replies.wait_for(400, job)
        job.kill_workers(settings.parallelism)
        wait_until_noticed(job)
        replies.wait_for(len(replies.seen) + 600, job)
        traffic.end()
        job.catch_up()
        replies.wait_for(len(traffic.asked), job)
        entities = [msgspec.json.decode(content)["entity"] for _, content in list(traffic.asked.values())[:100]]
        entities = [each for each in entities if each != "nobody"]
        own = asyncio.run(ask_many(pipeline, settings, entities))
        file = tmp_path / "asked.py"
        file.write_text(shipped_as("asked", "requests=Requests(max_age='1h', reply_topics=('asked-elsewhere',))"))
        own.append(assert_http(file, pipeline, broker, tmp_path, entities[0]))
        # and one that no longer answers them from the state of one that did
        job.go_on_as(before, settings)
        traffic.send_events(BEFORE)
        job.catch_up()
        job.stop()
    seen = replies.rest()
    assert len(seen) == len(replies.seen), "a request has two replies"
    assert traffic.asked.keys() | set(own) <= seen.keys()
    for request_id, message in seen.items():
        _, content = traffic.asked.get(request_id, (b"", b"{}"))
        assert message.topic() == msgspec.json.decode(content).get("reply_to", "asked-replies")
        assert receipt(message)["topic"] == "asked-requests"
    events, outputs = read_events(broker, pipeline), list(read_all(broker.bootstrap, outputs_of(pipeline)))
    letters = [each for each in outputs if receipt(each)["topic"] == pipeline.requests_topic]
    answers = answers_in([each for each in outputs if receipt(each)["topic"] == pipeline.events.topic], pipeline)
    assert answers.predictions.keys() == {event.place for event in events}
    assert_as_uninterrupted(pipeline, events, answers.predictions)
    assert_in_order(pipeline, events, seen, traffic.asked)
    assert [receipt(letter)["reason"] for letter in letters] == ["unknown_reply_topic"] * traffic.letters
