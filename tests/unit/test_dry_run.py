"""Answers of the running job against those of its would-be successor."""

import json

import numpy as np
import pytest

from flink_jobs.dry_run_comparison import Answer, DryRunComparison, answer_of
from flink_jobs.dry_run_outputs import SUFFIX, KeptOutputs, framed
from models.outputs import Outputs
from udfs.byte_lines import Lines
from udfs.output_batch import OutputGroup

LIKELY = Outputs.of("likely")


def scores(*values):
    return {(0, offset): Answer(value, event=f"e{offset}") for offset, value in enumerate(values)}


def test_differences_are_counted_and_the_largest_are_shown_first():
    before, now = scores(0.1, 0.2, 0.3, 0.4), scores(0.1, 0.25, 0.8, 0.39)
    found = DryRunComparison(most=2).compare(before, now).as_json()
    assert (found["events"], found["equal"], found["differing"]) == (4, 1, 3)
    assert found["max_difference"] == 0.5
    assert found["mean_difference"] == pytest.approx(0.56 / 4)
    assert [(each["offset"], each["before"], each["now"]) for each in found["worst"]] == [(2, 0.3, 0.8), (1, 0.2, 0.25)]


def test_what_a_model_rounds_by_the_place_in_a_batch_is_told_apart():
    ulp = float(np.nextafter(np.float32(0.3), 1))
    found = DryRunComparison().compare(scores(0.3, 0.3, (0.5, ulp)), scores(ulp, 0.3001, (0.5, 0.3)))
    assert (found.events, found.equal, found.rounded, found.differing) == (3, 0, 2, 1)
    assert found.as_json()["rounded"] == 2


def test_dead_letters_and_answers_of_one_alone_are_told_apart():
    before = {(0, 0): Answer(0.5), (0, 1): Answer(None, "not_json"), (0, 2): Answer(0.1), (1, 0): Answer(0.2)}
    now = {**before, (0, 0): Answer(None, "missing_field"), (1, 9): Answer(1)}
    del now[1, 0]
    found = DryRunComparison().compare(before, now)
    assert found.refused == {"a prediction becomes missing_field": 1}
    assert (found.events, found.equal, found.differing, found.only_before, found.only_now) == (3, 2, 0, 1, 1)


def test_an_answer_is_read_by_its_receipt():
    value = json.dumps({"visit": "v1", "likely": 0.25}).encode()
    headers = {"partition": "2", "offset": "7", "warming": "count_1h"}
    assert answer_of(value, headers, LIKELY, "visit") == ((2, 7), Answer(0.25, "", "v1", "count_1h"))
    dead = {"partition": "2", "offset": "8", "reason": "late"}
    assert answer_of(None, dead, LIKELY, "visit") == ((2, 8), Answer(None, "late"))


def test_events_that_saw_another_row_are_counted():
    def saw(offset, rows, score=0.5):
        headers = {"partition": "0", "offset": str(offset), **({"lookups": rows} if rows else {})}
        return answer_of(json.dumps({"likely": score}).encode(), headers, LIKELY, "visit")

    before = [saw(0, "shops=0/1"), saw(1, "shops=0/1"), saw(2, "shops=-"), saw(3, "shops=0/1"), saw(4, None)]
    now = [saw(0, "shops=0/1"), saw(1, "shops=0/2", 0.7), saw(2, "shops=0/2"), saw(3, "users=0/4"), saw(4, "shops=0/1")]
    found = DryRunComparison().compare(dict(before), dict(now))
    assert (found.other_rows, found.differing, found.as_json()["other_rows"]) == (2, 1, 2)


def test_outputs_are_read_as_far_as_they_are_written(tmp_path):
    group = OutputGroup("t", {}, ["millrace-offset"])
    first, second = (framed(group.pack(Lines.of([b"k"]), Lines.of([b"v"]), [np.array([n])])) for n in (7, 8))
    file, outputs = tmp_path / f"000{SUFFIX}", KeptOutputs(tmp_path)
    read = []
    for end in range(len(first + second) + 1):
        file.write_bytes((first + second)[:end])
        read += [(end, record.headers["millrace-offset"]) for record in outputs.new_ones()]
    assert read == [(len(first), "7"), (len(first + second), "8")]
