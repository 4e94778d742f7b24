"""What `millrace certify` watches while faults happen: answers as they become visible, and the job's lost commits."""

import contextlib
import time

from confluent_kafka import Message

from flink_jobs.committed_reader import receipt
from flink_jobs.demo_traffic import Background, TopicsReader
from flink_jobs.job_run import JobRun
from flink_jobs.lost_commits import COUNTER
from flink_jobs.reconciliation import Place
from flink_jobs.rest_client import RestError
from flink_jobs.settings import Settings
from udfs.pipeline import Pipeline


class EntityOrder:
    """Whether the predictions of an entity come in the order of its events; a key's events are in one partition."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._topic = pipeline.predictions
        self._last: dict[tuple[bytes | None, int], int] = {}
        self.violations = 0

    def add(self, message: Message) -> None:
        """Take the next message of its partition."""
        if message.topic() != self._topic:
            return
        told = receipt(message)
        lane, offset = (message.key(), int(told["partition"])), int(told["offset"])
        self.violations += offset <= self._last.get(lane, -1)
        self._last[lane] = max(offset, self._last.get(lane, -1))


class LiveReader(TopicsReader):
    """Reads from before the first fault to the end.

    Attributes:
        order: Of the answers.
        newest_ms: Kafka's time of the newest event whose answer was seen.
    """

    to_the_end = True

    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        super().__init__(pipeline, settings)
        self.order, self.newest_ms = EntityOrder(pipeline), 0

    def _look_at(self, messages: list[Message]) -> None:
        for message in messages:
            if message.topic() == self._pipeline.events.topic:
                continue
            self.order.add(message)
            told = receipt(message)
            place: Place = (int(told["partition"]), int(told["offset"]))
            source = self.ledger.sources.get(place)
            if source is not None:
                self.newest_ms = max(self.newest_ms, source.record_time_ms)


class CommitWatch(Background):
    """Counts commits that Kafka refused, those that had happened before included.

    Flink's counter begins anew with each restart.

    Attributes:
        refused: How many in all.
    """

    def __init__(self, job: JobRun) -> None:
        super().__init__()
        self.refused = 0
        self._job = job

    def start(self) -> None:
        """Begin to look, once a second."""
        self._begin(self._work)

    def _work(self) -> None:
        before = 0
        while not self._stop.wait(1.0):
            with contextlib.suppress(RestError, KeyError, ValueError):
                now = self._job.rest.total(COUNTER)
                self.refused += now - before if now >= before else now
                before = now


def wait_for_answers(reader: LiveReader, after_ms: int, timeout_s: float) -> float | None:
    """Wait until the answer to an event after a time was seen; seconds from that time on, None if it took too long."""
    deadline = time.time() + timeout_s
    while reader.newest_ms < after_ms:
        reader.raise_if_failed()
        if time.time() > deadline:
            return None
        time.sleep(0.05)
    return time.time() - after_ms / 1_000


