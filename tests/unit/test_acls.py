"""The permissions that `doctor --acls` prints."""

import json

from shop_sources import shop_pipeline
from typer.testing import CliRunner

from flink_jobs.acls import as_kafka_acls, needed_acls
from flink_jobs.cli import app
from flink_jobs.pipelines import load_pipeline

PURCHASE = load_pipeline("purchase")


def test_nothing_is_allowed_on_topics_of_others():
    topics = {acl.name for acl in needed_acls(PURCHASE) if acl.resource == "topic"}
    marks = f"{PURCHASE.dead_letters}-replays"
    assert topics == {PURCHASE.events.topic, PURCHASE.predictions, PURCHASE.dead_letters, marks}
    assert {acl.operation for acl in needed_acls(PURCHASE)}.isdisjoint({"All", "Alter", "Delete", "ClusterAction"})


def test_a_job_with_sources_may_read_them_and_write_its_events():
    of_run = {(acl.name, acl.operation) for acl in needed_acls(shop_pipeline("shop")) if acl.command == "run"}
    assert {("shop-clicks", "Read"), ("shop-events", "Read"), ("shop-events", "Write")} <= of_run
    assert ("millrace-shop.route", "Read") in of_run
    assert ("shop-clicks", "Write") not in of_run


def test_a_job_may_not_write_its_own_events():
    assert not [
        acl for acl in needed_acls(PURCHASE)
        if acl.command == "run" and acl.name == PURCHASE.events.topic and acl.operation != "Read"
    ]  # fmt: skip


def test_what_is_printed_is_a_command_of_kafkas_tool():
    lines = as_kafka_acls(needed_acls(PURCHASE), "kafka:9092", "me")
    assert (
        "kafka-acls.sh --bootstrap-server kafka:9092 --add --allow-principal User:me --operation Write "
        "--transactional-id millrace-purchase --resource-pattern-type prefixed"
    ) in lines
    assert len(lines) == len(set(lines))


def test_command_prints_the_same_for_people_and_scripts():
    shown = CliRunner().invoke(app, ["doctor", "--acls", "purchase"])
    assert shown.exit_code == 0
    assert "# millrace run" in shown.stdout
    printed = json.loads(CliRunner().invoke(app, ["doctor", "--acls", "--json"]).stdout)
    assert printed == [vars(acl) for acl in needed_acls(PURCHASE)]
