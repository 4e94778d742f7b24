"""Contestant: a statement as a user writes it: typed JSON columns, `score` on fields of the event, a JSON sink.

Exactly once, with a checkpoint a second, like every other contestant. The last argument is the model's folder.
"""

import sys

from flink_jobs.environment import create_environment
from flink_jobs.settings import Settings
from flink_jobs.sql_job import OPTIONS
from tests.benchmarks.contest import PARTITIONS
from tests.benchmarks.contestant import Task, wait_for_the_end
from tests.benchmarks.visits import PAGES


def statements_of(task: Task, model: str, settings: Settings) -> list[str]:
    one_hot = ",\n        ".join(f"CASE WHEN page_id = '{page}' THEN 1E0 ELSE 0E0 END" for page in PAGES)
    return [
        "CREATE TEMPORARY FUNCTION score AS 'udfs.table.score' LANGUAGE PYTHON",
        f"""CREATE TABLE visits (
    event_id STRING, user_id STRING, page_id STRING, dwell_time_sec DOUBLE
) WITH (
    'connector' = 'kafka', 'topic' = '{task.events}', 'properties.bootstrap.servers' = '{task.bootstrap}',
    'properties.group.id' = 'plain-sql', 'properties.isolation.level' = 'read_committed',
    'scan.startup.mode' = 'earliest-offset', 'format' = 'json', 'json.ignore-parse-errors' = 'true'
)""",
        f"""CREATE TABLE predictions (
    event_id STRING, user_id STRING, purchase_probability DOUBLE, scored_at BIGINT
) WITH (
    'connector' = 'kafka', 'topic' = '{task.output}', 'properties.bootstrap.servers' = '{task.bootstrap}',
    'key.format' = 'raw', 'key.fields' = 'user_id', 'value.format' = 'json',
    'sink.delivery-guarantee' = 'exactly-once', 'sink.transactional-id-prefix' = 'plain-sql',
    'properties.transaction.timeout.ms' = '{settings.transaction_timeout_ms}',
    'properties.linger.ms' = '20', 'properties.batch.size' = '131072', 'properties.compression.type' = 'lz4'
)""",
        f"""INSERT INTO predictions
SELECT event_id, user_id,
    score('{model}', dwell_time_sec,
        {one_hot}),
    UNIX_TIMESTAMP() * 1000
FROM visits""",
    ]


def main() -> None:
    task = Task.from_command_line()
    settings = task.settings(parallelism=PARTITIONS)  # a subtask a partition: none has twice the work of another
    environment, _ = create_environment(settings, settings.checkpoints / "plain-sql", None, OPTIONS)
    from pyflink.table import StreamTableEnvironment

    tables = StreamTableEnvironment.create(environment)
    *definitions, insert = statements_of(task, sys.argv[5], settings)
    for definition in definitions:
        tables.execute_sql(definition)
    result = tables.execute_sql(insert)
    wait_for_the_end()
    result.get_job_client().cancel().result()
