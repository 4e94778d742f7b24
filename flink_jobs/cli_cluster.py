"""Commands for Flink clusters and the jobs that run there: their options and help."""

from pathlib import Path
from typing import Annotated

import typer

from flink_jobs.cli_options import AcceptLoss, AsJson, PipelineName
from flink_jobs.cli_options import resolved_settings as _settings
from flink_jobs.console import command

ClusterUrl = Annotated[
    str | None, typer.Option("--cluster", help="Flink's REST address, http://host:8081. Default: the local cluster's.")
]
EngineName = Annotated[str, typer.Option(help="stream (the DataStream job), or sql (the Table job).")]

cluster_app = typer.Typer(help="A local Flink cluster of separate processes.", no_args_is_help=True)


@cluster_app.command("up")
@command
def cluster_up(
    taskmanagers: Annotated[int, typer.Option(min=1, max=64, help="How many TaskManagers.")] = 1,
    slots: Annotated[int, typer.Option(min=1, max=64, help="Slots of each: how many subtasks it can run.")] = 2,
    port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="Of the web UI. Default: 8081, or a free one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a Flink cluster on this machine that stays until `millrace cluster down`.

    Example: millrace cluster up --taskmanagers 2 --slots 1
    """
    from flink_jobs.cluster_command import run_cluster_up_command

    run_cluster_up_command(_settings(), taskmanagers=taskmanagers, slots=slots, port=port, as_json=as_json)


@cluster_app.command("down")
@command
def cluster_down() -> None:
    """End the local Flink cluster; jobs that run there go on from their last checkpoints at the next `cluster up`.

    Example: millrace cluster down
    """
    from flink_jobs.cluster_command import run_cluster_down_command

    run_cluster_down_command(_settings())


@command
def submit(
    name: PipelineName,
    cluster: ClusterUrl = None,
    parallelism: Annotated[int | None, typer.Option(help="Subtasks of every operator.")] = None,
    engine: EngineName = "stream",
    from_savepoint: Annotated[
        str | None, typer.Option(help="Savepoint or checkpoint to go on from. Default: the last run's newest.")
    ] = None,
    start_from: Annotated[
        str | None, typer.Option("--from", help="earliest, committed, latest or a time (ISO or ms); where live begins.")
    ] = None,
    bootstrap_from: Annotated[
        list[str] | None,
        typer.Option(help="State to begin with is built from: earliest, or a time in the topic, or files; repeatable."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the last run and begin anew.")] = False,
    unless_running: Annotated[
        bool, typer.Option("--unless-running", help="End well if the job is there already, for what is started again.")
    ] = False,
    ship_python: Annotated[
        bool, typer.Option("--ship-python", help="Send this environment's packages along, for workers that lack them.")
    ] = False,
    accept_loss: AcceptLoss = None,
    as_json: AsJson = False,
) -> None:
    """Run a pipeline on a Flink cluster: plans the job here, ships code and model, and leaves it running there.

    Example: millrace submit purchase --cluster http://flink:8081 --parallelism 4
    """
    from flink_jobs.pipelines import load_pipeline
    from flink_jobs.submit_command import run_submit_command
    from flink_jobs.topics import parse_engine

    run_submit_command(
        load_pipeline(name), name, _settings(parallelism=parallelism, cluster=cluster), engine=parse_engine(engine),
        from_savepoint=from_savepoint, start_from=start_from, bootstrap_from=bootstrap_from, fresh=fresh,
        unless_running=unless_running, ship_python=ship_python, accept_loss=accept_loss or [], as_json=as_json,
    )  # fmt: skip


@command
def status(
    name: Annotated[str | None, typer.Argument(metavar="[PIPELINE]", help="Default: all jobs of the cluster.")] = None,
    cluster: ClusterUrl = None,
    engine: EngineName = "stream",
    as_json: AsJson = False,
) -> None:
    """Say how a job is: checkpoints, lag, restarts, events a second, lost commits. Exit status 1 if it is not well.

    Example: millrace status purchase
    """
    from flink_jobs.status_command import run_status_command
    from flink_jobs.topics import parse_engine

    run_status_command(name, _settings(cluster=cluster), engine=parse_engine(engine), as_json=as_json)


@command
def logs(
    cluster: ClusterUrl = None,
    lines: Annotated[int, typer.Option(min=1, help="Of each process, the last ones.")] = 40,
    match: Annotated[str | None, typer.Option(help="Only lines with this text, e.g. WARN.")] = None,
) -> None:
    """Print the logs of a cluster's JobManager and TaskManagers, those of Python workers among them.

    Example: millrace logs --match ERROR
    """
    from flink_jobs.logs_command import run_logs_command

    run_logs_command(_settings(cluster=cluster), lines=lines, match=match)


@command
def stop(
    name: PipelineName,
    cluster: ClusterUrl = None,
    engine: EngineName = "stream",
    savepoint: Annotated[
        Path | None, typer.Option("--savepoint", help="Folder for the savepoint. Default: beside the checkpoints.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Stop a job with a savepoint: everything it read is answered and committed; `submit` goes on from there.

    Example: millrace stop purchase
    """
    from flink_jobs.pipelines import load_pipeline
    from flink_jobs.stop_command import run_stop_command
    from flink_jobs.topics import parse_engine

    run_stop_command(
        load_pipeline(name), name, _settings(cluster=cluster), engine=parse_engine(engine), folder=savepoint,
        as_json=as_json,
    )  # fmt: skip


@command
def cancel(
    name: PipelineName,
    cluster: ClusterUrl = None,
    engine: EngineName = "stream",
    as_json: AsJson = False,
) -> None:
    """End a job at once, without a savepoint; `submit` goes on from its last checkpoint, and nothing is lost.

    Example: millrace cancel purchase
    """
    from flink_jobs.pipelines import load_pipeline
    from flink_jobs.stop_command import run_cancel_command
    from flink_jobs.topics import parse_engine

    run_cancel_command(
        load_pipeline(name), name, _settings(cluster=cluster), engine=parse_engine(engine), as_json=as_json
    )
