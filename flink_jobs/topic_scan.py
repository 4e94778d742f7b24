"""Looks things up in topics: one record by its place, or all records of some spans of offsets."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from flink_jobs.history_topic import CONSUME_RECORDS, SILENCE_S, span_consumer
from flink_jobs.kafka_admin import KafkaAdminError, Properties, topic_ends, topic_starts
from flink_jobs.kafka_client import ends_reading

Span = tuple[int, int]
"""First offset, and offset after the last."""
GAP_OFFSETS = 10_000
"""Records that are read over rather than to begin anew behind them: that costs as much."""


def scan(
    bootstrap: str, properties: Properties | None, topic: str, spans: Mapping[int, Span]
) -> Iterator[list[Message]]:
    """Committed records of spans of offsets, partition after partition, as they come.

    Args:
        bootstrap: Where the brokers are.
        properties: Client properties.
        topic: An existing topic.
        spans: By partition.

    Raises:
        KafkaAdminError: Kafka does not let us read.
    """
    consumer = span_consumer(bootstrap, properties)
    try:
        for partition, (begin, end) in spans.items():
            if begin < end:
                consumer.assign([TopicPartition(topic, partition, begin)])
                yield from _span(consumer, topic, begin, end)
    finally:
        consumer.close()


def _span(consumer: Any, topic: str, begin: int, end: int) -> Iterator[list[Message]]:
    following, deadline = begin, time.monotonic() + SILENCE_S
    while following < end:
        try:
            messages = consumer.consume(min(CONSUME_RECORDS, end - following), timeout=0.2)
        except KafkaException as error:
            raise KafkaAdminError(f"Kafka refused to be read: {error.args[0].str()}") from error
        kept = [each for each in messages if each.error() is None]
        for failure in (each.error() for each in messages if each.error() is not None):
            if failure.code() == KafkaError._PARTITION_EOF:
                following = end
            elif ends_reading(failure):
                raise KafkaAdminError(f"{topic} cannot be read: {failure.str()}")
        if kept:
            deadline = time.monotonic() + SILENCE_S
            following = max(following, kept[-1].offset() + 1)
            yield kept if kept[-1].offset() < end else [each for each in kept if each.offset() < end]
        elif time.monotonic() > deadline:
            raise KafkaAdminError(f"{topic} gave nothing for {SILENCE_S:g} s")


def record_at(
    bootstrap: str, properties: Properties | None, topic: str, partition: int, offset: int
) -> Message | None:
    """The committed record at a place; None if it is not kept, or none is there."""
    try:
        for messages in scan(bootstrap, properties, topic, {partition: (offset, offset + 1)}):
            return messages[0] if messages else None
    except KafkaAdminError as error:
        if "cannot be read" not in str(error):
            raise
    return None


def records_at(
    bootstrap: str, properties: Properties | None, topic: str, places: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], Message]:
    """The committed records at some places (partition, offset); those that are not kept are left out.

    Places that are near each other are read in one go, with what lies between.
    """
    wanted = set(places)
    if not wanted:
        return {}
    starts, ends = topic_starts(bootstrap, topic, properties), topic_ends(bootstrap, topic, properties)
    found: dict[tuple[int, int], Message] = {}
    consumer = span_consumer(bootstrap, properties)
    try:
        for partition, (begin, end) in _stretches(wanted, starts, ends):
            consumer.assign([TopicPartition(topic, partition, begin)])
            for messages in _span(consumer, topic, begin, end):
                for message in messages:
                    place = partition, int(message.offset() or 0)
                    if place in wanted:
                        found[place] = message
    finally:
        consumer.close()
    return found


def record_ends(bootstrap: str, properties: Properties | None, topic: str) -> dict[int, int]:
    """Offset after the last committed record of each partition.

    Not the partition's end where a transaction wrote last: its marker has an offset, but no consumer ever gets there.
    """
    starts = topic_starts(bootstrap, topic, properties)
    ends = topic_ends(bootstrap, topic, properties, isolation="read_committed")
    found = {partition: starts.get(partition, 0) for partition in ends}
    consumer = span_consumer(bootstrap, properties)
    try:
        for partition, end in ends.items():
            step, begin = 1, end
            while begin > starts.get(partition, 0) and found[partition] == starts.get(partition, 0):
                begin, step = max(starts.get(partition, 0), end - step), 8 * step
                consumer.assign([TopicPartition(topic, partition, begin)])
                for messages in _span(consumer, topic, begin, end):
                    found[partition] = int(messages[-1].offset() or 0) + 1 if messages else found[partition]
    finally:
        consumer.close()
    return found


def _stretches(
    places: Iterable[tuple[int, int]], starts: Mapping[int, int], ends: Mapping[int, int]
) -> Iterator[tuple[int, Span]]:
    """Partitions and spans that cover the places that are kept."""
    partition, begin, end = -1, 0, 0
    for at, offset in sorted(places):
        if not starts.get(at, 0) <= offset < ends.get(at, 0):
            continue
        if at != partition or offset > end + GAP_OFFSETS:
            if end > begin:
                yield partition, (begin, end)
            partition, begin = at, offset
        end = offset + 1
    if end > begin:
        yield partition, (begin, end)


def scan_outwards(
    bootstrap: str,
    properties: Properties | None,
    topic: str,
    spans: Mapping[int, Span],
    *,
    step: int,
    newest_first: bool,
    looked: Callable[[int], None] = lambda _: None,
) -> Iterator[list[Message]]:
    """Some records of every partition, then some more of every partition, in steps that double.

    Args:
        bootstrap: Where the brokers are.
        properties: Client properties.
        topic: An existing topic.
        spans: By partition.
        step: Offsets of each partition in the first step.
        newest_first: Begin at the ends; otherwise at the beginnings.
        looked: Told how many offsets of all partitions are done.
    """
    left, done = dict(spans), 0
    while any(begin < end for begin, end in left.values()):
        steps = {}
        for partition, (begin, end) in left.items():
            cut = max(begin, end - step) if newest_first else min(end, begin + step)
            steps[partition] = (cut, end) if newest_first else (begin, cut)
            left[partition] = (begin, cut) if newest_first else (cut, end)
        yield from scan(bootstrap, properties, topic, steps)
        done += sum(end - begin for begin, end in steps.values())
        looked(done)
        step *= 2
