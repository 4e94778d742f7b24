"""One version put to the test: whole, for these features, alive in a trial, and how fast."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.fetching import fetch_version
from models.json_document import ModelRefusedError, ModelUnreachableError
from models.manifest import ModelMismatchError
from models.onnx_model import OnnxModel, PredictionError
from models.outputs import Outputs
from models.trial import try_out

BATCHES = (1, 100)
_LEAST_S = 0.1  # of measuring a batch size


@dataclass(frozen=True)
class Check:
    """What came of a version.

    Attributes:
        problem: The first thing that is wrong; None if nothing is.
        us_a_row: {rows in a call: µs a row, the fastest of several calls}; empty if it cannot score.
    """

    problem: str | None
    us_a_row: dict[int, float]


def check_version(
    root: str | Path,
    name: str,
    version: int,
    *,
    feature_names: Sequence[str],
    feature_set_hash: Callable[[Sequence[str]], str],
    prediction: Outputs | None = None,
) -> Check:
    """Fetch a version, try it out alone in a process, open it for a pipeline's features and outputs, and time it."""
    try:
        folder = fetch_version(root, name, version)
        try_out(folder)
        model = OnnxModel.load(
            folder, feature_names=feature_names, feature_set_hash=feature_set_hash, name=name, version=version,
            prediction=prediction,
        )  # fmt: skip
        return Check(None, {rows: us_a_row(model, feature_names, rows) for rows in BATCHES})
    except (ModelRefusedError, ModelMismatchError, ModelUnreachableError, PredictionError) as error:
        return Check(" ".join(str(error).split()), {})


def us_a_row(model: OnnxModel, feature_names: Sequence[str], rows: int) -> float:
    """µs that a row takes in calls of so many rows: the fastest of several, as others use the machine too."""
    row = np.ones(len(feature_names))
    for name, value in zip(model.manifest.features, model.manifest.example or (), strict=False):
        row[list(feature_names).index(name)] = value
    features = np.tile(row, (rows, 1))
    fastest, ends = float("inf"), time.perf_counter() + _LEAST_S
    while time.perf_counter() < ends:
        begun = time.perf_counter()
        model.predict(features)
        fastest = min(fastest, time.perf_counter() - begun)
    return fastest / rows * 1e6
