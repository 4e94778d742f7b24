"""MLflow's model folder: read without MLflow, and written so that MLflow loads it.

The folder has a file `MLmodel` (YAML) that says which flavors it has; ours is `onnx`. The manifest travels in its
`metadata`, so that what comes back needs no answers.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from models.json_document import ModelRefusedError
from models.manifest import MANIFEST_FILE, MODEL_FILE, Manifest
from models.onnx_checks import MAX_MODEL_BYTES, GraphValue, describe_bytes, read_bytes

MLMODEL_FILE = "MLmodel"
MAX_MLMODEL_BYTES = 1_000_000
_METADATA = "millrace_manifest"
_MLFLOW_TYPES = {
    "float": "float32", "double": "float64", "int64": "int64", "int32": "int32", "bool": "bool", "string": "str",
}  # fmt: skip


@dataclass(frozen=True)
class MlflowModel:
    """What an MLflow model folder holds.

    Attributes:
        path: Its ONNX file, inside the folder.
        manifest: That of the version that was exported; None if the folder is not ours.
        description: The manifest's, or where it comes from.
    """

    path: Path
    manifest: Manifest | None
    description: str


def read_mlflow(folder: Path) -> MlflowModel:
    """What an MLflow model folder says.

    Raises:
        ModelRefusedError: It is no such folder, has no ONNX flavor, or names a file outside of it.
    """
    where = str(folder / MLMODEL_FILE)
    try:
        document = yaml.safe_load(read_bytes(folder, MLMODEL_FILE, MAX_MLMODEL_BYTES))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        message = f"{where}: not YAML: {' '.join(str(error).split()):.200}"
        raise ModelRefusedError(message) from error
    flavors = document.get("flavors") if isinstance(document, dict) else None
    flavor = flavors.get("onnx") if isinstance(flavors, dict) else None
    if not isinstance(flavor, dict) or not isinstance(flavor.get("data"), str):
        known = ", ".join(map(str, flavors)) if isinstance(flavors, dict) else "none"
        message = f"{where}: it has no flavor onnx (it has {known}): log the model with mlflow.onnx.log_model"
        raise ModelRefusedError(message)
    path = folder / flavor["data"]
    if path.is_dir():
        path /= "model.onnx"
    if not path.resolve().is_relative_to(folder.resolve()):
        message = f"{where}: {flavor['data']!r:.80} leads out of the folder"
        raise ModelRefusedError(message)
    metadata = document.get("metadata")
    kept = metadata.get(_METADATA) if isinstance(metadata, dict) else None
    manifest = Manifest.from_json(kept, where=where) if isinstance(kept, str) else None
    said = [f"{key} {document[key]}" for key in ("model_id", "run_id") if isinstance(document.get(key), str)]
    description = manifest.description if manifest is not None else ", ".join(["From MLflow", *said])
    return MlflowModel(path, manifest, description)


def write_mlflow(version_folder: Path, target: Path) -> None:
    """Write a version as an MLflow model folder.

    Args:
        version_folder: As `fetch_version` gives it.
        target: A folder that is not there yet, or is empty.

    Raises:
        ModelRefusedError: The version is not what its digest says, or the target is not empty.
    """
    manifest = Manifest.read(version_folder)
    model_bytes = read_bytes(version_folder, MODEL_FILE, MAX_MODEL_BYTES)
    if hashlib.sha256(model_bytes).hexdigest() != manifest.sha256:
        message = f"{version_folder / MODEL_FILE} has another sha256 than its manifest says"
        raise ModelRefusedError(message)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        message = f"{target} is there already: name a new folder"
        raise ModelRefusedError(message)
    described = describe_bytes(model_bytes, str(version_folder / MODEL_FILE))
    requirements = [f"{name}=={version(name)}" for name in ("onnx", "onnxruntime")]
    document: dict[str, Any] = {
        "artifact_path": "model",
        "flavors": {
            "onnx": {
                "code": None, "data": MODEL_FILE, "onnx_version": version("onnx"),
                "providers": ["CPUExecutionProvider"], "save_as_external_data": False,
            },
            "python_function": {
                "data": MODEL_FILE, "env": {"virtualenv": "python_env.yaml"}, "loader_module": "mlflow.onnx",
            },
        },
        "metadata": {_METADATA: manifest.to_json()},
    }  # fmt: skip
    inputs = _signature(described.inputs)
    if inputs is not None:
        document["signature"] = {"inputs": inputs, "outputs": _signature(described.outputs), "params": None}
    target.mkdir(parents=True, exist_ok=True)
    (target / MODEL_FILE).write_bytes(model_bytes)
    (target / MANIFEST_FILE).write_text(manifest.to_json(), "utf-8")
    (target / "requirements.txt").write_text("\n".join(requirements) + "\n", "utf-8")
    environment = {"build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
    (target / "python_env.yaml").write_text(yaml.safe_dump(environment), "utf-8")
    (target / MLMODEL_FILE).write_text(yaml.safe_dump(document, sort_keys=True, allow_unicode=True), "utf-8")


def _signature(values: Sequence[GraphValue]) -> str | None:
    """Tensors in MLflow's words; None where one is none, which MLflow has no words for."""
    if any(each.kind != "tensor" or each.dtype not in _MLFLOW_TYPES or each.shape is None for each in values):
        return None
    shapes = [[-1 if size is None else size for size in each.shape or ()] for each in values]
    specs = [
        {"name": each.name, "type": "tensor", "tensor-spec": {"dtype": _MLFLOW_TYPES[each.dtype], "shape": shape}}
        for each, shape in zip(values, shapes, strict=True)
    ]
    return json.dumps(specs)
