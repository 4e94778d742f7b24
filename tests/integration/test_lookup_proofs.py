"""`verify`, `explain`, `fork` and `upgrade --dry-run` of pipelines with lookups: with the rows that receipts name."""

import json

import msgspec
import pytest
from answers import LiveReader, read_answers, read_events
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from jobs import JobProcess
from lookup_traffic import Shop, Traffic, kill_workers_under, places_in, timely, versions_in
from shop_events import FEATURES, products, shop
from test_verify_and_explain import check, copied, nothing
from workloads import log_model, make_topics, settings_of

from flink_jobs.answer_comparison import DIFFERENT
from flink_jobs.console import CommandError
from flink_jobs.explain_command import run_explain_command
from flink_jobs.explanation import explain
from flink_jobs.fork_command import run_fork_command
from flink_jobs.pipelines import load_pipeline
from udfs.pipeline import Count, Mean, field

pytestmark = pytest.mark.integration

TRIED = """
from udfs.pipeline import *

class View:
    view_id: str
    user: str
    item: str | None
    at: int

class Product:
    product: str
    price: float
    changed_at: int

products = Lookup("products", Product, topic="tried-products", key="product", by="item", time="changed_at",
                  defaults={"price": 0.5})
pipeline = Pipeline("tried", Events(View, "tried-views", entity="user", time="at", id="view_id"),
                    [Value("products.price")], Model("log", version=1, root="models"), "score",
                    predictions="tried-predictions", lookups=[products])
"""


def test_a_dry_run_goes_on_with_the_tables_of_the_savepoint(broker, tmp_path, millrace):
    file = tmp_path / "tried.py"
    file.write_text(TRIED)
    pipeline = load_pipeline(str(file))
    log_model(pipeline, tmp_path / "models", "products_price")
    make_topics(broker, pipeline)
    shop_of = Shop(broker, pipeline)
    shop_of.change()
    with LiveReader(broker, pipeline) as reader:
        traffic = Traffic(shop_of)
        try:
            millrace("submit", str(file), "--json")
            reader.wait_for(200)
            tried = json.loads(millrace("upgrade", str(file), "--dry-run", "--minutes", "0.2", "--json").stdout)
        finally:
            traffic.end()
        millrace("stop", str(file), "--json")
        rows = {row for _, row in places_in(reader.answers())}
    assert tried["events"] > 500
    assert (tried["only_now"], tried["only_before"], tried["refused"]) == (0, 0, {})
    assert tried["differing"] <= tried["other_rows"] < tried["events"] / 2
    assert len(rows) > 10
    assert None in rows


def tampered(placed, wrong):
    """For `copied`: the answer to the event at `placed` names another row."""

    def change(at, message):
        key, value, headers, partition = message
        told = dict(headers)
        place = int(told["millrace-partition"]), int(told["millrace-offset"])
        if place == placed:
            told["millrace-lookups"] = b"products=%d/%d" % wrong
        return [(key, value, list(told.items()), partition)]

    return change


def test_what_was_served_is_computed_again_with_the_rows_that_events_saw(broker, tmp_path, capsys):
    windows = [Mean("products.price", window="2s"), Count(where=field("products.kind") == "book", window="2s")]
    given = {
        "lookups": [products(topic="again-products")], "features": [*FEATURES[:3], *windows], "include_features": True,
        "name": "again", "topic": "again-views", "predictions": "again-predictions", "features_topic": "again-features",
    }  # fmt: skip
    pipeline = shop(**given, model=log_model(shop(**given), tmp_path / "models", "products_price_mean_2s"))
    settings = settings_of(broker, tmp_path / "home", restart_attempts=5, restart_delay_ms=200)
    make_topics(broker, pipeline)
    shop_of = Shop(broker, pipeline)
    shop_of.change()
    shop_of.view(100)
    shop_of.flush()
    with JobProcess(pipeline, settings, tmp_path / "job") as job:
        job.wait_for("running")
        kill_workers_under(Traffic(shop_of), job, settings, 300, 300)
        job.stop()
    events, answers = read_events(broker, pipeline), read_answers(broker, pipeline)
    versions = versions_in(broker, pipeline)
    told = dict(places_in(answers))
    views = {event.place: msgspec.json.decode(event.value) for event in events}
    now = {place: timely(versions, view["item"], view["at"]) for place, view in views.items()}
    older = [place for place, at in told.items() if at is not None and at != now[place]]
    none = [place for place, at in told.items() if at is None and now[place] is not None]
    findings = check(pipeline, settings, processes=2).findings
    assert findings.holds, findings
    assert (findings.equal, findings.waiting, findings.unverifiable.total()) == (len(events), 0, 0)
    assert findings.vectors > 0
    assert findings.rows == {"products": {"older_row": len(older), "no_row": len(none)}}
    assert len(older) > 0

    # a fork's features are those that were served, too
    fork = {
        "version": 1, "against": None, "since": "10d", "until": None, "threshold": 0.5, "labels": None,
        "job_began": None, "processes": 1, "replace": False, "as_json": True,
    }  # fmt: skip
    run_fork_command(pipeline, "again", settings, target=str(tmp_path / "fork.parquet"), **fork)
    forked = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (forked["again"], forked["not_again"]) == (len(events), 0)

    # one that saw an older row than the topic has for it now
    place = older[-1]
    run_explain_command(pipeline, "again", settings, f"{place[0]}:{place[1]}", job_began=None, as_json=True)
    explained = json.loads(capsys.readouterr().out.splitlines()[-1])
    [row] = explained["lookups"]
    key, time_ms, fields = versions[told[place]]
    assert explained["equal"] is True
    assert (row["row"], row["key"], row["valid_from_ms"]) == ("older", key, time_ms)
    assert row["at"] == "again-products/{}/{}".format(*told[place])
    assert row["value"]["price"] == fields.price == explained["features"]["products_price"]["value"]
    later = now[place]
    assert (row["now"] and row["now"]["at"]) == (later and "again-products/{}/{}".format(*later))
    run_explain_command(pipeline, "again", settings, f"{place[0]}:{place[1]}", job_began=None, as_json=False)
    shown = capsys.readouterr().out
    assert key in shown
    for place in list(told)[:: len(told) // 6]:
        assert explain(pipeline, settings, f"{place[0]}:{place[1]}", None, nothing).differences == ()

    # a receipt that names a row of another product
    placed = next(place for place, at in told.items() if at is not None)
    wrong = next(at for at, (of, _, row) in versions.items() if row is not None and of != versions[told[placed]][0])
    copy = copied(broker, pipeline, "again-tampered", tampered(placed, wrong))
    findings = check(copy, settings, most=3).findings
    assert findings.counts[DIFFERENT] >= 1
    assert findings.first[0].place == placed
    assert "the row of lookup products, which is of another key" in findings.first[0].what
    with pytest.raises(CommandError, match="the row of lookup products, which is of another key"):
        run_explain_command(copy, "again", settings, f"{placed[0]}:{placed[1]}", job_began=None, as_json=True)

    # rows that the topic no longer has
    ends = {}
    for partition, offset in versions:
        ends[partition] = max(ends.get(partition, 0), offset + 1)
    cut = [TopicPartition("again-products", partition, end * 3 // 4) for partition, end in ends.items()]
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    deletable = ConfigEntry("cleanup.policy", "delete", incremental_operation=AlterConfigOpType.SET)
    changed = ConfigResource(ConfigResource.Type.TOPIC, "again-products", incremental_configs=[deletable])
    for altered in admin.incremental_alter_configs([changed]).values():
        altered.result(30)
    for deleted in admin.delete_records(cut).values():
        deleted.result(30)
    gone = {at for at in versions if at[1] < ends[at[0]] * 3 // 4}
    findings = check(pipeline, settings, processes=2).findings
    assert findings.holds, findings
    assert 0 < findings.equal < len(events)
    unsure = findings.unverifiable
    answered = len(events) - findings.equal
    words = ["the row of lookup products that it saw is no longer in its topic", "an event in its windows saw a row"]
    assert [any(why.startswith(text) for why in unsure) for text in words] == [True, True]
    assert answered <= unsure.total() <= answered + findings.vectors + len(events)
    place = next(place for place in reversed(told) if told[place] in gone)
    run_explain_command(pipeline, "again", settings, f"{place[0]}:{place[1]}", job_began=None, as_json=True)
    explained = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (explained["equal"], explained["lookups"][0]["row"]) == (None, "gone")
    assert explained["unverifiable"] == words[0]
