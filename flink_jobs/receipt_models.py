"""The models that receipts name, found again and checked; a receipt that cannot be checked says why."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from flink_jobs.pipelines import model_root
from models.fetching import fetch_version
from models.json_document import ModelRefusedError, ModelUnreachableError
from models.manifest import ModelMismatchError
from models.onnx_model import OnnxModel
from udfs.fallbacks import OTHER_MODEL
from udfs.pipeline import Pipeline

RECEIPT_NAMES = ("model", "model-version", "model-sha256", "feature-set", "fallback")
"""The headers that say what scored, without their prefix, in the order of `ReceiptModel`."""


class ReceiptModel(NamedTuple):
    """What a receipt says of the model and the features; `fallback` is what scored in its place, if it did not."""

    topic: str
    model: str
    version: str
    sha256: str
    feature_set: str
    fallback: str = ""

    @property
    def by_model(self) -> bool:
        """Whether the score is that of the model."""
        return not self.fallback or self.fallback.startswith(OTHER_MODEL)

    @classmethod
    def of(cls, receipt: Mapping[str, str]) -> "ReceiptModel":
        """What these headers say, without their prefix."""
        return cls(*(receipt.get(name, "") for name in ("topic", *RECEIPT_NAMES)))


class ReceiptModels:
    """Opens each model once.

    Args:
        pipeline: Whose folder of models is looked in, and whose features they get.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, self._root = pipeline, model_root(pipeline)
        self._opened: dict[ReceiptModel, OnnxModel | str] = {}

    def model(self, named: ReceiptModel) -> OnnxModel | str:
        """The model, or in one line why predictions with this receipt cannot be verified."""
        named = named._replace(fallback="")
        if named not in self._opened:
            self._opened[named] = self._open(named)
        return self._opened[named]

    def _open(self, named: ReceiptModel) -> OnnxModel | str:
        pipeline, label = self._pipeline, f"{named.model}/{named.version}"
        if named.topic != pipeline.events.topic:
            return f"of topic {named.topic or '?'}, the pipeline reads {pipeline.events.topic}"
        # names of receipts become a path: only what a folder of ours can be called
        plain = named.model.replace("-", "").replace("_", "").replace(".", "").isalnum() and named.version.isdecimal()
        if not plain or (isinstance(self._root, Path) and not (self._root / named.model / named.version).is_dir()):
            return f"model {label} is not in {self._root}"
        try:
            folder = self._folder(named)
        except (ModelRefusedError, ModelUnreachableError) as error:
            return f"model {label} cannot be had: {error}"
        return self._checked(named, folder)

    def _folder(self, named: ReceiptModel) -> Path:
        if isinstance(self._root, Path):
            return self._root / named.model / named.version
        signed = self._pipeline.model.signed_by is not None
        return fetch_version(self._root, named.model, int(named.version), signed=signed)

    def _checked(self, named: ReceiptModel, folder: Path) -> OnnxModel | str:
        label = f"{named.model}/{named.version}"
        try:
            model = OnnxModel.load(
                folder,
                feature_names=self._pipeline.feature_names,
                feature_set_hash=self._pipeline.feature_set_hash,
                prediction=self._pipeline.outputs,
                name=named.model,
                version=int(named.version),
                signed_by=self._pipeline.model.signed_by,
            )
        except ModelMismatchError:
            if named.feature_set == self._pipeline.feature_set_hash():
                return f"model {label} does not give {self._pipeline.outputs.text}"
            return (
                f"model {label} takes a feature set ({named.feature_set:.12}) that the pipeline does not have any more"
            )
        except ModelRefusedError as error:
            return f"model {label} cannot be opened: {error}"
        if model.manifest.sha256 != named.sha256:
            return f"model {label} is another one now: sha256 {model.manifest.sha256:.12}, not {named.sha256:.12}"
        if model.manifest.feature_set_hash != named.feature_set:
            return f"feature set {named.feature_set:.12} is not the one of model {label}"
        return model
