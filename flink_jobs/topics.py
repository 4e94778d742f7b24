"""The Kafka tables of a job: its source, its sink, and their options."""

from collections.abc import Mapping

from flink_jobs.kafka_admin import TopicSpec
from flink_jobs.settings import Settings
from udfs.pipeline import Pipeline

EARLIEST, COMMITTED, LATEST = "earliest", "committed", "latest"


def group_id(pipeline: Pipeline) -> str:
    """The consumer group whose committed offsets show how far the pipeline's checkpoints have come."""
    return f"millrace-{pipeline.name}"


def topic_specs(pipeline: Pipeline, retention_ms: int | None = None) -> list[TopicSpec]:
    """The pipeline's topics; the outputs have as many partitions as the events."""
    names = (pipeline.events.topic, pipeline.predictions, str(pipeline.dead_letters))
    return [TopicSpec(name, pipeline.events.partitions, retention_ms) for name in names]


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _with(options: Mapping[str, str]) -> str:
    return ",\n    ".join(f"{_quote(name)} = {_quote(value)}" for name, value in options.items())


def _client_options(settings: Settings) -> dict[str, str]:
    properties = {"bootstrap.servers": settings.bootstrap, **settings.kafka_properties}
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


def source_ddl(table: str, pipeline: Pipeline, settings: Settings, start_from: str) -> str:
    """The table of raw event records.

    Args:
        table: Name of the table.
        pipeline: Says the topic.
        settings: Says the broker.
        start_from: earliest, committed, latest, a time in ms since 1970, or offsets like 0:1200,1:900.
    """
    options = {
        "connector": "kafka",
        "topic": pipeline.events.topic,
        **_client_options(settings),
        "properties.group.id": group_id(pipeline),
        # a Java consumer reads uncommitted records unless told otherwise
        "properties.isolation.level": "read_committed",
        "scan.topic-partition-discovery.interval": "30 s",
        **_startup_options(start_from),
        "key.format": "raw",
        "key.fields": "key",
        "value.format": "raw",
        "value.fields-include": "EXCEPT_KEY",
    }
    return f"""CREATE TABLE {table} (
    `key` BYTES,
    `value` BYTES,
    `partition` INT METADATA VIRTUAL,
    `offset` BIGINT METADATA VIRTUAL,
    `timestamp` TIMESTAMP_LTZ(3) METADATA VIRTUAL,
    `arrival` AS PROCTIME()
) WITH (
    {_with(options)}
)"""


def sink_ddl(table: str, pipeline: Pipeline, settings: Settings) -> str:
    """The one transactional table of all outputs; the topic is a column."""
    options = {
        "connector": "kafka",
        "topic": f"{pipeline.predictions};{pipeline.dead_letters}",
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
        # the event limit, its dead letter's headers, and room for the envelope
        "properties.max.request.size": str(pipeline.max_record_bytes + 65_536),
    }
    if settings.guarantee == "exactly-once":
        # stable over restarts, so that what a killed run left open is aborted by the next
        options["sink.transactional-id-prefix"] = group_id(pipeline)
        options["properties.transaction.timeout.ms"] = str(settings.transaction_timeout_ms)
    return f"""CREATE TABLE {table} (
    `topic` STRING NOT NULL METADATA,
    `key` BYTES,
    `value` BYTES,
    `headers` MAP<STRING, BYTES> METADATA
) WITH (
    {_with(options)}
)"""
