"""Which model is valid when, and who scores which event of a batch."""

import struct

import numpy as np
import pytest

from models.shelf import ModelShelf
from udfs.model_schedule import (
    BEGINNING_MS,
    Challenger,
    ModelChange,
    ModelRef,
    Period,
    Schedule,
    Serving,
    apply_changes,
    places_of_shares,
    read_change,
)
from udfs.record_batch import MODELS, RecordBatch
from udfs.served_models import CHALLENGER, CHAMPION, SHADOW, Role, ServedModels, by_role, by_shadow, runs_of

A, B, C = (ModelRef("m", number, str(number) * 64, "f" * 64) for number in (1, 2, 3))


def change(kind, serving, from_ms=BEGINNING_MS, base=A):
    return ModelChange("id", kind, base, serving, from_ms)


def times(*values):
    return np.array(values, np.int64)


def test_an_event_belongs_to_the_period_of_its_time_whenever_it_arrives():
    schedule = Schedule.of(A).then(100, Serving(B)).then(200, Serving(C))
    assert schedule.places(times(-5, 99, 100, 199, 200, 5_000)).tolist() == [0, 0, 1, 1, 2, 2]


def test_the_newest_change_puts_off_what_was_planned_for_later():
    schedule = Schedule.of(A).then(300, Serving(C)).then(100, Serving(B))
    assert schedule.periods == (Period(BEGINNING_MS, Serving(A)), Period(100, Serving(B)))


def test_a_schedule_survives_a_checkpoint():
    schedule = Schedule.of(A).then(100, Serving(B, (Challenger(C, 0.25),), (A,)))
    assert Schedule.from_bytes(schedule.to_bytes()) == schedule


def test_a_new_job_knows_what_the_control_topic_said_and_passes_over_the_rest():
    contents = [
        change("serve", Serving(B), 100).to_bytes(),
        None,
        b"no json",
        b'{"id": "x", "kind": "serve"}',
        change("prepare", Serving(C), 150).to_bytes(),
        change("serve", Serving(C), 200, base=B).to_bytes(),
    ]
    assert apply_changes(Schedule.of(A), contents) == Schedule.of(A).then(100, Serving(B))


@pytest.mark.parametrize("shares", [(0.0,), (1.5,), (0.6, 0.6), (-0.1,), (float("nan"),)])
def test_shares_that_are_none_are_no_change(shares):
    serving = Serving(A, tuple(Challenger(B, share) for share in shares))
    assert read_change(change("serve", serving).to_bytes()) is None


def test_a_share_is_kept_by_its_entities_while_it_grows():
    entities = [f"u{number}" for number in range(20_000)]
    small, large = (places_of_shares(entities, [share]) == 0 for share in (0.1, 0.3))
    assert abs(small.mean() - 0.1) < 0.01
    assert abs(large.mean() - 0.3) < 0.02
    assert not (small & ~large).any()


class Kept:
    def __init__(self):
        self.keys = []

    def keep(self, keys):
        self.keys = list(dict.fromkeys(keys))


def served(*schedules):
    shelf = Kept()
    models = ServedModels(shelf)
    for shard, schedule in enumerate(schedules):
        models.change(shard, schedule)
    return models, shelf


def test_one_model_scores_all_after_a_change_is_over():
    models, _ = served(Schedule.of(A).then(100, Serving(B)))
    duties = models.duties([0], [2], times(100, 300), ["u", "v"])
    assert [each.served for each in duties.known] == [Role(B)]
    assert duties.which is None


def test_shards_that_have_not_heard_of_a_change_go_on_as_before():
    models, _ = served(Schedule.of(A), Schedule.of(A).then(100, Serving(B)))
    duties = models.duties([0, 1], [2, 4], times(100, 300, 99, 300), list("uvwx"))
    assert [duties.known[place].served.model for place in duties.which] == [A, A, A, B]


def test_challengers_score_their_share_and_shadows_everything():
    serving = Serving(A, (Challenger(B, 0.5),), (C,))
    models, _ = served(Schedule.of(A).then(100, serving))
    entities = [f"u{number}" for number in range(200)]
    duties = models.duties([0], [200], np.full(200, 150), entities)
    roles = by_role(duties.known, duties.which, 200)
    is_challenged = places_of_shares(entities, [0.5]) == 0
    assert set(roles) == {Role(A, CHAMPION), Role(B, CHALLENGER)}
    assert roles[Role(B, CHALLENGER)].tolist() == np.flatnonzero(is_challenged).tolist()
    assert by_shadow(duties.known, duties.which, 200)[Role(C, SHADOW)].tolist() == list(range(200))
    runs = runs_of(duties.which, None, 200)
    assert [begin for _, _, begin, _ in runs[1:]] == [end for _, _, _, end in runs[:-1]]
    assert sum(end - begin for _, _, begin, end in runs) == 200


def test_two_generations_are_kept_the_newest_used_and_the_one_that_comes():
    models, shelf = served(Schedule.of(A).then(100, Serving(B)).then(200, Serving(C)))
    models.duties([0], [1], times(50), ["u"])
    models.duties([0], [1], times(150), ["u"])
    assert shelf.keys == [A, B]
    models.duties([0], [1], times(250), ["u"])
    assert shelf.keys == [B, C]
    models.prepare(Serving(A))
    assert shelf.keys == [C, A]
    models.prepare(None)
    models.duties([0], [1], times(150), ["u"])
    assert shelf.keys == [C, B]


def test_a_model_is_opened_beside_and_what_failed_is_tried_again():
    opened = []

    def open_(key):
        opened.append(key)
        if opened.count(key) == 1 and key == "bad":
            raise ValueError("no model")
        return key.upper()

    shelf = ModelShelf(open_)
    shelf.prepare("good")
    assert shelf.get("good") == "GOOD"
    assert shelf.is_done("good")
    with pytest.raises(ValueError, match="no model"):
        shelf.get("bad")
    assert shelf.get("bad") == "BAD"
    shelf.keep(["bad"])
    assert len(shelf) == 1
    assert shelf.get("good") == "GOOD"
    assert opened == ["good", "bad", "bad", "good"]


def test_a_command_about_models_carries_a_record_of_the_control_topic_or_none():
    said = change("serve", Serving(B), 100)
    batch = RecordBatch(struct.pack("<iiii", MODELS, 0, 0, 0) + said.to_bytes())
    assert (batch.command, len(batch), read_change(batch.change)) == (MODELS, 0, said)
    assert RecordBatch(struct.pack("<iiii", MODELS, 0, 0, 0)).change == b""
