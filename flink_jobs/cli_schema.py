"""Commands for schemas and the local registry: their options and help."""

from typing import Annotated

import typer

from flink_jobs.cli_options import AsJson
from flink_jobs.console import command
from flink_jobs.settings import load_settings

registry_app = typer.Typer(
    help="A local schema registry with the interface of Confluent's; `millrace up --registry` starts it too.",
    no_args_is_help=True,
)


@registry_app.command("up")
@command
def registry_up(
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Default: 8085, or a free one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Start a local schema registry that stays until `millrace down`; the first time it is fetched (195 MB).

    Example: millrace registry up
    """
    from flink_jobs.registry_command import run_registry_up_command

    run_registry_up_command(load_settings(), port, as_json=as_json)


@registry_app.command("down")
@command
def registry_down() -> None:
    """Stop the local schema registry; its schemas stay for the next start.

    Example: millrace registry down
    """
    from flink_jobs.registry_command import run_registry_down_command

    run_registry_down_command(load_settings())
