"""How a run begins that is given a state from history: what it refuses, and where live begins."""

import dataclasses
import struct
from pathlib import Path

import pytest
from test_backfill import PIPELINE

from flink_jobs import live_start, savepoint_offsets
from flink_jobs.backfill_request import BackfillError, alone
from flink_jobs.bootstrap_choice import Way, choose_way
from flink_jobs.bootstrap_command import asked_of
from flink_jobs.console import CommandError
from flink_jobs.documents import write_document
from flink_jobs.hand_over import Begun, HandOver, HandOverFolder
from flink_jobs.settings import Settings
from flink_jobs.topics import offsets_text, parse_offsets, source_ddl

ASKED = {"definition": {"features": ["a"]}, "source": {"topic": "t", "start": "earliest"}, "order_by": None,
         "from": None, "shards": 32}  # fmt: skip
BEGUN = Begun(ASKED, {0: 0}, {0: 10}, "at the end", None)
UNUSED = HandOver(BEGUN, ["d"], {"events": 10}, [])
USED = dataclasses.replace(UNUSED, used=True)


def way(asked=ASKED, start_from=None, fresh=False, begun=BEGUN, hand_over=None, restore_point=None):
    return choose_way(
        name="p", asked=asked, start_from=start_from, fresh=fresh, begun=begun, hand_over=hand_over,
        restore_point=restore_point,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        ({"begun": None}, Way.BUILD),
        ({"begun": None, "fresh": True, "restore_point": "r"}, Way.BUILD),
        ({}, Way.BUILD),
        ({"hand_over": UNUSED}, Way.HAND_OVER),
        ({"hand_over": UNUSED, "restore_point": "r"}, Way.RESTORE),
        ({"hand_over": USED, "restore_point": "r"}, Way.RESTORE),
        ({"hand_over": USED, "restore_point": "r", "asked": None}, Way.RESTORE),
        ({"hand_over": UNUSED, "asked": None}, Way.HAND_OVER),
        ({"hand_over": USED, "restore_point": "r", "fresh": True}, Way.BUILD),
        ({"asked": None, "begun": None}, Way.ORDINARY),
        ({"asked": None, "begun": None, "restore_point": "r"}, Way.ORDINARY),
        ({"asked": None, "fresh": True, "hand_over": UNUSED}, Way.ORDINARY),
        ({"asked": None, "start_from": "latest", "hand_over": UNUSED}, Way.ORDINARY),
    ],
)
def test_the_same_command_builds_goes_on_or_restores_by_what_is_there(situation, expected):
    assert way(**situation) is expected


@pytest.mark.parametrize(
    ("situation", "said"),
    [
        ({"begun": None, "restore_point": "file:/chk-7"}, "file:/chk-7.*--fresh"),
        ({"asked": None}, "unfinished: `millrace run p --bootstrap-from earliest` goes on with it, --fresh"),
        ({"hand_over": USED}, "checkpoints are gone.*--fresh"),
        ({"asked": {**ASKED, "source": {"files": ["x y"]}}}, "another --bootstrap-from.*--fresh"),
        ({"asked": {**ASKED, "shards": 8}, "hand_over": UNUSED, "restore_point": "r"}, "another number of shards"),
        ({"asked": {**ASKED, "definition": {}}, "hand_over": USED, "restore_point": "r"}, "features changed.*--fresh"),
    ],
)
def test_what_contradicts_what_is_there_is_refused_with_the_way_out(situation, said):
    with pytest.raises(CommandError, match=said):
        way(**situation)


def test_a_hand_over_is_remembered_as_it_was_until_it_is_used_or_thrown_away(tmp_path):
    folder = HandOverFolder(tmp_path / "bootstrap")
    assert (folder.begun(), folder.hand_over()) == (None, None)
    folder.begin(BEGUN)
    assert (folder.begun(), folder.hand_over()) == (BEGUN, None)
    folder.target.mkdir()
    folder.finish(UNUSED)
    assert folder.hand_over() == UNUSED
    folder.mark_used()
    assert folder.hand_over() == USED
    assert not folder.target.exists()
    folder.throw_away()
    assert not folder.path.exists()


def test_a_bootstrap_at_work_is_not_thrown_away(tmp_path):
    folder = HandOverFolder(tmp_path / "bootstrap")
    folder.begin(BEGUN)
    with alone(folder.path), pytest.raises(BackfillError, match="another process"):
        folder.throw_away()
    assert folder.begun() == BEGUN


@pytest.mark.parametrize(
    ("sources", "order_by", "said"),
    [
        (["earliest", "2026-01-01"], None, "one place in the topic"),
        (["earliest", "h.jsonl"], None, "one place in the topic"),
        (["1700000000000"], "time", "--order-by is for files"),
        (["h.jsonl"], "page", "a field with a number"),
        (["kafka"], None, "write earliest"),
        ([], "time", "--bootstrap-from"),
    ],
)
def test_sources_that_do_not_go_together_are_refused(sources, order_by, said):
    with pytest.raises(CommandError, match=said):
        asked_of(PIPELINE, sources, order_by, None)


def test_times_are_places_in_the_topic_and_paths_are_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ("earliest", "2026-01-31T12:00:00Z", "2026-01-31", "1769860800000"):
        assert asked_of(PIPELINE, [text], None, None).from_topic
    assert not asked_of(PIPELINE, ["h/*.parquet", "more.csv"], None, None).from_topic
    Path("20260131").mkdir()
    assert not asked_of(PIPELINE, ["20260131"], None, None).from_topic


def test_a_job_begins_at_the_offsets_where_history_ended():
    offsets = {1: 7, 0: 1200}
    assert parse_offsets(offsets_text(offsets)) == offsets
    ddl = source_ddl("e", PIPELINE, Settings(), offsets_text(offsets))
    assert "'scan.startup.mode' = 'specific-offsets'" in ddl
    assert "'scan.startup.specific-offsets' = 'partition:0,offset:1200;partition:1,offset:7'" in ddl


class Kafka:
    """Stands in for the admin functions of `live_start`: a topic of three partitions, and what a group committed."""

    STARTS, ENDS = {0: 5, 1: 0, 2: 0}, {0: 100, 1: 50, 2: 0}

    def __init__(self, monkeypatch, committed=None):
        for name, found in (
            ("topic_starts", lambda *_: dict(self.STARTS)),
            ("topic_ends", lambda *_, **__: dict(self.ENDS)),
            ("committed_offsets", lambda *_: dict(committed or {})),
            ("offsets_for_time", lambda *_: {0: 60, 1: 70, 2: 0}),
        ):
            monkeypatch.setattr(live_start, name, found)


def savepoint(folder, offsets):
    folder.mkdir()
    write_document(folder / "offsets.json", offsets)
    return folder.as_uri()


def starting(asked=None, last_run=None, from_topic=True):
    return live_start.live_start(PIPELINE, Settings(), asked, last_run, from_topic=from_topic)


def test_live_begins_where_the_last_run_stopped_and_without_one_at_the_end(monkeypatch, tmp_path):
    Kafka(monkeypatch, committed={0: 40})
    assert starting().offsets == Kafka.ENDS
    found = starting(last_run=savepoint(tmp_path / "s", {0: 45, 1: 30}))
    assert (found.offsets, found.text) == ({0: 45, 1: 30, 2: 0}, "where the last run ended")
    assert starting("committed").offsets == {0: 40, 1: 0, 2: 0}
    assert starting("2026-01-01").offsets == {0: 60, 1: 50, 2: 0}, "never behind the last committed record"


def test_live_begins_with_the_topic_after_files(monkeypatch, tmp_path):
    Kafka(monkeypatch)
    last_run = savepoint(tmp_path / "s", {0: 45})
    assert starting(last_run=last_run, from_topic=False).offsets == Kafka.STARTS
    assert starting("latest", from_topic=False).offsets == Kafka.ENDS


def test_offsets_that_retention_or_a_new_topic_overtook_are_held_to_what_there_is(monkeypatch, tmp_path):
    Kafka(monkeypatch)
    assert starting(last_run=savepoint(tmp_path / "s", {0: 1, 1: 900})).offsets == {0: 5, 1: 50, 2: 0}


def test_where_a_killed_run_ended_nobody_knows_so_it_is_asked_to_stop_in_order(monkeypatch, tmp_path):
    Kafka(monkeypatch, committed={0: 40})
    checkpoint = (tmp_path / "chk-7").as_uri()
    with pytest.raises(CommandError, match=r"did not stop in order.*--until-caught-up.*--from"):
        starting(last_run=checkpoint)
    assert starting("committed", last_run=checkpoint).offsets[0] == 40
    at_least_once = Settings(guarantee="at-least-once")
    assert live_start.live_start(PIPELINE, at_least_once, None, checkpoint, from_topic=True).offsets[0] == 40


@pytest.mark.parametrize(("asked", "said"), [("earliest", "no history"), ("committed", "has committed anything")])
def test_a_start_that_leaves_no_history_or_that_nobody_knows_is_refused(monkeypatch, asked, said):
    Kafka(monkeypatch)
    with pytest.raises(CommandError, match=said):
        starting(asked)


@pytest.mark.parametrize(
    ("offsets", "said"),
    [({0: 4}, "retention removed"), ({1: 51}, "another topic"), ({9: 0}, "another topic")],
)
def test_a_job_does_not_begin_where_the_topic_has_nothing_any_more(monkeypatch, offsets, said):
    Kafka(monkeypatch)
    live_start.check_live_start(PIPELINE, Settings(), Kafka.ENDS)
    with pytest.raises(CommandError, match=said):
        live_start.check_live_start(PIPELINE, Settings(), offsets)


def test_a_split_of_the_source_is_read_as_flink_writes_it():
    topic = "ereignisse-ü".encode()
    split = struct.pack(">H", len(topic)) + topic + struct.pack(">iqq", 3, 2**40, -(2**63))
    element = struct.pack(">iii", 8 + len(split), 0, len(split)) + split
    assert savepoint_offsets._split(b"other" + element, 5) == ("ereignisse-ü", 3, 2**40)
    with pytest.raises(ValueError, match="version 1"):
        savepoint_offsets._split(struct.pack(">iii", 8, 1, 0), 0)
