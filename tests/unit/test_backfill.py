"""A training set holds the features the stream computes, to the last bit, whatever is killed, cut or spread."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backfills import (
    backfill,
    by_the_oracle,
    features_of,
    request,
    small_pieces,
    streamed,
    write_lines,
)
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from shard_driver import HOUR_MS, Purchase, pipeline_of, purchase
from test_against_oracle import NUMBERS, histories, pipelines

from flink_jobs.backfill_job import run_backfill
from flink_jobs.backfill_request import BackfillError
from flink_jobs.local.shoppers import as_records, labelled_events
from flink_jobs.pipelines import load_pipeline
from flink_jobs.training import compute_features
from flink_jobs.training_set import training_set_facts
from udfs.entity_state import LATE, TRUNCATED
from udfs.pipeline import Count, Distinct, Ewma, Last, Mean, SinceLast, Std, Sum, Value

PURCHASE = load_pipeline("purchase")
PIPELINE = pipeline_of(
    Value("amount"), Count(window="1m"), Sum("amount", window="1h"), Mean("amount", window="1h", tile="1m"),
    Distinct("label", window="1h"), SinceLast(window="1h"), Std("amount", window="1h"), Last("amount", window="1m"),
    Ewma("amount", window="1h", half_life="5m"), lateness="30m", max_events_per_entity=4,
)  # fmt: skip


def with_partitions(pipeline, partitions):
    return dataclasses.replace(pipeline, events=dataclasses.replace(pipeline.events, partitions=partitions))


def hard_history(count=400, seed=3):
    """Late, very late, equal times, duplicates, nulls, bursts and long gaps of some entities."""
    rng = np.random.default_rng(seed)
    now, events = 1_700_000_000_000, []
    for _ in range(count):
        now += int(rng.choice([0, 0, 1, 1_000, 60_000, HOUR_MS, 3 * HOUR_MS], p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.08, 0.02]))
        late = int(rng.choice([0, 1_000, 60_000, 2 * HOUR_MS, 5 * HOUR_MS], p=[0.7, 0.1, 0.1, 0.05, 0.05]))
        amount = [None, 0.1, 1e-300, 1e300, float(rng.normal())][int(rng.integers(5))]
        user, label = f"käufer-{rng.integers(7)}", [None, "x", "y", "ü"][int(rng.integers(4))]
        events += [Purchase(str(len(events)), user, "home", amount, label, now - late)] * int(rng.choice([1, 1, 1, 3]))
    return events


@pytest.mark.parametrize("shards", [1, 2, 32])
@pytest.mark.parametrize("partitions", [1, 3])
def test_hard_history_equals_the_stream_to_the_last_bit(tmp_path, monkeypatch, shards, partitions):
    small_pieces(monkeypatch, size=5_000, rows=17)
    events, pipeline = hard_history(), with_partitions(PIPELINE, partitions)
    table, report = backfill(pipeline, write_lines(tmp_path / "h.jsonl", events), tmp_path / "t.parquet", shards=shards)
    features, flags = streamed(pipeline, events, shards)
    assert features_of(table, pipeline).tobytes() == features.tobytes()
    assert table["_late"].to_pylist() == (flags & LATE > 0).tolist()
    assert table["_truncated"].to_pylist() == (flags & TRUNCATED > 0).tolist()
    late, truncated = (int((flags & flag > 0).sum()) for flag in (LATE, TRUNCATED))
    assert (report.rows, report.late, report.truncated) == (len(events), late, truncated)
    assert min(late, truncated) > 20, "the history is not hard"


def test_rows_say_which_event_they_are_of_in_the_order_of_the_source(tmp_path, monkeypatch):
    small_pieces(monkeypatch)
    events = hard_history(100)
    table, _ = backfill(PIPELINE, write_lines(tmp_path / "h.jsonl", events), tmp_path / "t.parquet")
    assert table["_event_id"].to_pylist() == [event.id for event in events]
    assert table["_entity"].to_pylist() == [event.user for event in events]
    assert table["_event_time"].cast(pa.int64()).to_pylist() == [event.time for event in events]
    assert table["_event_time"].type == pa.timestamp("ms", tz="UTC")
    about = ["_event_id", "_entity", "_event_time", "_late", "_truncated"]
    assert table.schema.names == [*about, *PIPELINE.feature_names]


@examples(15)
@given(pipelines(exact_bits_only=False), histories(NUMBERS), st.sampled_from([1, 2, 5]), st.integers(1, 3))
def test_any_pipeline_and_history_equals_the_stream_and_the_oracle(tmp_path, pipeline, history, shards, partitions):
    # in a file a text of no length is null, and an id must be there
    events = [dataclasses.replace(event, id="i", label=event.label or None) for event, _ in history]
    pipeline = with_partitions(pipeline, partitions)
    with pytest.MonkeyPatch.context() as patch:
        small_pieces(patch)
        path = write_lines(tmp_path / "h.jsonl", events)
        table, _ = backfill(pipeline, path, tmp_path / "t.parquet", shards=shards)
    found = features_of(table, pipeline)
    assert found.tobytes() == streamed(pipeline, events, shards)[0].tobytes()
    expected, late = by_the_oracle(pipeline, events, shards)
    largest = max([abs(e.amount) for e in events if e.amount is not None and e.amount == e.amount], default=0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-7 * largest)
    assert table["_late"].to_pylist() == late


def test_shoppers_have_the_features_of_training_to_the_last_bit(tmp_path, monkeypatch):
    small_pieces(monkeypatch, size=100_000, rows=700)
    events, _ = labelled_events(6_000, seed=4)
    path = tmp_path / "h.jsonl"
    path.write_bytes(b"".join(value + b"\n" for _, value in as_records(events)))
    table, _ = backfill(PURCHASE, path, tmp_path / "t.parquet")
    assert features_of(table, PURCHASE).tobytes() == compute_features(PURCHASE, events).features.tobytes()


def test_every_format_gives_the_same_rows(tmp_path):
    events = hard_history(200)
    rows = [{name: getattr(event, name) for name in Purchase.__annotations__} for event in events]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "h.parquet")
    pa.Table.from_pylist(rows).to_pandas().to_csv(tmp_path / "h.csv", index=False)
    write_lines(tmp_path / "h.jsonl", events)
    made = [
        backfill(PIPELINE, tmp_path / f"h.{kind}", tmp_path / "t.parquet")[0] for kind in ("jsonl", "csv", "parquet")
    ]
    assert all(same_bits(table, made[0]) for table in made[1:])


def same_bits(one, other):
    """Equality where NaN equals NaN."""
    assert one.schema.names == other.schema.names
    return all(
        a.to_pylist() == b.to_pylist() or a.to_numpy().tobytes() == b.to_numpy().tobytes()
        for a, b in zip(one.columns, other.columns, strict=True)
    )


@pytest.mark.parametrize(("since", "until"), [(None, 300), (100, None), (100, 300), (10**6, None), (None, 0)])
def test_events_outside_the_range_feed_the_windows_and_are_left_out(tmp_path, monkeypatch, since, until):
    small_pieces(monkeypatch)
    events = hard_history(120)
    start = min(event.time for event in events)
    bounds = [None if each is None else start + each * 60_000 for each in (since, until)]
    path = write_lines(tmp_path / "h.jsonl", events)
    whole, _ = backfill(PIPELINE, path, tmp_path / "whole.parquet")
    part, report = backfill(PIPELINE, path, tmp_path / "part.parquet", since_ms=bounds[0], until_ms=bounds[1])
    low, high = bounds[0] if since is not None else 0, bounds[1] if until is not None else 2**62
    inside = [low <= event.time < high for event in events]
    assert report.events == len(events)
    assert report.rows == len(part) == sum(inside)
    assert same_bits(part, whole.filter(pa.array(inside)))


def test_rows_of_a_file_may_be_taken_in_another_order(tmp_path, monkeypatch):
    small_pieces(monkeypatch)
    events = sorted(hard_history(150), key=lambda event: event.time)
    by_user = sorted(events, key=lambda event: event.user)
    table, _ = backfill(PIPELINE, write_lines(tmp_path / "h.jsonl", by_user), tmp_path / "t.parquet", order_by="time")
    features, _ = streamed(PIPELINE, events, 32)
    expected = {}
    for event, row in zip(events, features, strict=True):
        expected.setdefault(event.id, []).append(row.tobytes())
    found = {}
    for name, row in zip(table["_event_id"].to_pylist(), features_of(table, PIPELINE), strict=True):
        found.setdefault(name, []).append(row.tobytes())
    assert found == expected
    assert table["_entity"].to_pylist() == [event.user for event in by_user]


def test_records_that_are_no_events_are_written_beside_with_their_reasons(tmp_path, monkeypatch):
    small_pieces(monkeypatch, size=150)
    lines = [json.dumps({**vars(purchase(1_000 + place)), "id": "i"}) for place in range(8)]
    lines[3:3] = ["{", json.dumps({**vars(purchase(-1)), "id": "i"}), "\xff"]
    (tmp_path / "h.jsonl").write_bytes("\n".join(lines).encode("latin-1"))
    table, report = backfill(PIPELINE, tmp_path / "h.jsonl", tmp_path / "t.parquet")
    assert report.refused == {"invalid_time": 1, "not_json": 2}
    assert report.letters == tmp_path / "t.dead_letters.jsonl"
    letters = [json.loads(line) for line in report.letters.read_text().splitlines()]
    assert [(letter["record"], letter["reason"]) for letter in letters] == [
        (4, "not_json"), (5, "invalid_time"), (6, "not_json"),
    ]  # fmt: skip
    assert letters[0]["value"] == "{"
    assert letters[2]["value_base64"] == "/w=="
    assert len(table) == 8


def test_no_bad_record_makes_no_file_of_them_and_removes_an_old_one(tmp_path):
    (tmp_path / "t.dead_letters.jsonl").write_text("old")
    _, report = backfill(PIPELINE, write_lines(tmp_path / "h.jsonl", hard_history(5)), tmp_path / "t.parquet")
    assert report.letters is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h.jsonl", "t.parquet"]


def test_a_history_without_events_is_a_training_set_without_rows(tmp_path):
    (tmp_path / "h.jsonl").write_text("{\n")
    table, report = backfill(PIPELINE, tmp_path / "h.jsonl", tmp_path / "t.parquet")
    assert len(table) == report.rows == 0
    assert set(PIPELINE.feature_names) < set(table.schema.names)


class Killed(BaseException):
    pass


def killed_at(step, share):
    def progress(now):
        if now.step == step and now.share >= share:
            raise Killed

    return progress


@pytest.mark.parametrize(
    "where", [("reading", 0.1), ("reading", 0.3), ("computing", 0.5), ("computing", 0.7), ("writing", 0.9)]
)
def test_a_killed_backfill_goes_on_and_gives_the_same_bytes(tmp_path, monkeypatch, where):
    small_pieces(monkeypatch)
    path = write_lines(tmp_path / "h.jsonl", hard_history(80))
    run_backfill(request(PIPELINE, path, tmp_path / "whole.parquet"))
    asked = request(PIPELINE, path, tmp_path / "t.parquet")
    with pytest.raises(Killed):
        run_backfill(asked, killed_at(*where))
    assert not asked.target.exists()
    finished = [each for each in asked.work_folder.rglob("*") if each.suffix in (".npz", ".done")]
    made_at, seen = [each.stat().st_mtime_ns for each in finished], []
    report = run_backfill(asked, lambda _: seen.append([each.stat().st_mtime_ns for each in finished]))
    assert finished
    assert all(each == made_at for each in seen), "what was finished is not made again"
    assert report.resumed
    assert asked.target.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not asked.work_folder.exists()


def test_processes_change_no_byte(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "h.jsonl", hard_history(500))
    for processes in (1, 2):
        target = tmp_path / f"{processes}.parquet"
        run_backfill(request(PIPELINE, path, target, processes=processes))
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_unfinished_work_of_other_arguments_is_not_gone_on_with(tmp_path):
    path = write_lines(tmp_path / "h.jsonl", hard_history(20))
    asked = request(PIPELINE, path, tmp_path / "t.parquet")
    with pytest.raises(Killed):
        run_backfill(asked, killed_at("computing", 0.5))
    with pytest.raises(BackfillError, match=r"another since_ms: .*--fresh"):
        run_backfill(dataclasses.replace(asked, since_ms=5))
    other = dataclasses.replace(PIPELINE, features=[*PIPELINE.features, Count(window="2m")])
    with pytest.raises(BackfillError, match="another definition"):
        run_backfill(request(other, path, tmp_path / "t.parquet"))
    write_lines(path, hard_history(21))
    with pytest.raises(BackfillError, match=r"h\.jsonl changed since"):
        run_backfill(asked)


def test_two_processes_do_not_work_at_one_backfill(tmp_path):
    asked = request(PIPELINE, write_lines(tmp_path / "h.jsonl", hard_history(20)), tmp_path / "t.parquet")
    refused = []

    def progress(now):
        if now.step == "computing" and not refused:
            with pytest.raises(BackfillError, match="another process is at work"):
                run_backfill(asked)
            refused.append(now)

    run_backfill(asked, progress)
    assert refused
    assert asked.target.exists()


def test_the_file_says_what_made_it(tmp_path):
    path = write_lines(tmp_path / "h.jsonl", hard_history(5))
    backfill(PIPELINE, path, tmp_path / "t.parquet", since_ms=7, shards=3)
    facts = training_set_facts(tmp_path / "t.parquet")
    assert facts["definition"]["feature_set_hash"] == PIPELINE.feature_set_hash()
    assert [name for name, _ in facts["definition"]["features"]] == list(PIPELINE.feature_names)
    assert (facts["since_ms"], facts["shards"], facts["label"]) == (7, 3, None)
    assert facts["source"] == {"files": [str(path)]}
