"""Statements of a user's own, and a replay of a topic by SQL, in one process with a JVM: answers as a line of JSON."""

import json
import pickle
import sys
from pathlib import Path

VISITS = (
    """CREATE TEMPORARY TABLE ids (id BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '3',
    'fields.id.kind' = 'sequence', 'fields.id.start' = '1', 'fields.id.end' = '3')""",
    """CREATE TEMPORARY VIEW visits AS SELECT id, id + 2 AS visits_1h,
    CASE id WHEN 1 THEN 12.5E0 WHEN 3 THEN 60E0 END AS dwell,
    CASE WHEN id < 3 THEN 'purchase/2' END AS model FROM ids""",
)


def features(model, values):
    """The features of a shipped model as SQL: given ones, and 1 for all others."""
    from models.opened import open_alone

    return {name: values.get(name, "CAST(1 AS DOUBLE)") for name in open_alone(model).manifest.features}


def queries():
    """By name: all ways to score in one statement, and one with too few features."""
    values = {"dwell_time_sec": "dwell", "count_1h": "visits_1h"}
    given = features("purchase/2", values)
    by_position, of_the_first = ", ".join(given.values()), ", ".join(features("purchase/1", values).values())
    by_name = ", ".join(f"'{name}', {sql}" for name, sql in reversed(given.items()))
    scores = {
        "first": f"score('purchase/1', {of_the_first})",
        "second": f"score('purchase/2', {by_position})",
        "by_name": f"score('purchase/2', {by_name})",
        "newest": f"score('purchase', {by_position})",
        "missing": f"score_missing('purchase/2', {by_position})",
        "of_the_row": f"score(model, {by_position})",
        "set": f"score({of_the_first})",
    }
    columns = ", ".join(f"{sql} AS `{name}`" for name, sql in scores.items())
    too_few = "SELECT id, score('purchase/2', dwell) FROM visits"
    return {"scores": f"SELECT id, {columns} FROM visits", "too_few": too_few}


def answer(tables, sql):
    try:
        result = tables.execute_sql(sql)
        with result.collect() as rows:
            columns = zip(*sorted((list(row) for row in rows), key=lambda row: row[0]), strict=True)
            return dict(zip(result.get_table_schema().get_field_names(), columns, strict=True))
    except Exception as error:
        from flink_jobs.rest_client import root_cause_line

        return root_cause_line(str(error))


def main(order):
    from flink_jobs.environment import create_environment
    from flink_jobs.settings import Settings
    from flink_jobs.sql_replay import replay_by_sql

    pipeline, settings = pickle.loads(Path(order).read_bytes())
    settings = Settings(**settings)
    replayed = [one._asdict() for one in replay_by_sql(pipeline, settings, name="replayed")]
    environment, _ = create_environment(settings, settings.checkpoints / "queries")
    from pyflink.table import StreamTableEnvironment

    tables = StreamTableEnvironment.create(environment)
    tables.get_config().set("pipeline.global-job-parameters", "millrace.model:purchase/1")
    for statement in VISITS:
        tables.execute_sql(statement)
    for name in ("score", "score_missing"):
        tables.execute_sql(f"CREATE TEMPORARY FUNCTION {name} AS 'udfs.table.{name}' LANGUAGE PYTHON")
    answers = {name: answer(tables, sql) for name, sql in queries().items()}
    print(json.dumps({"answers": answers, "replayed": replayed}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
