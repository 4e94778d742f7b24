"""Events joined with tables: their features in the job and in a backfill, what is counted, and what cannot look up."""

import json
from types import SimpleNamespace

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backfills import backfill, features_of, request
from shop_events import FEATURES, Product, View, products, record, shop, version
from wire_records import RECEIPT_MODEL, SCORED_AT_MS, encoder_of, headers_of, value_of

from flink_jobs.acls import needed_acls
from flink_jobs.bootstrap_job import build_state
from flink_jobs.event_files import EventFileError
from flink_jobs.lookup_tables import file_versions, histories_of, keep_histories
from flink_jobs.pipelines import load_pipeline
from flink_jobs.state_files import StateFile
from flink_jobs.topics import topic_specs
from udfs.answering import Answerer
from udfs.entity_state import ShardState
from udfs.errors import DefinitionError
from udfs.feature_records import FeatureEncoder
from udfs.lookup_join import LookupJoin
from udfs.lookup_table import LookupTable
from udfs.naive_features import NaiveFeatures
from udfs.output_batch import read_outputs
from udfs.pipeline import Lookup, Requests, Value
from udfs.plan import FeaturePlan
from udfs.record_batch import LOOKUPS, REQUESTS, RecordBatch, lookups_command, pack_records
from udfs.request_reader import request_bytes
from udfs.scoring import Scorer
from udfs.sql_features import SqlRefusedError, compile_features

VIEWS = [
    ("e0", "u0", "p0", 10), ("e1", "u1", "p1", 11), ("e2", "u0", "p1", 20), ("e3", "u0", "p9", 21),
    ("e4", "u0", None, 22), ("e5", "u1", "p0", 5), ("e6", "u0", "p0", 30), ("e7", "u1", "p2", 31),
]  # fmt: skip
ROWS = [
    version("p0", 4, 0, 2.0), version("p1", 11, 1, 3.0, kind="toy"), version("p0", 15, 2, 8.0, kind=None),
    version("p2", 9, 3, 4.0, taste=None), version("p2", 25, 4, None), version("p1", 20, 5, 0.25, taste=(9, 8, 7)),
]  # fmt: skip
SEEN = ["0/0", "0/1", "0/5", "-", "-", "0/0", "0/2", "-"]


class Sum:
    """Scores the sum of what there is; fails where a product costs 8."""

    def __init__(self, limit=np.inf):
        self.limit = limit

    def predict(self, features):
        if (features[:, 0] >= self.limit).any():
            raise ValueError("too dear")
        return np.nansum(features, axis=1)


def only_products(of=None, **changes):
    features = [each for each in FEATURES if "users.age" not in each.reads]
    return shop([products(**(of or {}))], features[:-1], include_features=True, **changes)


def joined_event(pipeline, row, of):
    """An event as the oracle reads it: fields of rows are fields of its own."""
    event = SimpleNamespace(**dict(zip(View.__annotations__, row, strict=True)))
    for lookup in pipeline.lookups:
        seen = of(lookup, event)
        for one in lookup.schema:
            value = lookup.default_of(one.name) if seen is None else getattr(seen, one.name)
            setattr(event, f"{lookup.name}.{one.name}", value)
    return event


def as_of(_, event):
    """The row of a product by its definition."""
    seen = [each for each in ROWS if each.key == event.item and each.time_ms <= event.at]
    return max(enumerate(seen), key=lambda one: (one[1].time_ms, one[0]))[1].row if seen else None


def oracle(pipeline, views=VIEWS, of=as_of):
    naive = NaiveFeatures(pipeline)
    return np.array([naive.advance(joined_event(pipeline, row, of), row[3], 0).features for row in views])


def records_of(views):
    values = [msgspec.json.encode(dict(zip(View.__annotations__, row, strict=True))) for row in views]
    numbers = list(range(len(views)))
    keys, times_ms = [row[1].encode() for row in views], [row[3] for row in views]
    return RecordBatch(pack_records(keys, values, [0] * len(views), numbers, times_ms))


def table_of(rows=ROWS, **changes):
    table = LookupTable(products(**changes), 10_000)
    table.put(rows)
    return table


def scored(pipeline, join, views=VIEWS, model=None):
    plan = FeaturePlan.build(pipeline)
    vectors = FeatureEncoder(pipeline) if pipeline.features_topic else None
    scorer = Scorer(plan, model or Sum(), encoder_of(pipeline), lambda: SCORED_AT_MS, vectors=vectors, join=join)
    return read_outputs(scorer.score(records_of(views), {0: ShardState(plan)}))


def test_features_of_rows_and_windows_over_them_are_what_the_oracle_says():
    pipeline = only_products()
    join = LookupJoin(pipeline, {"products": table_of()})
    outputs = scored(pipeline, join)
    told = [[np.nan if x is None else x for x in value_of(each)["features"].values()] for each in outputs]
    np.testing.assert_array_equal(np.array(told, np.float64), oracle(pipeline))
    assert join.missing == {"products": {"no_row": 2, "too_early": 0, "no_key": 1}}


def test_an_event_before_the_first_version_of_its_row_sees_none_and_a_delay_makes_rows_later():
    pipeline = shop([products(delay="10ms")], [Value("products.price")])
    join = LookupJoin(pipeline, {"products": table_of()})
    outputs = scored(pipeline, join, [("a", "u", "p0", 13), ("b", "u", "p0", 14), ("c", "u", "p0", 25)])
    assert [headers_of(each)["lookups"] for each in outputs] == ["products=-", "products=0/0", "products=0/2"]
    assert join.missed() == {"products too_early": 1, "products no_row": 0, "products no_key": 0}


def test_receipts_of_predictions_feature_vectors_and_dead_letters_say_which_rows_were_seen():
    pipeline = only_products(features_topic="shop-features")
    outputs = scored(pipeline, LookupJoin(pipeline, {"products": table_of()}), model=Sum(8.0))
    by_topic = {}
    for each in outputs:
        by_topic.setdefault(each.topic, {})[int(headers_of(each)["offset"])] = headers_of(each)
    seen = [f"products={each}" for each in SEEN]
    assert [by_topic["shop-features"][place]["lookups"] for place in range(8)] == seen
    (letter,) = by_topic[pipeline.dead_letters].values()
    assert (letter["reason"], letter["offset"], letter["lookups"]) == ("model_failed", "6", "products=0/2")
    predictions = by_topic[pipeline.predictions]
    assert {place: told["lookups"] for place, told in predictions.items()} == {
        place: text for place, text in enumerate(seen) if place != 6
    }
    assert "flags" not in predictions[0]


def test_a_record_that_is_no_event_saw_nothing():
    pipeline = only_products()
    plan = FeaturePlan.build(pipeline)
    join = LookupJoin(pipeline, {"products": table_of()})
    scorer = Scorer(plan, Sum(), encoder_of(pipeline), lambda: 0, join=join)
    batch = RecordBatch(pack_records([b"u"], [b"{"], [0], [0], [1]))
    (letter,) = read_outputs(scorer.score(batch, {0: ShardState(plan)}))
    assert "lookups" not in headers_of(letter)


def test_a_request_sees_the_row_as_of_its_time():
    pipeline = only_products(requests=Requests(max_age="1h", unknown="score"))
    plan, clock = FeaturePlan.build(pipeline), lambda: 40
    join = LookupJoin(pipeline, {"products": table_of()})
    answerer = Answerer(plan, Sum(), RECEIPT_MODEL, clock, join=join)
    key, content = request_bytes("r", "u0", {"item": "p0"}, as_of_ms=12)
    batch = RecordBatch(pack_records([key], [content], [0], [0], [40], command=REQUESTS))
    (reply,) = read_outputs(answerer.score(batch, {0: ShardState(plan)}))
    assert value_of(reply)["features"]["products_price"] == 2.0


def test_without_its_tables_a_pipeline_is_refused_in_one_line():
    pipeline = only_products()
    with pytest.raises(DefinitionError, match="pipeline shop reads lookups, with which this is not joined"):
        scored(pipeline, None)


def test_rows_of_a_table_cross_to_python_with_the_number_of_their_topic():
    sent = record("p1", {"product": "p1"}, 7, offset=3)
    packed = pack_records([sent.key], [sent.value], [2], [3], [7], headers=[{"h": b"x"}], names=["h"],
                          command=lookups_command(300))  # fmt: skip
    batch = RecordBatch(packed, ["h"])
    assert (batch.command, batch.topic) == (LOOKUPS, 300)
    (found,) = batch.raw()
    assert (found.key, found.value, found.parts.headers) == (sent.key, sent.value, {"h": b"x"})


ITEM_ROWS = [
    {"product": "p0", "price": 2.0, "kind": "book", "taste": [1, 2, 3], "changed_at": 4},
    {"product": "p1", "price": 3.0, "kind": "toy", "taste": None, "changed_at": 11},
    {"product": "p0", "price": 8.0, "kind": None, "taste": [0.5, 2, 3], "changed_at": 15},
]


def of_file(_, event):
    """The row of ITEM_ROWS by its definition."""
    rows = [each for each in ITEM_ROWS if each["product"] == event.item and each["changed_at"] <= event.at]
    return SimpleNamespace(**rows[-1]) if rows else None


def write_views(folder, views):
    path = folder / "views.jsonl"
    path.write_text("".join(json.dumps(dict(zip(View.__annotations__, row, strict=True))) + "\n" for row in views))
    return path


def written_file(folder, kind, rows=ITEM_ROWS):
    path = folder / f"items.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        cells = [["" if cell is None else str(cell) for cell in row.values()] for row in rows]
        lines = [",".join(f'"{cell}"' for cell in line) for line in cells]
        path.write_text("\n".join([",".join(rows[0]), *lines]) + "\n")
    return path


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_a_backfill_joins_with_the_rows_of_a_file_as_of_the_events(tmp_path, kind):
    file = written_file(tmp_path, kind)
    pipeline = only_products({"topic": None, "file": str(file)})
    views = write_views(tmp_path, VIEWS)
    table, report = backfill(pipeline, views, tmp_path / "set.parquet")
    np.testing.assert_array_equal(features_of(table, pipeline), oracle(pipeline, of=of_file))
    assert report.missing == {"products no_key": 1, "products no_row": 2}


def test_a_state_from_history_has_what_its_events_saw(tmp_path):
    pipeline = only_products({"topic": None, "file": str(written_file(tmp_path, "jsonl"))})
    views = write_views(tmp_path, VIEWS[:6])
    (digest,), _ = build_state(request(pipeline, views, tmp_path / "state", shards=1))
    plan = FeaturePlan.build(pipeline)
    state = ShardState.restore(plan, StateFile(tmp_path / "state" / "000.state", digest).entries())
    files = keep_histories(pipeline, tmp_path / "kept", "", None).files
    join = LookupJoin(pipeline, histories_of(pipeline, files))
    scorer = Scorer(plan, Sum(), encoder_of(pipeline), lambda: SCORED_AT_MS, join=join)
    outputs = read_outputs(scorer.score(records_of(VIEWS[6:]), {0: state}))
    told = [value_of(each)["features"].values() for each in outputs]
    found = [[np.nan if x is None else x for x in row] for row in told]
    np.testing.assert_array_equal(np.array(found), oracle(pipeline, of=of_file)[6:])


def test_rows_of_a_file_without_times_always_were(tmp_path):
    file = written_file(tmp_path, "jsonl", ITEM_ROWS[:2])
    lookup = Lookup("products", Product, file=str(file), key="product", by="item")
    pipeline = shop([lookup], [Value("products.taste")])
    files = keep_histories(pipeline, tmp_path / "kept", "", None).files
    join = LookupJoin(pipeline, histories_of(pipeline, files))
    outputs = scored(pipeline, join, [("a", "u", "p0", 0), ("b", "u", "p1", 0)])
    assert [headers_of(each)["lookups"] for each in outputs] == ["products=-1/1", "products=-1/2"]
    assert [value_of(each)["score"] for each in outputs] == [6.0, 0.0]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"price": "dear"}, "row 1 of items.jsonl: price is 'dear'"), ({"price": None}, "price is missing"),
        ({"kind": "car"}, "kind is 'car'"), ({"taste": [1, 2]}, r"taste is \[1.0, 2.0\]"),
        ({"product": None}, "product is missing"), ({"changed_at": -1}, "changed_at is -1, which is no time in ms"),
    ],
)  # fmt: skip
def test_a_row_of_a_file_that_is_none_is_named(tmp_path, row, why):
    file = written_file(tmp_path, "jsonl", [{**ITEM_ROWS[0], **row}])
    with pytest.raises(EventFileError, match=why):
        list(file_versions(products(topic=None, file=str(file)), file))


def test_a_file_with_a_row_twice_or_without_a_column_or_that_is_not_there_is_refused(tmp_path):
    file = written_file(tmp_path, "csv")
    lookup = Lookup("products", Product, file=str(file), key="product", by="item")
    with pytest.raises(EventFileError, match=r"row 3 of items\.csv: product 'p0' was there before"):
        list(file_versions(lookup, file))
    file.write_text("product,price\np0,1\n")
    with pytest.raises(EventFileError, match=r"items\.csv has no column changed_at"):
        list(file_versions(lookup, file))
    with pytest.raises(EventFileError, match=r"gone\.csv is not a file"):
        list(file_versions(lookup, tmp_path / "gone.csv"))


def test_topics_of_tables_are_compacted_and_may_be_read_by_the_job_and_backfills():
    pipeline = shop()
    specs = {spec.name: spec for spec in topic_specs(pipeline, 1_000)}
    assert specs["products"].settings == {"cleanup.policy": "compact", "min.compaction.lag.ms": "1000"}
    assert {spec.name: spec for spec in topic_specs(pipeline)}["users"].settings == {"cleanup.policy": "compact"}
    allowed = {(acl.command, acl.name) for acl in needed_acls(pipeline) if acl.operation == "Read"}
    assert {(command, name) for command in ("run", "backfill") for name in ("products", "users")} <= allowed
    assert not {acl.name for acl in needed_acls(pipeline) if acl.operation == "Write"} & {"products", "users"}


def test_sql_cannot_look_up_and_refuses_in_one_line():
    with pytest.raises(SqlRefusedError, match="join with nothing, and there are lookups: products, users"):
        compile_features(shop())


def test_the_file_of_a_lookup_is_looked_for_beside_its_pipeline(tmp_path):
    (tmp_path / "shop.py").write_text("""
from udfs.pipeline import *
class View:
    view_id: str
    user: str
    at: int
class User:
    user: str
    age: int | None
pipeline = Pipeline("shop", Events(View, "views", entity="user", time="at", id="view_id"), [Value("users.age")],
    Model("m", 1), "score", lookups=[Lookup("users", User, file="users.csv", key="user")])
""")
    (lookup,) = load_pipeline(str(tmp_path / "shop.py")).lookups
    assert lookup.file == str(tmp_path / "users.csv")
