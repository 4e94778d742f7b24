"""The job's two operators that run in the JVM: gather records into batches, and take batches of outputs apart.

They are Java source beside this file, handed to Flink the way its SQL planner hands over the code that it generates:
as text, which the task compiles when it starts. So there is no jar of ours to build, to ship or to keep in step.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flink_jobs.environment import MAX_PARALLELISM
from flink_jobs.settings import Settings
from udfs.pipeline import Pipeline
from udfs.record_batch import RECORDS

if TYPE_CHECKING:
    from pyflink.datastream import DataStream
    from pyflink.table import StreamTableEnvironment

AS_TEXT = (0, 0)
"""The form of keys that are the entity and nothing else; of others see `udfs.event_keys.key_form`."""
JVM_SOURCES = Path(__file__).resolve().parent / "jvm"


def gathered_batches(
    tables: "StreamTableEnvironment",
    query: str,
    name: str,
    shard_keys: list[int],
    batch_ms: int,
    parallelism: int,
    key_form: tuple[int, int],
    headers: Sequence[str],
    max_record_bytes: int,
    command: int = RECORDS,
    tick_ms: int = 0,
) -> Any:
    """Raw records -> batches for the subtasks of the next operator.

    Args:
        tables: Have the records' table.
        query: Gives key, value, partition, offset and timestamp, and the headers if some are wanted.
        name: The operator's.
        shard_keys: Of the next operator.
        batch_ms: How long records wait for others.
        parallelism: Of the next operator.
        key_form: How keys are read, from `udfs.event_keys.key_form`.
        headers: Names of those that go with the records.
        max_record_bytes: Of a larger value only the beginning goes on, and its size.
        command: What is to be done with them: RECORDS, REQUESTS, or LOOKUPS with the topic's number, which go to all.
        tick_ms: How often the next operator is told that time goes on; 0 is never.

    Returns:
        Java `DataStream` of (shard key, bytes).
    """
    from pyflink.common import Types
    from pyflink.java_gateway import get_gateway

    jvm: Any = get_gateway().jvm
    records = tables.sql_query(query)
    row_type = records._j_table.getResolvedSchema().toPhysicalRowDataType()
    internal = jvm.org.apache.flink.table.types.utils.DataTypeUtils.toInternalDataType(row_type)
    raw = tables._j_tenv.toDataStream(records._j_table, internal)
    keyed_batch = Types.ROW([Types.INT(), Types.PRIMITIVE_ARRAY(Types.BYTE())])
    references = int_array(shard_keys), batch_ms, MAX_PARALLELISM, parallelism, *key_form, object_array(*headers)
    kind = keyed_batch.get_java_type_info()
    return add_operator(raw, name, "SubtaskBatches", kind, *references, max_record_bytes, command, tick_ms)


def dead_letter_limit(pipeline: Pipeline, settings: Settings) -> tuple[str, int, int, str, str, str]:
    """What ends a job: the topic of dead letters, how many records are looked at, and most dead letters among them.

    Then come the topics of features, of requests and of closed sessions, or nothing: a vector is written beside an
    answer, and what comes of requests is no event's; only answers to events count.
    """
    last = settings.dead_letter_limit_records
    most = int(settings.dead_letter_limit_share * last)
    others = pipeline.features_topic, pipeline.requests_topic, pipeline.sessions_topic
    features, requests, sessions = (each or "" for each in others)
    return str(pipeline.dead_letters), last, most, features, requests, sessions


def output_rows(
    tables: "StreamTableEnvironment",
    outputs: "DataStream",
    name: str,
    sink: str,
    view: str,
    limit: tuple[str, int, int, str, str, str],
) -> None:
    """Batches of output records -> rows for a sink, as a view.

    Args:
        tables: Have the sink's table.
        outputs: As `udfs.output_batch` packs them.
        name: The operator's.
        sink: The table.
        view: Its name.
        limit: From `dead_letter_limit`.
    """
    from pyflink.java_gateway import get_gateway

    row_type = tables.from_path(sink)._j_table.getResolvedSchema().toSinkRowDataType()
    jvm: Any = get_gateway().jvm
    internal = jvm.org.apache.flink.table.runtime.typeutils.InternalTypeInfo.of(row_type.getLogicalType())
    records = add_operator(outputs._j_data_stream, name, "OutputRecords", internal, *limit)
    tables._j_tenv.createTemporaryView(view, records)


def add_operator(stream: Any, name: str, class_name: str, output_type: Any, *references: Any) -> Any:
    """Add the operator of `jvm/<class_name>.java` behind a stream.

    Args:
        stream: Java `DataStream`.
        name: The operator's name, and with its version its uid.
        class_name: Of an operator whose constructor takes what `CodeGenOperatorFactory` hands over.
        output_type: Java `TypeInformation` of what it gives.
        references: Java objects, or what py4j makes into them: the first argument of that constructor.

    Returns:
        The Java `DataStream` behind it.
    """
    from pyflink.java_gateway import get_gateway

    jvm: Any = get_gateway().jvm
    environment, objects = stream.getExecutionEnvironment(), object_array(*references)
    source = (JVM_SOURCES / f"{class_name}.java").read_text("utf-8")
    runtime, streaming = jvm.org.apache.flink.table.runtime, jvm.org.apache.flink.streaming.api
    generated = runtime.generated.GeneratedOperator(
        class_name, source, objects, jvm.org.apache.flink.configuration.Configuration()
    )
    added = streaming.transformations.OneInputTransformation(
        stream.getTransformation(),
        name,
        runtime.operators.CodeGenOperatorFactory(generated),
        output_type,
        environment.getParallelism(),
    )
    added.setUid(f"{name}-v1")
    environment.addOperator(added)
    return streaming.datastream.DataStream(environment, added)


def object_array(*objects: Any) -> Any:
    """A Java `Object[]` of Java objects, or of what py4j makes into them."""
    from pyflink.java_gateway import get_gateway

    gateway: Any = get_gateway()
    array = gateway.new_array(gateway.jvm.Object, len(objects))
    for place, each in enumerate(objects):
        array[place] = each
    return array


def int_array(numbers: list[int]) -> Any:
    """A Java `int[]`."""
    from pyflink.java_gateway import get_gateway

    gateway: Any = get_gateway()
    array = gateway.new_array(gateway.jvm.int, len(numbers))
    for place, number in enumerate(numbers):
        array[place] = number
    return array
