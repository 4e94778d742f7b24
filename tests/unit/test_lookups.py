"""What a lookup is, what of it is refused in one line, and how its records become versions of rows."""

import math

import numpy as np
import pytest
from shop_events import FEATURES, Product, View, products, read, record, shop, users

from udfs.pipeline import Avro, DefinitionError, Events, Lookup, Model, Pipeline, Value
from udfs.refused import Refused

ROW = {"product": "p1", "price": 2.5, "kind": "toy", "taste": [1, 2, 3.5], "changed_at": 5}


def test_features_of_lookups_are_named_by_table_and_field():
    assert shop().feature_names == (
        "products_price", "products_taste_0", "products_taste_1", "products_taste_2", "products_kind_is_book",
        "products_kind_is_toy", "users_age", "products_price_mean_1h", "products_kind_is_book_count_1h",
        "products_price_gt_1_and_item_is_not_i9_count_1h",
    )  # fmt: skip
    assert shop(features=[FEATURES[-1]]).feature_names == ("products_taste_1",)
    assert shop().blocks == {"products_taste": ("products_taste_0", "products_taste_1", "products_taste_2")}


def test_a_job_reads_the_events_field_that_names_the_row():
    assert shop(features=[Value("products.price")]).columns_used == ("view_id", "user", "item", "at")


def test_what_a_missing_row_means_is_in_the_hash_of_the_features_and_what_is_not_read_is_not():
    price, age = [Value("products.price")], [Value("users.age")]
    told = shop(features=price).feature_set_hash()
    assert shop([products(topic="others"), users()], price).feature_set_hash() == told
    assert shop([products(defaults={"price": 0.5, "kind": "toy"}), users()], price).feature_set_hash() == told
    assert shop([products(defaults={"price": 0.75}), users()], price).feature_set_hash() != told
    assert shop([products(delay="1s"), users()], price).feature_set_hash() != told
    assert shop([products(delay="1s"), users()], age).feature_set_hash() == shop(features=age).feature_set_hash()


def test_a_pipeline_without_lookups_has_the_hash_it_always_had():
    events = Events(View, "views", entity="user", time="at", id="view_id")
    found = Pipeline("shop", events, [Value("at")], Model("m", 1), "score").feature_set_hash()
    assert found == "57452886fa17b51344d5461102ea158ce31e5d8e6b4d6bccd32749b4f75af237"


def test_the_description_says_the_tables():
    assert shop([products(delay="1s")], [Value("products.price")]).describe()["lookups"] == [
        {
            "name": "products", "topic": "products", "file": None, "by": "item", "key": "product",
            "fields": ["product", "price", "kind", "taste", "changed_at"],
            "time": "changed_at", "delay": "1s", "history": None,
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"topic": None}, "write where its rows are"),
        ({"file": "products.csv"}, "write where its rows are"),
        ({"time": None}, "time is the field that says from when on"),
        ({"key": "sku"}, "Product has no field 'sku'"),
        ({"key": "price"}, "key field 'price' must be str or int and not optional"),
        ({"key": "kind"}, "key field 'kind' must be str or int and not optional"),
        ({"time": "product"}, "time field 'product' must be int or float"),
        ({"delay": "soon"}, "lookup products: delay is 'soon'"),
        ({"history": "0s"}, "lookup products: history is '0s'"),
        ({"most_rows": 0}, "most_rows is 0; write a whole number from 1 on"),
        ({"most_versions": True}, "most_versions is True"),
        ({"topic": "a b"}, "'a b'; write a Kafka topic name"),
        ({"fields": {"sku": "@key"}}, "no field 'sku'"),
        ({"defaults": {"sku": 1}}, "Product has no field 'sku'"),
        ({"defaults": {"product": "p"}}, "defaults names the key"),
        ({"defaults": {"price": "dear"}}, "the default price is 'dear'"),
        ({"defaults": {"kind": "car"}}, "the default kind is 'car'"),
        ({"defaults": {"taste": [1.0]}}, r"the default taste is \[1.0\]"),
        ({"defaults": {"taste": [1.0, 2.0, math.inf]}}, "the default taste is"),
        ({"topic": None, "file": "products.csv", "fields": {"price": "cost"}}, "a file has columns"),
    ],
)
def test_a_table_that_cannot_be_is_refused_in_one_line(changes, why):
    with pytest.raises(DefinitionError, match=why) as refused:
        products(**changes)
    assert "\n" not in str(refused.value)


def test_a_name_that_features_cannot_have_is_refused():
    with pytest.raises(DefinitionError, match="name is 'My products'"):
        Lookup("My products", Product, topic="products", key="product", time="changed_at")


class Numbered:
    product: int
    at: int


@pytest.mark.parametrize(
    ("lookups", "features", "why"),
    [
        (products(), [Value("products.price")], r"write lookups=\[Lookup"),
        ([products], [Value("at")], "write Lookup"),
        ([products(), products()], [Value("at")], "two lookups are called 'products'"),
        ([products(topic="views")], [Value("at")], "need different topics"),
        ([products(by="sku")], [Value("at")], "lookup products: by: View has no field 'sku'"),
        ([Lookup("user", Product, topic="p", key="product", time="changed_at", by="item")], [Value("at")], "rename it"),
        ([Lookup("n", Numbered, topic="p", key="product", time="at", by="item")], [Value("at")], "item is str, the"),
        ([products()], [Value("products.cost")], "no field 'products.cost'"),
        ([products()], [Value("users.age")], "no field 'users.age'"),
        ([products()], [Value("products.kind")], "products.kind' is str"),
        ([products(defaults={})], [Value("products.price")], "products.price is nothing for an event without a row"),
    ],
)
def test_a_pipeline_that_cannot_look_up_is_refused_in_one_line(lookups, features, why):
    with pytest.raises(DefinitionError, match=why) as refused:
        shop(lookups, features)
    assert "\n" not in str(refused.value)


def test_one_topic_may_be_looked_up_by_two_fields():
    sender, receiver = (Lookup(name, Product, topic="products", key="product", by=by, time="changed_at")
                        for name, by in (("a", "user"), ("b", "item")))  # fmt: skip
    assert len(shop([sender, receiver], [Value("a.taste"), Value("b.taste")]).feature_names) == 6


def test_a_record_is_a_version_of_its_row():
    (found,) = read(products(), record("p1", ROW, 99, partition=2, offset=7))
    assert found[:4] == ("p1", 5, 2, 7)
    assert (found.row.price, found.row.kind, found.row.changed_at) == (2.5, "toy", 5)
    assert found.row.taste.dtype == np.float64
    assert found.row.taste.tolist() == [1.0, 2.0, 3.5]


def test_a_record_without_a_value_deletes_its_row_from_the_records_time_on():
    assert read(products(), record("p1", None, 99, offset=8)) == [("p1", 99, 0, 8, None)]


def test_times_and_keys_are_read_from_wherever_they_are():
    (found,) = read(users(fields={"at": "@timestamp", "user": "@key"}), record("u1", {"age": 30}, 77))
    assert found[:2] == ("u1", 77)
    assert (found.row.user, found.row.age) == ("u1", 30)
    (found,) = read(products(time_unit="s"), record("p1", ROW))
    assert found.time_ms == 5_000


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (record(None, ROW), "key_mismatch"), (record(None, None), "null_value"), (record("p2", ROW), "key_mismatch"),
        (record("p1", {**ROW, "price": "dear"}), "wrong_type"), (record("p1", {**ROW, "taste": [1]}), "wrong_type"),
        (record("p1", {**ROW, "kind": "car"}), "unknown_category"), (record("p1", {"product": "p1"}), "missing_field"),
        (record("p1", {**ROW, "changed_at": -1}), "invalid_time"), (record("p1", None, -1), "invalid_time"),
        (record("p1", [1]), "wrong_type"), (record("p1", ROW)._replace(key=b"\xff"), "key_mismatch"),
        (record("p1", ROW)._replace(key=b"\xff", value=None), "null_value"),
        (record("p1", ROW)._replace(value=b"{"), "not_json"), (record("p1", {**ROW, "x": "x" * 300}), "too_large"),
    ],
)  # fmt: skip
def test_a_record_that_is_no_row_says_why(sent, reason):
    (found,) = read(products(max_record_bytes=200), sent)
    assert isinstance(found, Refused)
    assert found.reason == reason


def test_a_number_that_the_state_cannot_hold_is_refused():
    (found,) = read(users(), record("u1", {"user": "u1", "age": 2**63}))
    assert found == Refused("wrong_type", f"age is {2**63}, which is no whole number of 64 bits")


def test_rows_are_read_in_other_formats():
    schema = """{"type": "record", "name": "P", "fields": [{"name": "product", "type": "string"},
        {"name": "price", "type": "double"}, {"name": "changed_at", "type": "long"}]}"""
    value = b"\x04p1" + np.array(2.5).tobytes() + b"\x0a"
    (found,) = read(products(format=Avro(schema=schema)), record("p1", None)._replace(value=value))
    assert found[:2] == ("p1", 5)
    assert (found.row.price, found.row.kind, found.row.taste) == (2.5, None, None)
