"""What must hold before a job starts; each failure is one clear line."""

import os
import uuid
from functools import cache
from pathlib import Path

from flink_jobs.kafka_admin import (
    KafkaAdminError,
    check_group,
    topic_partitions,
    transaction_max_timeout_ms,
    wait_for_broker,
)
from flink_jobs.pipeline_model import open_model, with_other_models
from flink_jobs.pipelines import model_folder
from flink_jobs.settings import Settings
from flink_jobs.topics import requests_id, topic_specs
from models.json_document import ModelRefusedError, ModelUnreachableError
from models.manifest import MODEL_FILE, ModelMismatchError
from models.onnx_model import OnnxModel
from models.signing import SigningKeyError, check_signed_model
from models.trial import try_out
from udfs.pipeline import Pipeline

BROKER_WAIT_S = 10.0


class PreflightError(RuntimeError):
    """The job cannot run as things are."""


def preflight(pipeline: Pipeline, settings: Settings) -> None:
    """Check broker, topics, transaction timeout, checkpoint folder and model.

    Raises:
        PreflightError: Naming what is wrong and what to do.
    """
    check_models(pipeline)
    check_guarantee(pipeline, settings)
    check_folder(settings.checkpoints)
    check_kafka(pipeline, settings)


def check_kafka(pipeline: Pipeline, settings: Settings) -> None:
    """Whether the broker answers, has the topics and allows the transactions."""
    _check_timeouts(settings)
    try:
        wait_for_broker(settings.bootstrap, settings.kafka_properties, timeout_s=BROKER_WAIT_S)
        names = [spec.name for spec in topic_specs(pipeline)]
        missing = sorted(set(names) - set(topic_partitions(settings.bootstrap, names, settings.kafka_properties)))
        if missing:
            raise PreflightError(
                f"topic {', '.join(missing)} does not exist; create it with `millrace topics create {pipeline.name}`"
            )
        if pipeline.requests_topic is not None:  # a source that may not join its group says so after 45 s only
            check_group(settings.bootstrap, requests_id(pipeline), settings.kafka_properties)
        if settings.guarantee == "exactly-once":
            allowed = transaction_max_timeout_ms(settings.bootstrap, settings.kafka_properties)
            if settings.transaction_timeout_ms > allowed:
                raise PreflightError(
                    f"setting transaction_timeout_ms is {settings.transaction_timeout_ms}, the broker's "
                    f"transaction.max.timeout.ms only {allowed}; lower ours or raise the broker's"
                )
    except KafkaAdminError as error:
        raise PreflightError(str(error)) from error


def check_models(pipeline: Pipeline) -> None:
    """Open the pipeline's model and those on its ladder as a worker will."""
    for each in (pipeline, *with_other_models(pipeline).values()):
        check_model(each)


def check_model(pipeline: Pipeline) -> OnnxModel:
    """Open the pipeline's model as a worker will."""
    try:
        folder = model_folder(pipeline)
    except (ModelRefusedError, ModelUnreachableError) as error:
        raise PreflightError(str(error)) from error
    if not folder.is_dir():
        raise PreflightError(
            f"model {pipeline.model.name} version {pipeline.model.version} does not exist in {folder.parent.parent}; "
            f"train it with `millrace train {pipeline.name}` or name another version in the pipeline"
        )
    try:
        if pipeline.model.signed_by is not None:  # before anything opens it, be it a process of its own
            check_signed_model(folder, pipeline.model.signed_by)
        _try_out_once(folder, (folder / MODEL_FILE).stat().st_mtime_ns if (folder / MODEL_FILE).is_file() else 0)
        return open_model(pipeline, folder)
    except (ModelMismatchError, ModelRefusedError, SigningKeyError) as error:
        raise PreflightError(str(error)) from error


def check_guarantee(pipeline: Pipeline, settings: Settings) -> None:
    """Whether events that come from sources are in their topic once."""
    if pipeline.events.sources and settings.guarantee != "exactly-once":
        raise PreflightError(
            f"setting guarantee is {settings.guarantee}, and {pipeline.name} has sources: after a failure their "
            "records would be in its events' topic twice, and count twice; leave it at exactly-once, and lower "
            "checkpoint_interval_ms to see answers sooner"
        )


@cache
def _try_out_once(folder: Path, _changed_ns: int) -> None:
    try_out(folder)


def check_folder(folder: Path) -> None:
    """Whether checkpoints can be written."""
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise PreflightError(
            f"checkpoint folder {folder} cannot be written ({os.strerror(error.errno or 0)}); set checkpoint_folder"
        ) from error


def _check_timeouts(settings: Settings) -> None:
    longest = settings.checkpoint_interval_ms + settings.checkpoint_timeout_ms + settings.restart_delay_ms
    if settings.guarantee == "exactly-once" and settings.transaction_timeout_ms <= longest:
        raise PreflightError(
            f"setting transaction_timeout_ms is {settings.transaction_timeout_ms}; a transaction may stay open for "
            f"{longest} ms (checkpoint interval + timeout + restart delay) and would be aborted: raise it"
        )
