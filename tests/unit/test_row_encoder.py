"""Rows that are written at once have the bytes that fastavro and protobuf write, or are left to them."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.registered_schema import RegisteredSchema
from udfs.row_encoder import RowEncoder
from udfs.row_program import avro_plan, protobuf_plan
from udfs.row_writers import WrittenThing, avro_writer, protobuf_writer, written_message, written_record

WHAT = WrittenThing("format", "a row", "", is_whole=True)
FEATURES = ("b", "a", "the_third")
HEAD = b"\0\0\0\1\x2c"
long_texts = st.sampled_from([0, 127, 40_000]).map("é".__mul__)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | long_texts
reals = st.floats(width=64) | st.sampled_from([0.0, -0.0, 1e-60, 5e-324])
narrow = st.floats(width=32) | st.integers(-1000, 1000)


def whole(least, most):
    return st.integers(least, most) | st.sampled_from([least, most, 0, 127, 128, 65_536])


INT, LONG = whole(-(2**31), 2**31 - 1), whole(-(2**63), 2**63 - 1)
UINT, ULONG = whole(0, 2**32 - 1), whole(0, 2**63 - 1)
AVRO = {
    "string": texts, "int": INT, "long": LONG, "float": narrow, "double": reals | LONG, "boolean": st.booleans(),
    "enum": st.sampled_from(["north", "south", "nor"]), "timestamp": LONG,
}  # fmt: skip
PROTOBUF = {
    "string": texts, "int32": INT, "int64": LONG, "uint32": UINT, "uint64": ULONG, "sint32": INT, "sint64": LONG,
    "float": narrow, "double": reals | LONG, "bool": st.booleans(),
}  # fmt: skip
anything = st.none() | texts | LONG | reals | st.booleans() | st.sampled_from([2**63, 2**70, -(2**63) - 1, "\ud800"])
matrix_values = reals | st.sampled_from([math.nan, math.inf, -math.inf, 1e39])


def avro_type(name, kind, null):
    inner = kind
    if kind == "enum":
        inner = {"type": "enum", "name": f"E_{name}", "symbols": ["north", "south", "nor"]}
    elif kind == "timestamp":
        inner = {"type": "long", "logicalType": "timestamp-millis"}
    return {"first": ["null", inner], "last": [inner, "null"], "none": inner}[null]


def avro_features(form, number, null, around):
    value = avro_type("", number, null)
    if form == "map":
        found = {"type": "map", "values": value}
    else:
        fields = [{"name": name, "type": value} for name in sorted(FEATURES)]
        found = {"type": "record", "name": "Features", "fields": fields}
    return avro_type("", found, around)


nulls = st.sampled_from(["none", "first", "last"])


@st.composite
def avro_cases(draw):
    """A schema, the row's names and what its values are."""
    kinds = draw(st.lists(st.sampled_from(sorted(AVRO)), min_size=1, max_size=17))
    each_null = [draw(nulls) for _ in kinds]
    names = [f"f{place}" for place in range(len(kinds))]
    fields = [{"name": n, "type": avro_type(n, k, null)} for n, k, null in zip(names, kinds, each_null, strict=True)]
    values = [
        AVRO[kind] if null == "none" else st.none() | AVRO[kind] for kind, null in zip(kinds, each_null, strict=True)
    ]
    form, number = draw(st.sampled_from(["", "map", "record"])), draw(st.sampled_from(["float", "double"]))
    null = draw(nulls)
    if form:
        fields.append({"name": "features", "type": avro_features(form, number, null, draw(nulls))})
    fields = draw(st.permutations(fields))
    text = json.dumps({"type": "record", "name": "R", "fields": fields})
    record = written_record([*names, "features"], RegisteredSchema(0, "AVRO", text), WHAT)
    names += ["features"] if form else []
    features = FEATURES if form else ()
    plan = avro_plan(record, HEAD, names, features)
    return avro_writer(record, HEAD), plan, names, values, features, form and (null == "none" or number == "float")


@st.composite
def protobuf_cases(draw):
    kinds = draw(st.lists(st.sampled_from(sorted(PROTOBUF)), min_size=1, max_size=17))
    numbers = draw(st.lists(st.integers(1, 5_000), min_size=20, max_size=20, unique=True))
    names = [f"f{place}" for place in range(len(kinds))]
    labels = [draw(st.sampled_from(["", "optional "])) for _ in kinds]
    lines = [f"{o}{k} {name} = {n};" for o, k, name, n in zip(labels, kinds, names, numbers, strict=False)]
    form, number = draw(st.sampled_from(["", "map", "message"])), draw(st.sampled_from(["float", "double"]))
    label, inner = draw(st.sampled_from(["", "optional "])), ""
    if form:
        of = f"map<string, {number}>" if form == "map" else "Features"
        lines.append(f"{of} features = {numbers[-1]};")
        inner = "".join(f"{label}{number} {name} = {numbers[-place - 2]};" for place, name in enumerate(FEATURES))
        inner += f"double gone = {numbers[-6]};"
        names.append("features")
    text = f'syntax = "proto3"; message R {{ {" ".join(draw(st.permutations(lines)))} }} message Features {{ {inner} }}'
    message = written_message(names, RegisteredSchema(0, "PROTOBUF", text), None, WHAT)
    features = FEATURES if form else ()
    plan = protobuf_plan(message, HEAD, names, features)
    values = [st.none() | PROTOBUF[kind] for kind in kinds]
    return protobuf_writer(message, HEAD), plan, names, values, features, form and number == "float"


def check(case, data, values=None):
    """Compare what both write of some rows; returns whether they were written at once."""
    write, plan, names, fitting, features, _ = case
    rows = data.draw(st.lists(st.tuples(*(values or fitting)), min_size=1, max_size=20))
    matrix = None
    if features:
        drawn = st.lists(matrix_values, min_size=len(features), max_size=len(features))
        matrix = np.array([data.draw(drawn) for _ in rows])
    encoder = RowEncoder(plan)
    places = [names.index(name) for name in plan.fields]
    found = encoder.encode([tuple(row[place] for place in places) for row in rows], matrix)
    if found is None:
        return False
    expected = []
    for number, row in enumerate(rows):
        fields = list(row)
        if features:
            listed = matrix[number].tolist()
            fields.append({n: x if math.isfinite(x) else None for n, x in zip(features, listed, strict=True)})
        expected.append(write(dict(zip(names, fields, strict=True))))
    assert found.tolist() == expected
    assert found.content == b"".join(one + b"\n" for one in expected)
    return True


@pytest.mark.parametrize("cases", [avro_cases(), protobuf_cases()], ids=["avro", "protobuf"])
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_rows_of_the_schemas_types_are_written_at_once_with_the_librarys_bytes(cases, data):
    case = data.draw(cases)
    may_not_fit = case[-1]
    assert check(case, data) or may_not_fit


@pytest.mark.parametrize("cases", [avro_cases(), protobuf_cases()], ids=["avro", "protobuf"])
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_rows_of_other_types_are_left_to_the_library_or_have_its_bytes(cases, data):
    case = data.draw(cases)
    check(case, data, [anything] * len(case[3]))


def test_a_batch_of_more_rows_than_sixteen_bits_count_is_written_at_once():
    text = json.dumps({"type": "record", "name": "R", "fields": [{"name": "f", "type": "long"}]})
    record = written_record(["f"], RegisteredSchema(0, "AVRO", text), WHAT)
    found = RowEncoder(avro_plan(record, HEAD, ["f"], ())).encode([(number,) for number in range(70_000)], None)
    assert len(found) == 70_000
    assert found[69_999] == avro_writer(record, HEAD)({"f": 69_999})
