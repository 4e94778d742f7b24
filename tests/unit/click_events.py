"""A pipeline of clicks, schemas of its events in Avro and Protobuf, and records that libraries write with them."""

import io
import json
from typing import Literal

import fastavro
import msgspec
from wire_records import batch_of

from udfs.confluent_wire import head_of
from udfs.pipeline import Count, Events, Model, Pipeline
from udfs.proto_text import compile_proto, messages_of
from udfs.registered_schema import RegisteredSchema, SchemaUnknownError
from udfs.wire_formats import Refused


class Click:
    id: str
    user: str
    page: Literal["home", "cart"]
    price: float | None
    count: int
    at: int


def clicks(**changes):
    given = {"entity": "user", "time": "at", "id": "id", **changes}
    return Pipeline("clicks", Events(Click, "clicks", **given), [Count(window="1h")], Model("m", 1), prediction="score")


class Registry:
    """Schemas in memory."""

    def __init__(self, *schemas):
        self.schemas = {schema.id: schema for schema in schemas}
        self.asked = []

    def __call__(self, schema_id):
        self.asked.append(schema_id)
        if schema_id not in self.schemas:
            raise SchemaUnknownError(f"no schema {schema_id}")
        return self.schemas[schema_id]


def avro(*fields, number=1):
    names = [{"name": name, "type": kind, **extra} for name, kind, extra in fields]
    return RegisteredSchema(number, "AVRO", json.dumps({"type": "record", "name": "Click", "fields": names}))


FIELDS = [
    ("id", "string", {}), ("user", "string", {}),
    ("page", {"type": "enum", "name": "Page", "symbols": ["home", "cart", "x"]}, {}),
    ("price", ["null", "double"], {"default": None}), ("count", "int", {}),
    ("at", {"type": "long", "logicalType": "timestamp-millis"}, {}),
]  # fmt: skip
ROW = {"id": "e1", "user": "u1", "page": "home", "price": 1.5, "count": 3, "at": 1_700_000_000_123}


def written(schema, row):
    """A record as fastavro writes it."""
    content = io.BytesIO()
    fastavro.schemaless_writer(content, fastavro.parse_schema(json.loads(schema.text)), row)
    return head_of(schema.id) + content.getvalue()


def decoded(decoder, *values, key=b"u1"):
    """One by one and together: both say the same."""
    alone = [decoder.decode(key, value) for value in values]
    many = list(values) * 13
    batch = decoder.decode_batch(batch_of([(key, value) for value in many]))
    found = dict(zip(range(len(many)) if batch.rows is None else batch.rows.tolist(), batch.events, strict=True))
    found.update(batch.refused)
    # as texts: NaN is not equal to itself
    assert [repr(fields(found[row])) for row in range(len(values))] == [repr(fields(each)) for each in alone]
    return alone[0] if len(values) == 1 else alone


def fields(event):
    return event if isinstance(event, Refused) else msgspec.structs.asdict(event)


PROTO_TEXT = """
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
message Other { string x = 1; message Inner { string id = 1; } }
enum Page { home = 0; cart = 1; x = 2; }
message Click {
  string id = 1; string user = 2; Page page = 3; optional double price = 4; int32 count = 5; int64 at = 6;
  repeated string tags = 7; map<string, Other> others = 8;
}
message Boxed {
  string id = 1; string user = 2; string page = 3; google.protobuf.DoubleValue price = 4;
  google.protobuf.Int64Value count = 5; google.protobuf.Timestamp at = 6;
}
"""
PROTO = RegisteredSchema(3, "PROTOBUF", PROTO_TEXT)


def proto_class(name, text=PROTO_TEXT):
    from google.protobuf import message_factory

    found = {one.full_name: one for one in messages_of(compile_proto(text))}[name]
    return message_factory.GetMessageClass(found)


CLICK, BOXED = proto_class("shop.Click"), proto_class("shop.Boxed")
PROTO_VALUE = head_of(3) + b"\x02\x02" + CLICK(**{**ROW, "page": 0}).SerializeToString()
