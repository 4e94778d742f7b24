"""A model tried out in a process of its own, before anything that matters opens it.

What onnxruntime does with a hostile graph (a segmentation fault, a hundred gigabytes, no end) then happens to that
process, which has limits, and is told in one line. `python -m models.trial FOLDER` is the process.
"""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from models.json_document import ModelRefusedError
from models.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, Manifest
from models.onnx_checks import read_bytes
from models.onnx_model import OnnxModel, PredictionError
from models.providers import CPU_ONLY, VARIABLE

MEMORY_BYTES = 4 << 30
"""Address space of the process: onnxruntime, numpy and the largest model take a quarter of it."""
WAIT_S = 60.0
ROWS = 256
REFUSED = 3
"""Status of a process that has said why on stdout."""


def try_out(folder: Path, *, memory_bytes: int = MEMORY_BYTES, wait_s: float = WAIT_S) -> None:
    """Let a process open the model of a folder and score rows with it.

    Raises:
        ModelRefusedError: It did not survive that within its limits; names the model and how it ended.
    """
    command = [sys.executable, "-m", "models.trial", str(folder.absolute()), str(memory_bytes)]
    root = Path(__file__).resolve().parents[1]
    try:
        ended = subprocess.run(  # noqa: S603  # our own module
            command, cwd=root, capture_output=True, text=True, timeout=wait_s, check=False,
            # CUDA takes more addresses than the limit allows, before any model is open
            env={**os.environ, VARIABLE: CPU_ONLY},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        message = f"{folder}: the model scored nothing within {wait_s:g} s when it was tried out: do not use it"
        raise ModelRefusedError(message) from error
    if ended.returncode == REFUSED:
        raise ModelRefusedError(ended.stdout.strip())
    if ended.returncode < 0:
        name = signal.Signals(-ended.returncode).name
        message = f"{folder}: the model killed the process in which it was tried out ({name}): do not use it"
        raise ModelRefusedError(message)
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ModelRefusedError(f"{folder}: the model could not be tried out: {last}")


def score_rows(folder: Path) -> None:
    """Open the model and score its example, ones, nothing and extremes, alone and together."""
    manifest_bytes = read_bytes(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES)
    manifest = Manifest.from_json(manifest_bytes, where=str(folder / MANIFEST_FILE))
    model = OnnxModel.load(
        folder, feature_names=manifest.features, feature_set_hash=lambda _names: manifest.feature_set_hash
    )
    width = len(manifest.features)
    example = np.array(manifest.example or np.ones(width), np.float64)
    for row in (example, np.zeros(width), np.full(width, np.nan), np.full(width, 1e300), np.full(width, -1e300)):
        try:
            model.predict(np.tile(row, (ROWS, 1)))
        except PredictionError as error:
            # a row that an input of whole numbers cannot hold is a dead letter, not the model's fault
            if row is example:
                raise ModelRefusedError(str(error)) from error


def main(folder: Path, memory_bytes: int) -> None:
    """What the process does."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        score_rows(folder)
    except (ModelRefusedError, ValueError, MemoryError) as error:
        print(" ".join(str(error).split()) or f"{folder}: the model wants more than {memory_bytes:,} bytes")
        raise SystemExit(REFUSED) from None


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
