"""Keeps an online store in step with a topic of features: what is committed there is written, in batches.

A store that does not answer holds up the topic's reading, with growing pauses, and loses nothing: an offset is
committed when what is before it is in the store. A partition that the store does not have yet, be it new, emptied or
made anew, is read from its beginning; the topic is a table, so that is all there is to know.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from flink_jobs.decoding import value_reader
from flink_jobs.feature_store import FeatureRow, FeatureStore, StoreUnavailableError
from flink_jobs.kafka_admin import KafkaAdminError, client_config
from flink_jobs.kafka_client import ends_reading
from flink_jobs.settings import Settings
from flink_jobs.topics import store_group_id
from udfs.feast_layout import FeastLayout
from udfs.output_fields import features_of
from udfs.pipeline import Pipeline
from udfs.receipts import HEADER

READ_RECORDS = 2_000
WAIT_S = 0.1
COMMIT_EVERY_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
AHEAD_MS = 3_600_000
"""An event that is dated further ahead of this machine's clock is not written: no later one would be newer."""
_AGES_KEPT = 100_000
_PIPELINE, _EVENT_TIME, _OFFSET = f"{HEADER}pipeline", f"{HEADER}event-time", f"{HEADER}offset"


@dataclass
class SyncCounts:
    """What was done.

    Attributes:
        read: Records of the pipeline's features.
        written: Rows that were put into the store.
        not_newer: Rows that were not, for what is there is newer; those of one batch count once an entity.
        left_out: Records that no row can be made of, by why.
        waited_s: How long the store did not answer, in all.
        ages_ms: How old events were when they could be read in the store, the last 100,000.
    """

    read: int = 0
    written: int = 0
    not_newer: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    waited_s: float = 0.0
    ages_ms: deque[int] = field(default_factory=lambda: deque(maxlen=_AGES_KEPT))


class StoreSync:
    """Writes the features of a pipeline into a store.

    Args:
        pipeline: One with a topic of features.
        settings: Say the broker.
        store: Where they go.
        url: The store's; each has a consumer group of its own.
        from_start: Read all of the topic again.
        tell: Told in a line when the store stops answering and when it answers again.
        now_ms: This machine's clock.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        store: FeatureStore,
        url: str,
        *,
        from_start: bool = False,
        tell: Callable[[str], None] = lambda _: None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        values = features_of(pipeline)
        self._topic, self._store, self._from_start, self._tell, self._now_ms = (
            values.topic, store, from_start, tell, now_ms,
        )  # fmt: skip
        self._rows = FeatureRows(pipeline, settings)
        self.counts = self._rows.counts
        self._filled = store.filled_partitions(self._topic)
        self._begun: set[int] = set()
        self._ended: set[int] = set()
        self._done: dict[int, int] = {}
        self._committed_at = time.monotonic()
        self._consumer = Consumer(
            client_config(
                settings.bootstrap,
                settings.kafka_properties,
                group_id=store_group_id(pipeline, url),
                isolation_level="read_committed",
                enable_auto_commit=False,
                enable_partition_eof=True,
                auto_offset_reset="earliest",
            )
        )
        self._consumer.subscribe([self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke)

    def run(self, should_stop: Callable[[], bool], *, until_caught_up: bool = False) -> SyncCounts:
        """Go on until told to stop, or until all that is visible in the topic is in the store.

        Raises:
            KafkaAdminError: Kafka does not let us read.
            StoreRefusedError: The store never takes it.
        """
        try:
            while not should_stop():
                messages = self._read()
                if messages:
                    self._take(messages, should_stop)
                elif until_caught_up and self._is_caught_up():
                    break
                if time.monotonic() - self._committed_at >= COMMIT_EVERY_S:
                    self._commit(asynchronous=True)
        finally:
            self._commit(asynchronous=False)
            self._consumer.close()
            self._store.close()
        return self.counts

    def _read(self) -> list[Message]:
        try:
            first = self._consumer.poll(WAIT_S)
            messages = [] if first is None else [first, *self._consumer.consume(READ_RECORDS - 1, timeout=0)]
        except KafkaException as error:
            raise KafkaAdminError(f"Kafka refused to be read: {error.args[0].str()}") from error
        return [message for message in messages if self._is_record(message)]

    def _is_record(self, message: Message) -> bool:
        partition, error = int(message.partition() or 0), message.error()
        if error is None:
            self._ended.discard(partition)
            return True
        if error.code() == KafkaError._PARTITION_EOF:
            self._ended.add(partition)
        elif ends_reading(error) or error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            raise KafkaAdminError(f"{self._topic} cannot be read: {error.str()}")
        return False

    def _is_caught_up(self) -> bool:
        mine = {place.partition for place in self._consumer.assignment()}
        return bool(mine) and mine <= self._ended

    def _take(self, messages: list[Message], should_stop: Callable[[], bool]) -> None:
        """Write what was read, however long the store takes to answer."""
        pause_s, began, is_down, has_lost, written = FIRST_PAUSE_S, time.monotonic(), False, False, 0
        rows = self._rows.of(messages, self._now_ms())
        while True:
            try:
                has_lost = is_down and not self._filled <= self._store.filled_partitions(self._topic)
                if rows and not has_lost:
                    written = self._store.write(rows, self._now_ms())
                break
            except StoreUnavailableError as error:
                if not is_down:
                    is_down = True
                    self._tell(f"{error}; waiting for it, nothing is lost")
                if should_stop():
                    return
                came = self._wait(pause_s)
                messages, rows = messages + came, self._rows.of(came, self._now_ms(), rows)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        if is_down:
            self.counts.waited_s += time.monotonic() - began
            self._tell(f"the store answers again after {time.monotonic() - began:.1f} s")
            self._consumer.resume(self._consumer.assignment())
        if has_lost:
            self._begin_anew()  # what was read comes again, too
        else:
            self._note(messages, rows, written)

    def _note(self, messages: Sequence[Message], rows: Sequence[FeatureRow], written: int) -> None:
        now_ms, counts = self._now_ms(), self.counts
        counts.read += len(messages)
        counts.written += written
        counts.not_newer += len(rows) - written
        counts.ages_ms.extend(now_ms - row.event_ms for row in rows)
        for message in messages:
            self._done[int(message.partition() or 0)] = int(message.offset() or 0) + 1
        new = sorted(self._done.keys() - self._filled)
        if new:
            # first the offset, from the beginning on, then that it counts: a store that is killed between begins anew
            self._commit(asynchronous=False)
            try:
                self._store.note_filled(self._topic, new)
            except StoreUnavailableError:
                return  # once more with the next batch
            self._filled.update(new)

    def _wait(self, pause_s: float) -> list[Message]:
        """Let the group know that we live, but have nothing sent."""
        self._consumer.pause(self._consumer.assignment())
        message = self._consumer.poll(pause_s)
        return [] if message is None or not self._is_record(message) else [message]

    def _begin_anew(self) -> None:
        """Read all again: the store has come back without what it had."""
        self._tell("the store is empty: reading all of the topic again")
        self._filled, self._done, self._ended = set(), {}, set()
        mine = self._consumer.assignment()
        self._consumer.assign([TopicPartition(place.topic, place.partition, OFFSET_BEGINNING) for place in mine])

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        for place in places:
            is_new = place.partition not in self._filled
            if is_new or (self._from_start and place.partition not in self._begun):
                place.offset = OFFSET_BEGINNING
            self._begun.add(place.partition)
            self._ended.discard(place.partition)
        consumer.assign(places)

    def _on_revoke(self, _consumer: Consumer, places: list[TopicPartition]) -> None:
        self._commit(asynchronous=False)
        for place in places:
            self._done.pop(place.partition, None)
            self._ended.discard(place.partition)

    def _commit(self, *, asynchronous: bool) -> None:
        """What others than us read again does no harm, so a commit that fails is not tried again."""
        self._committed_at = time.monotonic()
        mine = {place.partition for place in self._consumer.assignment()}
        done = {partition: offset for partition, offset in self._done.items() if partition in mine}
        if not done:
            return
        offsets: Any = [TopicPartition(self._topic, partition, offset) for partition, offset in done.items()]
        try:
            if asynchronous:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            else:
                self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException:
            return


class FeatureRows:
    """Records of a topic of features as rows of a store.

    Attributes:
        counts: What was left out is counted there.
    """

    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        self._name, self._entity = pipeline.name.encode(), pipeline.events.entity
        self._layout = FeastLayout.of(pipeline)
        self._read, self.counts = value_reader(features_of(pipeline), settings), SyncCounts()

    def of(self, messages: Sequence[Message], now_ms: int, before: Sequence[FeatureRow] = ()) -> list[FeatureRow]:
        """The newest row of each entity, in no order, among those of records and some from before."""
        newest = {row.key: row for row in before}
        for message in messages:
            row = self._row(message, now_ms)
            if row is None:
                continue
            known = newest.get(row.key)
            if known is None or (row.event_ms, row.offset) >= (known.event_ms, known.offset):
                newest[row.key] = row
        return list(newest.values())

    def _row(self, message: Message, now_ms: int) -> FeatureRow | None:
        headers: Any = message.headers() or ()
        told = dict(headers)
        if told.get(_PIPELINE) != self._name:
            self.counts.left_out["of another pipeline"] += 1
            return None
        try:
            event_ms, offset = int(told[_EVENT_TIME]), int(told[_OFFSET])
            value = self._read(message.value() or b"")
            row = FeatureRow(
                self._layout.entity_key(str(value[self._entity])),
                event_ms,
                offset,
                self._layout.packed(value["features"]),
            )
        except (KeyError, ValueError, TypeError, AttributeError):
            self.counts.left_out["no features of this pipeline"] += 1
            return None
        if event_ms > now_ms + AHEAD_MS:
            self.counts.left_out["dated more than an hour ahead"] += 1
            return None
        return row
