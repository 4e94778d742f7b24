"""A model that was promoted with a guard and is over a limit: the serving before comes back, in every subtask alike."""

import dataclasses

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_graphs import write_graph
from wire_records import PURCHASE

from flink_jobs.console import CommandError
from flink_jobs.model_serving import ModelServing, model_ref
from flink_jobs.models_promotion import parse_guard
from flink_jobs.pipeline_model import named_model, open_model
from models.binding import manifest_for_model
from udfs.model_guard import ModelWatch
from udfs.model_schedule import (
    ChangeAnswer,
    Guard,
    ModelChange,
    ModelRef,
    Schedule,
    Serving,
    apply_changes,
    read_change,
    rollbacks_of,
)
from udfs.output_batch import read_outputs
from udfs.pipeline import Model
from udfs.served_models import Role

A, B, C = (ModelRef("m", number, str(number) * 64, "f" * 64) for number in (1, 2, 3))
NONE = np.empty(0), {}


def watch(**limits):
    return ModelWatch(B, Guard(events=100, **limits))


def test_too_many_events_without_a_score_are_told_as_soon_as_it_is_certain():
    looked_at = watch(failed_share=0.05)
    assert looked_at.take(np.ones(40), dict.fromkeys(range(5)), 0.0, NONE) == ""
    why = looked_at.take(np.ones(10), {3: "x"}, 0.0, NONE)
    assert why == "m/2: after 50 events in a subtask, 6 have no score of it, more than 0.05 of 100"
    assert looked_at.is_over


def test_a_slow_model_is_told_when_all_events_were_seen_and_a_fast_one_is_left_alone():
    slow, fast = watch(us_per_row=100), watch(us_per_row=100)
    assert slow.take(np.ones(60), {}, 60 * 101e-6, NONE) == ""
    assert "101 us a row" in slow.take(np.ones(40), {}, 40 * 101e-6, NONE)
    assert fast.take(np.ones(100), {}, 100 * 99e-6, NONE) == ""
    assert slow.is_over
    assert fast.is_over


def test_scores_that_shifted_are_told_against_those_of_the_model_before_for_the_same_events():
    scores = np.random.default_rng(3).normal(0.5, 0.1, 100)
    shifted, like = watch(psi=0.25), watch(psi=0.25)
    assert "PSI of" in shifted.take(scores + 0.3, {}, 0.0, (scores, {}))
    assert like.take(scores + 0.001, {2: "no score"}, 0.0, (scores, {5: "none either"})) == ""


def test_without_the_model_before_a_shift_cannot_be_told():
    looked_at = watch(psi=0.25)
    assert looked_at.take(np.ones(100), {}, 0.0, NONE) == ""
    assert looked_at.is_over


def rollback(from_ms, failed, before=A):
    return ModelChange("r", "rollback", A, Serving(before), from_ms, failed=Serving(failed), why="it fails")


def test_a_rollback_is_of_the_newest_period_only_and_does_nothing_the_second_time():
    promoted = Schedule.of(A).then(100, Serving(B), Guard(failed_share=0.1))
    back = promoted.after(rollback(100, B))
    assert [each.serving.champion for each in back.periods] == [A, A]
    assert back.after(rollback(100, B)) is back
    decided = promoted.then(200, Serving(C))
    assert decided.after(rollback(100, B)) is decided
    assert promoted.after(rollback(99, B)) is promoted
    assert promoted.after(rollback(100, C)) is promoted


def test_a_new_job_knows_what_was_rolled_back_and_why():
    contents = [
        ModelChange("s", "serve", A, Serving(B), 100, guard=Guard(failed_share=0.1)).to_bytes(),
        rollback(100, B).to_bytes(),
        rollback(100, B).to_bytes(),  # another subtask's
        ModelChange("t", "serve", A, Serving(C), 300).to_bytes(),
    ]
    schedule = apply_changes(Schedule.of(A), contents)
    assert [each.serving.champion for each in schedule.periods] == [A, A, C]
    assert [each.why for each in rollbacks_of(Schedule.of(A), contents)] == ["it fails"]


def test_a_schedule_keeps_its_guard_in_a_checkpoint():
    schedule = Schedule.of(A).then(100, Serving(B), Guard(psi=0.25))
    assert Schedule.from_bytes(schedule.to_bytes()) == schedule


def test_limits_are_read_from_the_command_line():
    assert parse_guard("failed=0.01, psi=0.25,us=200,events=50") == Guard(50, 0.01, 200.0, 0.25)
    assert parse_guard("failed=0") == Guard(1_000, 0.0)
    for text in ("", "events=10", "failed", "nan=1", "failed=x", "psi=nan", "failed=0.1,events=0.5", "us=-1"):
        with pytest.raises(CommandError, match="--guard"):
            parse_guard(text)


# a subtask


def write_version(root, pipeline, version, operator):
    """A model of the dwell time: `Exp`, or `Log`, which has no score for 0 and less."""
    folder = root / "dwell" / str(version)
    x, y = (helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["rows", 1]) for name in "xy")
    path = write_graph(folder, [helper.make_node(operator, ["x"], ["y"])], [x], [y])
    names = ("dwell_time_sec",)
    manifest_for_model(
        path, name="dwell", version=version, features=names, feature_set_hash=pipeline.feature_set_hash(names)
    ).write(folder)
    return folder


@pytest.fixture
def serving(tmp_path):
    """A subtask with two shards, and the references of versions 1 (`Exp`) and 2 (`Log`)."""
    pipeline = dataclasses.replace(PURCHASE, model=Model("dwell", 1, root=tmp_path), models_topic="models")
    folders = [write_version(tmp_path, pipeline, version, name) for version, name in ((1, "Exp"), (2, "Log"))]
    model = open_model(pipeline, folders[0])
    subtask = ModelServing(
        pipeline, model, named_model(model.manifest), folders[0], str(tmp_path), [], (0, 1), 1e9
    )
    for shard in (0, 1):
        subtask.begin(shard, None)
    return subtask, *map(model_ref, folders)


def score(subtask, ref, dwell):
    features = np.ones((len(dwell), len(PURCHASE.feature_names)))
    features[:, PURCHASE.feature_names.index("dwell_time_sec")] = dwell
    return subtask.predict(Role(ref), features)


def said(subtask):
    """What it says: answers, and changes that it asks for."""
    outputs = read_outputs(subtask.take_answers())
    answers = [msgspec.json.decode(each.value, type=ChangeAnswer) for each in outputs if each.topic == "models-status"]
    return answers, [each.value for each in outputs if each.topic == "models"]


def test_a_subtask_asks_once_for_a_rollback_and_all_shards_take_it(serving):
    subtask, first, second = serving
    change = ModelChange("s", "serve", first, Serving(second), 100, guard=Guard(50, 0.1))
    stored = [subtask.change(shard, change.to_bytes()) for shard in (0, 1)]
    assert [each.state for each in said(subtask)[0]] == ["serving"]
    assert score(subtask, second, [1.0, 2.0])[1] == {}
    assert not subtask.has_answers
    assert len(score(subtask, second, [-1.0] * 8)[1]) == 8
    assert subtask.has_answers
    score(subtask, second, [-1.0] * 8)
    (breached,), (asked,) = said(subtask)
    assert (breached.state, breached.id) == ("breached", read_change(asked).id)
    assert breached.why == "dwell/2: after 10 events in a subtask, 8 have no score of it, more than 0.1 of 50"
    back = [Schedule.from_bytes(subtask.change(shard, asked)) for shard in (0, 1)]
    assert back == [Schedule.from_bytes(each).after(read_change(asked)) for each in stored]
    assert back[0].periods[-1].serving == Serving(first)
    assert [each.state for each in said(subtask)[0]] == ["rolled_back"]
    assert subtask.change(0, msgspec.json.encode(msgspec.structs.replace(read_change(asked), id="other"))) is None
    assert said(subtask) == ([], [])


def test_a_guard_holds_after_a_restart_and_compares_with_the_model_before_while_that_is_open(serving):
    subtask, first, second = serving
    change = ModelChange("s", "serve", first, Serving(second), 100, guard=Guard(50, psi=0.25))
    subtask.change(0, change.to_bytes())
    stored = subtask.change(1, change.to_bytes())
    assert Schedule.from_bytes(stored).periods[-1].guard == Guard(50, psi=0.25)
    score(subtask, second, np.linspace(1, 5, 50))
    assert "PSI of" in said(subtask)[0][-1].why
    subtask.begin(2, stored)  # a schedule it knows is nothing new
    assert not subtask.has_answers
    later = msgspec.structs.replace(Schedule.from_bytes(stored).periods[-1], from_ms=200, guard=Guard(10, 0.1))
    subtask.begin(2, Schedule((Schedule.of(first).periods[0], later)).to_bytes())
    score(subtask, second, [-1.0, -1.0])
    assert "2 have no score of it" in said(subtask)[0][-1].why
