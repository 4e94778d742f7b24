"""`millrace serve`."""

from typing import Annotated

import typer

from flink_jobs.cli_options import AsJson, PipelineName, resolved_settings
from flink_jobs.console import command


@command
def serve(
    name: PipelineName,
    host: Annotated[str, typer.Option(help="Address to listen at; it asks nobody who they are.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen at.")] = 8080,
    most_in_flight: Annotated[
        int, typer.Option("--in-flight", min=1, help="Most requests at once; others are answered 429.")
    ] = 1_000,
    timeout_ms: Annotated[
        int, typer.Option("--timeout", min=1, max=60_000, help="How long to wait for the job, in ms.")
    ] = 5_000,
    as_json: AsJson = False,
) -> None:
    """Answer requests for scores over HTTP, with the help of the running job, until Ctrl-C.

    Example: millrace serve fraud.py --port 8080
    """
    from flink_jobs.local.home import connected
    from flink_jobs.pipelines import load_pipeline
    from flink_jobs.serve_command import run_serve_command

    run_serve_command(
        load_pipeline(name), name, connected(resolved_settings()), host=host, port=port, most_in_flight=most_in_flight,
        timeout_ms=timeout_ms, as_json=as_json,
    )  # fmt: skip
