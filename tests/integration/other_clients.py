"""What clients of others read, and how they are run: the README's own lines, in a process of their own.

The topics are those of one bounded job. Behind its records, in each of their partitions, come a transaction that was
aborted, one that was committed, one that is open, and a record that is hidden behind the open one.
"""

import os
import re
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import msgspec
from confluent_kafka import Producer
from jobs import JobProcess, kill_all
from wire_features import shopper_lines
from workloads import START_MS, make_topics, purchase, settings_of

from flink_jobs.committed_reader import read_all
from flink_jobs.environment import PROJECT_ROOT
from flink_jobs.local.jars import java_home
from flink_jobs.local.processes import with_parent
from tests.interplay.files import class_path
from udfs.pipeline import Pipeline

EVENTS = 300
ABORTED, COMMITTED, OPEN, BEHIND = "aborted", "committed", "open", "behind"
HIDDEN = ABORTED, OPEN, BEHIND
WAIT_S = 60
JAVA = java_home() / "bin" / "java"
SILENCE_S = 1.0
"""For so long more records than there are would be seen."""


class Served(NamedTuple):
    """Topics to read."""

    bootstrap: str
    pipeline: Pipeline
    predictions: dict[str, tuple[str, str]]
    """What a reader of committed records must see: key and value, as texts, by the event's id."""
    vectors: dict[str, tuple[str, str]]
    open_transaction: Producer
    """It ends with this object."""

    @property
    def newest(self):
        """The last vector of each entity, which is what the topic says of it as a table."""
        return dict(self.vectors.values())


def serve(broker, folder):
    """Run the job to the end of its events, and leave the transactions behind its records."""
    pipeline = purchase("served", features_topic="served-features")
    make_topics(broker, pipeline)
    producer, events = Producer({"bootstrap.servers": broker.bootstrap}), shopper_lines(EVENTS, START_MS)
    for key, value in events:
        producer.produce(pipeline.events.topic, value, key)
    assert producer.flush(WAIT_S) == 0
    with JobProcess(pipeline, settings_of(broker, folder / "home"), folder / "job") as job:
        job.wait_for("running")
        job.catch_up()
        job.stop()
    topics, sent = (pipeline.predictions, pipeline.features_topic), {_id(value) for _, value in events}
    lasts = []
    for topic in topics:
        messages = list(read_all(broker.bootstrap, [topic]))
        assert {_id(each.value()) for each in messages} == sent
        assert len(messages) == EVENTS
        lasts += {each.partition(): each for each in messages}.values()
    _transaction(broker, ABORTED, lasts).abort_transaction(WAIT_S)
    _transaction(broker, COMMITTED, lasts).commit_transaction(WAIT_S)
    unfinished = _transaction(broker, OPEN, lasts)
    _send(producer, BEHIND, lasts)
    visible = sent | {f"{COMMITTED}-{partition}" for partition in range(pipeline.events.partitions)}
    seen = [{_id(each.value()): (each.key().decode(), each.value().decode())
             for each in read_all(broker.bootstrap, [topic])} for topic in topics]  # fmt: skip
    assert [each.keys() for each in seen] == [visible, visible]
    return Served(broker.bootstrap, pipeline, *seen, unfinished)


def _transaction(broker, name, lasts):
    """A producer whose transaction holds a record behind each of these, and has not ended."""
    settings = {"transactional.id": name, "transaction.timeout.ms": 900_000}
    producer = Producer({"bootstrap.servers": broker.bootstrap, **settings})
    producer.init_transactions(WAIT_S)
    producer.begin_transaction()
    _send(producer, name, lasts)
    return producer


def _send(producer, name, lasts):
    """Of each record one that differs in the event's id: `aborted-2` in partition 2."""
    for last in lasts:
        body = {**msgspec.json.decode(last.value()), "event_id": f"{name}-{last.partition()}"}
        place = {"partition": last.partition(), "headers": last.headers()}
        producer.produce(last.topic(), msgspec.json.encode(body), last.key(), **place)
    assert producer.flush(WAIT_S) == 0


def _id(value):
    return msgspec.json.decode(value)["event_id"]


def readme(title, **changes):
    """The block of code in the README whose first line has this title as a comment, with other names in it."""
    text = (PROJECT_ROOT / "README.md").read_text("utf-8")
    found = re.search(rf"^```\w+\n((?:#|//|--) {re.escape(title)}\b.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found, f"the README has no code that begins with {title}"
    code = found[1]
    assert code.count("\n") <= 11, "ten lines, and their title"
    for old, new in changes.items():
        assert old in code, f"{title} does not say {old}"
        code = code.replace(old, new)
    return code


class Client:
    """A client as a process of its own, and the lines that it prints.

    Args:
        command: What to run.
        folder: Where; for its errors, too.
        environment: What it gets; None means ours.
    """

    def __init__(self, command, folder, environment=None):
        folder.mkdir(parents=True, exist_ok=True)
        self._errors, self._lines = folder / "errors.log", []
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [str(each) for each in command],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
                preexec_fn=with_parent(),
            )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            self._lines.append(line.rstrip("\n"))

    def lines(self, count, timeout_s=WAIT_S):
        """All that it has printed, once that are so many lines and no more came for a while."""
        self.wait_until(lambda: len(self._lines) >= count, f"{count} lines", timeout_s)
        time.sleep(SILENCE_S)
        return list(self._lines)

    def wait_until(self, condition, what, timeout_s=WAIT_S):
        """Wait; fails with what it said when it ended, or took too long."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self._process.poll() is None, f"it ended before {what}: {self.said()}"
            assert time.monotonic() < deadline, f"no {what}, {len(self._lines)} lines: {self.said()}"
            time.sleep(0.05)

    def wait_for_end(self, timeout_s=WAIT_S):
        """All that it has printed, once it ended well."""
        status = self._process.wait(timeout_s)
        assert status == 0, f"status {status}: {self.said()}"
        return list(self._lines)

    def said(self):
        return "\n".join([*self._lines[-5:], self._errors.read_text("utf-8", "replace")[-2_000:]])

    def tell(self, line):
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        kill_all(self._process)


def python_client(code, folder):
    """These lines of Python as a client."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "client.py").write_text(code)
    return Client([sys.executable, "-u", "client.py"], folder)


def java_client(command, folder, *classes):
    """A class of the Kafka jars, or of these folders, as a client."""
    path = os.pathsep.join([*classes, class_path("kafka")])
    options = ["-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true", "-cp", path]
    return Client([JAVA, *options, *command], folder)
