"""The DataStream job, one event's path in four hops.

    Kafka source -> gather by subtask (JVM) -> score (Python, a batch a call) -> Kafka sink
    raw records     a batch is one byte        decode, features, ONNX, encode;   predictions and dead letters,
                    array, every batch_ms      one byte array a batch            taken apart in the JVM

The SQL at both ends is frozen and generic: its operators have counters for uids, so every later change happens in
Python or in operators with uids of their own. A pipeline with sources has a hop before this: `route_job`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flink_jobs.decoding import registered_schema
from flink_jobs.environment import MAX_PARALLELISM
from flink_jobs.jvm_operators import dead_letter_limit, gathered_batches, output_rows
from flink_jobs.lookup_tables import Ends, plan_tables
from flink_jobs.lookup_topics import row_batches
from flink_jobs.model_topic import model_commands, read_changes
from flink_jobs.request_topic import request_batches
from flink_jobs.route_job import events_start, routed_batches
from flink_jobs.settings import Settings
from flink_jobs.shards import shard_keys
from flink_jobs.state_files import StateFile
from flink_jobs.topics import sink_ddl, source_ddl
from udfs.event_keys import key_form
from udfs.output_fields import features_of, predictions_of, sessions_of
from udfs.pipeline import Pipeline

if TYPE_CHECKING:
    from pyflink.datastream import DataStream, StreamExecutionEnvironment
    from pyflink.datastream.data_stream import KeyedStream
    from pyflink.table import StatementSet, StreamTableEnvironment

    from flink_jobs.operators import ScoreBatches

SCORE_UID = "score-v1"
"""The operator with the shards' state; a savepoint keeps its name for ever."""
_TICK_MS = 1_000
"""How often sessions are looked at that no event closes."""
_EVENTS, _SCORED, _OUTPUTS = "millrace_events", "millrace_scored", "millrace_outputs"


def build_scoring_job(
    environment: "StreamExecutionEnvironment",
    pipeline: Pipeline,
    model_folder: Path | None,
    settings: Settings,
    start_from: str,
    state_files: Sequence[StateFile] = (),
) -> "StatementSet":
    """Add the job to the environment.

    Args:
        environment: From `create_environment`.
        pipeline: What to compute.
        model_folder: The model's version folder, readable where the workers run; None if it is shipped with the code.
        settings: How to run it.
        start_from: Where to begin without a checkpoint: earliest, committed, latest, a time in ms since 1970, or
            offsets.
        state_files: The state of every shard to begin with; none are empty states.

    Returns:
        The statement set, to be attached to the environment before `execute_async`.
    """
    begin = events_start(pipeline, settings, start_from)
    tables, outputs = scored_batches(environment, pipeline, model_folder, settings, begin, state_files)
    if pipeline.events.sources:
        outputs = outputs.union(routed_batches(tables, pipeline, settings, start_from))
    tables.execute_sql(sink_ddl(_OUTPUTS, pipeline, settings))
    return _write(tables, outputs, pipeline, settings)


def scored_batches(
    environment: "StreamExecutionEnvironment",
    pipeline: Pipeline,
    model_folder: Path | None,
    settings: Settings,
    start_from: str,
    state_files: Sequence[StateFile] = (),
) -> "tuple[StreamTableEnvironment, DataStream]":
    """The job without its sink: batches of output records as bytes; arguments as of `build_scoring_job`."""
    from pyflink.table import StreamTableEnvironment

    from flink_jobs.operators import ScoreBatches

    tables = StreamTableEnvironment.create(environment)
    tables.execute_sql(source_ddl(_EVENTS, pipeline, settings, start_from))
    keys = _shard_keys(settings.shards)
    changes, changes_end = read_changes(pipeline, settings) if pipeline.models_topic else ([], 0)
    planned = plan_tables(pipeline, settings) if pipeline.lookups else None
    batches = _gather(tables, pipeline, settings, keys, changes_end, {} if planned is None else planned.ends)
    states = dict(zip(keys, state_files, strict=True)) if state_files else {}
    schema = registered_schema(predictions_of(pipeline), settings)
    features_schema = registered_schema(features_of(pipeline), settings) if pipeline.features_topic else None
    sessions_schema = registered_schema(sessions_of(pipeline), settings) if pipeline.sessions else None
    files = {} if planned is None else planned.files
    score = ScoreBatches(
        pipeline, model_folder, states, settings, schema, changes, features_schema, sessions_schema, files
    )
    return tables, _score(batches, score)


def _gather(
    tables: "StreamTableEnvironment",
    pipeline: Pipeline,
    settings: Settings,
    shard_keys: list[int],
    changes_end: int,
    rows_ends: Mapping[str, Ends],
) -> "KeyedStream":
    """Raw records -> (shard key, bytes of the records for its subtask that came within batch_ms), keyed by shard key.

    Gathered before the shuffle, so that batches cross it and not records; a partition's records stay in order, for
    they take one way. What has a cost a batch, in Python and on the way there, has it once a subtask and not once a
    shard. What a control topic says of models is for every shard, and joins the batches here, and so do requests and
    rows of lookups.
    """
    from pyflink.common import Types
    from pyflink.datastream import DataStream
    from pyflink.datastream.data_stream import KeyedStream
    from pyflink.java_gateway import get_gateway

    gateway: Any = get_gateway()
    jvm = gateway.jvm
    headers = pipeline.events.headers
    columns = f"`key`, `value`, `partition`, `offset`, `timestamp`{', `headers`' if headers else ''}"
    query = f"SELECT {columns} FROM {_EVENTS}"  # noqa: S608  # names of our own
    spread = settings.batch_ms, settings.parallelism
    form, most = key_form(pipeline.events), pipeline.max_record_bytes
    tick_ms = _TICK_MS if pipeline.sessions is not None and pipeline.sessions.idle is not None else 0
    gathered = gathered_batches(
        tables, query, "gather", shard_keys, *spread, form, headers, most, tick_ms=tick_ms
    )
    others = []
    if pipeline.models_topic is not None:
        environment = gathered.getExecutionEnvironment()
        others.append(model_commands(environment, pipeline, settings, shard_keys, changes_end, gathered.getType()))
    if pipeline.requests is not None:
        others.append(request_batches(tables, pipeline, settings, shard_keys))
    others += row_batches(tables, pipeline, settings, shard_keys, rows_ends)
    if others:
        streams = gateway.new_array(jvm.org.apache.flink.streaming.api.datastream.DataStream, len(others))
        for place, other in enumerate(others):
            streams[place] = other
        gathered = gathered.union(streams)
    # The rows already are (key, value) pairs. PyFlink's key_by would send each batch through Python once more, only to
    # compute the key; this is what it does afterwards.
    keyed = gathered.keyBy(jvm.KeyByKeySelector(), Types.ROW([Types.INT()]).get_java_type_info())
    return KeyedStream(keyed, Types.PRIMITIVE_ARRAY(Types.BYTE()), DataStream(gathered))


def _shard_keys(shards: int) -> list[int]:
    from pyflink.java_gateway import get_gateway

    jvm: Any = get_gateway().jvm
    assign = jvm.org.apache.flink.runtime.state.KeyGroupRangeAssignment.assignToKeyGroup
    row = jvm.org.apache.flink.types.Row(1)  # the key is a row of one integer, as PyFlink's own key_by makes it

    def key_group(key: int) -> int:
        row.setField(0, key)
        return int(assign(row, MAX_PARALLELISM))

    return shard_keys(shards, MAX_PARALLELISM, key_group)


def _score(batches: "KeyedStream", score: "ScoreBatches") -> "DataStream":
    """Batches of raw records -> batches of output records, one to one, as bytes."""
    from pyflink.common import Types

    scored = batches.process(score, Types.PRIMITIVE_ARRAY(Types.BYTE()))
    return scored.uid(SCORE_UID).name("score")


def _write(
    tables: "StreamTableEnvironment", outputs: "DataStream", pipeline: Pipeline, settings: Settings
) -> "StatementSet":
    """Output records, one by one, into the sink."""
    output_rows(tables, outputs, "records", _OUTPUTS, _SCORED, dead_letter_limit(pipeline, settings))
    statements = tables.create_statement_set()
    statements.add_insert_sql(f"INSERT INTO {_OUTPUTS} SELECT * FROM {_SCORED}")  # noqa: S608  # names of our own
    return statements
