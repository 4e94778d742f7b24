"""Events joined with tables that change meanwhile, the workers killed: each sees what its receipt says, and in the end
what a backfill says, windows included; `verify`, `explain` and `fork` use the rows that receipts name."""

import json
import random
import threading
import time
from types import SimpleNamespace

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from answers import LiveReader, read_answers, read_events
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from jobs import JobProcess
from shop_events import Weight, products, shop
from test_verify_and_explain import check, copied, nothing
from workloads import START_MS, log_model, make_topics, settings_of

from flink_jobs.answer_comparison import DIFFERENT
from flink_jobs.backfill_job import run_backfill
from flink_jobs.backfill_request import BackfillRequest
from flink_jobs.committed_reader import read_all
from flink_jobs.console import CommandError
from flink_jobs.explain_command import run_explain_command
from flink_jobs.explanation import explain
from flink_jobs.fork_command import run_fork_command
from flink_jobs.history_topic import topic_pieces
from flink_jobs.pipelines import load_pipeline
from udfs.lookup_join import default_row, places_told
from udfs.naive_features import NaiveFeatures
from udfs.pipeline import Count, Lookup, Mean, OneHot, Value, field

pytestmark = pytest.mark.integration

PRODUCTS, USERS, STEP_MS = 40, 12, 50
FEATURES = [
    Value("products.price"), Value("products.taste"), OneHot("products.kind"), Value("weights.grams"),
    Mean("products.price", window="1h"), Count(where=field("products.kind") == "book", window="10s"),
]  # fmt: skip


class Shop:
    """Producers of views and of products, whose prices say how often they changed; each in step with its own time."""

    def __init__(self, broker, pipeline):
        self._producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 1})
        self._pipeline, self._rng, self.now_ms = pipeline, random.Random(4), START_MS
        self.views = self.generation = 0

    def view(self, count=1, users=USERS):
        for _ in range(count):
            self.now_ms += STEP_MS
            self.views += 1
            item = f"p{self._rng.randrange(PRODUCTS + 3)}" if self._rng.random() < 0.95 else None
            user = f"u{self._rng.randrange(users)}"
            event = {"view_id": f"v{self.views}", "user": user, "item": item, "at": self.now_ms}
            self._producer.produce(self._pipeline.events.topic, msgspec.json.encode(event), user)
            self._producer.poll(0)

    def change(self, names=None):
        """A newer version of some products, all valid from now on; one in ten is deleted."""
        self.now_ms += STEP_MS
        self.generation += 1
        for number in range(PRODUCTS) if names is None else names:
            row = {"product": f"p{number}", "price": self.generation + number / 64, "changed_at": self.now_ms}
            row["kind"] = self._rng.choice(["book", "toy", None])
            row["taste"] = [self._rng.random() for _ in range(3)] if self._rng.random() < 0.9 else None
            value = None if self.generation > 1 and number % 10 == 3 else msgspec.json.encode(row)
            topic = self._pipeline.lookups[0].topic
            self._producer.produce(topic, value, f"p{number}", timestamp=self.now_ms)
        self._producer.produce(topic, b"{", "broken", timestamp=self.now_ms)
        self.flush()

    def flush(self):
        assert self._producer.flush(30) == 0


class Traffic(threading.Thread):
    """Views, and now and then newer products, until told to stop."""

    def __init__(self, shop):
        super().__init__(daemon=True)
        self._shop, self._stopped, self.begun = shop, threading.Event(), shop.views
        self.start()

    def run(self):
        turn = 0
        while not self._stopped.wait(0.02):
            self._shop.view(4)
            turn += 1
            if turn % 20 == 0:
                self._shop.change(range(turn % 7, PRODUCTS, 7))

    def wait_for(self, more, timeout_s=60.0):
        goal, deadline = self._shop.views + more, time.monotonic() + timeout_s
        while self._shop.views < goal:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def end(self):
        self._stopped.set()
        self.join(60)
        self._shop.flush()


def versions_in(broker, pipeline):
    """By place of its record: key, time and row of each version, None where it was deleted."""
    found, lookup = {}, pipeline.lookups[0]
    for message in read_all(broker.bootstrap, [lookup.topic]):
        key, value = message.key().decode(), message.value()
        if value != b"{":
            row = None if value is None else SimpleNamespace(**msgspec.json.decode(value))
            time_ms = message.timestamp()[1] if row is None else row.changed_at
            found[message.partition(), message.offset()] = key, time_ms, row
    return found


def timely(versions, key, as_of_ms):
    """The place of the version of a row as of a time, by definition; None where there is none."""
    seen = [(time_ms, place) for place, (of, time_ms, _) in versions.items() if of == key and time_ms <= as_of_ms]
    place = max(seen)[1] if seen else None
    return None if place is None or versions[place][2] is None else place


def oracle(pipeline, events, versions, weights, places):
    """The features of events, in order of each partition, that saw the rows at these places."""
    naive, found = NaiveFeatures(pipeline), {}
    product, weight = map(default_row, pipeline.lookups)
    for each in events:
        event = SimpleNamespace(**msgspec.json.decode(each.value))
        seen = product if places[each.place] is None else versions[places[each.place]][2]
        for name in ("price", "taste", "kind"):
            setattr(event, f"products.{name}", getattr(seen, name))
        setattr(event, "weights.grams", weights.get(event.item, weight.grams))
        found[each.place] = naive.advance(event, each.time_ms, each.place[0]).features
    return found


def place_of(answer):
    told = places_told(answer.headers["lookups"])
    return told["products"], told["weights"] is not None


def test_events_see_rows_as_of_their_times_through_kills_restarts_and_other_parallelism(broker, tmp_path):
    weights = {f"p{number}": 10.0 * number for number in range(0, PRODUCTS, 2)}
    rows = [{"item": item, "grams": grams} for item, grams in weights.items()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "weights.parquet")
    file = str(tmp_path / "weights.parquet")
    lookups = [products(topic="joined-products"), Lookup("weights", Weight, file=file, key="item")]
    topics = {"name": "joined", "topic": "joined-views", "predictions": "joined-predictions", "include_features": True}
    pipeline = shop(lookups, FEATURES, **topics)
    before = shop([], [Value("at")], **topics)
    pipeline = shop(lookups, FEATURES, **topics, model=log_model(pipeline, tmp_path / "models", "products_price"))
    before = shop([], [Value("at")], **topics, model=log_model(before, tmp_path / "before", "at"))
    settings = settings_of(broker, tmp_path / "home", restart_attempts=5, restart_delay_ms=200)
    make_topics(broker, pipeline)
    shop_of = Shop(broker, pipeline)
    shop_of.view(50)
    shop_of.flush()
    first, phases = shop_of.views, []
    with JobProcess(before, settings, tmp_path / "job") as job:
        job.wait_for("running")
        job.catch_up()
        # a pipeline that gets lookups goes on from the state it has, and finds what is in the table by then
        shop_of.change()
        job.go_on_as(pipeline, settings)
        shop_of.view(200)
        shop_of.flush()
        job.catch_up()
        phases.append((first, shop_of.views))
        traffic = Traffic(shop_of)
        traffic.wait_for(300)
        job.kill_workers(settings.parallelism)
        traffic.wait_for(600)
        traffic.end()
        job.catch_up()
        # rows that came before these events by far
        settled = shop_of.views
        shop_of.view(200)
        shop_of.flush()
        job.catch_up()
        job.go_on_as(pipeline, settings.model_copy(update={"parallelism": settings.parallelism + 1}))
        shop_of.view(200)
        shop_of.flush()
        job.catch_up()
        phases.append((settled, shop_of.views))
        # and one that no longer looks anything up goes on without the tables
        last = shop_of.views
        job.go_on_as(before, settings)
        shop_of.view(50)
        shop_of.flush()
        job.catch_up()
        failure = job.checkpoints()["failure"]
        job.stop()
    assert failure is None
    events, answers = read_events(broker, pipeline), read_answers(broker, pipeline)
    assert answers.predictions.keys() == {event.place for event in events}
    versions = versions_in(broker, pipeline)
    numbers = {event.place: int(msgspec.json.decode(event.value)["view_id"][1:]) for event in events}
    looked = [event for event in events if first < numbers[event.place] <= last]
    told = {event.place: place_of(answers.predictions[event.place]) for event in looked}
    exact, late = {}, 0
    for event in looked:
        view, (place, weighed) = msgspec.json.decode(event.value), told[event.place]
        exact[event.place] = timely(versions, view["item"], view["at"])
        assert weighed == (view["item"] in weights)
        if any(begin < numbers[event.place] <= end for begin, end in phases):
            assert place == exact[event.place]
        elif place != exact[event.place]:
            late += 1
            assert place is None or versions[place][:2] < (view["item"], view["at"] + 1)
    assert shop_of.generation > 10
    assert late < len(looked) / 2
    features = {
        place: [np.nan if x is None else x for x in answers.predictions[place].body["features"].values()]
        for place in told
    }
    by_told = oracle(pipeline, looked, versions, weights, {place: at for place, (at, _) in told.items()})
    for place, found in features.items():
        np.testing.assert_allclose(found, by_told[place], rtol=1e-9, atol=0, err_msg=str(place))
    views = {event.place: msgspec.json.decode(event.value) for event in events}
    as_of = {place: timely(versions, view["item"], view["at"]) for place, view in views.items()}
    assert_backfill(broker, pipeline, settings, tmp_path, oracle(pipeline, events, versions, weights, as_of))


def assert_backfill(broker, pipeline, settings, folder, expected):
    """A training set of the topic has the features of rows as of the events."""
    topic, target = pipeline.events.topic, folder / "set.parquet"
    report = run_backfill(
        BackfillRequest(
            pipeline, {"topic": topic, "start": "earliest"}, lambda: topic_pieces(broker.bootstrap, topic, None),
            target, shards=settings.shards, bootstrap=broker.bootstrap,
        )
    )  # fmt: skip
    table = pq.read_table(target)
    places = zip(table["_partition"].to_pylist(), table["_offset"].to_pylist(), strict=True)
    rows = np.array([table[name].to_numpy() for name in pipeline.feature_names]).T
    found = dict(zip(places, rows, strict=True))
    assert found.keys() == expected.keys()
    for place, row in found.items():
        np.testing.assert_allclose(row, expected[place], rtol=1e-9, atol=0, err_msg=str(place))
    assert report.missing["products no_key"] > 0
    assert report.missing["products no_row"] > 0


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


def places_in(answers):
    """Of each event, the place of the product's row that it saw."""
    return [(place, places_told(each.headers["lookups"])["products"]) for place, each in answers.predictions.items()]


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
        traffic = Traffic(shop_of)
        traffic.wait_for(300)
        job.kill_workers(settings.parallelism)
        traffic.wait_for(300)
        traffic.end()
        job.catch_up()
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
