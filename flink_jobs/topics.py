"""The Kafka tables of a job: its source, its sink, and their options."""

import hashlib
from collections.abc import Mapping
from typing import Literal

from flink_jobs.console import CommandError
from flink_jobs.kafka_admin import TopicSpec
from flink_jobs.kafka_security import java_properties
from flink_jobs.settings import Settings
from udfs.lookups import table_topics
from udfs.pipeline import Pipeline
from udfs.wire_formats import ENVELOPE_BYTES

EARLIEST, COMMITTED, LATEST = "earliest", "committed", "latest"
SOURCES_DRIFT_MS = 1_000
"""How far one partition of a pipeline's sources is read ahead of the others, by the timestamps of records; by that, or
by what is read until Flink looks again (`pipeline.auto-watermark-interval`, 200 ms): a backlog of few records is read
at full speed, but hardly in step."""
_RAW_RECORD = """`key` BYTES,
    `value` BYTES,
    `partition` INT METADATA VIRTUAL,
    `offset` BIGINT METADATA VIRTUAL,
    `timestamp` TIMESTAMP_LTZ(3) METADATA VIRTUAL"""
_HEADERS = ",\n    `headers` MAP<STRING, BYTES> METADATA VIRTUAL"
Engine = Literal["stream", "sql"]
"""What runs a pipeline: the DataStream job or the Table job."""
STREAM: Engine = "stream"
SQL: Engine = "sql"


def parse_engine(text: str) -> Engine:
    """`--engine` as an engine.

    Raises:
        CommandError: It is none.
    """
    if text not in (STREAM, SQL):
        raise CommandError(f"--engine is {text!r}: write stream or sql")
    return SQL if text == SQL else STREAM


JOBS = "millrace-"
"""What names of jobs, consumer groups and transactional ids begin with; the run's name follows."""
REPLAY_ID = "-replay"
"""What the transactional id of a replay ends with; those of a job's sink end in numbers."""


def run_name(pipeline: Pipeline, engine: Engine = STREAM) -> str:
    """What tells a pipeline's runs by one engine from those by the other; no pipeline's name has a dot."""
    return pipeline.name if engine == STREAM else f"{pipeline.name}.{engine}"


def job_name(pipeline: Pipeline, engine: Engine = STREAM) -> str:
    """Flink's name of a pipeline's job."""
    return f"{JOBS}{run_name(pipeline, engine)}"


def group_id(pipeline: Pipeline, engine: Engine = STREAM) -> str:
    """The consumer group whose committed offsets show how far the pipeline's checkpoints have come."""
    return f"{JOBS}{run_name(pipeline, engine)}"


def route_id(pipeline: Pipeline) -> str:
    """The consumer group of the hop that takes sources to the events' topic."""
    return f"{group_id(pipeline)}.route"  # no pipeline's name has a dot


def store_group_id(pipeline: Pipeline, url: str) -> str:
    """The consumer group that takes features to a store: one a store, for each must have all of them."""
    return f"{group_id(pipeline)}.store-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def requests_id(pipeline: Pipeline) -> str:
    """The consumer group of the job for the topic of requests."""
    return f"{group_id(pipeline)}.requests"


def routed_topics(pipeline: Pipeline, engine: Engine = STREAM) -> list[str]:
    """The sources whose records a job takes to the events' topic: one job of a pipeline does, that of DataStream."""
    return pipeline.events.source_topics if engine == STREAM else []


def topic_specs(pipeline: Pipeline, retention_ms: int | None = None) -> list[TopicSpec]:
    """The pipeline's topics: sources, events, predictions, dead letters, sessions, alike; features; about models.

    That of the features is a table: the latest vector of an entity stays, unless a retention is asked for. So are those
    of lookups, always; a retention is how long older versions of their rows stay.
    """
    names = (
        *pipeline.events.source_topics,
        pipeline.events.topic,
        pipeline.predictions,
        str(pipeline.dead_letters),
        *([pipeline.sessions_topic] if pipeline.sessions_topic else []),
    )
    specs = [TopicSpec(name, pipeline.events.partitions, retention_ms) for name in names]
    if pipeline.features_topic is not None:
        policy = "compact" if retention_ms is None else "compact,delete"
        settings = {"cleanup.policy": policy}
        specs.append(TopicSpec(pipeline.features_topic, pipeline.events.partitions, retention_ms, settings))
    if pipeline.models_topic is not None:
        # what was ever said in it tells a job that begins anew which model is valid when; one partition has one order
        specs.append(TopicSpec(pipeline.models_topic, 1, -1))
        specs.append(TopicSpec(str(pipeline.models_status_topic), 1, retention_ms))
        specs.append(TopicSpec(str(pipeline.shadow_topic), pipeline.events.partitions, retention_ms))
    # of a key that is written often, versions that a backfill needs must not be gone before it
    lag = {} if retention_ms is None else {"min.compaction.lag.ms": str(retention_ms)}
    settings = {"cleanup.policy": "compact", **lag}
    specs += [TopicSpec(name, pipeline.events.partitions, None, settings) for name in table_topics(pipeline.lookups)]
    about_requests = [each for each in (pipeline.requests_topic, *pipeline.reply_topics) if each]
    specs += [TopicSpec(name, pipeline.events.partitions, retention_ms) for name in about_requests]
    return specs


def topics_of(pipeline: Pipeline) -> list[str]:
    """The names of a pipeline's topics, as of `topic_specs`."""
    return [spec.name for spec in topic_specs(pipeline)]


def quote_text(text: str) -> str:
    """A text as a constant of SQL."""
    return "'" + text.replace("'", "''") + "'"


def with_options(options: Mapping[str, str]) -> str:
    """The lines of a table's WITH clause."""
    return ",\n    ".join(f"{quote_text(name)} = {quote_text(value)}" for name, value in options.items())


def _client_options(settings: Settings) -> dict[str, str]:
    properties = {"bootstrap.servers": settings.bootstrap, **java_properties(settings.kafka_properties)}
    return {f"properties.{name}": value for name, value in properties.items()}


def _startup_options(start_from: str) -> dict[str, str]:
    if start_from == EARLIEST:
        return {"scan.startup.mode": "earliest-offset"}
    if start_from == LATEST:
        return {"scan.startup.mode": "latest-offset"}
    if start_from == COMMITTED:
        return {"scan.startup.mode": "group-offsets", "properties.auto.offset.reset": "earliest"}
    if is_offsets(start_from):
        # partitions that are not named are newer than the offsets, and begin at their first record
        places = parse_offsets(start_from).items()
        named = ";".join(f"partition:{partition},offset:{offset}" for partition, offset in places)
        return {"scan.startup.mode": "specific-offsets", "scan.startup.specific-offsets": named}
    return {"scan.startup.mode": "timestamp", "scan.startup.timestamp-millis": start_from}


def is_offsets(start_from: str) -> bool:
    """Whether a start is written as offsets, like 0:1200,1:900."""
    return ":" in start_from


def parse_offsets(text: str) -> dict[int, int]:
    """Offsets by partition."""
    pairs = [part.split(":") for part in text.split(",")]
    return {int(partition): int(offset) for partition, offset in pairs}


def offsets_text(offsets: Mapping[int, int]) -> str:
    """What `parse_offsets` reads."""
    return ",".join(f"{partition}:{offset}" for partition, offset in sorted(offsets.items()))


def source_options(
    pipeline: Pipeline, settings: Settings, start_from: str, engine: Engine = STREAM, key: str = "key"
) -> dict[str, str]:
    """Options of a table of raw event records.

    Args:
        pipeline: Says the topic.
        settings: Says the broker.
        start_from: earliest, committed, latest, a time in ms since 1970, or offsets like 0:1200,1:900.
        engine: Says the consumer group.
        key: Name of the key's column.
    """
    return _source_options([pipeline.events.topic], group_id(pipeline, engine), settings, start_from, key)


def _source_options(topics: list[str], group: str, settings: Settings, start_from: str, key: str) -> dict[str, str]:
    return {
        "connector": "kafka",
        "topic": ";".join(topics),
        **_client_options(settings),
        "properties.group.id": group,
        # a Java consumer reads uncommitted records unless told otherwise
        "properties.isolation.level": "read_committed",
        # what comes one by one is fetched together: it waits for its batch anyway, and each fetch costs the broker, too
        "properties.fetch.min.bytes": "65536",
        "properties.fetch.max.wait.ms": str(max(settings.batch_ms // 2, 1)),
        "scan.topic-partition-discovery.interval": "30 s",
        **_startup_options(start_from),
        "key.format": "raw",
        "key.fields": key,
        "value.format": "raw",
        "value.fields-include": "EXCEPT_KEY",
    }


def source_ddl(table: str, pipeline: Pipeline, settings: Settings, start_from: str) -> str:
    """The table of raw event records, as the DataStream job reads it; see `source_options`."""
    options = source_options(pipeline, settings, start_from)
    headers = _HEADERS if pipeline.events.headers else ""
    return f"""CREATE TABLE {table} (
    {_RAW_RECORD}{headers},
    `arrival` AS PROCTIME()
) WITH (
    {with_options(options)}
)"""


def requests_ddl(table: str, pipeline: Pipeline, settings: Settings) -> str:
    """The table of the raw records of a pipeline's requests, from the first that was never read by a checkpoint."""
    assert pipeline.requests_topic is not None
    options = {
        **_source_options([pipeline.requests_topic], requests_id(pipeline), settings, COMMITTED, "key"),
    }
    return f"""CREATE TABLE {table} (
    {_RAW_RECORD}
) WITH (
    {with_options(options)}
)"""


def rows_ddl(table: str, topic: str, settings: Settings, begins: Mapping[int, int], *, with_headers: bool) -> str:
    """The table of the raw records of a topic of lookups.

    Where it has come to is in the checkpoints: no group, no permission for one.

    Args:
        table: Its name.
        topic: Of the rows.
        settings: Say the broker.
        begins: Offset to begin at in each partition without a checkpoint.
        with_headers: Whether rows are read from headers, too.
    """
    options = _source_options([topic], "", settings, offsets_text(begins), "key")
    del options["properties.group.id"]
    return f"""CREATE TABLE {table} (
    {_RAW_RECORD}{_HEADERS if with_headers else ""}
) WITH (
    {with_options(options)}
)"""


def routed_sources_ddl(table: str, pipeline: Pipeline, settings: Settings, start_from: str) -> str:
    """The table of the raw records of a pipeline's sources.

    Partitions are read in step by their records' timestamps, so that after an outage one topic is not read hours ahead
    of another; a partition without records for some seconds holds up nothing.
    """
    options = {
        **_source_options(pipeline.events.source_topics, route_id(pipeline), settings, start_from, "key"),
        "scan.watermark.alignment.group": "sources",
        "scan.watermark.alignment.max-drift": f"{SOURCES_DRIFT_MS} ms",
        "scan.watermark.alignment.update-interval": "100 ms",
        "scan.watermark.idle-timeout": "2 s",
    }
    headers = _HEADERS if pipeline.events.source_headers else ""
    return f"""CREATE TABLE {table} (
    {_RAW_RECORD}{headers},
    `topic` STRING METADATA VIRTUAL,
    WATERMARK FOR `timestamp` AS `timestamp`
) WITH (
    {with_options(options)}
)"""


def sink_ddl(table: str, pipeline: Pipeline, settings: Settings, engine: Engine = STREAM) -> str:
    """The one transactional table of all outputs; the topic is a column."""
    routed = [pipeline.events.topic] if routed_topics(pipeline, engine) else []
    # its own control topic too: a guard of a model writes a rollback there
    about_models = (pipeline.models_topic, pipeline.models_status_topic, pipeline.shadow_topic)
    others = (pipeline.features_topic, pipeline.sessions_topic, *about_models, *pipeline.reply_topics)
    more = [each for each in others if each and engine == STREAM]
    options = {
        "connector": "kafka",
        "topic": ";".join([pipeline.predictions, str(pipeline.dead_letters), *routed, *more]),
        **_client_options(settings),
        "key.format": "raw",
        "key.fields": "key",
        "value.format": "raw",
        "value.fields-include": "EXCEPT_KEY",
        "sink.delivery-guarantee": settings.guarantee,
        # exactly-once records are seen at the next checkpoint, however long the producer gathers them
        "properties.linger.ms": "20" if settings.guarantee == "exactly-once" else "2",
        "properties.batch.size": "131072",
        "properties.compression.type": "lz4",
        # what is larger is made a dead letter, or cut, before it gets here: the sink would fail on it for ever
        "properties.max.request.size": str(pipeline.max_record_bytes + ENVELOPE_BYTES),
    }
    if settings.guarantee == "exactly-once":
        # stable over restarts, so that what a killed run left open is aborted by the next
        options["sink.transactional-id-prefix"] = group_id(pipeline, engine)
        options["properties.transaction.timeout.ms"] = str(settings.transaction_timeout_ms)
    return f"""CREATE TABLE {table} (
    `topic` STRING NOT NULL METADATA,
    `key` BYTES,
    `value` BYTES,
    `headers` MAP<STRING, BYTES> METADATA
) WITH (
    {with_options(options)}
)"""
