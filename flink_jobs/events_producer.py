"""Puts events into a topic at a given rate.

In: pairs of Kafka key and value, from a file (`event_files`) or the generator (`local/shoppers`). Out: the records in
the topic, in order and once (idempotent producer), and how many. Kafka's record timestamp is the time of sending: with
the event times of old data, retention would delete the records as they arrive. It is the event time only where the
pipeline reads that from it.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from flink_jobs.kafka_admin import KafkaUnreachableError, Properties, client_config
from udfs.event_writer import WrittenRecord

LINGER_MS = 10
BATCH_BYTES = 262_144
QUEUE_MESSAGES = 200_000
MAX_MESSAGE_BYTES = 8_000_000  # the broker decides what is too large; a record above a pipeline's limit must get there
DELIVERY_TIMEOUT_MS = 120_000
POLL_EVERY = 1_000
PACE_S = 0.005  # records of one such step are sent together
PROGRESS_S = 0.1


class ProduceError(RuntimeError):
    """Records could not be delivered; the message is one line with the reason of the first."""


@dataclass(frozen=True)
class Produced:
    """What became of the records.

    Attributes:
        records: How many are in the topic.
        elapsed_s: From the first to the last delivery.
        interrupted: Whether Ctrl-C ended it; all records sent until then are in the topic.
    """

    records: int
    elapsed_s: float
    interrupted: bool


def produce_events(
    bootstrap: str,
    topic: str,
    events: Iterable[tuple[bytes | None, bytes | None] | WrittenRecord],
    rate: float | None = None,
    *,
    properties: Properties | None = None,
    progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Produced:
    """Send all events, wait until the brokers have them, and count them.

    Args:
        bootstrap: Where the brokers are.
        topic: An existing topic.
        events: Key and value of each record, and where there are its headers and time; may be endless.
        rate: Records per second; None sends as fast as it goes.
        properties: Client properties; they win over ours.
        progress: Told how many records were sent, about ten times a second.
        should_stop: Asked after every record; True ends like the end of the events.

    Raises:
        ProduceError: A record was refused or not delivered in two minutes.
        KafkaUnreachableError: No broker was reachable in that time.
    """
    sender = RecordSender(bootstrap, topic, properties)
    started = time.monotonic()
    next_progress = started
    interrupted = False
    try:
        for record in events:
            if rate is not None:
                ahead_s = sender.sent / rate - (time.monotonic() - started)
                if ahead_s > PACE_S:
                    sender.poll()
                    time.sleep(ahead_s)
            sender.send(*record)
            if progress and time.monotonic() >= next_progress:
                progress(sender.sent)
                next_progress = time.monotonic() + PROGRESS_S
            if should_stop and should_stop():
                break
    except KeyboardInterrupt:
        interrupted = True
    sender.flush()
    if progress:
        progress(sender.sent)
    return Produced(sender.sent, time.monotonic() - started, interrupted)


class RecordSender:
    """A producer that notices failed deliveries, and counts what it was given as `sent`."""

    def __init__(self, bootstrap: str, topic: str, properties: Properties | None) -> None:
        self.topic = topic
        self.bootstrap = bootstrap
        self.sent = 0
        self._failure: KafkaError | None = None
        config = client_config(
            bootstrap,
            properties,
            enable_idempotence=True,
            compression_type="lz4",
            linger_ms=LINGER_MS,
            batch_size=BATCH_BYTES,
            queue_buffering_max_messages=QUEUE_MESSAGES,
            message_max_bytes=MAX_MESSAGE_BYTES,
            delivery_timeout_ms=DELIVERY_TIMEOUT_MS,
            delivery_report_only_error=True,
        )
        config["error_cb"] = self._on_error
        config["on_delivery"] = self._on_delivery
        try:
            self._producer = Producer(config)
        except KafkaException as error:
            raise ProduceError(f"the Kafka client properties are not valid: {error.args[0].str()}") from error

    def send(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        time_ms: int | None = None,
        partition: int | None = None,
    ) -> None:
        """Queue a record; waits while the queue is full. Without a partition it is the key's."""
        more: dict[str, Any] = {} if time_ms is None else {"timestamp": time_ms}
        if partition is not None:
            more["partition"] = partition
        while True:
            try:
                self._producer.produce(self.topic, value, key, headers=list(headers), **more)
                break
            except BufferError:  # the queue is full: wait for the brokers
                self.poll(0.1)
            except KafkaException as error:
                raise ProduceError(f"{self.topic}: {error.args[0].str()}") from error
        self.sent += 1
        if self.sent % POLL_EVERY == 0:
            self.poll()

    def poll(self, wait_s: float = 0.0) -> None:
        """Let failed deliveries be noticed."""
        self._producer.poll(wait_s)
        self._raise_failure()

    def flush(self) -> None:
        """Wait until all are delivered."""
        while self._producer.flush(0.5):
            self._raise_failure()
        self._raise_failure()

    def _on_delivery(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None and self._failure is None:
            self._failure = error

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() and self._failure is None:
            self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is None:
            return
        if self._failure.code() in (KafkaError._MSG_TIMED_OUT, KafkaError._ALL_BROKERS_DOWN):
            raise KafkaUnreachableError(
                f"no Kafka broker at {self.bootstrap} took the records for {self.topic} "
                f"within {DELIVERY_TIMEOUT_MS // 1000} s: is it running?"
            )
        raise ProduceError(f"Kafka did not take a record for {self.topic}: {self._failure.str()}")
