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
    """By name."""
    values = {"dwell_time_sec": "dwell", "count_1h": "visits_1h"}
    given = features("purchase/2", values)
    by_position, of_the_first = ", ".join(given.values()), ", ".join(features("purchase/1", values).values())
    by_name = ", ".join(f"'{name}', {sql}" for name, sql in reversed(given.items()))
    return {
        "two_models": f"SELECT id, score('purchase/1', {of_the_first}), score('purchase/2', {by_position}) FROM visits",
        "by_name": f"SELECT id, score('purchase/2', {by_name}) FROM visits",
        "missing": f"SELECT id, score_missing('purchase/2', {by_position}) FROM visits",
        "newest": f"SELECT id, score('purchase', {by_position}) FROM visits",
        "of_the_row": f"SELECT id, score(model, {by_position}) FROM visits",
        "set": f"SELECT id, score({of_the_first}) FROM visits",
        "too_few": "SELECT id, score('purchase/2', dwell) FROM visits",
    }


def answer(tables, sql):
    try:
        with tables.execute_sql(sql).collect() as rows:
            return sorted([list(row) for row in rows], key=lambda row: row[0])
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
