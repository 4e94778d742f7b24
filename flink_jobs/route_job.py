"""The hop before the scoring of a pipeline with sources, in the same job.

    Kafka source  -> gather (JVM) -> route (Python)    -> the job's Kafka sink
    all sources      in order of     decode, pick the     the events' topic, keyed by the entity;
                     arrival         fields, encode       dead letters

What it writes is seen, by the scoring too, with the next checkpoint. It has no state but its positions.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flink_jobs.jvm_operators import AS_TEXT, gathered_batches
from flink_jobs.kafka_admin import committed_offsets, reset_committed_offsets, topic_ends, topic_starts
from flink_jobs.settings import Settings
from flink_jobs.topic_scan import scan
from flink_jobs.topics import (
    COMMITTED,
    EARLIEST,
    LATEST,
    is_offsets,
    offsets_text,
    route_id,
    routed_sources_ddl,
)
from udfs.pipeline import Pipeline
from udfs.routing import ORIGIN, SOURCE_STEP, STAGE
from udfs.wire_formats import HEADER

if TYPE_CHECKING:
    from confluent_kafka import Message
    from pyflink.datastream import DataStream
    from pyflink.table import StreamTableEnvironment

ROUTE_UID = "route-v1"
_SOURCES = "millrace_sources"
STEP_OFFSETS = 1_000
Place = tuple[str, int]
"""Topic and partition."""


def routed_batches(
    tables: "StreamTableEnvironment", pipeline: Pipeline, settings: Settings, start_from: str
) -> "DataStream":
    """The records of a pipeline's sources as batches of output records: events and dead letters.

    They leave by the sink of the predictions. So the hop and the scoring fail and start again together, as they must:
    PyFlink gives the subtasks in a slot one Python process, which a restart of some of them does not replace.

    Args:
        tables: Of the job.
        pipeline: Its events have sources.
        settings: How to run it.
        start_from: Where the job begins without a checkpoint.
    """
    from pyflink.common import Types
    from pyflink.datastream import DataStream

    from flink_jobs.operators import RouteRecords

    begin = route_start(pipeline, settings, start_from)
    tables.execute_sql(routed_sources_ddl(_SOURCES, pipeline, settings, begin))
    numbers = " ".join(
        f"WHEN '{topic}' THEN {number * SOURCE_STEP}" for number, topic in enumerate(pipeline.events.source_topics)
    )
    columns = f"`key`, `value`, CASE `topic` {numbers} END + `partition`, `offset`, `timestamp`"
    headers = pipeline.events.source_headers
    if headers:
        columns += ", `headers`"
    query = f"SELECT {columns} FROM {_SOURCES}"  # noqa: S608  # names of our own, and of topics
    # one shard: records of all sources stay in the order in which they came
    most = pipeline.max_record_bytes
    batches = gathered_batches(tables, query, "gather-sources", [0], settings.batch_ms, 1, AS_TEXT, headers, most)
    routed = DataStream(batches).process(RouteRecords(pipeline, settings), Types.PRIMITIVE_ARRAY(Types.BYTE()))
    return routed.uid(ROUTE_UID).name("route")


def events_start(pipeline: Pipeline, settings: Settings, start_from: str) -> str:
    """Where the scoring begins without a checkpoint: `latest` as offsets, for the hop may write before it looks."""
    if start_from != LATEST or not pipeline.events.sources:
        return start_from
    return offsets_text(topic_ends(settings.bootstrap, pipeline.events.topic, settings.kafka_properties))


def route_start(pipeline: Pipeline, settings: Settings, start_from: str) -> str:
    """Where the hop begins without a checkpoint: behind what was ever routed, for nothing may be twice in the topic.

    The offsets it committed lag behind what it wrote, by at most what a job that was killed wrote last. That is read
    back from the topic's end, and the commits are mended.

    Args:
        pipeline: Its events have sources.
        settings: Where Kafka is.
        start_from: Where to begin in sources of which nothing was routed yet.

    Raises:
        KafkaAdminError: Kafka does not answer.
    """
    group, properties = route_id(pipeline), settings.kafka_properties
    done: dict[Place, int] = {}
    for topic in pipeline.events.source_topics:
        committed = committed_offsets(settings.bootstrap, group, topic, properties)
        done.update({(topic, partition): offset for partition, offset in committed.items()})
    routed = _routed_after(pipeline, settings, done)
    if not done and not routed:
        return EARLIEST if is_offsets(start_from) else start_from
    behind = {place: offset for place, offset in routed.items() if offset > done.get(place, 0)}
    for topic in {topic for topic, _ in behind}:
        ends = {partition: offset for (name, partition), offset in {**done, **behind}.items() if name == topic}
        reset_committed_offsets(settings.bootstrap, group, topic, properties, to=ends)
    return COMMITTED


def _routed_after(pipeline: Pipeline, settings: Settings, done: Mapping[Place, int]) -> dict[Place, int]:
    """The offset behind the last record of each partition of a source that became an event or a dead letter.

    As far back as `done` does not reach: a transaction's records stand together at the end, so where none of a whole
    step is new, none before is. Dead letters of other stages say nothing about that.
    """
    found: dict[Place, int] = {}
    for topic, origin in ((pipeline.events.topic, _origin), (str(pipeline.dead_letters), _refused_origin)):
        kafka = settings.bootstrap, settings.kafka_properties
        starts = topic_starts(kafka[0], topic, kafka[1])
        for partition, end in topic_ends(kafka[0], topic, kafka[1], isolation="read_committed").items():
            goes_on = True
            while goes_on and end > starts[partition]:
                begin = max(starts[partition], end - STEP_OFFSETS)
                batches = scan(*kafka, topic, {partition: (begin, end)})
                places = [place for messages in batches for place in map(origin, messages) if place is not None]
                for source, offset in places:
                    found[source] = max(found.get(source, 0), offset + 1)
                goes_on = not places or any(offset >= done.get(source, 0) for source, offset in places)
                end = begin
    return found


def _origin(message: "Message") -> tuple[Place, int] | None:
    """Which record of a source an event was."""
    return _place(message, ORIGIN)


def _refused_origin(message: "Message") -> tuple[Place, int] | None:
    """Which record of a source a dead letter is; None of one that is an event's."""
    told: dict[str, Any] = dict(message.headers() or ())
    is_routes = told.get(f"{HEADER}stage") == STAGE.encode()
    return _place(message, ("topic", "partition", "offset")) if is_routes else None


def _place(message: "Message", names: Sequence[str]) -> tuple[Place, int] | None:
    told: dict[str, Any] = dict(message.headers() or ())
    try:
        topic, partition, offset = (told[f"{HEADER}{name}"].decode() for name in names)
        return (topic, int(partition)), int(offset)
    except (KeyError, ValueError, AttributeError):  # somebody else's
        return None
