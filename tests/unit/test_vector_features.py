"""Vectors in events: their numbers as features and windows, in every engine and format, and what is no vector."""

import dataclasses
import json
import math
from io import StringIO
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backfills import backfill, features_of
from click_events import Registry, avro, decoded, proto_class, written
from hypothesis import given
from hypothesis import strategies as st
from look_events import Look, write_encoder
from properties import examples
from rich.console import Console
from shard_driver import Shard
from test_parity import SHARDS, by_engine, found, given_of, rows_of
from wire_records import batch_of

from flink_jobs import history_topic
from flink_jobs.describe import description, description_view
from flink_jobs.hard_events import hard_records
from flink_jobs.history_topic import RawRecords, TopicReader
from flink_jobs.local.broken_records import broken_variants
from flink_jobs.models_adding import Expectation, parse_lists, run_models_add_command
from flink_jobs.parity_engines import job_pipeline, oracle_of_shard
from flink_jobs.parity_rows import FEATURES as FEATURES_TOLD
from flink_jobs.parity_sql import refused_by_sql
from flink_jobs.pipeline_model import open_model
from models import adding
from models.adding import Facts
from models.choices import Choices, MissingChoiceError
from models.comparing import features_text
from udfs.confluent_wire import head_of
from udfs.event_class_text import Roles, event_class_text
from udfs.formats import Avro, Json, JsonSchema, Protobuf
from udfs.naive_features import NaiveFeatures
from udfs.output_batch import read_outputs
from udfs.pipeline import (
    Count,
    DefinitionError,
    Distinct,
    Events,
    Ewma,
    Last,
    Max,
    Mean,
    Model,
    OneHot,
    Pipeline,
    Previous,
    Ratio,
    Source,
    Std,
    Sum,
    Value,
    Vector,
    field,
)
from udfs.plan import FeaturePlan
from udfs.registered_schema import RegisteredSchema
from udfs.routing import Router
from udfs.schema_reading import reading_problems
from udfs.schema_texts import event_schema_text
from udfs.sql_features import SqlRefusedError, compile_features
from udfs.state_changes import Definition, changes_between
from udfs.wire_formats import EventDecoder, Refused
from udfs.written_fields import written_record

HOUR_MS = 3_600_000


FEATURES = [
    Value("taste"), Value("shape", fill=-1.0), Mean("shape", window="1h"), Last("taste", window="10m"),
    Ewma("shape", window="1h", half_life="5m"), Sum("taste", window="1d", tile="1h", where=field("page") == "cart"),
    Previous("shape", window="1h"), Std("taste[1]", window="1h"), Count(where=field("taste[0]") > 0, window="1h"),
    Count(where=field("shape[2]").is_null(), window="1h"), Ratio(Max("taste[0]", window="1h"), Count(window="1h")),
]  # fmt: skip


def looks(*features, event=Look, events=None, **settings):
    given_ = {"entity": "user", "time": "at", "id": "id", **(events or {})}
    features = features or FEATURES
    return Pipeline("looks", Events(event, "looks", **given_), features, settings.pop("model", Model("m", 1)), "score",
                    **settings)  # fmt: skip


LOOKS = looks()


def look(at, shape=(1.0, 2.0, 3.0), taste=(0.5, -0.5), user="u", page="home"):
    return Look(f"e{at}", user, page, None if shape is None else list(shape), list(taste), at)


# the definition


def test_a_vector_is_neighbouring_features_with_derived_names():
    assert LOOKS.feature_names[:5] == ("taste_0", "taste_1", "shape_0", "shape_1", "shape_2")
    assert "page_eq_cart" not in LOOKS.blocks
    assert LOOKS.blocks["shape_mean_1h"] == ("shape_mean_1h_0", "shape_mean_1h_1", "shape_mean_1h_2")
    assert {name: len(names) for name, names in LOOKS.blocks.items()} == {
        "taste": 2, "shape": 3, "shape_mean_1h": 3, "taste_last_10m": 2, "shape_ewma_1h_half_life_5m": 3,
        "page_is_cart_taste_sum_1d_tile_1h": 2, "shape_previous_1h": 3,
    }  # fmt: skip
    assert "taste_std_1h_1" in LOOKS.feature_names
    apart = looks(Value("taste[0]"), Value("shape[1]"), Value("taste[1]"), Value("shape[0]"), Value("shape[2]"))
    assert apart.blocks == {}
    latest = Last("taste[0]", window="1h"), Last("taste[1]", window="1h")
    turned = looks(Value("taste[1]"), Value("taste[0]"), *latest, Value("shape[0]"))
    assert turned.blocks == {"taste_last_1h": ("taste_last_1h_0", "taste_last_1h_1")}
    assert dataclasses.replace(LOOKS, name="again").feature_names == LOOKS.feature_names
    assert LOOKS.columns_used == ("id", "user", "page", "shape", "taste", "at")


def of_type(annotation, **extra):
    return type("Odd", (), {"__annotations__": {"id": str, "user": str, "at": int, "v": annotation}, **extra})


@pytest.mark.parametrize(
    ("annotation", "line"),
    [
        (list[float], r"Annotated\[list\[float\], 16\] for a vector"),
        (Annotated[list[float], 0], "a vector of 16 numbers is"),
        (Annotated[list[float], 70_000], "at most 65,536"),
        (Annotated[list[float], True], "a vector of 16 numbers is"),
        (Annotated[list[float], 2, 3], "a vector of 16 numbers is"),
        (Annotated[list[int], 2], "a vector of 16 numbers is"),
    ],
)
def test_types_that_are_no_vector_are_refused(annotation, line):
    with pytest.raises(DefinitionError, match=line):
        looks(Count(window="1h"), event=of_type(annotation))


def test_what_a_vector_cannot_be_is_refused_in_one_line():
    with pytest.raises(DefinitionError, match="which that field cannot have"):
        looks(Value("v"), event=of_type(Annotated[list[float], 2], v=[1.0, 2.0]))
    for feature in (Distinct("shape", window="1h"), Count("shape", window="1h"), OneHot("shape"),
                    Ratio(Mean("shape", window="1h"), Count(window="1h"))):  # fmt: skip
        with pytest.raises(DefinitionError, match=r"take Value, Mean, Last, Ewma .* like 'shape\[0\]'"):
            looks(feature)
    with pytest.raises(DefinitionError, match=r"no field 'shape\[3\]'"):
        looks(Value("shape[3]"))
    with pytest.raises(DefinitionError, match="'shape' is vector"):
        looks(Count(window="1h", where=field("shape") > 1))
    with pytest.raises(DefinitionError, match="two features are called shape_0"):
        looks(Value("shape"), Value("shape[0]"))
    with pytest.raises(DefinitionError, match="which no part of a record but the value holds"):
        looks(Value("shape"), events={"fields": {"shape": "@header.shape"}})
    with pytest.raises(DefinitionError, match="must be str or int"):
        looks(Count(window="1h"), events={"id": "taste"})


def test_the_size_of_a_vector_is_part_of_what_a_model_was_made_for():
    def of_size(size):
        return looks(Value("v"), event=of_type(Annotated[list[float], size])).feature_set_hash()

    assert of_size(2) == of_size(2) != of_size(3)


# the engines

NUMBERS = st.floats(-1e6, 1e6)
SHAPES = st.one_of(st.none(), st.lists(NUMBERS, min_size=3, max_size=3))


@st.composite
def histories(draw):
    events, now = [], 1_700_000_000_000
    for _ in range(draw(st.integers(1, 40))):
        now += draw(st.sampled_from([0, 1, 5_000, 60_000, HOUR_MS, 30 * HOUR_MS]))
        at = now - draw(st.sampled_from([0, 0, 0, 1, 70_000, HOUR_MS]))
        taste = draw(st.lists(NUMBERS, min_size=2, max_size=2))
        page = draw(st.sampled_from(["home", "cart"]))
        events.append(look(at, draw(SHAPES), taste, draw(st.sampled_from("ab")), page))
    return events


@examples(15)
@given(histories(), st.data())
def test_engine_and_oracle_agree_and_batches_and_restarts_change_no_bit(events, data):
    oracle = NaiveFeatures(LOOKS)
    expected = np.array([oracle.advance(event, event.at, 0).features for event in events])
    shard, parts = Shard(LOOKS), []
    whole = Shard(LOOKS).advance(events).features
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
    for begin, end in zip([0, *cuts], [*cuts, len(events)], strict=True):
        if begin < end:
            parts.append(shard.advance(events[begin:end]).features)
            shard.restart()
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    np.testing.assert_allclose(whole, expected, rtol=1e-9, atol=1e-3)
    latest = [LOOKS.feature_names.index(name) for name in LOOKS.blocks["taste_last_10m"]]
    np.testing.assert_array_equal(whole[:, latest], expected[:, latest])


def as_line(event):
    return json.dumps(dataclasses.asdict(event))


def history():
    rng = np.random.default_rng(4)
    return [
        look(1_700_000_000_000 + 60_000 * place, None if place % 5 == 0 else rng.normal(size=3), rng.normal(size=2),
             user=f"u{place % 3}", page=["home", "cart"][place % 2])
        for place in range(30)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_backfill_of_files_has_the_bits_of_the_stream(tmp_path, kind):
    events, path = history(), tmp_path / f"events.{kind}"
    rows = [dataclasses.asdict(event) for event in events]
    broken = {**rows[3], "id": "x", "taste": [1.0]}
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, broken]))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist([*rows, broken]), path)
    else:
        texts = [[json.dumps(row[name]) if isinstance(row[name], list) else row[name] for name in row]
                 for row in [*rows, broken]]  # fmt: skip
        lines = [",".join("" if cell is None else '"' + str(cell) + '"' for cell in row) for row in texts]
        path.write_text("\n".join([",".join(rows[0]), *lines]) + "\n")
    table, report = backfill(LOOKS, path, tmp_path / "set.parquet", processes=1, shards=1)
    assert dict(report.refused) == {"wrong_type": 1}
    assert features_of(table, LOOKS).tobytes() == Shard(LOOKS).advance(events).features.tobytes()


# records

FIELDS = [
    ("id", "string", {}), ("user", "string", {}), ("page", "string", {}),
    ("shape", ["null", {"type": "array", "items": ["null", "double"]}], {}),
    ("taste", {"type": "array", "items": "float"}, {}), ("at", "long", {}),
]  # fmt: skip
ROW = {"id": "e1", "user": "u1", "page": "home", "shape": [1.0, 2.0, 3.0], "taste": [0.5, -0.5], "at": 5}
PROTO_TEXT = """
syntax = "proto3";
message Look { string id = 1; string user = 2; string page = 3; repeated double shape = 4; repeated float taste = 5;
  int64 at = 6; }
"""
MESSAGE = proto_class("Look", PROTO_TEXT)


def in_json(row):
    return json.dumps(row).encode()


def in_avro(row):
    return written(avro(*FIELDS), row)


def in_protobuf(row):
    return head_of(1) + b"\0" + MESSAGE(**{n: v for n, v in row.items() if v is not None}).SerializeToString()


FORMATS = {
    "json": (Json(), in_json, None),
    "json-schema": (JsonSchema(), lambda row: head_of(1) + in_json(row), None),
    "avro": (Avro(), in_avro, avro(*FIELDS)),
    "protobuf": (Protobuf(), in_protobuf, RegisteredSchema(1, "PROTOBUF", PROTO_TEXT)),
}


def decoder_of(name, pipeline=None):
    form, _, schema = FORMATS[name]
    return EventDecoder(pipeline or looks(events={"format": form}), Registry(*([schema] if schema else [])))


@pytest.mark.parametrize("name", FORMATS)
def test_vectors_are_read_in_every_format(name):
    encode = FORMATS[name][1]
    first, second = decoded(decoder_of(name), encode(ROW), encode({**ROW, "shape": None}))
    assert (first.shape, first.taste, second.shape) == ([1.0, 2.0, 3.0], [0.5, -0.5], None)
    whole = decoded(decoder_of(name), encode({**ROW, "taste": [1, 2]}))
    assert [type(number) for number in whole.taste] == [float, float]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("change", "detail", "only"),
    [
        ({"taste": [1.0]}, "taste has 1 numbers, not 2", None),
        ({"taste": [1.0, 2.0, 3.0]}, "taste has 3 numbers, not 2", None),
        ({"shape": [1.0, None, 3.0]}, "shape[1] is None, not a number", ("json", "json-schema", "avro")),
        ({"taste": [1.0, "x"]}, "taste[1] is 'x', not a number", ("json", "json-schema")),
        ({"taste": [1.0, True]}, "taste[1] is True, not a number", ("json", "json-schema")),
        ({"taste": {"a": 1}}, "taste is {'a': 1}, not a list of 2 numbers", ("json", "json-schema")),
        ({"taste": [[1.0], [2.0]]}, "taste[0] is [1.0], not a number", ("json", "json-schema")),
        ({"taste": [1.0, math.nan]}, "taste[1] is nan, not a number", ("avro", "protobuf")),
        ({"taste": [1.0, math.inf]}, "taste[1] is inf, not a number", ("avro", "protobuf")),
    ],
)
def test_what_is_no_vector_is_a_dead_letter_that_names_field_and_place(name, change, detail, only):
    if only is not None and name not in only:
        return
    encode = FORMATS[name][1]
    found = decoded(decoder_of(name), encode({**ROW, **change}), encode(ROW))[0]
    assert found == Refused("wrong_type", detail)


@pytest.mark.parametrize("name", FORMATS)
def test_a_topic_as_history_has_the_bits_of_the_stream(name, monkeypatch):
    form, encode, _ = FORMATS[name]
    pipeline, decoder = looks(events={"format": form}), decoder_of(name)
    monkeypatch.setattr(history_topic, "event_decoder", lambda _: decoder)
    shapes = [None if n % 3 else [1.0, 2.0, float(n)] for n in range(20)]
    rows = [{**ROW, "id": f"e{n}", "at": 1_000 * n, "shape": shape} for n, shape in enumerate(shapes)]
    values = [*map(encode, rows), encode({**ROW, "taste": [1.0]}), None, b"\0"]
    places = list(range(len(values)))
    reader = TopicReader(FeaturePlan.build(pipeline), "127.0.0.1:9", None, 100)  # connects to nothing
    block = reader.block(RawRecords([b"u1"] * len(values), values, places, places, []), 2)
    reader.close()
    events = [decoder.decode(b"u1", value) for value in values]
    times, columns, masks, direct = FeaturePlan.build(pipeline).columnise(events[:20])
    assert block.events.rows.tolist() == list(range(20))
    assert block.events.times_ms.tolist() == times.tolist()
    assert (block.events.columns.tobytes(), block.events.direct.tobytes()) == (columns.tobytes(), direct.tobytes())
    assert block.events.masks.tolist() == masks.tolist()
    assert [(one.place, one.detail) for one in block.letters] == [(n, events[n].detail) for n in (20, 21, 22)]


def test_other_mistakes_keep_their_reasons_and_nested_vectors_are_found():
    nested = looks(events={"fields": {"taste": "profile.taste"}})
    row = {name: value for name, value in ROW.items() if name != "taste"}
    decoder = decoder_of("json", nested)
    assert decoded(decoder, in_json({**row, "profile": {"taste": [1.0, 2.0]}})).taste == [1.0, 2.0]
    found = decoded(decoder, in_json({**row, "profile": {"taste": [1.0, "2"]}}))
    assert found == Refused("wrong_type", "taste[1] is '2', not a number")
    plain = decoder_of("json")
    assert decoded(plain, in_json({**ROW, "at": "soon"})).reason == "wrong_type"
    assert decoded(plain, in_json(row)).reason == "missing_field"
    assert decoded(plain, in_json({**ROW, "page": "no"})).reason == "unknown_category"
    huge = in_json(ROW).replace(b"0.5, -0.5", b"0.5, 1e999")
    assert decoded(plain, huge) == Refused("wrong_type", "taste[1] is inf, not a number")
    nines = b"9" * 5_000
    for odd in (b"[1, 2]", b'"taste"', b'{"taste": [1, {"' + nines + b'": ' + nines + b"}]}", b"[" * 9_000):
        assert decoded(plain, odd).reason in ("wrong_type", "not_json")
    # of a repeated field that is empty nothing is in the bytes
    assert decoded(decoder_of("protobuf"), in_protobuf({**ROW, "taste": []})).reason == "missing_field"


@pytest.mark.parametrize("kind", ["AVRO", "PROTOBUF", "JSON"])
def test_schemas_of_events_with_vectors_are_made_checked_and_imported(kind):
    events = LOOKS.events
    text = event_schema_text(events, kind)
    schema = written_record(RegisteredSchema(1, kind, text))
    assert [problem for problem in reading_problems(events, schema.fields) if problem.refuses_all] == []
    other = looks(Value("v"), event=of_type(Annotated[list[float], 5])).events
    kept = [one._replace(name="v") for one in schema.fields if one.name == "taste"]
    [*_, problem] = [*reading_problems(other, kept), None]
    assert kept[0].kind == "vector"
    if kind == "JSON":
        assert "has 2 numbers, and 5 in the event class" in str(reading_problems(other, kept))
    made = event_class_text(schema, kind, topic="looks", source="looks-value", roles=Roles("user", "at", "id"))
    assert ("taste: Annotated[list[float], 2]" in made) == (kind == "JSON")
    assert ("# not read: taste" in made) == (kind != "JSON")
    compile(made, "made.py", "exec")
    assert problem is None


# around


def test_a_state_is_gone_on_from_under_a_new_name_and_by_more_windows():
    old = looks(Mean("v", window="1h"), event=of_type(Annotated[list[float], 2]))
    renamed_type = type("Odd", (), {"__annotations__": {**old.events.type.__annotations__}})
    renamed_type.__annotations__["w"] = renamed_type.__annotations__.pop("v")
    new = looks(Mean("w", window="1h"), Last("w", window="30m"), event=renamed_type, events={"renamed": {"w": "v"}})
    written_by = Definition(**json.loads(json.dumps(vars(Definition.of(old, 4)))))
    effects = {each.name: each.effect for each in changes_between(written_by, new, 4) if each.name in new.feature_names}
    assert set(effects.values()) == {"computed"} or effects["w_mean_1h_0"] in ("kept", "computed")
    shard = Shard(old)

    def event(at, **vector):
        return type("E", (), {"id": "e", "user": "u", "at": at, **vector})()

    shard.advance([event(1_000, v=[1.0, 10.0])])
    after = Shard(new)
    after.log = shard.log
    after.restart()
    assert after.advance([event(2_000, w=[3.0, 30.0])]).features.tolist() == [[2.0, 20.0, 3.0, 30.0]]


def test_a_models_input_takes_a_vector_by_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(adding, "try_out", lambda folder: None)
    wanted = dataclasses.replace(
        looks(Value("taste"), Mean("shape", window="1h"), Value("shape")),
        model=Model("m", 1, root=tmp_path / "models"),
        prediction=Vector("vectors", 3),
    )
    file = write_encoder(tmp_path, 3)

    def add(inputs):
        run_models_add_command(
            wanted, "looks", file, Choices(parse_lists(inputs, "--input", "")), Facts(), Expectation(None, None, 1e-5),
            version=None, root=None, as_json=True,
        )  # fmt: skip
        return json.loads(capsys.readouterr().out)["inputs"]

    with pytest.raises(MissingChoiceError, match=r"features are taste, shape_mean_1h, shape$"):
        add(None)
    assert add(["x=shape"]) == {"x": ["shape_0", "shape_1", "shape_2"]}
    assert add(["shape_mean_1h"]) == {"x": [f"shape_mean_1h_{place}" for place in range(3)]}
    rows = np.random.default_rng(2).uniform(1, 2, (4, len(wanted.feature_names)))
    model = open_model(wanted, tmp_path / "models" / "m" / "1")
    np.testing.assert_allclose(model.predict(rows)[:, 0], rows[:, 5], rtol=1e-6)


def test_an_input_that_is_called_like_a_vector_gets_it(tmp_path, monkeypatch, capsys):
    import onnx

    monkeypatch.setattr(adding, "try_out", lambda folder: None)
    file = write_encoder(tmp_path, 3)
    graph = onnx.load(file)
    graph.graph.input[0].name = "Shape"
    for node in graph.graph.node:
        for place, name in enumerate(node.input):
            if name == "x":
                node.input[place] = "Shape"
    onnx.save(graph, file)
    wanted = looks(Value("taste"), Value("shape"), model=Model("m", 1, root=tmp_path / "models"))
    wanted = dataclasses.replace(wanted, prediction="total")
    run_models_add_command(
        wanted, "looks", file, Choices(), Facts(), Expectation(None, None, 1e-5), version=None, root=None, as_json=True
    )
    assert json.loads(capsys.readouterr().out)["inputs"] == {"Shape": ["shape_0", "shape_1", "shape_2"]}


def test_people_are_shown_a_vector_in_one_place():
    document = description(dataclasses.replace(LOOKS, model=Model("none", 1, root="nowhere")))
    assert document["vectors"]["shape_mean_1h"] == 3
    with StringIO() as shown:
        Console(file=shown, width=200).print(description_view(document))
        text = shown.getvalue()
    assert "shape_mean_1h_0 … 2" in text
    assert "shape_mean_1h_1" not in text
    assert "kept: 3 numbers of shape, 2 numbers of taste" in text
    assert features_text(("a", "v_0", "v_1", "v_2", "v_3", "b_0", "v_0", "v_2")) == "a, v_0 … 3, b_0, v_0, v_2"


def test_sql_refuses_vectors_in_one_line():
    with pytest.raises(SqlRefusedError, match=r"read single values, and shape, taste is a vector of them$"):
        compile_features(LOOKS)


def test_parity_compares_every_number_of_a_vector(tmp_path):
    given_, names = given_of(LOOKS, list(hard_records(LOOKS, 300, 5)), tmp_path), LOOKS.feature_names
    oracle, engine = rows_of(given_, "oracle"), rows_of(given_, "engine")
    for shard in range(SHARDS):
        oracle_of_shard(given_, oracle, shard)
    by_engine(given_, engine)
    assert {name: each.row for name, each in found(given_, oracle, engine).items() if each.differences} == {}
    of_mean = names.index("shape_mean_1h_1")
    told = (np.asarray(engine.answers) == FEATURES_TOLD) & np.isfinite(engine.features[:, of_mean])
    row = int(np.flatnonzero(told)[50])
    engine.features[row, of_mean] = 1e305
    engine.features[row, names.index("taste_last_10m_0")] += 1e-9
    differing = {name for name, each in found(given_, oracle, engine).items() if each.differences}
    assert differing == {"shape_mean_1h_1", "taste_last_10m_0"}
    several = dataclasses.replace(looks(Value("taste")), prediction=("total", Vector("vectors", 3)))
    in_a_job = job_pipeline(dataclasses.replace(given_, pipeline=several), "streaming")
    zero = open_model(in_a_job, tmp_path / "streaming-models" / "zero" / "1")
    assert zero.predict(np.ones((2, 2))).tolist() == [0, 0]
    assert "taste is a vector" in refused_by_sql(several)["taste_0"]


def test_hard_input_for_parity_has_vectors_and_broken_ones():
    decoder, kinds = EventDecoder(LOOKS), set()
    for record in hard_records(LOOKS, 400, seed=3):
        found = decoder.decode(record.key, record.value)
        assert (found.reason if isinstance(found, Refused) else None) == record.reason, record
        kinds.add(None if isinstance(found, Refused) else found.shape is None)
    assert kinds == {None, True, False}
    broken = broken_variants(LOOKS, json.loads(as_line(look(5))), max_record_bytes=1_000)
    assert sum("vector" in each.kind for each in broken) == 8


def test_sources_give_vectors_to_the_events_topic():
    source = Source("raw", fields={"taste": "features.taste"}, constants={"page": "home", "shape": None})
    router = Router(looks(events={"sources": [source]}))
    values = [
        json.dumps({"id": "e", "user": "u", "at": 5, "features": {"taste": taste}, "shape": "none of ours"}).encode()
        for taste in ([1.0, 2.0], [1.0, "2"])
    ]  # fmt: skip
    event, letter = read_outputs(router.route(batch_of([(b"k", value) for value in values], partition=0)).outputs)
    row = {"id": "e", "user": "u", "page": "home", "shape": None, "taste": [1.0, 2.0], "at": 5}
    assert json.loads(event.value) == row
    assert letter.headers["millrace-exception"] == "taste[1] is '2', not a number"
