"""Sequence models: inputs of events and columns meet sequences of a pipeline, and score as their formulas say."""

import json

import numpy as np
import pytest
from backfills import backfill, features_of, streamed, write_lines
from onnx import TensorProto, helper
from onnx_graphs import HASH, hash_of, write_graph
from sequence_models import Gru
from shard_driver import Purchase, Shard, pipeline_of, purchase
from typer.testing import CliRunner

from flink_jobs.cli import app
from models.adapting import adapt_inputs
from models.binding import manifest_for_model
from models.choices import Choices, MissingChoiceError
from models.combination import Combination, Member
from models.comparing import folded
from models.composing import compose
from models.graph_parts import Part
from models.json_document import ModelRefusedError
from models.manifest import ModelMismatchError
from models.onnx_checks import describe_model
from models.onnx_model import OnnxModel
from udfs.pipeline import Count, LastN, SequenceLength, field

PAYS = {"n": 5, "window": "1h", "pad": "right", "fill": 0, "where": field("amount") > 0}
SEQUENCES = LastN("amount", **PAYS), LastN("page", **PAYS)
LENGTH = SequenceLength(n=5, window="1h", where=field("amount") > 0)
PIPELINE = pipeline_of(Count(window="1h"), *SEQUENCES, LENGTH)
AMOUNTS, PAGES = PIPELINE.blocks
SAID = Choices({"x": (AMOUNTS, PAGES), "lengths": (LENGTH.name,)})
PAGE_CODES = {"home": 1, "cart": 2, "pay": 3, None: 0}
GRU = Gru(2)


def met(path, choices, pipeline=PIPELINE):
    found, _ = adapt_inputs(
        describe_model(path), pipeline.feature_names, {}, pipeline.blocks, choices, "model.onnx"
    )
    return found


def opened(folder, inputs, pipeline=PIPELINE):
    manifest_for_model(
        folder / "model.onnx", name="m", version=1, features=inputs, feature_set_hash=HASH, column=0
    ).write(folder)
    return OnnxModel.load(folder, feature_names=pipeline.feature_names, feature_set_hash=hash_of)


def history():
    rng = np.random.default_rng(8)
    return [
        Purchase(
            f"e{place}", f"u{place % 3}", [*PAGE_CODES][int(rng.integers(4))], round(float(rng.normal()) + 0.2, 3),
            None, 1_000_000 + 60_000 * place,
        )
        for place in range(60)
    ]  # fmt: skip


def by_the_formulas(events):
    kept, scores = {}, []
    for event in events:
        mine = kept.setdefault(event.user, [])
        mine.append(event)
        last = [each for each in mine if each.amount > 0 and each.time > event.time - 3_600_000][-5:]
        scores.append(GRU.score([np.array([each.amount, PAGE_CODES[each.page]]) for each in last]))
    return scores


@pytest.mark.parametrize("declared", [5, None])
def test_a_gru_scores_the_last_events_of_each_entity_as_its_formulas_do(tmp_path, declared):
    inputs = met(GRU.write(tmp_path / "model.onnx", declared), SAID)
    assert inputs["x"][:4] == (f"{AMOUNTS}_0", f"{PAGES}_0", f"{AMOUNTS}_1", f"{PAGES}_1")
    events = history()
    features = Shard(PIPELINE).advance(events).features
    model = opened(tmp_path, inputs)
    scores = model.predict(features)
    assert scores == pytest.approx(by_the_formulas(events), abs=1e-6)
    alone = np.concatenate([model.predict(row[None]) for row in features])
    assert alone.tobytes() == scores.tobytes()
    assert len(set(scores.tolist())) > 20


def test_a_training_set_has_the_sequences_of_the_stream(tmp_path):
    events = history()
    table, _ = backfill(PIPELINE, write_lines(tmp_path / "events.jsonl", events), tmp_path / "set.parquet", processes=1)
    expected, _ = streamed(PIPELINE, events, 128)
    found = features_of(table, PIPELINE)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, expected.tolist()))


def test_attention_takes_a_mask(tmp_path):
    pipeline = pipeline_of(LastN("amount", n=3, window="1h", fill=0), LastN(n=3, window="1h"))
    nodes = [
        helper.make_node("Cast", ["mask"], ["there"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["there", "last"], ["weight"]),
        helper.make_node("Mul", ["x", "weight"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axes"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["there", "one"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
    ]
    given = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3, 1]),
        helper.make_tensor_value_info("mask", TensorProto.BOOL, ["rows", 3]),
    ]
    constants = {"last": np.array([2]), "axes": np.array([1, 2]), "one": np.array([1])}
    outputs = [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["rows"])]
    path = write_graph(tmp_path, nodes, given, outputs, constants)
    inputs = met(path, Choices({"x": ("amount_last_3_1h",), "mask": ("last_3_1h",)}), pipeline)
    features = Shard(pipeline).advance([purchase(1_000 + each, float(each)) for each in range(5)]).features
    assert opened(tmp_path, inputs, pipeline).predict(features).tolist() == [0.0, 0.5, 1.0, 2.0, 3.0]


def test_the_only_input_takes_all_sequences_in_order_and_one_of_a_sequences_name_takes_that(tmp_path):
    pipeline = pipeline_of(*SEQUENCES)
    for name, width in (("events", 2), (PAGES, 1)):
        nodes = [helper.make_node("ReduceSum", [name, "axes"], ["sum"], keepdims=0)]
        given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 5, width])]
        outputs = [helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["rows"])]
        path = write_graph(tmp_path / name, nodes, given, outputs, {"axes": np.array([1, 2])})
        found = met(path, Choices(), pipeline)[name]
        assert found == (met(path, Choices({name: (AMOUNTS, PAGES)}), pipeline)[name] if width == 2 else
                         pipeline.blocks[PAGES])  # fmt: skip
        # a vector need not be a sequence: so what the graph declares is what counts
        if width == 2:
            with pytest.raises(MissingChoiceError, match="5 events of 2 columns: say which sequences"):
                met(path, Choices())


def test_sequences_of_other_lengths_are_refused_with_what_each_has(tmp_path):
    path = GRU.write(tmp_path / "model.onnx", 5)
    with pytest.raises(ModelMismatchError, match=rf"x: float \[rows, 5, 2\]; as columns {AMOUNTS} has 1 of 5 events"):
        met(path, Choices({"x": (AMOUNTS,), "lengths": (LENGTH.name,)}))
    longer = pipeline_of(*(LastN("amount", n=n, window="1h") for n in (4, 6)), LENGTH)
    for said in (("amount_last_4_1h",), ("amount_last_4_1h", "amount_last_6_1h")):
        with pytest.raises(ModelMismatchError, match="amount_last_4_1h has 1 of 4 events"):
            met(GRU.write(tmp_path / "model.onnx"), Choices({"x": said, "lengths": (LENGTH.name,)}), longer)
    GRU.write(path, 5)
    with pytest.raises(ModelMismatchError, match="takes 5 events of 2 columns, the manifest gives it 3"):
        opened(tmp_path, {"x": PIPELINE.feature_names[:3], "lengths": (LENGTH.name,)})


def test_sequences_event_by_event_are_told_in_short():
    names = [f"{name}_{place}" for place in range(20) for name in ("a", "b_1h")]
    assert folded(["x", *names, "y_0", "y_1", "z_0"]) == ["x", "a, b_1h 0 … 19 event by event", "y_0", "y_1", "z_0"]
    assert folded(["a_0", "b_0", "c"]) == ["a_0", "b_0", "c"]


def test_an_input_of_unknown_events_and_columns_is_refused(tmp_path):
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "events", "columns"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows"])]
    path = write_graph(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], given, outputs)
    with pytest.raises(ModelRefusedError, match="with one of both declared"):
        met(path, Choices({"x": (AMOUNTS,)}))


def test_an_ensemble_of_sequence_models_gives_their_mean(tmp_path):
    inputs, parts, scores = None, [], []
    features = Shard(PIPELINE).advance(history()).features
    for number in (1, 2):
        folder = tmp_path / str(number)
        inputs = met(Gru(2, seed=number).write(folder / "model.onnx", 5), SAID)
        model = opened(folder, inputs)
        scores.append(model.predict(features))
        parts.append(Part(f"m{number}", "m", (folder / "model.onnx").read_bytes(), model.manifest.inputs,
                          model.manifest.outputs[0]))  # fmt: skip
    members = tuple(Member("m", number, HASH) for number in (1, 2))
    whole, adaptation = compose(parts, Combination("mean", members, weights=(0.5, 0.5)))
    folder = tmp_path / "both"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(whole)
    assert opened(folder, adaptation.inputs).predict(features) == pytest.approx(np.mean(scores, axis=0), abs=1e-7)


def test_models_add_takes_sequences_by_their_names(tmp_path):
    file = tmp_path / "clicks.py"
    file.write_text(PIPELINE_FILE)
    GRU.write(tmp_path / "gru.onnx", 4)
    x, lengths = "x=amount_last_4_1h_pad_right,page_last_4_1h_pad_right", "lengths=sequence_length_4_1h"
    said = ["--input", x, "--input", lengths, "--json"]
    result = CliRunner().invoke(app, ["models", "add", str(tmp_path / "gru.onnx"), str(file), *said])
    assert result.exit_code == 0, result.output
    x = json.loads(result.stdout)["inputs"]["x"]
    assert x[:3] == ["amount_last_4_1h_pad_right_0", "page_last_4_1h_pad_right_0", "amount_last_4_1h_pad_right_1"]
    assert len(x) == 8


PIPELINE_FILE = '''
from pathlib import Path
from typing import Literal

from udfs.pipeline import Events, LastN, Model, Pipeline, SequenceLength


class Click:
    id: str
    user: str
    page: Literal["home", "cart", "pay"]
    amount: float
    at: int


LAST = {"n": 4, "window": "1h", "pad": "right", "fill": 0}
pipeline = Pipeline(
    name="clicks",
    events=Events(Click, topic="clicks", entity="user", time="at", id="id"),
    features=[LastN("amount", **LAST), LastN("page", **LAST), SequenceLength(n=4, window="1h")],
    model=Model("clicks", version=1, root=Path(__file__).parent / "models"),
    prediction="score",
)
'''
