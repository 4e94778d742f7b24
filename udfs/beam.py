"""A model folder in Apache Beam: a handler for RunInference that opens and scores as the streaming job does.

    handler = MillraceModelHandler("purchase/2")
    rows | RunInference(handler) | beam.Map(lambda result: (result.model_id, result.inference))

Scores have the bits that the job gives the same features, whatever Beam's batches are.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
from apache_beam.metrics.metric import Metrics
from apache_beam.ml.inference.base import ModelHandler, PredictionResult
from typing_extensions import override

from models.json_document import ModelRefusedError
from models.manifest import MANIFEST_FILE, MODEL_FILE, ModelMismatchError
from models.onnx_model import OnnxModel
from models.opened import SHIPPED, find_manifest
from models.providers import VARIABLE
from udfs.feature_rows import rows_of_features
from udfs.refused import Refused
from udfs.scoring import predict_each

ALL_OUTPUTS = "all"
GENERATIONS = 2
"""Models that are open at once: windows of a swap may come by turns."""
_NAMESPACE = "BeamML_Millrace"
_logger = logging.getLogger(__name__)


class LoadedModel:
    """An opened model of the handler; it has only methods, so that Beam may keep it in another process.

    Args:
        model: Takes the features in the order of `features`.
        features: The columns of a row.
        outputs: Graph outputs to give instead of the score; none for the score.
    """

    def __init__(self, model: OnnxModel, features: Sequence[str], outputs: Sequence[str] | None) -> None:
        self._model, self._features, self._outputs = model, features, outputs

    def infer(self, rows: Sequence[Any]) -> tuple[str, list[Any]]:
        """The model's id, `name/version@sha256`, and what it says of each row: see `MillraceModelHandler`."""
        manifest = self._model.manifest
        features, places, found = rows_of_features(rows, self._features)
        for place, inference in zip(places, self._infer(features), strict=True):
            found[place] = inference
        return f"{manifest.name}/{manifest.version}@{manifest.sha256}", found

    def _infer(self, features: npt.NDArray[np.float64]) -> list[Any]:
        if self._outputs is not None:
            return outputs_each(self._model, features, self._outputs)
        prediction = self._model.prediction
        scores, failed = predict_each(self._model, features, prediction)
        scores[list(failed)] = 0.0  # of no meaning, and a label's code must be one
        columns = prediction.columns(scores)
        found: list[Any] = columns[0]
        if not prediction.is_number:
            found = [dict(zip(prediction.names, row, strict=True)) for row in zip(*columns, strict=True)]
        for place, why in failed.items():
            found[place] = why
        return found


class MillraceModelHandler(ModelHandler[Any, PredictionResult, LoadedModel]):
    """Lets Beam's RunInference score rows of features with the model of a folder.

    A row is a dict, named tuple, `beam.Row` or dataclass with the features by name, or a numpy row, list or tuple of
    them in order. None is a missing value. The result's `inference` is the score, a float; of a model with other
    outputs {output: a number, list of numbers or label}; or of chosen outputs of the graph {output: value}; or, for a
    row that cannot be scored, a `udfs.refused.Refused`, whose reason is `missing_field`, `wrong_type` or `model_failed`
    and whose detail says what was wrong. The other rows of its batch are scored.

    `model_metadata_pcoll` and `watch_model_pattern` swap models: a `ModelMetadata.model_id` is a reference as below, or
    the path of the `manifest.json` or `model.onnx` in a folder. A model that cannot be opened, or takes other features,
    is refused: one line goes to the log, the counter `models_refused` rises, and the model before stays.

    Args:
        reference: The first model: `purchase` (its newest version), `purchase/2`, or a version folder (absolute, or
            beginning with a dot); `@` and a sha256 behind it pin the digest. Its manifest is read at once.
        root: Folder of `<name>/<version>/`, by default this project's models/.
        outputs: "all", or names of graph outputs to give instead of the score.
        features: What a row has, in order; by default what the first model takes. More are for models swapped in.
        min_batch_size: Of Beam's batches.
        max_batch_size: Of Beam's batches.
        max_batch_duration_secs: How long a batch may wait, in streaming.
        providers: Where workers score, as the setting `onnx_providers` says: cpu, auto or cuda.

    Raises:
        ModelRefusedError: There is no such model.
    """

    def __init__(
        self,
        reference: str,
        *,
        root: str | Path = SHIPPED,
        outputs: str | Sequence[str] | None = None,
        features: Sequence[str] | None = None,
        min_batch_size: int | None = None,
        max_batch_size: int | None = None,
        max_batch_duration_secs: int | None = None,
        providers: str | None = None,
    ) -> None:
        self._env_vars = {} if providers is None else {VARIABLE: providers}  # Beam sets them on every worker
        self._root, self._reference = Path(root), reference
        _, manifest = find_manifest(reference, self._root)
        self._features = tuple(features or manifest.features)
        self._known = {manifest.features: manifest.feature_set_hash}
        self._outputs = _chosen(outputs)
        sizes = {
            "min_batch_size": min_batch_size,
            "max_batch_size": max_batch_size,
            "max_batch_duration_secs": max_batch_duration_secs,
        }
        self._batching = {name: size for name, size in sizes.items() if size is not None}
        self._first = reference
        self._open: dict[str, LoadedModel] = {}

    @override
    def load_model(self) -> LoadedModel:
        wanted = self._reference
        found = self._open.pop(wanted, None)
        try:
            found = found or self._opened(wanted)
        except (ModelRefusedError, ModelMismatchError) as error:
            if wanted == self._first and not self._open:
                raise
            _logger.error("model %s is refused, the one before stays: %s", wanted, error)
            Metrics.counter(_NAMESPACE, "models_refused").inc()
            if not self._open:  # a worker that begins now has none before: the pipeline was built with the first
                self._open[self._first] = self._opened(self._first)
            return next(reversed(self._open.values()))
        self._open[wanted] = found
        if len(self._open) > GENERATIONS:
            del self._open[next(iter(self._open))]
        return found

    @override
    def run_inference(
        self, batch: Sequence[Any], model: LoadedModel, inference_args: dict[str, Any] | None = None
    ) -> list[PredictionResult]:
        model_id, found = model.infer(batch)
        return [PredictionResult(row, inference, model_id) for row, inference in zip(batch, found, strict=True)]

    @override
    def update_model_path(self, model_path: str | None = None) -> None:
        if not model_path:  # Beam's watcher says so until it has seen a new file
            return
        path = PurePath(model_path)
        if path.name in (MANIFEST_FILE, MODEL_FILE):
            model_path = str(path.parent) if path.is_absolute() else f"./{path.parent}"
        self._reference = model_path

    @override
    def get_num_bytes(self, batch: Sequence[Any]) -> int:
        return len(batch) * len(self._features) * np.dtype(np.float64).itemsize

    @override
    def get_metrics_namespace(self) -> str:
        return _NAMESPACE

    @override
    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        return self._batching

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def _opened(self, reference: str) -> LoadedModel:
        folder, manifest = find_manifest(reference, self._root)
        model = OnnxModel.load(
            folder,
            feature_names=self._features,
            feature_set_hash=lambda names: self._known.get(tuple(names), manifest.feature_set_hash),
            name=manifest.name,
            version=manifest.version,
        )
        return LoadedModel(model, self._features, self._outputs)


def _chosen(outputs: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if outputs is None:
        return None
    if outputs == ALL_OUTPUTS:
        return ()
    return (outputs,) if isinstance(outputs, str) else tuple(outputs)


def outputs_each(model: OnnxModel, features: npt.NDArray[np.float64], names: Sequence[str]) -> list[Any]:
    """Chosen outputs of every row; as `predict_each`, halves until only the rows that fail are left."""
    try:
        return list(model.outputs(features, names))
    except Exception as error:  # whatever a model raises, it is this row's or that row's fault
        if len(features) == 1:
            return [Refused("model_failed", f"{type(error).__name__}: {error}")]
        half = len(features) // 2
        return outputs_each(model, features[:half], names) + outputs_each(model, features[half:], names)
