"""The records a pipeline is tuned with: of a file, of its topic, or simulated; again and again with later times.

Nothing is written where they come from, and no consumer group is joined.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import msgspec

from flink_jobs.committed_reader import CommittedReader
from flink_jobs.console import CommandError
from flink_jobs.event_files import file_events
from flink_jobs.kafka_admin import KafkaAdminError, topic_ends, topic_starts
from flink_jobs.local.live_shop import can_generate
from flink_jobs.local.shoppers import as_records, shopper_events
from flink_jobs.settings import Settings
from udfs.pipeline import Pipeline

Record = tuple[bytes | None, bytes | None]

MOST_RECORDS = 200_000
FEWEST_RECORDS = 1_000
SHOPPERS, SEED, START_MS = 10_000, 1, 1_760_000_000_000
SILENCE_READS = 50  # of 0.2 s


@dataclass(frozen=True)
class Sample:
    """Records in order, and where they come from, for people."""

    records: Sequence[Record]
    origin: str


def load_sample(pipeline: Pipeline, settings: Settings, file: Path | None) -> Sample:
    """At most `MOST_RECORDS`: of the file, else of the topic if it has enough, else of the simulated shoppers.

    Raises:
        CommandError: There are none, or too few.
    """
    if file is not None:
        records = list(islice(file_events(file, pipeline), MOST_RECORDS))
        if not records:
            raise CommandError(f"{file} has no events")
        return Sample(records, f"{len(records):,} events of {file}")
    topic = pipeline.events.topic
    records = _newest_of_topic(topic, settings)
    if len(records) >= FEWEST_RECORDS:
        return Sample(records, f"the newest {len(records):,} events of topic {topic}")
    if can_generate(pipeline):
        events = islice(shopper_events(SHOPPERS, SEED, START_MS), MOST_RECORDS)
        return Sample(list(as_records(events)), f"{MOST_RECORDS:,} events of {SHOPPERS:,} simulated shoppers")
    raise CommandError(
        f"topic {topic} at {settings.bootstrap} has {len(records)} events, tuning takes at least {FEWEST_RECORDS:,}: "
        "give a file with --events FILE"
    )


def _newest_of_topic(topic: str, settings: Settings) -> list[Record]:
    """The last records of a topic that is there, each partition's own in order; [] if there is none."""
    place = (settings.bootstrap, topic, settings.kafka_properties)
    try:
        starts, ends = topic_starts(*place, timeout_s=5.0), topic_ends(*place, isolation="read_committed")
    except KafkaAdminError:
        return []
    if not sum(ends.values()) - sum(starts.values()):
        return []
    each = max(1, MOST_RECORDS // len(ends))
    begin = {partition: max(starts[partition], end - each) for partition, end in ends.items()}
    reader = CommittedReader(settings.bootstrap, [topic], settings.kafka_properties, begin=begin)
    found: list[tuple[int, Record]] = []
    silent = 0
    try:
        while not reader.at_end and silent < SILENCE_READS and len(found) < MOST_RECORDS:
            messages = reader.read(0.2)
            silent = 0 if messages else silent + 1
            found += [(message.timestamp()[1], (message.key(), message.value())) for message in messages]
    finally:
        reader.close()
    # partitions come one after the other, a thousand records each: in the order of their arrival again
    found.sort(key=lambda pair: pair[0])
    return [record for _, record in found]


def repeated(pipeline: Pipeline, records: Sequence[Record]) -> Iterator[Record]:
    """The records without end: each round with event times moved on by the time the sample spans, entities as they are.

    Told again with the same times, every event would be a late one. What is no JSON object with a time stays as it is.
    """
    time_field = pipeline.events.time
    encode = msgspec.json.Encoder().encode
    yield from records
    events = (_event(value, time_field) for _, value in records)
    times = [event[time_field] for event in events if event is not None]
    span = max(times) - min(times) + 1 if times else 0
    for number in count(1):
        for key, value in records:
            event = _event(value, time_field)
            yield key, value if event is None else encode({**event, time_field: event[time_field] + number * span})


def _event(value: bytes | None, time_field: str) -> dict[str, Any] | None:
    """The record's JSON object if it has a number as its time."""
    try:
        event = msgspec.json.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get(time_field), int | float):
        return None
    return None if isinstance(event[time_field], bool) else event
