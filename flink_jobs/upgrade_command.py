"""`millrace upgrade`: says what changes, refuses what would lose state, and replaces the running job."""

from collections.abc import Sequence
from pathlib import Path

from flink_jobs.change_check import changes_as_json, check_changes, say_changes
from flink_jobs.console import CommandError, fetch_jars, next_steps, say, show, show_json
from flink_jobs.definitions import JobDefinition
from flink_jobs.preflight import preflight
from flink_jobs.python_archive import make_archive
from flink_jobs.rest_client import ClusterRest
from flink_jobs.settings import Settings
from flink_jobs.shipment import make_shipment
from flink_jobs.submission import cluster_address, job_on_cluster
from flink_jobs.topics import job_name
from flink_jobs.upgrade import UpgradeFailedError, definition_of_job, upgrade_job
from udfs.pipeline import Pipeline
from udfs.state_changes import Change, changes_between


def run_upgrade_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    *,
    parallelism: int | None,
    accept_loss: Sequence[str],
    limit_s: float,
    as_json: bool,
) -> None:
    """Upgrade the pipeline's job, and say how that went."""
    job = job_on_cluster(pipeline, name, settings)
    before = definition_of_job(job)
    settings = settings.model_copy(update={"parallelism": parallelism or before.settings["parallelism"]})
    changes = changes_between(before.definition, pipeline, settings.shards)
    say(f"{job_name(pipeline)}: job {job.rest.job_id} at {cluster_address(settings)}")
    say_changes(changes)
    check_changes(changes, name, accept_loss)
    preflight(pipeline, settings)
    _check_slots(settings, before)
    fetch_jars("connector")
    shipment = make_shipment(pipeline, name, settings)
    if _is_as_before(before, settings, shipment):
        show(f"{job_name(pipeline)} runs as it is here: nothing to upgrade")
        return
    try:
        upgraded = upgrade_job(
            job, before, pipeline, name, settings, shipment=shipment,
            python_archive=make_archive(settings) if before.python_archive else None, limit_s=limit_s,
            step=lambda text: say(f"- {text}"),
        )  # fmt: skip
    except UpgradeFailedError as error:
        raise CommandError(str(error)) from error
    if as_json:
        show_json({**vars(upgraded), "cluster": cluster_address(settings), "changes": changes_as_json(changes)})
        return
    show(
        f"{job_name(pipeline)} was upgraded: job {upgraded.job_id}, {settings.parallelism} subtasks, from "
        f"{upgraded.savepoint}; no answers for {upgraded.down_s:.0f} s"
    )
    _next(name, changes)


def _check_slots(settings: Settings, before: JobDefinition) -> None:
    """Whether the new job fits, once the old one is gone."""
    overview = ClusterRest(cluster_address(settings)).overview()
    free = int(overview["slots-available"]) + int(before.settings["parallelism"])
    if settings.parallelism > free:
        raise CommandError(
            f"the cluster has {free} slots with those of the running job, too few for --parallelism "
            f"{settings.parallelism}: add TaskManagers first; nothing was stopped"
        )


def _is_as_before(before: JobDefinition, settings: Settings, shipment: Path) -> bool:
    now = settings.model_dump(mode="json")
    same_settings = all(now.get(setting) == value for setting, value in before.settings.items())
    return same_settings and before.shipment == str(shipment)


def _next(name: str, changes: Sequence[Change]) -> None:
    steps = [(f"millrace status {name}", "checkpoints, lag, restarts, lost commits")]
    if any(each.warms_up_ms for each in changes):
        steps.append((f"millrace watch {name} --json", "receipts name the features that warm up"))
    next_steps(*steps)
