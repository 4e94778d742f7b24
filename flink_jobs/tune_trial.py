"""One trial of `millrace tune`: a job with a setting, on a throw-away broker, from start to stop.

First a backlog, from which the throughput is taken: by the times at which the broker got the answers, after a share
of them that warms up the Java machine. Then steady traffic, from which the latency is taken: from Kafka's time of the
event to the broker's time of its answer. With exactly-once that answer becomes visible with the next checkpoint.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flink_jobs.committed_reader import read_all, receipt
from flink_jobs.decoding import in_json
from flink_jobs.events_producer import produce_events
from flink_jobs.job_run import JobFailedError, JobRun, start_job
from flink_jobs.job_session import wait_until_running
from flink_jobs.kafka_admin import KafkaAdminError, TopicSpec, create_topics, topic_ends
from flink_jobs.security_settings import OPEN
from flink_jobs.settings import Settings
from flink_jobs.tune import Setting, Trial
from flink_jobs.tune_sample import Record
from udfs.pipeline import Pipeline

WARM_UP_SHARE = 0.4
STEADY_S, STEADY_WARM_UP_S = 6.0, 1.5
LINGER_MS = 1  # the producer's own wait would count as the job's
CHECKPOINT_MS = 1_000
ANSWERED_SHARE = 0.98
SILENCE_S = 120.0  # a worker that compiles its kernels on a busy machine takes its time
LOOK_S = 0.2


class Laboratory:
    """Where trials are made, one after the other.

    Args:
        pipeline: What to tune for.
        settings: Those of the user; each trial changes some.
        bootstrap: The throw-away broker.
        folder: For checkpoints and logs.
        records: What to send, without end; each trial takes as much as it needs from a new iterator.
        should_stop: Called often; raises to end the trial, and nothing is left behind.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        bootstrap: str,
        folder: Path,
        records: Callable[[], Iterator[Record]],
        should_stop: Callable[[], None],
    ) -> None:
        self._pipeline, self._settings, self._folder = pipeline, settings, folder
        self._bootstrap, self._records, self._should_stop = bootstrap, records, should_stop
        self._trials = 0

    def run(self, setting: Setting, backlog: int, rate: float) -> Trial:
        """Try a setting.

        Args:
            setting: The settings to change.
            backlog: Events to find the throughput with.
            rate: Events a second to find the latency with; 0 leaves it out.
        """
        self._trials += 1
        name = f"trial-{self._trials}"
        written = in_json(self._pipeline)  # what is sent is JSON
        pipeline = dataclasses.replace(
            written,
            events=dataclasses.replace(written.events, topic=f"{name}-events"),
            predictions=f"{name}-predictions",
            dead_letters=f"{name}-dead-letters",
            features_topic=None,
            requests=None,
        )
        own = {
            "bootstrap": self._bootstrap, **OPEN, "home": self._folder / name, "restart_attempts": 0,
            "dead_letter_limit_share": 1.0,  # a sample is what is in the topic
        }  # fmt: skip
        checkpoint_ms = min(self._settings.checkpoint_interval_ms, CHECKPOINT_MS)
        more = {"checkpoint_folder": None, "checkpoint_interval_ms": checkpoint_ms, **setting}
        try:
            return self._measured(pipeline, self._settings.model_copy(update=own | more), setting, backlog, rate)
        except (JobFailedError, TrialError) as error:
            return Trial(setting, problem=str(error))

    def _measured(self, pipeline: Pipeline, settings: Settings, setting: Setting, backlog: int, rate: float) -> Trial:
        by_broker = {"message.timestamp.type": "LogAppendTime"}
        topic, answers = pipeline.events.topic, (pipeline.predictions, str(pipeline.dead_letters))
        partitions = pipeline.events.partitions
        create_topics(self._bootstrap, [TopicSpec(topic, partitions)])
        create_topics(self._bootstrap, [TopicSpec(name, partitions, settings=by_broker) for name in answers])
        records = self._records()
        self._send(topic, islice(records, backlog), None)
        ends = topic_ends(self._bootstrap, topic)
        job = start_job(pipeline, settings)
        try:
            wait_until_running(job, self._should_stop)
            self._wait_for_answers(job, answers, backlog)
            steady = int(rate * (STEADY_S + STEADY_WARM_UP_S))
            self._send(topic, islice(records, steady), rate or None)
            self._wait_for_answers(job, answers, backlog + steady)
            job.stop()
        except BaseException:
            with contextlib.suppress(Exception):
                job.cancel()
            raise
        times_ms, latencies_ms = self._times(topic, answers, ends)
        if len(times_ms) < ANSWERED_SHARE * (backlog + steady):
            raise TrialError(f"only {len(times_ms):,} of {backlog + steady:,} events were answered")
        per_s = _speed(times_ms[:backlog])
        if not rate:
            return Trial(setting, per_s)
        p50, p99 = np.percentile(latencies_ms[int(rate * STEADY_WARM_UP_S) :], [50, 99]).tolist()
        return Trial(setting, per_s, p50, p99)

    def _send(self, topic: str, records: Iterator[Record], rate: float | None) -> None:
        def stop_on_request() -> bool:
            self._should_stop()
            return False

        sent = produce_events(
            self._bootstrap,
            topic,
            records,
            rate,
            properties={"linger.ms": str(LINGER_MS)} if rate else None,
            should_stop=stop_on_request,
        )
        if sent.interrupted:
            raise KeyboardInterrupt

    def _wait_for_answers(self, job: JobRun, topics: tuple[str, ...], wanted: int) -> None:
        """Return when so many are written; visible or not, and transaction markers count: a few too early."""
        last, changed_at = -1, time.monotonic()
        while True:
            self._should_stop()
            job.raise_if_ended()
            written = 0
            with contextlib.suppress(KafkaAdminError):  # topics just made have no leader yet
                written = sum(sum(topic_ends(self._bootstrap, topic).values()) for topic in topics)
            if written >= wanted:
                break
            if written != last:
                last, changed_at = written, time.monotonic()
            if time.monotonic() - changed_at > SILENCE_S:
                raise TrialError(f"no answer for {SILENCE_S:.0f} s after {last:,} of {wanted:,}")
            time.sleep(LOOK_S)
        # what is still in its window or bundle would be kept for the next run by the savepoint
        settings = job.settings
        time.sleep((2 * settings.batch_ms + settings.bundle_ms) / 1_000 + LOOK_S)

    def _times(
        self, topic: str, answers: tuple[str, ...], steady_from: dict[int, int]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """When each answer was written, in order; and how long those to the steady traffic took, in its order (ms)."""
        sent_ms: dict[tuple[int, int], int] = {}
        for message in read_all(self._bootstrap, [topic]):
            partition, offset = int(message.partition() or 0), int(message.offset() or 0)
            if offset >= steady_from[partition]:
                sent_ms[partition, offset] = message.timestamp()[1]
        written_ms: list[int] = []
        pairs: list[tuple[int, int]] = []
        for message in read_all(self._bootstrap, answers):
            written_ms.append(message.timestamp()[1])
            told = receipt(message)
            place = int(told["partition"]), int(told["offset"])
            if place in sent_ms:
                pairs.append((sent_ms[place], written_ms[-1]))
        pairs.sort()
        found = np.array(pairs, np.int64).reshape(-1, 2)
        return np.sort(np.array(written_ms, np.int64)), found[:, 1] - found[:, 0]


class TrialError(RuntimeError):
    """A trial has no result; the message says why."""


def _speed(times_ms: npt.NDArray[np.int64]) -> float:
    """Answers a second after the warm-up."""
    late = times_ms[int(len(times_ms) * WARM_UP_SHARE) :]
    return float(len(late) / max(1e-3, (late[-1] - late[0]) / 1_000))
