"""A backfill of a topic is what the job said, to the last bit; killed, it goes on and gives the same bytes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from answers import feature_matrix, read_answers, read_events
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from jobs import JobProcess
from workloads import PURCHASE, START_MS, make_topics, mixed, named, purchase, settings_of, shoppers

from flink_jobs import history_topic
from flink_jobs.backfill_job import run_backfill
from flink_jobs.backfill_request import BackfillRequest
from flink_jobs.events_producer import produce_events
from flink_jobs.history_files import file_pieces
from flink_jobs.history_topic import topic_pieces
from flink_jobs.kafka_admin import KafkaAdminError
from flink_jobs.labels import LabelRequest

pytestmark = pytest.mark.integration

EVENTS = 6_000
HOUR_MS = 3_600_000
ROOT = Path(__file__).parents[2]


def with_late_ones(records, seed=2):
    """The records, and among them copies that come up to four hours late, or at the same time."""
    rng = np.random.default_rng(seed)
    late = []
    for key, value in records[::20]:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            event = json.loads(value)
            event["timestamp"] -= int(rng.choice([0, 1, HOUR_MS // 2, HOUR_MS, 2 * HOUR_MS, 4 * HOUR_MS]))
            late.append((key, json.dumps(event).encode()))
    return mixed(records, late, seed)


@pytest.fixture(scope="module")
def run(broker, tmp_path_factory):
    """One run of the job: pipeline, records in the order of sending, events, answers."""
    folder = tmp_path_factory.mktemp("job")
    pipeline = purchase("backfilled")
    records = with_late_ones(shoppers(EVENTS, users=150)[0])
    make_topics(broker, pipeline)
    with JobProcess(pipeline, settings_of(broker, folder / "home"), folder) as job:
        produce_events(broker.bootstrap, pipeline.events.topic, records)
        job.wait_for("running")
        job.catch_up()
        job.stop()
    return pipeline, records, read_events(broker, pipeline), read_answers(broker, pipeline)


def topic_request(broker, pipeline, target, start="earliest", **options):
    topic = pipeline.events.topic
    return BackfillRequest(
        pipeline,
        {"topic": topic},
        lambda: topic_pieces(broker.bootstrap, topic, None, start),
        target,
        bootstrap=broker.bootstrap,
        **options,
    )


def places_of(table):
    return list(zip(table["_partition"].to_pylist(), table["_offset"].to_pylist(), strict=True))


def matrix(table, pipeline):
    return np.array([table[name].to_numpy() for name in pipeline.feature_names]).T


def test_every_row_has_the_features_and_flags_of_its_prediction_to_the_last_bit(broker, run, tmp_path, monkeypatch):
    monkeypatch.setattr(history_topic, "PIECE_RECORDS", 700)
    pipeline, _, _, answers = run
    report = run_backfill(topic_request(broker, pipeline, tmp_path / "t.parquet"))
    table = pq.read_table(tmp_path / "t.parquet")
    places = places_of(table)
    assert places == sorted(answers.predictions)
    predictions = [answers.predictions[place] for place in places]
    # a prediction writes NaN as null: the bits of NaN are no feature
    np.testing.assert_array_equal(matrix(table, pipeline), feature_matrix(pipeline, predictions))
    assert table["_event_id"].to_pylist() == [answer.body["event_id"] for answer in predictions]
    assert table["_late"].to_pylist() == ["late" in answer.headers.get("flags", "") for answer in predictions]
    assert table["_late"].to_pylist().count(True) > 50
    assert report.rows == len(predictions)


def test_records_that_are_no_events_are_the_dead_letters_of_the_job(broker, run, tmp_path):
    pipeline, _, events, answers = run
    report = run_backfill(topic_request(broker, pipeline, tmp_path / "t.parquet"))
    letters = [json.loads(line) for line in report.letters.read_text().splitlines()]
    found = {(each["partition"], each["offset"]): each["reason"] for each in letters}
    assert found == {place: answer.headers["reason"] for place, answer in answers.dead_letters.items()}
    assert sum(report.refused.values()) == len(letters) == len(events) - report.rows


def test_a_file_of_the_records_gives_the_same_features_as_sending_them(run, tmp_path):
    pipeline, records, _, answers = run
    good = [(key, value) for key, value in records if value and value.startswith(b"{") and b'"event_id"' in value]
    (tmp_path / "h.jsonl").write_bytes(b"".join(value.replace(b"\n", b" ") + b"\n" for _, value in good))
    paths = [tmp_path / "h.jsonl"]
    request = BackfillRequest(pipeline, {}, lambda: file_pieces(paths, pipeline), tmp_path / "t.parquet")
    run_backfill(request)
    table = pq.read_table(tmp_path / "t.parquet")
    rows = {}
    for name, at, row in zip(
        table["_event_id"].to_pylist(), table["_event_time"].to_pylist(), matrix(table, pipeline), strict=True
    ):
        rows.setdefault((name, round(at.timestamp() * 1_000)), []).append(row)
    checked = 0
    for answer in answers.predictions.values():
        found = rows.get((answer.body["event_id"], int(answer.headers["event-time"])), [])
        if len(found) == 1:
            np.testing.assert_array_equal(found[0], feature_matrix(pipeline, [answer])[0])
            checked += 1
    assert checked > 0.95 * EVENTS


@pytest.mark.parametrize("processes", [1, 2])
def test_a_topic_in_pieces_gives_the_bytes_of_the_whole(broker, run, tmp_path, monkeypatch, processes):
    pipeline = run[0]
    run_backfill(topic_request(broker, pipeline, tmp_path / "whole.parquet"))
    monkeypatch.setattr(history_topic, "PIECE_RECORDS", 300)
    run_backfill(topic_request(broker, pipeline, tmp_path / "t.parquet", processes=processes))
    whole, pieces = (pq.read_table(tmp_path / name) for name in ("whole.parquet", "t.parquet"))
    assert places_of(whole) == places_of(pieces)
    np.testing.assert_array_equal(matrix(whole, pipeline), matrix(pieces, pipeline))


def test_a_topic_is_read_from_offsets_and_times(broker, run, tmp_path):
    pipeline, _, events, _ = run
    offsets = {0: 100, 2: 10**9}
    run_backfill(topic_request(broker, pipeline, tmp_path / "o.parquet", start="0:100,2:1000000000"))
    places = places_of(pq.read_table(tmp_path / "o.parquet"))
    assert min(offset for partition, offset in places if partition == 0) >= offsets[0]
    assert {partition for partition, _ in places} == {0, 1}
    middle_ms = sorted(event.time_ms for event in events)[len(events) // 2]
    run_backfill(topic_request(broker, pipeline, tmp_path / "t.parquet", start=str(middle_ms)))
    times = {event.place: event.time_ms for event in events}
    found = [times[place] for place in places_of(pq.read_table(tmp_path / "t.parquet"))]
    assert 0 < len(found) < len(events)
    assert min(found) >= middle_ms


def payments(broker, name, partitions=2):
    pipeline = named(PURCHASE, name)
    make_topics(broker, pipeline)
    return pipeline


def visit(user, at, number=0):
    event = {"event_id": f"{user}-{number}", "user_id": user, "page_id": "home", "dwell_time_sec": 1.0, "timestamp": at}
    return json.dumps(event).encode()


def test_only_committed_records_count_and_markers_end_nothing(broker, tmp_path):
    pipeline = payments(broker, "transactional")
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": "backfill-test"})
    producer.init_transactions()
    for round_number in range(6):
        producer.begin_transaction()
        for number in range(5):
            value = visit("u", START_MS + round_number * 10 + number, number)
            producer.produce(pipeline.events.topic, value, "u", partition=1)
        producer.flush()
        producer.commit_transaction() if round_number % 2 == 0 else producer.abort_transaction()
    began = time.monotonic()
    run_backfill(topic_request(broker, pipeline, tmp_path / "t.parquet"))
    assert time.monotonic() - began < 20
    table = pq.read_table(tmp_path / "t.parquet")
    assert table["count_1h"].to_pylist() == list(range(1, 16))


def test_an_entity_in_several_partitions_is_taken_in_the_order_of_record_times(broker, tmp_path):
    pipeline = payments(broker, "moved")
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    sent = [(1, 0), (1, 5), (0, 7), (2, 9), (0, 12), (1, 15)]
    for number, (partition, at) in enumerate(sent):
        producer.produce(
            pipeline.events.topic, visit("u", START_MS + at, number), "u", partition=partition, timestamp=START_MS + at
        )
    producer.flush()
    run_backfill(topic_request(broker, pipeline, tmp_path / "t.parquet", shards=4))
    table = pq.read_table(tmp_path / "t.parquet")
    by_time = sorted(zip(table["_event_time"].to_pylist(), table["count_1h"].to_pylist(), strict=True))
    assert [count for _, count in by_time] == [1, 2, 3, 4, 5, 6]
    assert places_of(table) == sorted(places_of(table))


def test_labels_may_come_from_a_topic_whatever_its_keys(broker, tmp_path):
    pipeline = payments(broker, "labelled")
    topic = pipeline.events.topic
    produce_events(broker.bootstrap, topic, [(b"u", visit("u", START_MS + at, at)) for at in (0, 1_000, 5_000, 9_000)])
    buys = named(PURCHASE, "labels-of-it")
    make_topics(broker, buys)
    rows = [{"user_id": "u", "timestamp": START_MS + at, "label": value} for at, value in ((1_000, 7), (20_000, 9))]
    produce_events(broker.bootstrap, buys.events.topic, [(b"key", json.dumps(row).encode()) for row in rows])
    labels = LabelRequest(buys.events.topic, 2_000, bootstrap=broker.bootstrap)
    report = run_backfill(topic_request(broker, pipeline, tmp_path / "t.parquet", labels=labels))
    assert pq.read_table(tmp_path / "t.parquet")["_label"].to_pylist() == [7.0, None, None, None]
    assert (report.label_events, report.label_values) == (2, True)


def test_records_that_retention_removed_are_missed_out_loud(broker, tmp_path, monkeypatch):
    pipeline = payments(broker, "shortened")
    monkeypatch.setattr(history_topic, "SILENCE_S", 20.0)
    produce_events(broker.bootstrap, pipeline.events.topic, [(b"u", visit("u", START_MS + at)) for at in range(50)])
    request = topic_request(broker, pipeline, tmp_path / "t.parquet")
    pieces = request.pieces()
    places = [TopicPartition(pipeline.events.topic, piece.partition, piece.end) for piece in pieces]
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for future in admin.delete_records(places).values():
        future.result(10)
    gone = BackfillRequest(pipeline, {}, lambda: pieces, tmp_path / "t.parquet", bootstrap=broker.bootstrap)
    with pytest.raises(KafkaAdminError, match="retention removed"):
        run_backfill(gone)


def command(broker, target, **options):
    """`millrace backfill` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "flink_jobs.cli", "backfill", "purchase", "--from", "kafka", "--to", str(target),
         "--processes", "2", *options.get("more", [])],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "MILLRACE_BOOTSTRAP": broker.bootstrap},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts,
    )  # fmt: skip


def heed_interrupts():
    """Tests that a shell runs in the background are told to ignore Ctrl-C, and their children with them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_command_leaves_no_process_and_the_same_command_goes_on(broker, tmp_path, number):
    make_topics(broker, PURCHASE)
    topic = PURCHASE.events.topic
    if not topic_pieces(broker.bootstrap, topic, None):
        produce_events(broker.bootstrap, topic, shoppers(30_000, users=500)[0])
    whole, target = tmp_path / "whole.parquet", tmp_path / "t.parquet"
    assert command(broker, whole).wait(120) == 0
    started = command(broker, target)
    work = tmp_path / ".t.parquet.backfill"
    wait_for(lambda: list(work.glob("events/*.npz")) or started.poll() is not None)
    children = psutil.Process(started.pid).children(recursive=True)
    assert len(children) >= 2
    started.send_signal(number)
    _, said = started.communicate(timeout=30)
    assert started.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number], said
    wait_for(lambda: not any(each.is_running() and each.status() != "zombie" for each in children), 15)
    if number != signal.SIGKILL:
        assert "the same command goes on" in said
    assert not target.exists()
    again = command(broker, target, more=["--json"])
    report, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert json.loads(report)["resumed"] is True
    assert target.read_bytes() == whole.read_bytes()
