"""Commands for schemas and the local registry: their options and help."""

from pathlib import Path
from typing import Annotated

import typer

from flink_jobs.cli_options import AsJson, PipelineName
from flink_jobs.cli_options import resolved_settings as _settings
from flink_jobs.console import command
from flink_jobs.settings import load_settings

registry_app = typer.Typer(
    help="A local schema registry with the interface of Confluent's; `millrace up --registry` starts it too.",
    no_args_is_help=True,
)

schema_app = typer.Typer(help="Schemas of a pipeline's events and predictions, and the registry.", no_args_is_help=True)


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


@schema_app.command("check")
@command
def schema_check(name: PipelineName, as_json: AsJson = False) -> None:
    """Before a deployment: can the event class read all registered versions, would the predictions' schema be taken?

    Ends with 1 if not. Example: millrace schema check fraud.py
    """
    from flink_jobs.pipelines import load_pipeline
    from flink_jobs.schema_command import run_schema_check_command

    run_schema_check_command(load_pipeline(name), name, _settings(), as_json=as_json)


@schema_app.command("register")
@command
def schema_register(
    name: PipelineName,
    events: Annotated[bool, typer.Option("--events", help="Also the events' schema, made of the event class.")] = False,
    as_json: AsJson = False,
) -> None:
    """Register the schema of the pipeline's predictions; running it again changes nothing.

    Example: millrace schema register fraud.py --events
    """
    from flink_jobs.pipelines import load_pipeline
    from flink_jobs.schema_command import run_schema_register_command

    run_schema_register_command(load_pipeline(name), _settings(), events=events, as_json=as_json)


@schema_app.command("diff")
@command
def schema_diff(name: PipelineName, as_json: AsJson = False) -> None:
    """Say field by field what the pipeline's schemas change of the newest registered ones.

    Example: millrace schema diff fraud.py
    """
    from flink_jobs.pipelines import load_pipeline
    from flink_jobs.schema_command import run_schema_diff_command

    run_schema_diff_command(load_pipeline(name), _settings(), as_json=as_json)


@schema_app.command("import")
@command
def schema_import(
    subject: Annotated[str | None, typer.Argument(help="Subject of the registry, like payments-value.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Instead: an .avsc, .proto or .json file.")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Of the subject. Default: the newest.")] = None,
    message: Annotated[str | None, typer.Option(help="Protobuf message. Default: the first one.")] = None,
    entity: Annotated[str | None, typer.Option(help="Field that features are kept by.")] = None,
    time: Annotated[str | None, typer.Option(help="Field with the event time. Default: the only timestamp.")] = None,
    event_id: Annotated[str | None, typer.Option("--id", help="Field that identifies an event.")] = None,
    topic: Annotated[str | None, typer.Option(help="Default: the subject without -value.")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="The Python file to write. Default: it is printed.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite the file.")] = False,
) -> None:
    """Make an event class of a schema: the Python to begin a pipeline with.

    Example: millrace schema import payments-value --entity card --id payment_id --to fraud.py
    """
    from flink_jobs.schema_import_command import run_schema_import_command
    from udfs.event_class_text import Roles

    run_schema_import_command(
        _settings(), subject=subject, file=file, version=version, message=message, topic=topic, target=to,
        roles=Roles(entity, time, event_id), replace=replace,
    )  # fmt: skip
