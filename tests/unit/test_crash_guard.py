"""A model that kills its process: the next worker knows the batch, the one after it the record; all are answered."""

import dataclasses
import math
import os
import signal

import numpy as np
import pytest
from wire_records import PURCHASE, RECEIPT_MODEL, Shard, batch_of, encoder_of, headers_of, open_shipped, shopper_records

from flink_jobs.crash_guard import CrashGuard, crash_folder, read_crashes, unread_crashes
from flink_jobs.model_serving import ModelServing, model_ref
from flink_jobs.pipeline_model import named_model
from flink_jobs.pipelines import MODELS
from flink_jobs.settings import Settings
from models.budget import TimedModel
from udfs.answering import Answerer
from udfs.entity_state import ShardState
from udfs.fallbacks import Default, OtherModel
from udfs.ladder import Ladder, OpenedRung
from udfs.model_schedule import ModelRef
from udfs.output_batch import read_outputs
from udfs.plan import FeaturePlan
from udfs.predicting import predict_batch
from udfs.receipts import NamedModel, Receipt
from udfs.record_batch import REQUESTS, RecordBatch, pack_records
from udfs.request_reader import request_bytes
from udfs.requests import Requests
from udfs.scoring import Scorer
from udfs.served_models import SHADOW, Duties, Duty, Role
from udfs.wire_formats import EventDecoder

POISON = 40
WHOLE = 100


class Deadly:
    """Kills its process on the rows of some events, wherever they are."""

    def __init__(self, rows, number):
        self.rows, self.number = rows, number

    def predict(self, features, stop=None):
        found = np.nan_to_num(features)
        if any((found == np.nan_to_num(row)).all(axis=1).any() for row in self.rows):
            signal.raise_signal(self.number)  # in this thread, whichever it is
        return np.nansum(features, axis=1)


class Remembers:
    def __init__(self):
        self.seen = []

    def predict(self, features):
        self.seen.append(features.copy())
        return np.nansum(features, axis=1)


@pytest.fixture
def poisoned():
    """Records, and the features of the poisoned ones."""
    records = shopper_records(WHOLE)
    remembers = Remembers()
    expected = Shard(remembers).score(records)
    features = np.concatenate(remembers.seen)
    return records, features, expected


def outputs_of_child(folder, scorer, batch, states, sha256):
    """What a new worker of the subtask gives for a batch; None if it dies."""
    out = folder / "outputs"
    out.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            guard = CrashGuard(folder / "crashes", 0, "m/1", sha256)
            for chooser in (scorer._choice, scorer._ladder):
                if chooser is not None:
                    chooser.on_use = guard.scores_with
            out.write_bytes(guard.score(scorer, batch, states))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return None
    return sorted(read_outputs(out.read_bytes()), key=lambda output: int(headers_of(output)["offset"]))


def worker(folder, model, records, sha256=RECEIPT_MODEL.sha256, later_ms=0, budget_ms=None):
    """What a new worker of the subtask gives for all records in one batch; None if it dies."""
    shard, batch = Shard(TimedModel(model, budget_ms) if budget_ms else model), batch_of(records)
    batch.record_times_ms += later_ms
    shard.scorer._encoder.named = shard.scorer._scores._named = RECEIPT_MODEL._replace(sha256=sha256)
    return outputs_of_child(folder, shard.scorer, batch, {0: shard.state}, sha256)


def test_a_model_with_a_budget_is_known_by_its_own_thread(tmp_path, poisoned):
    records, features, _ = poisoned
    model = Deadly([features[POISON]], signal.SIGSEGV)
    assert worker(tmp_path, model, records, budget_ms=60_000) is None
    assert worker(tmp_path, model, records, budget_ms=60_000) is None
    answers = worker(tmp_path, model, records, budget_ms=60_000)
    assert [headers_of(each).get("reason") for each in answers].count("model_crashed") == 1
    assert [each.by_model for each in read_crashes(tmp_path / "crashes")] == [True, True]


def test_after_two_crashes_the_record_is_a_dead_letter_and_all_others_are_scored_as_ever(tmp_path, poisoned):
    records, features, expected = poisoned
    model = Deadly([features[POISON]], signal.SIGSEGV)
    assert worker(tmp_path, model, records) is None
    assert worker(tmp_path, model, records) is None, "alone now"
    outputs = worker(tmp_path, model, records)
    told = headers_of(outputs[POISON])
    assert (told["reason"], told["stage"]) == ("model_crashed", "model")
    assert told["exception"] == "Segmentation fault in model m/1"
    assert outputs[POISON].value == records[POISON][1]
    assert [*outputs[:POISON], *outputs[POISON + 1 :]] == [*expected[:POISON], *expected[POISON + 1 :]]
    (crash,) = [each for each in read_crashes(tmp_path / "crashes") if each.again]
    assert crash.words() == (
        f"model m/1 killed its worker (Segmentation fault) on partition 2 offset {POISON}: "
        "it is a dead letter (model_crashed) now"
    )


def test_every_record_that_kills_is_found_and_the_first_crash_names_the_batch(tmp_path, poisoned):
    records, features, _ = poisoned
    deadly = [3, 41, 99]
    model = Deadly(features[deadly], signal.SIGABRT)
    assert worker(tmp_path, model, records) is None
    (first,) = _crashes_after_a_start(tmp_path)
    assert first.words() == (
        "model m/1 killed its worker (Aborted) on partition 2 offsets 0-99: they are scored one at a time now"
    )
    starts = 1
    while (outputs := worker(tmp_path, model, records)) is None:
        starts += 1
    assert starts == 1 + len(deadly)
    assert [row for row, each in enumerate(outputs) if "reason" in headers_of(each)] == deadly


def test_a_job_that_ends_with_the_crash_says_the_model_and_the_place(tmp_path, poisoned):
    records, features, _ = poisoned
    settings = Settings(home=tmp_path)
    folder = crash_folder(PURCHASE, settings)
    folder.parent.mkdir(parents=True)
    assert unread_crashes(PURCHASE, settings) == []
    assert worker(folder.parent, Deadly([features[POISON]], signal.SIGFPE), records) is None
    (line,) = unread_crashes(PURCHASE, settings)
    assert line == "model m/1 killed its worker (Floating point exception) on partition 2 offsets 0-99"
    worker(folder.parent, Remembers(), records)
    assert unread_crashes(PURCHASE, settings) == []


def test_a_crash_elsewhere_than_in_the_model_is_not_the_model_s(tmp_path, poisoned, monkeypatch):
    records, _, _ = poisoned
    decode = EventDecoder.decode_batch

    def deadly(self, batch):
        if any(value == records[POISON][1] for value in batch.values.tolist()):
            os.kill(os.getpid(), signal.SIGSEGV)
        return decode(self, batch)

    monkeypatch.setattr(EventDecoder, "decode_batch", deadly)
    for _ in range(3):
        assert worker(tmp_path, Remembers(), records) is None
    (*_, last) = _crashes_after_a_start(tmp_path)
    assert not last.again
    assert last.words() == (
        "decoding, features or encoding, not model m/1, killed its worker (Segmentation fault) "
        f"on partition 2 offset {POISON}: they are scored one at a time now"
    )


def test_a_worker_that_is_killed_from_outside_accuses_nobody(tmp_path, poisoned):
    records, features, expected = poisoned
    model = Deadly([features[POISON]], signal.SIGKILL)
    assert worker(tmp_path, model, records) is None
    assert worker(tmp_path, model, records) is None
    assert _crashes_after_a_start(tmp_path) == []
    assert worker(tmp_path, Remembers(), records) == expected


def test_another_model_gets_another_chance(tmp_path, poisoned):
    records, features, expected = poisoned
    model = Deadly([features[POISON]], signal.SIGSEGV)
    assert worker(tmp_path, model, records) is None
    assert worker(tmp_path, model, records) is None
    assert worker(tmp_path, Remembers(), records, sha256="cd") == expected


def test_a_record_of_another_time_at_the_same_offset_is_another_record(tmp_path, poisoned):
    records, features, _ = poisoned
    model = Deadly([features[POISON]], signal.SIGSEGV)
    assert worker(tmp_path, model, records) is None
    assert worker(tmp_path, model, records) is None
    outputs = worker(tmp_path, Remembers(), records, later_ms=1)
    assert [headers_of(each).get("reason") for each in outputs] == [None] * WHOLE


NEW, SHADOW_REF = (ModelRef("m", version, character * 64, "0" * 64) for version, character in ((7, "7"), (8, "8")))


class Choosing:
    """One model serves, another shadows it."""

    def __init__(self, models):
        self.models, self.on_use = models, None
        self.duty = Duty(Role(NEW), (Role(SHADOW_REF, SHADOW),))

    def duties(self, *_):
        return Duties([self.duty], None)

    def predict(self, role, features):
        self.on_use(str(role.model), role.model.sha256)
        return predict_batch(self.models[role.model], features)

    def receipt(self, role):
        named = NamedModel(role.model.name, str(role.model.version), role.model.sha256, "0" * 64)
        return Receipt.of(PURCHASE, named, role=role.name)


def choosing_worker(folder, records, served, shadow):
    """As `worker`, where the pipeline's own model scores nothing."""
    shard = Shard(Remembers(), choice=Choosing({NEW: served, SHADOW_REF: shadow}))
    outputs = outputs_of_child(folder, shard.scorer, batch_of(records), {0: shard.state}, RECEIPT_MODEL.sha256)
    return None if outputs is None else [headers_of(each) for each in outputs]


def test_a_crash_is_held_against_the_model_that_ran_and_not_the_pipelines_own(tmp_path, poisoned):
    records, features, expected = poisoned
    deadly = Deadly([features[POISON]], signal.SIGSEGV)
    assert choosing_worker(tmp_path, records, deadly, Remembers()) is None
    assert choosing_worker(tmp_path, records, deadly, Remembers()) is None, "alone now"
    told = choosing_worker(tmp_path, records, deadly, Remembers())
    (letter,) = [each for each in told if "reason" in each]
    assert letter["exception"] == "Segmentation fault in model m/7"
    assert [each.sha256 for each in read_crashes(tmp_path / "crashes")] == [NEW.sha256, NEW.sha256]
    assert worker(tmp_path, Remembers(), records) == expected, "the pipeline's own model scores them all"


def test_a_job_that_changes_models_tells_which_one_scores_before_it_does(tmp_path):
    pipeline, folder = dataclasses.replace(PURCHASE, models_topic="purchase-models"), MODELS / "purchase" / "2"
    opened = open_shipped(2)
    serving = ModelServing(pipeline, opened, named_model(opened.manifest), folder, str(MODELS), [], (0, 1), math.inf)
    used, other = [], model_ref(MODELS / "purchase" / "1")
    serving.on_use = lambda model, sha256: used.append((model, sha256))
    assert serving.model(Role(model_ref(folder))).manifest.version == 2
    assert serving.model(Role(other, SHADOW)).manifest.version == 1
    assert used == [(str(each), each.sha256) for each in (model_ref(folder), other)]


def test_a_shadow_that_kills_its_worker_costs_nobody_an_answer(tmp_path, poisoned):
    records, features, _ = poisoned
    deadly = Deadly([features[POISON]], signal.SIGSEGV)
    assert choosing_worker(tmp_path, records, Remembers(), deadly) is None
    assert choosing_worker(tmp_path, records, Remembers(), deadly) is None
    told = choosing_worker(tmp_path, records, Remembers(), deadly)
    assert not any("reason" in each for each in told)
    assert sum(each["model-version"] == "7" for each in told) == WHOLE
    shadowed = [int(each["offset"]) for each in told if each["model-version"] == "8"]
    assert sorted(shadowed) == [*range(POISON), *range(POISON + 1, WHOLE)]


class Fails:
    """Has a score for no event of some."""

    def __init__(self, rows):
        self.rows = rows

    def predict(self, features):
        if any((np.nan_to_num(features) == np.nan_to_num(row)).all(axis=1).any() for row in self.rows):
            raise ValueError("no score")
        return np.nansum(features, axis=1)


def falling_back_worker(folder, records, model, fallback):
    """As `worker`, where the pipeline has another model to fall back on, and then a default."""
    pipeline = dataclasses.replace(PURCHASE, fallbacks=(OtherModel(7), Default(0.5)))
    named = NamedModel("m", "7", "7" * 64, "0" * 64)
    ladder = Ladder(pipeline, {7: OpenedRung(fallback, named)})
    plan = FeaturePlan.build(pipeline)
    scorer = Scorer(plan, model, encoder_of(pipeline), lambda: 0, ladder=ladder)
    return outputs_of_child(
        folder, scorer, batch_of(records), {0: ShardState(plan, log_changes=False)}, RECEIPT_MODEL.sha256
    )


@pytest.mark.parametrize("kills", ["own", "fallback"])
def test_an_event_that_a_model_kills_its_worker_on_goes_down_the_ladder(tmp_path, poisoned, kills):
    records, features, _ = poisoned
    deadly = Deadly([features[POISON]], signal.SIGSEGV)
    models = (deadly, Remembers()) if kills == "own" else (Fails([features[POISON]]), deadly)
    assert falling_back_worker(tmp_path, records, *models) is None
    assert falling_back_worker(tmp_path, records, *models) is None, "alone now"
    outputs = [headers_of(each) for each in falling_back_worker(tmp_path, records, *models)]
    expected = "model 7" if kills == "own" else "default"
    assert [each.get("fallback") for each in outputs] == [None] * POISON + [expected] + [None] * (WHOLE - POISON - 1)
    assert {each.model for each in read_crashes(tmp_path / "crashes")} == {"m/1" if kills == "own" else "m/7"}


def _crashes_after_a_start(folder):
    worker(folder, Remembers(), shopper_records(0))
    return read_crashes(folder / "crashes")


# requests


class DeadlyWish:
    """Kills its process on one dwell time, wherever it is."""

    def predict(self, features):
        if (features == 66.0625).any():
            signal.raise_signal(signal.SIGSEGV)
        return np.nansum(features, axis=1)


def test_a_request_that_kills_its_worker_is_told_so_and_is_no_event(tmp_path):
    pipeline, records = dataclasses.replace(PURCHASE, requests=Requests()), shopper_records(WHOLE)
    now_ms = int(batch_of(records).record_times_ms.max())
    shard = Shard(Remembers(), pipeline)
    shard.score(records)
    answerer = Answerer(FeaturePlan.build(pipeline), DeadlyWish(), RECEIPT_MODEL, lambda: now_ms)
    entity, fields = records[0][0].decode(), {"page_id": "home"}
    asked = [
        request_bytes(f"r{number}", entity, {**fields, "dwell_time_sec": dwell})
        for number, dwell in enumerate((1.0, 66.0625, 2.0))
    ]
    keys, values = zip(*asked, strict=True)
    places = [0] * 3, [POISON] * 3, [now_ms + number for number in range(3)]
    batch = RecordBatch(pack_records(keys, values, *places, command=REQUESTS))
    asking = tmp_path, answerer, batch, {0: shard.state}, RECEIPT_MODEL.sha256
    assert outputs_of_child(*asking) is None
    assert outputs_of_child(*asking) is None
    replies = outputs_of_child(*asking)
    assert [headers_of(each).get("error") for each in replies] == [None, "model_crashed", None]
    (*_, last) = read_crashes(tmp_path / "crashes")
    assert f"requests' partition 0 offset {POISON}" in last.words()
    # an event at the same place is another record
    model = Deadly([np.full(len(PURCHASE.feature_names), 66.0625)], signal.SIGSEGV)
    answers = outputs_of_child(
        tmp_path, Shard(model).scorer, batch_of(records), {0: Shard(model).state}, RECEIPT_MODEL.sha256
    )
    assert [headers_of(each).get("reason") for each in answers] == [None] * WHOLE
