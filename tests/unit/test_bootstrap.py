"""A state built from history is the one the stream would have, and only what was built, whole and fitting, is used."""

import dataclasses
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from backfills import request, small_pieces, streamed, write_lines
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from shard_driver import pipeline_of
from test_against_oracle import NUMBERS, histories, pipelines
from test_backfill import PIPELINE, hard_history, with_partitions

from flink_jobs.bootstrap_job import build_state
from flink_jobs.state_files import StateFile, StateFileError
from udfs.entity_state import ShardState
from udfs.errors import StateCorruptError, StateVersionError
from udfs.key_places import key_partitions, key_shards
from udfs.pipeline import Count, Custom
from udfs.plan import FeaturePlan
from udfs.state_file import packed, unpacked


def build(pipeline, path, folder, shards=3, **options):
    """The files of all shards, and what was counted."""
    target = folder / "state"
    digests, facts = build_state(request(pipeline, path, target, shards=shards, **options))
    return [StateFile(target / f"{shard:03d}.state", digest) for shard, digest in enumerate(digests)], facts


def following(pipeline, files, events):
    """Features and flags of events that come after a built state."""
    plan, states = FeaturePlan.build(pipeline), {}
    features, flags = np.empty((len(events), len(pipeline.feature_names))), np.empty(len(events), np.int64)
    for at, event in enumerate(events):
        key = str(event.user)
        shard = int(key_shards([key], len(files))[0])
        if shard not in states:
            states[shard] = ShardState.restore(plan, files[shard].entries())
        advanced = advance(states[shard], plan, event, key_partitions([key], pipeline.events.partitions))
        features[at], flags[at] = advanced.features[0], advanced.flags[0]
    return features, flags


def advance(state, plan, event, partition):
    times, columns, masks, direct = plan.columnise([event])
    return state.advance([str(event.user)], times, times, partition, columns, masks, direct)


def assert_goes_on(pipeline, events, cut, folder, shards=3, **options):
    files, facts = build(pipeline, write_lines(folder / "h.jsonl", events[:cut]), folder, shards, **options)
    features, flags = streamed(pipeline, events, shards)
    found, found_flags = following(pipeline, files, events[cut:])
    assert found.tobytes() == features[cut:].tobytes()
    assert found_flags.tolist() == flags[cut:].tolist()
    return files, facts


@pytest.mark.parametrize("shards", [1, 3])
def test_hard_live_events_after_hard_history_are_as_if_one_stream_had_seen_all(tmp_path, monkeypatch, shards):
    small_pieces(monkeypatch, size=5_000, rows=17)
    events = hard_history(500)
    _, facts = assert_goes_on(with_partitions(PIPELINE, 2), events, 300, tmp_path, shards)
    assert facts["events"] == 300
    assert facts["entities"] > 0


@examples(12)
@given(pipelines(exact_bits_only=False), histories(NUMBERS), st.floats(0, 1), st.integers(1, 3))
def test_any_pipeline_goes_on_from_any_history_to_the_last_bit(tmp_path_factory, pipeline, history, part, partitions):
    events = [dataclasses.replace(event, id="i", label=event.label or None) for event, _ in history]
    with pytest.MonkeyPatch.context() as patch:
        small_pieces(patch)
        folder = tmp_path_factory.mktemp("bootstrap")
        assert_goes_on(with_partitions(pipeline, partitions), events, int(part * len(events)), folder, shards=2)


def test_files_that_are_not_in_order_of_arrival_are_taken_by_a_field(tmp_path, monkeypatch):
    small_pieces(monkeypatch)
    events = sorted(hard_history(200), key=lambda event: event.time)
    shuffled = [events[place] for place in np.random.default_rng(1).permutation(150)]
    # equal times keep the order of the file, so let there be none
    shuffled = [dataclasses.replace(event, time=3 * event.time + 7 * place) for place, event in enumerate(shuffled)]
    in_order = sorted(shuffled, key=lambda event: event.time)
    live = [dataclasses.replace(event, time=3 * event.time + 10_000) for event in events[150:]]
    files, _ = build(PIPELINE, write_lines(tmp_path / "h.jsonl", shuffled), tmp_path, order_by="time")
    expected, _ = streamed(PIPELINE, in_order + live, 3)
    assert following(PIPELINE, files, live)[0].tobytes() == expected[150:].tobytes()


class Total(Custom):
    """A user's own aggregate."""

    def init(self):
        return 0.0

    def add(self, state, value, time_ms):
        return state + value

    def value(self, state):
        return state


def test_aggregates_of_the_user_see_history_too(tmp_path):
    assert_goes_on(pipeline_of(Total("amount", window="1h"), Count(window="1h")), hard_history(200), 120, tmp_path)


def test_no_history_gives_every_shard_a_state_that_is_empty_but_there(tmp_path):
    files, facts = assert_goes_on(PIPELINE, hard_history(30), 0, tmp_path)
    assert (facts["events"], facts["entities"], len(files)) == (0, 0, 3)
    assert all(file.entries() for file in files)


def test_records_that_are_no_events_are_counted_and_written_and_change_nothing(tmp_path):
    events = hard_history(60)
    path = write_lines(tmp_path / "h.jsonl", events[:40])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:10], "{broken\n", *lines[10:30], '{"id": "x"}\n', *lines[30:]]))
    files, facts = build(PIPELINE, path, tmp_path)
    assert facts["refused"] == {"missing_field": 1, "not_json": 1}
    letters = [json.loads(line) for line in Path(facts["letters"]).read_text().splitlines()]
    assert [letter["reason"] for letter in letters] == ["not_json", "missing_field"]
    expected, _ = streamed(PIPELINE, events, 3)
    assert following(PIPELINE, files, events[40:])[0].tobytes() == expected[40:].tobytes()


def _build_slowly(path, folder):
    from flink_jobs import backfill_steps

    written = backfill_steps.write_document

    def write_slowly(*arguments):
        written(*arguments)
        time.sleep(0.05)

    backfill_steps.write_document = write_slowly
    build(PIPELINE, path, folder)


def test_a_killed_build_goes_on_with_the_shards_that_are_finished(tmp_path):
    events = hard_history(200)
    path = write_lines(tmp_path / "h.jsonl", events[:150])
    child = multiprocessing.get_context("fork").Process(target=_build_slowly, args=(path, tmp_path))
    child.start()
    deadline = time.monotonic() + 20
    while not (done := list((tmp_path / "state").glob("*.done"))):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    written = {each: each.with_suffix(".state").stat().st_mtime_ns for each in done}
    files, facts = build(PIPELINE, path, tmp_path)
    assert facts["resumed"]
    assert all(each.with_suffix(".state").stat().st_mtime_ns == written[each] for each in done)
    expected, _ = streamed(PIPELINE, events, 3)
    assert following(PIPELINE, files, events[150:])[0].tobytes() == expected[150:].tobytes()


def test_a_file_with_another_byte_or_less_of_it_is_refused(tmp_path):
    files, _ = build(PIPELINE, write_lines(tmp_path / "h.jsonl", hard_history(50)), tmp_path)
    content = files[0].path.read_bytes()
    for damaged in (content[:-1], content[:40] + bytes([content[40] ^ 1]) + content[41:], b""):
        files[0].path.write_bytes(damaged)
        with pytest.raises(StateFileError, match="--fresh --bootstrap-from"):
            files[0].entries()
    files[0].path.unlink()
    with pytest.raises(StateFileError, match="cannot be read"):
        files[0].entries()


def test_bytes_that_are_no_state_file_are_refused_before_anything_is_read_from_them():
    content = b"".join(packed([(0, b"one"), (7, b"")]))
    assert unpacked(content) == [(0, b"one"), (7, b"")]
    for broken in (b"", b"MRSF", content[:-1], content[:8], b"\x80\x04" + content):
        with pytest.raises(StateCorruptError):
            unpacked(broken)
    with pytest.raises(StateVersionError):
        unpacked(content[:4] + b"\x09" + content[5:])
