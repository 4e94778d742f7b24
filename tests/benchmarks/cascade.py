"""What a cascade saves: rows a second of a cheap model with a costly one behind it, against the costly one alone.

    python -m tests.benchmarks.cascade [--quick]

The models alone, as a worker calls them, without Flink. The costly one has 500 boosted trees, the cheap one is a
logistic regression, both of 18 features; what is unsure is chosen so that it is that share of the rows. CPU
time, the fastest of rounds in which all take turns.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import skl2onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.adapting import adapt
from models.adding import Facts, add_version
from models.choices import Choices
from models.combining import Recipe, combine
from models.onnx_checks import describe_bytes
from models.onnx_model import OnnxModel
from models.outputs import Outputs

Floats = npt.NDArray[np.float64]

WIDTH = 18
NAMES = tuple(f"feature_{place}" for place in range(WIDTH))
TREES = 500
SHARES = 0.0, 0.01, 0.1, 0.5, 1.0
"""Of the rows, that the cheap model is unsure of."""
BATCHES = 50, 500, 4_096
_OPSETS: dict[str, int] = {"": 17, "ai.onnx.ml": 3}
_skl2onnx: Any = skl2onnx


def measure(quick: bool) -> dict[str, float]:
    """Prints a table, too."""
    rows, labels = _rows(20_000)
    cheap = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, labels)
    costly = HistGradientBoostingClassifier(max_iter=TREES, early_stopping=False, random_state=0).fit(rows, labels)
    with tempfile.TemporaryDirectory(prefix="millrace-cascade-") as folder:
        models = _models(Path(folder), cheap, costly, rows)
        found = _speeds(models, rows, rounds=3 if quick else 15)
    _print_table(found)
    return found


def _rows(count: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    chance = np.random.default_rng(4)
    rows = chance.normal(0, 1, (count, WIDTH)).astype(np.float32).astype(np.float64)
    logit = rows[:, 0] + rows[:, 1] * rows[:, 2] + np.sin(3 * rows[:, 3])
    return rows, (chance.uniform(0, 1, count) < 1 / (1 + np.exp(-logit))).astype(np.int64)


def _models(root: Path, cheap: Any, costly: Any, rows: Floats) -> dict[str, OnnxModel]:
    """The costly model, and a cascade for each share."""
    for each in (cheap, costly):
        graph = _skl2onnx.convert_sklearn(
            each, initial_types=[("X", FloatTensorType([None, WIDTH]))], target_opset=_OPSETS,
            options={"zipmap": False},
        )  # fmt: skip
        content = graph.SerializeToString()
        adaptation = adapt(describe_bytes(content, "X"), NAMES, {}, {}, Outputs.of("score"), Choices(), "X")
        add_version(
            content, adaptation, root=root, name="bench", version=None, feature_names=NAMES, feature_set_hash=_hash,
            facts=Facts(), expected=None, where="X",
        )  # fmt: skip
    models = {"costly": _opened(root, 2)}
    scores = np.sort(_opened(root, 1).predict(rows))
    for version, share in enumerate(SHARES, 3):
        first = round(len(scores) * (1 - share) / 2)
        last = first + round(len(scores) * share) - 1
        unsure = (scores[first], scores[last]) if share else (2.0, 3.0)
        combine(
            Recipe("cascade", (1, 2), unsure=(float(unsure[0]), float(unsure[1]))), root=root, name="bench",
            version=version, feature_names=NAMES, feature_set_hash=_hash, prediction=Outputs.of("score"), one_hot={},
            blocks={}, facts=Facts(),
        )  # fmt: skip
        models[f"{share:g}"] = _opened(root, version)
    return models


def _opened(root: Path, version: int) -> OnnxModel:
    return OnnxModel.load(root / "bench" / str(version), feature_names=NAMES, feature_set_hash=_hash)


def _hash(_names: Sequence[str]) -> str:
    return "0" * 64


def _speeds(models: dict[str, OnnxModel], rows: Floats, rounds: int) -> dict[str, float]:
    """Rows a CPU second by model and batch."""
    fastest: dict[str, float] = {}
    for _ in range(rounds):
        for size in BATCHES:
            for name, model in models.items():
                begun = time.process_time()
                for begin in range(0, len(rows), size):
                    model.predict(rows[begin : begin + size])
                key = f"cascade_rows_per_s_{name}_batch_{size}"
                fastest[key] = max(fastest.get(key, 0.0), len(rows) / (time.process_time() - begun))
    return {key: round(value) for key, value in fastest.items()}


def _print_table(found: dict[str, float]) -> None:
    print(f"\nrows a CPU second, {TREES} trees behind a logistic regression; times the costly model alone")
    print(f"{'batch':>8}{'costly':>12}" + "".join(f"{f'{share:.0%} unsure':>20}" for share in SHARES))
    for size in BATCHES:
        costly = found[f"cascade_rows_per_s_costly_batch_{size}"]
        speeds = [found[f"cascade_rows_per_s_{share:g}_batch_{size}"] for share in SHARES]
        shown = "".join(f"{f'{speed:,.0f} ({speed / costly:.2f}x)':>20}" for speed in speeds)
        print(f"{size:>8}{costly:>12,.0f}{shown}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cascade")
    parser.add_argument("--quick", action="store_true", help="a few seconds")
    print(json.dumps(measure(parser.parse_args().quick), indent=2))
