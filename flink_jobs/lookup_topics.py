"""The topics of lookups, read by the job beside the events: batches of rows, each for every subtask that scores.

Kafka source -> gather (JVM), for all subtasks -> joins the batches of events before the scoring
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flink_jobs.dropped_inputs import lookups_name
from flink_jobs.environment import planned_apart
from flink_jobs.jvm_operators import AS_TEXT, gathered_batches
from flink_jobs.lookup_tables import Ends, lookup_headers
from flink_jobs.settings import Settings
from flink_jobs.topics import rows_ddl
from udfs.pipeline import Pipeline
from udfs.record_batch import lookups_command

if TYPE_CHECKING:
    from pyflink.table import StreamTableEnvironment


def row_batches(
    tables: "StreamTableEnvironment",
    pipeline: Pipeline,
    settings: Settings,
    shard_keys: list[int],
    ends: Mapping[str, Ends],
) -> list[Any]:
    """The records of each topic of lookups as batches of LOOKUPS.

    The operators are named by their topic, as those of requests are: a pipeline may get lookups and go on from the
    savepoint of one without.

    Args:
        tables: Of the job.
        pipeline: Has lookups.
        settings: How to run it.
        shard_keys: Of the scoring.
        ends: Where to begin in each topic without a checkpoint.

    Returns:
        Java `DataStream`s of (shard key, bytes).
    """
    found, spread = [], (settings.batch_ms, settings.parallelism)
    for number, (topic, headers) in enumerate(lookup_headers(pipeline).items()):
        table = f"millrace_rows_{number}"
        tables.execute_sql(rows_ddl(table, topic, settings, ends[topic], with_headers=bool(headers)))
        columns = f"`key`, `value`, `partition`, `offset`, `timestamp`{', `headers`' if headers else ''}"
        query = f"SELECT {columns} FROM {table}"  # noqa: S608  # names of our own
        most = max(each.max_record_bytes for each in pipeline.lookups if each.topic == topic)
        name, command = lookups_name(topic), lookups_command(number)
        with planned_apart(tables, name):
            batches = gathered_batches(
                tables, query, f"gather-{name}", shard_keys, *spread, AS_TEXT, headers, most, command=command
            )
        found.append(batches)
    return found
