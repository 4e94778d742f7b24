"""A topic as history: committed records of each partition by offset, from a start to where the topic ends now."""

import gc
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from flink_jobs.console import CommandError
from flink_jobs.decoding import event_decoder
from flink_jobs.history import HistoryBlock, Piece, letters_of
from flink_jobs.kafka_admin import (
    KafkaAdminError,
    Properties,
    client_config,
    offsets_for_time,
    topic_ends,
    topic_starts,
)
from flink_jobs.kafka_client import ends_reading
from flink_jobs.start_position import parse_start
from flink_jobs.topics import parse_offsets
from udfs.cells import TEXT, Cells, new_cells, scan_schema, with_required
from udfs.confluent_wire import HEAD_BYTES
from udfs.event_blocks import decode_block, fields_needed, fields_of_cells
from udfs.event_keys import events_key_reader
from udfs.formats import Json, JsonSchema
from udfs.json_scan import check_keys, scan_json
from udfs.lookup_join import RowsSeen
from udfs.plan import FeaturePlan
from udfs.raw_record import RecordParts

PIECE_RECORDS = 262_144
CONSUME_RECORDS = 10_000
QUEUE_KBYTES = 8_192  # a piece ends anywhere: what was fetched beyond it is thrown away
FETCH_BYTES = 2_097_152
FETCH_BACKOFF_MS = 1  # by default a full queue stops fetching for a second
SILENCE_S = 60.0
EARLIEST = "earliest"
RowsAt = Callable[[Sequence[Any], int, npt.NDArray[np.int64]], Mapping[str, Sequence[Any]]]
"""Events of a partition and their (n,) offsets -> of each table of lookups, the rows that they see."""


def topic_pieces(
    bootstrap: str, topic: str, properties: Properties | None, start: str = EARLIEST
) -> list[Piece]:
    """The topic from a start to its present end, partition after partition.

    Args:
        bootstrap: Where the brokers are.
        topic: An existing topic.
        properties: Client properties.
        start: earliest, a time of arrival (ISO or ms), or offsets as `partition:offset,...`; partitions that are not
            named begin at their first record.

    Raises:
        CommandError: The start is none of these.
    """
    ends = topic_ends(bootstrap, topic, properties, isolation="read_committed")
    return pieces_between(topic, topic_begins(bootstrap, topic, properties, start), ends)


def pieces_between(topic: str, begins: Mapping[int, int], ends: Mapping[int, int]) -> list[Piece]:
    """The records of each partition from an offset on and before another."""
    pieces = []
    for partition in sorted(ends):
        for begin in range(begins[partition], ends[partition], PIECE_RECORDS):
            end = min(begin + PIECE_RECORDS, ends[partition])
            pieces.append(Piece("topic", topic, begin, end, partition=partition, weight=end - begin))
    return pieces


def topic_begins(bootstrap: str, topic: str, properties: Properties | None, start: str) -> dict[int, int]:
    """Offset of the first record of each partition from a start on, as `topic_pieces` takes it."""
    first = topic_starts(bootstrap, topic, properties)
    return {**first, **begin_offsets(bootstrap, topic, properties, start, first)}


def begin_offsets(
    bootstrap: str,
    topic: str,
    properties: Properties | None,
    start: str,
    first: Mapping[int, int],
    option: str = "--start",
) -> dict[int, int]:
    """Offsets that a user's start says, by partition; those it does not name begin at their first record.

    Args:
        bootstrap: Where the brokers are.
        topic: An existing topic.
        properties: Client properties.
        start: See `topic_pieces`.
        first: Offset of the first record kept in each partition.
        option: What errors call the start.

    Raises:
        CommandError: It is no start.
    """
    if start == EARLIEST:
        return {}
    if ":" in start and all(part.replace(":", "", 1).strip().isdecimal() for part in start.split(",")):
        offsets = parse_offsets(start)
        if unknown := sorted(set(offsets) - set(first)):
            raise CommandError(f"{option} names partition {unknown[0]}: {topic} has {len(first)} partitions, from 0 on")
        return {partition: max(offset, first[partition]) for partition, offset in offsets.items()}
    try:
        time_ms = int(parse_start(start))
    except (CommandError, ValueError):
        raise CommandError(
            f"{option} is {start!r}: write earliest, a time like 2026-01-31T12:00:00Z, milliseconds since 1970, "
            "or offsets like 0:1200,1:900"
        ) from None
    return offsets_for_time(bootstrap, topic, time_ms, properties)


class RawRecords(NamedTuple):
    """Raw records of a partition; lists of n, that of headers empty if none are wanted."""

    keys: list[bytes | None]
    values: list[bytes | None]
    offsets: list[int]
    times_ms: list[int]
    headers: list[dict[str, bytes | None]]

    def first(self, rows: int) -> "RawRecords":
        """So many of them."""
        return self._of(slice(rows))

    def after(self, rows: int) -> "RawRecords":
        """The others."""
        return self._of(slice(rows, None))

    def _of(self, rows: slice) -> "RawRecords":
        return RawRecords(
            self.keys[rows], self.values[rows], self.offsets[rows], self.times_ms[rows], self.headers[rows]
        )

    def extend(self, messages: list[Message], *, headers: bool) -> None:
        """Append what a consumer gave, with headers if some are wanted."""
        calls: Any = messages
        self.keys.extend([each.key() for each in calls])
        self.values.extend([each.value() for each in calls])
        self.offsets.extend([each.offset() for each in calls])
        self.times_ms.extend([each.timestamp()[1] for each in calls])
        if headers:
            self.headers.extend([dict(each.headers() or ()) for each in calls])


def first_value(bootstrap: str, pieces: Sequence[Piece], properties: Properties | None) -> bytes | None:
    """The value of the first record of a topic's pieces; None if there is none."""
    consumer = span_consumer(bootstrap, properties)
    try:
        for piece in pieces:
            consumer.assign([TopicPartition(piece.source, piece.partition, piece.begin)])
            for message in consumer.consume(1, timeout=SILENCE_S):
                if message.error() is None and message.value() is not None:
                    return bytes(message.value() or b"")
    finally:
        consumer.close()
    return None


def span_consumer(bootstrap: str, properties: Properties | None) -> Consumer:
    """Reads committed records of spans of offsets; in no group, so that it disturbs nobody."""
    return Consumer(
        client_config(
            bootstrap,
            properties,
            group_id=f"millrace-backfill-{uuid.uuid4().hex}",
            isolation_level="read_committed",
            enable_auto_commit=False,
            enable_auto_offset_store=False,
            enable_partition_eof=True,
            auto_offset_reset="error",
            fetch_wait_max_ms=100,
            queued_max_messages_kbytes=QUEUE_KBYTES,
            fetch_queue_backoff_ms=FETCH_BACKOFF_MS,
            max_partition_fetch_bytes=FETCH_BYTES,
        )
    )


class TopicReader:
    """Reads pieces of topics; keeps its connection from piece to piece.

    Args:
        plan: What is needed of an event.
        bootstrap: Where the brokers are.
        properties: Client properties.
        rows: Most records of a block.
        keyed: Whether a record whose key is not its entity is refused, as the job does.
        seen: Says which rows of lookups events see, by their partition and offsets; None where there are none.
    """

    def __init__(
        self,
        plan: FeaturePlan,
        bootstrap: str,
        properties: Properties | None,
        rows: int,
        *,
        keyed: bool = True,
        seen: RowsAt | None = None,
    ) -> None:
        self._plan, self._rows, self._keyed, self._seen = plan, rows, keyed, seen
        self._decoder, self._headers = event_decoder(plan.pipeline), bool(plan.pipeline.events.headers)
        self._is_plain = not plan.pipeline.events.fields
        self._key_text = events_key_reader(plan.pipeline.events)
        self._max_bytes = plan.pipeline.max_record_bytes
        self._schema = scan_schema(plan.pipeline.events, fields_needed(plan), from_file=False)
        is_json = isinstance(plan.pipeline.events.format, Json | JsonSchema)
        self._scan_schema = self._schema if is_json else with_required(self._schema)
        self._bootstrap = bootstrap
        self._consumer = span_consumer(bootstrap, properties)

    def blocks(self, piece: Piece) -> Iterator[HistoryBlock]:
        """The events of a piece, block by block.

        Raises:
            KafkaAdminError: Records are gone, or Kafka does not let us read.
        """
        collects = gc.isenabled()
        gc.disable()  # to the collector, messages by the ten thousand look like a leak: it would take half of the time
        try:
            waiting = RawRecords([], [], [], [], [])
            for messages in self._messages(piece):
                waiting.extend(messages, headers=self._headers)
                while len(waiting.values) >= self._rows:
                    yield self.block(waiting.first(self._rows), piece.partition)
                    waiting = waiting.after(self._rows)
            if waiting.values:
                yield self.block(waiting, piece.partition)
        finally:
            if collects:
                gc.enable()

    def close(self) -> None:
        """End the connection."""
        self._consumer.close()

    def _messages(self, piece: Piece) -> Iterator[list[Message]]:
        """The piece's records, as they come."""
        self._consumer.assign([TopicPartition(piece.source, piece.partition, piece.begin)])
        deadline = time.monotonic() + SILENCE_S
        following = piece.begin
        while following < piece.end:
            try:
                messages = self._consumer.consume(min(CONSUME_RECORDS, piece.end - following), timeout=0.5)
            except KafkaException as error:
                raise KafkaAdminError(f"Kafka refused to be read: {error.args[0].str()}") from error
            kept = [each for each in messages if each.error() is None]
            ended = len(kept) < len(messages) and self._has_ended(piece, messages)
            if kept:
                deadline = time.monotonic() + SILENCE_S
                following = (kept[-1].offset() or 0) + 1
                # the last offsets may be a transaction's marker, which no reader sees: then a record beyond comes
                yield kept if following <= piece.end else [each for each in kept if (each.offset() or 0) < piece.end]
            if ended:
                return
            if time.monotonic() > deadline:
                raise KafkaAdminError(
                    f"{piece.source} at {self._bootstrap} gave nothing for {SILENCE_S:g} s: run the command again "
                    "when the broker is well; it goes on from what is finished"
                )

    def _has_ended(self, piece: Piece, messages: list[Message]) -> bool:
        for message in messages:
            error = message.error()
            if error is None:
                continue
            if error.code() == KafkaError._PARTITION_EOF:
                return True
            if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                raise KafkaAdminError(
                    f"{piece.source}/{piece.partition} no longer has offset {piece.begin}: its retention removed "
                    "records since the backfill began; begin anew with --fresh"
                )
            if ends_reading(error):
                raise KafkaAdminError(f"{piece.source} cannot be read: {error.str()}")
        return False

    def block(self, records: RawRecords, partition: int = 0) -> HistoryBlock:
        """The events of raw records of a partition."""
        data, begins, ends = _joined(records.values)
        data, cells = self._scanned(data, begins, ends)
        events = self._plan.pipeline.events
        if self._keyed:
            place = [one.name for one in events.schema].index(events.entity)
            whole = bool(self._schema.kinds[place] != TEXT)
            check_keys(data, *_joined(self._key_texts(records.keys)), int(self._schema.slots[place]), whole, cells)
        fields = fields_of_cells(self._plan, self._schema, cells, data)
        offsets, times_ms = np.array(records.offsets, np.int64), np.array(records.times_ms, np.int64)
        seen = self._seen_in(partition, offsets)
        block = decode_block(self._plan, fields, self._slow(records, partition), seen=seen)
        return HistoryBlock(
            len(begins),
            block,
            offsets[block.rows],
            times_ms[block.rows],
            letters=letters_of(
                block, lambda row: (records.keys[row], records.values[row]), lambda row: records.offsets[row]
            ),
        )

    def _seen_in(self, partition: int, offsets: npt.NDArray[np.int64]) -> RowsSeen | None:
        at = self._seen
        return None if at is None else lambda events, rows: at(events, partition, offsets[rows])

    def _scanned(self, data: Any, begins: Any, ends: Any) -> tuple[Any, Cells]:
        """Where the texts are, and the cells of records that are plain: others are left to the stream's decoder."""
        cells, form = new_cells(self._scan_schema, len(begins)), self._plan.pipeline.events.format
        if self._is_plain and isinstance(form, Json | JsonSchema):
            head = HEAD_BYTES if isinstance(form, JsonSchema) and form.framed else 0
            inside = np.minimum(begins + head, ends)
            scan_json(data, inside, ends, self._schema, cells, np.zeros(len(self._schema.kinds), np.int64))
            if head:
                cells.plain[(ends - begins <= head) | (data[np.minimum(begins, len(data) - 1)] != 0)] = 0
        elif self._is_plain:
            found = self._decoder.scan(data, begins, ends, self._scan_schema, cells)
            if found is not None:
                data = found
                data.setflags(write=False)  # as bytes are: kernels are compiled for that
        # of no length are null ones, too
        cells.plain[(begins == ends) | (ends - begins > self._max_bytes)] = 0
        return data, cells

    def _key_texts(self, keys: list[bytes | None]) -> list[bytes | None]:
        """The entities that keys hold."""
        read = self._key_text
        if read is None:
            return keys
        texts = [None if key is None else read(key) for key in keys]
        return [None if text is None else text.encode() for text in texts]

    def _slow(self, records: RawRecords, partition: int) -> Callable[[int], Any]:
        decode, headers = self._decoder.decode, records.headers

        def decoded(row: int) -> Any:
            parts = partition, records.offsets[row], records.times_ms[row]
            told = RecordParts(*parts, headers[row]) if headers else RecordParts(*parts)
            return decode(records.keys[row], records.values[row], told)

        if self._keyed:
            return decoded
        return lambda row: decode_unkeyed(decode, records.values[row], self._plan.pipeline.events.entity)


def decode_unkeyed(decode: Callable[[bytes | None, bytes | None], Any], value: bytes | None, entity: str) -> Any:
    """Decode a record whose key does not matter: it is taken to be what it must be."""
    from flink_jobs.event_files import parse_line

    row = parse_line(value or b"")
    key = row.get(entity) if isinstance(row, dict) else None
    return decode(None if key is None else str(key).encode(), value)


def _joined(texts: list[bytes | None]) -> tuple[Any, Any, Any]:
    """Bytes one after the other, and where each begins and ends; None has no length."""
    lengths = np.array([0 if text is None else len(text) for text in texts], np.int64)
    ends = np.cumsum(lengths)
    data = np.frombuffer(b"".join([text for text in texts if text is not None]), np.uint8)
    return data, ends - lengths, ends
