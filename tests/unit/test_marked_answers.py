"""What a receipt says of features that warm up, from the state to `verify`."""

import dataclasses
from itertools import islice
from types import SimpleNamespace

import numpy as np
from wire_records import PURCHASE, START_MS, batch_of, encoder_of, headers_of

from flink_jobs.answer_comparison import DIFFERENT, WARMED_UP, AnswerComparison
from flink_jobs.local.shoppers import as_records, shopper_events
from flink_jobs.recomputed import Recomputed
from udfs.entity_state import LATE, WARMING, ShardState
from udfs.output_batch import read_outputs
from udfs.pipeline import Sum
from udfs.plan import FeaturePlan
from udfs.scoring import FLAG_NAMES, Scorer


class Zero:
    def predict(self, features):
        return np.zeros(len(features))


def test_a_prediction_names_the_features_that_warm_up_and_those_without_have_no_such_header():
    before = dataclasses.replace(PURCHASE, features=PURCHASE.features[:2])
    records = list(islice(as_records(shopper_events(40, 3, START_MS)), 400))
    state = ShardState(FeaturePlan.build(before))
    Scorer(state.plan, Zero(), encoder_of(before), lambda: 0).score(batch_of(records[:200]), {0: state})
    put, _ = state.take_changes()
    added = Sum("dwell_time_sec", window="3m")
    after = dataclasses.replace(before, features=[*before.features, added])
    restored = ShardState.restore(FeaturePlan.build(after), put.items())
    scorer = Scorer(restored.plan, Zero(), encoder_of(after), lambda: 0)
    answers = read_outputs(scorer.score(batch_of(records[200:]), {0: restored}))
    told = [headers_of(answer) for answer in answers if answer.topic == after.predictions]
    marked = [headers for headers in told if "warming" in headers]
    assert 0 < len(marked) < len(told) == 200
    assert {(headers["flags"], headers["warming"]) for headers in marked} == {("warming", added.name)}
    times = [int(headers["event-time"]) for headers in marked]
    plain = [int(headers["event-time"]) for headers in told if "warming" not in headers]
    assert max(times) < min(plain)
    assert not any("flags" in headers for headers in told if "warming" not in headers)


def test_flags_are_told_together():
    assert FLAG_NAMES[LATE | WARMING] == "late,warming"
    assert len(set(FLAG_NAMES)) == 8


def test_verify_does_not_judge_what_was_answered_while_warming_up():
    flags = np.array([(0,), (LATE,), (WARMING,), (LATE | WARMING,), (255,)], [("flags", "u1")])  # 255: not understood
    comparison = AnswerComparison(PURCHASE, None, None, None, None, 3)
    assert comparison._complete(flags)["flags"].tolist() == [0, LATE, 255]
    assert comparison.findings.unverifiable == {WARMED_UP: 2}


def test_verify_counts_dead_letters_by_reason_where_only_a_job_tries():
    nothing = np.empty(0, np.int64)
    now = Recomputed(np.array([0, 1]), nothing, nothing, nothing, np.empty((2, 0)), letters={2: "not_json"})
    reasons = ["not_encodable", "model_crashed", "not_json"]
    comparison = AnswerComparison(PURCHASE, SimpleNamespace(reasons=reasons), None, None, None, 0)
    for offset, named in ((0, 0), (1, 1), (2, 2), (2, 0)):
        comparison._dead_letter(0, {"offset": offset, "named": named}, now)
    findings = comparison.findings
    assert findings.taken_as_told == {"not_encodable": 1, "model_crashed": 1}
    assert (findings.equal, findings.counts, findings.unverifiable) == (1, {DIFFERENT: 1}, {})
