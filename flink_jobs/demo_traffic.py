"""What the demo does beside its view: sends events, and reads all three topics with the eyes of another program."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from confluent_kafka import Message

from flink_jobs.committed_reader import CommittedReader
from flink_jobs.decoding import prediction_reader
from flink_jobs.events_producer import produce_events
from flink_jobs.reconciliation import Ledger, Record
from flink_jobs.settings import Settings
from flink_jobs.watch import SeenPrediction, parse_prediction
from udfs.pipeline import Pipeline

READ_WAIT_S = 0.1
LATEST_SHOWN = 6


class Background:
    """A thread whose failure is told to the thread that waits for it."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._failure: Exception | None = None

    @property
    def running(self) -> bool:
        """Whether it is still at work."""
        return self._thread is not None and self._thread.is_alive()

    def raise_if_failed(self) -> None:
        """Raise here what was raised there."""
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _begin(self, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except Exception as error:
                self._failure = error

        self._thread = threading.Thread(target=guarded, daemon=True)
        self._thread.start()


class Sender(Background):
    """Sends records beside the view."""

    def __init__(self, settings: Settings, topic: str) -> None:
        super().__init__()
        self._settings, self._topic = settings, topic
        self._before = self._now = 0

    @property
    def sent(self) -> int:
        """How many in all."""
        return self._before + self._now

    def send(self, records: Iterator[Record], rate: float | None) -> None:
        """Send these after the ones before; returns at once."""
        if self._thread is not None:
            self._thread.join()
            self._before, self._now = self.sent, 0

        def work() -> None:
            produce_events(
                self._settings.bootstrap,
                self._topic,
                records,
                rate,
                properties=self._settings.kafka_properties,
                progress=self._count,
                should_stop=self._stop.is_set,
            )

        self._begin(work)

    def _count(self, records: int) -> None:
        self._now = records


class TopicsReader(Background):
    """Reads all three topics of a pipeline while its job runs, committed records only, from the first one on.

    Attributes:
        ledger: All that was read.
    """

    to_the_end = False
    """Whether to read on, once asked to stop, to the end of what is visible."""

    def __init__(self, pipeline: Pipeline, settings: Settings, broken: dict[Record, str] | None = None) -> None:
        super().__init__()
        self.ledger = Ledger(pipeline, broken or {})
        self._pipeline, self._settings = pipeline, settings

    def start(self) -> None:
        """Begin to read."""
        self._begin(self._work)

    def _work(self) -> None:
        pipeline, settings = self._pipeline, self._settings
        topics = [pipeline.events.topic, pipeline.predictions, str(pipeline.dead_letters)]
        reader = CommittedReader(settings.bootstrap, topics, settings.kafka_properties)
        try:
            while not self._stop.is_set() or (self.to_the_end and not reader.at_end):
                messages = reader.read(READ_WAIT_S)
                seen_at_ms = time.time_ns() // 1_000_000
                for message in messages:
                    self.ledger.add(message, seen_at_ms)
                self._look_at(messages)
        finally:
            reader.close()

    def _look_at(self, messages: list[Message]) -> None:
        """What is done with records beyond entering them."""


class Watcher(TopicsReader):
    """What the demo shows: the latest predictions, and when the first one became visible."""

    def __init__(self, pipeline: Pipeline, settings: Settings, broken: dict[Record, str]) -> None:
        super().__init__(pipeline, settings, broken)
        self.latest: deque[SeenPrediction] = deque(maxlen=LATEST_SHOWN)
        self.first_prediction: float | None = None
        self._read_value = prediction_reader(pipeline, settings)

    def _look_at(self, messages: list[Message]) -> None:
        predictions = [message for message in messages if message.topic() == self._pipeline.predictions]
        if predictions and self.first_prediction is None:
            self.first_prediction = time.monotonic()
        shown = (parse_prediction(message, self._pipeline, self._read_value) for message in predictions[-LATEST_SHOWN:])
        self.latest.extend(each for each in shown if each is not None)
