"""A state from history, then live from where it ends: killed anywhere, exactly the live events have one answer each."""

import contextlib
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from answers import (
    SHARDS,
    Event,
    assert_dead_letters,
    assert_features_equal,
    assert_receipts,
    expected_of,
    feature_matrix,
    read_answers,
    read_events,
)
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from jobs import kill_all
from workloads import START_MS, make_topics, shipped_as, shoppers

from flink_jobs.answer_comparison import EARLIER_JOB
from flink_jobs.bootstrap_command import Asked, begin_bootstrap, build, start_with
from flink_jobs.events_producer import produce_events
from flink_jobs.hand_over import hand_over_folder
from flink_jobs.job_run import latest_restore_point
from flink_jobs.kafka_admin import topic_ends
from flink_jobs.local.processes import with_parent
from flink_jobs.pipelines import load_pipeline
from flink_jobs.settings import Settings
from flink_jobs.topics import offsets_text
from flink_jobs.verify_job import VerifyRequest, verify
from udfs.entity_state import ShardState
from udfs.key_places import key_partitions, key_shards
from udfs.plan import FeaturePlan
from udfs.wire_formats import EventDecoder, Refused

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


class Runs:
    """`millrace run` of a pipeline, in processes of its own."""

    def __init__(self, broker, folder, name):
        self.broker, self.folder, self.name = broker, folder, name
        self.file = folder / f"{name}.py"
        self.settings = Settings(bootstrap=broker.bootstrap, home=folder / "home")
        self.define("")
        make_topics(broker, self.pipeline)

    def define(self, more):
        self.file.write_text(
            shipped_as(self.name, f"include_features=True, features=(*shipped.features, {more})")
        )
        self.pipeline = load_pipeline(str(self.file))

    @property
    def hand_over(self):
        return hand_over_folder(self.pipeline, self.settings)

    def send(self, records):
        produce_events(self.broker.bootstrap, self.pipeline.events.topic, records)

    @contextlib.contextmanager
    def running(self, *options, **settings):
        """A run that is killed with all its processes at the end."""
        home = {"MILLRACE_HOME": str(self.folder / "home"), "MILLRACE_BOOTSTRAP": self.broker.bootstrap}
        # these jobs end before an optimising compiler pays
        home["JVM_ARGS"] = "-Xmx1g -XX:TieredStopAtLevel=1"
        names = {f"MILLRACE_{name.upper()}": str(value) for name, value in settings.items()}
        process = subprocess.Popen(
            [sys.executable, "-m", "flink_jobs.cli", "run", str(self.file), *options],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **home, **names}, start_new_session=True,
            preexec_fn=with_parent(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            kill_all(process)

    def answered(self, isolation):
        """How many records there are in the topic of predictions, markers included."""
        return sum(topic_ends(self.broker.bootstrap, self.pipeline.predictions, isolation=isolation).values())

    def outcome(self, **more):
        events, answers = read_events(self.broker, self.pipeline), read_answers(self.broker, self.pipeline)
        return SimpleNamespace(pipeline=self.pipeline, events=events, answers=answers, **more)

    def run(self, *options):
        """A run until it has caught up: its report, and what it said."""
        with self.running(*options, "--until-caught-up", "--json") as process:
            report, said = process.communicate(timeout=180)
        assert process.returncode == 0, said
        return json.loads(report), said

    def killed_when(self, condition, *options, **settings):
        """A run that is killed once that holds."""
        with self.running(*options, **settings) as process:
            deadline = time.monotonic() + 120
            while not condition():
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.01)


def one_stream(pipeline, events, shards=None):
    """Features by place, as shards compute them that see all events, one by one, after what they may know already."""
    plan, decode, features = FeaturePlan.build(pipeline), EventDecoder(pipeline).decode, {}
    shards = {} if shards is None else shards
    for event in events:
        decoded = decode(event.key, event.value)
        if isinstance(decoded, Refused):
            continue
        key = event.key.decode()
        state = shards.setdefault(int(key_shards([key], SHARDS)[0]), ShardState(plan, log_changes=False))
        times, columns, masks, direct = plan.columnise([decoded])
        partition, record_times = np.array([event.place[0]], np.int32), np.array([event.time_ms])
        features[event.place] = state.advance([key], times, record_times, partition, columns, masks, direct).features[0]
    return features


def assert_as_one_stream(pipeline, events, predictions):
    expected = one_stream(pipeline, events)
    found = feature_matrix(pipeline, list(predictions.values()))
    np.testing.assert_array_equal(found, np.array([expected[place] for place in predictions]))


def archived(pipeline, records):
    """Records of files as `produce` would have sent them; their offsets are before those of the topic."""
    partitions = key_partitions([key.decode() for key, _ in records], pipeline.events.partitions).tolist()
    return [
        Event((partition, number - len(records)), key, value, json.loads(value)[pipeline.events.time])
        for number, (partition, (key, value)) in enumerate(zip(partitions, records, strict=True))
    ]


@pytest.fixture(scope="module")
def story(broker, tmp_path_factory):
    """Two bootstraps of one pipeline: from files, killed at every stage; then from the topic, for new features."""
    folder = tmp_path_factory.mktemp("bootstrap")
    runs = Runs(broker, folder, "bootstrapped")
    records, broken = shoppers(6_000, users=150)
    history = [record for record in records[:4_000] if record not in broken]
    archive = folder / "archive.jsonl"
    lines = [b"{broken\n", *(value + b"\n" for _, value in history), b'{"user_id": "u"}\n']
    archive.write_bytes(b"".join(lines))
    told = SimpleNamespace(runs=runs, broken=broken, archive=archive, history=archived(runs.pipeline, history))
    told.first = kill_at_every_stage(runs, records[4_000:5_200], "--bootstrap-from", str(archive))
    told.second = add_features(runs, records[5_200:], archive)
    return told


def kill_at_every_stage(runs, live, *options):
    """The state from files: killed while it builds, before the job, before its first checkpoint and after one."""
    hand_over = runs.hand_over
    runs.killed_when((hand_over.path / ".state.backfill" / "plan.json").exists, *options)
    begun = hand_over.begun()
    assert hand_over.hand_over() is None, "killed while it was building"
    runs.send(live[:500])
    runs.killed_when(hand_over.hand_over, *options)
    assert hand_over.hand_over().begun == begun
    assert runs.answered("read_uncommitted") == 0, "killed before the job began"
    runs.killed_when(lambda: runs.answered("read_uncommitted") > 100, *options, checkpoint_interval_ms=100_000)
    assert latest_restore_point(runs.pipeline, runs.settings) is None, "killed before its first checkpoint"
    assert runs.answered("read_committed") == 0
    runs.send(live[500:900])
    runs.killed_when(lambda: runs.answered("read_committed") > 600, *options)
    assert latest_restore_point(runs.pipeline, runs.settings), "killed after a checkpoint"
    runs.send(live[900:])
    report, said = runs.run(*options)
    return runs.outcome(report=report, said=said)


def add_features(runs, live, archive):
    """The state from the topic, killed while it builds; live goes on where the job of the files has stopped."""
    runs.send(live[:400])
    runs.define('Count(window="30d"), Sum("dwell_time_sec", window="2h")')
    with runs.running("--bootstrap-from", str(archive)) as process:
        _, refusal = process.communicate(timeout=60)
    fresh = "--fresh", "--bootstrap-from", "earliest"
    runs.killed_when(lambda: list(runs.hand_over.path.glob(".state.backfill/events/*.npz")), *fresh)
    runs.send(live[400:])
    report, said = runs.run("--bootstrap-from", "earliest")
    return runs.outcome(report=report, said=said, refusal=refusal)


def test_killed_at_every_stage_every_live_event_has_one_answer(story):
    events, answers = story.first.events, story.first.answers
    assert "going on from" in story.first.said
    assert answers.predictions.keys() | answers.dead_letters.keys() == {event.place for event in events}
    reasons = {e.place: story.broken[e.key, e.value] for e in events if (e.key, e.value) in story.broken}
    assert_dead_letters(story.first.pipeline, events, answers.dead_letters, reasons)
    assert_receipts(story.first.pipeline, events, answers.predictions)


def test_features_after_files_are_those_of_one_stream_and_of_the_oracle(story):
    seen = story.history + story.first.events
    assert_as_one_stream(story.first.pipeline, seen, story.first.answers.predictions)
    expected = expected_of(story.first.pipeline, sorted(seen), every=9)
    assert_features_equal(story.first.pipeline, story.first.answers.predictions, expected)


def test_the_report_says_what_was_built_and_broken_records_are_beside_it(story):
    report = story.first.report["bootstrap"]
    assert (report["events"], report["refused"]) == (len(story.history), {"missing_field": 1, "not_json": 1})
    assert report["entities"] > 100
    assert report["live"] == "with the first record in bootstrapped-events"
    assert story.second.report["bootstrap"]["live"] == "where the last run ended"


def test_a_state_that_a_checkpoint_holds_takes_no_disk_any_more(story):
    assert story.runs.hand_over.hand_over().used
    assert not story.runs.hand_over.target.exists()


def test_new_features_need_fresh_and_say_so(story):
    assert "features changed" in story.second.refusal
    assert "--fresh" in story.second.refusal


def test_with_new_features_it_goes_on_where_the_last_run_stopped_and_windows_are_full(story):
    events, answers, pipeline = story.second.events, story.second.answers, story.second.pipeline
    assert answers.predictions.keys() | answers.dead_letters.keys() == {event.place for event in events}
    first = story.first.answers.predictions
    new = {place: answer for place, answer in answers.predictions.items() if place not in first}
    assert story.second.report["events"] == len(events) - len(story.first.events)
    assert "count_30d" in pipeline.feature_names
    assert_as_one_stream(pipeline, events, new)


def test_what_was_served_after_a_state_from_the_topic_is_verified(story):
    report = verify(VerifyRequest(story.second.pipeline, story.runs.settings))
    assert report.findings.holds, report.findings.first
    assert report.findings.equal == story.second.report["events"]
    assert report.findings.unverifiable == {EARLIER_JOB: len(story.first.events)}
    assert "a state built from the topic" in report.beginning.text


def at(event_id, time_ms, user="u"):
    event = {"event_id": event_id, "user_id": user, "page_id": "home", "dwell_time_sec": 1.5, "timestamp": time_ms}
    return json.dumps(event).encode()


def transactions(broker, topic, times_ms, ends):
    """For each time a transaction with ten events of two users at that time; returns the last one's producer."""
    for number, (time_ms, end) in enumerate(zip(times_ms, ends, strict=True)):
        producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": f"{topic}-{number}"})
        producer.init_transactions()
        producer.begin_transaction()
        for event in range(10):
            user, partition = ("u", 0) if event % 3 else ("v", 2)
            value = at(f"{number}-{event}", time_ms + event, user)
            producer.produce(topic, value, user, partition=partition, timestamp=time_ms + event)
        producer.flush()
        if end is not None:
            getattr(producer, f"{end}_transaction")()
    return producer


def test_history_begins_at_a_time_in_the_topic_and_ends_before_what_is_not_committed(broker, tmp_path):
    runs = Runs(broker, tmp_path, "timed")
    pipeline, topic = runs.pipeline, runs.pipeline.events.topic
    times_ms = [START_MS + 60_000 * number for number in range(6)]
    still_open = transactions(broker, topic, times_ms, ["commit", "commit", "abort", "commit", "commit", None])
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for future in admin.delete_records([TopicPartition(topic, 0, 2), TopicPartition(topic, 2, 2)]).values():
        future.result(10)
    since = datetime.fromtimestamp((times_ms[1] + 5) / 1_000, UTC).isoformat()
    begun = begin_bootstrap(pipeline, runs.settings, Asked((since,), None, None))
    assert begun.live == topic_ends(broker.bootstrap, topic, isolation="read_committed")
    still_open.commit_transaction()
    hand_over = build(pipeline, "timed", runs.settings, begun)
    events = read_events(broker, pipeline)
    # to Kafka a marker is a record, too, and the first one here has a later time than the record that is sought
    history = [e for e in events if begun.begins[e.place[0]] <= e.place[1] < begun.live[e.place[0]]]
    live = [event for event in events if event.place[1] >= begun.live[event.place[0]]]
    assert (len(history), len(live), hand_over.facts["events"]) == (30, 10, 30)
    assert min(event.time_ms for event in history) == times_ms[1]
    plan, files = FeaturePlan.build(pipeline), runs.hand_over.files(hand_over)
    shards = {shard: ShardState.restore(plan, file.entries()) for shard, file in enumerate(files)}
    found, expected = one_stream(pipeline, live, shards), one_stream(pipeline, history + live)
    for event in live:
        np.testing.assert_array_equal(found[event.place], expected[event.place])
    assert start_with(pipeline, runs.settings, hand_over).start_from == offsets_text(begun.live)
