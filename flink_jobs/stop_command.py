"""`millrace stop` and `millrace cancel`: a job on a cluster ends."""

import os
from pathlib import Path

from flink_jobs.console import next_steps, quiet_output, say, show, show_json
from flink_jobs.environment import prepare_process
from flink_jobs.job_run import latest_restore_point
from flink_jobs.settings import Settings
from flink_jobs.submission import job_on_cluster
from flink_jobs.topics import SQL, Engine, job_name
from udfs.pipeline import Pipeline


def run_stop_command(
    pipeline: Pipeline, name: str, settings: Settings, *, engine: Engine, folder: Path | None, as_json: bool
) -> None:
    """Stop it with a savepoint, and say where that is."""
    job = job_on_cluster(pipeline, name, settings, engine)
    say(f"- stopping {job_name(pipeline, engine)} ({job.rest.job_id}) with a savepoint")
    prepare_process(settings.logs)
    with quiet_output(settings.logs / f"stop-{job_name(pipeline, engine)}-{os.getpid()}.log"):
        savepoint = job.stop(folder=None if folder is None else folder.absolute().as_uri())
    if as_json:
        show_json({"job_id": job.rest.job_id, "savepoint": savepoint})
        return
    show(f"stopped; savepoint {savepoint}")
    chosen = "" if folder is None else f" --from-savepoint {savepoint}"
    next_steps((f"millrace submit {name}{_sql(engine)}{chosen}", "goes on from this savepoint"))


def run_cancel_command(
    pipeline: Pipeline, name: str, settings: Settings, *, engine: Engine, as_json: bool
) -> None:
    """End it at once, and say where the next run goes on."""
    job = job_on_cluster(pipeline, name, settings, engine)
    job.cancel()
    point = latest_restore_point(pipeline, settings, engine)
    if as_json:
        show_json({"job_id": job.rest.job_id, "checkpoint": point})
        return
    show(f"cancelled {job_name(pipeline, engine)} ({job.rest.job_id}); last checkpoint: {point or 'none'}")
    next_steps((f"millrace submit {name}{_sql(engine)}", "goes on from the last checkpoint"))


def _sql(engine: Engine) -> str:
    return " --engine sql" if engine == SQL else ""
