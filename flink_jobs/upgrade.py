"""A job on a cluster gives way to its successor: a savepoint, the new job from it, and the old one back if that fails.

checks -> stop with a savepoint -> new job -> its first checkpoint
| fails before that
v
cancel it -> the old job, by the code that was shipped with it -> its first checkpoint
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flink_jobs.console import CommandError, quiet_output
from flink_jobs.definitions import JobDefinition, definition_in
from flink_jobs.environment import prepare_process
from flink_jobs.first_checkpoint import wait_until_it_works
from flink_jobs.job_control import ClusterControl
from flink_jobs.job_run import ENDED, JobFailedError, JobRun, job_checkpoints, restore_points
from flink_jobs.rest_client import RestError, root_cause_line
from flink_jobs.resubmit import Resubmission, ResubmitError, resubmit
from flink_jobs.settings import Settings
from flink_jobs.submission import cluster_rest, find_job, submit_job
from udfs.pipeline import Pipeline

BACK_S = 300.0
"""How long the old job may take to work again."""


class UpgradeFailedError(RuntimeError):
    """The new job did not work; the message says why, and what runs now."""


@dataclass(frozen=True)
class Upgraded:
    """A successful upgrade.

    Attributes:
        job_id: Of the new job.
        savepoint: Where it began.
        down_s: From the old job's last answers to the new one's first checkpoint.
    """

    job_id: str
    savepoint: str
    down_s: float


def definition_of_job(job: JobRun) -> JobDefinition:
    """What a running job was submitted as.

    Raises:
        CommandError: It is not known, so nothing could be compared or brought back.
    """
    folder = job_checkpoints(job)
    known = definition_in(folder)
    if known is None:
        raise CommandError(
            f"no definition of job {job.rest.job_id} is in {folder}: nothing could be compared or brought back; "
            "`millrace stop` and `millrace submit` do the same without that"
        )
    return known


def upgrade_job(
    job: JobRun,
    before: JobDefinition,
    pipeline: Pipeline,
    reference: str,
    settings: Settings,
    *,
    shipment: Path,
    python_archive: Path | None,
    limit_s: float,
    step: Callable[[str], None],
) -> Upgraded:
    """Replace a running job.

    Args:
        job: The running one.
        before: What it was submitted as.
        pipeline: Of the new one.
        reference: As `load_pipeline` took it.
        settings: Of the new one.
        shipment: What is shipped with it.
        python_archive: Packages that are shipped with it, if any.
        limit_s: How long it may take to its first checkpoint.
        step: Told what is being done.

    Raises:
        UpgradeFailedError: It did not work; the old one is back, or the message says where its state is.
    """
    log = settings.logs / f"upgrade-{pipeline.name}.log"
    prepare_process(settings.logs)  # offsets are read out of the savepoint by Java
    step(f"stopping {job.rest.job_id} with a savepoint")
    savepoint = _stopped(job, log)
    began = time.monotonic()
    step(f"savepoint {savepoint}; starting the new job from it")
    new: JobRun | None = None
    try:
        with quiet_output(log):
            new = submit_job(
                pipeline, reference, settings, restore_from=savepoint, shipment=shipment, python_archive=python_archive
            )
        step(f"job {new.rest.job_id}: waiting for its first checkpoint")
        wait_until_it_works(new, limit_s)
    except BaseException as error:
        cause = "interrupted" if isinstance(error, KeyboardInterrupt) else root_cause_line(str(error))
        step(f"the new job does not work ({cause}); bringing the old one back")
        raise UpgradeFailedError(_brought_back(new, before, job, savepoint, cause, log)) from error
    return Upgraded(new.rest.job_id, savepoint, time.monotonic() - began)


def _stopped(job: JobRun, log: Path) -> str:
    try:
        with quiet_output(log):
            return job.stop()
    except Exception as error:  # whatever Flink answers
        raise UpgradeFailedError(
            f"no savepoint could be made ({root_cause_line(str(error))}): the job was left as it is, see "
            f"`millrace status {job.pipeline.name}`"
        ) from error


def _brought_back(
    new: JobRun | None, before: JobDefinition, old: JobRun, savepoint: str, cause: str, log: Path
) -> str:
    """Have the old job go on; what to tell the user."""
    restore_from = savepoint
    try:
        new = new or find_job(old.pipeline, old.settings)  # it may be there although submitting it failed
        if new is not None:
            _end(new)
        restore_from = _newest_of(new) or savepoint
        order = Resubmission.of(before, old.settings, restore_from)
        job_id = resubmit(order, log)
        back = JobRun(old.pipeline, old.settings, ClusterControl(cluster_rest(old.settings), job_id), old.engine)
        wait_until_it_works(back, BACK_S)
    except (ResubmitError, JobFailedError, RestError, OSError) as error:
        return (
            f"the new job does not work: {cause}; and the old one could not be brought back: "
            f"{root_cause_line(str(error))}. Its state is in {restore_from}: `millrace submit --from-savepoint` goes "
            "on from there"
        )
    return f"the new job does not work: {cause}; the old one is back as {job_id} from {restore_from}, nothing is lost"


def _end(job: JobRun) -> None:
    """Cancel a job, and be sure of it: two at once would fence each other's transactions."""
    with contextlib.suppress(RestError):
        job.cancel()
    if job.status() not in ENDED:
        raise ResubmitError(f"job {job.rest.job_id} cannot be cancelled, it is {job.status()}")


def _newest_of(job: JobRun | None) -> str | None:
    """A checkpoint that the job completed after all: its answers are committed, and nobody may give them again."""
    if job is None:
        return None
    own = job_checkpoints(job).absolute().as_uri()
    found = [each for each in restore_points(job.pipeline, job.settings, job.engine) if each.startswith(f"{own}/")]
    return found[-1] if found else None
