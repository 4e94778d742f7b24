"""Contestant: no Flink, one Python process: consume 1,000, decode, features in a dictionary, one ONNX call, produce.

Transactions with the offsets in them, committed every second. The state is lost with the process and there is no second
process: it is what scoring costs when nothing else is asked for. With `engine` as the fifth argument the features come
from Millrace's engine instead of the dictionary of lists. With `stateless` and a model's file they are fields of the
event alone: what SQL without windows does.
"""

import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, Message, Producer

from flink_jobs.kafka_admin import client_config
from flink_jobs.pipelines import load_pipeline
from tests.benchmarks.contestant import Task
from tests.benchmarks.visits import (
    PAGES,
    PageView,
    Prediction,
    PurchaseModel,
    Visit,
    decode_event,
    encode_prediction,
    features_of,
)
from udfs.entity_state import ShardState
from udfs.kernel_warm_up import warm_up
from udfs.plan import FeaturePlan

BATCH = 1_000
COMMIT_S = 1.0

Features = Callable[[list[PageView], list[Message]], list[list[float]]]


def features_by_hand() -> Features:
    shoppers: dict[str, list[Visit]] = {}

    def compute(events: list[PageView], _messages: list[Message]) -> list[list[float]]:
        return [features_of(shoppers.setdefault(event.user_id, []), event) for event in events]

    return compute


def features_by_engine() -> Features:
    warm_up()
    plan = FeaturePlan.build(load_pipeline("purchase"))
    state = ShardState(plan, log_changes=False)

    def compute(events: list[PageView], messages: list[Message]) -> list[list[float]]:
        times_ms, columns, masks, direct = plan.columnise(events)
        record_times_ms = np.array([message.timestamp()[1] for message in messages], np.int64)
        partitions = np.array([message.partition() for message in messages], np.int32)
        users = [event.user_id for event in events]
        return state.advance(users, times_ms, record_times_ms, partitions, columns, masks, direct).features

    return compute


def features_of_events_alone(events: list[PageView], _messages: list[Message]) -> list[list[float]]:
    return [[event.dwell_time_sec, *[float(event.page_id == page) for page in PAGES]] for event in events]


def main() -> None:
    task = Task.from_command_line()
    compute = features_by_engine() if sys.argv[5:] == ["engine"] else features_by_hand()
    model = PurchaseModel()
    if sys.argv[5:6] == ["stateless"]:
        compute, model = features_of_events_alone, PurchaseModel(Path(sys.argv[6]))
    group = {"group_id": task.output, "auto_offset_reset": "earliest", "isolation_level": "read_committed"}
    consumer = Consumer(client_config(task.bootstrap, **group, enable_auto_commit=False))
    consumer.subscribe([task.events])
    batching = {"linger_ms": 5, "batch_size": 131_072, "compression_type": "lz4"}
    producer = Producer(
        client_config(task.bootstrap, transactional_id=task.output, queue_buffering_max_messages=1_000_000, **batching)
    )
    producer.init_transactions()
    producer.begin_transaction()
    commit_at = time.monotonic() + COMMIT_S
    while not select.select([sys.stdin], [], [], 0)[0]:
        messages = [message for message in consumer.consume(BATCH, 0.1) if message.error() is None]
        if messages:
            events = [decode_event(message.value()) for message in messages]
            scores = model.predict(compute(events, messages))
            now_ms = time.time_ns() // 1_000_000
            for message, event, score in zip(messages, events, scores, strict=True):
                value = encode_prediction(Prediction(event.event_id, event.user_id, score, now_ms))
                producer.produce(task.output, value, message.key())
            producer.poll(0)
        if time.monotonic() >= commit_at:
            positions = consumer.position(consumer.assignment())
            producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata())
            producer.commit_transaction()
            producer.begin_transaction()
            commit_at = time.monotonic() + COMMIT_S
    producer.abort_transaction()
    consumer.close()
