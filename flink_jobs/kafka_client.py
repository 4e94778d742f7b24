"""A Kafka client that is quiet and whose every request has a time limit and fails with one line."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Literal, TypeVar

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its own re-exports
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from flink_jobs.kafka_security import SecretError, check_files, librdkafka_properties

Properties = Mapping[str, str]
Isolation = Literal["read_committed", "read_uncommitted"]
Result = TypeVar("Result")

SILENT_LOG_LEVEL = 0  # librdkafka writes to stderr on its own; what matters reaches the error callback
REFUSED_CODES = frozenset({KafkaError._AUTHENTICATION, KafkaError._SSL})
"""Who says so was reached, and will say it again."""
ACL_CODES = frozenset({
    KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    # whoever may not read a group is never told who coordinates it
    KafkaError._WAIT_COORD,
})  # fmt: skip
UNREACHABLE_CODES = frozenset(
    {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE}
)

_NO_CONCERN_CODES = frozenset(
    # the last one: who reads partitions that it chose itself needs no group, but librdkafka asks for one
    {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError.GROUP_AUTHORIZATION_FAILED}
)
LEADERLESS_CODES = frozenset({KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE})


class KafkaAdminError(RuntimeError):
    """Kafka refused or did not understand a request; the message is one line."""


class KafkaUnreachableError(KafkaAdminError):
    """No broker answered in time."""


class KafkaLoginError(KafkaAdminError):
    """The broker does not let us in, or is not who it should be."""


class TopicMissingError(KafkaAdminError):
    """A topic does not exist."""


def ends_reading(error: KafkaError) -> bool:
    """Whether a reader of partitions that it chose itself cannot go on."""
    return not error.retriable() and error.code() not in _NO_CONCERN_CODES


def client_config(bootstrap: str, properties: Properties | None = None, **settings: Any) -> dict[str, Any]:
    """Configuration of a librdkafka client: quiet, reconnecting quickly, with the user's properties on top.

    Args:
        bootstrap: `host:port[,host:port...]`.
        properties: Security and other client properties by librdkafka's names; they win. References to secrets in
            them are followed.
        **settings: Further properties with `_` for `.`.
    """
    return {
        "bootstrap.servers": bootstrap,
        "log_level": SILENT_LOG_LEVEL,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 500,
        **{name.replace("_", "."): value for name, value in settings.items()},
        **librdkafka_properties(properties or {}),
    }


class Admin:
    """An AdminClient whose every answer has a time limit and whose every failure is one line."""

    def __init__(self, bootstrap: str, properties: Properties | None, timeout_s: float) -> None:
        self.bootstrap = bootstrap
        self.timeout_s = timeout_s
        self.last_error: KafkaError | None = None
        try:
            check_files(properties or {})
            config = {**client_config(bootstrap, properties), "error_cb": self._remember}
            self.client = AdminClient(config)
        except SecretError as error:
            raise KafkaLoginError(str(error)) from error
        except KafkaException as error:
            raise KafkaAdminError(f"the Kafka client properties are not valid: {_text(error.args[0])}") from error

    def _remember(self, error: KafkaError) -> None:
        # "All brokers down" follows every real reason and says less.
        if self.last_error is None or error.code() != KafkaError._ALL_BROKERS_DOWN:
            self.last_error = error

    def call(self, future: "Future[Result]") -> Result:
        """The answer of a request."""
        try:
            return future.result(timeout=self.timeout_s)
        except (KafkaException, FutureTimeoutError) as error:
            raise self.explained(error) from error

    def metadata(self) -> Any:
        """Brokers and topics of the cluster; at least one broker is ready."""
        try:
            metadata = self.client.list_topics(timeout=self.timeout_s)
        except KafkaException as error:
            raise self.explained(error) from error
        if not metadata.brokers:
            raise KafkaUnreachableError(f"{self.bootstrap} answers but no broker is ready within {self.timeout_s:g} s")
        return metadata

    def partitions(self) -> dict[str, int]:
        """Number of partitions of every topic there is."""
        topics = self.metadata().topics
        return {name: len(topic.partitions) for name, topic in topics.items() if topic.error is None}

    def create(self, name: str, partitions: int, settings: dict[str, str]) -> bool:
        """Create the topic; False when another process was first."""
        topic = NewTopic(name, num_partitions=partitions, config=settings)
        try:
            self.call(self.client.create_topics([topic], request_timeout=self.timeout_s)[name])
        except KafkaAdminError as error:
            if error_code(error) == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            raise
        return True

    def topic_settings(self, names: list[str]) -> dict[str, dict[str, str]]:
        """Settings of the topics by Kafka's names, defaults included."""
        if not names:
            return {}
        answers = self.client.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in names])
        return {
            resource.name: {name: entry.value for name, entry in self.call(future).items()}
            for resource, future in answers.items()
        }

    def offsets(self, topic: str, spec: OffsetSpec, isolation: Isolation) -> dict[int, int]:
        """An offset of each partition of the topic; -1 where there is none."""
        description = self.client.describe_topics(TopicCollection([topic]), request_timeout=self.timeout_s)[topic]
        try:
            partitions = [TopicPartition(topic, p.id) for p in self.call(description).partitions]
        except KafkaAdminError as error:
            if error_code(error) == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise TopicMissingError(f"topic {topic} does not exist at {self.bootstrap}") from error
            raise
        level = IsolationLevel.READ_COMMITTED if isolation == "read_committed" else IsolationLevel.READ_UNCOMMITTED
        deadline = time.monotonic() + self.timeout_s
        while True:
            answers = self.client.list_offsets(
                dict.fromkeys(partitions, spec), isolation_level=level, request_timeout=self.timeout_s
            )
            try:
                return {partition.partition: self.call(future).offset for partition, future in answers.items()}
            except KafkaAdminError as error:
                # the partitions of a topic just made are known before their leader knows of them
                if error_code(error) not in LEADERLESS_CODES or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Return once the condition holds; `what` says in the error what was waited for."""
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
            if self.last_error is not None and _is_refusal(self.last_error):
                return KafkaLoginError(f"Kafka at {self.bootstrap} cannot be logged in to: {_text(self.last_error)}")
            reason = f" ({_text(self.last_error)})" if self.last_error else ""
            return KafkaUnreachableError(
                f"no Kafka broker answers at {self.bootstrap} within {self.timeout_s:g} s{reason}: "
                "is it running (`millrace up` starts a local one), are the address and the client properties right?"
            )
        hint = ""
        if kafka_error.code() in ACL_CODES:
            hint = "; `millrace doctor --acls PIPELINE` says what must be allowed"
        return KafkaAdminError(f"Kafka at {self.bootstrap} refused: {_text(kafka_error)}{hint}")


def error_code(error: BaseException) -> int | None:
    """Kafka's code of the error this one was raised from; None when it was no error of Kafka's."""
    cause = error.__cause__
    return cause.args[0].code() if isinstance(cause, KafkaException) else None


def _is_refusal(error: KafkaError) -> bool:
    # with TLS 1.3 a client learns only after the handshake that its certificate was not taken
    return error.code() in REFUSED_CODES or "SSL alert" in error.str()


def _text(error: KafkaError | None) -> str:
    return " ".join(error.str().split()) if error else ""
