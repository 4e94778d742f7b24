"""The DataStream job, one event's path in four hops.

    Kafka source -> group by shard (JVM, every batch_ms) -> score (Python, a batch a call) -> Kafka sink
    raw records     one row a shard: arrays of records       decode, features, ONNX, encode    predictions, dead letters

The SQL around the Python operator is frozen and generic: its operators have counters for uids, so every later change
happens in Python or in added operators with uids of their own.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flink_jobs.environment import MAX_PARALLELISM
from flink_jobs.settings import Settings
from flink_jobs.shards import shard_keys
from flink_jobs.topics import sink_ddl, source_ddl
from udfs.pipeline import Pipeline

if TYPE_CHECKING:
    from pyflink.datastream import DataStream, StreamExecutionEnvironment
    from pyflink.datastream.data_stream import KeyedStream
    from pyflink.table import StatementSet, StreamTableEnvironment

_EVENTS, _SHARDED, _SCORED, _OUTPUTS = "millrace_events", "millrace_sharded", "millrace_scored", "millrace_outputs"


def build_scoring_job(
    environment: "StreamExecutionEnvironment",
    pipeline: Pipeline,
    model_folder: Path,
    settings: Settings,
    start_from: str,
) -> "StatementSet":
    """Add the job to the environment.

    Args:
        environment: From `create_environment`.
        pipeline: What to compute.
        model_folder: The model's version folder, readable where the workers run.
        settings: How to run it.
        start_from: Where to begin without a checkpoint: earliest, committed, latest, or a time in ms since 1970.

    Returns:
        The statement set, to be attached to the environment before `execute_async`.
    """
    from pyflink.table import StreamTableEnvironment

    tables = StreamTableEnvironment.create(environment)
    tables.execute_sql(source_ddl(_EVENTS, pipeline, settings, start_from))
    tables.execute_sql(sink_ddl(_OUTPUTS, pipeline, settings))
    batches = _group_by_shard(tables, settings)
    scored = _score(batches, pipeline, model_folder)
    tables.create_temporary_view(_SCORED, tables.from_data_stream(scored))
    statements = tables.create_statement_set()
    statements.add_insert_sql(_write_sql())
    return statements


def _group_by_shard(tables: "StreamTableEnvironment", settings: Settings) -> "KeyedStream":
    """Raw records -> (shard key, arrays of the records of a shard that arrived within batch_ms), keyed by shard key."""
    from pyflink.common import Types
    from pyflink.datastream.data_stream import KeyedStream
    from pyflink.java_gateway import get_gateway

    jvm: Any = get_gateway().jvm
    assign = jvm.org.apache.flink.runtime.state.KeyGroupRangeAssignment.assignToKeyGroup
    row = jvm.org.apache.flink.types.Row(1)  # the key is a row of one integer, as PyFlink's own key_by makes it

    def key_group(key: int) -> int:
        row.setField(0, key)
        return int(assign(row, MAX_PARALLELISM))

    chosen = ", ".join(map(str, shard_keys(settings.shards, MAX_PARALLELISM, key_group)))
    # the remainder comes before ABS because ABS of the smallest integer is negative
    sharded = tables.sql_query(f"""
        SELECT `key`, `value`, `partition`, `offset`, arrival,
            EXTRACT(EPOCH FROM `timestamp`) * 1000 + EXTRACT(MILLISECOND FROM `timestamp`) AS record_time_ms,
            ABS(MOD(COALESCE(HASH_CODE(CAST(`key` AS STRING)), 0), {settings.shards})) AS shard
        FROM {_EVENTS}""")  # noqa: S608  # names and numbers of our own
    tables.create_temporary_view(_SHARDED, sharded)
    batches = tables.sql_query(f"""
        SELECT ARRAY[{chosen}][shard + 1], ROW(k, v, p, o, t) FROM (
            SELECT shard, ARRAY_AGG(`key`) AS k, ARRAY_AGG(`value`) AS v, ARRAY_AGG(`partition`) AS p,
                ARRAY_AGG(`offset`) AS o, ARRAY_AGG(record_time_ms) AS t
            FROM TABLE(TUMBLE(TABLE {_SHARDED}, DESCRIPTOR(arrival), INTERVAL '{settings.batch_ms / 1000:.3f}' SECOND))
            GROUP BY window_start, window_end, shard)""")  # noqa: S608
    bytes_array = Types.OBJECT_ARRAY(Types.PRIMITIVE_ARRAY(Types.BYTE()))
    longs = Types.OBJECT_ARRAY(Types.LONG())
    batch = Types.ROW([bytes_array, bytes_array, Types.OBJECT_ARRAY(Types.INT()), longs, longs])
    stream = tables.to_append_stream(batches, Types.ROW([Types.INT(), batch]))
    # The rows already are (key, value) pairs. PyFlink's key_by would send each batch through Python once more, only to
    # compute the key; this is what it does afterwards.
    keyed = stream._j_data_stream.keyBy(jvm.KeyByKeySelector(), Types.ROW([Types.INT()]).get_java_type_info())
    return KeyedStream(keyed, batch, stream)


def _score(batches: "KeyedStream", pipeline: Pipeline, model_folder: Path) -> "DataStream":
    """Batches of raw records -> one row a batch: an array of (topic, key, value, headers)."""
    from pyflink.common import Types

    from flink_jobs.operators import ScoreBatches

    raw = Types.PRIMITIVE_ARRAY(Types.BYTE())
    # tuples: a Row object per record costs four times as much on the way out
    records = Types.OBJECT_ARRAY(Types.TUPLE([Types.STRING(), raw, raw, Types.STRING()]))
    scored = batches.process(ScoreBatches(pipeline, model_folder), output_type=Types.ROW_NAMED(["records"], [records]))
    return scored.uid("score-v1").name("score")


def _write_sql() -> str:
    """Output records, one by one, into the sink; the headers come as one text."""
    return f"""
        INSERT INTO {_OUTPUTS}
        SELECT topic, `key`, `value`,
            CAST(STR_TO_MAP(headers, U&'\\001E', U&'\\001F') AS MAP<STRING, BYTES>)
        FROM {_SCORED} CROSS JOIN UNNEST(records) AS record(topic, `key`, `value`, headers)"""  # noqa: S608
