"""A pipeline of views of products, with tables of products and users, and rows of them."""

from typing import Annotated, Literal

import msgspec
import numpy as np

from udfs.lookup_entries import RowVersion, row_type
from udfs.lookup_rows import RowReader
from udfs.pipeline import Count, Events, Lookup, Mean, Model, OneHot, Pipeline, Value, field
from udfs.raw_record import RawRecord, RecordParts


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


class User:
    user: str
    age: int | None
    at: int


class Weight:
    item: str
    grams: float | None


def products(**changes):
    given = {"topic": "products", "key": "product", "by": "item", "time": "changed_at", "defaults": {"price": 0.5}}
    return Lookup("products", Product, **{**given, **changes})


def users(**changes):
    given = {"topic": "users", "key": "user", "time": "at", "fields": {"at": "@timestamp"}}
    return Lookup("users", User, **{**given, **changes})


FEATURES = [
    Value("products.price"), Value("products.taste"), OneHot("products.kind"), Value("users.age", fill=-1.0),
    Mean("products.price", window="1h"), Count(where=field("products.kind") == "book", window="1h"),
    Count(where=(field("products.price") > 1) & (field("item") != "i9"), window="1h"), Value("products.taste[1]"),
]  # fmt: skip


def shop(lookups=None, features=None, *, name="shop", topic="views", **changes):
    events = Events(View, topic, entity="user", time="at", id="view_id")
    given = {"model": Model("m", 1), "prediction": "score", **changes}
    lookups = [products(), users()] if lookups is None else lookups
    return Pipeline(name, events, features or FEATURES[:-1], lookups=lookups, **given)


_PRODUCT = row_type(products())


def version(key, time_ms, offset, price=1.0, *, kind="book", taste=(1.0, 2.0, 3.0), partition=0):
    """A version of a product; deleted where its price is None."""
    vector = None if taste is None else np.array(taste)
    row = None if price is None else _PRODUCT(key, price, kind, vector, time_ms)
    return RowVersion(key, time_ms, partition, offset, row)


def record(key, row, time_ms=1, *, partition=0, offset=0):
    """A table's record in JSON."""
    value = None if row is None else msgspec.json.encode(row)
    return RawRecord(key if key is None else key.encode(), value, RecordParts(partition, offset, time_ms))


def read(lookup, *records):
    reader = RowReader(lookup)
    return [reader.read(each) for each in records]
