"""What is asked of a Kafka cluster outside the job: topics, offsets, limits; each with a time limit.

In: bootstrap servers and client properties (librdkafka names, e.g. for SASL and TLS). Out: plain dictionaries
`partition -> offset`, or one of the errors below with one line that says what to do.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its own re-exports
    AdminClient,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

Properties = Mapping[str, str]
Isolation = Literal["read_committed", "read_uncommitted"]
Result = TypeVar("Result")

TIMEOUT_S = 15.0
EARLIEST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]
SILENT_LOG_LEVEL = 0  # librdkafka writes to stderr on its own; what matters reaches the error callback
UNREACHABLE_CODES = frozenset(
    {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE}
)


class KafkaAdminError(RuntimeError):
    """Kafka refused or did not understand a request; the message is one line."""


class KafkaUnreachableError(KafkaAdminError):
    """No broker answered in time."""


class TopicMissingError(KafkaAdminError):
    """A topic does not exist."""


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


def client_config(bootstrap: str, properties: Properties | None = None, **settings: Any) -> dict[str, Any]:
    """Configuration of a librdkafka client: quiet, reconnecting quickly, with the user's properties on top.

    Args:
        bootstrap: `host:port[,host:port...]`.
        properties: Security and other client properties by librdkafka's names; they win.
        **settings: Further properties with `_` for `.`.
    """
    return {
        "bootstrap.servers": bootstrap,
        "log_level": SILENT_LOG_LEVEL,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 500,
        **{name.replace("_", "."): value for name, value in settings.items()},
        **(properties or {}),
    }


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
    admin = _Admin(bootstrap, properties, timeout_s)
    existing = admin.partitions()
    missing = [spec for spec in wanted if spec.name not in existing]
    created = {spec.name for spec in missing if admin.create(spec)}
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
    admin = _Admin(bootstrap, properties, timeout_s)
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
    existing = _Admin(bootstrap, properties, timeout_s).partitions()
    return {topic: existing[topic] for topic in topics if topic in existing}


def topic_starts(
    bootstrap: str, topic: str, properties: Properties | None = None, *, timeout_s: float = TIMEOUT_S
) -> dict[int, int]:
    """Offset of the first record kept in each partition."""
    return _Admin(bootstrap, properties, timeout_s).offsets(topic, EARLIEST, "read_uncommitted")


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
    return _Admin(bootstrap, properties, timeout_s).offsets(topic, LATEST, isolation)


def offsets_for_time(
    bootstrap: str, topic: str, time_ms: int, properties: Properties | None = None, *, timeout_s: float = TIMEOUT_S
) -> dict[int, int]:
    """Offset of the first record whose Kafka timestamp is at or after `time_ms`; the end where there is none."""
    admin = _Admin(bootstrap, properties, timeout_s)
    ends = admin.offsets(topic, LATEST, "read_uncommitted")
    found = admin.offsets(topic, OffsetSpec.for_timestamp(time_ms), "read_uncommitted")
    return {partition: found[partition] if found[partition] >= 0 else end for partition, end in ends.items()}


def committed_offsets(
    bootstrap: str, group: str, topic: str, properties: Properties | None = None, *, timeout_s: float = TIMEOUT_S
) -> dict[int, int]:
    """Offsets the consumer group committed in the topic; partitions without a commit are left out."""
    admin = _Admin(bootstrap, properties, timeout_s)
    partitions = [TopicPartition(topic, number) for number in range(admin.partitions().get(topic, 0))]
    # A consumer that never joins the group: librdkafka 2.16's AdminClient crashes on the answer for an unknown group.
    consumer = Consumer(client_config(bootstrap, properties, group_id=group, isolation_level="read_committed"))
    try:
        return {p.partition: p.offset for p in consumer.committed(partitions, timeout=timeout_s) if p.offset >= 0}
    except KafkaException as error:
        raise admin.explained(error) from error
    finally:
        consumer.close()


def transaction_max_timeout_ms(
    bootstrap: str, properties: Properties | None = None, *, timeout_s: float = TIMEOUT_S
) -> int:
    """The longest transaction timeout the brokers allow (`transaction.max.timeout.ms`)."""
    admin = _Admin(bootstrap, properties, timeout_s)
    broker_id = min(admin.metadata().brokers)
    resource = ConfigResource(ResourceType.BROKER, str(broker_id))
    settings = admin.call(admin.client.describe_configs([resource])[resource])
    return int(settings["transaction.max.timeout.ms"].value)


def wait_for_broker(
    bootstrap: str, properties: Properties | None = None, *, timeout_s: float = 30.0, poll_s: float = 0.5
) -> None:
    """Return once a broker answers a metadata request.

    Raises:
        KafkaUnreachableError: None did within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    admin = _Admin(bootstrap, properties, poll_s)
    while True:
        try:
            admin.metadata()
        except KafkaUnreachableError as error:
            if time.monotonic() >= deadline:
                raise KafkaUnreachableError(str(error).replace(f"{poll_s:g} s", f"{timeout_s:g} s")) from error
        else:
            return


class _Admin:
    """An AdminClient whose every answer has a time limit and whose every failure is one line."""

    def __init__(self, bootstrap: str, properties: Properties | None, timeout_s: float) -> None:
        self.bootstrap = bootstrap
        self.timeout_s = timeout_s
        self.last_error: KafkaError | None = None
        config = client_config(bootstrap, properties)
        config["error_cb"] = self._remember
        try:
            self.client = AdminClient(config)
        except KafkaException as error:
            raise KafkaAdminError(f"the Kafka client properties are not valid: {_text(error.args[0])}") from error

    def _remember(self, error: KafkaError) -> None:
        # "All brokers down" follows every real reason and says less.
        if self.last_error is None or error.code() != KafkaError._ALL_BROKERS_DOWN:
            self.last_error = error

    def call(self, future: "Future[Result]") -> Result:
        try:
            return future.result(timeout=self.timeout_s)
        except (KafkaException, FutureTimeoutError) as error:
            raise self.explained(error) from error

    def metadata(self) -> Any:
        try:
            metadata = self.client.list_topics(timeout=self.timeout_s)
        except KafkaException as error:
            raise self.explained(error) from error
        if not metadata.brokers:
            raise KafkaUnreachableError(f"{self.bootstrap} answers but no broker is ready within {self.timeout_s:g} s")
        return metadata

    def partitions(self) -> dict[str, int]:
        topics = self.metadata().topics
        return {name: len(topic.partitions) for name, topic in topics.items() if topic.error is None}

    def create(self, spec: TopicSpec) -> bool:
        """Create the topic; False when another process was first."""
        topic = NewTopic(spec.name, num_partitions=spec.partitions, config=spec.wanted_settings)
        try:
            self.call(self.client.create_topics([topic], request_timeout=self.timeout_s)[spec.name])
        except KafkaAdminError as error:
            if _code(error) == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            raise
        return True

    def topic_settings(self, names: list[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        answers = self.client.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in names])
        return {
            resource.name: {name: entry.value for name, entry in self.call(future).items()}
            for resource, future in answers.items()
        }

    def offsets(self, topic: str, spec: OffsetSpec, isolation: Isolation) -> dict[int, int]:
        description = self.client.describe_topics(TopicCollection([topic]), request_timeout=self.timeout_s)[topic]
        try:
            partitions = [TopicPartition(topic, p.id) for p in self.call(description).partitions]
        except KafkaAdminError as error:
            if _code(error) == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise TopicMissingError(f"topic {topic} does not exist at {self.bootstrap}") from error
            raise
        level = IsolationLevel.READ_COMMITTED if isolation == "read_committed" else IsolationLevel.READ_UNCOMMITTED
        answers = self.client.list_offsets(
            dict.fromkeys(partitions, spec), isolation_level=level, request_timeout=self.timeout_s
        )
        return {partition.partition: self.call(future).offset for partition, future in answers.items()}

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self.timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise KafkaAdminError(f"waited {self.timeout_s:g} s in vain for {what} at {self.bootstrap}")
            time.sleep(0.05)

    def explained(self, error: BaseException) -> KafkaAdminError:
        """The failure as one line for the user."""
        kafka_error = error.args[0] if isinstance(error, KafkaException) else None
        if kafka_error is None or kafka_error.code() in UNREACHABLE_CODES:
            self.client.poll(0)
            reason = f" ({_text(self.last_error)})" if self.last_error else ""
            return KafkaUnreachableError(
                f"no Kafka broker answers at {self.bootstrap} within {self.timeout_s:g} s{reason}: "
                "is it running (`millrace up` starts a local one), are the address and the client properties right?"
            )
        return KafkaAdminError(f"Kafka at {self.bootstrap} refused: {_text(kafka_error)}")


def _differences(spec: TopicSpec, partitions: int, settings: Mapping[str, str]) -> tuple[str, ...]:
    found = [
        f"{spec.name}: {name} is {settings.get(name)}, wanted {value}"
        for name, value in spec.wanted_settings.items()
        if settings.get(name) != value
    ]
    if partitions != spec.partitions:
        found.insert(0, f"{spec.name}: has {partitions} partitions, wanted {spec.partitions}")
    return tuple(found)


def _code(error: BaseException) -> int | None:
    cause = error.__cause__
    return cause.args[0].code() if isinstance(cause, KafkaException) else None


def _text(error: KafkaError | None) -> str:
    return " ".join(error.str().split()) if error else ""
