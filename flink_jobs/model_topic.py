"""The control topic of a pipeline's models: read when a job is planned, and by the running job from there on.

Each record is told to every shard of the scoring, which has a schedule of its own, checkpointed with its state.
"""

from typing import Any

from flink_jobs.environment import in_one_subtask
from flink_jobs.jvm_operators import add_operator, int_array
from flink_jobs.kafka_admin import topic_ends, topic_starts
from flink_jobs.kafka_security import SHADED, java_properties
from flink_jobs.settings import Settings
from flink_jobs.topic_scan import scan
from udfs.pipeline import Pipeline

MODELS_UID = "models-v1"


def read_changes(pipeline: Pipeline, settings: Settings) -> tuple[list[bytes | None], int]:
    """What the control topic says so far, and the offset after it.

    Raises:
        KafkaAdminError: Kafka does not answer.
    """
    topic = str(pipeline.models_topic)
    kafka = settings.bootstrap, settings.kafka_properties
    end = topic_ends(kafka[0], topic, kafka[1], isolation="read_committed").get(0, 0)
    start = topic_starts(kafka[0], topic, kafka[1]).get(0, 0)
    return [each.value() for batch in scan(*kafka, topic, {0: (start, end)}) for each in batch], end


def model_commands(
    environment: Any, pipeline: Pipeline, settings: Settings, shard_keys: list[int], begin: int, command_type: Any
) -> Any:
    """The control topic's records as commands for every shard.

    A source of its own and none of SQL's, whose operators are numbered: one more would rename those behind it.

    Args:
        environment: Java `StreamExecutionEnvironment`.
        pipeline: Has a `models_topic`.
        settings: Where Kafka is.
        shard_keys: Of the scoring.
        begin: Where to begin without a checkpoint.
        command_type: Java `TypeInformation` of commands.

    Returns:
        Java `DataStream` of (shard key, bytes).
    """
    from pyflink.datastream.connectors.kafka import KafkaOffsetsInitializer, KafkaTopicPartition
    from pyflink.java_gateway import get_gateway

    jvm: Any = get_gateway().jvm
    kafka = jvm.org.apache.flink.connector.kafka.source
    topics = jvm.java.util.ArrayList()
    topics.add(str(pipeline.models_topic))
    offsets = KafkaOffsetsInitializer.offsets({KafkaTopicPartition(str(pipeline.models_topic), 0): begin})
    # unlike Flink's own it takes a record without a value, which anybody may write
    texts = jvm.Thread.currentThread().getContextClassLoader().loadClass(
        f"{SHADED}.common.serialization.StringDeserializer"
    )
    properties = jvm.java.util.Properties()
    for name, text in java_properties(settings.kafka_properties).items():
        properties.setProperty(name, text)
    properties.setProperty("isolation.level", "read_committed")
    # where it has come to is in the checkpoints; no group, no permission for one
    properties.setProperty("commit.offsets.on.checkpoint", "false")
    source = (
        kafka.KafkaSource.builder()
        .setBootstrapServers(settings.bootstrap)
        .setTopics(topics)
        .setStartingOffsets(offsets._j_initializer)
        .setProperties(properties)
        .setDeserializer(kafka.reader.deserializer.KafkaRecordDeserializationSchema.valueOnly(texts))
        .build()
    )
    watermarks = jvm.org.apache.flink.api.common.eventtime.WatermarkStrategy.noWatermarks()
    # by more than one, changes would overtake each other, and subtasks might come to them in different orders
    with in_one_subtask(environment):
        records = environment.fromSource(source, watermarks, "models").uid(MODELS_UID)
        return add_operator(records, "model-commands", "ModelCommands", command_type, int_array(shard_keys))
