"""Arguments and options that several commands have, and the settings they run with."""

from typing import TYPE_CHECKING, Annotated

import typer

from flink_jobs.settings import load_settings

if TYPE_CHECKING:
    from flink_jobs.settings import Settings

PipelineName = Annotated[
    str, typer.Argument(metavar="PIPELINE", help="A shipped pipeline (purchase) or the path of a .py file.")
]
AcceptLoss = Annotated[
    list[str] | None,
    typer.Option("--accept-loss", help="Feature whose state may be lost by a change of the pipeline; repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.")]


def resolved_settings(**overrides: object) -> "Settings":
    """The settings with what the command line says on top, and the address of the home's broker if it runs."""
    from flink_jobs.local.home import resolved

    return resolved(load_settings(**overrides))
