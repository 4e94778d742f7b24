"""Scores that a model says in a batch of another size are those that were served; all others are not."""

import numpy as np
import pytest

from flink_jobs.served_scores import SIZES, scores_as_served
from models.outputs import SCORE, Number, Outputs, Vector


class ByPlace:
    """Rounds as kernels do: whole groups of four rows one way, those left over another."""

    def __init__(self, outputs=SCORE):
        self.outputs, self.calls = outputs, []

    def predict(self, features):
        self.calls.append(len(features))
        if (features[:, 0] < 0).any():
            raise ValueError("no logarithm")
        scores = np.log1p(features[:, 0])
        left = len(scores) - len(scores) % 4
        scores[left:] = np.nextafter(scores[left:], np.inf)
        return scores if self.outputs.is_number else np.stack([scores, 2 * scores, 3 * scores], axis=1)


ROWS = np.arange(10.0)[:, None]


def test_a_score_of_another_batch_is_what_was_served():
    model = ByPlace()
    alone = np.concatenate([model.predict(row[None, :]) for row in ROWS])
    scores, failed, otherwise = scores_as_served(model, ROWS, alone, SCORE)
    assert (scores.tolist(), failed) == (alone.tolist(), {})
    assert otherwise.tolist() == [True] * 8 + [False] * 2
    together = np.concatenate([model.predict(ROWS[:8]), model.predict(np.tile(ROWS[8:], (2, 1)))[:2]])
    scores, failed, otherwise = scores_as_served(model, ROWS, together, SCORE)
    assert scores.tolist() == together.tolist()
    assert otherwise.tolist() == [False] * 8 + [True] * 2


@pytest.mark.parametrize("bits", [2, -1])
def test_a_score_that_no_batch_gives_stays_another_one(bits):
    model = ByPlace()
    served = model.predict(ROWS[:8])
    for _ in range(abs(bits)):
        served[3] = np.nextafter(served[3], np.inf * bits)
    scores, _, otherwise = scores_as_served(model, ROWS[:8], served, SCORE)
    assert scores[3] != served[3]
    assert not otherwise.any()


def test_what_is_far_off_is_not_tried_and_many_misses_end_the_trying():
    model, rows = ByPlace(), np.ones((4_000, 1))
    scores_as_served(model, rows, np.zeros(4_000), SCORE)
    assert model.calls == [4_000]
    served = np.full(4_000, np.log1p(1) + 1e-9)
    assert not scores_as_served(model, rows, served, SCORE).otherwise.any()
    assert len(model.calls) == 2 + 1_000 * len(SIZES)


def test_a_row_that_fails_has_failed():
    scores, failed, otherwise = scores_as_served(ByPlace(), np.array([[1.0], [-1.0]]), np.log1p([1.0, 1.0]), SCORE)
    assert list(failed) == [1]
    assert not otherwise[1]
    assert len(scores) == 2


def test_several_numbers_of_an_answer_come_from_the_same_batch():
    outputs = Outputs((Number("a"), Vector("v", 2)))
    model = ByPlace(outputs)
    alone, four = model.predict(ROWS[:1] + 5), model.predict(np.full((4, 1), 5.0))[:1]
    mixed = np.array([[alone[0, 0], *four[0, 1:]]])
    asked = np.full((4, 1), 5.0)
    for served, is_it in ((alone, True), (mixed, False)):
        wanted = np.concatenate([served, four, four, four])
        _, _, otherwise = scores_as_served(model, asked, wanted, outputs)
        assert otherwise.tolist() == [is_it, False, False, False]
