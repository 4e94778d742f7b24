"""The statements of a Table job, and what the commands say of them, without a JVM."""

import dataclasses
import json
import re

import pytest
from typer.testing import CliRunner

from flink_jobs.cli import app
from flink_jobs.console import CommandError
from flink_jobs.job_run import latest_restore_point, pipeline_checkpoints
from flink_jobs.pipelines import load_pipeline, model_folder
from flink_jobs.settings import load_settings
from flink_jobs.sql_job import check_same_windows, sql_of
from flink_jobs.sql_statements import script
from flink_jobs.topics import SQL, STREAM, group_id
from udfs import table
from udfs.pipeline import Value

PURCHASE = load_pipeline("purchase")
TILED = """
from flink_jobs.pipelines.purchase import PageView
from udfs.pipeline import Count, Events, Model, Pipeline, Sum
pipeline = Pipeline(
    name="tiled", events=Events(PageView, topic="t", entity="user_id", time="timestamp", id="event_id"),
    features=[Count(window="1h"), Sum("dwell_time_sec", window="30d", tile="1h")], model=Model("m", version=1),
    prediction="risk",
)
"""


def statements_of(pipeline=PURCHASE, start_from="earliest", **settings):
    return sql_of(pipeline, model_folder(PURCHASE), load_settings(**settings), start_from)


def millrace(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_every_function_that_the_statements_create_is_there():
    text = script(statements_of())
    created = re.findall(r"CREATE TEMPORARY FUNCTION (\w+) AS 'udfs\.table\.(\w+)' LANGUAGE PYTHON", text)
    assert created
    for name, attribute in created:
        assert name == attribute
        assert hasattr(table, attribute)
    body = text[text.rindex("LANGUAGE PYTHON") :]
    assert all(f"{name}(" in body for name, _ in created), "what is created is used"


def test_windows_stand_on_each_other_and_end_a_millisecond_after_they_began():
    text = script(statements_of())
    assert "FROM `purchase_events`\nWINDOW `last_10m`" in text
    assert "FROM `purchase_last_10m`\nWINDOW `last_1h`" in text
    assert "RANGE BETWEEN INTERVAL '0 00:59:59.999' DAY(3) TO SECOND(3) PRECEDING AND CURRENT ROW" in text


def test_names_of_features_are_those_of_the_pipeline_in_its_order():
    view = next(statement.sql for statement in statements_of() if "VIEW `purchase_features`" in statement.sql)
    names = re.findall(r"AS `(\w+)`,?\n", view)
    assert tuple(name for name in names if not name.startswith("_")) == PURCHASE.feature_names


def test_settings_are_in_the_tables():
    text = script(statements_of(watermark_ms=2_500, idle_ms=7_000, bootstrap="kafka:9092", guarantee="at-least-once"))
    assert "- INTERVAL '0 00:00:02.500' DAY(3) TO SECOND(3)" in text
    assert "'scan.watermark.idle-timeout' = '7000 ms'" in text
    assert text.count("'properties.bootstrap.servers' = 'kafka:9092'") == 2
    assert "'sink.delivery-guarantee' = 'at-least-once'" in text
    assert "'scan.startup.timestamp-millis' = '1700000000000'" in script(statements_of(start_from="1700000000000"))


def test_without_windows_there_is_no_watermark_to_wait_for():
    stateless = dataclasses.replace(PURCHASE, features=[Value("dwell_time_sec")])
    text = script(statements_of(stateless))
    assert not any(word in text for word in ("WATERMARK", "JSON_VALUE", " OVER ", "idle-timeout"))
    assert "decode_event(" in text


def test_the_two_engines_share_neither_group_nor_transactions_nor_checkpoints(tmp_path):
    settings = load_settings(home=tmp_path)
    assert group_id(PURCHASE, SQL) != group_id(PURCHASE, STREAM)
    assert f"'sink.transactional-id-prefix' = '{group_id(PURCHASE, SQL)}'" in script(statements_of())
    place = pipeline_checkpoints(PURCHASE, settings, STREAM) / "savepoints" / "one"
    place.mkdir(parents=True)
    (place / "_metadata").touch()
    assert latest_restore_point(PURCHASE, settings, STREAM) is not None
    assert latest_restore_point(PURCHASE, settings, SQL) is None


def test_sql_command_prints_the_statements_as_text_and_as_json():
    result = millrace("sql", "purchase")
    assert result.exit_code == 0
    assert script(statements_of()).rstrip() in result.stdout
    printed = json.loads(millrace("sql", "purchase", "--json").stdout)
    assert [one["sql"] for one in printed] == [statement.sql for statement in statements_of()]
    assert all(one["comment"] for one in printed)


def test_printed_sql_holds_no_secret(monkeypatch, tmp_path):
    secret = tmp_path / "password"
    secret.write_text("hunter2")
    for name, value in {"SASL_MECHANISM": "PLAIN", "USERNAME": "me", "PASSWORD_FILE": str(secret)}.items():
        monkeypatch.setenv(f"MILLRACE_KAFKA_{name}", value)
    for arguments in (["sql", "purchase"], ["sql", "purchase", "--json"]):
        printed = millrace(*arguments).stdout
        assert "hunter2" not in printed
        assert f"${{directory:{tmp_path}:password}}" in printed


@pytest.mark.parametrize("arguments", [["sql"], ["run", "--engine", "sql"]])
def test_pipeline_that_sql_cannot_express_is_refused_in_one_line(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    (tmp_path / "tiled.py").write_text(TILED)
    result = millrace(*arguments, str(tmp_path / "tiled.py"))
    assert result.exit_code == 1
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "dwell_time_sec_sum_30d_tile_1h" in line
    assert "leave out tile=" in line


def test_unknown_engine_is_refused():
    result = millrace("run", "purchase", "--engine", "batch")
    assert result.exit_code == 1
    assert "write stream or sql" in result.stderr


def test_run_goes_on_only_with_the_windows_of_the_last_one(tmp_path):
    settings = load_settings(home=tmp_path)
    check_same_windows(PURCHASE, settings, tmp_path, goes_on=False)
    check_same_windows(PURCHASE, settings, tmp_path, goes_on=True)
    more = dataclasses.replace(PURCHASE, include=("page_id",))
    with pytest.raises(CommandError, match="--fresh"):
        check_same_windows(more, settings, tmp_path, goes_on=True)
    check_same_windows(more, settings, tmp_path, goes_on=False)
    check_same_windows(more, settings, tmp_path, goes_on=True)
    other_broker = load_settings(home=tmp_path, bootstrap="kafka:9092", watermark_ms=1)
    check_same_windows(more, other_broker, tmp_path, goes_on=True)
