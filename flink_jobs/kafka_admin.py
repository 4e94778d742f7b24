"""What is asked of a Kafka cluster outside the job: topics, offsets, limits; each with a time limit.

In: bootstrap servers and client properties (librdkafka names, e.g. for SASL and TLS). Out: plain dictionaries
`partition -> offset`, or one of the errors below with one line that says what to do.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its own re-exports
    ConfigResource,
    NewPartitions,
    OffsetSpec,
    ResourceType,
)

from flink_jobs.kafka_client import (
    Admin,
    Isolation,
    KafkaAdminError,
    KafkaUnreachableError,
    Properties,
    TopicMissingError,
    client_config,
    error_code,
)

__all__ = [
    "KafkaAdminError", "KafkaUnreachableError", "Properties", "TopicMissingError", "TopicOutcome",
    "TopicSpec", "client_config", "committed_offsets", "create_topics", "delete_topics", "offsets_for_time",
    "reset_committed_offsets", "retention_ms", "topic_ends", "topic_partitions", "topic_starts",
    "transaction_max_timeout_ms", "wait_for_broker",
]  # fmt: skip

TIMEOUT_S = 15.0
EARLIEST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class TopicSpec:
    """A topic as it should be.

    Attributes:
        name: Its name.
        partitions: How many partitions.
        retention_ms: How long records are kept, -1 for ever; None leaves it to the broker.
        settings: Further topic settings by Kafka's names, e.g. `{"cleanup.policy": "compact"}`.
    """

    name: str
    partitions: int
    retention_ms: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def wanted_settings(self) -> dict[str, str]:
        """All settings by Kafka's names."""
        retention = {} if self.retention_ms is None else {"retention.ms": str(self.retention_ms)}
        return {**self.settings, **retention}


@dataclass(frozen=True)
class TopicOutcome:
    """What `create_topics` found or did; `differences` are sentences about what was left as it is."""

    name: str
    created: bool
    partitions_added: int
    differences: tuple[str, ...]


def create_topics(
    bootstrap: str,
    specs: Iterable[TopicSpec],
    properties: Properties | None = None,
    *,
    add_partitions: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> list[TopicOutcome]:
    """Create the topics that do not exist and say how the others differ; running it again changes nothing.

    Args:
        bootstrap: Where the brokers are.
        specs: The topics as they should be.
        properties: Client properties.
        add_partitions: Let a topic with too few partitions have more. Keys then move to other partitions, so records
            of one entity are no longer in order across the change: only when the user asks for it.
        timeout_s: Limit for each request.
    """
    wanted = list(specs)
    admin = Admin(bootstrap, properties, timeout_s)
    existing = admin.partitions()
    missing = [spec for spec in wanted if spec.name not in existing]
    created = {spec.name for spec in missing if admin.create(spec.name, spec.partitions, spec.wanted_settings)}
    settings = admin.topic_settings([spec.name for spec in wanted if spec.name not in created])
    admin.wait_until(
        lambda: all(admin.partitions().get(spec.name, 0) > 0 for spec in wanted), "the new topics to have leaders"
    )
    outcomes = []
    for spec in wanted:
        found = existing.get(spec.name, spec.partitions)
        added = spec.partitions - found if add_partitions and found < spec.partitions else 0
        if added:
            admin.call(admin.client.create_partitions([NewPartitions(spec.name, spec.partitions)])[spec.name])
        differences = _differences(spec, found + added, settings.get(spec.name, spec.wanted_settings))
        outcomes.append(TopicOutcome(spec.name, spec.name in created, added, differences))
    return outcomes


def delete_topics(
    bootstrap: str, names: Iterable[str], properties: Properties | None = None, *, timeout_s: float = TIMEOUT_S
) -> list[str]:
    """Delete those of the topics that exist, wait until they are gone, and return their names."""
    admin = Admin(bootstrap, properties, timeout_s)
    existing = admin.partitions()
    present = [name for name in names if name in existing]
    if present:
        for future in admin.client.delete_topics(present).values():
            admin.call(future)
        admin.wait_until(lambda: not set(present) & admin.partitions().keys(), "the deleted topics to go")
    return present


def topic_partitions(
    bootstrap: str, topics: Iterable[str], properties: Properties | None = None, *, timeout_s: float = TIMEOUT_S
) -> dict[str, int]:
    """Number of partitions of each topic that exists; topics that do not exist are left out."""
    existing = Admin(bootstrap, properties, timeout_s).partitions()
    return {topic: existing[topic] for topic in topics if topic in existing}


def topic_starts(
    bootstrap: str, topic: str, properties: Properties | None = None, *, timeout_s: float = TIMEOUT_S
) -> dict[int, int]:
    """Offset of the first record kept in each partition."""
    return Admin(bootstrap, properties, timeout_s).offsets(topic, EARLIEST, "read_uncommitted")


def topic_ends(
    bootstrap: str,
    topic: str,
    properties: Properties | None = None,
    *,
    isolation: Isolation = "read_uncommitted",
    timeout_s: float = TIMEOUT_S,
) -> dict[int, int]:
    """Offset after the last record of each partition.

    Args:
        bootstrap: Where the brokers are.
        topic: The topic.
        properties: Client properties.
        isolation: `read_committed` ends before the first open transaction. Offsets also count transaction markers, so
            a difference of offsets is not a number of records.
        timeout_s: Limit for each request.
    """
    return Admin(bootstrap, properties, timeout_s).offsets(topic, LATEST, isolation)


def offsets_for_time(
    bootstrap: str, topic: str, time_ms: int, properties: Properties | None = None, *, timeout_s: float = TIMEOUT_S
) -> dict[int, int]:
    """Offset of the first record whose Kafka timestamp is at or after `time_ms`; the end where there is none."""
    admin = Admin(bootstrap, properties, timeout_s)
    ends = admin.offsets(topic, LATEST, "read_uncommitted")
    found = admin.offsets(topic, OffsetSpec.for_timestamp(time_ms), "read_uncommitted")
    return {partition: found[partition] if found[partition] >= 0 else end for partition, end in ends.items()}


def committed_offsets(
    bootstrap: str, group: str, topic: str, properties: Properties | None = None, *, timeout_s: float = TIMEOUT_S
) -> dict[int, int]:
    """Offsets the consumer group committed in the topic; partitions without a commit are left out."""
    admin = Admin(bootstrap, properties, timeout_s)
    partitions = [TopicPartition(topic, number) for number in range(admin.partitions().get(topic, 0))]
    # A consumer that never joins the group: librdkafka 2.16's AdminClient crashes on the answer for an unknown group.
    consumer = Consumer(client_config(bootstrap, properties, group_id=group, isolation_level="read_committed"))
    try:
        return {p.partition: p.offset for p in consumer.committed(partitions, timeout=timeout_s) if p.offset >= 0}
    except KafkaException as error:
        _check_group(admin, group)
        raise admin.explained(error) from error
    finally:
        consumer.close()


def check_group(bootstrap: str, group: str, properties: Properties | None = None) -> None:
    """Say at once that a group is not for us.

    Raises:
        KafkaAdminError: The broker does not let us use it.
    """
    _check_group(Admin(bootstrap, properties, TIMEOUT_S), group)


def _check_group(admin: Admin, group: str) -> None:
    """A consumer is never told who coordinates a group that is not for it, and asks for 45 s."""
    try:
        admin.call(admin.client.describe_consumer_groups([group], request_timeout=admin.timeout_s)[group])
    except KafkaAdminError as error:
        if error_code(error) == KafkaError.GROUP_AUTHORIZATION_FAILED:
            raise


def reset_committed_offsets(
    bootstrap: str,
    group: str,
    topic: str,
    properties: Properties | None = None,
    *,
    to: Mapping[int, int] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Commit an offset for every partition, 0 where `to` names none, so that nothing is left of a former run."""
    admin = Admin(bootstrap, properties, timeout_s)
    _check_group(admin, group)
    offsets, count = to or {}, admin.partitions().get(topic, 0)
    partitions = [TopicPartition(topic, number, offsets.get(number, 0)) for number in range(count)]
    consumer = Consumer(client_config(bootstrap, properties, group_id=group, isolation_level="read_committed"))
    try:
        consumer.commit(offsets=partitions, asynchronous=False)
    except KafkaException as error:
        raise admin.explained(error) from error
    finally:
        consumer.close()


def transaction_max_timeout_ms(
    bootstrap: str, properties: Properties | None = None, *, timeout_s: float = TIMEOUT_S
) -> int:
    """The longest transaction timeout the brokers allow (`transaction.max.timeout.ms`)."""
    admin = Admin(bootstrap, properties, timeout_s)
    broker_id = min(admin.metadata().brokers)
    resource = ConfigResource(ResourceType.BROKER, str(broker_id))
    settings = admin.call(admin.client.describe_configs([resource])[resource])
    return int(settings["transaction.max.timeout.ms"].value)


def retention_ms(
    bootstrap: str, topic: str, properties: Properties | None = None, *, timeout_s: float = TIMEOUT_S
) -> int:
    """How long a topic keeps records, by their timestamps; -1 is for ever."""
    return int(Admin(bootstrap, properties, timeout_s).topic_settings([topic])[topic]["retention.ms"])


def wait_for_broker(
    bootstrap: str, properties: Properties | None = None, *, timeout_s: float = 30.0, poll_s: float = 0.5
) -> None:
    """Return once a broker answers a metadata request.

    Raises:
        KafkaUnreachableError: None did within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    admin = Admin(bootstrap, properties, poll_s)
    while True:
        try:
            admin.metadata()
        except KafkaUnreachableError as error:
            if time.monotonic() >= deadline:
                raise KafkaUnreachableError(str(error).replace(f"{poll_s:g} s", f"{timeout_s:g} s")) from error
        else:
            return


def _differences(spec: TopicSpec, partitions: int, settings: Mapping[str, str]) -> tuple[str, ...]:
    found = [
        f"{spec.name}: {name} is {settings.get(name)}, wanted {value}"
        for name, value in spec.wanted_settings.items()
        if settings.get(name) != value
    ]
    if partitions != spec.partitions:
        found.insert(0, f"{spec.name}: has {partitions} partitions, wanted {spec.partitions}")
    return tuple(found)
