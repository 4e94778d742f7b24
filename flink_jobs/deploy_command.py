"""`millrace deploy kubernetes`: manifests, checked against the operator's schema if one is given."""

from pathlib import Path
from typing import Any

import yaml

from flink_jobs.console import CommandError, next_steps, say, show
from flink_jobs.kubernetes_manifests import IMAGE_PIPELINES, Deployment, manifests
from flink_jobs.kubernetes_schema import faults
from flink_jobs.preflight import check_models
from flink_jobs.security_settings import FILE_SETTINGS
from flink_jobs.settings import Settings
from flink_jobs.topics import Engine
from udfs.pipeline import Pipeline

LOOPBACK = ("127.", "localhost", "[::1]")
HEADER = "# Made by `millrace deploy kubernetes`; change its options rather than this file.\n"


def run_deploy_kubernetes_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    *,
    engine: Engine,
    image: str | None,
    schema: Path | None,
    target: Path | None,
    **places: Any,
) -> None:
    """Write or print the manifests.

    Args:
        pipeline: What is deployed.
        name: As the user called it: a shipped pipeline's name or a file's path.
        settings: Those that are set go into the pods' environment, but secrets.
        engine: What runs it.
        image: None is the image of docker/Dockerfile, which has the shipped pipelines.
        schema: The operator's CustomResourceDefinition.
        target: File to write; None prints.
        places: Further attributes of `Deployment`.
    """
    own = name.endswith(".py")
    if image is None and own:
        raise CommandError(
            f"--image is missing: {name} must be in it, and its model. Build one `FROM {_default_image()}` with "
            f"`COPY {Path(name).name} {IMAGE_PIPELINES}/` and the models' folder beside it"
        )
    _check_reachable(settings)
    _check_secret(settings, places["secret"])
    check_models(pipeline)
    deployment = Deployment(
        pipeline=str(IMAGE_PIPELINES / Path(name).name) if own else name,
        image=image or _default_image(),
        bootstrap=settings.bootstrap,
        engine=engine,
        **places,
    )
    documents = manifests(pipeline, settings, deployment)
    if schema is not None:
        _check(documents, schema)
    text = HEADER + yaml.safe_dump_all(documents, sort_keys=False, width=120)
    if target is None:
        show(text.rstrip("\n"))
    else:
        target.write_text(text, "utf-8")
        say(f"wrote {target}")
    _say_next(documents, target)


def _default_image() -> str:
    from importlib.metadata import version

    return f"millrace:{version('millrace')}"


def _check_reachable(settings: Settings) -> None:
    for server in settings.bootstrap.split(","):
        if server.strip().startswith(LOOPBACK):
            raise CommandError(
                f"bootstrap is {settings.bootstrap}, which in a pod is the pod itself: "
                "name Kafka as pods reach it with --bootstrap"
            )


def _check_secret(settings: Settings, secret: str | None) -> None:
    if secret is not None:
        return
    if "kafka_properties" in settings.model_fields_set and settings.kafka_properties:
        raise CommandError(
            "kafka_properties are set and name things of this machine, so they are not written down: put them into a "
            "Secret as MILLRACE_KAFKA_PROPERTIES (JSON) and name it with --secret"
        )
    files = [name for name in FILE_SETTINGS if getattr(settings, name) is not None]
    if files:
        made = " ".join(f"--from-file={name}={getattr(settings, name)}" for name in files)
        raise CommandError(
            f"{', '.join(files)}: the pods need these files; make a Secret of them, `kubectl create secret generic "
            f"millrace {made}`, and name it with --secret"
        )


def _check(documents: list[dict[str, Any]], schema: Path) -> None:
    found = faults(documents, yaml.safe_load(schema.read_text("utf-8")))
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise CommandError(f"the operator's schema in {schema} does not allow it: {found[0]}{more}")
    say(f"allowed by the schema in {schema}")


def _say_next(documents: list[dict[str, Any]], target: Path | None) -> None:
    name = documents[-1]["metadata"]["name"]
    where = f" --namespace {space}" if (space := documents[-1]["metadata"].get("namespace")) else ""
    next_steps(
        (f"kubectl apply{where} --filename {target or '-'}", "start it, or upgrade it through a savepoint"),
        (f"kubectl get{where} flinkdeployment {name}", "how it is"),
    )
