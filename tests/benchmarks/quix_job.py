"""Contestant: Quix Streams as its documentation teaches it: a stateful `apply`, exactly once, RocksDB state per key.

    KafkaTopic -> StreamingDataFrame.apply(score, stateful=True) -> to_topic

In its favour: records cross as bytes and are decoded by msgspec instead of its JSON deserialiser, the producer batches
and compresses as the others do, and it commits once a second like them. The state's changelog topic is on, as it is by
default: without it a lost disk loses the state, and what the others keep survives that. The fifth argument says how
many processes share the partitions, which is how it uses more than one core.
"""

import os
import signal
import sys
import threading
import time

from quixstreams import Application, State

from tests.benchmarks.contestant import Task, wait_for_the_end
from tests.benchmarks.visits import Prediction, PurchaseModel, decode_event, encode_prediction, features_of

COMMIT_S = 1.0
BATCHING = {"linger.ms": 5, "batch.size": 131_072, "compression.type": "lz4"}


def build(application: Application, task: Task) -> None:
    model = PurchaseModel()

    def score(value: bytes, state: State) -> bytes:
        event = decode_event(value)
        visits = state.get("visits", [])
        features = features_of(visits, event)
        state.set("visits", visits)
        (probability,) = model.predict([features])
        return encode_prediction(Prediction(event.event_id, event.user_id, probability, time.time_ns() // 1_000_000))

    events = application.topic(task.events, key_deserializer="bytes", value_deserializer="bytes")
    output = application.topic(task.output, key_serializer="bytes", value_serializer="bytes")
    application.dataframe(events).apply(score, stateful=True).to_topic(output)


def stop_at_the_end() -> None:
    wait_for_the_end()
    os.kill(os.getpid(), signal.SIGTERM)  # how Quix Streams is told to stop


def replica_number(count: int) -> int:
    """Become so many processes like this one; in each, its number."""
    for number in range(1, count):
        if os.fork() == 0:
            return number
    return 0


def main() -> None:
    task = Task.from_command_line()
    number = replica_number(int(sys.argv[5]))
    application = Application(
        broker_address=task.bootstrap,
        consumer_group="quix",
        auto_offset_reset="earliest",
        commit_interval=COMMIT_S,
        processing_guarantee="exactly-once",
        state_dir=task.home / f"state-{number}",
        producer_extra_config=BATCHING,
        loglevel="WARNING",
    )
    build(application, task)
    threading.Thread(target=stop_at_the_end, daemon=True).start()
    application.run()
