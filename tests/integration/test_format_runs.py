"""A job whose events, keys and predictions are Avro with a real registry, on topics that are compressed.

The events' times are those of the records, and one of their fields is a header.
"""

import dataclasses
import io
import json
import struct
import time
from collections import Counter
from itertools import islice

import fastavro
import pytest
from confluent_kafka import Producer
from jobs import JobProcess
from workloads import make_topics, settings_of

from flink_jobs.committed_reader import read_all, receipt
from flink_jobs.decoding import prediction_reader, value_reader
from flink_jobs.kafka_admin import topic_ends
from flink_jobs.local.live_shop import live_events
from flink_jobs.pipelines import load_pipeline
from flink_jobs.produce_command import run_produce_command
from flink_jobs.schema_registry import SchemaRegistry
from flink_jobs.verify_job import VerifyRequest, verify
from udfs.confluent_wire import head_of
from udfs.event_keys import key_of
from udfs.formats import Avro
from udfs.output_fields import features_of
from udfs.pipeline import Events, Pipeline
from udfs.schema_texts import event_schema_text

pytestmark = pytest.mark.integration

EVENTS, SENT = 400, 60
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")  # in the order of their numbers in Kafka's format
_BATCH_HEAD = struct.Struct(">qiibih")  # first offset, bytes to come, epoch, version, checksum, attributes


def avro_shop() -> Pipeline:
    shop = load_pipeline("purchase")
    places = {"timestamp": "@timestamp", "dwell_time_sec": "@header.dwell"}
    events: Events = dataclasses.replace(
        shop.events, topic="avro-events", format=Avro(), key_format=Avro(), fields=places, tombstones="ignore"
    )
    names = {"name": "avro-shop", "predictions": "avro-predictions", "dead_letters": "avro-dead-letters"}
    written = {"output_format": Avro(), "include_features": True, "features_topic": "avro-features"}
    return dataclasses.replace(shop, events=events, **written, **names)


def written(parsed, schema_id, row):
    content = io.BytesIO()
    fastavro.schemaless_writer(content, parsed, row)
    return head_of(schema_id) + content.getvalue()


def codecs_in(segment):
    """The codecs of the record batches of a partition's file.

    https://kafka.apache.org/documentation/#recordbatch
    """
    data, found = segment.read_bytes(), set()
    while data:
        _, size, _, _, _, attributes = _BATCH_HEAD.unpack_from(data)
        found.add(CODECS[attributes & 7])
        data = data[12 + size :]
    return found


def tamper(broker, pipeline):
    """Say of a vector that it is of another event, and of one that is no event."""
    first, *_, last = read_all(broker.bootstrap, [pipeline.features_topic])
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    headers = dict(first.headers())
    ends = topic_ends(broker.bootstrap, pipeline.events.topic)
    nowhere = str(max(ends.values()) + 5).encode()
    for offset in (dict(last.headers())["millrace-offset"], nowhere):
        partition = dict(last.headers())["millrace-partition"]
        producer.produce(
            pipeline.features_topic, first.value(), first.key(),
            headers={**headers, "millrace-offset": offset, "millrace-partition": partition},
        )  # fmt: skip
    producer.flush()


def place_of(answer):
    """Of its event."""
    told = receipt(answer)
    return told["partition"], told["offset"]


def test_an_entity_keeps_its_state_when_the_schemas_of_its_keys_and_values_change(
    broker, registry, tmp_path, monkeypatch
):
    pipeline = avro_shop()
    monkeypatch.setenv("MILLRACE_SCHEMA_REGISTRY", registry.url)  # for the processes of `verify`
    settings = settings_of(broker, tmp_path / "home").model_copy(update={"schema_registry": registry.url})
    make_topics(broker, pipeline)
    client = SchemaRegistry(settings)
    text = event_schema_text(pipeline.events, "AVRO")
    grown = json.loads(text)
    grown["fields"].insert(0, {"name": "campaign", "type": ["null", "string"], "default": None})
    schemas = []
    for each in (text, json.dumps(grown)):
        schemas.append((client.register("avro-events-value", "AVRO", each), fastavro.parse_schema(json.loads(each))))
    keys = [client.register(f"avro-events-key-{number}", "AVRO", one) for number, one in enumerate((
        '"string"', '{"type": "record", "name": "Key", "fields": [{"name": "user_id", "type": "string"}]}',
    ))]  # fmt: skip
    rows = [json.loads(value) for _, value in islice(live_events(1_000, 7), EVENTS)]
    now_ms = time.time_ns() // 1_000_000
    sent = tmp_path / "sent.jsonl"
    sent.write_text("\n".join(json.dumps({**row, "user_id": f"f{n % 3}", "timestamp": now_ms + n})
                              for n, row in enumerate(rows[:SENT])))  # fmt: skip
    options = {"rate": None, "speedup": None, "limit": None, "seed": None, "as_json": True}
    run_produce_command(pipeline, "avro-shop", settings, file=sent, **options)
    with JobProcess(pipeline, settings, tmp_path / "job") as job:
        for number, row in enumerate(rows):
            # codec after codec is sent, each its share: event time follows the order of sending
            sent_after = number % len(CODECS) * EVENTS + number
            row.update(user_id=f"u{number % 7}", timestamp=now_ms + sent_after)
        for place, codec in enumerate(CODECS):
            producer = Producer({"bootstrap.servers": broker.bootstrap, "compression.type": codec, "linger.ms": 50})
            for number in range(place, EVENTS, len(CODECS)):
                row = rows[number]
                version = (number // 8) % 2
                key = key_of(pipeline.events, row["user_id"], schema_id=keys[version])
                # keys with other bytes would go to other partitions: whoever changes a key's schema sees to that
                value = written(schemas[version][1], schemas[version][0], row)
                place = {"partition": 0, "timestamp": row["timestamp"]}
                headers = [("dwell", b"far"), ("other", None), ("dwell", str(row["dwell_time_sec"]).encode())]
                producer.produce(pipeline.events.topic, value, key, headers=headers, **place)
            producer.produce(pipeline.events.topic, b"\0\0\0\xff\xff", b"odd", partition=0)
            producer.produce(pipeline.events.topic, value, key, headers={"dwell": b"far"}, partition=0)
            producer.produce(pipeline.events.topic, None, key, partition=0)
            producer.flush()
        job.wait_for("running")
        job.catch_up()
        job.stop()
    (segment,) = (broker.folder / "data").glob(f"{pipeline.events.topic}-0/*.log")
    assert codecs_in(segment) == set(CODECS)
    read, counts, seen, vectors = prediction_reader(pipeline, settings), {}, 0, {}
    read_vector = value_reader(features_of(pipeline), settings)
    for message in read_all(broker.bootstrap, [pipeline.features_topic]):
        vectors[place_of(message)] = read_vector(message.value())["features"]
    assert client.latest("avro-features-value").text == features_of(pipeline).schema_text("AVRO", None)
    for message in read_all(broker.bootstrap, [pipeline.predictions]):
        body = read(message.value())
        assert body["features"] == vectors[place_of(message)]
        counts[body["user_id"]] = max(counts.get(body["user_id"], 0), body["features"]["count_1h"])
        seen += 1
    assert seen == EVENTS + SENT
    assert sum(counts.values()) == EVENTS + SENT  # one state an entity, whatever its keys look like
    letters = Counter(receipt(each)["reason"] for each in read_all(broker.bootstrap, [pipeline.dead_letters]))
    assert letters == {"unknown_schema": len(CODECS), "wrong_type": len(CODECS)}
    findings = verify(VerifyRequest(pipeline, settings)).findings
    assert (findings.holds, findings.waiting, findings.unverifiable) == (True, 0, {}), findings.first
    assert findings.equal == EVENTS + SENT + 2 * len(CODECS)  # a replay of the topic sees the same, and no tombstone
    assert findings.vectors == EVENTS + SENT
    tamper(broker, pipeline)
    findings = verify(VerifyRequest(pipeline, settings)).findings
    assert (findings.vectors, dict(findings.counts)) == (EVENTS + SENT, {"wrong_vector": 2})
    nowhere, differs = findings.first
    assert nowhere.what == "the vector of a record that is no event"
    assert differs.what.startswith("in its vector, event time, ")
    assert differs.served[0].topic == pipeline.features_topic
