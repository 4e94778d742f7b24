"""Training set in, checked model folder out: fit, convert to ONNX, compare both, measure on held-out entities."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import skl2onnx
import skl2onnx.common.data_types
import sklearn.ensemble
import sklearn.metrics
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # has no stubs

from models.binding import manifest_for_model
from models.conversion import LARGEST_DIFFERENCE, refuse_difference, worst_row
from models.manifest import MANIFEST_FILE, MODEL_FILE
from models.onnx_model import OnnxModel, open_session
from models.registry import next_version
from models.splits import Split, split_by_entity

Floats = npt.NDArray[np.float64]
Classifier = Any  # HistGradientBoostingClassifier: neither scikit-learn nor skl2onnx has types
_ensemble: Any = sklearn.ensemble
_metrics: Any = sklearn.metrics
_skl2onnx: Any = skl2onnx

LEAST_ENTITIES = 20

_INPUT = "features"
_OPSETS = {"": 17, "ai.onnx.ml": 3}
_BASE_ROWS = 4  # real rows that each threshold is tried on


class TrainingError(ValueError):
    """The training set or the target folder cannot be used; the message says what to change."""


@dataclass(frozen=True)
class Trained:
    """A fitted, converted and checked model that is not on disk yet.

    Attributes:
        model_bytes: Content of `model.onnx`.
        feature_names: The features, one a column.
        metrics: AUC, log loss and Brier score of the ONNX model (and the baseline) on held-out entities, sizes of the
            splits, largest difference to the source model.
        training_data_sha256: Digest of features, labels, groups and names.
    """

    model_bytes: bytes
    feature_names: tuple[str, ...]
    metrics: Mapping[str, Any]
    training_data_sha256: str

    def save(
        self,
        root: Path,
        *,
        name: str,
        version: int,
        feature_set_hash: Callable[[Sequence[str]], str],
        description: str = "",
        replace: bool = False,
    ) -> Path:
        """Write `<root>/<name>/<version>/` and open it once as a worker would.

        Args:
            root: The folder of all models.
            name: The model's name.
            version: The model's version; see `next_version`.
            feature_set_hash: `pipeline.feature_set_hash`.
            description: One sentence for people.
            replace: Overwrite a version that is there already.

        Returns:
            The folder of the version.

        Raises:
            TrainingError: The version is there already.
        """
        directory = root / name / str(version)
        if not replace and any((directory / each).exists() for each in (MODEL_FILE, MANIFEST_FILE)):
            message = f"{directory} holds a model already: save as version {next_version(root, name)}, or replace it"
            raise TrainingError(message)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MODEL_FILE).write_bytes(self.model_bytes)
        manifest = manifest_for_model(
            directory / MODEL_FILE,
            name=name,
            version=version,
            features=self.feature_names,
            feature_set_hash=feature_set_hash(self.feature_names),
            output="probabilities",
            column=1,
            description=description,
            metrics=self.metrics,
            training_data_sha256=self.training_data_sha256,
        )
        manifest.write(directory)
        OnnxModel.load(directory, feature_names=self.feature_names, feature_set_hash=feature_set_hash)
        return directory


def train_classifier(
    features: Floats,
    labels: npt.NDArray[Any],
    groups: npt.NDArray[Any],
    *,
    feature_names: Sequence[str],
    baseline: Floats | None = None,
    split: Split | None = None,
    seed: int = 0,
    trees: int = 100,
    leaves: int = 16,
    learning_rate: float = 0.1,
    least_rows_per_leaf: int = 20,
) -> Trained:
    """Fit gradient-boosted trees and convert them to ONNX.

    Without a split, rows of one entity are all in one part, so the metrics say how the model does on entities it never
    saw. Boosting stops when the validation rows gain nothing more. The same arguments give the same bytes.

    Args:
        features: (n_rows, n_features) float64; NaN is a missing value and takes the branch that fitted best.
        labels: (n_rows,) of 0 and 1.
        groups: (n_rows,) entity of each row, text or number.
        feature_names: The columns' names.
        baseline: (n_rows,) scores in [0, 1] to measure on the same held-out rows, for comparison.
        split: Which rows to fit and to measure on; by default by entity. With a split by time the metrics also say
            how the model does on entities it was fitted on and on new ones.
        seed: Of the split and of the fit.
        trees: Most trees.
        leaves: Most leaves of a tree.
        learning_rate: Share of a tree's answer that is used.
        least_rows_per_leaf: Fewest training rows of a leaf.

    Returns:
        The model; `Trained.save` writes it.

    Raises:
        TrainingError: Shapes, labels or the number of entities do not allow training.
        ConversionError: The ONNX graph differs from the source model by more than `LARGEST_DIFFERENCE`.
    """
    _check_training_set(features, labels, groups, feature_names, baseline)
    if split is None:
        _check_entities(groups)
        split = split_by_entity(groups, seed)
    # the graph takes float32: fitted on anything finer, a threshold could fall between a value and its rounding
    with np.errstate(over="ignore"):
        matrix = np.ascontiguousarray(features, dtype=np.float32)
    truth = labels.astype(np.int64)
    fit, validation, test = split.training, split.validation, split.test
    for part, rows in split.parts():
        if len(np.unique(truth[rows])) != 2:
            message = f"all {rows.sum()} {part} rows have one label: bring more entities of the other label"
            if split.facts:
                message = (
                    f"{rows.sum()} {part} rows do not have both labels (rows whose labels look into the next part of "
                    "the time are left out): bring a longer history, or labels with a shorter horizon"
                )
            raise TrainingError(message)
    for name, is_missing in zip(feature_names, np.isnan(matrix[fit]).all(axis=0), strict=True):
        if is_missing:
            message = f"feature {name!r} is missing in every training row: leave it out or bring a longer history"
            raise TrainingError(message)
    model = _ensemble.HistGradientBoostingClassifier(
        max_iter=trees,
        max_leaf_nodes=leaves,
        learning_rate=learning_rate,
        min_samples_leaf=least_rows_per_leaf,
        early_stopping=True,
        random_state=seed,
    )
    with threadpool_limits(1):  # sums in an order that the number of cores does not change
        model.fit(matrix[fit], truth[fit], X_val=matrix[validation], y_val=truth[validation])
    _round_thresholds_down(model)
    model_bytes = _convert(model, len(feature_names))
    probability, difference = _check_conversion(model, model_bytes, matrix[test], feature_names, seed)
    metrics = {
        "model": _scores(truth[test], probability),
        **({} if baseline is None else {"baseline": _scores(truth[test], baseline[test])}),
        "trees": int(model.n_iter_),
        "largest_conversion_difference": difference,
        "rows": {"training": int(fit.sum()), "validation": int(validation.sum()), "test": int(test.sum())},
        "test_positive_share": float(truth[test].mean()),
        **(_scores_by_entity(groups, split, truth, probability) if split.facts else {}),
        **split.facts,
    }
    digest = _training_data_sha256(features, truth, groups, feature_names)
    return Trained(model_bytes, tuple(feature_names), metrics, digest)


def _check_training_set(
    features: Floats,
    labels: npt.NDArray[Any],
    groups: npt.NDArray[Any],
    feature_names: Sequence[str],
    baseline: Floats | None,
) -> None:
    rows = len(features)
    if features.ndim != 2 or features.shape[1] != len(feature_names):
        message = f"features have shape {features.shape}: give one column for each of {len(feature_names)} names"
        raise TrainingError(message)
    for name, column in (("labels", labels), ("groups", groups), ("baseline", baseline)):
        if column is not None and column.shape != (rows,):
            message = f"{name} have shape {column.shape}: give one value for each of {rows} rows"
            raise TrainingError(message)
    if not np.isin(labels, (0, 1)).all():
        message = "labels hold other values than 0 and 1: give 1 for rows where it happened, 0 for the others"
        raise TrainingError(message)
    if baseline is not None and not ((baseline >= 0) & (baseline <= 1)).all():
        message = "baseline holds values outside 0 to 1: give probabilities"
        raise TrainingError(message)


def _check_entities(groups: npt.NDArray[Any]) -> None:
    entities = len(np.unique(groups))
    if entities < LEAST_ENTITIES:
        message = f"{entities} entities are too few to hold some out: bring at least {LEAST_ENTITIES}"
        raise TrainingError(message)


def _round_thresholds_down(model: Classifier) -> None:
    """Move each threshold to the float32 at or below it: no float32 changes its side, and the graph can hold it."""
    for (predictor,) in model._predictors:
        exact = predictor.nodes["num_threshold"]
        nearest = exact.astype(np.float32)
        below = np.where(nearest > exact, np.nextafter(nearest, np.float32(-np.inf)), nearest)
        predictor.nodes["num_threshold"] = below.astype(np.float64)


def _convert(model: Classifier, width: int) -> bytes:
    converted = _skl2onnx.convert_sklearn(
        model,
        name="classifier",
        initial_types=[(_INPUT, _skl2onnx.common.data_types.FloatTensorType([None, width]))],
        options={id(model): {"zipmap": False}},
        target_opset=_OPSETS,
    )
    return bytes(converted.SerializeToString(deterministic=True))


def _check_conversion(
    model: Classifier,
    model_bytes: bytes,
    held_out: npt.NDArray[np.float32],
    feature_names: Sequence[str],
    seed: int,
) -> tuple[Floats, float]:
    """Compare on held-out rows and on rows at the thresholds; (n_held_out,) from ONNX and the largest difference."""
    rows = np.concatenate([held_out, _rows_at_thresholds(model, held_out, seed)])
    session = open_session(model_bytes, "the converted model")
    converted = session.run(["probabilities"], {_INPUT: rows})[0][:, 1].astype(np.float64)
    worst = worst_row(converted, model.predict_proba(rows)[:, 1])
    refuse_difference(worst, rows, feature_names, LARGEST_DIFFERENCE)
    return converted[: len(held_out)], worst.difference


def _rows_at_thresholds(model: Classifier, held_out: npt.NDArray[np.float32], seed: int) -> npt.NDArray[np.float32]:
    """Real rows with one value put at a threshold, just below it, just above it, or taken away."""
    nodes = np.concatenate([predictor.nodes for (predictor,) in model._predictors])
    branches = nodes[nodes["is_leaf"] == 0]
    at = branches["num_threshold"].astype(np.float32)
    lowest, highest = np.float32(-np.inf), np.float32(np.inf)
    values = np.concatenate([at, np.nextafter(at, lowest), np.nextafter(at, highest), np.full_like(at, np.nan)])
    columns = np.tile(branches["feature_idx"], 4)
    bases = np.random.default_rng(seed).integers(len(held_out), size=(_BASE_ROWS, len(values)))
    rows = held_out[bases]
    rows[:, np.arange(len(values)), columns] = values
    return rows.reshape(-1, held_out.shape[1])


def _scores(truth: npt.NDArray[np.int64], probability: Floats) -> dict[str, float]:
    return {
        "auc": float(_metrics.roc_auc_score(truth, probability)),
        "log_loss": float(_metrics.log_loss(truth, probability)),
        "brier": float(_metrics.brier_score_loss(truth, probability)),
    }


def _scores_by_entity(
    groups: npt.NDArray[Any], split: Split, truth: npt.NDArray[np.int64], probability: Floats
) -> dict[str, Any]:
    """Scores of the test rows whose entities the model was fitted on, and of the others, where both labels occur."""
    known = np.isin(groups[split.test], np.unique(groups[split.training]))
    found: dict[str, Any] = {}
    for name, rows in (("known_entities", known), ("new_entities", ~known)):
        came = truth[split.test][rows]
        scores = _scores(came, probability[rows]) if len(np.unique(came)) == 2 else {}
        found[name] = {"rows": int(rows.sum()), **scores}
    return found


def _training_data_sha256(
    features: Floats, truth: npt.NDArray[np.int64], groups: npt.NDArray[Any], feature_names: Sequence[str]
) -> str:
    digest = hashlib.sha256(json.dumps([list(feature_names), groups.tolist()]).encode())
    one_nan = np.where(np.isnan(features), np.nan, features)  # NaN has many bit patterns
    digest.update(one_nan.astype("<f8").tobytes())
    digest.update(truth.astype("<i8").tobytes())
    return digest.hexdigest()
