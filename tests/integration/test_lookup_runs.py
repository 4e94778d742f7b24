"""Events joined with tables that change meanwhile, the workers killed: each sees what its receipt says, and in the end
what a backfill says, windows included."""

from types import SimpleNamespace

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from answers import read_answers, read_events
from jobs import JobProcess
from lookup_traffic import PRODUCTS, Shop, Traffic, kill_workers_under, timely, versions_in
from shop_events import Weight, products, shop
from workloads import log_model, make_topics, settings_of

from flink_jobs.backfill_job import run_backfill
from flink_jobs.backfill_request import BackfillRequest
from flink_jobs.history_topic import topic_pieces
from udfs.lookup_join import default_row, places_told
from udfs.naive_features import NaiveFeatures
from udfs.pipeline import Count, Lookup, Mean, OneHot, Value, field

pytestmark = pytest.mark.integration

FEATURES = [
    Value("products.price"), Value("products.taste"), OneHot("products.kind"), Value("weights.grams"),
    Mean("products.price", window="1h"), Count(where=field("products.kind") == "book", window="10s"),
]  # fmt: skip


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
        kill_workers_under(Traffic(shop_of), job, settings, 300, 600)
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
