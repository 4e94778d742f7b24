"""A pipeline's models, opened the same way wherever it is: before the job starts, and on every worker."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from flink_jobs.pipelines import model_folder, shipped_model
from models.budget import TimedModel
from models.manifest import Manifest
from models.onnx_model import OnnxModel
from udfs.fallbacks import OtherModel
from udfs.ladder import OpenedRung
from udfs.pipeline import Pipeline
from udfs.receipts import NamedModel


def open_model(pipeline: Pipeline, folder: Path) -> OnnxModel:
    """The pipeline's model from its version folder, checked against the pipeline's features."""
    return OnnxModel.load(
        folder,
        feature_names=pipeline.feature_names,
        feature_set_hash=pipeline.feature_set_hash,
        prediction=pipeline.outputs,
        name=pipeline.model.name,
        version=pipeline.model.version,
        signed_by=pipeline.model.signed_by,
    )


def with_other_models(pipeline: Pipeline) -> dict[int, Pipeline]:
    """The pipeline with each of the other models on its ladder as its own, by version."""
    versions = [each.version for each in pipeline.fallbacks if isinstance(each, OtherModel)]
    return {
        version: dataclasses.replace(
            pipeline, model=dataclasses.replace(pipeline.model, version=version), fallbacks=()
        )
        for version in versions
    }


def other_folders(pipeline: Pipeline) -> dict[int, Path]:
    """Where the other models on the pipeline's ladder lie, by version."""
    return {version: model_folder(other) for version, other in with_other_models(pipeline).items()}


def open_others(pipeline: Pipeline, folders: Mapping[int, Path]) -> dict[int, OpenedRung]:
    """The other models on the pipeline's ladder, by version.

    Args:
        pipeline: Whose.
        folders: Where they lie; those that are not there were shipped with this code.
    """
    opened = {}
    for version, other in with_other_models(pipeline).items():
        model = open_model(other, folders.get(version) or shipped_model(other))
        opened[version] = OpenedRung(within_budget(pipeline, model), named_model(model.manifest))
    return opened


def named_model(manifest: Manifest) -> NamedModel:
    """What receipts say of a model."""
    return NamedModel(manifest.name, str(manifest.version), manifest.sha256, manifest.feature_set_hash)


def within_budget(pipeline: Pipeline, model: OnnxModel) -> OnnxModel | TimedModel:
    """The model as events are scored with it."""
    return model if pipeline.model_budget_ms is None else TimedModel(model, pipeline.model_budget_ms)
