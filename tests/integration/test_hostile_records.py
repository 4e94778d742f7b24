"""Records made to do harm, and a model that kills its worker: a dead letter each, good ones beside them scored once."""

import dataclasses

import msgspec
import pytest
from answers import assert_as_uninterrupted, read_answers, read_events
from confluent_kafka import Producer
from deadly_model import DEADLY, Nothing
from jobs import JobProcess
from workloads import LIMIT_BYTES, log_model, named, settings_of

from flink_jobs.crash_guard import crash_folder, read_crashes
from flink_jobs.kafka_admin import create_topics
from flink_jobs.pipelines import load_pipeline
from flink_jobs.topics import topic_specs
from udfs.pipeline import Count, Sum, Value

pytestmark = pytest.mark.integration

START_MS = 1_760_000_000_000
LARGEST_BYTES = 20_000_000
MB = 1_000_000
WORKERS = 2


def hostile_pipeline(folder):
    features = [Nothing("dwell_time_sec", window="1m"), Count(window="1h"), Sum("dwell_time_sec", window="1h"),
                Value("dwell_time_sec")]  # fmt: skip
    pipeline = named(load_pipeline("purchase"), "hostile", features=features, max_record_bytes=LIMIT_BYTES)
    return dataclasses.replace(pipeline, model=log_model(pipeline, folder, "dwell_time_sec"))


def look(number, **changes):
    event = {"event_id": f"e{number}", "user_id": f"u{number % 40}", "page_id": "home",
             "dwell_time_sec": 1.0 + number % 9, "timestamp": START_MS + 1_000 * number, **changes}  # fmt: skip
    return event["user_id"].encode(), msgspec.json.encode(event)


def with_text(name, text):
    """A good record but for what stands behind one name."""
    key, value = look(1)
    event = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    event[name] = msgspec.Raw(text)
    return key, b"{" + b",".join(b'"%s":%s' % (each.encode(), bytes(raw)) for each, raw in event.items()) + b"}"


def hostile_records():
    """Records and their reasons."""
    deep = 40_000
    return [
        ((b"u1", b"[" * 90_000), "wrong_type"),
        ((b"u1", b'{"a":' * 15_000), "not_json"),
        (with_text("unknown", b"[" * deep + b"]" * deep), "not_json"),
        (with_text("page_id", b"[" * deep + b"]" * deep), "wrong_type"),
        (with_text("dwell_time_sec", b"1e999"), "wrong_type"),
        (with_text("dwell_time_sec", b"9" * 90_000), "wrong_type"),
        (with_text("dwell_time_sec", b"1e" + b"9" * 90_000), "wrong_type"),
        (with_text("timestamp", b"9" * 4_000), "invalid_time"),
        (with_text("timestamp", b"9" * 19), "invalid_time"),
        (with_text("timestamp", b"-" + b"9" * 30), "invalid_time"),
        (with_text("dwell_time_sec", b"NaN"), "not_json"),
        (with_text("dwell_time_sec", b"Infinity"), "not_json"),
        (with_text("unknown", b"-Infinity"), "not_json"),
        (with_text("event_id", b'"\xff\xfe"'), "not_json"),
        (with_text("event_id", b'"\xc0\xaf"'), "not_json"),
        (with_text("event_id", b'"\\ud800"'), "not_json"),
        ((b"u1", b""), "not_json"),
        ((b"", look(1)[1]), "key_mismatch"),
        ((b"\xff" * 50_000, look(1)[1]), "key_mismatch"),
        ((b"u1", b"\0" * 90_000), "not_json"),
        *([(look(2, padding="p" * 10 * MB), "too_large")] * 5),
        ((b"u3", b"\0" * 10 * MB), "too_large"),
    ]


def send(broker, topic, records, **properties):
    """In order; what the topic takes from others ours need not take."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "message.max.bytes": 1_000 * MB, **properties})
    failed = []
    for key, value in records:
        producer.produce(topic, value, key, on_delivery=lambda error, _: failed.append(error) if error else None)
    assert producer.flush(60) == 0
    assert not failed


def resident_bytes(job):
    return sum(worker.memory_info().rss for worker in job.workers())


def test_hostile_records_and_a_deadly_model_are_survived(broker, tmp_path):
    pipeline = hostile_pipeline(tmp_path)
    settings = settings_of(
        broker, tmp_path / "home", restart_attempts=10, restart_delay_ms=100, parallelism=WORKERS,
        dead_letter_limit_share=1.0,
    )  # fmt: skip
    specs = topic_specs(pipeline)
    create_topics(broker.bootstrap, [dataclasses.replace(specs[0], settings={"max.message.bytes": str(LARGEST_BYTES)})])
    create_topics(broker.bootstrap, specs[1:])
    topic, hostile = pipeline.events.topic, hostile_records()
    good = [look(number) for number in range(800)]
    twice = (b"u5", b'{"page_id":"search",' + look(5, event_id="twice")[1][1:])
    with JobProcess(pipeline, settings, tmp_path / "job") as job:
        job.wait_for("running")
        send(broker, topic, good[:400])
        job.catch_up()
        before = resident_bytes(job)
        mixed = [each for pair in zip(good[400:], [record for record, _ in hostile], strict=False) for each in pair]
        send(broker, topic, [*mixed, twice])
        bombs = [look(7, padding="p" * 100 * MB), (b"u8", b"\0" * 100 * MB)]
        for codec, bomb in zip(("gzip", "lz4"), bombs, strict=True):
            send(broker, topic, [bomb], **{"compression.type": codec})
        job.catch_up()
        assert resident_bytes(job) - before < 100 * MB
        assert job.checkpoints()["failure"] is None, "nothing of that is a failure of the job"
        deadly = [look(number, dwell_time_sec=DEADLY) for number in (900, 905)]
        rest = [*good[400 + len(hostile) :], *deadly, *[look(number) for number in range(910, 950)]]
        send(broker, topic, rest)
        job.catch_up()
        failure = job.checkpoints()["failure"]
        job.stop()
    events, answers = read_events(broker, pipeline), read_answers(broker, pipeline)
    reasons = {record: reason for record, reason in hostile} | dict.fromkeys(bombs, "too_large")
    reasons |= dict.fromkeys(deadly, "model_crashed")
    expected = {e.place: reasons[e.key, e.value] for e in events if (e.key, e.value) in reasons}
    assert len(expected) == len(hostile) + 4
    found = {place: each.headers["reason"] for place, each in answers.dead_letters.items()}
    wrong = [
        (found.get(e.place), expected.get(e.place), e.value[:60], len(e.value))
        for e in events if found.get(e.place) != expected.get(e.place)
    ]  # fmt: skip
    assert not wrong
    assert answers.predictions.keys() == {e.place for e in events} - expected.keys()
    for event in events:
        if event.place in expected and len(event.value) > LIMIT_BYTES:
            letter = answers.dead_letters[event.place]
            assert letter.value == event.value[:LIMIT_BYTES]
            assert letter.headers["cut-from-bytes"] == str(len(event.value))
            assert letter.headers["exception"] == f"{len(event.value)} bytes; the limit is {LIMIT_BYTES}"
    assert_as_uninterrupted(pipeline, events, answers.predictions)
    crashes = read_crashes(crash_folder(pipeline, settings))
    crashed = {place for place, reason in expected.items() if reason == "model_crashed"}
    assert {each.places[0][:2] for each in crashes if each.again} == crashed
    assert failure
