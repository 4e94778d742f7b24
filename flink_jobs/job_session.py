"""One `millrace run`: a job from start to savepoint, with a line that says how it is."""

import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from flink_jobs.console import StopSignal
from flink_jobs.job_run import JobFailedError, JobRun, pipeline_checkpoints, start_job
from flink_jobs.kafka_admin import KafkaAdminError, committed_offsets, offsets_for_time, topic_ends, topic_starts
from flink_jobs.rest_client import RestError, root_cause_line
from flink_jobs.running_mark import marked_as_running
from flink_jobs.settings import Settings
from flink_jobs.start_position import StartPosition
from flink_jobs.topics import COMMITTED, EARLIEST, LATEST, SQL, STREAM, Engine, group_id, is_offsets, parse_offsets
from udfs.pipeline import Pipeline

START_S = 300.0
STATUS_S = 1.0
RATE_WINDOW_S = 5.0


@dataclass(frozen=True)
class JobProgress:
    """How the job is.

    Attributes:
        status: RUNNING, RESTARTING, …
        events: Committed since the start.
        events_per_s: Over the last seconds.
        lag: Events in the topic that no checkpoint covers; None while Kafka does not answer.
        checkpoints: How many completed.
        failed_checkpoints: How many did not.
        checkpoint_ms: Duration of the last.
        state_bytes: Size of the last.
        problem: Why it restarts.
    """

    status: str
    events: int
    events_per_s: float
    lag: int | None
    checkpoints: int
    failed_checkpoints: int
    checkpoint_ms: int
    state_bytes: int
    problem: str | None

    def as_line(self) -> str:
        """For people."""
        lag = "unknown (Kafka does not answer)" if self.lag is None else f"{self.lag:,}"
        failed = f", {self.failed_checkpoints} failed" if self.failed_checkpoints else ""
        problem = f"  {self.problem}" if self.problem else ""
        return (
            f"{self.status}  {self.events_per_s:,.0f} events/s  {self.events:,} done  lag {lag}  "
            f"{self.checkpoints} checkpoints{failed} "
            f"(last {self.checkpoint_ms} ms, {_bytes(self.state_bytes)}){problem}"
        )


@dataclass(frozen=True)
class SessionReport:
    """How it ended.

    Attributes:
        events: Committed in this session.
        elapsed_s: While the job ran.
        checkpoints: How many completed.
        savepoint: Where the next run goes on.
        caught_up: Whether all events that were there at the start have their committed answers.
        late_dropped: Events that SQL's windows dropped without an answer.
    """

    events: int
    elapsed_s: float
    checkpoints: int
    savepoint: str
    caught_up: bool
    late_dropped: int = 0


def run_session(
    pipeline: Pipeline,
    settings: Settings,
    start: StartPosition,
    stop: StopSignal,
    *,
    engine: Engine = STREAM,
    until_caught_up: bool,
    show: Callable[[JobProgress], None],
    step: Callable[[str], None],
) -> SessionReport:
    """Run the job until it has caught up or is asked to stop; then stop it with a savepoint.

    Args:
        pipeline: What to compute.
        settings: How.
        start: Where to begin.
        stop: Says when the user wants it to end.
        engine: What runs it.
        until_caught_up: End once everything that is in the topic now is answered.
        show: Told about once a second how it is.
        step: Told what is being waited for.

    Raises:
        JobFailedError: The job gave up.
        CommandError: Another process runs it.
    """
    with marked_as_running(pipeline_checkpoints(pipeline, settings, engine)):
        return _run_session(pipeline, settings, start, stop, engine, until_caught_up, show, step)


def _run_session(
    pipeline: Pipeline,
    settings: Settings,
    start: StartPosition,
    stop: StopSignal,
    engine: Engine,
    until_caught_up: bool,
    show: Callable[[JobProgress], None],
    step: Callable[[str], None],
) -> SessionReport:
    step("starting the job in a Flink mini-cluster (about 15 s)")
    begin = sum(_begin_offsets(pipeline, settings, start, engine).values())
    job = start_job(
        pipeline,
        settings,
        start_from=start.start_from,
        restore_from=start.restore_from,
        state_files=start.state_files,
        engine=engine,
    )
    gauge = _Gauge(job, begin, show)
    try:
        wait_until_running(job, stop.raise_if_requested)
        step("the job runs")
        started = time.monotonic()
        caught_up = until_caught_up and _catch_up(job, gauge, stop)
        while not until_caught_up and not stop.requested:
            job.raise_if_ended()
            gauge.look()
            time.sleep(0.1)
        step("stopping with a savepoint")
        last = gauge.look(now=True)
        late_dropped = _late_dropped(job)
        savepoint = _stopped(job)
    except BaseException:
        with contextlib.suppress(Exception):
            job.cancel()
        raise
    return SessionReport(last.events, time.monotonic() - started, last.checkpoints, savepoint, caught_up, late_dropped)


def _late_dropped(job: JobRun) -> int:
    if job.engine != SQL:
        return 0
    with contextlib.suppress(RestError):
        return job.late_dropped()
    return 0


def _stopped(job: JobRun) -> str:
    """Stop with a savepoint, or say in one line why not and where the next run goes on."""
    try:
        return job.stop()
    except Exception as error:  # whatever the Java side raises
        cause = root_cause_line(str(error))
        raise JobFailedError(
            f"no savepoint could be made ({cause}); the next run goes on from the last checkpoint, nothing is lost"
        ) from error


def wait_until_running(job: JobRun, should_stop: Callable[[], None], timeout_s: float = START_S) -> None:
    """Wait until every task runs; `should_stop` may raise to end the wait.

    Raises:
        JobFailedError: The job gave up, or took longer than `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while job.status() != "RUNNING":
        should_stop()
        job.raise_if_ended()
        if time.monotonic() > deadline:
            raise JobFailedError(f"the job did not run within {timeout_s:g} s: {job.failure() or 'see its log'}")
        time.sleep(0.1)


def _begin_offsets(
    pipeline: Pipeline, settings: Settings, start: StartPosition, engine: Engine
) -> dict[int, int]:
    """Where the job will begin in each partition, to count events from there."""
    place = (settings.bootstrap, pipeline.events.topic, settings.kafka_properties)
    if start.restore_from is not None or start.start_from == COMMITTED:
        return committed_offsets(place[0], group_id(pipeline, engine), place[1], place[2])
    if start.start_from == EARLIEST:
        return topic_starts(*place)
    if start.start_from == LATEST:
        return topic_ends(*place)
    if is_offsets(start.start_from):
        return {**topic_starts(*place), **parse_offsets(start.start_from)}
    return offsets_for_time(place[0], place[1], int(start.start_from), place[2])


def _catch_up(job: JobRun, gauge: "_Gauge", stop: StopSignal) -> bool:
    def progress(_done: int, _total: int) -> None:
        gauge.look()
        if stop.requested:
            raise _AskedToStopError

    try:
        job.wait_until_caught_up(progress)
    except _AskedToStopError:
        return False
    return True


class _AskedToStopError(Exception):
    pass


class _Gauge:
    """Reads how the job is, at most once a second."""

    def __init__(self, job: JobRun, begin: int, show: Callable[[JobProgress], None]) -> None:
        self._job, self._begin, self._show = job, begin, show
        self._next = 0.0
        self._failed_at_first: int | None = None
        self._history: deque[tuple[float, int]] = deque()
        self._last = JobProgress("STARTING", 0, 0.0, None, 0, 0, 0, 0, None)

    def look(self, *, now: bool = False) -> JobProgress:
        if now or time.monotonic() >= self._next:
            with contextlib.suppress(RestError):
                self._last = self._read()
                self._show(self._last)
            self._next = time.monotonic() + STATUS_S
        return self._last

    def _read(self) -> JobProgress:
        job = self._job
        status, stats = job.status(), job.checkpoints()
        if self._failed_at_first is None:  # while tasks start, Flink declines checkpoints and calls that failed
            self._failed_at_first = stats.failed
        events, lag = self._last.events, None
        with contextlib.suppress(KafkaAdminError):
            lag = job.lag()
            done, _ = job.offsets()
            events = max(events, sum(done.values()) - self._begin)
        return JobProgress(
            status=status,
            events=events,
            events_per_s=self._rate(events),
            lag=lag,
            checkpoints=stats.completed,
            failed_checkpoints=stats.failed - self._failed_at_first,
            checkpoint_ms=stats.last_duration_ms,
            state_bytes=stats.last_size_bytes,
            problem=None if status == "RUNNING" else job.failure(),
        )

    def _rate(self, events: int) -> float:
        moment = time.monotonic()
        self._history.append((moment, events))
        while moment - self._history[0][0] > RATE_WINDOW_S:
            self._history.popleft()
        then, before = self._history[0]
        return (events - before) / (moment - then) if moment > then else 0.0


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
