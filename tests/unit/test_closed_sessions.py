"""Closed sessions: each event is in one, whatever the batches and restarts; by events' times, or for nothing comes."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from session_oracle import NaiveSessions
from shard_driver import Shard, pipeline_of
from wire_features import Zero

from flink_jobs.acls import needed_acls
from flink_jobs.decoding import in_json
from flink_jobs.describe import description
from flink_jobs.settings import Settings
from flink_jobs.sql_statements import job_statements
from flink_jobs.topics import SQL, sink_ddl, topics_of
from udfs.entry_log import EntryLog
from udfs.errors import StateCorruptError, StateVersionError
from udfs.open_sessions import Arrived, ClosedSession, OpenSessions
from udfs.output_batch import read_outputs
from udfs.output_fields import sessions_of
from udfs.output_values import value_reader, value_schema
from udfs.pipeline import Avro, Count, DefinitionError, Events, Json, JsonSchema, Protobuf, Sessions
from udfs.receipts import NamedModel
from udfs.record_batch import RecordBatch, pack_records
from udfs.scoring import Scorer
from udfs.session_records import SessionEncoder, SessionWatch
from udfs.sql_features import SqlRefusedError
from udfs.wire_formats import PredictionEncoder

GAP_MS = 10_000
PIPELINE = pipeline_of(Count(window="1h"), sessions=Sessions(gap="10s"))


def arrived(events):
    """(entity, time, record time, partition) each."""
    entities, times, records, partitions = zip(*events, strict=True) if events else ((), (), (), ())
    return Arrived(entities, [None] * len(events), times, records, partitions)


def at(*seconds, entity="u"):
    return arrived([(entity, each * 1_000, each * 1_000, 0) for each in seconds])


def opened(entries=(), lateness_ms=0, idle_ms=None, now_ms=0):
    return OpenSessions(GAP_MS, lateness_ms, idle_ms, entries, now_ms=now_ms)


def told(closed):
    return [(each.entity, each.first_ms // 1_000, each.last_ms // 1_000, each.events, each.is_late) for each in closed]


def test_a_session_is_closed_once_time_is_further_behind_its_last_event_than_the_gap():
    sessions = opened()
    assert sessions.advance(at(100, 110, 120), 0) == []
    assert sessions.advance(at(130, entity="v"), 0) == []
    assert told(sessions.advance(at(130.001, entity="v"), 0)) == [("u", 100, 120, 3, False)]


def test_time_of_another_partition_closes_nothing():
    sessions = opened()
    events = [("u", 100_000, 100_000, 0), ("v", 900_000, 900_000, 1)]
    assert sessions.advance(arrived(events), 0) == []


def test_a_time_in_the_future_closes_nothing_before_its_record_is_so_late():
    sessions = opened()
    sessions.advance(at(100), 0)
    assert sessions.advance(arrived([("v", 9_000_000, 101_000, 0)]), 0) == []


def test_a_late_event_joins_what_is_open_and_is_else_a_session_of_its_own():
    sessions = opened()
    sessions.advance(at(100, 105), 0)
    sessions.advance(at(114, entity="v"), 0)
    assert sessions.advance(at(95), 0) == [], "it is late, and its session is still open"
    assert told(sessions.advance(at(140, entity="v"), 0)) == [("u", 95, 105, 3, False), ("v", 114, 114, 1, False)]
    assert told(sessions.advance(at(104, 103), 0)) == [("u", 104, 104, 1, True), ("u", 103, 103, 1, True)]


def test_lateness_holds_a_session_open_for_events_that_come_late():
    sessions = opened(lateness_ms=20_000)
    sessions.advance(at(100), 0)
    assert sessions.advance(at(130, entity="v"), 0) == []
    assert sessions.advance(at(105), 0) == []
    assert told(sessions.advance(at(136, entity="v"), 0)) == [("u", 100, 105, 2, False)]


def test_an_event_that_closes_a_pause_joins_two_open_sessions():
    sessions = opened(lateness_ms=60_000)
    sessions.advance(at(100, 118, 109), 0)
    assert told(sessions.advance(at(300, entity="v"), 0)) == [("u", 100, 118, 3, False)]


def test_where_nothing_comes_time_goes_on_by_the_clock_of_the_machine_after_a_while():
    sessions = opened(idle_ms=5_000)
    sessions.advance(at(100), 1_000)
    assert sessions.pass_time(11_000) == []
    assert told(sessions.pass_time(11_001)) == [("u", 100, 100, 1, False)]
    assert sessions.pass_time(99_000) == []
    assert len(sessions) == 0


def test_time_waits_for_partitions_of_which_something_comes_and_does_not_go_on_while_a_job_is_down():
    sessions = opened(idle_ms=60_000)
    sessions.advance(at(100), 1_000)
    put, _ = sessions.take_changes()
    assert sessions.pass_time(60_999) == [], "not idle for long enough, although the gap has passed"
    after = opened(put.items(), idle_ms=60_000, now_ms=900_000)
    assert after.pass_time(959_999) == []
    assert told(after.pass_time(960_000)) == [("u", 100, 100, 1, False)]
    waiting = opened(put.items(), now_ms=900_000)
    assert waiting.pass_time(9_999_999) == [], "idle=None waits for an event"


def test_a_session_that_goes_on_in_a_partition_whose_clock_is_past_it_is_closed_at_once():
    t, oracle, sessions, found = 1_700_000_000_000, NaiveSessions(GAP_MS), opened(), []
    history = [
        ("c", t, t, 1), ("a", t + 3 * GAP_MS, t + 3 * GAP_MS, 0), ("c", t - GAP_MS, t + 3 * GAP_MS, 0),
        ("c", t + 1, t + 3 * GAP_MS, 0),
    ]  # fmt: skip
    expected = [oracle.advance(*event) for event in history]
    for event in history:
        found.append(sessions.advance(arrived([event]), 0))
    assert found == expected
    assert [told(each) for each in found] == [
        [], [], [("c", t // 1_000 - 10, t // 1_000, 2, False)], [("c", t // 1_000, t // 1_000, 1, True)],
    ]  # fmt: skip


@st.composite
def histories(draw):
    events, now = [], 1_700_000_000_000
    for _ in range(draw(st.integers(1, 80))):
        now += draw(st.sampled_from([0, 1, 999, 5_000, GAP_MS, GAP_MS + 1, 70_000]))
        time = now - draw(st.sampled_from([0, 0, 0, 1, 5_000, GAP_MS, 25_000, 200_000]))
        record = now + draw(st.sampled_from([0, 0, -20_000, 500_000]))
        entity = draw(st.sampled_from("abc"))
        partition = draw(st.sampled_from([0, 0, 0, 1])) if entity == "c" else "ab".find(entity)
        events.append((entity, time, record, partition))
    return events


@examples(60)
@given(histories(), st.sampled_from([0, 7_000, 60_000]), st.data())
def test_engine_and_oracle_close_the_same_sessions_whatever_the_batches_and_restarts(history, lateness_ms, data):
    oracle = NaiveSessions(GAP_MS, lateness_ms)
    expected = [closed for event in history for closed in oracle.advance(*event)]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(history)), max_size=6)))
    sessions, log, found = opened(lateness_ms=lateness_ms), {}, []
    for begin, end in zip([0, *cuts], [*cuts, len(history)], strict=True):
        found += sessions.advance(arrived(history[begin:end]), 0)
        put, removed = sessions.take_changes()
        log |= put
        for number in removed:
            del log[number]
        sessions = opened(log.items(), lateness_ms)
    assert found == expected
    still_open = sum(len(each) for each in oracle.open)
    assert sum(each.events for each in found) + still_open == len(history), "every event is in one session"
    assert len(sessions) == len({each[0][0] for each in oracle.open})


def test_the_log_is_begun_anew_when_it_says_much_more_than_there_is():
    sessions, log = opened(), {}
    for second in range(0, 200_000, 20):
        sessions.advance(at(second, entity=f"u{second % 1_000}"), 0)
        put, removed = sessions.take_changes()
        log |= put
        for number in removed:
            del log[number]
    assert len(log) < 5_000
    assert len(opened(log.items())) == len(sessions) == 1


def test_a_log_numbers_its_entries_on():
    log = EntryLog([3, 4], logged=10_000)
    assert log.is_long(1, known=10)
    assert log.begin_anew() == [3, 4]
    assert log.add(b"x", 2) == {5: b"x"}
    assert EntryLog().begin_anew() == []


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        (b"\xff", StateCorruptError), (b"\x94\x02\x90\x90\x80", StateVersionError),
        (b"\x94\x01\x91\xa1u\x90\x80", StateCorruptError),
    ],
)  # fmt: skip
def test_an_entry_that_is_none_or_of_another_version_is_refused(entry, error):
    with pytest.raises(error):
        opened([(0, entry)])


# records


CLOSED = [
    ClosedSession("u1", None, 3, 1_000, 4_500, 7, False), ClosedSession("é\n", b"\0key", 0, 5, 5, 1, True),
]  # fmt: skip


@pytest.mark.parametrize("form", [Json(), JsonSchema(), Avro(), Protobuf()])
def test_closed_sessions_are_read_back_in_every_format(form):
    pipeline = dataclasses.replace(PIPELINE, output_format=form)
    values = sessions_of(pipeline)
    schema = value_schema(values)
    schema = schema and schema._replace(id=41)
    found = read_outputs(SessionEncoder(pipeline, schema).records(CLOSED))
    read = [value_reader(values, lambda _: schema)(each.value) for each in found]
    assert read == [
        {"user": "u1", "first_event_at": 1_000, "last_event_at": 4_500, "events": 7, "length_s": 3.5, "late": False},
        {"user": "é\n", "first_event_at": 5, "last_event_at": 5, "events": 1, "length_s": 0.0, "late": True},
    ]
    assert [each.key for each in found] == [b"u1", b"\0key"]
    assert found[0].topic == "p-sessions"
    assert found[0].headers == {
        "millrace-pipeline": "p", "millrace-topic": "purchases", "millrace-partition": "3",
        "millrace-event-time": "4500",
    }  # fmt: skip


def test_a_session_that_is_too_large_is_left_out_and_the_others_are_not():
    encoder = SessionEncoder(dataclasses.replace(PIPELINE, max_record_bytes=1_000))
    found = read_outputs(encoder.records([CLOSED[0]._replace(entity="x" * 100_000), *CLOSED]))
    assert [json.loads(each.value)["user"] for each in found] == ["u1", "é\n"]
    assert encoder.not_written == 1


class Numbered:
    id: str
    user: int
    at: int


def test_an_entity_that_the_format_has_no_place_for_is_left_out_and_the_others_are_not():
    events = Events(Numbered, topic="numbered", entity="user", time="at", id="id")
    pipeline = dataclasses.replace(PIPELINE, events=events, output_format=Avro())
    schema = value_schema(sessions_of(pipeline))._replace(id=41)
    encoder, read = SessionEncoder(pipeline, schema), value_reader(sessions_of(pipeline), lambda _: schema)
    closed = [CLOSED[0]._replace(entity=entity) for entity in ("9" * 30, "12")]
    assert [read(each.value)["user"] for each in read_outputs(encoder.records(closed))] == [12]
    assert encoder.not_written == 1


def scorer_of(pipeline, now_ms=lambda: 0):
    plan = Shard(pipeline).plan
    watch = SessionWatch(pipeline, now_ms)
    encoder = PredictionEncoder(pipeline, model=NamedModel("m", "1", "ab", "cd"))
    return Scorer(plan, Zero(), encoder, lambda: 0, sessions=watch), watch


def batch(*events, shard=0):
    """(user, second) each; None as a second makes a broken record."""
    values = [
        b"{" if second is None else json.dumps(
            {"id": "e", "user": user, "page": None, "amount": None, "label": None, "time": second * 1_000}
        ).encode()
        for user, second in events
    ]  # fmt: skip
    count = len(events)
    times = [10**13] * count
    return RecordBatch(
        pack_records([user.encode() for user, _ in events], values, [0] * count, range(count), times, shard=shard)
    )


def test_a_batch_gives_the_sessions_that_it_closes_beside_its_answers():
    scorer, watch = scorer_of(PIPELINE)
    watch.restore(7, [])
    shards = {7: Shard(PIPELINE).state}
    records = batch(("a", 100), ("a", None), ("a", 105), ("b", 200), shard=7)
    found = read_outputs(scorer.score(records, shards))
    assert [each.topic for each in found] == ["p-dead-letters", "p-sessions", *["predictions"] * 3]
    assert json.loads(found[1].value) == {
        "user": "a", "first_event_at": 100_000, "last_event_at": 105_000, "events": 2, "length_s": 5.0, "late": False,
    }  # fmt: skip
    put, removed = watch.take_changes(7)
    assert (len(put), removed, watch.take_changes(7)) == (1, [], ({}, []))


def test_the_clock_of_the_machine_closes_sessions_of_all_shards():
    now = [0]
    scorer, watch = scorer_of(PIPELINE, lambda: now[0])
    for shard, user in enumerate("ab"):
        watch.restore(shard, [])
        scorer.score(batch((user, 100), shard=shard), {shard: Shard(PIPELINE).state})
    now[0] = 60_000
    assert [each.key for each in read_outputs(watch.pass_time())] == [b"a", b"b"]
    assert watch.pass_time() == b""


# the definition


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (lambda: Sessions(gap="soon"), "Sessions: gap is 'soon'"),
        (lambda: Sessions(idle="0s"), "Sessions: idle"),
        (lambda: Sessions(format=3), "Sessions: format"),
        (lambda: pipeline_of(Count(window="1h"), sessions="30m"), r"write sessions=Sessions\(gap='30m'\)"),
        (lambda: pipeline_of(Count(window="1h"), sessions=Sessions(topic="predictions")), "need different topics"),
        (
            lambda: pipeline_of(Count(window="1h"), sessions=Sessions(), output_format=Avro(schema='"string"')),
            "output_format has a schema of predictions",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(made, line):
    with pytest.raises(DefinitionError, match=line):
        made()


class Odd:
    id: str
    late: str
    at: int


def test_an_entity_that_is_called_like_a_field_of_sessions_is_refused():
    events = Events(Odd, topic="odd", entity="late", time="at", id="id")
    with pytest.raises(DefinitionError, match="the entity cannot be called 'late'"):
        dataclasses.replace(PIPELINE, events=events)


def test_everything_that_lists_topics_knows_the_one_of_sessions():
    acls = {(acl.command, acl.operation) for acl in needed_acls(PIPELINE) if acl.name == "p-sessions"}
    assert ("run", "Write") in acls
    assert ("topics create", "Create") in acls
    assert "p-sessions" in topics_of(PIPELINE)
    assert ";p-sessions" in sink_ddl("t", PIPELINE, Settings())
    assert "p-sessions" not in sink_ddl("t", PIPELINE, Settings(), SQL)
    assert description(PIPELINE)["sessions"] == {"topic": "p-sessions", "gap": "10s", "lateness": None, "idle": "1m"}
    assert in_json(PIPELINE).sessions is None
    with pytest.raises(SqlRefusedError, match="it has sessions"):
        job_statements(PIPELINE, Settings(), None, "m/1")


def test_partitions_of_a_batch_are_those_of_its_events():
    """A broken record before an event moves no other event's partition or time to it."""
    scorer, watch = scorer_of(PIPELINE)
    watch.restore(0, [])
    records = batch(("a", None), ("a", 100), ("b", 100))
    records.partitions[:] = np.array([9, 1, 2])
    scorer.score(records, {0: Shard(PIPELINE).state})
    closing = batch(("c", 200))
    closing.partitions[:] = 1
    found = [each for each in read_outputs(scorer.score(closing, {0: Shard(PIPELINE).state})) if "sess" in each.topic]
    assert [(each.key, each.headers["millrace-partition"]) for each in found] == [(b"a", "1")]
