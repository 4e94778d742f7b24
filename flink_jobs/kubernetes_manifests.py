"""A pipeline as manifests for the Flink Kubernetes operator: an application cluster, and a claim for its checkpoints.

Values in, documents out. What the job itself needs, `flink_jobs/application.py` takes from the settings in the pod's
environment; here is only what Flink and Kubernetes must know before it runs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from flink_jobs.application import DRIVER, MODULE
from flink_jobs.console import CommandError
from flink_jobs.kafka_security import java_options
from flink_jobs.security_settings import FILE_SETTINGS
from flink_jobs.settings import ENVIRONMENT_PREFIX, Settings
from flink_jobs.topics import SQL, Engine, run_name
from udfs.pipeline import Pipeline

IMAGE_PIPELINES = PurePosixPath("/opt/millrace/pipelines")
"""Where the image has pipelines of your own (docker/Dockerfile)."""
IMAGE_PYTHON = "/opt/millrace/venv/bin/python"
IMAGE_USER = 9999  # flink, in Flink's image
STATE_MOUNT = "/var/lib/millrace"
SECRET_MOUNT = "/var/run/secrets/millrace"  # noqa: S105  # a folder
"""Where the files of the Secret are, each by the name of its setting, like kafka_password_file."""
JOBMANAGER_MB = 1_600
TASKMANAGER_MB = 800
SLOT_MB = 900
"""What each slot adds to a TaskManager: heap, network buffers, and the two below."""
PYTHON_WORKER_MB = 350
"""A Python worker lives beside the JVM, within the pod's limit: one a slot, 245 MB as measured, and room for state."""
STATE_BACKEND_MB = 128
OPERATOR_NAME = re.compile(r"[a-z]([-a-z\d]{0,43}[a-z\d])?")
"""What the operator takes for a FlinkDeployment's name."""
FILE_SYSTEMS = {
    "s3": "flink-s3-fs-presto",
    "gs": "flink-gs-fs-hadoop",
    "abfs": "flink-azure-fs-hadoop",
    "abfss": "flink-azure-fs-hadoop",
    "oss": "flink-oss-fs-hadoop",
}
"""Schemes of checkpoint folders, and the plugin in Flink's image that reads them."""
NOT_FOR_PODS = (
    "home", "checkpoint_folder", "cluster", "worker_python", "kafka_properties", "bootstrap", "parallelism",
)  # fmt: skip
"""Settings of this machine, and those that the manifest says in another place."""


@dataclass(frozen=True)
class Deployment:
    """Where and how a pipeline is deployed.

    Attributes:
        pipeline: A shipped pipeline's name, or the name of its file in the image's folder of pipelines.
        image: With Millrace, the pipeline and its model in it.
        bootstrap: Kafka, as the pods reach it.
        engine: What runs the pipeline.
        namespace: Of all objects; None leaves it to kubectl.
        checkpoints: URI of the folder for checkpoints; None is a claim for a shared volume.
        storage: Size of that claim.
        storage_class: Of that claim; None is the cluster's default. It must allow ReadWriteMany.
        secret: Secret whose keys become environment variables, like MILLRACE_KAFKA_PROPERTIES, and files by the names
            of their settings, like kafka_password_file, if any of those is set.
        service_account: That may make pods; the operator's chart makes `flink`.
        slots: Subtasks a TaskManager.
    """

    pipeline: str
    image: str
    bootstrap: str
    engine: Engine
    namespace: str | None = None
    checkpoints: str | None = None
    storage: str = "10Gi"
    storage_class: str | None = None
    secret: str | None = None
    service_account: str = "flink"
    slots: int = 1


def manifests(pipeline: Pipeline, settings: Settings, deployment: Deployment) -> list[dict[str, Any]]:
    """The documents, in the order in which to apply them.

    Raises:
        CommandError: The operator would refuse the name, or the checkpoints' URI has no plugin.
    """
    name = object_name(pipeline, deployment.engine)
    flink = {
        "apiVersion": "flink.apache.org/v1beta1",
        "kind": "FlinkDeployment",
        "metadata": _metadata(name, deployment),
        "spec": _spec(name, settings, deployment),
    }
    return [flink] if deployment.checkpoints else [_claim(name, deployment), flink]


def object_name(pipeline: Pipeline, engine: Engine) -> str:
    """The FlinkDeployment's name, like millrace-purchase."""
    name = f"millrace-{run_name(pipeline, engine)}".replace("_", "-").replace(".", "-").lower()
    if not OPERATOR_NAME.fullmatch(name):
        raise CommandError(f"the operator takes no name like {name!r}: at most 45 letters, digits and hyphens")
    return name


def _metadata(name: str, deployment: Deployment) -> dict[str, Any]:
    namespace = {"namespace": deployment.namespace} if deployment.namespace else {}
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "millrace"}
    return {"name": name, **namespace, "labels": labels}


def _claim(name: str, deployment: Deployment) -> dict[str, Any]:
    storage_class = {"storageClassName": deployment.storage_class} if deployment.storage_class else {}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _metadata(name, deployment),
        "spec": {
            # the JobManager and all TaskManagers write to it, on whatever nodes they are
            "accessModes": ["ReadWriteMany"],
            **storage_class,
            "resources": {"requests": {"storage": deployment.storage}},
        },
    }


def _spec(name: str, settings: Settings, deployment: Deployment) -> dict[str, Any]:
    slots = deployment.slots
    arguments = ["-pym", MODULE, deployment.pipeline]
    if deployment.engine == SQL:
        arguments += ["--engine", SQL]
    return {
        "image": deployment.image,
        "imagePullPolicy": "IfNotPresent",
        "flinkVersion": "v" + "_".join(version("apache-flink").split(".")[:2]),
        "mode": "native",
        "serviceAccount": deployment.service_account,
        "flinkConfiguration": _flink_configuration(name, settings, deployment),
        "podTemplate": _pod_template(name, settings, deployment),
        "jobManager": {"replicas": 1, "resource": {"cpu": 1, "memory": f"{JOBMANAGER_MB}m"}},
        "taskManager": {"resource": {"cpu": slots, "memory": f"{TASKMANAGER_MB + slots * SLOT_MB}m"}},
        "job": {
            "jarURI": f"local:///opt/flink/opt/flink-python-{version('apache-flink')}.jar",
            "entryClass": DRIVER,
            "args": arguments,
            "parallelism": settings.parallelism,
            "upgradeMode": "savepoint",
            "state": "running",
        },
    }


def _flink_configuration(name: str, settings: Settings, deployment: Deployment) -> dict[str, str]:
    options = " ".join(java_options(settings.kafka_properties))
    folder = (deployment.checkpoints or f"file://{STATE_MOUNT}").rstrip("/") + f"/{name}"
    return {
        "execution.checkpointing.dir": f"{folder}/checkpoints",
        "execution.checkpointing.savepoint-dir": f"{folder}/savepoints",
        "high-availability.type": "kubernetes",
        "high-availability.storageDir": f"{folder}/high-availability",
        "python.executable": IMAGE_PYTHON,
        "python.client.executable": IMAGE_PYTHON,
        "taskmanager.memory.managed.size": f"{deployment.slots * STATE_BACKEND_MB}m",
        "taskmanager.memory.task.off-heap.size": f"{deployment.slots * PYTHON_WORKER_MB}m",
        "taskmanager.numberOfTaskSlots": str(deployment.slots),
        "web.submit.enable": "false",
        **({"env.java.opts.jobmanager": options, "env.java.opts.taskmanager": options} if options else {}),
    }


def _pod_template(name: str, settings: Settings, deployment: Deployment) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "flink-main-container",
        "env": [{"name": key, "value": value} for key, value in _environment(settings, deployment).items()],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if deployment.secret:
        container["envFrom"] = [{"secretRef": {"name": deployment.secret}}]
    pod: dict[str, Any] = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": IMAGE_USER,
            "runAsGroup": IMAGE_USER,
            "fsGroup": IMAGE_USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    mounts: list[dict[str, Any]] = []
    volumes: list[dict[str, Any]] = []
    if not deployment.checkpoints:
        mounts.append({"name": "state", "mountPath": STATE_MOUNT})
        volumes.append({"name": "state", "persistentVolumeClaim": {"claimName": name}})
    if settings.model_fields_set & set(FILE_SETTINGS):
        mounts.append({"name": "secrets", "mountPath": SECRET_MOUNT, "readOnly": True})
        volumes.append({"name": "secrets", "secret": {"secretName": deployment.secret, "defaultMode": 0o440}})
    if mounts:
        container["volumeMounts"], pod["volumes"] = mounts, volumes
    return {"spec": pod}


def _environment(settings: Settings, deployment: Deployment) -> dict[str, str]:
    """What the job's settings are in the pod: those that somebody set here, and Kafka's address."""
    chosen: Mapping[str, object] = settings.model_dump(include=settings.model_fields_set - set(NOT_FOR_PODS))
    said = {
        name: f"{SECRET_MOUNT}/{name}" if name in FILE_SETTINGS else str(value)
        for name, value in sorted(chosen.items())
        if value is not None
    }
    environment = {"bootstrap": deployment.bootstrap, **said}
    plugin = _plugin(deployment.checkpoints)
    # Flink's image puts it in place at the start; a plugin is not loaded from opt/
    enabled = {"ENABLE_BUILT_IN_PLUGINS": f"{plugin}-{version('apache-flink')}.jar"} if plugin else {}
    return {f"{ENVIRONMENT_PREFIX}{name.upper()}": value for name, value in environment.items()} | enabled


def _plugin(checkpoints: str | None) -> str | None:
    if checkpoints is None:
        return None
    scheme = urlsplit(checkpoints).scheme
    if scheme == "file":
        return None
    if scheme not in FILE_SYSTEMS:
        known = ", ".join(f"{each}://" for each in FILE_SYSTEMS)
        raise CommandError(f"--checkpoints is {checkpoints!r}: write a URI with {known} or file://")
    return FILE_SYSTEMS[scheme]
