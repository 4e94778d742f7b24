"""A process that sends events at a steady rate and remembers when it sent each, and when it should have.

    bootstrap, topic, events a second, most events, file for the times

It sends until its standard input is closed. The events are made before the first is sent, so that making them does not
delay any.
"""

import gc
import itertools
import select
import sys
import time

import numpy as np
from confluent_kafka import Producer

from flink_jobs.kafka_admin import client_config
from flink_jobs.local.shoppers import as_records, shopper_events
from tests.benchmarks.contest import SEED, SHOPPERS, START_MS
from tests.benchmarks.visibility_reader import event_number

STEP_S = 0.001
LINGER_MS = 5  # what Kafka's own producer has since 4.0


def main() -> None:
    bootstrap, topic, rate_text, most, file = sys.argv[1:6]
    rate = float(rate_text)
    shoppers = int(sys.argv[6]) if len(sys.argv) > 6 else SHOPPERS
    events = list(itertools.islice(shopper_events(shoppers, SEED, START_MS), int(most)))
    records = list(as_records(events))
    numbers = np.array([event_number(event.event_id) for event in events], np.int64)
    sent_ns = np.zeros(len(records), np.int64)
    producer = Producer(client_config(bootstrap, linger_ms=LINGER_MS, compression_type="lz4", acks="all"))
    gc.freeze()
    gc.disable()
    clock, produce = time.time_ns, producer.produce
    begin_ns = clock()
    sent = 0
    while sent < len(records) and not select.select([sys.stdin], [], [], 0)[0]:
        due = min(len(records), int((clock() - begin_ns) / 1e9 * rate))
        for number in range(sent, due):
            sent_ns[number] = clock()
            key, value = records[number]
            produce(topic, value, key)
        sent = due
        producer.poll(0)
        time.sleep(STEP_S)
    producer.flush()
    due_ns = begin_ns + (np.arange(sent) / rate * 1e9).astype(np.int64)
    np.savez(file, number=numbers[:sent], sent_ns=sent_ns[:sent], due_ns=due_ns)
    sys.stdin.read()
