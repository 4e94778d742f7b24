"""Which dead letters were replayed: marks in a topic of their own, written in the transaction that feeds them again.

Not among the dead letters: whoever counts or alarms on those would count a mark as one, and where they are kept for a
week, a mark would have to outlive the letter that it is of. The marks' topic is compacted: one mark a letter, for ever.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaException, Message, TopicCollection

from flink_jobs.committed_reader import read_all
from flink_jobs.dead_letters import Origin, Place
from flink_jobs.kafka_admin import TopicSpec, create_topics, topic_partitions
from flink_jobs.kafka_client import Admin
from flink_jobs.settings import Settings
from udfs.pipeline import Pipeline

TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Mark:
    """A dead letter that was replayed.

    Attributes:
        letter: Its place in the topic of dead letters.
        topic: Of the record that was written: the events topic, or a source.
        fed_to: Its place there.
        attempt: 1 if the record had never been replayed before, 2 if that one failed again, and so on.
        at_ms: When.
    """

    letter: Place
    topic: str
    fed_to: Place
    attempt: int
    at_ms: int


@dataclass
class Marks:
    """All marks of a pipeline.

    Attributes:
        by_letter: By the place of the letter.
        by_record: By topic and place of the record that was written.
    """

    by_letter: dict[Place, Mark] = field(default_factory=dict)
    by_record: dict[Origin, Mark] = field(default_factory=dict)

    def add(self, mark: Mark) -> None:
        """Enter one."""
        self.by_letter[mark.letter] = self.by_record[mark.topic, mark.fed_to] = mark

    def attempts(self, origin: Origin) -> int:
        """How often the record at a place of a topic had been replayed to come there."""
        mark = self.by_record.get(origin)
        return 0 if mark is None else mark.attempt


def marks_topic(pipeline: Pipeline) -> str:
    """Name of the topic of marks."""
    return f"{pipeline.dead_letters}-replays"


def create_marks_topic(pipeline: Pipeline, settings: Settings) -> None:
    """Create it if it is not there: one partition, for marks are few, and compacted, so that none is ever deleted."""
    spec = TopicSpec(marks_topic(pipeline), 1, settings={"cleanup.policy": "compact"})
    create_topics(settings.bootstrap, [spec], settings.kafka_properties)


def topic_id(pipeline: Pipeline, settings: Settings) -> str:
    """Kafka's id of the topic of dead letters: one that is made anew has other letters at the same places."""
    admin, name = Admin(settings.bootstrap, settings.kafka_properties, TIMEOUT_S), str(pipeline.dead_letters)
    try:
        described = admin.client.describe_topics(TopicCollection([name]), request_timeout=TIMEOUT_S)[name]
    except KafkaException as error:
        raise admin.explained(error) from error
    return str(admin.call(described).topic_id)


def read_marks(pipeline: Pipeline, settings: Settings, letters_id: str) -> Marks:
    """All committed marks of letters of the topic of dead letters with that id."""
    topic, marks = marks_topic(pipeline), Marks()
    if topic in topic_partitions(settings.bootstrap, [topic], settings.kafka_properties):
        for mark in _marks(read_all(settings.bootstrap, [topic], settings.kafka_properties), letters_id):
            marks.add(mark)
    return marks


def _marks(messages: Iterable[Message], letters_id: str) -> Iterable[Mark]:
    for message in messages:
        key: Any = message.key() or b""
        name, partition, offset = bytes(key).decode("utf-8", "replace").rsplit("/", 2)  # the id may have slashes, too
        if name != letters_id:
            continue
        value: Any = message.value() or b""
        told = json.loads(bytes(value))
        fed_to = int(told["partition"]), int(told["offset"])
        letter, time_ms = (int(partition), int(offset)), message.timestamp()[1]
        yield Mark(letter, str(told["topic"]), fed_to, int(told["attempt"]), time_ms)


def mark_record(mark: Mark, letters_id: str) -> tuple[bytes, bytes]:
    """Key and value of a mark's record."""
    told = {
        "topic": mark.topic, "partition": mark.fed_to[0], "offset": mark.fed_to[1], "attempt": mark.attempt
    }  # fmt: skip
    return f"{letters_id}/{mark.letter[0]}/{mark.letter[1]}".encode(), json.dumps(told).encode()
