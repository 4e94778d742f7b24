"""What scores an event that the model fails on, or is too slow for: the ladder, its budget, and its circuit."""

import dataclasses
import threading
import time

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import hash_of, load, write_graph
from wire_records import PURCHASE, SCORED_AT_MS, batch_of, encoder_of, headers_of, shopper_records, value_of

from flink_jobs.answer_comparison import AnswerComparison, Judged
from flink_jobs.receipt_models import ReceiptModel
from flink_jobs.recomputed import Recomputed
from flink_jobs.served_answers import PREDICTION
from models.binding import manifest_for_model
from models.budget import OverBudgetError, TimedModel
from models.circuit import FIRST_WAIT_S, OPENS_AFTER, Circuit, CircuitState
from udfs.entity_state import ShardState
from udfs.errors import DefinitionError, StateCorruptError, StateVersionError
from udfs.fallbacks import Default, LastScore, OtherModel
from udfs.ladder import Ladder, OpenedRung
from udfs.last_scores import LastScores
from udfs.output_batch import read_outputs
from udfs.plan import FeaturePlan
from udfs.receipts import NamedModel
from udfs.scoring import Scorer

DWELL = PURCHASE.feature_names.index("dwell_time_sec")
OTHER = NamedModel("purchase", "7", "77" * 32, "ef" * 32)


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


class Limited:
    """Scores `factor` times the dwell time; fails on all rows above the limit."""

    def __init__(self, limit, factor=1.0):
        self.limit, self.factor = limit, factor

    def predict(self, features):
        if (features[:, DWELL] > self.limit).any():
            raise ValueError("too long")
        return features[:, DWELL] * self.factor


class Waiting:
    """Answers when it is let, with ones; stops at nothing, as an operator that takes long."""

    def __init__(self):
        self.may_go, self.calls = threading.Event(), 0

    def predict(self, features, stop=None):
        self.calls += 1
        self.may_go.wait(10)
        return np.ones(len(features))


def scorer_of(model, *fallbacks, others=None):
    pipeline = dataclasses.replace(PURCHASE, fallbacks=fallbacks)
    plan = FeaturePlan.build(pipeline)
    ladder = Ladder(pipeline, others or {})
    if ladder.remembers:
        ladder.last_scores[0] = ladder.restored({})
    return Scorer(plan, model, encoder_of(pipeline), lambda: SCORED_AT_MS, ladder=ladder), ladder, ShardState(plan)


def answers_of(scorer, state, records, first_offset=0):
    outputs = read_outputs(scorer.score(batch_of(records, first_offset), {0: state}))
    return sorted(outputs, key=lambda each: int(headers_of(each)["offset"]))


def told(answer):
    return headers_of(answer).get("fallback", "")


def dwell_of(record):
    return float(msgspec.json.decode(record[1])["dwell_time_sec"])


# the ladder


def test_each_event_gets_the_first_score_down_the_ladder_and_its_receipt_says_whose_it_is():
    others = {7: OpenedRung(Limited(60.0, 2.0), OTHER)}
    scorer, ladder, state = scorer_of(Limited(20.0), OtherModel(7), Default(0.5), others=others)
    records = shopper_records(600)
    answers = answers_of(scorer, state, records)
    seen = {"": 0, "model 7": 0, "default": 0}
    for record, answer in zip(records, answers, strict=True):
        dwell, headers = dwell_of(record), headers_of(answer)
        expected = ("", dwell) if dwell <= 20 else ("model 7", 2 * dwell) if dwell <= 60 else ("default", 0.5)
        assert (told(answer), value_of(answer)["purchase_probability"]) == expected
        assert headers["model-version"] == ("7" if expected[0] == "model 7" else "1")
        assert headers["feature-set"] == ("ef" if expected[0] == "model 7" else "cd") * 32
        seen[expected[0]] += 1
    assert all(seen.values())
    assert ladder.counts == {"model 7": seen["model 7"], "default": seen["default"]}


def test_what_the_whole_ladder_has_no_score_for_is_a_dead_letter_of_the_model():
    others = {7: OpenedRung(Limited(60.0), OTHER)}
    scorer, _, state = scorer_of(Limited(20.0), OtherModel(7), LastScore(), others=others)
    records = [record for record in shopper_records(300) if dwell_of(record) > 60][:1]
    (letter,) = answers_of(scorer, state, records)
    assert headers_of(letter)["reason"] == "model_failed"
    assert headers_of(letter)["exception"] == "ValueError: too long"


def test_the_last_score_is_that_of_the_event_before_also_within_a_batch_and_after_a_restart():
    scorer, ladder, state = scorer_of(Limited(20.0), LastScore(), Default(-1.0))
    records = shopper_records(800)
    answers = answers_of(scorer, state, records[:400])
    put, removed = ladder.last_scores[0].take_changes()
    assert not removed
    again, after, _ = scorer_of(Limited(20.0), LastScore(), Default(-1.0))
    after.last_scores[0] = after.restored(put)
    answers += answers_of(again, state, records[400:], 400)
    last, counts = {}, {"": 0, "last-score": 0, "default": 0}
    for record, answer in zip(records, answers, strict=True):
        dwell = dwell_of(record)
        fallback, score = ("", dwell) if dwell <= 20 else ("last-score", last.get(record[0]))
        if score is None:
            fallback, score = "default", -1.0
        assert (told(answer), value_of(answer)["purchase_probability"]) == (fallback, score)
        if fallback == "":
            last[record[0]] = dwell
        counts[fallback] += 1
    assert all(counts.values())
    assert ladder.counts["last-score"] + after.counts["last-score"] == counts["last-score"]


def test_predictions_without_a_failure_are_what_they_are_without_a_ladder():
    plain = Scorer(FeaturePlan.build(PURCHASE), Limited(1e9), encoder_of(), lambda: SCORED_AT_MS)
    scorer, _, state = scorer_of(Limited(1e9), LastScore(), Default(0.5))
    records = shopper_records(200)
    assert scorer.score(batch_of(records), {0: state}) == plain.score(batch_of(records), {0: ShardState(plain.plan)})


@pytest.mark.parametrize(
    ("fallbacks", "why"),
    [
        ([Default(0.5), LastScore()], "stands behind a Default"),
        ([LastScore(), LastScore("1h")], "there twice"),
        ([Default(float("nan"))], "write a number"),
        ([OtherModel(PURCHASE.model.version)], "own model"),
        ([OtherModel(0)], "whole number"),
        ([LastScore("soon")], "whole number and a unit"),
        ([LastScore(most_entities=0)], "whole number"),
        ([0.5], "no fallback"),
    ],
)
def test_a_ladder_that_cannot_be_climbed_down_is_refused(fallbacks, why):
    with pytest.raises(DefinitionError, match=why):
        dataclasses.replace(PURCHASE, fallbacks=fallbacks)


@pytest.mark.parametrize("budget", [0, -1, "50", True, float("nan")])
def test_a_budget_that_is_no_time_is_refused(budget):
    with pytest.raises(DefinitionError, match="model_budget_ms"):
        dataclasses.replace(PURCHASE, model_budget_ms=budget)


# last scores


def test_last_scores_are_forgotten_when_too_old_or_too_many_and_their_log_stays_short():
    scores, log = LastScores(100, 50), {}
    for number in range(400):
        names = [f"u{number}-{each}" for each in range(20)] + ["always"]
        scores.note(names, [float(number)] * 21, [number] * 21)
        put, removed = scores.take_changes()
        log |= put
        for each in removed:
            del log[each]
        assert len(scores) <= 50
    assert scores.get("always").score == 399.0
    assert scores.get("u0-0") is None
    assert sum(map(len, log.values())) < 200_000
    restored = LastScores.restore(100, 50, log.items())
    assert {name: restored.get(name) for name in scores._known} == scores._known
    assert not restored.is_of_use(restored.get("always"), 500)


def test_an_entry_of_last_scores_that_is_none_is_refused():
    scores = LastScores(100, 50)
    scores.note(["u"], [0.5], [3])
    put, _ = scores.take_changes()
    with pytest.raises(StateCorruptError):
        LastScores.restore(100, 50, [(0, put[0][:-3])])
    with pytest.raises(StateVersionError, match="version 2"):
        LastScores.restore(100, 50, [(0, put[0].replace(b"\x94\x01", b"\x94\x02"))])


# the budget and the circuit


def test_a_circuit_opens_after_several_late_calls_and_closes_when_a_probe_is_in_time():
    clock = Clock()
    circuit = Circuit(clock)
    for number in range(OPENS_AFTER):
        assert circuit.lets_through(), number
        circuit.tell(in_time=False)
    assert (circuit.state, circuit.lets_through()) == (CircuitState.OPEN, False)
    clock.now_s += FIRST_WAIT_S
    assert (circuit.lets_through(), circuit.state) == (True, CircuitState.HALF_OPEN)
    circuit.tell(in_time=False)
    clock.now_s += FIRST_WAIT_S
    assert not circuit.lets_through()  # it waits longer after a probe that was late
    clock.now_s += FIRST_WAIT_S
    assert circuit.lets_through()
    circuit.tell(in_time=True)
    assert circuit.state is CircuitState.CLOSED
    circuit.tell(in_time=False)
    assert circuit.lets_through()


def write_loop(folder):
    """A model that goes round as often as its row says, and says how often that was."""
    body = helper.make_graph(
        [helper.make_node("Add", ["sum", "one"], ["more"]), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.DOUBLE, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.DOUBLE, None),
        ],
        [numpy_helper.from_array(np.array(1.0), "one")],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["rounds"], to=TensorProto.INT64),
        helper.make_node("Sub", ["x", "x"], ["none"]),
        helper.make_node("Loop", ["rounds", "", "none"], ["y"], body=body),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["rows", 1]) for name in "xy")
    path = write_graph(folder, nodes, [x], [y])
    manifest_for_model(
        path, name="loop", version=1, features=("rounds",), feature_set_hash=hash_of(()), column=0
    ).write(folder)
    return load(folder, ["rounds"])


def test_a_call_over_its_budget_is_stopped_and_the_model_asked_again_with_the_next_batch(tmp_path):
    model = TimedModel(write_loop(tmp_path), 200)
    with model.batch():
        assert model.predict(np.array([[3.0]])).tolist() == [3.0]
        began = time.monotonic()
        with pytest.raises(OverBudgetError, match="more than 200 ms"):
            model.predict(np.array([[1e9]]))  # half an hour
        with pytest.raises(OverBudgetError, match="not asked now"):
            model.predict(np.array([[3.0]]))
    assert time.monotonic() - began < 5
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:  # until the call has ended
        with model.batch():
            try:
                assert model.predict(np.array([[4.0]])).tolist() == [4.0]
                break
            except OverBudgetError:
                time.sleep(0.05)
    assert model.circuit.state is CircuitState.CLOSED


def test_an_error_of_the_model_is_raised_where_it_was_asked():
    class Failing:
        def predict(self, features, stop=None):
            raise KeyError("x")

    model = TimedModel(Failing(), 10_000)
    with model.batch(), pytest.raises(KeyError):
        model.predict(np.ones((1, 1)))
    assert model.circuit.state is CircuitState.CLOSED


def test_a_stuck_model_blocks_nobody_its_circuit_opens_and_a_probe_closes_it_when_it_is_well_again():
    stuck, clock = Waiting(), Clock()
    model = TimedModel(stuck, 20, clock)  # the clock stands: each call may wait for 20 ms
    scorer, _, state = scorer_of(model, Default(0.5))
    records = shopper_records(100)

    def served(begin):
        return {told(each) for each in answers_of(scorer, state, records[begin : begin + 10], begin)}

    began = time.monotonic()
    for number in range(OPENS_AFTER):
        assert model.circuit.state is CircuitState.CLOSED
        assert served(10 * number) == {"default"}
    assert model.circuit.state is CircuitState.OPEN
    assert stuck.calls == 1  # the others found it busy
    clock.now_s += FIRST_WAIT_S
    assert served(40) == {"default"}  # no probe while the call goes on that was left behind
    assert time.monotonic() - began < 5
    stuck.may_go.set()
    while model._running.empty():
        time.sleep(0.001)
    assert served(50) == {""}
    assert model.circuit.state is CircuitState.CLOSED


def test_without_a_rung_below_a_late_model_makes_dead_letters_that_say_so():
    model = TimedModel(Waiting(), 20, Clock())
    scorer, _, state = scorer_of(model)
    letters = answers_of(scorer, state, shopper_records(5))
    model._calls.put(None)
    assert {headers_of(each)["reason"] for each in letters} == {"model_over_budget"}
    assert {headers_of(each)["exception"] for each in letters} == {"the model took more than 20 ms"}


# what verify makes of it


def compared(fallback, score):
    """Findings of one answer whose features say 8.0."""
    named = ReceiptModel("t", "m", "1", "s", "f", fallback)

    class Answers:
        models, kept_from, beginning_deleted = [named], {}, False
        row = (0, 0, 11, 5, score, 0, 0, PREDICTION, 0)
        rows = np.array([row], [
            ("offset", "i8"), ("at_offset", "i8"), ("identity", "i8"), ("time_ms", "i8"), ("score", "f8"),
            ("named", "i4"), ("at_partition", "i4"), ("kind", "u1"), ("flags", "u1"),
        ])  # fmt: skip

        def bucket(self, _):
            return self.rows

        def place(self, _):
            return ()

    class Models:
        def model(self, _):
            return Limited(1e9)

    pipeline = dataclasses.replace(PURCHASE, include_features=False)
    row = np.zeros((1, len(pipeline.feature_names)))
    row[0, DWELL] = 8.0
    now = Recomputed(np.array([0]), np.array([5]), np.zeros(1, np.uint8), np.array([11]), row)
    comparison = AnswerComparison(pipeline, Answers(), Models(), None, Judged({0: 0}, {0: 1}, {}, 0, 10), 3)
    comparison.compare((0, 0), now)
    return comparison.findings


def test_verify_counts_fallbacks_apart_and_compares_those_of_models():
    assert (compared("", 8.0).equal, compared("", 8.0).fallbacks) == (1, {})
    assert (compared("model 1", 8.0).equal, compared("model 1", 8.0).fallbacks) == (1, {"model 1": 1})
    assert not compared("model 1", 9.0).holds
    found = compared("last-score", 0.3)
    assert (found.equal, found.fallbacks, found.holds) == (0, {"last-score": 1}, True)
