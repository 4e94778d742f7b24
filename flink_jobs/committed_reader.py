"""Reads topics from outside the job, committed records only; in no consumer group, so it disturbs nobody."""

import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from flink_jobs.kafka_admin import KafkaAdminError, Properties, TopicMissingError, client_config, topic_partitions
from flink_jobs.kafka_client import ends_reading
from udfs.wire_formats import HEADER

BEGINNING, END = -2, -1  # Kafka's logical offsets
BATCH = 1_000
FETCH_WAIT_MS = 100


class CommittedReader:
    """Committed records of some topics, as they become visible.

    Args:
        bootstrap: Where the brokers are.
        topics: Existing topics.
        properties: Client properties.
        from_start: Begin with the first record kept; otherwise with what comes from now on.
        begin: Offsets to begin with by partition, the same for all topics; they win over `from_start`.

    Raises:
        TopicMissingError: One of the topics does not exist.
    """

    def __init__(
        self,
        bootstrap: str,
        topics: Iterable[str],
        properties: Properties | None = None,
        *,
        from_start: bool = True,
        begin: Mapping[int, int] | None = None,
    ) -> None:
        wanted = list(topics)
        found = topic_partitions(bootstrap, wanted, properties)
        for topic in wanted:
            if topic not in found:
                raise TopicMissingError(f"topic {topic} does not exist at {bootstrap}")
        self._partitions = {(topic, number) for topic in wanted for number in range(found[topic])}
        self._ended: set[tuple[str, int]] = set()
        config = client_config(
            bootstrap,
            properties,
            group_id=f"millrace-reader-{uuid.uuid4().hex}",
            isolation_level="read_committed",
            enable_auto_commit=False,
            enable_partition_eof=True,
            fetch_wait_max_ms=FETCH_WAIT_MS,
        )
        self._consumer = Consumer(config)
        start, places = BEGINNING if from_start else END, begin or {}
        self._consumer.assign(
            [TopicPartition(topic, number, places.get(number, start)) for topic, number in sorted(self._partitions)]
        )

    def read(self, wait_s: float) -> list[Message]:
        """What is visible now, at most a thousand records; waits for the first one.

        Raises:
            KafkaAdminError: Kafka refuses to let us read.
        """
        try:
            # one by one first: `consume` alone would wait for a whole batch, and latency is measured here
            first = self._consumer.poll(wait_s)
            messages = [] if first is None else [first, *self._consumer.consume(BATCH, timeout=0)]
        except KafkaException as error:
            raise KafkaAdminError(f"Kafka refused to be read: {error.args[0].str()}") from error
        return [message for message in messages if self._is_record(message)]

    @property
    def at_end(self) -> bool:
        """Whether everything that was visible has been read."""
        return self._ended == self._partitions

    def close(self) -> None:
        """End the connection."""
        self._consumer.close()

    def _is_record(self, message: Message) -> bool:
        place = (str(message.topic()), int(message.partition() or 0))
        error = message.error()
        if error is None:
            self._ended.discard(place)
            return True
        if error.code() == KafkaError._PARTITION_EOF:
            self._ended.add(place)
        elif ends_reading(error):
            raise KafkaAdminError(f"{place[0]} cannot be read: {error.str()}")
        return False


def read_all(
    bootstrap: str, topics: Iterable[str], properties: Properties | None = None, *, timeout_s: float = 120.0
) -> Iterable[Message]:
    """Every committed record of the topics, once.

    Raises:
        KafkaAdminError: The ends were not reached within `timeout_s` of silence.
    """
    reader = CommittedReader(bootstrap, topics, properties)
    deadline = time.monotonic() + timeout_s
    try:
        while not reader.at_end:
            if messages := reader.read(0.2):
                deadline = time.monotonic() + timeout_s
                yield from messages
            elif time.monotonic() > deadline:
                raise KafkaAdminError(f"{bootstrap} did not let us read to the end within {timeout_s:g} s")
    finally:
        reader.close()


def receipt(message: Message) -> dict[str, str]:
    """Millrace's headers of a record, without their prefix; {} when somebody else wrote it."""
    headers: Any = message.headers() or []
    return {
        name.removeprefix(HEADER): (value or b"").decode("utf-8", "replace")
        for name, value in headers
        if name.startswith(HEADER)
    }
