"""Versions as model folders of MLflow, there and back, without MLflow."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from flink_jobs.cli import app
from models import adding
from models.json_document import ModelRefusedError
from models.manifest import MODEL_FILE, Manifest
from models.mlflow_folder import read_mlflow, write_mlflow
from models.opened import SHIPPED

# as mlflow.onnx.log_model of MLflow 3 writes it
LOGGED = """
artifact_path: model
flavors:
  onnx:
    code: null
    data: model.onnx
    onnx_version: 1.23.2
    providers:
    - CUDAExecutionProvider
    - CPUExecutionProvider
    save_as_external_data: true
  python_function:
    data: model.onnx
    env:
      conda: conda.yaml
      virtualenv: python_env.yaml
    loader_module: mlflow.onnx
model_id: m-0123
run_id: 4567
"""


@pytest.fixture(autouse=True)
def _trial(monkeypatch):
    monkeypatch.setattr(adding, "try_out", lambda folder: None)


def models(*arguments):
    return CliRunner().invoke(app, ["models", *map(str, arguments), "--json"])


@pytest.mark.parametrize("version", [1, 2])
def test_what_was_exported_comes_back_as_it_was(tmp_path, version):
    exported = models("export-mlflow", "purchase", version, "--to", tmp_path / "exported")
    assert exported.exit_code == 0, exported.output
    added = models("add", tmp_path / "exported", "purchase", "--root", tmp_path / "models")
    assert added.exit_code == 0, added.output
    before, after = Manifest.read(SHIPPED / "purchase" / str(version)), Manifest.read(tmp_path / "models/purchase/1")
    assert dataclasses.replace(after, version=version, training_data_sha256=None, example=None) == dataclasses.replace(
        before, training_data_sha256=None, example=None
    )


def test_document_says_what_mlflow_needs(tmp_path):
    write_mlflow(SHIPPED / "purchase" / "2", tmp_path / "exported")
    document = yaml.safe_load((tmp_path / "exported" / "MLmodel").read_text())
    assert document["flavors"]["onnx"]["data"] == MODEL_FILE
    assert document["flavors"]["python_function"]["loader_module"] == "mlflow.onnx"
    [given] = json.loads(document["signature"]["inputs"])
    assert given == {"name": "features", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 18]}}
    with pytest.raises(ModelRefusedError, match="is there already"):
        write_mlflow(SHIPPED / "purchase" / "2", tmp_path / "exported")


def test_mlflow_loads_and_scores_it(tmp_path):
    mlflow = pytest.importorskip("mlflow.pyfunc", reason="MLflow is no dependency")
    write_mlflow(SHIPPED / "purchase" / "2", tmp_path / "exported")
    found = mlflow.load_model(str(tmp_path / "exported")).predict({"features": np.ones((3, 18), np.float32)})
    assert found["probabilities"].shape == (3, 2)


def test_folder_that_mlflow_logged_is_taken(tmp_path):
    logged = tmp_path / "logged"
    logged.mkdir()
    shutil.copyfile(SHIPPED / "purchase" / "2" / MODEL_FILE, logged / MODEL_FILE)
    (logged / "MLmodel").write_text(LOGGED)
    added = models("add", logged, "purchase", "--root", tmp_path / "models")
    assert added.exit_code == 0, added.output
    assert Manifest.read(tmp_path / "models/purchase/1").description == "From MLflow, model_id m-0123"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flavors: {sklearn: {data: m.pkl}}", "it has no flavor onnx (it has sklearn)"),
        ("- a list", "it has no flavor onnx (it has none)"),
        ("flavors: {onnx: {data: ../model.onnx}}", "leads out of the folder"),
        ("flavors: {onnx: {data: /etc/passwd}}", "leads out of the folder"),
        ("flavors: {onnx: {data: gone.onnx}}", "gone.onnx is not a file"),
        ("flavors: !!python/object/apply:os.getcwd []", "not YAML"),
        ("flavors: {onnx: {data: model.onnx}}\nmetadata: {millrace_manifest: '{}'}", "format is missing"),
        ("{", "not YAML"),
    ],
)
def test_folder_that_is_none_of_onnx_is_refused_in_one_line(tmp_path, text, said):
    (tmp_path / "logged").mkdir()
    (tmp_path / "logged" / "MLmodel").write_text(text)
    result = models("add", tmp_path / "logged", "purchase", "--root", tmp_path / "models")
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert said in line


def test_folder_without_mlmodel_is_refused(tmp_path):
    with pytest.raises(ModelRefusedError, match="MLmodel is not there"):
        read_mlflow(tmp_path)
