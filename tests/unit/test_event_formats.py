"""Events in Avro, Protobuf and JSON Schema: what libraries write is read, and nothing broken stops it."""

import json
import struct

import msgspec
import pytest
from click_events import (
    BOXED,
    CLICK,
    FIELDS,
    PROTO,
    PROTO_TEXT,
    PROTO_VALUE,
    ROW,
    Registry,
    avro,
    clicks,
    decoded,
    fields,
    written,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from udfs.confluent_wire import head_of, message_indexes, read_zigzag, zigzag
from udfs.formats import Avro, JsonSchema, Protobuf
from udfs.pipeline import DefinitionError
from udfs.registered_schema import RegisteredSchema, RegistryUnreachableError
from udfs.wire_formats import REASONS, EventDecoder, Refused


def test_avro_with_a_registry_is_read_and_the_registry_is_asked_once():
    registry = Registry(avro(*FIELDS))
    decoder = EventDecoder(clicks(format=Avro()), registry)
    event = decoded(decoder, written(registry.schemas[1], ROW))
    assert fields(event) == ROW
    assert registry.asked == [1]


def test_records_of_several_schemas_in_one_batch_are_read_by_their_own():
    grown = avro(*FIELDS, ("more", {"type": "array", "items": "string"}, {}), number=2)
    shrunk = avro(*(one for one in FIELDS if one[0] != "price"), number=3)
    decoder = EventDecoder(clicks(format=Avro()), Registry(avro(*FIELDS), grown, shrunk))
    values = [
        written(avro(*FIELDS), ROW), written(grown, {**ROW, "more": ["a"] * 3}),
        written(shrunk, {name: value for name, value in ROW.items() if name != "price"}),
    ]  # fmt: skip
    events = decoded(decoder, *values)
    assert [event.price for event in events] == [1.5, 1.5, None]


@pytest.mark.parametrize(
    ("unit", "logical", "given_time", "time"),
    [
        ("ms", "timestamp-micros", 1_700_000_000_123_456, 1_700_000_000_123),
        ("us", "timestamp-millis", 5, 5_000),
        ("ns", "timestamp-micros", 5, 5_000),
        ("s", "local-timestamp-millis", 2_999, 2),
        ("ms", "date", 2, 172_800_000),
    ],
)
def test_a_logical_time_is_turned_into_the_pipelines_unit(unit, logical, given_time, time):
    kind = {"type": "int" if logical == "date" else "long", "logicalType": logical}
    schema = avro(*FIELDS[:-1], ("at", kind, {}))
    plain = avro(*FIELDS[:-1], ("at", kind["type"], {}))
    decoder = EventDecoder(clicks(format=Avro(), time_unit=unit), Registry(schema))
    assert decoded(decoder, written(plain, {**ROW, "at": given_time})).at == time


def test_fields_are_found_by_the_writers_aliases_and_by_their_old_names():
    renamed = avro(*FIELDS[1:], ("click_id", "string", {"aliases": ["id"]}))
    decoder = EventDecoder(clicks(format=Avro()), Registry(renamed))
    row = {**{name: value for name, value in ROW.items() if name != "id"}, "click_id": "e9"}
    assert decoded(decoder, written(renamed, row)).id == "e9"
    old = avro(*FIELDS[1:], ("key", "string", {}))
    decoder = EventDecoder(clicks(format=Avro(), renamed={"id": "key"}), Registry(old))
    assert decoded(decoder, written(old, {**row, "key": "e8"})).id == "e8"


def test_numbers_are_widened_and_decimals_are_numbers():
    narrow = avro(*FIELDS[:3], ("price", "int", {}), *FIELDS[4:])
    decoder = EventDecoder(clicks(format=Avro()), Registry(narrow))
    price = decoded(decoder, written(narrow, {**ROW, "price": 7})).price
    assert (price, type(price)) == (7.0, float)
    kind = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
    exact, raw = (
        avro(*FIELDS[:3], ("price", kind, {}), *FIELDS[4:]),
        avro(*FIELDS[:3], ("price", "bytes", {}), *FIELDS[4:]),
    )
    decoder = EventDecoder(clicks(format=Avro()), Registry(exact))
    assert decoded(decoder, written(raw, {**ROW, "price": (-1234).to_bytes(2, "big", signed=True)})).price == -12.34


def test_types_that_are_defined_elsewhere_are_known_by_reference():
    page = json.dumps({"type": "enum", "name": "shop.Page", "symbols": ["home", "cart"]})
    text = json.dumps({"type": "record", "name": "Click", "fields": [
        {"name": name, "type": "shop.Page" if name == "page" else kind} for name, kind, _ in FIELDS
    ]})  # fmt: skip
    schema = RegisteredSchema(4, "AVRO", text, (("shop.Page", "AVRO", page),))
    decoder = EventDecoder(clicks(format=Avro()), Registry(schema))
    value = head_of(4) + written(avro(*FIELDS), ROW)[5:]
    assert fields(decoded(decoder, value)) == ROW


VALUE = written(avro(*FIELDS), ROW)
NO_PAGE = avro(*(one for one in FIELDS if one[0] != "page"), number=2)


@pytest.mark.parametrize(
    ("value", "reason", "said"),
    [
        (b"", "wrong_framing", "0 bytes"),
        (b"\0\0\0", "wrong_framing", "3 bytes"),
        (b"{" + VALUE[1:], "wrong_framing", "first byte is 123"),
        (head_of(77) + VALUE[5:], "unknown_schema", "77"),
        (head_of(5) + VALUE[5:], "unknown_schema", "PROTOBUF"),
        (head_of(6) + VALUE[5:], "unknown_schema", "schema 6 cannot be read"),
        (head_of(7) + VALUE[5:], "unknown_schema", "schema 7 is no record"),
        (VALUE[:-1], "not_avro", ""),
        (VALUE + b"\0", "not_avro", "1 bytes are left over"),
        (head_of(1) + zigzag(2**31) + b"abc", "not_avro", "2147483648"),
        (head_of(1) + zigzag(-5) + VALUE[6:], "not_avro", ""),
        (written(NO_PAGE, {**ROW}), "missing_field", "`page`"),
        (written(avro(*FIELDS), {**ROW, "page": "x"}), "unknown_category", "page"),
        (written(avro(*FIELDS), {**ROW, "at": -5}), "invalid_time", "-5"),
        (written(avro(*FIELDS), {**ROW, "user": "u2"}), "key_mismatch", "u2"),
    ],
)
def test_what_is_wrong_with_an_avro_record_is_said(value, reason, said):
    registry = Registry(
        avro(*FIELDS), NO_PAGE, RegisteredSchema(5, "PROTOBUF", ""), RegisteredSchema(6, "AVRO", '{"type": "rec'),
        RegisteredSchema(7, "AVRO", '"string"'),
    )  # fmt: skip
    found = decoded(EventDecoder(clicks(format=Avro()), registry), value)
    assert isinstance(found, Refused)
    assert (found.reason, said in found.detail) == (reason, True), found
    assert reason in REASONS


def test_a_registry_that_does_not_answer_is_no_fault_of_the_record():
    with pytest.raises(RegistryUnreachableError, match="schema_registry"):
        EventDecoder(clicks(format=Avro())).decode(b"u1", VALUE)


def test_a_record_that_claims_endless_items_or_depth_is_refused_at_once():
    nulls = avro(*FIELDS, ("more", {"type": "array", "items": "null"}, {}), number=1)
    tree = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}
    deep = avro(*FIELDS, ("more", tree, {}), number=2)
    decoder = EventDecoder(clicks(format=Avro()), Registry(nulls, deep))
    body = VALUE[5:]
    assert "items" in decoded(decoder, head_of(1) + body + zigzag(2**62) + zigzag(0)).detail
    assert "deep" in decoded(decoder, head_of(2) + body + b"\x02" * 500_000).detail
    assert fields(decoded(decoder, head_of(2) + body + b"\x02\x02\0", head_of(1) + body + b"\x06\0")[1]) == ROW


@pytest.mark.parametrize("text", ["no schema", '{"type": "record"}', '["string"]'])
def test_a_schema_that_is_none_is_refused_where_the_pipeline_is_read(text):
    with pytest.raises(DefinitionError, match="Avro: schema"):
        EventDecoder(clicks(format=Avro(schema=text)))


def test_bare_avro_has_no_frame():
    decoder = EventDecoder(clicks(format=Avro(schema=avro(*FIELDS).text)))
    assert fields(decoded(decoder, VALUE[5:])) == ROW


# --- any schema and its changes, with fastavro as the oracle

KINDS = {"int": st.integers(-(2**31), 2**31 - 1), "long": st.integers(-(2**63), 2**63 - 1),
         "string": st.text(max_size=9),
         "double": st.floats(allow_nan=False), "boolean": st.booleans(), "bytes": st.binary(max_size=5)}  # fmt: skip
NESTED = st.recursive(
    st.sampled_from(sorted(KINDS)),
    lambda inner: st.one_of(
        inner.map(lambda kind: {"type": "array", "items": kind}),
        inner.map(lambda kind: {"type": "map", "values": kind}),
        inner.map(lambda kind: ["null", kind] if isinstance(kind, str) else kind),
    ),
    max_leaves=3,
)


def values_of(kind):
    if isinstance(kind, list):
        return st.none() | values_of(kind[1])
    if isinstance(kind, dict):
        inner = values_of(kind.get("items", kind.get("values")))
        return (
            st.lists(inner, max_size=3) if "items" in kind else st.dictionaries(st.text(max_size=3), inner, max_size=3)
        )
    return KINDS[kind]


@st.composite
def versions(draw):
    """A writer's schema for clicks: fields widened, left out, in any order, among others; and a row of it."""
    chosen = {"id": "string", "user": "string", "page": draw(st.sampled_from(["string", "enum"])),
              "price": draw(st.sampled_from([None, "int", "long", "double", "null,double"])),
              "count": draw(st.sampled_from(["int", "long"])), "at": "long"}  # fmt: skip
    row = {"id": draw(st.text(max_size=9)), "user": "u1", "page": draw(st.sampled_from(["home", "cart"])),
           "count": draw(KINDS[chosen["count"]]), "at": draw(st.integers(0, 2**42))}  # fmt: skip
    listed = []
    for name, kind in chosen.items():
        if kind == "enum":
            listed.append((name, {"type": "enum", "name": "P", "symbols": ["cart", "home"]}, {}))
        elif kind == "null,double":
            listed.append((name, ["null", "double"], {}))
            row[name] = draw(st.none() | KINDS["double"])
        elif kind is not None:
            listed.append((name, kind, {}))
            if name == "price":
                row[name] = draw(KINDS[kind])
    for number in range(draw(st.integers(0, 2))):
        kind = draw(NESTED)
        listed.append((f"other{number}", kind, {}))
        row[f"other{number}"] = draw(values_of(kind))
    return draw(st.permutations(listed)), row


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(versions(), min_size=1, max_size=3))
def test_what_fastavro_writes_in_any_version_is_read(cases):
    schemas = [avro(*listed, number=number) for number, (listed, _) in enumerate(cases)]
    decoder = EventDecoder(clicks(format=Avro()), Registry(*schemas))
    events = decoded(decoder, *(written(schema, row) for schema, (_, row) in zip(schemas, cases, strict=True)))
    for event, (_, row) in zip(events if len(cases) > 1 else [events], cases, strict=True):
        wanted = {name: row.get(name) for name in ROW}
        assert fields(event) == {**wanted, "price": None if wanted["price"] is None else float(wanted["price"])}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_broken_bytes_never_raise(data):
    chosen, value, registry = data.draw(st.sampled_from([
        (Avro(), VALUE, Registry(avro(*FIELDS))), (Protobuf(), PROTO_VALUE, Registry(PROTO)),
        (JsonSchema(), JSON_VALUE, Registry()),
    ]))  # fmt: skip
    octets = bytearray(value)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(octets) - 1))
        octets[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        octets = octets or bytearray(b"\0")
    found = EventDecoder(clicks(format=chosen), registry).decode(b"u1", bytes(octets))
    assert not isinstance(found, Refused) or found.reason in REASONS


# --- Protobuf

JSON_VALUE = head_of(9) + msgspec.json.encode(ROW)


def test_protobuf_is_read_with_fields_that_are_not_there_at_their_defaults():
    decoder = EventDecoder(clicks(format=Protobuf()), Registry(PROTO))
    assert fields(decoded(decoder, PROTO_VALUE)) == ROW
    bare = head_of(3) + b"\x02\x02" + CLICK(id="e", user="u1", tags=["a"]).SerializeToString()
    assert fields(decoded(decoder, bare)) == {
        "id": "e",
        "user": "u1",
        "page": "home",
        "price": None,
        "count": 0,
        "at": 0,
    }


def test_wrappers_and_timestamps_of_protobuf_are_values():
    message = BOXED(id="e", user="u1", page="cart")
    message.count.value, message.at.seconds, message.at.nanos = 0, 5, 7_999_999
    decoder = EventDecoder(clicks(format=Protobuf(schema=PROTO_TEXT, message="shop.Boxed")))
    event = decoded(decoder, message.SerializeToString())
    assert fields(event) == {"id": "e", "user": "u1", "page": "cart", "price": None, "count": 0, "at": 5_007}
    assert decoded(decoder, BOXED(id="e", user="u1", page="cart").SerializeToString()).reason == "missing_field"


def test_protobuf_files_import_each_other():
    main = """syntax = "proto3"; import "parts/page.proto";
        message Click { string id = 1; string user = 2; parts.Page page = 3; int64 at = 4; int64 count = 5; }"""
    page = 'syntax = "proto3"; package parts; enum Page { home = 0; cart = 1; }'
    schema = RegisteredSchema(8, "PROTOBUF", main, (("parts/page.proto", "PROTOBUF", page),))
    decoder = EventDecoder(clicks(format=Protobuf()), Registry(schema))
    body = b"\x0a\x01e\x12\x02u1\x18\x01\x20\x05"
    assert fields(decoded(decoder, head_of(8) + b"\0" + body))["page"] == "cart"
    for name in ("../outside.proto", "/tmp/outside.proto"):
        bad = RegisteredSchema(8, "PROTOBUF", main, ((name, "PROTOBUF", page),))
        found = EventDecoder(clicks(format=Protobuf()), Registry(bad)).decode(b"u1", head_of(8) + b"\0" + body)
        assert found.reason == "unknown_schema"


@pytest.mark.parametrize(
    ("value", "reason", "said"),
    [
        (b"\1" + PROTO_VALUE[1:], "wrong_framing", "first byte"),
        (head_of(3), "wrong_framing", "indexes"),
        (head_of(3) + zigzag(1) + zigzag(9), "wrong_framing", "no message at 9"),
        (head_of(3) + zigzag(2) + zigzag(0) + zigzag(0) + b"\x0a\x01e", "missing_field", "user"),
        (head_of(4) + b"\0", "unknown_schema", "line 1"),
        (PROTO_VALUE[:-1], "not_protobuf", ""),
        (head_of(3) + b"\x02\x02\x0a\xff\xff\xff\xff\x07ab", "not_protobuf", ""),
        (PROTO_VALUE[:7] + CLICK(**{**ROW, "page": 2}).SerializeToString(), "unknown_category", "page"),
        (PROTO_VALUE[:7] + CLICK(**{**ROW, "page": 55}).SerializeToString(), "unknown_category", "55"),
    ],
)
def test_what_is_wrong_with_a_protobuf_message_is_said(value, reason, said):
    registry = Registry(PROTO, RegisteredSchema(4, "PROTOBUF", "message Click {"))
    found = decoded(EventDecoder(clicks(format=Protobuf()), registry), value)
    assert isinstance(found, Refused), found
    assert (found.reason, said in found.detail) == (reason, True), found


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=9), st.none() | st.floats(allow_nan=False), st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 2**42), st.lists(st.text(max_size=3), max_size=3),
)  # fmt: skip
def test_what_protobuf_writes_is_read(name, price, count, at, tags):
    row = {"id": name, "user": "u1", "page": "cart", "price": price, "count": count, "at": at}
    message = CLICK(**{name: value for name, value in row.items() if name != "page"}, page=1, tags=tags)
    decoder = EventDecoder(clicks(format=Protobuf()), Registry(PROTO))
    assert fields(decoded(decoder, PROTO_VALUE[:7] + message.SerializeToString())) == row


def test_framed_json_is_read_without_a_registry():
    decoder = EventDecoder(clicks(format=JsonSchema()))
    assert fields(decoded(decoder, JSON_VALUE)) == ROW
    assert decoded(decoder, JSON_VALUE[5:]).reason == "wrong_framing"
    assert decoded(decoder, JSON_VALUE[:5]).reason == "not_json"
    assert fields(decoded(EventDecoder(clicks(format=JsonSchema(schema="{}"))), JSON_VALUE[5:])) == ROW


# --- keys


@given(st.integers(-(2**63), 2**63 - 1))
def test_numbers_of_the_wire_come_back(number):
    assert read_zigzag(zigzag(number), 0) == (number, len(zigzag(number)))
    assert struct.unpack(">bI", head_of(number & 0xFFFFFFFF)) == (0, number & 0xFFFFFFFF)


def test_message_indexes_are_read_as_confluent_writes_them():
    assert message_indexes(b"\0", 0) == ((0,), 1)
    assert message_indexes(zigzag(2) + zigzag(1) + zigzag(0) + b"rest", 0) == ((1, 0), 3)
