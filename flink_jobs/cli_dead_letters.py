"""Commands about records that could not be scored: their options and help."""

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flink_jobs.cli_options import AsJson, PipelineName
from flink_jobs.cli_options import resolved_settings as _settings
from flink_jobs.console import command

if TYPE_CHECKING:
    from flink_jobs.dead_letters import Wanted

dead_letters_app = typer.Typer(
    help="Records that could not be scored: `ls`, `show`, `stats`, and `replay` once the cause is mended.",
    no_args_is_help=True,
)

_FILTERS: dict[str, Any] = {
    "reason": Annotated[list[str] | None, typer.Option(help="Only this reason, like wrong_type; repeatable.")],
    "stage": Annotated[
        list[str] | None, typer.Option(help="Only this stage: route, request, decode, features, model or encode.")
    ],
    "partition": Annotated[
        list[int] | None, typer.Option(help="Only records of this partition of the events topic; repeatable.")
    ],
    "offsets": Annotated[
        str | None,
        typer.Option(metavar="FROM:TO", help="Only records at these offsets of the events topic, TO left out."),
    ],
    "since": Annotated[
        str | None, typer.Option(help="Only records from this time on (Kafka's timestamp; ISO or ms).")
    ],
    "until": Annotated[str | None, typer.Option(help="Only records before this time.")],
    "event_since": Annotated[
        str | None,
        typer.Option(help="Only events from this event time on; of what does not decode today it is unknown."),
    ],
    "event_until": Annotated[str | None, typer.Option(help="Only events before this event time.")],
}
"""Options that say which dead letters, in the order in which `wanted_of` takes them."""


def _filtered(function: Callable[..., None]) -> Callable[..., None]:
    """A command with these options, which gets what they say as `wanted`."""

    @functools.wraps(function)
    def filtered(**given: Any) -> None:
        from flink_jobs.dead_letters import wanted_of

        said = [given.pop(option) for option in _FILTERS]
        function(**given, wanted=wanted_of(*said))

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    options = [inspect.Parameter(name, kind, default=None, annotation=each) for name, each in _FILTERS.items()]
    signature = inspect.signature(function)
    name, _wanted, *others = signature.parameters.values()
    filtered.__signature__ = signature.replace(parameters=[name, *options, *others])  # type: ignore[attr-defined]
    filtered.__annotations__ = {**function.__annotations__, **_FILTERS}
    del filtered.__annotations__["wanted"]
    return filtered


@dead_letters_app.command("ls")
@command
@_filtered
def dead_letters_ls(
    name: PipelineName,
    wanted: "Wanted",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    unreplayed: Annotated[bool, typer.Option("--unreplayed", help="Only those that were not replayed.")] = False,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the newest first.

    Example: millrace dead-letters ls purchase --reason wrong_type --since 2026-01-31T12:00:00Z
    """
    from flink_jobs.dead_letters_command import run_ls_command
    from flink_jobs.pipelines import load_pipeline

    run_ls_command(
        load_pipeline(name), name, _settings(), wanted, limit=limit, unreplayed=unreplayed, as_json=as_json
    )


@dead_letters_app.command("show")
@command
def dead_letters_show(
    name: PipelineName,
    place: Annotated[
        str,
        typer.Argument(metavar="PLACE", help="PARTITION:OFFSET as `ls` shows it, or EVENTS-TOPIC/PARTITION/OFFSET."),
    ],
    most: Annotated[int, typer.Option("--bytes", min=1, help="Most bytes of key and value to show.")] = 4_096,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: why, its headers and bytes, and what today's decoder says of them.

    Example: millrace dead-letters show purchase 0:12
    """
    from flink_jobs.dead_letters_show import run_show_command
    from flink_jobs.pipelines import load_pipeline

    run_show_command(load_pipeline(name), name, _settings(), place, most=most, as_json=as_json)


@dead_letters_app.command("stats")
@command
@_filtered
def dead_letters_stats(
    name: PipelineName,
    wanted: "Wanted",
    as_json: AsJson = False,
) -> None:
    """Count dead letters by reason, stage, partition and hour.

    Example: millrace dead-letters stats purchase --json
    """
    from flink_jobs.dead_letters_stats import run_stats_command
    from flink_jobs.pipelines import load_pipeline

    run_stats_command(load_pipeline(name), name, _settings(), wanted, as_json=as_json)


@dead_letters_app.command("replay")
@command
@_filtered
def dead_letters_replay(
    name: PipelineName,
    wanted: "Wanted",
    also_refused: Annotated[
        bool, typer.Option("--also-refused", help="Feed also what today's decoder would refuse again.")
    ] = False,
    also_counted: Annotated[
        bool,
        typer.Option(
            "--also-counted",
            help="Feed also events that were decoded and failed later: they are in the state, and count twice then.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fed, and feed nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Feed the original records to the events topic again, each once however often this is run or killed.

    Example: millrace dead-letters replay purchase --reason unknown_category --dry-run
    """
    from flink_jobs.dead_letters_replay_command import run_replay_command
    from flink_jobs.pipelines import load_pipeline

    run_replay_command(
        load_pipeline(name), name, _settings(), wanted, also_refused=also_refused, also_counted=also_counted,
        dry_run=dry_run, yes=yes, as_json=as_json,
    )  # fmt: skip
