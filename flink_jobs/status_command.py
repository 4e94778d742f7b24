"""`millrace status`: a cluster and its jobs, or one job in full."""

from dataclasses import asdict
from typing import Any

import typer
from rich.table import Table

from flink_jobs.console import next_steps, out, say, show, show_json
from flink_jobs.job_health import RUNNING, JobHealth, health_of
from flink_jobs.pipelines import load_pipeline
from flink_jobs.rest_client import LIMIT_REACHED, ClusterRest
from flink_jobs.settings import Settings
from flink_jobs.submission import cluster_address, cluster_rest, find_job
from flink_jobs.topics import SQL, Engine, job_name


def run_status_command(name: str | None, settings: Settings, *, engine: Engine, as_json: bool) -> None:
    """Say it; exit status 1 if something is not well."""
    if name is None:
        _show_cluster(cluster_rest(settings), as_json=as_json)
        return
    pipeline = load_pipeline(name)
    job = find_job(pipeline, settings, engine, ended=True)
    if job is None:
        if as_json:
            show_json({"name": job_name(pipeline, engine), "state": None, "well": False})
        else:
            show(f"{job_name(pipeline, engine)} is not at {cluster_address(settings)}")
            next_steps((f"millrace submit {name}{' --engine sql' if engine == SQL else ''}", "starts it"))
        raise typer.Exit(1)
    health = health_of(job)
    if as_json:
        show_json({"name": job_name(pipeline, engine), **_as_json(health)})
    else:
        out.print(_view(job_name(pipeline, engine), health))
        _say_what_to_do(health, name)
    if not health.is_well:
        raise typer.Exit(1)


def _show_cluster(rest: ClusterRest, *, as_json: bool) -> None:
    overview, jobs = rest.overview(), rest.jobs()
    if as_json:
        show_json({"cluster": rest.address, **overview, "jobs": jobs})
        return
    show(
        f"Flink {overview['flink-version']} at {rest.address}: {overview['taskmanagers']} TaskManagers, "
        f"{overview['slots-available']} of {overview['slots-total']} slots free"
    )
    table = Table(box=None)
    for heading in ("job", "name", "state"):
        table.add_column(heading)
    for job in jobs:
        table.add_row(job["jid"], job["name"], job["state"])
    if jobs:
        out.print(table)
    else:
        next_steps(("millrace submit purchase", "run a pipeline there"))


def _as_json(health: JobHealth) -> dict[str, Any]:
    lag = None if health.lag is None else [{**asdict(each), "lag": each.lag} for each in health.lag]
    return {**asdict(health), "lag": lag, "well": health.is_well}


def _view(title: str, health: JobHealth) -> Table:
    stats = health.checkpoints
    table = Table(title=f"{title} ({health.job_id})", title_justify="left", show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column()
    color = "green" if health.is_well else "red"
    table.add_row("state", f"[{color}]{health.state}[/] for {_duration(health.up_s)}")
    table.add_row("restarts", str(health.restarts))
    if health.checkpoint_age_s is None:
        table.add_row("checkpoints", f"none yet ({stats.failed} not, some while tasks started)")
    else:
        table.add_row(
            "checkpoints",
            f"{stats.completed} done, {stats.failed} not (some while tasks started); the last "
            f"{_duration(health.checkpoint_age_s)} ago, took {stats.last_duration_ms} ms, "
            f"{stats.last_size_bytes / 1e6:.2f} MB",
        )
    table.add_row("events/s", f"{health.events_per_s:,.0f} (mean of the last minute)")
    if health.lag is None:
        table.add_row("lag", "unknown: Kafka does not answer")
    else:
        topics = dict.fromkeys(each.topic for each in health.lag)
        for topic in topics:
            of_topic = [each for each in health.lag if each.topic == topic]
            parts = ", ".join(f"{each.partition}: {each.lag:,}" for each in of_topic)
            where = f" in {topic}" if len(topics) > 1 else ""
            table.add_row("lag", f"{sum(each.lag for each in of_topic):,} events{where} (by partition {parts})")
    lost = f"[{'red' if health.lost_commits else 'default'}]{len(health.lost_commits)}[/]"
    again = health.refused_commits - len(health.lost_commits)
    table.add_row("lost commits", lost + (f" ({again} refused that had happened before)" if again > 0 else ""))
    for crash in health.crashes:
        table.add_row("model crash", crash, style="red")
    if health.failure is not None:
        table.add_row("last failure", health.failure, style=None if health.state == RUNNING else "red")
    return table


def _say_what_to_do(health: JobHealth, name: str) -> None:
    if health.lost_commits:
        say(f"Kafka refused to commit {', '.join(health.lost_commits)}: their answers are lost", style="red")
        next_steps((f"millrace verify {name}", "names the events that have no answer"))
    elif health.state != RUNNING and LIMIT_REACHED in (health.failure or ""):
        next_steps(
            (f"millrace dead-letters stats {name}", "what is refused, and why"),
            (f"millrace submit {name}", "goes on from the last checkpoint, once that is mended"),
        )
    elif health.state != RUNNING:
        next_steps(("millrace logs --match ERROR", "what the cluster's processes say"))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3_600
    return f"{minutes:.0f} min" if minutes < 120 else f"{hours:.1f} h"
