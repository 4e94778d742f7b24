"""A certificate says passed only if nothing at all is wrong, and names what is."""

import dataclasses
import json

import pytest

from flink_jobs.certify_command import _chosen
from flink_jobs.certify_faults import FAULTS
from flink_jobs.certify_report import CertifyReport, FaultReport
from flink_jobs.console import CommandError

GOOD = CertifyReport(
    pipeline="purchase", records="simulated shoppers", rate=300, seed=1, elapsed_s=181.0, events=49_411,
    predictions=49_165, dead_letters=246, lost=0, duplicated=0, unexpected=[], live_lost=0, live_duplicated=0,
    order_violations=0, features_compared=983_527, feature_differences=0, first_difference=None, open_transactions=0,
    blocked_records=0, failed_commits=0, refused_again=3, faults_asked=2,
    faults=[FaultReport("broker killed", 6.0, 7.0, "process 1"), FaultReport("TaskManager killed", 38.0, 21.4, "one")],
)  # fmt: skip


def test_nothing_wrong_is_passed():
    assert GOOD.verdict == "passed"
    assert GOOD.problems == []
    assert GOOD.recovery_p95_s == pytest.approx(20.7, abs=0.1)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"lost": 1}, "without an answer"),
        ({"duplicated": 2}, "beyond an event's first"),
        ({"unexpected": ["event 0@3: a prediction instead of not_json"]}, "unexpected"),
        ({"live_lost": 1}, "ran throughout"),
        ({"live_duplicated": 1}, "ran throughout"),
        ({"order_violations": 1}, "order"),
        ({"feature_differences": 1, "first_difference": "count_1h"}, "count_1h"),
        ({"open_transactions": 1}, "open transactions"),
        ({"blocked_records": 5}, "cannot reach"),
        ({"failed_commits": 1}, "refused to commit"),
        ({"faults_asked": 3}, "not made"),
        ({"faults": [*GOOD.faults[:1], FaultReport("disk full", 9.0, None, "")]}, "did not recover"),
        ({"faults": [FaultReport("disk full", 9.0, 61.0, "")] * 2}, "61"),
    ],
)
def test_whatever_is_wrong_is_failed_and_named(changed, word):
    report = dataclasses.replace(GOOD, **changed)
    assert report.verdict == "failed"
    assert any(word in problem for problem in report.problems)
    assert f"**{report.problems[0]}**" in report.as_markdown()


def test_it_is_written_for_scripts_and_for_people(tmp_path):
    as_json, as_page = GOOD.write(tmp_path / "new")
    found = json.loads(as_json.read_text())
    wanted = {
        "events", "lost", "duplicated", "feature_differences", "open_transactions", "failed_commits", "faults",
        "recovery_p95_s", "verdict",
    }  # fmt: skip
    assert wanted <= found.keys()
    assert found["faults"][1] == {"kind": "TaskManager killed", "at_s": 38.0, "recovery_s": 21.4, "detail": "one"}
    page = as_page.read_text()
    assert page.startswith("# purchase: passed\n")
    assert "| 38 s | TaskManager killed | one | 21.4 s |" in page


def test_faults_are_chosen_by_name():
    assert _chosen([]) == list(FAULTS)
    assert _chosen(["broker killed, disk full"]) == ["broker killed", "disk full"]
    with pytest.raises(CommandError, match="rain"):
        _chosen(["rain"])
