"""`millrace state` in numbers and words, and two states compared; with logs that need no Flink."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
from shard_driver import HOUR_MS, Shard, pipeline_of, purchase
from test_shard_log import shopping, times_and_partitions
from typer.testing import CliRunner

from flink_jobs import state_command, state_reading
from flink_jobs.cli import app
from flink_jobs.console import CommandError
from flink_jobs.restore_points import RestorePointError
from flink_jobs.savepoint_state import KeptState
from flink_jobs.settings import Settings
from flink_jobs.state_reading import ReadState
from udfs.entity_state import ShardState
from udfs.layout_changes import features_without_state, layout_changes
from udfs.pipeline import Count, Distinct, Max, Mean, Previous, Sum, field
from udfs.state_difference import compare_states, entity_changes
from udfs.state_summary import layouts_of, summarize

T = 100 * HOUR_MS
FEATURES = (
    Sum("amount", window="1h"), Count(where=field("page") == "pay", window="1h"),
    Max("amount", window="2h", tile="30m"),
)  # fmt: skip


def shop(pipeline, count=2):
    return [Shard(pipeline, compact_after=20) for _ in range(count)]


def logs_of(shards):
    return {10 * (place + 1): sorted(shard.log.items()) for place, shard in enumerate(shards)}


def read(shards, path="/points/sp-1"):
    kept = KeptState(logs_of(shards), checkpoint_id=7, written_ms=T, parallelism=2, form="savepoint")
    return ReadState(path, kept, {0: 12, 1: 30})


@pytest.fixture
def given(monkeypatch, tmp_path):
    """Makes the commands read these states."""
    points = {}

    def give(name, state):
        folder = tmp_path / "p" / "savepoints" / name
        folder.mkdir(parents=True)
        (folder / "_metadata").touch()
        points[str(folder)] = dataclasses.replace(state, path=str(folder))
        return str(folder)

    monkeypatch.setattr(state_command, "read_state", lambda point: points[point])
    return give


def show(pipeline, capsys, tmp_path, **options):
    settings = Settings(home=tmp_path / "home")
    asked = {"entity": None, "live": False, "at": None, "as_json": True, **options}
    state_command.run_state_command(pipeline, "p.py", settings, **asked)
    out = capsys.readouterr().out
    return json.loads(out) if asked["as_json"] else out


def test_a_summary_counts_what_a_restart_would_have(given, capsys, tmp_path):
    """Contract: the numbers are those of the restored state, whatever the log holds besides."""
    pipeline = pipeline_of(*FEATURES)
    shards = shop(pipeline)
    now = 0
    for batch in shopping(1, 120):
        for place, shard in enumerate(shards):
            mine = [event for event in batch if len(event.user) % 2 == place]
            if mine:
                shard.advance(mine, **times_and_partitions(mine))
                now = max(now, *(event.time for event in mine))
    told = show(pipeline, capsys, tmp_path, savepoint=given("one", read(shards)))
    restored = [ShardState.restore(shard.plan, shard.log.items()) for shard in shards]
    for state in restored:
        state.forget_expired()
    assert [shard["entities"] for shard in told["shards"]] == [len(state) for state in restored]
    assert told["entities"] == sum(len(state) for state in restored) > 10
    assert told["bytes"] == sum(len(entry) for shard in shards for entry in shard.log.values())
    kept = [rows for state in restored for rows in rows_of(state)]
    assert (told["events"], told["oldest_event_ms"]) == (len(kept), min(told["oldest_event_ms"], *kept))
    assert told["newest_event_ms"] == max(told["clocks_ms"].values()) == now
    assert (told["checkpoint_id"], told["offsets"], told["parallelism"]) == (7, {"0": 12, "1": 30}, 2)
    assert told["features_without_state"] == told["layout_changes"] == []


def rows_of(state):
    """Times of all kept events, looked up in the engine's own arrays."""
    bits = state.plan.operations.limits.mask_bits
    for slot, entity in enumerate(state.memory.shard.entities):
        if entity["key"]:
            yield from (int(row[0]) >> bits for row in state.memory.events_of(slot))


def test_a_state_without_events_is_told_as_such(given, capsys, tmp_path):
    pipeline = pipeline_of(*FEATURES)
    told = show(pipeline, capsys, tmp_path, savepoint=given("empty", read([])))
    assert (told["entities"], told["bytes"], told["oldest_event_ms"], told["shards"]) == (0, 0, None, [])
    assert "0 entities" in show(pipeline, capsys, tmp_path, savepoint=given("empty2", read([])), as_json=False)


def test_an_entity_is_told_in_words(given, capsys, tmp_path):
    pipeline = pipeline_of(*FEATURES, Previous("amount", window="1h"), max_events_per_entity=3)
    shards = shop(pipeline)
    shards[1].advance([purchase(T + 60_000 * minute, 1.5, "pay") for minute in range(4)])
    point = given("one", read(shards))
    text = show(pipeline, capsys, tmp_path, savepoint=point, entity="u", as_json=False)
    for words in ("3 events kept", "1970-01-05T04:03:00.000Z", "page_is_pay", "amount max 1.5",
                  "forgotten once that clock passes 1970-01-05T08:03:00.000Z, in 4 h of event time",
                  "were dropped: at most 3 are kept", "for the next event"):  # fmt: skip
        assert words in text
    told = show(pipeline, capsys, tmp_path, savepoint=point, entity="u")
    assert told["shard"] == 20
    assert (told["features"]["amount_sum_1h"], told["features"]["page_is_pay_count_1h"]) == (4.5, 3.0)
    later = show(pipeline, capsys, tmp_path, savepoint=point, entity="u", at="1970-01-05T05:02:30Z")
    assert (later["features"]["amount_sum_1h"], later["features_as_of_ms"]) == (1.5, T + 3_750_000)
    with pytest.raises(CommandError, match="nothing is kept of 'x'"):
        show(pipeline, capsys, tmp_path, savepoint=point, entity="x")


def test_layout_and_features_that_the_state_does_not_have_are_said(given, capsys, tmp_path):
    shards = shop(pipeline_of(*FEATURES), 1)
    shards[0].advance([purchase(T, 1.0)])
    now = pipeline_of(
        Sum("amount", window="2h"), Max("amount", window="2h", tile="15m"), Distinct("label", window="1h"),
        Count(where=field("page") == "cart", window="1h"), Count(window="10m"),
    )  # fmt: skip
    told = show(now, capsys, tmp_path, savepoint=given("one", read(shards)))
    assert told["features_without_state"] == ["label_distinct_1h", "page_is_cart_count_1h"]  # the maximum is computed
    changes = "\n".join(told["layout_changes"])
    for words in ("column label (a text's hash) is new: missing", "condition page == 'cart' is new: not passed",
                  "condition page == 'pay' is gone: dropped", "tile of 15m is new", "tile of 30m is gone"):  # fmt: skip
        assert words in changes
    assert "column amount" not in changes
    tiled = pipeline_of(Mean("amount", window="2h", tile="1h"))
    assert features_without_state(now, Shard(tiled).plan.layout, events_kept=False)[-1] == "count_10m"
    assert layout_changes(Shard(now).plan.layout, Shard(now).plan.layout) == []


def test_a_comparison_names_what_came_changed_was_forgotten_and_is_gone(given, capsys, tmp_path):
    pipeline = pipeline_of(*FEATURES)
    shards = shop(pipeline)
    shards[0].advance([purchase(T, user="old"), purchase(T, user="same")])
    shards[1].advance([purchase(T, user="lost"), purchase(T, user="moves", page="pay")])
    first = read(shards)
    shards[0].advance([purchase(T + 3 * HOUR_MS, user="same"), purchase(T + 5 * HOUR_MS, user="new")])
    del shards[1].log[0]
    shards[1].restart()
    shards[1].advance([purchase(T, user="moves"), purchase(T, user="moves", amount=2.0)])
    found = compare_states(shards[0].plan, first.kept.logs, logs_of(shards))
    assert (found.added.first, found.changed.first, found.forgotten.first, found.gone.first, found.same) == (
        ["new"], ["same", "moves"], ["old"], ["lost"], 0,
    )  # fmt: skip
    assert found.by_shard == {10: (2, 2), 20: (2, 1)}
    points = given("one", first), given("two", read(shards))
    state_command_diff(pipeline, points, entity="moves")
    told = json.loads(capsys.readouterr().out)
    assert told["changes"] == [
        "event gone: time 1970-01-05T04:00:00.000Z, columns {'amount': 1.0}, conditions ['page_is_pay']",
        "event added: time 1970-01-05T04:00:00.000Z, columns {'amount': 1.0}",
        "event added: time 1970-01-05T04:00:00.000Z, columns {'amount': 2.0}",
        "tile gone: tile 30m, begin 1970-01-05T04:00:00.000Z, values {'amount max': 1.0}",
        "tile added: tile 30m, begin 1970-01-05T04:00:00.000Z, values {'amount max': 2.0}",
        "feature amount_sum_1h: 1.0 -> 3.0",
        "feature page_is_pay_count_1h: 1.0 -> 0.0",
        "feature amount_max_2h_tile_30m: 1.0 -> 2.0",
    ]
    state_command_diff(pipeline, points, as_json=False)
    text = capsys.readouterr().out
    assert "1 only in the first, and not by its age: lost" in text
    assert "0 entities are the same" in text
    state_command_diff(pipeline, (points[0], points[0]))
    assert json.loads(capsys.readouterr().out)["same_state"]


def state_command_diff(pipeline, points, *, entity=None, as_json=True):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(state_command, "load_pipeline", lambda _name: pipeline)
        settings = Settings(home=points[0] + "-home")
        state_command.run_state_diff_command(*points, settings, pipeline_name="p", entity=entity, as_json=as_json)


def test_a_broken_entry_is_one_line_that_names_the_restore_point(given, capsys, tmp_path):
    pipeline = pipeline_of(*FEATURES)
    shards = shop(pipeline, 1)
    shards[0].advance([purchase(T)])
    shards[0].log[0] = shards[0].log[0][:-1] + b"!"
    point = given("one", read(shards))
    for options in ({}, {"entity": "u"}):
        with pytest.raises(CommandError, match=r"one: state entry of .* checksum"):
            show(pipeline, capsys, tmp_path, savepoint=point, **options)


def test_live_reads_a_savepoint_of_the_job_or_says_what_can_be_read(given, capsys, tmp_path, monkeypatch):
    pipeline = pipeline_of(*FEATURES)
    shards = shop(pipeline, 1)
    shards[0].advance([purchase(T)])
    point = given("live", read(shards))
    monkeypatch.setattr(state_reading, "find_job", lambda *_: SimpleNamespace(savepoint=lambda: point))
    told = show(pipeline, capsys, tmp_path, savepoint=None, live=True)
    assert (told["restore_point"], told["entities"]) == (point, 1)
    elsewhere = SimpleNamespace(savepoint=lambda: "file:///not/here")
    monkeypatch.setattr(state_reading, "find_job", lambda *_: elsewhere)
    with pytest.raises(CommandError, match="not on this machine: read it there"):
        show(pipeline, capsys, tmp_path, savepoint=None, live=True)
    monkeypatch.setattr(state_reading, "find_job", lambda *_: None)
    with pytest.raises(CommandError, match=r"no job of pipeline p runs .* newest checkpoint"):
        show(pipeline, capsys, tmp_path, savepoint=None, live=True)


def test_a_checkpoint_that_goes_while_it_is_read_is_followed_by_the_next(monkeypatch, tmp_path):
    """Contract: a running job's checkpoints live for seconds; what is broken and stays is an error all the same."""
    newest, pipeline = ["one"], pipeline_of(*FEATURES)

    def fail(point):
        newest[0] = "two" if point == "one" else newest[0]
        raise RestorePointError(f"{point} is gone")

    monkeypatch.setattr(state_reading, "latest_restore_point", lambda *_: newest[0])
    monkeypatch.setattr(state_reading, "read_state", lambda point: fail(point) if point == "one" else point)
    assert state_reading.read_newest(pipeline, "p", Settings(home=tmp_path)) == "two"
    monkeypatch.setattr(state_reading, "read_state", fail)
    with pytest.raises(RestorePointError, match="two is gone"):
        state_reading.read_newest(pipeline, "p", Settings(home=tmp_path))


def test_descriptions_of_an_entity_that_is_kept_once_say_where():
    assert entity_changes(None, {}) == ["it is kept only in the second"]
    assert entity_changes({}, None) == ["it is kept only in the first"]
    assert layouts_of({}) == []
    assert summarize(Shard(pipeline_of(*FEATURES)).plan, {}).total("bytes") == 0


def test_the_word_show_may_be_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    lines = [
        CliRunner().invoke(app, ["state", *words]).stderr.splitlines()[-1]
        for words in (["purchase"], ["show", "purchase"], ["show", "purchase", "--savepoint", "none"],
                      ["diff", "a", "b"], ["purchase", "--savepoint", "x", "--live"], ["purchase", "--at", "1"])
    ]  # fmt: skip
    assert lines[0] == lines[1]
    assert "no checkpoint or savepoint in" in lines[0]
    assert "none does not exist" in lines[2]
    assert "a does not exist" in lines[3]
    assert "give one of them" in lines[4]
    assert "give --entity, too" in lines[5]
