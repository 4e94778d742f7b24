"""Hard rows for the tables of lookups, and the oracle's join of events with them, held against the engines' own."""

import dataclasses
import json
from collections import Counter
from typing import Literal

import msgspec
import numpy as np
import pytest
from shop_events import products, shop, users
from test_parity import given_of, rows_of
from wire_records import PURCHASE

from flink_jobs import own_tables
from flink_jobs.console import CommandError
from flink_jobs.decoding import event_decoder
from flink_jobs.hard_events import hard_records
from flink_jobs.hard_rows import SPAN_MS, asked_rows, hard_rows
from flink_jobs.kafka_admin import TopicMissingError
from flink_jobs.local.live_shop import can_generate
from flink_jobs.own_tables import copy_tables, file_keys, table_spans
from flink_jobs.parity_command import _chosen
from flink_jobs.parity_comparison import Comparison, Side, compare
from flink_jobs.parity_engines import Said, oracle_of_shard
from flink_jobs.parity_job import ENGINES, _differences
from flink_jobs.parity_rows import FEATURES, spooled
from flink_jobs.settings import Settings
from udfs.lookup_join import LookupHistory, LookupJoin
from udfs.lookup_rows import RowReader
from udfs.lookup_table import LookupTable
from udfs.naive_join import CameRow, NaiveJoin, fields_of_row
from udfs.pipeline import Count, Events, Lookup, Mean, Model, OneHot, Pipeline, Value, field
from udfs.raw_record import RawRecord, RecordParts
from udfs.refused import Refused


class Reading:
    number: int
    sensor: int
    place: int | None
    at: float


class Sensor:
    sensor: int
    since: float
    kind: Literal["new", "old"] | None
    weight: float = 1.5


class Place:
    place: int
    name: str | None
    since: int


READINGS = Pipeline(
    name="read",
    events=Events(Reading, topic="readings", entity="sensor", time="at", id="number", time_unit="s"),
    features=[
        Value("sensors.weight"), OneHot("sensors.kind"), Mean("sensors.weight", window="1h"),
        Count(where=field("places.name") == "attic", window="10m"),
    ],
    model=Model("m", 1),
    prediction="score",
    lookups=[
        Lookup("sensors", Sensor, topic="sensors", key="sensor", time="since", time_unit="s", delay="2s"),
        Lookup("places", Place, topic="places", key="place", time="since", time_unit="us"),
    ],
)  # fmt: skip
PIPELINES = [shop(), READINGS]
SHOPS = pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda each: each.name)


def events_of(pipeline, count=3_000, seed=4):
    """The hard events, with the time of each."""
    decode = event_decoder(pipeline).decode
    events = [decode(key, value) for key, value, reason in hard_records(pipeline, count, seed) if reason is None]
    times_ms = pipeline.events.times_ms([getattr(event, pipeline.events.time) for event in events]).tolist()
    return list(zip(events, times_ms, strict=True))


def rows_for(pipeline, seed=4):
    """By lookup, the hard records of its table."""
    records = ((key, value) for key, value, _ in hard_records(pipeline, 3_000, 4))
    asked = asked_rows(pipeline, records, seed)
    return {each.name: hard_rows(pipeline, each, asked[each.name], seed) for each in pipeline.lookups}


def plain(lookup):
    return dataclasses.replace(lookup, fields={})


def versions_of(lookup, rows):
    """What the reader of rows makes of them, in order of arrival; and why what is none is none."""
    reader = RowReader(plain(lookup))
    read = [
        reader.read(RawRecord(row.key, row.value, RecordParts(0, offset, 1 if row.time_ms is None else row.time_ms)))
        for offset, row in enumerate(rows)
    ]
    refused = [each.reason if isinstance(each, Refused) else None for each in read]
    return [each for each in read if not isinstance(each, Refused)], refused


def came(version):
    row = version.row
    return CameRow(version.key, version.time_ms, None if row is None else fields_of_row(row))


@pytest.fixture(scope="module", params=PIPELINES, ids=lambda each: each.name)
def joined(request):
    pipeline = request.param
    rows = rows_for(pipeline)
    versions = {each.name: versions_of(each, rows[each.name])[0] for each in pipeline.lookups}
    return pipeline, events_of(pipeline), versions


@SHOPS
def test_the_same_seed_gives_the_same_rows_and_another_one_others(pipeline):
    rows = rows_for(pipeline)
    assert rows == rows_for(pipeline)
    assert rows != rows_for(pipeline, seed=5)


@SHOPS
def test_every_record_is_a_row_or_is_none_for_the_reason_it_was_made_for(pipeline):
    for lookup in pipeline.lookups:
        rows = rows_for(pipeline)[lookup.name]
        _, refused = versions_of(lookup, rows)
        assert refused == [row.reason for row in rows]
        reasons = Counter(refused)
        assert {"not_json", "wrong_type", "key_mismatch", "invalid_time", "missing_field", "null_value"} <= set(reasons)
        assert reasons[None] > 0.6 * len(rows)


def test_most_events_find_a_row_and_every_reason_for_none_occurs(joined):
    pipeline, events, versions = joined
    tables = {name: LookupHistory(found) for name, found in versions.items()}
    join = LookupJoin(pipeline, tables)
    join.of([event for event, _ in events])
    for name, missing in join.missing.items():
        assert 0 < sum(missing.values()) < len(events) / 2, (name, missing)
        assert missing["no_row"] > 10
        assert missing["too_early"] > 10
    nullable = pipeline.lookups[0 if pipeline.name == "shop" else 1].name
    assert join.missing[nullable]["no_key"] > 10


def test_versions_are_before_at_and_after_events_at_equal_times_unordered_and_deleted(joined):
    pipeline, events, versions = joined
    for lookup in pipeline.lookups:
        found = versions[lookup.name]
        asked_ms = {}
        for event, time_ms in events:
            asked_ms.setdefault(str(getattr(event, lookup.event_field)), []).append(time_ms - lookup.delay_ms)
        steps = Counter(min((each.time_ms - asked for asked in asked_ms[each.key]), key=abs) for each in found)
        assert min(steps[-1], steps[0], steps[1]) > 10
        by_key = {}
        for each in found:
            by_key.setdefault(each.key, []).append(each.time_ms)
        assert any(times != sorted(times) for times in by_key.values())
        assert any(len(set(times)) < len(times) for times in by_key.values())
        assert max(map(len, by_key.values())) > 5
        assert sum(each.row is None for each in found) > 10
        assert max(each.time_ms for each in found) - min(each.time_ms for each in found) <= SPAN_MS


def test_fields_of_rows_are_null_left_out_hard_and_what_conditions_compare_with():
    pipeline = shop()
    found, _ = versions_of(pipeline.lookups[0], rows_for(pipeline)["products"])
    rows = [each.row for each in found if each.row is not None]
    assert {row.kind for row in rows} == {"book", "toy", None}
    assert {row.taste is None for row in rows} == {True, False}
    prices = [row.price for row in rows]
    assert {0.0, 1.0, np.nextafter(1.0, 2.0)} <= set(prices)
    assert any(price and abs(price) > 1e140 for price in prices)
    written = [json.loads(row.value) for row in rows_for(pipeline)["products"] if row.value and not row.reason]
    assert {"taste" in row for row in written} == {True, False}


def test_the_oracle_joins_as_the_history_does_and_as_a_table_that_forgets_nothing(joined):
    pipeline, events, versions = joined
    naive = NaiveJoin(pipeline, {name: map(came, found) for name, found in versions.items()})
    told = [naive.seen(event, time_ms) for event, time_ms in events]
    tables = {each.name: LookupTable(each, 2 * SPAN_MS) for each in pipeline.lookups}
    for name, table in tables.items():
        table.put(versions[name])
    for found in ({name: LookupHistory(each) for name, each in versions.items()}, tables):
        rows = LookupJoin(pipeline, found).of([event for event, _ in events]).rows
        for lookup in pipeline.lookups:
            for one in lookup.schema:
                ours = [getattr(event, f"{lookup.name}.{one.name}") for event in told]
                theirs = [fields_of_row(row)[one.name] for row in rows[lookup.name]]
                assert ours == theirs, (lookup.name, one.name)


def test_by_the_definition_of_one_time_the_last_to_come_is_valid_and_a_deletion_is_no_row():
    pipeline = shop([users(fields={}, delay="5ms")], [Value("users.age", fill=-1.0)])
    rows = [
        CameRow("u", 20, {"user": "u", "age": 2, "at": 20}), CameRow("u", 10, {"user": "u", "age": 1, "at": 10}),
        CameRow("u", 20, {"user": "u", "age": 3, "at": 20}), CameRow("u", 30, None),
        CameRow("v", 0, {"user": "v", "age": 9, "at": 0}),
    ]  # fmt: skip
    naive = NaiveJoin(pipeline, {"users": rows})
    (event, _), *_ = events_of(pipeline, 50)
    seen = [
        getattr(naive.seen(type(event)(**{**fields(event), "user": user}), at), "users.age")
        for user, at in [("u", 14), ("u", 15), ("u", 24), ("u", 25), ("u", 34), ("u", 35), ("v", 5), ("w", 99)]
    ]
    assert seen == [None, 1, 1, 3, 3, None, 9, None]


def fields(event):
    return {name: getattr(event, name) for name in event.__struct_fields__}


def test_events_without_lookups_are_what_they_were():
    pipeline = shop([], [Value("at")])
    event = object()
    assert NaiveJoin(pipeline, {}).seen(event, 1) is event


def of_file(tmp_path, rows):
    file = tmp_path / "products.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return shop([products(topic=None, file=str(file))], FILE_FEATURES)


FILE_FEATURES = [Value("products.price"), Mean("products.price", window="1h"), Count(window="1h")]


def test_keys_of_a_table_from_a_file_are_likely_in_hard_events(tmp_path):
    made = [{"product": f"p{n}", "price": n, "kind": None, "changed_at": 0} for n in range(30)]
    pipeline = of_file(tmp_path, made)
    likely = file_keys(pipeline)
    assert likely == {"item": [f"p{n}" for n in range(30)]}
    decode = event_decoder(pipeline).decode
    records = hard_records(pipeline, 2_000, 1, likely)
    events = [decode(key, value) for key, value, reason in records if reason is None]
    assert 0.15 < sum(event.item in likely["item"] for event in events) / len(events) < 0.5
    records = hard_records(pipeline, 2_000, 1, {"user": ["ann", "bob"]})
    assert {b"ann", b"bob"} < {record.key for record in records}


def spooled_input(pipeline, folder, records, versions):
    """An input with the rows of its only lookup, as a run spools them."""
    given = given_of(pipeline, records, folder)
    (lookup,) = pipeline.lookups
    path = given.table_file(lookup)
    path.parent.mkdir()
    with path.open("wb") as file:
        for each in versions:
            content = msgspec.msgpack.encode(came(each))
            file.write(len(content).to_bytes(4, "little") + content)
    return given


def test_an_engine_that_sees_the_version_before_is_found_and_the_row_of_the_event_is_told(tmp_path):
    pipeline = shop([products()], FILE_FEATURES)
    records = list(hard_records(pipeline, 1_500, 4))
    asked = asked_rows(pipeline, [(key, value) for key, value, _ in records], 4)
    versions, _ = versions_of(pipeline.lookups[0], hard_rows(pipeline, pipeline.lookups[0], asked["products"], 4))
    later = [each._replace(time_ms=each.time_ms + 1) for each in versions]
    (tmp_path / "wrong").mkdir()
    given = spooled_input(pipeline, tmp_path, records, versions)
    wrong = spooled_input(pipeline, tmp_path / "wrong", records, later)
    oracle, planted = rows_of(given, "oracle"), rows_of(given, "planted")
    for shard in range(given.shards):
        oracle_of_shard(given, oracle, shard)
        oracle_of_shard(wrong, planted, shard)
    sides = [Side("oracle", oracle, Said()), Side("backfill", planted, Said())]
    result = {each.feature: each for each in compare(given, *sides, None)}
    assert 0 < result["products_price"].differences < 600
    assert result["products_price_mean_1h"].differences > 0
    assert result["count_1h"].differences == 0
    told = {each.comparison.feature: each for each in _differences(given, sides, list(result.values()))}
    event = told["products_price"].events[-1]["event"]
    assert event["products.price"] == told["products_price"].values["oracle"]
    assert event["item"] is not None


def test_sums_that_cancel_out_are_measured_by_the_rows_that_went_in(tmp_path):
    pipeline = shop([products()], FILE_FEATURES)
    records = list(hard_records(pipeline, 300, 4))
    given = spooled_input(pipeline, tmp_path, records, [])
    oracle, planted = rows_of(given, "oracle"), rows_of(given, "planted")
    for shard in range(given.shards):
        oracle_of_shard(given, oracle, shard)
    planted.features[:], planted.answers[:] = oracle.features, oracle.answers
    planted.reasons[:], planted.late[:] = oracle.reasons, oracle.late
    row = next(one.row for shard in range(given.shards) for one in spooled(given.shard_file(shard))
               if oracle.answers[one.row] == FEATURES)  # fmt: skip
    planted.features[row, 1] += 1e-6
    sides = [Side("oracle", oracle, Said()), Side("backfill", planted, Said())]
    result = {each.feature: each for each in compare(given, *sides, None)}
    assert isinstance(result["products_price_mean_1h"], Comparison)
    assert result["products_price_mean_1h"].differences == 1


def test_sql_is_left_out_of_pipelines_with_lookups_and_refused_where_it_is_named():
    assert _chosen([], shop()) == [each for each in ENGINES if each != "sql"]
    assert _chosen([], shop([], [Value("at")])) == list(ENGINES)
    with pytest.raises(CommandError, match="--engines names sql, which cannot compute shop: it joins events with no"):
        _chosen(["oracle,sql"], shop())


def test_tables_whose_topics_cannot_be_read_are_refused_in_one_line(monkeypatch, tmp_path):
    def missing(*_, **__):
        raise TopicMissingError("topic products does not exist")

    settings = Settings(home=tmp_path, bootstrap="localhost:1")
    monkeypatch.setattr("flink_jobs.local.home.BROKER_WAIT_S", 0.1)
    with pytest.raises(CommandError, match="their topics, here products: no Kafka broker answers at localhost:1"):
        table_spans(shop(), settings)
    monkeypatch.setattr(own_tables, "connected", lambda _: None)
    monkeypatch.setattr(own_tables, "topic_starts", missing)
    why = "the rows of lookups are copied from their topics, here products: topic products does not exist"
    with pytest.raises(CommandError, match=why):
        table_spans(shop(), settings)
    with pytest.raises(CommandError, match=why):
        copy_tables(shop(), settings, "own:9092")
    assert table_spans(shop([], [Value("at")]), settings) == {}


def test_a_job_forgets_nothing_of_tables_of_our_own_and_features_mean_the_same():
    pipeline = shop()
    own = dataclasses.replace(pipeline, lookups=[own_tables._remembering(each)
                                                 for each in pipeline.lookups])  # fmt: skip
    assert min(each.history_ms(pipeline.lateness_ms) for each in own.lookups) > SPAN_MS
    names = pipeline.feature_names
    assert own.feature_set_hash(names) == pipeline.feature_set_hash(names)


class Page:
    page: str
    weight: float
    since: int


def test_simulated_shoppers_make_events_of_pipelines_with_lookups():
    lookup = Lookup("pages", Page, topic="pages", key="page", by="page_id", time="since", defaults={"weight": 1.0})
    assert can_generate(dataclasses.replace(PURCHASE, lookups=[lookup]))
