"""A submitted job works from its first checkpoint on: it has then taken over the state and answered from it."""

import contextlib
import time

from flink_jobs.console import err
from flink_jobs.job_run import ENDED, JobFailedError, JobRun
from flink_jobs.rest_client import RestError

MOST_RESTARTS = 2
"""A job that failed more often before its first checkpoint is given up."""
START_S = 420.0
"""How long a job may take where no limit is asked for."""
POLL_S = 0.2
NAMED_WITHIN_S = 10.0
"""Flink counts a restart at once, but shows why only when it looks at the job anew, every three seconds."""


class RestartsError(JobFailedError):
    """The job fails again and again, and goes on trying; the message is the root cause.

    Attributes:
        restarts: How often it failed.
    """

    def __init__(self, cause: str, restarts: int) -> None:
        super().__init__(cause)
        self.restarts = restarts


def wait_until_it_works(job: JobRun, limit_s: float) -> None:
    """Wait for a job's first checkpoint.

    Raises:
        RestartsError: It fails again and again.
        JobFailedError: It ended, or took too long; says why.
    """
    deadline = time.monotonic() + limit_s
    with err.status("starting") if err.is_terminal else contextlib.nullcontext():
        while not _works(job):
            if time.monotonic() > deadline:
                cause = job.failure() or f"it is {job.status()}, and names no failure"
                raise JobFailedError(f"no checkpoint within {limit_s:g} s: {cause}")
            time.sleep(POLL_S)


def _works(job: JobRun) -> bool:
    status = job.status()
    if status in ENDED:
        raise JobFailedError(job.failure() or f"it is {status}, and names no failure")
    try:
        if job.checkpoints().completed:
            return True
        if (restarts := job.rest.restarts()) > MOST_RESTARTS:
            raise RestartsError(_why_it_restarts(job), restarts)
    except RestError:  # a JobManager that is being replaced
        pass
    return False


def _why_it_restarts(job: JobRun) -> str:
    deadline = time.monotonic() + NAMED_WITHIN_S
    while (cause := job.failure()) is None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return cause or "it restarts again and again, and names no failure"
