"""The bare loop in its most prompt form: takes what is there, scores it, and sends it on before it takes more.

    bootstrap, home, events topic, output topic, guarantee

`at-least-once` flushes after each batch and commits its offsets every second; `exactly-once` keeps a transaction open
for a second and commits the offsets with it.
"""

import select
import sys
import time

from confluent_kafka import Consumer, Producer

from flink_jobs.kafka_admin import client_config
from tests.benchmarks.contestant import Task
from tests.benchmarks.visits import Prediction, PurchaseModel, Visit, decode_event, encode_prediction, features_of

BATCH = 1_000
COMMIT_S = 1.0


def main() -> None:
    task, exactly_once = Task.from_command_line(), sys.argv[5] == "exactly-once"
    shoppers: dict[str, list[Visit]] = {}
    model = PurchaseModel()
    group = {"group_id": "prompt-bare-loop", "auto_offset_reset": "earliest", "isolation_level": "read_committed"}
    consumer = Consumer(client_config(task.bootstrap, **group, enable_auto_commit=False))
    consumer.subscribe([task.events])
    ids = {"transactional_id": "prompt-bare-loop"} if exactly_once else {}
    producer = Producer(client_config(task.bootstrap, linger_ms=1, compression_type="lz4", **ids))
    if exactly_once:
        producer.init_transactions()
        producer.begin_transaction()
    commit_at = time.monotonic() + COMMIT_S
    while not select.select([sys.stdin], [], [], 0)[0]:
        first = consumer.poll(0.1)
        messages = [] if first is None else [first, *consumer.consume(BATCH, timeout=0)]
        messages = [message for message in messages if message.error() is None]
        if messages:
            events = [decode_event(message.value()) for message in messages]
            rows = [features_of(shoppers.setdefault(event.user_id, []), event) for event in events]
            scores = model.predict(rows)
            now_ms = time.time_ns() // 1_000_000
            for message, event, score in zip(messages, events, scores, strict=True):
                value = encode_prediction(Prediction(event.event_id, event.user_id, score, now_ms))
                producer.produce(task.output, value, message.key())
            if not exactly_once:
                producer.flush()
        if time.monotonic() >= commit_at:
            commit_at = time.monotonic() + COMMIT_S
            if exactly_once:
                positions = consumer.position(consumer.assignment())
                producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata())
                producer.commit_transaction()
                producer.begin_transaction()
            elif messages:
                consumer.commit(asynchronous=True)
    if exactly_once:
        producer.abort_transaction()
    consumer.close()
