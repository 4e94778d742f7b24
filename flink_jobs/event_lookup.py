"""Finds an event and its committed answer: by the place that a receipt names, or by the event's id."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from confluent_kafka import Message

from flink_jobs.committed_reader import receipt
from flink_jobs.console import CommandError
from flink_jobs.kafka_admin import offsets_for_time, topic_ends, topic_starts
from flink_jobs.served_answers import spans_of
from flink_jobs.settings import Settings
from flink_jobs.topic_scan import Span, record_at, scan_outwards
from udfs.pipeline import Pipeline
from udfs.wire_formats import HEADER

_PLACE = re.compile(
    r"(?:(?P<topic>[a-zA-Z0-9._-]+)(?:/|-(?=\d+@)))?(?P<partition>\d{1,9})(?:/|:|@)(?P<offset>\d{1,18})"
)
STEP_OFFSETS = 10_000
CLOCKS_APART_MS = 60_000
Looked = Callable[[str, int, int], None]
"""Told what is searched, how many offsets are done, and how many there are."""


class Found(NamedTuple):
    """An event and its answer.

    Attributes:
        place: Partition and offset of the event.
        record: The event's record.
        answer: The prediction or dead letter; None if there is none.
    """

    place: tuple[int, int]
    record: Message
    answer: Message | None


def find_event(pipeline: Pipeline, settings: Settings, reference: str, looked: Looked) -> Found:
    """The event that a reference means, and its answer.

    Args:
        pipeline: Whose.
        settings: Where Kafka is.
        reference: `topic/partition/offset`, `partition:offset`, or the event's id. A place in the topic of predictions
            means the event that the prediction there is of.
        looked: See `Looked`.

    Raises:
        CommandError: There is no such event.
    """
    events, kafka = pipeline.events, (settings.bootstrap, settings.kafka_properties)
    match = _PLACE.fullmatch(reference)
    starts = topic_starts(kafka[0], events.topic, kafka[1])
    topic = events.topic if match is None or match["topic"] is None else match["topic"]
    if match is not None and (match["topic"] is not None or int(match["partition"]) in starts):
        place = int(match["partition"]), int(match["offset"])
        if topic in (pipeline.predictions, pipeline.dead_letters):
            answer = record_at(*kafka, topic, *place)
            if answer is None:
                raise CommandError(f"{reference} is not in {topic}: no committed answer is kept there")
            return _of_answer(pipeline, settings, answer)
        if topic != events.topic:
            raise CommandError(f"{reference} is in topic {topic}; events of {pipeline.name} are in {events.topic}")
        record = record_at(*kafka, topic, *place)
        if record is None:
            raise CommandError(
                f"{topic} has no record at partition {place[0]}, offset {place[1]}: it keeps offsets from "
                f"{starts.get(place[0], 0)} on"
            )
        return Found(place, record, _answer_to(pipeline, settings, place, record.timestamp()[1], looked))
    answer = _answer_with_id(pipeline, settings, reference, looked)
    if answer is None:
        raise CommandError(
            f"no committed answer of {pipeline.name} has {events.id} {reference!r}: if the event has none yet, give "
            f"its place, like {events.topic}/0/1200"
        )
    return _of_answer(pipeline, settings, answer)


def _of_answer(pipeline: Pipeline, settings: Settings, answer: Message) -> Found:
    told = receipt(answer)
    if told.get("pipeline") != pipeline.name or told.get("topic") != pipeline.events.topic:
        raise CommandError(
            f"that answer is of pipeline {told.get('pipeline') or '?'} and topic {told.get('topic') or '?'}"
        )
    place = int(told["partition"]), int(told["offset"])
    record = record_at(settings.bootstrap, settings.kafka_properties, pipeline.events.topic, *place)
    if record is None:
        raise CommandError(
            f"{pipeline.events.topic} no longer has the event at partition {place[0]}, offset {place[1]}"
        )
    return Found(place, record, answer)


def _answer_to(
    pipeline: Pipeline, settings: Settings, place: tuple[int, int], record_time_ms: int, looked: Looked
) -> Message | None:
    """The first answer to an event: looked for from the event's arrival on, then before, for clocks may differ."""
    wanted = [(f"{HEADER}partition", str(place[0]).encode()), (f"{HEADER}offset", str(place[1]).encode())]
    pipeline_header = (f"{HEADER}pipeline", pipeline.name.encode())

    def is_it(message: Message) -> bool:
        headers: Any = message.headers() or ()
        return all(each in headers for each in wanted) and pipeline_header in headers

    for later in (True, False):
        for topic, spans in answer_spans_from(pipeline, settings, record_time_ms - CLOCKS_APART_MS, later=later):
            for message in _searched(settings, topic, spans, newest_first=not later, looked=looked):
                if message is not None and is_it(message):
                    return message
    return None


def _answer_with_id(pipeline: Pipeline, settings: Settings, event_id: str, looked: Looked) -> Message | None:
    """The newest answer with that event id; of dead letters, whose value may be anything, one that holds it as text."""
    needle, name = json.dumps(event_id, ensure_ascii=False)[1:-1].encode(), pipeline.events.id
    for topic, spans in answer_spans_from(pipeline, settings, 0, later=True):
        newest: Message | None = None
        for message in _searched(settings, topic, spans, newest_first=True, looked=looked):
            if message is None:  # a step is done
                if newest is not None:
                    return newest
                continue
            content: Any = message.value() or b""
            if needle not in content or not _has_id(content, name, event_id):
                continue
            is_newer = newest is None or message.timestamp()[1] >= newest.timestamp()[1]
            if is_newer and receipt(message).get("pipeline") == pipeline.name:
                newest = message
        if newest is not None:
            return newest
    return None


def _has_id(content: bytes, name: str, event_id: str) -> bool:
    try:
        value = json.loads(content)
    except ValueError:
        return True
    return isinstance(value, dict) and str(value.get(name)) == event_id


def answer_spans_from(
    pipeline: Pipeline, settings: Settings, from_ms: int, *, later: bool
) -> Iterator[tuple[str, dict[int, Span]]]:
    """By topic, where the answers are that came from a time on, or before it."""
    for topic in (pipeline.predictions, str(pipeline.dead_letters)):
        place = settings.bootstrap, topic
        starts, ends = topic_starts(*place, settings.kafka_properties), None
        if from_ms > 0:
            at = offsets_for_time(*place, from_ms, settings.kafka_properties)
            starts, ends = (at, None) if later else (starts, at)
        elif not later:
            return
        if ends is None:
            ends = topic_ends(*place, settings.kafka_properties, isolation="read_committed")
        yield topic, spans_of(starts, ends)


def _searched(
    settings: Settings, topic: str, spans: Mapping[int, Span], *, newest_first: bool, looked: Looked
) -> Iterator[Message | None]:
    """Records of a topic, and None after each step."""
    total = max(1, sum(max(0, end - begin) for begin, end in spans.values()))
    steps: list[int] = []
    told = 0

    def step(done: int) -> None:
        looked(f"searching {topic}", done, total)
        steps.append(done)

    for messages in scan_outwards(
        settings.bootstrap, settings.kafka_properties, topic, spans, step=STEP_OFFSETS, newest_first=newest_first,
        looked=step,
    ):  # fmt: skip
        if len(steps) > told:
            told = len(steps)
            yield None
        yield from messages
