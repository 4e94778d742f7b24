"""A pipeline whose events come from three topics, none keyed by its entity: clicks, orders, and a table's changes."""

import dataclasses
import functools
import io
import json
from typing import Literal

import fastavro
import msgspec
from google.protobuf import message_factory

from udfs.pipeline import Avro, Count, Debezium, Events, Mean, Model, Pipeline, Protobuf, Source, Sum, Value, field
from udfs.proto_text import compile_proto, messages_of

ORDER_PROTO = """
syntax = "proto3";
message Order { string order_id = 1; int64 time_s = 2; double amount = 3; optional string referrer = 4; }
"""
_ROW = {"type": "record", "name": "Row", "fields": [{"name": name, "type": "string"} for name in ("id", "customer_id")]}
ADDRESS_AVRO = json.dumps({"type": "record", "name": "Envelope", "fields": [
    {"name": "before", "type": ["null", _ROW]}, {"name": "after", "type": ["null", "Row"]},
    {"name": "op", "type": "string"}, {"name": "ts_ms", "type": ["null", "long"], "default": None},
    {"name": "source", "type": {"type": "record", "name": "Origin", "fields": [{"name": "ts_ms", "type": "long"}]}},
]})  # fmt: skip
FORMATS = {"orders": Protobuf(schema=ORDER_PROTO), "addresses": Avro(schema=ADDRESS_AVRO)}


def in_format(form, document):
    """A record as others write it."""
    if isinstance(form, Protobuf):
        return _message(form.schema)(**document).SerializeToString()
    if isinstance(form, Avro):
        content = io.BytesIO()
        fastavro.schemaless_writer(content, fastavro.parse_schema(json.loads(form.schema)), document)
        return content.getvalue()
    return msgspec.json.encode(document)


@functools.cache
def _message(text):
    return message_factory.GetMessageClass(messages_of(compile_proto(text))[0])


class ShopEvent:
    """What a customer did."""

    event_id: str
    customer: str
    kind: Literal["click", "order", "address"]
    at: int
    page: str | None
    amount: float | None


def shop_pipeline(name, model=None, formats=None, **changes):
    """The pipeline with topics of its own; `formats` are those of sources that have no JSON, by their last name."""
    formats = {f"{name}-{source}": form for source, form in (formats or {}).items()}
    sources = [
        Source(f"{name}-clicks", fields={"event_id": "@place", "customer": "user.id"}, constants={"kind": "click"}),
        Source(
            f"{name}-orders",
            fields={"event_id": "order_id", "customer": "@key", "at": "time_s", "page": "referrer"},
            constants={"kind": "order"},
            time_unit="s",
        ),
        Source(
            f"{name}-addresses",
            fields={"event_id": "id", "customer": "customer_id", "at": "@ts_ms"},
            constants={"kind": "address", "page": None, "amount": None},
            changes=Debezium(operations=("create", "update", "delete")),
        ),
    ]
    sources = [dataclasses.replace(one, format=formats.get(one.topic, one.format)) for one in sources]
    events = Events(
        ShopEvent, topic=f"{name}-events", partitions=2, entity="customer", time="at", id="event_id", sources=sources
    )
    return Pipeline(
        name=name,
        events=events,
        features=[
            Count(window="1h"),
            Count(where=field("kind") == "order", window="1h"),
            Sum("amount", window="1h"),
            Mean("amount", window="1d"),
            Value("amount"),
        ],
        model=model or Model("shop", version=1),
        prediction="score",
        predictions=f"{name}-predictions",
        dead_letters=f"{name}-dead-letters",
        include_features=True,
        **changes,
    )
