"""Commands that write down how a pipeline runs elsewhere: their options and help."""

from pathlib import Path
from typing import Annotated

import typer

from flink_jobs.cli_options import PipelineName
from flink_jobs.console import command
from flink_jobs.settings import load_settings

deploy_app = typer.Typer(help="Manifests to run a pipeline elsewhere.", no_args_is_help=True)


@deploy_app.command("kubernetes")
@command
def kubernetes(
    name: PipelineName,
    image: Annotated[
        str | None, typer.Option(help="Image with the pipeline and its model in it. Default: docker/Dockerfile's.")
    ] = None,
    bootstrap: Annotated[str | None, typer.Option(help="Kafka, as pods reach it. Default: the setting.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Of all objects. Default: left to kubectl.")] = None,
    checkpoints: Annotated[
        str | None, typer.Option(metavar="URI", help="Folder like s3://bucket/millrace. Default: a claim for a volume.")
    ] = None,
    storage: Annotated[str, typer.Option(help="Size of that claim.")] = "10Gi",
    storage_class: Annotated[
        str | None, typer.Option(help="Of that claim; it must allow ReadWriteMany. Default: the cluster's.")
    ] = None,
    secret: Annotated[
        str | None, typer.Option(help="Secret whose keys become environment, like MILLRACE_KAFKA_PROPERTIES.")
    ] = None,
    service_account: Annotated[str, typer.Option(help="That may make pods.")] = "flink",
    parallelism: Annotated[int | None, typer.Option(help="Subtasks of every operator.")] = None,
    slots: Annotated[int, typer.Option(min=1, help="Subtasks a TaskManager.")] = 1,
    engine: Annotated[str, typer.Option(help="stream or sql, as for `millrace run`.")] = "stream",
    schema: Annotated[
        Path | None,
        typer.Option(help="Operator's CRD to check against: kubectl get crd flinkdeployments.flink.apache.org -o yaml"),
    ] = None,
    target: Annotated[Path | None, typer.Option("--to", help="File to write. Default: print.")] = None,
) -> None:
    """Write a FlinkDeployment for the Flink Kubernetes operator: its own cluster, upgraded through savepoints.

    Example: millrace deploy kubernetes purchase --bootstrap kafka:9092 | kubectl apply --filename -
    """
    from flink_jobs.deploy_command import run_deploy_kubernetes_command
    from flink_jobs.pipelines import load_pipeline
    from flink_jobs.topics import parse_engine

    run_deploy_kubernetes_command(
        load_pipeline(name), name, load_settings(bootstrap=bootstrap, parallelism=parallelism),
        engine=parse_engine(engine), image=image, namespace=namespace, checkpoints=checkpoints, storage=storage,
        storage_class=storage_class, secret=secret, service_account=service_account, slots=slots, schema=schema,
        target=target,
    )  # fmt: skip
