"""`millrace parity` and `certify` of pipelines with lookups: hard rows, copies of real ones, a bug that is found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Producer
from shop_events import products, shop, users
from workloads import START_MS, settings_of

from flink_jobs import lookup_tables
from flink_jobs.committed_reader import read_all
from flink_jobs.console import CommandError
from flink_jobs.hard_events import hard_records
from flink_jobs.kafka_admin import TopicSpec, create_topics
from flink_jobs.lookup_tables import table_versions
from flink_jobs.own_tables import copy_tables, put_hard_tables
from flink_jobs.parity_job import run_engines, send_input
from flink_jobs.parity_rows import EngineRows

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
FILE = '''
from typing import Annotated, Literal
from udfs.pipeline import *

class View:
    view_id: str
    user: str
    item: str | None
    at: int

class Product:
    product: str
    price: float
    kind: Literal["book", "toy"] | None
    taste: Annotated[list[float], 3] | None
    changed_at: int

class Shelf:
    item: str
    row: int
    since: int

pipeline = Pipeline(
    "shelved",
    Events(View, "shelved-views", entity="user", time="at", id="view_id", partitions=2),
    [Value("products.price"), Value("products.taste"), OneHot("products.kind"), Value("shelves.row"),
     Mean("products.price", window="1h"), Sum("products.price", window="1d", tile="1h"),
     Count(where=(field("products.kind") == "book") & (field("shelves.row") > 100), window="1h"),
     Last("products.taste[1]", window="1h"), Distinct("shelves.row", window="1d")],
    Model("m", 1), "score", predictions="shelved-predictions",
    lookups=[
        Lookup("products", Product, topic="shelved-products", key="product", by="item", time="changed_at", delay="5s",
               defaults={"price": 0.5}),
        Lookup("shelves", Shelf, file="shelves.csv", key="item", time="since", defaults={"row": -1}),
    ],
)
'''
HARD_FEATURES = 12


@pytest.fixture
def shelved(tmp_path):
    """A pipeline file of a user, its table beside it."""
    rows = [f"t{n},{100 * turn + n},{1483228800000 + 10**11 * turn}" for n in range(40) for turn in range(3)]
    (tmp_path / "shelves.csv").write_text("\n".join(["item,row,since", *rows]) + "\n")
    (tmp_path / "shelved.py").write_text(FILE)
    return str(tmp_path / "shelved.py")


def command(home, *arguments, timeout_s=300, status=0):
    ran = subprocess.run(
        [sys.executable, "-m", "flink_jobs.cli", *arguments, "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MILLRACE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert status in (None, ran.returncode), ran.stderr + ran.stdout[:3_000]
    return ran


def test_all_engines_agree_on_what_hard_events_see_of_hard_rows(shelved, tmp_path):
    ran = command(tmp_path / "home", "parity", shelved, "--events", "3000", "--seed", "11")
    found = json.loads(ran.stdout)
    assert "SQL is left out: it joins events with no rows" in ran.stderr
    assert found["engines"] == ["oracle", "streaming", "backfill"]
    assert (found["events"], found["features"], found["differences"]) == (3_000, HARD_FEATURES, 0)
    events = found["events"] - found["refused"]
    for each in found["comparisons"]:
        if not each["feature"].startswith("("):
            assert each["compared"] == events, each
    refused = command(tmp_path / "home", "parity", shelved, "--engines", "oracle,sql", status=1)
    assert "error: --engines names sql, which cannot compute shelved" in refused.stderr


def nothing():
    """Nobody stops this."""


def compared(pipeline, broker, folder, given):
    """What the backfill says, held against the oracle; and how many differences each feature has."""
    settings = settings_of(broker, folder / "home")
    report = run_engines(given, settings, ["oracle", "backfill"], processes=2, should_stop=nothing)
    return report, {each.feature: each.differences for each in report.comparisons}


def test_a_backfill_that_sees_the_version_before_is_found_with_the_row_that_was_right(broker, tmp_path, monkeypatch):
    pipeline = shop(name="planted", topic="planted-views", predictions="planted-predictions")
    records = list(hard_records(pipeline, 1_000, 3))
    pipeline = put_hard_tables(pipeline, broker.bootstrap, [(key, value) for key, value, _ in records], 3)
    given = send_input(pipeline, broker.bootstrap, tmp_path, records, 4, "", nothing)

    def late(*arguments):
        for each in table_versions(*arguments):
            yield each._replace(time_ms=each.time_ms + 1)

    monkeypatch.setattr(lookup_tables, "table_versions", late)
    report, differences = compared(pipeline, broker, tmp_path, given)
    assert not report.holds
    wrong = {name for name, count in differences.items() if count}
    assert {"products_price", "products_taste_0", "users_age", "products_price_mean_1h"} <= wrong
    assert not {"(prediction or dead letter)", "(late)"} & wrong
    (told,) = (each for each in report.differences if each.comparison.feature == "products_price")
    assert told.events[-1]["event"]["products.price"] == told.values["oracle"] != told.values["backfill"]


def test_real_events_see_the_rows_that_the_users_topics_have(broker, tmp_path):
    lookups = [products(topic="real-products"), users(topic="real-users")]
    pipeline = shop(lookups, name="real", topic="real-views", predictions="real-predictions")
    settings = settings_of(broker, tmp_path / "user")
    with pytest.raises(CommandError, match="here real-products: topic real-products does not exist"):
        copy_tables(pipeline, settings, broker.bootstrap)
    create_topics(broker.bootstrap, [TopicSpec("real-products", 3), TopicSpec("real-users", 2)])
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": "real-rows"})
    producer.init_transactions()
    for commits in (True, False):
        producer.begin_transaction()
        for number in range(60):
            name, row = f"p{number % 20}", {"price": number, "kind": None, "changed_at": START_MS + 100 * number}
            value = None if number % 7 == 3 else msgspec.json.encode({"product": f"p{number % 20}", **row})
            made_ms = START_MS + 100 * number
            producer.produce("real-products", value, name, timestamp=made_ms, headers=[("from", b"shop")])
            producer.produce("real-users", msgspec.json.encode({"user": "u", "age": number}), "u", timestamp=made_ms)
        producer.produce("real-products", b"{", "broken")
        producer.flush()
        producer.commit_transaction() if commits else producer.abort_transaction()
    own = copy_tables(pipeline, settings, broker.bootstrap)
    for before, after in zip(pipeline.lookups, own.lookups, strict=True):
        copied = rows_in(broker, after)
        assert copied == rows_in(broker, before)
        assert len(copied) > 59
        assert (after.format, after.fields) == (before.format, before.fields)
    views = [
        {"view_id": f"v{n}", "user": "u", "item": f"p{n % 22}", "at": START_MS + 77 * n - 500} for n in range(100)
    ]
    records = [(b"u", msgspec.json.encode(view), None) for view in views]
    given = send_input(own, broker.bootstrap, tmp_path, records, 2, "", nothing)
    report, differences = compared(own, broker, tmp_path, given)
    assert report.holds, differences
    ages = sorted(EngineRows(tmp_path / "rows" / "oracle", 100, len(own.feature_names)).features[:, AGE].tolist())
    assert (ages[0], ages[-1]) == (-1.0, 59.0)


AGE = shop().feature_names.index("users_age")


def rows_in(broker, lookup):
    """Partition, key, value, time and headers of the committed records of a table, each partition's in order."""
    found = read_all(broker.bootstrap, [lookup.topic])
    told = [(each.partition(), each.key(), each.value(), each.timestamp(), each.headers()) for each in found]
    return sorted(told, key=lambda one: one[0])


def test_a_pipeline_with_lookups_is_certified(shelved, tmp_path):
    ran = command(
        tmp_path / "home", "certify", shelved, "--events", "1000", "--rate", "100", "--times", "1",
        "--faults", "python worker killed", "--to", str(tmp_path / "to"), timeout_s=400, status=None,
    )  # fmt: skip
    certified = json.loads(ran.stdout)
    # how long a recovery takes is this machine's, which runs other tests beside
    assert [each for each in certified["problems"] if not each.startswith("recovery took")] == []
    assert (certified["lost"], certified["duplicated"], certified["feature_differences"]) == (0, 0, 0)
    assert certified["features_compared"] > 900 * HARD_FEATURES
