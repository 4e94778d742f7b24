"""Feeds dead letters again, once: a transaction writes records and the marks that they were replayed, or neither.

The transactional id belongs to the pipeline. Whoever takes it over, a second command or the same one after a kill,
ends what the other had open before it looks at the marks; so what one has committed the next one sees.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from flink_jobs.console import CommandError
from flink_jobs.dead_letter_marks import Mark, create_marks_topic, mark_record, marks_topic, read_marks
from flink_jobs.dead_letters import DeadLetter, Place
from flink_jobs.dead_letters_plan import ReplayPlan, chunks
from flink_jobs.dead_letters_reading import LetterBox
from flink_jobs.kafka_admin import KafkaAdminError, client_config, topic_partitions
from flink_jobs.topics import JOBS
from udfs.pipeline import Pipeline
from udfs.wire_formats import HEADER

CHUNK_RECORDS, CHUNK_BYTES = 1_000, 32_000_000
REPLAYED_FROM, REPLAYS = f"{HEADER}replayed-from", f"{HEADER}replays"
_TIMEOUT_S = 30.0
_TRANSACTION_MS = 60_000
"""How long a killed replay can hold up the readers of the events topic, the job among them."""
_LARGEST_BYTES = 512_000_000
_FENCED = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})


@dataclass
class Replay:
    """What came of a replay.

    Attributes:
        replayed: Records fed again.
        meanwhile: Records that another command replayed between the plan and this.
        gone: Records whose letters are deleted by now, or cut and no longer in their topic.
    """

    replayed: int = 0
    meanwhile: int = 0
    gone: int = 0


def transactional_id(pipeline: Pipeline) -> str:
    """The producer's; not to be taken for one of Flink's sink, which end in numbers."""
    return f"{JOBS}{pipeline.name}-replay"


def replay(
    box: LetterBox, plan: ReplayPlan, progress: Callable[[int], None] = lambda _: None, *, chunk: int = CHUNK_RECORDS
) -> Replay:
    """Feed the plan's records to the events topic, or to their source.

    Args:
        box: The letters.
        plan: Which.
        progress: Told how many records are done.
        chunk: Most records of one transaction.

    Raises:
        CommandError: Another command took over.
        KafkaAdminError: Kafka refuses, or does not answer.
    """
    create_marks_topic(box.pipeline, box.settings)
    feeder, done = _Feeder(box), Replay()
    marks = read_marks(box.pipeline, box.settings, box.letters_id)
    for records in chunks(plan.records, chunk, CHUNK_BYTES):
        left = [each for each in records if not any(place in marks.by_letter for place in each.letters)]
        done.meanwhile += len(records) - len(left)
        letters = box.at(each.letters[0] for each in left)
        originals = box.originals(letters.values())
        feeds = []
        for record in left:
            letter = letters.get(record.letters[0])
            original = originals.get(record.origin)
            if letter is None or (letter.cut and original is None):
                done.gone += 1
                continue
            feeds.append(_Feed(letter, original, record.letters, marks.attempts(record.origin) + 1))
        if feeds:
            feeder.feed(feeds)
        done.replayed += len(feeds)
        progress(done.replayed + done.meanwhile + done.gone)
    return done


@dataclass(frozen=True)
class _Feed:
    """A record to write: as it was, where it is still there; else as its letter has it."""

    letter: DeadLetter
    original: Message | None
    letters: Sequence[Place]
    attempt: int

    def headers(self, letters_topic: str) -> list[tuple[str, bytes | None]]:
        """Its own, and where it comes from."""
        found: Any = (self.original.headers() if self.original is not None else None) or []
        partition, offset = self.letter.place
        return [
            *(each for each in found if not each[0].startswith(HEADER)),
            (REPLAYED_FROM, f"{letters_topic}/{partition}/{offset}".encode()),
            (REPLAYS, str(self.attempt).encode()),
        ]

    def content(self) -> tuple[Any, Any, int]:
        """Key, value and timestamp."""
        if self.original is None:
            return self.letter.key, self.letter.value, self.letter.time_ms
        return self.original.key(), self.original.value(), self.original.timestamp()[1]


class _Feeder:
    """The transactional producer; making one ends what another had open."""

    def __init__(self, box: LetterBox) -> None:
        self._box, events = box, box.pipeline.events
        self._topic = events.topic
        bootstrap, properties = box.settings.bootstrap, box.settings.kafka_properties
        topics = [events.topic, *events.source_topics]
        self._partitions = topic_partitions(bootstrap, topics, properties)
        missing = [topic for topic in topics if topic not in self._partitions]
        if missing:
            raise CommandError(f"topic {missing[0]} does not exist at {bootstrap}: there is nowhere to feed them to")
        self._producer = Producer(
            client_config(
                bootstrap,
                properties,
                transactional_id=transactional_id(box.pipeline),
                transaction_timeout_ms=_TRANSACTION_MS,
                compression_type="lz4",
                message_max_bytes=_LARGEST_BYTES,
                linger_ms=5,
            )
        )
        self._try(lambda: self._producer.init_transactions(_TIMEOUT_S))

    def feed(self, feeds: Sequence[_Feed]) -> None:
        """Write records and their marks, both or none."""
        try:
            self._try(self._producer.begin_transaction)
            marks = self._write(feeds)
            self._write_marks(marks)
            self._try(lambda: self._producer.commit_transaction(_TIMEOUT_S))
        except BaseException:
            self._abort()
            raise

    def _write(self, feeds: Sequence[_Feed]) -> list[Mark]:
        placed: dict[int, Place] = {}
        failures: list[tuple[_Feed, KafkaError]] = []

        def note(number: int, feed: _Feed) -> Callable[[KafkaError | None, Message], None]:
            def delivered(error: KafkaError | None, message: Message) -> None:
                if error is not None:
                    failures.append((feed, error))
                else:
                    placed[number] = int(message.partition() or 0), int(message.offset() or 0)

            return delivered

        for number, feed in enumerate(feeds):
            key, value, time_ms = feed.content()
            topic = self._topic_of(feed.letter)
            self._produce(
                topic, key, value, partition=self._partition_of(feed.letter, topic), timestamp=time_ms,
                headers=feed.headers(self._box.topic), on_delivery=note(number, feed),
            )  # fmt: skip
        self._flush()
        if failures:
            feed, error = failures[0]
            raise KafkaAdminError(
                f"Kafka did not take the record of dead letter {feed.letter.place[0]}:{feed.letter.place[1]}: "
                f"{error.str()}; of its part of the replay nothing was fed"
            )
        now_ms = time.time_ns() // 1_000_000
        return [
            Mark(place, self._topic_of(feed.letter), placed[number], feed.attempt, now_ms)
            for number, feed in enumerate(feeds)
            for place in feed.letters
        ]

    def _write_marks(self, marks: Iterable[Mark]) -> None:
        topic = marks_topic(self._box.pipeline)
        for mark in marks:
            key, value = mark_record(mark, self._box.letters_id)
            self._produce(topic, key, value, timestamp=mark.at_ms)
        self._flush()

    def _topic_of(self, letter: DeadLetter) -> str:
        """Its source, for what was refused on the way from there; else the events topic."""
        return letter.topic if letter.topic in self._partitions else self._topic

    def _partition_of(self, letter: DeadLetter, topic: str) -> int:
        """Where it was, so that it comes behind its entity's other events; -1 is by its key."""
        same = letter.topic == topic and letter.source[0] < self._partitions[topic]
        return letter.source[0] if same else -1

    def _produce(self, topic: str, key: Any, value: Any, **more: Any) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, **more)
                return
            except BufferError:  # the queue is full: wait for the brokers
                self._producer.poll(0.1)
            except KafkaException as error:
                raise self._explained(error) from error

    def _flush(self) -> None:
        deadline = time.monotonic() + _TIMEOUT_S
        while self._producer.flush(1.0):
            if time.monotonic() > deadline:
                raise KafkaAdminError(f"Kafka at {self._box.settings.bootstrap} took nothing for {_TIMEOUT_S:g} s")

    def _try(self, call: Callable[[], None]) -> None:
        """Call again what may be called again, as after a lost connection."""
        deadline = time.monotonic() + 2 * _TIMEOUT_S
        while True:
            try:
                call()
                return
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline:
                    raise self._explained(error) from error

    def _abort(self) -> None:
        try:
            self._producer.abort_transaction(_TIMEOUT_S)
        except KafkaException:  # it is not ours any more, or Kafka is away: the next replay, or its timeout, ends it
            return

    def _explained(self, error: KafkaException) -> Exception:
        if error.args[0].code() in _FENCED:
            return CommandError(
                f"another replay of {self._box.pipeline.name} took over; it feeds what this one has not"
            )
        return KafkaAdminError(
            f"Kafka at {self._box.settings.bootstrap} refused: {error.args[0].str()}; run the command again, nothing "
            "is fed twice"
        )
