"""Tables of lookups for runs on a broker of our own: hard rows, or copies of what the user's topics have."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flink_jobs.console import CommandError
from flink_jobs.events_producer import RecordSender
from flink_jobs.hard_rows import asked_rows, hard_rows
from flink_jobs.kafka_admin import KafkaAdminError, TopicSpec, create_topics, topic_ends, topic_starts
from flink_jobs.local.home import connected
from flink_jobs.lookup_tables import file_versions
from flink_jobs.settings import Settings
from flink_jobs.topic_scan import Span, scan
from udfs.durations import LONGEST_MS, duration_text
from udfs.formats import Json, Text
from udfs.lookups import Lookup, table_topics
from udfs.pipeline import Pipeline

MOST_LIKELY = 2_000
_ALL = 2**31
_KEPT = {
    "retention.ms": "-1", "message.timestamp.before.max.ms": str(2**63 - 1),
    "message.timestamp.after.max.ms": str(2**63 - 1),
}  # fmt: skip
"""Of a topic whose records have any timestamp: of event times, in the past and in the future."""


def put_hard_tables(
    pipeline: Pipeline, bootstrap: str, events: Iterable[tuple[bytes | None, bytes | None]], seed: int
) -> Pipeline:
    """Make tables for events.

    Args:
        pipeline: Tables from files stay as they are.
        bootstrap: A broker of our own.
        events: Key and value of events that will look rows up, or the first of them; in JSON.
        seed: Where chance comes from.

    Returns:
        The pipeline with the tables that were made.
    """
    if not table_topics(pipeline.lookups):
        return pipeline
    asked = asked_rows(pipeline, events, seed)
    lookups = list[Lookup]()
    for number, lookup in enumerate(pipeline.lookups):
        if lookup.topic is None:
            lookups.append(lookup)
            continue
        own = dataclasses.replace(
            _remembering(lookup), topic=_own_topic(pipeline, number), format=Json(), key_format=Text(), fields={}
        )
        with _Filled(bootstrap, str(own.topic), pipeline.events.partitions) as filled:
            for row in hard_rows(pipeline, lookup, asked[lookup.name], seed):
                filled.send(row.key, row.value, (), row.time_ms)
        lookups.append(own)
    return dataclasses.replace(pipeline, lookups=lookups)


def copy_tables(
    pipeline: Pipeline,
    settings: Settings,
    bootstrap: str,
    should_stop: Callable[[], None] = lambda: None,
    *,
    remember_all: bool = True,
) -> Pipeline:
    """Copy the topics of tables, record by record, as they are now.

    Args:
        pipeline: Tables from files stay as they are.
        settings: Say where the topics are.
        bootstrap: A broker of our own.
        should_stop: Called often; raises to end.
        remember_all: Whether a job is to forget no version; otherwise it does as the pipeline says.

    Returns:
        The pipeline with the copies.

    Raises:
        CommandError: A topic cannot be read.
    """
    names = dict[str | None, str]()
    for number, (topic, spans) in enumerate(table_spans(pipeline, settings).items()):
        names[topic] = _own_topic(pipeline, number)
        try:
            with _Filled(bootstrap, names[topic], len(spans)) as filled:
                for messages in scan(settings.bootstrap, settings.kafka_properties, topic, spans):
                    should_stop()
                    for message in messages:
                        filled.copy(message)
        except KafkaAdminError as error:
            raise _unreadable(topic, error) from error
    lookups = list[Lookup]()
    for each in pipeline.lookups:
        own = each if each.topic is None else dataclasses.replace(each, topic=names[each.topic])
        lookups.append(_remembering(own) if remember_all else own)
    return dataclasses.replace(pipeline, lookups=lookups)


def table_spans(pipeline: Pipeline, settings: Settings) -> dict[str, dict[int, Span]]:
    """What the topics of tables have now: of each partition the first offset and the end; raises as `copy_tables`."""
    place, found = (settings.bootstrap, settings.kafka_properties), dict[str, dict[int, Span]]()
    for topic in table_topics(pipeline.lookups):
        try:
            if not found:
                connected(settings)
            starts = topic_starts(place[0], topic, place[1])
            ends = topic_ends(place[0], topic, place[1], isolation="read_committed")
        except KafkaAdminError as error:
            raise _unreadable(topic, error) from error
        found[topic] = {partition: (starts.get(partition, 0), end) for partition, end in sorted(ends.items())}
    return found


def file_keys(pipeline: Pipeline) -> dict[str, list[Any]]:
    """By field of the event, the first keys of tables from files.

    Raises:
        EventFileError: A file is no table.
    """
    found = dict[str, list[Any]]()
    for lookup in pipeline.lookups:
        if lookup.file is not None:
            keys = {getattr(each.row, lookup.key): None for each in file_versions(lookup, Path(lookup.file))}
            found.setdefault(lookup.event_field, []).extend(list(keys)[:MOST_LIKELY])
    return found


def _own_topic(pipeline: Pipeline, number: int) -> str:
    return f"{pipeline.name}-own-rows-{number}"


def _remembering(lookup: Lookup) -> Lookup:
    """The lookup, of which a job forgets nothing.

    The definition knows all versions. A job forgets what is older than `history`, more than `most_versions`, and rows
    beyond `most_rows`, and then differs from it as documented; ten years is the longest history.
    """
    return dataclasses.replace(lookup, history=duration_text(LONGEST_MS), most_versions=_ALL, most_rows=_ALL)


def _unreadable(topic: str, error: KafkaAdminError) -> CommandError:
    return CommandError(f"the rows of lookups are copied from their topics, here {topic}: {error}")


class _Filled:
    """A new topic and its only producer; at the end all is in it."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        create_topics(bootstrap, [TopicSpec(topic, partitions, settings=_KEPT)])
        self._sender = RecordSender(bootstrap, topic, None)
        self.send = self._sender.send

    def __enter__(self) -> "_Filled":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._sender.flush()

    def copy(self, message: Any) -> None:
        """A record as it is, in its partition."""
        _, time_ms = message.timestamp()
        headers = message.headers() or ()
        self.send(message.key(), message.value(), headers, max(time_ms, 0), message.partition())
