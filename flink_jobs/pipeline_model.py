"""A pipeline's model, opened the same way wherever it is: before the job starts, and on every worker."""

from pathlib import Path

from models.onnx_model import OnnxModel
from udfs.pipeline import Pipeline


def open_model(pipeline: Pipeline, folder: Path) -> OnnxModel:
    """The pipeline's model from its version folder, checked against the pipeline's features."""
    return OnnxModel.load(
        folder,
        feature_names=pipeline.feature_names,
        feature_set_hash=pipeline.feature_set_hash,
        name=pipeline.model.name,
        version=pipeline.model.version,
        signed_by=pipeline.model.signed_by,
    )
