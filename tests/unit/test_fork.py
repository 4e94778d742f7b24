"""Served scores and those of another version side by side, by the places of their events."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from wire_records import PURCHASE, open_shipped

from flink_jobs.fork_job import NO_PREDICTION, ForkRequest, SideBySide
from flink_jobs.fork_target import FileTarget
from flink_jobs.job_beginning import JobBeginning
from flink_jobs.models_comparison import places_of
from flink_jobs.receipt_models import ReceiptModel
from flink_jobs.recomputed import Recomputed
from flink_jobs.served_answers import DEAD_LETTER, PREDICTION, ServedAnswers
from flink_jobs.settings import Settings
from flink_jobs.verify_job import VerifyRequest
from models.onnx_model import PredictionError
from models.outputs import SCORE

COUNT = 40
BEGINNING = JobBeginning({0: 0}, frozenset(), "")


def stretch(count=COUNT):
    """Events at every other offset from 100 on."""
    offsets = 100 + 2 * np.arange(count)
    features = np.random.default_rng(1).gamma(1.0, 5.0, (count, len(PURCHASE.feature_names)))
    return Recomputed(offsets, 1_000 + offsets, np.zeros(count, np.uint8), np.zeros(count, np.int64), features)


def served(folder, now, scores, model, *, left_out=(), kinds=PREDICTION):
    """Answers as a job gave them, a second one with another score after each of the first ten."""
    answers, manifest = ServedAnswers(PURCHASE, folder), model.manifest
    rows = np.zeros(len(scores), answers.files.row_type)
    rows["offset"], rows["score"], rows["kind"] = now.offsets, scores, kinds
    again = rows[:10].copy()
    again["at_offset"], again["score"] = 1_000, 0.987
    kept = np.concatenate([again, rows])
    kept[~np.isin(kept["offset"], now.offsets[list(left_out)])].tofile(folder / "000003-000000000000.answers")
    named = PURCHASE.events.topic, "purchase", str(manifest.version), manifest.sha256, manifest.feature_set_hash
    answers.models.append(ReceiptModel(*named))
    return answers


def request_of(model, **options):
    return ForkRequest(VerifyRequest(PURCHASE, Settings()), model, **options)


def test_the_first_answer_to_an_event_is_compared_with_the_other_versions_score(tmp_path):
    now, old, new = stretch(), open_shipped(2), open_shipped(1)
    before, after = old.predict(now.features), new.predict(now.features)
    side = SideBySide(request_of(new, most=2), served(tmp_path, now, before, old, left_out=[5, 20]), BEGINNING)
    side.add((3, 0), now)
    report = side.report()
    there = np.delete(np.arange(COUNT), [5, 20])
    assert report.before.places.tolist() == places_of(np.full(len(there), 3), now.offsets[there]).tolist()
    assert report.before.scores.tolist() == before[there].tolist()
    assert report.now.scores.tolist() == after[there].tolist()
    assert (report.before.names, report.now.names) == ([("2", "served")], [("1", "fork")])
    assert (report.events, report.left_out[NO_PREDICTION]) == (COUNT, 2)
    assert (report.again, report.not_again, report.unchecked) == (COUNT - 2, 0, 0)
    largest = there[np.argsort(-np.abs(after - before)[there])[:2]]
    assert [each.offset for each in report.largest] == now.offsets[largest].tolist()
    assert [each.difference for each in report.largest] == np.abs(after - before)[largest].tolist()


def test_served_scores_that_do_not_come_out_again_are_counted(tmp_path):
    now, model = stretch(), open_shipped(2)
    scores = model.predict(now.features)
    scores[7] = np.nextafter(scores[7], 1)
    side = SideBySide(request_of(model), served(tmp_path, now, scores, model), BEGINNING)
    side.add((3, 0), now)
    assert (side.report().again, side.report().not_again) == (COUNT - 1, 1)
    answers = served(tmp_path, now, scores, model)
    answers.models[0] = answers.models[0]._replace(sha256="0" * 64)
    side = SideBySide(request_of(model), answers, BEGINNING)
    side.add((3, 0), now)
    assert (side.report().again, side.report().unchecked) == (0, COUNT)


def test_dead_letters_are_no_scores_and_two_versions_are_compared_without_any(tmp_path):
    now, old, new = stretch(), open_shipped(2), open_shipped(1)
    answers = served(tmp_path, now, np.full(COUNT, np.nan), old, kinds=DEAD_LETTER)
    side = SideBySide(request_of(new), answers, BEGINNING)
    side.add((3, 0), now)
    assert (len(side.report().before.places), side.report().left_out[NO_PREDICTION]) == (0, COUNT)
    side = SideBySide(request_of(new, base=old), answers, BEGINNING)
    side.add((3, 0), now)
    assert side.report().before.scores.tolist() == old.predict(now.features).tolist()


class Fragile:
    """A model that fails on one row."""

    def __init__(self, model, features):
        self.manifest, self._model, self._features = model.manifest, model, features

    def predict(self, features):
        if (features == self._features).all(axis=1).any():
            raise PredictionError("not this one")
        return self._model.predict(features)


def test_events_that_the_other_version_fails_on_are_counted_and_not_compared(tmp_path):
    now, model = stretch(), open_shipped(2)
    target = FileTarget(tmp_path / "fork.parquet", PURCHASE.outputs)
    answers = served(tmp_path, now, model.predict(now.features), model)
    side = SideBySide(request_of(Fragile(model, now.features[11]), target=target), answers, BEGINNING)
    with target:
        side.add((3, 0), now)
    report = side.report()
    assert (report.failed, len(report.now.places), report.written) == (1, COUNT - 1, COUNT - 1)
    rows = pq.read_table(tmp_path / "fork.parquet").to_pylist()
    assert [row["_offset"] for row in rows] == np.delete(now.offsets, 11).tolist()
    assert [row["before"] for row in rows] == [row["purchase_probability"] for row in rows]


def interrupted(target):
    with target:
        target.write(3, stretch(), np.ones(COUNT), np.ones(COUNT))
        raise KeyboardInterrupt


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted(FileTarget(tmp_path / "fork.parquet", SCORE))
    assert list(tmp_path.iterdir()) == []
