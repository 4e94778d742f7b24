"""Poison of every kind in a topic, a mended pipeline, and a replay that is killed: each once, answers as of then.

And a topic of nothing but garbage: the job ends, and a later one goes on from its last checkpoint.
"""

import json
import os
import pickle
import subprocess
import sys
from collections import Counter

import msgspec
import numpy as np
import pytest
from answers import read_answers, read_events
from confluent_kafka import Producer
from fragile_shop import UNLUCKY, fragile, mended
from jobs import TESTS, JobProcess, kill_all
from workloads import log_model, make_topics, purchase, settings_of, shoppers

from flink_jobs.committed_reader import read_all
from flink_jobs.dead_letters import Wanted
from flink_jobs.dead_letters_command import run_ls_command
from flink_jobs.dead_letters_replay_command import run_replay_command
from flink_jobs.dead_letters_show import run_show_command
from flink_jobs.dead_letters_stats import run_stats_command
from flink_jobs.events_producer import produce_events
from flink_jobs.job_run import latest_restore_point
from udfs.key_places import key_shards
from udfs.naive_features import NaiveFeatures
from udfs.wire_formats import EventDecoder, Refused

pytestmark = pytest.mark.integration

START_MS = 1_760_000_000_000
KILLED_REPLAY = """
import pickle, sys, time
from pathlib import Path
from flink_jobs import dead_letters_replay
from flink_jobs.dead_letters import Wanted
from flink_jobs.dead_letters_plan import plan_replay
from flink_jobs.dead_letters_reading import open_letter_box

pipeline, settings = pickle.loads(Path(sys.argv[1]).read_bytes())
box = open_letter_box(pipeline, settings)
plan = plan_replay(box, Wanted(), also_refused=False, also_counted=False, looked=lambda *_: None)
write_marks, transactions = dead_letters_replay._Feeder._write_marks, []

def stop_in_the_third(self, marks):
    transactions.append(None)
    if len(transactions) == 3:
        print(len(plan.records), flush=True)  # its records are written, their marks are not, nothing is committed
        time.sleep(600)
    write_marks(self, marks)

dead_letters_replay._Feeder._write_marks = stop_in_the_third
dead_letters_replay.replay(box, plan, chunk=50)
"""


def look(number, user, second, **changes):
    event = {"event_id": f"e{number}", "user_id": user, "page_id": "home", "dwell_time_sec": 1.0 + number % 11,
             "timestamp": START_MS + 1_000 * second, **changes}  # fmt: skip
    return user.encode(), msgspec.json.encode(event)


def poisoned():
    """Records, and which of them must be dead letters of which reason: (reason, stage) by place in the list."""
    records, poison = [], {}
    for number in range(1_200):
        user, second = f"u{number % 40}", number
        kind = {3: "page", 5: "page", 7: "unlucky", 11: "no_logarithm"}.get(number % 13, "good")
        changes = {
            "page": {"page_id": "basket"}, "unlucky": {"dwell_time_sec": UNLUCKY} if number % 5 == 0 else {},
            "no_logarithm": {"dwell_time_sec": -1.0}, "good": {},
        }[kind]  # fmt: skip
        records.append(look(number, user, second, **changes))
        if kind == "page":
            poison[len(records) - 1] = "unknown_category", "decode"
        elif kind == "no_logarithm":
            poison[len(records) - 1] = "model_failed", "model"
    giant, large = "g" * 149_000, {"padding": "p" * 200_000}
    for (key, value), why in (
        ((None, None), ("null_value", "decode")),
        ((None, look(1, "u1", 1)[1]), ("key_mismatch", "decode")),
        ((b"u1", None), ("null_value", "decode")),
        ((b"u1", b"\x1b[2J{"), ("not_json", "decode")),
        ((b"k" * 100_000, b"{}"), ("missing_field", "decode")),
        (look(2_000, "u1", 900, **large), ("too_large", "decode")),
        (look(2_001, giant, 900), ("output_too_large", "encode")),
    ):
        poison[len(records)] = why
        records.append((key, value))
    return records, poison


def send(broker, topic, records):
    """All into one partition, in order, with a header and a time of their own."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "message.max.bytes": 2_000_000})
    for number, (key, value) in enumerate(records):
        producer.produce(topic, value, key, 1, timestamp=START_MS + number, headers=[("trace", str(number).encode())])
    assert producer.flush(30) == 0


class Oracle:
    """Features of the events in their order; refused records are none, whatever they are refused for."""

    def __init__(self):
        self.shards, self.features, self.unlucky = {}, {}, set()

    def take(self, pipeline, events):
        decode = EventDecoder(pipeline).decode
        for event in events:
            decoded = decode(event.key, event.value)
            if isinstance(decoded, Refused):
                continue
            shard = int(key_shards([event.key.decode()], 32)[0])
            oracle = self.shards.setdefault(shard, NaiveFeatures(pipeline))
            try:
                self.features[event.place] = oracle.advance(decoded, event.time_ms, event.place[0])[0]
            except ZeroDivisionError:
                self.unlucky.add(event.place)


def replayed_records(broker, pipeline):
    """Records of the events topic that a replay wrote: (record, headers)."""
    messages = read_all(broker.bootstrap, [pipeline.events.topic])
    found = [(message, dict(message.headers() or ())) for message in messages]
    return [(message, headers) for message, headers in found if "millrace-replayed-from" in headers]


def command_output(capsys, run, *arguments, **options):
    capsys.readouterr()
    run(*arguments, **options, as_json=True)
    return json.loads(capsys.readouterr().out)


def killed_in_the_middle(pipeline, settings, folder):
    """A replay that gets SIGKILL while its third transaction is open; how many records it had planned."""
    order = folder / "replay.pickle"
    order.write_bytes(pickle.dumps((pipeline, settings)))
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_REPLAY, str(order)], stdout=subprocess.PIPE, text=True, cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])},
    )  # fmt: skip
    planned = int(process.stdout.readline())
    kill_all(process)
    return planned


def test_poison_of_every_kind_is_answered_and_a_killed_replay_feeds_each_record_once(broker, tmp_path, capsys):
    first = fragile("fragile")
    first = fragile("fragile", log_model(first, tmp_path / "models", "dwell_time_sec"))
    second = mended(first)
    settings = settings_of(broker, tmp_path / "home")
    make_topics(broker, first)
    records, poison = poisoned()
    send(broker, first.events.topic, records)
    with JobProcess(first, settings, tmp_path / "first") as job:
        job.wait_for("running")
        job.catch_up()
        savepoint = job.stop()
    before, answers, oracle = read_events(broker, first), read_answers(broker, first), Oracle()
    oracle.take(first, before)
    told = {event.place: (record, at) for at, (event, record) in enumerate(zip(before, records, strict=True))}
    expected = {place: poison[at] for place, (_, at) in told.items() if at in poison}
    expected |= dict.fromkeys(oracle.unlucky, ("feature_failed", "features"))
    letters = {place: (each.headers["reason"], each.headers["stage"]) for place, each in answers.dead_letters.items()}
    assert letters == expected
    assert len(oracle.unlucky) > 20
    assert answers.predictions.keys() | answers.dead_letters.keys() == {event.place for event in before}

    options = {"also_refused": False, "also_counted": False, "dry_run": False, "yes": True}
    planned = killed_in_the_middle(second, settings, tmp_path)
    assert len(replayed_records(broker, second)) == 100, "two transactions are committed, the third is open"
    done = command_output(capsys, run_replay_command, second, "fragile", settings, Wanted(), **options)
    pages = [place for place, why in expected.items() if why[0] == "unknown_category"]
    assert planned == len(pages) + 1, "and the record that was too large"
    assert done["replayed"] == planned - 100
    assert done["left_out"]["replayed before"] == 100
    again = command_output(capsys, run_replay_command, second, "fragile", settings, Wanted(), **options)
    assert (again["planned"], again["replayed"]) == (0, 0)
    fed = replayed_records(broker, second)
    assert Counter((m.key(), m.value()) for m, _ in fed) == Counter(
        record for record, at in told.values() if poison.get(at, ("",))[0] in ("unknown_category", "too_large")
    )
    for message, headers in fed:
        at = int(headers["trace"])
        assert (message.partition(), message.timestamp()[1]) == (1, START_MS + at), "as it was"
        assert (message.key(), message.value()) == records[at]
        assert headers["millrace-replays"] == b"1"
    garbage = Wanted(reasons=frozenset({"not_json"}))
    forced = command_output(
        capsys, run_replay_command, second, "fragile", settings, garbage, **{**options, "also_refused": True}
    )
    assert forced["replayed"] == 1

    with JobProcess(second, settings, tmp_path / "second", savepoint) as job:
        job.wait_for("running")
        job.catch_up()
        job.stop()
    events, answers = read_events(broker, second), read_answers(broker, second)
    new = [event for event in events if event.place not in told]
    oracle.take(second, new)
    assert answers.predictions.keys() | answers.dead_letters.keys() == {event.place for event in events}
    assert_scored_as_of_their_times(answers, oracle, {event.place for event in new})
    known = told.keys() | oracle.unlucky
    (failed,) = [each for place, each in answers.dead_letters.items() if place not in known]
    assert failed.headers["reason"] == "not_json"
    listed = command_output(capsys, run_ls_command, second, "fragile", settings, garbage, limit=5, unreplayed=True)
    (newest,) = listed["dead_letters"]
    assert newest["replays_before"] == 1
    run_show_command(second, "fragile", settings, f"{failed.at[0]}:{failed.at[1]}", most=100, as_json=False)
    shown = capsys.readouterr().out
    assert "failed again after 1 replay" in shown
    assert "1b 5b 32 4a 7b" in shown
    assert "\x1b[2J" not in shown
    stats = command_output(capsys, run_stats_command, second, "fragile", settings, Wanted())
    assert stats["by_reason"] == Counter(each.headers["reason"] for each in answers.dead_letters.values())
    assert (stats["replayed"], stats["failed_again"]) == (planned + 1, 1 + len(oracle.unlucky - told.keys()))


def assert_scored_as_of_their_times(answers, oracle, replayed):
    """Every prediction's features are the oracle's: a replayed event sees the window that ends at its own time."""
    scored = answers.predictions.keys()
    assert len(replayed & scored) > 100
    for place in scored:
        found = [np.nan if each is None else each for each in answers.predictions[place].body["features"].values()]
        np.testing.assert_allclose(found, oracle.features[place], rtol=1e-9)


def test_a_topic_of_garbage_ends_the_job_and_a_later_one_answers_all_of_it_once(broker, tmp_path):
    pipeline = purchase("garbage")
    limits = {"dead_letter_limit_share": 0.5, "dead_letter_limit_records": 400}
    settings = settings_of(broker, tmp_path / "home", restart_attempts=20, restart_delay_ms=100, **limits)
    make_topics(broker, pipeline)
    good, broken = shoppers(2_000)
    produce_events(broker.bootstrap, pipeline.events.topic, good)
    with JobProcess(pipeline, settings, tmp_path / "first") as job:
        job.wait_for("running")
        job.catch_up()
        produce_events(broker.bootstrap, pipeline.events.topic, [(b"u%d" % n, b"garbage") for n in range(3_000)])
        with pytest.raises(AssertionError, match="the job failed") as failed:
            job.catch_up()
    line = str(failed.value)
    assert "dead-letter limit: 201 of the last 400 records are dead letters, more than 200" in line
    assert "of them not_json in subtask" in line
    assert "\n" not in line
    restore_from = latest_restore_point(pipeline, settings)
    settings = settings_of(broker, tmp_path / "home", dead_letter_limit_share=1.0, dead_letter_limit_records=400)
    with JobProcess(pipeline, settings, tmp_path / "second", restore_from) as job:
        job.wait_for("running")
        job.catch_up()
        job.stop()
    answers, events = read_answers(broker, pipeline), read_events(broker, pipeline)
    assert answers.predictions.keys() | answers.dead_letters.keys() == {event.place for event in events}
    reasons = Counter(each.headers["reason"] for each in answers.dead_letters.values())
    assert len(answers.predictions) == 2_000
    assert reasons == Counter(broken[each] for each in good if each in broken) + Counter(not_json=3_000)
