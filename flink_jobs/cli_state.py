"""Commands that look into what a job keeps and has open: their options and help."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from flink_jobs.cli_options import AsJson, PipelineName
from flink_jobs.cli_options import resolved_settings as _settings
from flink_jobs.console import command

SHOW = "show"


class _ShowByDefault(TyperGroup):
    """`millrace state PIPELINE` is `millrace state show PIPELINE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [SHOW, *args]
        return super().parse_args(ctx, args)


state_app = typer.Typer(
    cls=_ShowByDefault,
    help="What a job keeps: `millrace state PIPELINE` shows it, `millrace state diff` compares two.",
    no_args_is_help=True,
)


@state_app.command(SHOW)
@command
def state_show(
    name: PipelineName,
    entity: Annotated[str | None, typer.Option(help="Key of one entity: what is kept of it, in words.")] = None,
    savepoint: Annotated[
        str | None, typer.Option(help="Folder of a savepoint or checkpoint. Default: the newest on disk.")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Take a savepoint of the job on the cluster, which goes on, and read that.")
    ] = False,
    at: Annotated[
        str | None,
        typer.Option(help="Time that the entity's features are told for (ISO or ms). Default: its newest event's."),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Flink's REST address, for --live. Default: the local cluster's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is kept: entities, events, sizes by shard; or with --entity the events and features of one.

    Example: millrace state purchase --entity user-42; the word show may be left out: millrace state show purchase
    """
    from flink_jobs.pipelines import load_pipeline
    from flink_jobs.state_command import run_state_command

    run_state_command(
        load_pipeline(name), name, _settings(cluster=cluster), entity=entity, savepoint=savepoint, live=live, at=at,
        as_json=as_json,
    )  # fmt: skip


@state_app.command("diff")
@command
def state_diff(
    first: Annotated[str, typer.Argument(metavar="P1", help="Folder of a savepoint or checkpoint.")],
    second: Annotated[str, typer.Argument(metavar="P2", help="Another one, usually the later.")],
    pipeline: Annotated[
        str | None, typer.Option(help="Whose state they are, as it is now. Default: the shipped one of P2's folder.")
    ] = None,
    entity: Annotated[str | None, typer.Option(help="Key of one entity: what differs, in words.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two states: entities added, changed, forgotten and gone, sizes by shard, what is kept of an event.

    Example: millrace state diff SAVEPOINT1 SAVEPOINT2 --pipeline fraud.py --entity card-7
    """
    from flink_jobs.state_command import run_state_diff_command

    run_state_diff_command(first, second, _settings(), pipeline_name=pipeline, entity=entity, as_json=as_json)


@command
def transactions(
    name: Annotated[
        str | None, typer.Argument(metavar="[PIPELINE]", help="Default: those of all pipelines.")
    ] = None,
    abort: Annotated[bool, typer.Option("--abort", help="Abort the orphaned ones, after asking.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="With --abort: also those of a running job or its next start. Answers are lost."),
    ] = False,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Flink's REST address, to know its jobs. Default: the local one's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List open Kafka transactions: whose each is, and which hold up readers of committed records.

    Example: millrace transactions purchase --abort
    """
    from flink_jobs.pipelines import load_pipeline
    from flink_jobs.transactions_command import run_transactions_command

    run_transactions_command(
        None if name is None else load_pipeline(name), name, _settings(cluster=cluster), abort=abort, yes=yes,
        force=force, as_json=as_json,
    )  # fmt: skip
