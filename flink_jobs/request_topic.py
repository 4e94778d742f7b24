"""The topic of requests, read by the job beside the events: batches for the subtasks that have the states.

Kafka source -> gather (JVM), by the same shards as events -> joins the batches of events before the scoring
"""

from typing import TYPE_CHECKING, Any

from flink_jobs.dropped_inputs import REQUESTS_NAME
from flink_jobs.environment import in_one_subtask, planned_apart
from flink_jobs.jvm_operators import AS_TEXT, gathered_batches
from flink_jobs.settings import Settings
from flink_jobs.topics import requests_ddl
from udfs.pipeline import Pipeline
from udfs.record_batch import REQUESTS
from udfs.requests import MOST_REQUEST_BYTES

if TYPE_CHECKING:
    from pyflink.table import StreamTableEnvironment

_REQUESTS = "millrace_requests"


def request_batches(
    tables: "StreamTableEnvironment", pipeline: Pipeline, settings: Settings, shard_keys: list[int]
) -> Any:
    """The records of the topic of requests as batches of REQUESTS.

    The operators of its SQL have names of their own, and those behind them the numbers that they have without it: a
    pipeline may begin to answer requests and go on from the savepoint of one that did not.

    One subtask reads all partitions: a batch costs the scoring more than the records in it, and one subtask gathers
    more requests than many can answer.

    Args:
        tables: Of the job.
        pipeline: Has `requests`.
        settings: How to run it.
        shard_keys: Of the scoring.

    Returns:
        Java `DataStream` of (shard key, bytes).
    """
    tables.execute_sql(requests_ddl(_REQUESTS, pipeline, settings))
    query = f"SELECT `key`, `value`, `partition`, `offset`, `timestamp` FROM {_REQUESTS}"  # noqa: S608  # our own name
    spread = settings.batch_ms, settings.parallelism
    with planned_apart(tables, REQUESTS_NAME), in_one_subtask(tables._j_tenv.execEnv()):
        return gathered_batches(
            tables, query, "gather-requests", shard_keys, *spread, AS_TEXT, [], MOST_REQUEST_BYTES, command=REQUESTS
        )
