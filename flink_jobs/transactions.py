"""Kafka's open transactions: which there are, which partitions they hold up, and an end to some of them.

A reader of committed records sees nothing behind the first open transaction of a partition: its last stable offset
stays before the end. librdkafka's admin client cannot list transactions; Flink's Kafka connector holds one that can, so
the functions that say so need Flink's JVM in this process (`prepare_process`).
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flink_jobs.kafka_admin import KafkaAdminError, KafkaUnreachableError, TopicMissingError, topic_ends
from flink_jobs.kafka_security import SHADED, java_properties
from flink_jobs.restore_points import java_cause
from flink_jobs.settings import Settings

Partition = tuple[str, int]
"""Topic and number."""

ONGOING, HANGING = "Ongoing", "Hanging"
COMPLETING = ("PrepareCommit", "PrepareAbort")
OPEN_STATES = (ONGOING, *COMPLETING)
_TIMEOUT_MS = 15_000
_IDS = re.compile(r"(.+)-\d+-\d+")
"""A transactional id of Flink's sink: its prefix, a subtask's number, a checkpoint's number."""


@dataclass(frozen=True)
class OpenTransaction:
    """A transaction that is neither committed nor aborted.

    Attributes:
        transactional_id: Its producer's; None of a hanging one, of which only the partitions know.
        producer_id: Kafka's number of the producer.
        epoch: Of the producer.
        state: Ongoing; PrepareCommit or PrepareAbort while the coordinator writes the markers; or Hanging: the
            coordinator knows nothing of it, so that it would stay for ever.
        started_ms: When it began; of a hanging one when it was last written to.
        timeout_ms: When older, Kafka aborts it; None of a hanging one.
        first_offsets: Offset of its first record in each partition; None where it has none there yet.
    """

    transactional_id: str | None
    producer_id: int
    epoch: int
    state: str
    started_ms: int | None
    timeout_ms: int | None
    first_offsets: Mapping[Partition, int | None] = field(default_factory=dict)

    @property
    def prefix(self) -> str | None:
        """What its sink's ids begin with; None if it is not of Flink's sink."""
        found = _IDS.fullmatch(self.transactional_id or "")
        return None if found is None else found[1]

    def blocks(self, blocked: Iterable["BlockedPartition"]) -> list["BlockedPartition"]:
        """Those of the partitions in which readers wait for it."""
        return [each for each in blocked if self.first_offsets.get((each.topic, each.partition)) is not None]


@dataclass(frozen=True)
class BlockedPartition:
    """A partition that readers of committed records cannot read to its end.

    Attributes:
        topic: Of the partition.
        partition: Its number.
        last_stable: Where they stop.
        end: Its end (high watermark).
    """

    topic: str
    partition: int
    last_stable: int
    end: int

    @property
    def waiting(self) -> int:
        """Records that wait, transaction markers included."""
        return self.end - self.last_stable


def blocked_partitions(settings: Settings, topics: Iterable[str]) -> list[BlockedPartition]:
    """Partitions whose last stable offset is before their end; topics that do not exist have none. Needs no JVM."""
    found = []
    for topic in sorted(set(topics)):
        place = settings.bootstrap, topic, settings.kafka_properties
        try:
            # in this order: what is committed in between shows as not blocked
            ends = topic_ends(*place)
            stable = topic_ends(*place, isolation="read_committed")
        except TopicMissingError:
            continue
        found += [
            BlockedPartition(topic, partition, stable[partition], end)
            for partition, end in sorted(ends.items())
            if stable[partition] < end
        ]
    return found


def open_transactions(
    settings: Settings, prefix: str | None = None, *, topics: Sequence[str] = ()
) -> list[OpenTransaction]:
    """Open transactions, the oldest first.

    Args:
        settings: Where Kafka is.
        prefix: Only those of the sink with this prefix of transactional ids; None means those of everybody.
        topics: Those of everybody with records in these topics as well, hanging ones included.

    Raises:
        KafkaAdminError: Kafka does not answer, or refuses.
    """
    looked_at = {(topic, number) for topic in topics for number in _numbers(settings, topic)}
    with _admin(settings) as admin:
        before = _producers(admin, sorted(looked_at))
        known = _known(admin)
        producers = _producers(admin, sorted(looked_at | {place for each in known for place in each.first_offsets}))
    found = [_with_offsets(each, producers) for each in known]
    found += _hanging(known, before, producers)
    wanted = set(topics)
    chosen = [
        each
        for each in found
        if prefix is None or each.prefix == prefix or any(topic in wanted for topic, _ in each.first_offsets)
    ]
    return sorted(chosen, key=lambda each: (each.started_ms or 0, each.transactional_id or ""))


def states_of(settings: Settings, transactional_ids: Iterable[str]) -> dict[str, str]:
    """What became of transactions, in Kafka's words, like Ongoing, CompleteCommit, CompleteAbort or Empty.

    Args:
        settings: Where Kafka is.
        transactional_ids: Theirs; one that Kafka does not know has no entry.

    Raises:
        KafkaAdminError: Kafka does not answer.
    """
    found: dict[str, str] = {}
    with _admin(settings) as admin:
        for name in sorted(set(transactional_ids)):
            with contextlib.suppress(KafkaAdminError):
                found[name] = str(_answer(admin.describeTransactions([name]).description(name)).state().toString())
    return found


def abort_transactions(settings: Settings, transactions: Iterable[OpenTransaction]) -> None:
    """Abort transactions: their records are never seen, and their producers can write no more.

    Raises:
        KafkaAdminError: Kafka refuses.
    """
    with _admin(settings) as admin:
        for each in transactions:
            if each.transactional_id is not None:
                # the coordinator aborts what the id has open before it lets a new producer take the id over
                _answer(admin.fenceProducers([each.transactional_id]).all())
            else:
                _write_abort_markers(admin, each)


def _write_abort_markers(admin: Any, hanging: OpenTransaction) -> None:
    """What `kafka-transactions.sh abort` does: nobody but the partitions knows of the transaction."""
    clients = _clients()
    for topic, number in hanging.first_offsets:
        place = clients.common.TopicPartition(topic, number)
        spec = clients.clients.admin.AbortTransactionSpec
        _answer(admin.abortTransaction(spec(place, hanging.producer_id, hanging.epoch, 0)).all())


def _known(admin: Any) -> list[OpenTransaction]:
    """What the coordinators know to be open."""
    clients = _clients().clients.admin
    open_ones = _java_set(*(clients.TransactionState.parse(state) for state in OPEN_STATES))
    # the coordinators keep every id for a week, and a sink takes new ones with each checkpoint: they leave those out
    listed = _answer(admin.listTransactions(clients.ListTransactionsOptions().filterStates(open_ones)).all())
    names = [str(each.transactionalId()) for each in listed]
    if not names:
        return []
    described = admin.describeTransactions(names)
    found = []
    for name in names:
        told = _answer(described.description(name))
        started, state = told.transactionStartTimeMs(), str(told.state().toString())
        if state in OPEN_STATES:  # it may have ended since it was listed
            found.append(OpenTransaction(
                name, int(told.producerId()), int(told.producerEpoch()), state,
                int(started.getAsLong()) if started.isPresent() else None, int(told.transactionTimeoutMs()),
                {(str(place.topic()), int(place.partition())): None for place in told.topicPartitions()},
            ))  # fmt: skip
    return found


@dataclass(frozen=True)
class _Producer:
    """A producer with an open transaction, as a partition's leader knows it."""

    producer_id: int
    epoch: int
    first_offset: int
    last_ms: int


def _producers(admin: Any, partitions: Sequence[Partition]) -> dict[Partition, list[_Producer]]:
    if not partitions:
        return {}
    place = _clients().common.TopicPartition
    described = admin.describeProducers([place(topic, number) for topic, number in partitions])
    found: dict[Partition, list[_Producer]] = {}
    for topic, number in partitions:
        for each in _answer(described.partitionResult(place(topic, number))).activeProducers():
            first = each.currentTransactionStartOffset()
            if first.isPresent():
                producer = _Producer(
                    int(each.producerId()), int(each.producerEpoch()), int(first.getAsLong()), int(each.lastTimestamp())
                )
                found.setdefault((topic, number), []).append(producer)
    return found


def _with_offsets(
    transaction: OpenTransaction, producers: Mapping[Partition, Sequence[_Producer]]
) -> OpenTransaction:
    offsets = {
        place: next(
            (each.first_offset for each in producers.get(place, ()) if each.producer_id == transaction.producer_id),
            None,
        )
        for place in transaction.first_offsets
    }
    return OpenTransaction(**{**vars(transaction), "first_offsets": offsets})


def _hanging(
    known: Iterable[OpenTransaction],
    before: Mapping[Partition, Sequence[_Producer]],
    after: Mapping[Partition, Sequence[_Producer]],
) -> list[OpenTransaction]:
    """Open in a partition before and after the coordinators were asked, and unknown to them."""
    ids = {each.producer_id for each in known}
    found: dict[int, OpenTransaction] = {}
    for place, those in before.items():
        still = {(each.producer_id, each.epoch, each.first_offset) for each in after.get(place, ())}
        for each in those:
            if each.producer_id in ids or (each.producer_id, each.epoch, each.first_offset) not in still:
                continue
            other = found.get(each.producer_id)
            offsets = {**(other.first_offsets if other else {}), place: each.first_offset}
            last_ms = max(each.last_ms, (other.started_ms or 0) if other else 0)
            found[each.producer_id] = OpenTransaction(
                None, each.producer_id, each.epoch, HANGING, last_ms, None, offsets
            )
    return list(found.values())


def _numbers(settings: Settings, topic: str) -> list[int]:
    try:
        return list(topic_ends(settings.bootstrap, topic, settings.kafka_properties))
    except TopicMissingError:
        return []


@contextmanager
def _admin(settings: Settings) -> Iterator[Any]:
    """Kafka's own admin client, as the connector has it, with the properties that the job has."""
    from py4j.protocol import Py4JJavaError
    from pyflink.java_gateway import get_gateway

    from flink_jobs.environment import allow_token_urls

    allow_token_urls(settings)
    jvm: Any = get_gateway().jvm
    properties = jvm.java.util.Properties()
    limits = {"default.api.timeout.ms": str(_TIMEOUT_MS), "request.timeout.ms": str(_TIMEOUT_MS // 2)}
    for name, value in {
        "bootstrap.servers": settings.bootstrap, **limits, **java_properties(settings.kafka_properties)
    }.items():  # fmt: skip
        properties.put(name, value)
    try:
        admin = _clients().clients.admin.Admin.create(properties)
    except Py4JJavaError as error:
        raise KafkaAdminError(f"the Kafka client properties are not valid: {java_cause(error)}") from error
    try:
        yield admin
    finally:
        admin.close(jvm.java.time.Duration.ofSeconds(1))


def _answer(future: Any) -> Any:
    from py4j.protocol import Py4JJavaError

    try:
        return future.get()
    except Py4JJavaError as error:
        cause = java_cause(error)
        if cause.startswith("TimeoutException"):
            raise KafkaUnreachableError(f"Kafka did not answer within {_TIMEOUT_MS / 1_000:g} s ({cause})") from error
        raise KafkaAdminError(f"Kafka refused: {cause}") from error


def _java_set(*objects: Any) -> Any:
    from pyflink.java_gateway import get_gateway

    found: Any = get_gateway().jvm.java.util.HashSet()
    for each in objects:
        found.add(each)
    return found


def _clients() -> Any:
    from pyflink.java_gateway import get_gateway

    found: Any = get_gateway().jvm
    for name in SHADED.split("."):
        found = getattr(found, name)
    return found
