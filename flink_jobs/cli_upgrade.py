"""The command that replaces a running job: its options and help."""

from typing import Annotated

import typer

from flink_jobs.cli_cluster import ClusterUrl
from flink_jobs.cli_options import AcceptLoss, AsJson, PipelineName
from flink_jobs.cli_options import resolved_settings as _settings
from flink_jobs.console import command

LIMIT_S = 180.0


@command
def upgrade(
    name: PipelineName,
    cluster: ClusterUrl = None,
    parallelism: Annotated[
        int | None, typer.Option(min=1, max=128, help="Subtasks of every operator. Default: as the running job has.")
    ] = None,
    accept_loss: AcceptLoss = None,
    limit: Annotated[
        float, typer.Option(min=1.0, help="Seconds to the new job's first checkpoint; then the old one comes back.")
    ] = LIMIT_S,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only try it, beside the running job and without commits, and compare answers."),
    ] = False,
    minutes: Annotated[float, typer.Option(min=0.1, help="How long --dry-run compares.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Replace a pipeline's running job by what is here now, state kept; the old one comes back if the new one fails.

    Example: millrace upgrade purchase --parallelism 4
    """
    from flink_jobs.pipelines import load_pipeline
    from flink_jobs.upgrade_command import run_upgrade_command

    run_upgrade_command(
        load_pipeline(name), name, _settings(cluster=cluster), parallelism=parallelism, accept_loss=accept_loss or [],
        limit_s=limit, dry_run_min=minutes if dry_run else None, as_json=as_json,
    )  # fmt: skip
