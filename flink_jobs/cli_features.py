"""Commands about a pipeline's features outside the job: their options and help."""

from pathlib import Path
from typing import Annotated

import typer

from flink_jobs.cli_options import AsJson, PipelineName
from flink_jobs.cli_options import resolved_settings as _settings
from flink_jobs.console import command

features_app = typer.Typer(
    help="Features outside the job: an online store kept in step with them, and what it has.", no_args_is_help=True
)
Store = Annotated[
    str | None,
    typer.Option(help="sqlite:///PATH or redis://HOST:PORT/DATABASE. Default: setting feature_store, or a file."),
]


@features_app.command("sync")
@command
def features_sync(
    name: PipelineName,
    store: Store = None,
    ttl: Annotated[
        str | None,
        typer.Option(help="How long a row is kept once written, or none. Default: longest window and lateness."),
    ] = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Read all of the topic again, as after a store lost something.")
    ] = False,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="End when all that is visible now is in the store.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the newest features of each entity into an online store, as they are committed, until Ctrl-C.

    Example: millrace features sync fraud.py --store redis://127.0.0.1:6379/0
    """
    from flink_jobs.features_command import run_features_sync_command
    from flink_jobs.pipelines import load_pipeline

    run_features_sync_command(
        load_pipeline(name), name, _settings(), store=store, ttl=ttl, from_start=from_start,
        until_caught_up=until_caught_up, as_json=as_json,
    )  # fmt: skip


@features_app.command("get")
@command
def features_get(
    name: PipelineName,
    entities: Annotated[list[str], typer.Argument(metavar="ENTITY...", help="One or more.")],
    store: Store = None,
    as_of: Annotated[
        str, typer.Option(help="event: as stored. now: features whose windows have passed are those of nothing.")
    ] = "event",
    as_json: AsJson = False,
) -> None:
    """Show what the online store has of entities: as of when, how old, and which features have moved on since.

    Example: millrace features get fraud.py card-7 card-9 --as-of now
    """
    from flink_jobs.features_command import run_features_get_command
    from flink_jobs.pipelines import load_pipeline

    run_features_get_command(
        load_pipeline(name), name, _settings(), entities=entities, store=store, as_of=as_of, as_json=as_json
    )


@features_app.command("export-feast")
@command
def features_export_feast(
    name: PipelineName,
    target: Annotated[Path, typer.Option("--to", help="Folder of the repository; made if it is not there.")],
    store: Store = None,
    training_set: Annotated[
        Path | None, typer.Option(help="A training set of `millrace backfill`, for point-in-time joins of history.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a repository of Feast that reads the online store and a training set; Feast needs not be installed.

    Example: millrace features export-feast fraud.py --to feast_repo --training-set training_set.parquet
    """
    from flink_jobs.feast_files import run_features_export_command
    from flink_jobs.pipelines import load_pipeline

    run_features_export_command(
        load_pipeline(name), name, _settings(), target=target, store=store, training_set=training_set, as_json=as_json
    )
