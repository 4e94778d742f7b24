"""One run of a pipeline in a mini-cluster: start, watch, stop with a savepoint, start again from where it was."""

import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flink_jobs.crash_guard import unread_crashes
from flink_jobs.definitions import JobDefinition, keep_definition, write_definition
from flink_jobs.dropped_inputs import leave_dropped_inputs
from flink_jobs.environment import create_environment, planning
from flink_jobs.job_control import JobControl, MiniClusterControl
from flink_jobs.kafka_admin import KafkaAdminError, committed_offsets, reset_committed_offsets, topic_ends
from flink_jobs.pipelines import model_folder
from flink_jobs.rest_client import CheckpointStats, RestError
from flink_jobs.savepoint_offsets import keep_offsets
from flink_jobs.scoring_job import build_scoring_job
from flink_jobs.settings import Settings
from flink_jobs.sql_job import BUNDLE_MS as SQL_BUNDLE_MS
from flink_jobs.sql_job import OPTIONS as SQL_OPTIONS
from flink_jobs.sql_job import build_sql_job
from flink_jobs.state_files import StateFile
from flink_jobs.topic_scan import record_ends
from flink_jobs.topics import (
    COMMITTED,
    EARLIEST,
    SQL,
    STREAM,
    Engine,
    group_id,
    is_offsets,
    job_name,
    parse_offsets,
    requests_id,
    route_id,
    routed_topics,
    run_name,
)
from udfs.pipeline import Pipeline

if TYPE_CHECKING:
    from pyflink.datastream import StreamExecutionEnvironment

POLL_S = 0.2
WATERMARK_EVERY_MS = 200
"""Flink's default; sources send their watermarks on so often."""
UNREACHABLE = "UNREACHABLE"
ENDED = ("FAILED", "CANCELED", "FINISHED", "SUSPENDED")


class JobFailedError(RuntimeError):
    """The job ended by itself; the message is the root cause."""


class JobRun:
    """A running job, in a mini-cluster or on a cluster.

    Args:
        pipeline: What it computes.
        settings: How it runs.
        control: Stops it.
        engine: What runs it.
    """

    def __init__(
        self, pipeline: Pipeline, settings: Settings, control: JobControl, engine: Engine = STREAM
    ) -> None:
        self.pipeline, self.settings, self.engine = pipeline, settings, engine
        self.control = control
        self.rest = control.rest
        self._stopped = False

    def status(self) -> str:
        """STARTING, RUNNING, RESTARTING, FAILED, CANCELED, FINISHED, or UNREACHABLE while no JobManager answers."""
        try:
            return self.rest.status()
        except RestError:
            if not self.control.ends_with_job:
                return UNREACHABLE
            return "FINISHED" if self._stopped else "FAILED"

    def failure(self) -> str | None:
        """The last failure's root cause in one line, also of one the job recovered from."""
        try:
            cause = self.rest.root_cause()
        except RestError:
            cause = self.control.failure()
        crashes = unread_crashes(self.pipeline, self.settings) if cause is not None and self.engine == STREAM else []
        return "; ".join([*crashes, cause]) if cause is not None else None

    def checkpoints(self) -> CheckpointStats:
        """The checkpoints of this run."""
        return self.rest.checkpoints()

    def lag(self) -> int:
        """Events in the topic, and records of sources, that no completed checkpoint has covered yet."""
        return sum(_distance(*self.offsets(topic)) for topic in (*self.sources, None))

    @property
    def sources(self) -> list[str]:
        """Topics whose records this job takes to the events' topic."""
        return routed_topics(self.pipeline, self.engine)

    def offsets(self, topic: str | None = None) -> tuple[dict[int, int], dict[int, int]]:
        """By partition, up to where a completed checkpoint has come, and where the topic ends.

        Args:
            topic: One of `sources`, or that of requests; None means that of the events.
        """
        return self._committed(topic), self._ends(topic)

    def _ends(self, topic: str | None = None) -> dict[int, int]:
        kafka = self.settings
        topic = topic or self.pipeline.events.topic
        return topic_ends(kafka.bootstrap, topic, kafka.kafka_properties, isolation="read_committed")

    def _record_ends(self, topic: str) -> dict[int, int]:
        return record_ends(self.settings.bootstrap, self.settings.kafka_properties, topic)

    def _committed(self, topic: str | None = None) -> dict[int, int]:
        settings = self.settings
        group = group_id(self.pipeline, self.engine)
        if topic is not None:
            group = requests_id(self.pipeline) if topic == self.pipeline.requests_topic else route_id(self.pipeline)
        topic = topic or self.pipeline.events.topic
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
            ends: Offsets to reach; by default the ends of the topic now, and what is in its sources.
        """
        if ends is None:
            self._wait_until_routed()
        self.wait_until_read(progress, ends=ends)
        self._wait_until_through()

    def _wait_until_routed(self) -> None:
        """Wait until all that is in the sources now is in the events' topic."""
        for topic in self.sources:
            self._wait_until_covered(topic, self._record_ends(topic))
        if self.sources:
            self._wait_until_through()

    def _wait_until_through(self) -> None:
        """Wait until what the sources of the job have read is committed by its sinks."""
        through_ms = time.time_ns() // 1_000_000 + self._longest_wait_ms()
        while not self.has_checkpoint_since(through_ms):
            self.raise_if_ended()
            time.sleep(POLL_S)

    def has_checkpoint_since(self, moment_ms: float) -> bool:
        """Whether a checkpoint that began after a moment is complete; False while Flink does not answer."""
        with contextlib.suppress(RestError):
            return self.checkpoints().last_triggered_ms > moment_ms
        return False

    def wait_until_read(
        self, progress: Callable[[int, int], None] | None = None, *, ends: dict[int, int] | None = None
    ) -> None:
        """Wait until a checkpoint covers all that is in the topic now; arguments as of `wait_until_caught_up`."""
        self._wait_until_covered(None, ends or self._record_ends(self.pipeline.events.topic), progress)

    def _wait_until_covered(
        self, topic: str | None, goal: dict[int, int], progress: Callable[[int, int], None] | None = None
    ) -> None:
        left = total = _distance(self._committed(topic), goal)
        while left:
            self.raise_if_ended()
            time.sleep(POLL_S)
            left = _distance(self._committed(topic), goal)
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
        return self.rest.total("numLateRecordsDropped")

    def stop(self, timeout_s: float = 120.0, *, drain: bool = False, folder: str | None = None) -> str:
        """Stop with a savepoint: everything processed is committed, and a later run goes on from here.

        Args:
            timeout_s: How long to wait for the end.
            drain: Act as if no event came any more: SQL answers the rows that wait for the watermark, unless all
                partitions count as idle already, and forgets its windows. No run should go on from there.
            folder: Where to put the savepoint, as an URI; by default beside the checkpoints.

        Returns:
            The savepoint's path.
        """
        path = self.control.stop(folder or self._savepoints(), drain=drain)
        self._stopped = True
        self._wait_until_gone(timeout_s)
        self._commit(keep_offsets(path, self.pipeline.events.topic))
        keep_definition(path, job_checkpoints(self))
        return path

    def savepoint(self) -> str:
        """Make a savepoint while the job goes on; its path."""
        path = self.rest.savepoint(self._savepoints())
        keep_definition(path, job_checkpoints(self))
        return path

    def keep_definition(self, job: JobDefinition) -> None:
        """Note what the job is, before its first checkpoint; with SQL, Flink itself checks what it restores."""
        if self.engine != SQL:
            write_definition(job_checkpoints(self), job)

    def _savepoints(self) -> str:
        return (pipeline_checkpoints(self.pipeline, self.settings, self.engine) / "savepoints").as_uri()

    def _commit(self, offsets: Mapping[int, int]) -> None:
        """Tell Kafka where the job stands, for whoever looks there; the job itself does not need it."""
        settings, topic = self.settings, self.pipeline.events.topic
        with contextlib.suppress(KafkaAdminError):
            reset_committed_offsets(
                settings.bootstrap,
                group_id(self.pipeline, self.engine),
                topic,
                settings.kafka_properties,
                to=offsets,
            )

    def cancel(self, timeout_s: float = 60.0) -> None:
        """End the job at once; a later run goes on from the last checkpoint."""
        self.control.cancel()
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
    state_files: Sequence[StateFile] = (),
    engine: Engine = STREAM,
) -> JobRun:
    """Start a pipeline in a mini-cluster of this process.

    Args:
        pipeline: What to compute.
        settings: How to run it.
        start_from: Where to begin in the topic without `restore_from`: earliest, committed, latest, a time in ms, or
            offsets like 0:1200,1:900.
        restore_from: Checkpoint or savepoint to go on from.
        state_files: States to begin with, of every shard; none are empty states.
        engine: What runs it.
    """
    show_start(pipeline, settings, start_from, restore_from, engine)
    checkpoints, folder = pipeline_checkpoints(pipeline, settings, engine), model_folder(pipeline)
    environment, rest_address = create_environment(
        settings, checkpoints, restore_from, SQL_OPTIONS if engine == SQL else None
    )
    add_job(
        environment, pipeline, folder, settings, start_from, engine=engine, restore_from=restore_from,
        state_files=state_files,
    )  # fmt: skip
    client = environment.execute_async(job_name(pipeline, engine))
    job = JobRun(pipeline, settings, MiniClusterControl(client, rest_address), engine)
    job.keep_definition(JobDefinition.of(pipeline, settings))
    return job


def add_job(
    environment: "StreamExecutionEnvironment",
    pipeline: Pipeline,
    model: Path,
    settings: Settings,
    start_from: str,
    *,
    engine: Engine,
    restore_from: str | None = None,
    state_files: Sequence[StateFile] = (),
    is_shipped: bool = False,
) -> None:
    """Add a pipeline's job by one engine to an environment, ready to be executed.

    Args:
        environment: A mini-cluster's, or that of a cluster.
        pipeline: What to compute.
        model: Its model's version folder, readable here.
        settings: How to run it.
        start_from: Where to begin in the topic without a checkpoint.
        engine: What runs it.
        restore_from: Checkpoint or savepoint that the environment goes on from, if it was said here.
        state_files: States to begin with, of every shard; none are empty states.
        is_shipped: Whether workers find the model in the code that comes with the job; otherwise in the same folder.
    """
    with planning():
        if engine == SQL:
            statements = build_sql_job(environment, pipeline, model, settings, start_from, model_by_name=is_shipped)
        else:
            folder = None if is_shipped else model
            statements = build_scoring_job(environment, pipeline, folder, settings, start_from, state_files)
        statements.attach_as_datastream()
        if restore_from is not None:
            leave_dropped_inputs(environment, restore_from)


def show_start(
    pipeline: Pipeline, settings: Settings, start_from: str, restore_from: str | None, engine: Engine
) -> None:
    """Set the committed offsets to where a job begins that has no checkpoint.

    They tell how far the job has come; its positions themselves are in its checkpoints.
    """
    if start_from != COMMITTED and restore_from is None:
        reset_committed_offsets(
            settings.bootstrap,
            group_id(pipeline, engine),
            pipeline.events.topic,
            settings.kafka_properties,
            to=parse_offsets(start_from) if is_offsets(start_from) else {},
        )


def pipeline_checkpoints(pipeline: Pipeline, settings: Settings, engine: Engine = STREAM) -> Path:
    """Folder of a pipeline's checkpoints by one engine; its savepoints are in `savepoints` below."""
    return settings.checkpoints / run_name(pipeline, engine)


def job_checkpoints(job: JobRun) -> Path:
    """Folder of one job's checkpoints, below that of its pipeline."""
    return pipeline_checkpoints(job.pipeline, job.settings, job.engine) / job.rest.job_id


def restore_points(pipeline: Pipeline, settings: Settings, engine: Engine = STREAM) -> list[str]:
    """All complete checkpoints and savepoints of a pipeline on this machine, as URIs, the oldest first."""
    return restore_points_in(pipeline_checkpoints(pipeline, settings, engine))


def restore_points_in(folder: Path) -> list[str]:
    """As `restore_points`, of the run that has its checkpoints there."""
    found = []
    for path in (*folder.glob("*/chk-*/_metadata"), *folder.glob("savepoints/*/_metadata")):
        with contextlib.suppress(FileNotFoundError):  # a running job removes its older checkpoints
            found.append((path.stat().st_mtime_ns, path))
    return [path.parent.absolute().as_uri() for _, path in sorted(found)]


def latest_restore_point(
    pipeline: Pipeline, settings: Settings, engine: Engine = STREAM, *, but: Collection[str] = ()
) -> str | None:
    """The newest complete checkpoint or savepoint that is not among some others."""
    left = [each for each in restore_points(pipeline, settings, engine) if each not in but]
    return left[-1] if left else None


def _distance(committed: dict[int, int], ends: dict[int, int]) -> int:
    return sum(max(0, end - max(0, committed.get(partition, 0))) for partition, end in ends.items())
