"""`millrace upgrade`: says what changes, refuses what would lose state, and replaces the running job."""

from collections.abc import Sequence
from pathlib import Path

from flink_jobs.change_check import changes_as_json, check_changes, say_changes
from flink_jobs.console import CommandError, fetch_jars, next_steps, say, show, show_json
from flink_jobs.definitions import JobDefinition
from flink_jobs.dry_run import dry_run
from flink_jobs.dry_run_comparison import DryRunComparison
from flink_jobs.preflight import preflight
from flink_jobs.python_archive import make_archive
from flink_jobs.settings import Settings
from flink_jobs.shipment import make_shipment
from flink_jobs.submission import cluster_address, cluster_rest, job_on_cluster
from flink_jobs.topics import job_name
from flink_jobs.upgrade import UpgradeFailedError, definition_of_job, upgrade_job
from udfs.pipeline import Pipeline
from udfs.state_changes import BLOCKED, LOST, Change, changes_between


def run_upgrade_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    *,
    parallelism: int | None,
    accept_loss: Sequence[str],
    limit_s: float,
    dry_run_min: float | None,
    as_json: bool,
) -> None:
    """Upgrade the pipeline's job, or try that, and say how it went."""
    job = job_on_cluster(pipeline, name, settings)
    before = definition_of_job(job)
    settings = settings.model_copy(update={"parallelism": parallelism or before.settings["parallelism"]})
    changes = changes_between(before.definition, pipeline, settings.shards)
    say(f"{job_name(pipeline)}: job {job.rest.job_id} at {cluster_address(settings)}")
    say_changes(changes)
    if dry_run_min is not None and not any(each.effect == BLOCKED for each in changes):
        preflight(pipeline, settings)
        fetch_jars("job")
        found = dry_run(job, before, pipeline, settings, minutes=dry_run_min, step=lambda text: say(f"- {text}"))
        _show_dry_run(found, changes, name, as_json=as_json)
        return
    check_changes(changes, name, accept_loss)
    preflight(pipeline, settings)
    _check_slots(settings, before)
    fetch_jars("job")
    shipment = make_shipment(pipeline, name, settings)
    if _is_as_before(before, settings, shipment):
        if as_json:
            show_json({"job_id": job.rest.job_id, "savepoint": None, "cluster": cluster_address(settings)})
        else:
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


def _show_dry_run(found: DryRunComparison, changes: Sequence[Change], name: str, *, as_json: bool) -> None:
    result = found.as_json()
    if as_json:
        show_json({**result, "changes": changes_as_json(changes)})
        return
    show(
        f"{found.events:,} events answered by both: {found.equal:,} alike to the last bit, {found.differing:,} with "
        f"another score (at most {result['max_difference']:.6g} apart, {result['mean_difference']:.6g} in the mean)"
    )
    if found.rounded:
        show(f"  {found.rounded:,} more are alike but for rounding: a model may round a row by its place in a batch")
    for what, count in found.refused.items():
        show(f"  {count:,} times {what}", style="yellow")
    if found.warming:
        show(f"  {found.warming:,} of the new ones are marked: features warm up")
    if found.other_rows:
        show(f"  {found.other_rows:,} saw another row of a lookup: one that came at about their time, to one job first")
    if found.only_before or found.only_now:
        show(f"  {found.only_before:,} answered by the running job only, {found.only_now:,} by the new one only")
    for each in result["worst"]:
        place = f"{each['partition']}/{each['offset']}"
        show(f"  {place} ({each['event_id']}): {each['before']!r} becomes {each['now']!r}")
    lost = " ".join(f"--accept-loss {each.name}" for each in changes if each.effect == LOST)
    next_steps((f"millrace upgrade {name}{' ' if lost else ''}{lost}", "does it; the running job was left as it is"))


def _check_slots(settings: Settings, before: JobDefinition) -> None:
    """Whether the new job fits, once the old one is gone."""
    overview = cluster_rest(settings).overview()
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
