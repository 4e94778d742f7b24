"""A label looks ahead by its horizon and no further; what cannot be known yet is missing, not 0."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backfills import backfill, small_pieces, write_lines
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from shard_driver import Purchase, pipeline_of

from flink_jobs.console import CommandError
from flink_jobs.event_files import EventFileError
from flink_jobs.labels import LabelRequest
from flink_jobs.training_set import training_set_facts
from udfs.label_join import EntityLabels, LabelRule
from udfs.pipeline import Count

PIPELINE = pipeline_of(Count(window="1m"))
NAN = math.nan


def joined(times, events, *, horizon=10, absent=0.0, until=1_000, values=None):
    """Labels of one entity's events at some times."""
    values = np.ones(len(times)) if values is None else np.array(values, np.float64)
    rule = LabelRule(horizon, absent, until)
    labels = EntityLabels(rule, np.zeros(len(times), np.int64), np.array(times, np.int64), values, 1)
    return labels.labels_of(np.zeros(len(events), np.int64), np.array(events, np.int64)).tolist()


@pytest.mark.parametrize(("event", "label"), [(99, 1), (100, 0), (101, 0), (90, 1), (89, 0)])
def test_a_label_event_counts_after_the_event_and_up_to_the_horizon(event, label):
    assert joined([100], [event]) == [label]


def test_the_earliest_of_several_counts_and_of_equal_ones_the_first_in_the_source():
    assert joined([105, 103, 103, 101], [100, 102, 104], values=[5, 3, 4, 1]) == [1, 3, 5]


def test_an_event_whose_horizon_has_not_passed_has_no_label_even_if_one_was_found():
    assert joined([995], [989, 990, 991, 1_200], until=1_000)[0] == 1
    assert all(math.isnan(label) for label in joined([995], [990, 991, 1_200], until=1_000))


def test_silence_is_what_was_asked_for_and_a_value_of_nothing_is_silence():
    assert joined([105], [100], values=[NAN]) == [0]
    assert math.isnan(joined([105], [100], values=[NAN], absent=NAN)[0])
    assert joined([], [1, 2]) == [0, 0]


@examples(50)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60), st.sampled_from([0.0, 1.0, 2.5, NAN]))),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), min_size=1),
    st.integers(1, 40), st.integers(0, 90), st.sampled_from([0.0, NAN]),
)  # fmt: skip
def test_labels_are_those_of_a_search_through_all_label_events(found, events, horizon, until, absent):
    codes, times, values = (np.array(column) for column in zip(*found, strict=True)) if found else ([], [], [])
    rule = LabelRule(horizon, absent, until)
    labels = EntityLabels(
        rule, np.array(codes, np.int64), np.array(times, np.int64), np.array(values, np.float64), entities=5
    )
    expected = []
    for entity, time in events:
        later = [(at, v) for e, at, v in found if e == entity and time < at <= time + horizon and v == v]
        label = min(later, key=lambda each: each[0])[1] if later else absent
        expected.append(NAN if time + horizon >= until else label)
    result = labels.labels_of(np.array([e for e, _ in events]), np.array([t for _, t in events]))
    np.testing.assert_array_equal(result, expected)


START = 1_700_000_000_000
EVENTS = [Purchase(str(place), f"u{place % 3}", "home", 1.0, None, START + place * 1_000) for place in range(60)]
BUYS = [("u0", 4_500), ("u1", 20_000), ("u9", 30_000), ("u2", 50_000)]


def label_file(tmp_path, kind, *, value=None, rows=BUYS):
    names = ["user", "time"] + (["label"] if value is not None else [])
    table = [[user, START + at, value] for user, at in rows]
    path = tmp_path / f"labels.{kind}"
    if kind == "csv":
        path.write_text("\n".join([",".join(names), *[",".join(map(str, row[: len(names)])) for row in table]]) + "\n")
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(dict(zip(names, row, strict=False))) + "\n" for row in table))
    else:
        pq.write_table(pa.Table.from_pylist([dict(zip(names, row, strict=False)) for row in table]), path)
    return LabelRequest(str(path), 10_000)


def expected_labels(value=1.0, absent=0.0, until=50_000, horizon=10_000):
    labels = []
    for event in EVENTS:
        at = event.time - START
        came = any(user == event.user and at < time <= at + horizon for user, time in BUYS)
        labels.append(None if at + horizon >= until else value if came else absent)
    return labels


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_records_without_values_say_that_it_happened(tmp_path, monkeypatch, kind):
    small_pieces(monkeypatch)
    path = write_lines(tmp_path / "h.jsonl", EVENTS)
    table, report = backfill(PIPELINE, path, tmp_path / "t.parquet", labels=label_file(tmp_path, kind))
    assert table["_label"].to_pylist() == expected_labels()
    assert (report.label_events, report.labels_until_ms) == (4, START + 50_000)
    assert report.labelled == 40
    assert report.label_sum == expected_labels().count(1.0)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("value", [0.25, True])
def test_records_with_values_give_them_and_silence_gives_nothing(tmp_path, kind, value):
    path = write_lines(tmp_path / "h.jsonl", EVENTS)
    table, _ = backfill(PIPELINE, path, tmp_path / "t.parquet", labels=label_file(tmp_path, kind, value=value))
    assert table["_label"].to_pylist() == expected_labels(float(value), absent=None)


def test_silence_and_the_end_of_the_labels_may_be_said(tmp_path):
    path = write_lines(tmp_path / "h.jsonl", EVENTS)
    asked = label_file(tmp_path, "csv", value=1)
    asked = LabelRequest(asked.source, 10_000, absent=0.0, until_ms=START + 30_000)
    table, _ = backfill(PIPELINE, path, tmp_path / "t.parquet", labels=asked)
    assert table["_label"].to_pylist() == expected_labels(until=30_000)
    rule = training_set_facts(tmp_path / "t.parquet")["label"]
    assert (rule["horizon_ms"], rule["absent"], rule["until_ms"]) == (10_000, "0.0", START + 30_000)


def test_no_label_event_at_all_leaves_every_row_without_a_label(tmp_path):
    path = write_lines(tmp_path / "h.jsonl", EVENTS)
    table, report = backfill(PIPELINE, path, tmp_path / "t.parquet", labels=label_file(tmp_path, "csv", rows=[]))
    assert table["_label"].null_count == len(EVENTS)
    assert (report.labelled, report.labels_until_ms) == (0, None)


def test_label_records_that_are_none_are_counted_apart(tmp_path):
    path = write_lines(tmp_path / "h.jsonl", EVENTS)
    asked = label_file(tmp_path, "jsonl")
    with Path(asked.source).open("a") as file:
        file.write('{"user": "u1"}\n')
    _, report = backfill(PIPELINE, path, tmp_path / "t.parquet", labels=asked)
    assert (report.refused, report.labels_refused) == ({}, {"missing_field": 1})
    assert json.loads(report.letters.read_text())["file"] == asked.source


def test_what_cannot_be_labels_is_refused(tmp_path):
    path = write_lines(tmp_path / "h.jsonl", EVENTS)
    (tmp_path / "l.csv").write_text("user,when\n")
    with pytest.raises(EventFileError, match=r"l\.csv has no column time"):
        backfill(PIPELINE, path, tmp_path / "t.parquet", labels=LabelRequest(str(tmp_path / "l.csv"), 1))
    with pytest.raises(CommandError, match="says who or when"):
        backfill(PIPELINE, path, tmp_path / "t.parquet", labels=LabelRequest(str(tmp_path / "l.csv"), 1, "time"))
    assert not list(tmp_path.glob(".*"))


@examples(6)
@given(
    st.lists(st.tuples(st.sampled_from(["u0", "u1", "u2"]), st.integers(-5_000, 70_000)), min_size=1), st.integers(1, 5)
)
def test_labels_of_a_file_do_not_depend_on_how_it_is_cut(tmp_path, rows, shards):
    path = write_lines(tmp_path / "h.jsonl", EVENTS)
    made = []
    for cut in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if cut:
                small_pieces(patch)
            asked = label_file(tmp_path, "csv", rows=rows)
            table, _ = backfill(PIPELINE, path, tmp_path / "t.parquet", labels=asked, shards=shards)
            made.append(table["_label"].to_pylist())
    assert made[0] == made[1]
