"""A client that asks a running job for scores, by records: many at once, from one event loop.

    score() -> request's record -> the job -> reply's record -> whoever waits for the request's id

Replies are read without a consumer group, so several clients beside each other disturb nobody; each reads all of them.
"""

import asyncio
import contextlib
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from flink_jobs.committed_reader import CommittedReader, receipt
from flink_jobs.kafka_admin import KafkaAdminError, client_config
from flink_jobs.settings import Settings
from udfs.pipeline import Pipeline
from udfs.request_reader import request_bytes
from udfs.requests import MOST_REQUEST_BYTES

_POLL_S = 0.05
_END_S = 5.0
_LINGER_MS = 10
"""Requests sent one by one keep a broker busy: it takes them partition by partition."""
_AGAIN_S = 0.01
DEFAULT_TIMEOUT_S = 5.0


class RequestRefusedError(RuntimeError):
    """The job answered that there is no score.

    Attributes:
        reason: Like `unknown_entity` or `missing_field`.
        detail: The same for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class ClientBusyError(RuntimeError):
    """Too many requests wait for their replies."""


class ClientClosedError(RuntimeError):
    """The client was closed, or can read no replies any more."""


@dataclass(frozen=True)
class Answer:
    """A score.

    Attributes:
        outputs: The prediction, by the names of its outputs.
        entity: Whose.
        as_of_ms: Of which time, in ms since 1970.
        scored_at_ms: When it was computed.
        request_id: What was asked.
        features: By name, None for missing; empty unless the pipeline includes them.
        receipt: Which model, and what is special: headers without their prefix.
    """

    outputs: Mapping[str, Any]
    entity: str | int
    as_of_ms: int
    scored_at_ms: int
    request_id: str
    features: Mapping[str, float | None] = field(default_factory=dict)
    receipt: Mapping[str, str] = field(default_factory=dict)

    @property
    def score(self) -> Any:
        """The prediction; of several outputs the first."""
        return next(iter(self.outputs.values()))


class ScoreClient:
    """Asks for the scores of one pipeline; `async with` opens and closes it.

    Args:
        pipeline: Has `requests`.
        settings: Where Kafka is.
        most_waiting: More requests than this at once are refused.
    """

    def __init__(self, pipeline: Pipeline, settings: Settings, *, most_waiting: int = 10_000) -> None:
        if pipeline.requests_topic is None:
            raise ValueError(f"pipeline {pipeline.name} answers no requests; write requests=Requests() in it")
        self._pipeline, self._settings, self._most = pipeline, settings, most_waiting
        self._topic, self._replies = pipeline.requests_topic, pipeline.reply_topics[0]
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._begin, self._number = uuid.uuid4().hex[:16], 0
        self._ends, self._is_read, self._ended = threading.Event(), threading.Event(), ""

    async def __aenter__(self) -> Self:
        """Begin to read replies: what is asked from now on is not missed.

        Raises:
            KafkaAdminError: Kafka does not answer, or has not the topics.
        """
        self._loop = asyncio.get_running_loop()
        kafka = self._settings.bootstrap, self._settings.kafka_properties
        self._reader = await asyncio.to_thread(CommittedReader, kafka[0], [self._replies], kafka[1], from_start=False)
        config = client_config(*kafka, linger_ms=_LINGER_MS, enable_idempotence=True, delivery_timeout_ms=30_000)
        self._producer = Producer({**config, "queue.buffering.max.messages": max(2 * self._most, 1_000)})
        self._thread = threading.Thread(target=self._read, name="replies", daemon=True)
        self._thread.start()
        await asyncio.to_thread(self._is_read.wait, _END_S)
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Stop reading; whoever still waits is told."""
        self._ends.set()
        await asyncio.to_thread(self._thread.join, _END_S)
        self._give_up("the client was closed")

    @property
    def waiting(self) -> int:
        """How many requests wait for their replies."""
        return len(self._waiting)

    @property
    def is_open(self) -> bool:
        """Whether replies are read, from where they are read on."""
        return self._is_read.is_set() and not self._ends.is_set() and not self._ended

    async def answers_kafka(self, timeout_s: float = 1.0) -> bool:
        """Whether a broker answers and has the topics."""
        try:
            found = await asyncio.to_thread(self._producer.list_topics, self._topic, timeout_s)
        except KafkaException:
            return False
        return found.topics[self._topic].error is None

    async def score(
        self,
        entity: str | int,
        fields: Mapping[str, Any] | None = None,
        *,
        as_of: int | None = None,
        after: tuple[int, int] | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        **more: Any,
    ) -> Answer:
        """The score of an entity, as an event with these fields would get it now.

        Args:
            entity: Whose.
            fields: Fields of the event.
            as_of: At another time, in ms since 1970.
            after: Partition and offset of an event of the entity, as Kafka acknowledged it: with it in the state. It is
                asked again until that is so.
            timeout: How long to wait, in seconds. With exactly-once a reply is seen at the next checkpoint.
            **more: Further fields, by their names.

        Raises:
            RequestRefusedError: The job says that there is no score, and why.
            TimeoutError: No reply in time; it may have been on its way.
            ClientBusyError: Too many requests wait.
            ClientClosedError: Replies are not read any more.
            KafkaAdminError: The request could not be sent.
        """
        told = {**(fields or {}), **more}
        async with asyncio.timeout(timeout):
            while True:
                try:
                    return await self._ask(entity, told, as_of, after)
                except RequestRefusedError as error:
                    if after is None or error.reason != "behind":
                        raise
                await asyncio.sleep(_AGAIN_S)

    async def _ask(
        self, entity: str | int, fields: Mapping[str, Any], as_of: int | None, after: tuple[int, int] | None
    ) -> Answer:
        if not self.is_open:
            raise ClientClosedError(self._ended or "the client is not open: write `async with ScoreClient(...)`")
        if len(self._waiting) >= self._most:
            raise ClientBusyError(f"{self._most} requests wait for their replies")
        self._number += 1
        request_id = f"{self._begin}-{self._number}"
        key, value = request_bytes(request_id, entity, fields, as_of_ms=as_of, after=after)
        if len(value) > MOST_REQUEST_BYTES:
            raise RequestRefusedError("too_large", f"{len(value)} bytes; the limit is {MOST_REQUEST_BYTES}")
        reply: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting[request_id] = reply
        try:
            self._producer.produce(self._topic, value, key, on_delivery=self._delivered)
            return await reply
        except (BufferError, KafkaException) as error:
            raise KafkaAdminError(f"the request could not be sent: {error}") from error
        finally:
            self._waiting.pop(request_id, None)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        """Called in the thread of replies."""
        if error is not None:
            told = msgspec.json.decode(message.value() or b"{}")["request_id"]
            failure = KafkaAdminError(f"the request could not be sent: {error.str()}")
            self._loop.call_soon_threadsafe(self._settle, [(told, failure)])

    def _read(self) -> None:
        try:
            while not self._ends.is_set():
                self._producer.poll(0)
                replies = [each for each in map(self._reply, self._reader.read(_POLL_S)) if each is not None]
                if replies:
                    self._loop.call_soon_threadsafe(self._settle, replies)
                if not self._is_read.is_set() and self._reader.at_end:
                    self._is_read.set()
        except Exception as error:  # whatever it was, nobody must wait for a thread that is gone
            self._ended = f"replies cannot be read: {error}"
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._give_up, self._ended)
        finally:
            self._is_read.set()
            self._producer.flush(_END_S)
            self._reader.close()

    def _reply(self, message: Message) -> tuple[str, Answer | Exception] | None:
        """What a reply says to which request; None if it is another client's."""
        key, value = message.key() or b"", message.value() or b""
        request_id = (key if isinstance(key, bytes) else key.encode()).decode("utf-8", "replace")
        if request_id not in self._waiting:
            return None
        told = msgspec.json.decode(value)
        if "error" in told:
            return request_id, RequestRefusedError(**told["error"])
        return request_id, Answer(
            {name: told[name] for name in self._pipeline.outputs.names},
            told["entity"],
            told["as_of"],
            told["scored_at"],
            request_id,
            told.get("features", {}),
            receipt(message),
        )

    def _settle(self, replies: Sequence[tuple[str, Answer | Exception]]) -> None:
        for request_id, answer in replies:
            waiting = self._waiting.get(request_id)
            if waiting is None or waiting.done():
                continue
            if isinstance(answer, Answer):
                waiting.set_result(answer)
            else:
                waiting.set_exception(answer)

    def _give_up(self, why: str) -> None:
        self._settle([(request_id, ClientClosedError(why)) for request_id in self._waiting])
