"""Reads the topic of dead letters: all that are wanted, the newest of them, or those at some places."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from confluent_kafka import Message

from flink_jobs.console import CommandError
from flink_jobs.dead_letter_marks import Marks, read_marks, topic_id
from flink_jobs.dead_letters import DeadLetter, DecodeNow, Origin, Place, Wanted, letter_of
from flink_jobs.decoding import letter_decoder
from flink_jobs.kafka_admin import offsets_for_time, topic_ends, topic_partitions, topic_starts
from flink_jobs.served_answers import spans_of
from flink_jobs.settings import Settings
from flink_jobs.topic_scan import Span, records_at, scan, scan_outwards
from udfs.pipeline import Pipeline

STEP_OFFSETS = 2_000
_CLOCKS_APART_MS = 60_000
Looked = Callable[[int, int], None]
"""Told how many offsets are read, and how many there are."""


@dataclass(frozen=True)
class LetterBox:
    """A pipeline's dead letters.

    Attributes:
        pipeline: Whose.
        settings: Where Kafka is.
        letters_id: Kafka's id of their topic.
        marks: Which of them were replayed.
        decode: Today's decoder.
    """

    pipeline: Pipeline
    settings: Settings
    letters_id: str
    marks: Marks
    decode: DecodeNow

    @property
    def topic(self) -> str:
        """Of the letters."""
        return str(self.pipeline.dead_letters)

    def spans(self, wanted: Wanted) -> dict[int, Span]:
        """What must be read: a letter is written after its record came."""
        bootstrap, topic, properties = self.settings.bootstrap, self.topic, self.settings.kafka_properties
        starts = topic_starts(bootstrap, topic, properties)
        if wanted.since_ms is not None:
            starts = offsets_for_time(bootstrap, topic, max(0, wanted.since_ms - _CLOCKS_APART_MS), properties)
        ends = topic_ends(bootstrap, topic, properties, isolation="read_committed")
        return spans_of(starts, ends)

    def all(self, wanted: Wanted, looked: Looked) -> Iterator[DeadLetter]:
        """All letters that are wanted, partition by partition, in order."""
        spans, read = self.spans(wanted), 0
        total = sum(max(0, end - begin) for begin, end in spans.values())
        for messages in scan(self.settings.bootstrap, self.settings.kafka_properties, self.topic, spans):
            yield from self._wanted(messages, wanted)
            read += len(messages)
            looked(min(read, total), total)

    def newest(self, wanted: Wanted, limit: int, looked: Looked, *, but_replayed: bool = False) -> list[DeadLetter]:
        """The newest letters that are wanted, the newest first; no more is read than it takes."""
        spans, done = self.spans(wanted), [0]
        total = sum(max(0, end - begin) for begin, end in spans.values())
        kept: list[tuple[int, Place, DeadLetter]] = []
        oldest_ms: dict[int, int] = {}

        def step(read: int) -> None:
            done[0] = read
            looked(read, total)

        told = 0
        for messages in scan_outwards(
            self.settings.bootstrap, self.settings.kafka_properties, self.topic, spans, step=STEP_OFFSETS,
            newest_first=True, looked=step,
        ):  # fmt: skip
            if done[0] > told:  # a step of all partitions is done: what is left is older than the oldest of it
                told = done[0]
                if oldest_ms and len(kept) == limit and kept[0][0] >= max(oldest_ms.values()):
                    break
                oldest_ms = {}
            for message in messages:
                partition, time_ms = int(message.partition() or 0), message.timestamp()[1]
                oldest_ms[partition] = min(oldest_ms.get(partition, time_ms), time_ms)
            for letter in self._wanted(messages, wanted):
                if but_replayed and letter.place in self.marks.by_letter:
                    continue
                entry = letter.written_ms, letter.place, letter
                if len(kept) < limit:
                    heapq.heappush(kept, entry)
                else:
                    heapq.heappushpop(kept, entry)
        return [letter for _, _, letter in sorted(kept, reverse=True)]

    def at(self, places: Iterable[Place]) -> dict[Place, DeadLetter]:
        """The letters at some places."""
        found = records_at(self.settings.bootstrap, self.settings.kafka_properties, self.topic, places)
        letters = {place: letter_of(message, self.pipeline) for place, message in found.items()}
        return {place: letter for place, letter in letters.items() if letter is not None}

    def originals(self, letters: Iterable[DeadLetter]) -> Mapping[Origin, Message]:
        """The records of some letters that are still in the events topic, or in their source."""
        by_origin = {each.origin: each for each in letters}
        kafka, found = (self.settings.bootstrap, self.settings.kafka_properties), dict[Origin, Message]()
        for topic in (self.pipeline.events.topic, *self.pipeline.events.source_topics):
            mine = {place: letter for (of, place), letter in by_origin.items() if of == topic}
            for place, message in records_at(*kafka, topic, mine).items():
                if _is_original(mine[place], message):
                    found[topic, place] = message
        return found

    def _wanted(self, messages: Iterable[Message], wanted: Wanted) -> Iterator[DeadLetter]:
        for message in messages:
            letter = letter_of(message, self.pipeline)
            if letter is not None and wanted.has(letter, self.pipeline.events, self.decode):
                yield letter


def open_letter_box(pipeline: Pipeline, settings: Settings) -> LetterBox:
    """The dead letters of a pipeline, and which were replayed.

    Raises:
        CommandError: There is no topic of them.
    """
    topic = str(pipeline.dead_letters)
    if topic not in topic_partitions(settings.bootstrap, [topic], settings.kafka_properties):
        raise CommandError(f"topic {topic} does not exist at {settings.bootstrap}: {pipeline.name} was never run there")
    letters_id = topic_id(pipeline, settings)
    marks = read_marks(pipeline, settings, letters_id)
    return LetterBox(pipeline, settings, letters_id, marks, letter_decoder(pipeline, settings))


def _is_original(letter: DeadLetter, message: Message) -> bool:
    """Whether a record is a letter's: a topic that was made anew has other records at the same places."""
    key, value = message.key() or b"", message.value() or b""
    return bytes(key).startswith(letter.key or b"") and bytes(value).startswith(letter.value or b"")
