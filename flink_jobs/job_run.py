"""One run of a pipeline in a mini-cluster: start, watch, stop with a savepoint, start again from where it was."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flink_jobs.environment import create_environment
from flink_jobs.kafka_admin import committed_offsets, reset_committed_offsets, topic_ends
from flink_jobs.pipelines import model_folder
from flink_jobs.rest_client import CheckpointStats, RestClient, RestError, root_cause_line
from flink_jobs.scoring_job import build_scoring_job
from flink_jobs.settings import Settings
from flink_jobs.sql_job import BUNDLE_MS as SQL_BUNDLE_MS
from flink_jobs.sql_job import OPTIONS as SQL_OPTIONS
from flink_jobs.sql_job import build_sql_job
from flink_jobs.topics import COMMITTED, EARLIEST, SQL, STREAM, Engine, group_id, run_name
from udfs.pipeline import Pipeline

if TYPE_CHECKING:
    from pyflink.common import JobClient

POLL_S = 0.2
WATERMARK_EVERY_MS = 200
"""Flink's default; sources send their watermarks on so often."""
ENDED = ("FAILED", "CANCELED", "FINISHED", "SUSPENDED")


class JobFailedError(RuntimeError):
    """The job ended by itself; the message is the root cause."""


class JobRun:
    """A running job.

    Args:
        pipeline: What it computes.
        settings: How it runs.
        client: Flink's handle of the job.
        rest_address: Flink's REST interface.
        engine: What runs it.
    """

    def __init__(
        self, pipeline: Pipeline, settings: Settings, client: "JobClient", rest_address: str, engine: Engine = STREAM
    ) -> None:
        self.pipeline, self.settings, self.rest_address, self.engine = pipeline, settings, rest_address, engine
        self._client = client
        self.job_id = str(client.get_job_id())
        self._rest = RestClient(rest_address, self.job_id)
        self._stopped = False

    def status(self) -> str:
        """STARTING, RUNNING, RESTARTING, FAILED, CANCELED or FINISHED."""
        try:
            return self._rest.status()
        except RestError:
            # the mini-cluster, and its REST interface with it, goes down with its job
            return "FINISHED" if self._stopped else "FAILED"

    def failure(self) -> str | None:
        """The last failure's root cause in one line, also of one the job recovered from."""
        try:
            return self._rest.root_cause()
        except RestError:
            return self._failure_of_an_ended_job()

    def _failure_of_an_ended_job(self) -> str | None:
        try:
            self._client.get_job_execution_result().result()
        except Exception as error:
            return root_cause_line(str(error))
        return None

    def checkpoints(self) -> CheckpointStats:
        """The checkpoints of this run."""
        return self._rest.checkpoints()

    def lag(self) -> int:
        """Events in the topic that no completed checkpoint has covered yet."""
        return _distance(self._committed(), self._ends())

    def _ends(self) -> dict[int, int]:
        kafka = self.settings
        return topic_ends(
            kafka.bootstrap, self.pipeline.events.topic, kafka.kafka_properties, isolation="read_committed"
        )

    def _committed(self) -> dict[int, int]:
        settings, topic = self.settings, self.pipeline.events.topic
        group = group_id(self.pipeline, self.engine)
        return committed_offsets(settings.bootstrap, group, topic, settings.kafka_properties)

    def raise_if_ended(self) -> None:
        """Raise JobFailedError if the job is no longer running or trying to."""
        if self.status() in ENDED:
            raise JobFailedError(self.failure() or "the job ended without saying why; see the log")

    def wait_until_running(self, timeout_s: float = 120.0) -> None:
        """Wait until every task runs."""
        deadline = time.monotonic() + timeout_s
        while self.status() != "RUNNING":
            self.raise_if_ended()
            if time.monotonic() > deadline:
                cause = self.failure() or "see the log"
                raise JobFailedError(f"the job did not run within {timeout_s:.0f} s: {cause}")
            time.sleep(POLL_S)

    def wait_until_caught_up(
        self, progress: Callable[[int, int], None] | None = None, *, ends: dict[int, int] | None = None
    ) -> None:
        """Wait until the predictions of everything that is in the topic now are committed.

        The source stays unbounded: windows that are open when a bounded source ends are dropped. Committed offsets at
        the ends mean that a checkpoint covers all records, but their last batch may then still wait in its window; it
        is through the job, and committed, with a checkpoint that began a batch's time later. With SQL that checkpoint
        begins when partitions count as idle, so that none holds up the watermark; rows that it has not reached then
        stay in the windows' state, and are answered when later events come.

        Args:
            progress: Told (events done, events in all).
            ends: Offsets to reach; by default the ends of the topic now.
        """
        self.wait_until_read(progress, ends=ends)
        through_ms = time.time_ns() // 1_000_000 + self._longest_wait_ms()
        while True:
            self.raise_if_ended()
            with contextlib.suppress(RestError):
                if self.checkpoints().last_triggered_ms > through_ms:
                    return
            time.sleep(POLL_S)

    def wait_until_read(
        self, progress: Callable[[int, int], None] | None = None, *, ends: dict[int, int] | None = None
    ) -> None:
        """Wait until a checkpoint covers all that is in the topic now; arguments as of `wait_until_caught_up`."""
        goal = ends or self._ends()
        total = _distance(self._committed(), goal)
        left = total
        while left:
            self.raise_if_ended()
            time.sleep(POLL_S)
            left = _distance(self._committed(), goal)
            if progress is not None:
                progress(total - left, total)

    def _longest_wait_ms(self) -> int:
        """How long a record that the source has read may wait before it is on its way to the sink."""
        if self.engine == SQL:
            idle_ms = self.settings.idle_ms if self.pipeline.longest_window_ms else SQL_BUNDLE_MS
            return idle_ms + 2 * WATERMARK_EVERY_MS
        return 2 * self.settings.batch_ms + self.settings.bundle_ms + 100

    def late_dropped(self) -> int:
        """Events of this run that SQL's windows dropped: a later one of their entity had been answered."""
        return self._rest.total("numLateRecordsDropped")

    def stop(self, timeout_s: float = 120.0, *, drain: bool = False) -> str:
        """Stop with a savepoint: everything processed is committed, and a later run goes on from here.

        Args:
            timeout_s: How long to wait for the end.
            drain: Act as if no event came any more: SQL answers the rows that wait for the watermark, unless all
                partitions count as idle already, and forgets its windows. No run should go on from there.

        Returns:
            The savepoint's path.
        """
        folder = (pipeline_checkpoints(self.pipeline, self.settings, self.engine) / "savepoints").as_uri()
        from pyflink.java_gateway import get_gateway

        # PyFlink's own stop_with_savepoint lacks the format, which Flink 2 asks for
        jvm: Any = get_gateway().jvm
        canonical = jvm.org.apache.flink.core.execution.SavepointFormatType.CANONICAL
        path = str(self._client._j_job_client.stopWithSavepoint(drain, folder, canonical).get())
        self._stopped = True
        self._wait_until_gone(timeout_s)
        return path

    def cancel(self, timeout_s: float = 60.0) -> None:
        """End the job at once; a later run goes on from the last checkpoint."""
        self._client.cancel().result()
        self._stopped = True
        self._wait_until_gone(timeout_s)

    def _wait_until_gone(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.status() not in ENDED and time.monotonic() < deadline:
            time.sleep(POLL_S)


def start_job(
    pipeline: Pipeline,
    settings: Settings,
    *,
    start_from: str = EARLIEST,
    restore_from: str | None = None,
    engine: Engine = STREAM,
) -> JobRun:
    """Start a pipeline in a mini-cluster of this process.

    Args:
        pipeline: What to compute.
        settings: How to run it.
        start_from: Where to begin in the topic without `restore_from`: earliest, committed, latest or a time in ms.
        restore_from: Checkpoint or savepoint to go on from.
        engine: What runs it.
    """
    if start_from != COMMITTED or restore_from is not None:
        # committed offsets tell how far this run has come; the positions themselves are in the checkpoint
        reset_committed_offsets(
            settings.bootstrap, group_id(pipeline, engine), pipeline.events.topic, settings.kafka_properties
        )
    build, options = (build_sql_job, SQL_OPTIONS) if engine == SQL else (build_scoring_job, None)
    checkpoints = pipeline_checkpoints(pipeline, settings, engine)
    environment, rest_address = create_environment(settings, checkpoints, restore_from, options)
    statements = build(environment, pipeline, model_folder(pipeline), settings, start_from)
    statements.attach_as_datastream()
    client = environment.execute_async(f"millrace-{run_name(pipeline, engine)}")
    return JobRun(pipeline, settings, client, rest_address, engine)


def pipeline_checkpoints(pipeline: Pipeline, settings: Settings, engine: Engine = STREAM) -> Path:
    """Folder of a pipeline's checkpoints by one engine; its savepoints are in `savepoints` below."""
    return settings.checkpoints / run_name(pipeline, engine)


def latest_restore_point(pipeline: Pipeline, settings: Settings, engine: Engine = STREAM) -> str | None:
    """The newest complete checkpoint or savepoint of a pipeline on this machine, as a URI."""
    folder = pipeline_checkpoints(pipeline, settings, engine)
    found = [*folder.glob("*/chk-*/_metadata"), *folder.glob("savepoints/*/_metadata")]
    newest = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
    return None if newest is None else newest.parent.absolute().as_uri()


def _distance(committed: dict[int, int], ends: dict[int, int]) -> int:
    return sum(max(0, end - max(0, committed.get(partition, 0))) for partition, end in ends.items())
