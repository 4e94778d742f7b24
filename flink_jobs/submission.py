"""A pipeline on a Flink cluster: where the cluster is, how a job gets there, and how it is found again."""

import sys
from collections.abc import Sequence
from pathlib import Path

from flink_jobs.console import CommandError
from flink_jobs.definitions import JobDefinition
from flink_jobs.environment import create_remote_environment
from flink_jobs.job_control import ClusterControl
from flink_jobs.job_run import ENDED, JobRun, add_job, pipeline_checkpoints, show_start
from flink_jobs.local.home import local_cluster
from flink_jobs.python_archive import EXECUTABLE, NAME
from flink_jobs.rest_client import ClusterRest
from flink_jobs.settings import Settings
from flink_jobs.shipment import make_shipment
from flink_jobs.sql_job import OPTIONS as SQL_OPTIONS
from flink_jobs.state_files import StateFile
from flink_jobs.tls_files import client_context
from flink_jobs.topics import EARLIEST, SQL, STREAM, Engine, job_name
from udfs.pipeline import Pipeline


def cluster_address(settings: Settings) -> str:
    """The REST address of the cluster that commands talk to.

    Raises:
        CommandError: None is set, and no local one runs.
    """
    if settings.cluster is not None:
        return settings.cluster.rstrip("/")
    local = local_cluster(settings)
    if local is None or not local.alive:
        raise CommandError(
            "no local Flink cluster runs: `millrace cluster up` starts one, --cluster http://host:8081 names another"
        )
    return local.rest_address


def cluster_rest(settings: Settings) -> ClusterRest:
    """The cluster that commands talk to.

    Raises:
        CommandError: As of `cluster_address`.
        SettingsError: The TLS files cannot be used.
    """
    address = cluster_address(settings)
    is_https = address.startswith("https:")
    return ClusterRest(address, client_context(settings, "Flink's REST interface") if is_https else None)


def worker_python(settings: Settings, address: str) -> str:
    """The interpreter of the cluster's Python workers."""
    if settings.worker_python is not None:
        return settings.worker_python
    local = local_cluster(settings)
    is_ours = local is not None and local.alive and local.rest_address == address
    return sys.executable if is_ours else "python3"


def submit_job(
    pipeline: Pipeline,
    reference: str,
    settings: Settings,
    *,
    engine: Engine = STREAM,
    start_from: str = EARLIEST,
    restore_from: str | None = None,
    state_files: Sequence[StateFile] = (),
    shipment: Path | None = None,
    python_archive: Path | None = None,
) -> JobRun:
    """Plan a pipeline's job here and hand it to the cluster, with all that its workers need.

    Args:
        pipeline: What to compute.
        reference: As `load_pipeline` took it.
        settings: How to run it, and where.
        engine: What runs it.
        start_from: Where to begin in the topic without `restore_from`.
        restore_from: Checkpoint or savepoint to go on from.
        state_files: States to begin with, of every shard; none are empty states.
        shipment: What to ship; by default it is made of what is here now.
        python_archive: Packages to ship, from `make_archive`; by default the workers have them.

    Raises:
        RestError: The cluster does not answer.
    """
    cluster = cluster_rest(settings)
    cluster.overview()  # says in one line that it is not there, where the client would retry
    shipment = shipment or make_shipment(pipeline, reference, settings, engine)
    show_start(pipeline, settings, start_from, restore_from, engine)
    environment = create_remote_environment(
        settings,
        cluster.address,
        pipeline_checkpoints(pipeline, settings, engine),
        restore_from,
        python=EXECUTABLE if python_archive else worker_python(settings, cluster.address),
        files=shipment,
        options=SQL_OPTIONS if engine == SQL else None,
    )
    if python_archive is not None:
        environment.add_python_archive(str(python_archive), NAME)
    model = shipment / "models" / pipeline.model.name / str(pipeline.model.version)
    add_job(
        environment, pipeline, model, settings, start_from, engine=engine, restore_from=restore_from,
        state_files=state_files, is_shipped=True,
    )  # fmt: skip
    client = environment.execute_async(job_name(pipeline, engine))
    job = JobRun(pipeline, settings, ClusterControl(cluster, str(client.get_job_id())), engine)
    job.keep_definition(
        JobDefinition.of(
            pipeline, settings, reference=reference, shipment=shipment, python_archive=python_archive
        )
    )
    return job


def find_job(pipeline: Pipeline, settings: Settings, engine: Engine = STREAM, *, ended: bool = False) -> JobRun | None:
    """The pipeline's job on the cluster: the one that runs or tries to, or with `ended` else the last that ended.

    Raises:
        RestError: The cluster does not answer.
    """
    cluster = cluster_rest(settings)
    jobs = [job for job in cluster.jobs() if job["name"] == job_name(pipeline, engine)]
    alive = [job for job in jobs if job["state"] not in ENDED]
    found = alive or (jobs if ended else [])
    if not found:
        return None
    return JobRun(pipeline, settings, ClusterControl(cluster, str(found[0]["jid"])), engine)


def job_on_cluster(pipeline: Pipeline, name: str, settings: Settings, engine: Engine = STREAM) -> JobRun:
    """The pipeline's job that runs or tries to.

    Raises:
        CommandError: There is none.
    """
    found = find_job(pipeline, settings, engine)
    if found is None:
        raise CommandError(
            f"no job {job_name(pipeline, engine)} runs at {cluster_address(settings)}: "
            f"`millrace submit {name}` starts one"
        )
    return found
