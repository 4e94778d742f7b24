"""`millrace submit`: a pipeline's job on a cluster, up to its first checkpoint."""

import os
from collections.abc import Sequence
from typing import Any

from flink_jobs.bootstrap_command import asked_of
from flink_jobs.change_check import changes_as_json, checked_changes
from flink_jobs.console import CommandError, fetch_jars, next_steps, quiet_output, say, show, show_json
from flink_jobs.first_checkpoint import START_S, RestartsError, wait_until_it_works
from flink_jobs.job_run import JobFailedError, JobRun
from flink_jobs.python_archive import make_archive
from flink_jobs.run_start import RunStart, bootstrap_as_json, note_checkpoint, refuse_requests, settle_start
from flink_jobs.settings import Settings
from flink_jobs.start_position import StartPosition
from flink_jobs.submission import cluster_address, cluster_rest, find_job, submit_job
from flink_jobs.topics import EARLIEST, SQL, Engine, job_name
from udfs.pipeline import Pipeline


def run_submit_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    *,
    engine: Engine,
    from_savepoint: str | None,
    start_from: str | None,
    bootstrap_from: Sequence[str] | None,
    fresh: bool,
    unless_running: bool,
    ship_python: bool,
    accept_loss: Sequence[str],
    as_json: bool,
) -> None:
    """Submit the job, wait until it works, and say where it is."""
    address = cluster_address(settings)
    if unless_running and (there := find_job(pipeline, settings, engine)):
        _show_where(there, address, {}, as_json=as_json)
        return
    check_cluster(pipeline, name, settings, engine)
    start = _start(pipeline, name, settings, engine, from_savepoint, start_from, bootstrap_from, fresh, accept_loss)
    fetch_jars("job")
    say(f"{job_name(pipeline, engine)}: {start.position.text}")
    archive = make_archive(settings) if ship_python else None
    log_file = settings.logs / f"submit-{job_name(pipeline, engine)}-{os.getpid()}.log"
    with quiet_output(log_file):
        say("- planning the job here (about 10 s)")
        job = submit_job(
            pipeline,
            name,
            settings,
            engine=engine,
            start_from=start.position.start_from,
            restore_from=start.position.restore_from,
            state_files=start.position.state_files,
            python_archive=archive,
        )
    say(f"- job {job.rest.job_id} is at {address}; waiting for its first checkpoint")
    try:
        wait_until_it_works(job, START_S)
    except RestartsError as error:
        raise JobFailedError(
            f"the job failed {error.restarts} times before it ran: {error}; it goes on trying until "
            "`millrace cancel` ends it"
        ) from error
    except KeyboardInterrupt:
        say(f"the job stays: `millrace status {name}` tells how it is, `millrace cancel {name}` ends it")
        raise
    if engine != SQL:
        note_checkpoint(pipeline, settings, start)
    began = {"restored_from": start.position.restore_from, "bootstrap": bootstrap_as_json(start)}
    _show_where(job, address, {**began, "changes": changes_as_json(start.changes)}, as_json=as_json)
    if as_json:
        return
    sql = " --engine sql" if engine == SQL else ""
    next_steps(
        (f"millrace status {name}{sql}", "checkpoints, lag, restarts, lost commits"),
        (f"millrace watch {name}", "the predictions"),
        (f"millrace stop {name}{sql}", "stop with a savepoint; submit goes on from it"),
    )


def _show_where(job: JobRun, address: str, began: dict[str, Any], *, as_json: bool) -> None:
    name, job_id = job_name(job.pipeline, job.engine), job.rest.job_id
    if as_json:
        show_json({"job_id": job_id, "cluster": address, "name": name, "engine": job.engine, **began})
    else:
        show(f"{name} runs as {job_id}: {address}/#/job/running/{job_id}/overview")


def check_cluster(pipeline: Pipeline, name: str, settings: Settings, engine: Engine) -> None:
    """Whether the cluster can take the job.

    Raises:
        CommandError: The job is there already, or there are too few slots.
    """
    running = find_job(pipeline, settings, engine)
    if running is not None:
        raise CommandError(
            f"{job_name(pipeline, engine)} already is at {cluster_address(settings)} as {running.rest.job_id}: "
            f"`millrace stop {name}` first"
        )
    overview = cluster_rest(settings).overview()
    if overview["slots-available"] < settings.parallelism:
        raise CommandError(
            f"the cluster has {overview['slots-available']} free slots of {overview['slots-total']}, the job needs "
            f"{settings.parallelism}: --parallelism, or more TaskManagers"
        )


def _start(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    engine: Engine,
    from_savepoint: str | None,
    start_from: str | None,
    bootstrap_from: Sequence[str] | None,
    fresh: bool,
    accept_loss: Sequence[str],
) -> RunStart:
    if from_savepoint is None:
        asked = asked_of(pipeline, bootstrap_from, None, start_from)
        return settle_start(
            pipeline, name, settings, engine=engine, asked=asked, start_from=start_from, fresh=fresh,
            accept_loss=accept_loss,
        )  # fmt: skip
    if fresh or start_from is not None or bootstrap_from:
        raise CommandError("--from-savepoint says where the job begins: leave out --fresh, --from and --bootstrap-from")
    if engine == SQL:
        refuse_requests(pipeline)
    changes = None if engine == SQL else checked_changes(pipeline, name, settings, from_savepoint, accept_loss)
    return RunStart(StartPosition(EARLIEST, from_savepoint, f"going on from {from_savepoint}"), None, changes)
