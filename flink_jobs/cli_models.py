"""Commands for the versions of a pipeline's model: their options and help."""

from typing import Annotated

import typer

from flink_jobs.cli_options import AsJson, PipelineName
from flink_jobs.console import command

models_app = typer.Typer(help="Versions of a pipeline's model: <root>/<name>/<version>/.", no_args_is_help=True)

Root = Annotated[str | None, typer.Option(help="Folder or URL of all models. Default: the pipeline's.")]


@models_app.command("ls")
@command
def models_ls(name: PipelineName, root: Root = None, as_json: AsJson = False) -> None:
    """List the versions: digest, features, metrics, retired or not, and which one the pipeline names.

    Example: millrace models ls purchase
    """
    from flink_jobs.models_listing import run_models_ls_command
    from flink_jobs.pipelines import load_pipeline

    run_models_ls_command(load_pipeline(name), name, root, as_json=as_json)


@models_app.command("show")
@command
def models_show(
    name: PipelineName,
    version: Annotated[int | None, typer.Argument(min=1, help="Default: the one that the pipeline names.")] = None,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Say all that a version's manifest says.

    Example: millrace models show purchase 2
    """
    from flink_jobs.models_listing import run_models_show_command
    from flink_jobs.pipelines import load_pipeline

    run_models_show_command(load_pipeline(name), version, root, as_json=as_json)


@models_app.command("retire")
@command
def models_retire(
    name: PipelineName,
    version: Annotated[int, typer.Argument(min=1)],
    reason: Annotated[str, typer.Option(help="Why, for whoever lists the versions.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Take it back.")] = False,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Mark a version as not to be promoted; its files stay.

    Example: millrace models retire purchase 1 --reason "drifted in May"
    """
    from flink_jobs.models_listing import run_models_retire_command
    from flink_jobs.pipelines import load_pipeline

    run_models_retire_command(load_pipeline(name), name, version, root, reason, undo=undo, as_json=as_json)
