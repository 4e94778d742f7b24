"""What a job takes along to a cluster: code, the pipeline's own modules and its model, named by content."""

import json
import shutil
import subprocess
import sys
import zipfile

import pytest

from flink_jobs.pipelines import load_pipeline
from flink_jobs.python_archive import make_archive
from flink_jobs.settings import Settings
from flink_jobs.shipment import make_shipment
from models.opened import SHIPPED

MINE = """
import dataclasses
from flink_jobs.pipelines import load_pipeline
from udfs.pipeline import Model
import beside_{number}
shipped = load_pipeline("purchase")
pipeline = dataclasses.replace(
    shipped, name=beside_{number}.NAME, model=Model("purchase", version=shipped.model.version, root="own_models")
)
"""


@pytest.fixture
def mine(tmp_path, request):
    number = abs(hash(request.node.name))
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / f"beside_{number}.py").write_text('NAME = "mine"\n')
    (folder / "unused.py").write_text("raise RuntimeError\n")
    file = folder / f"mine_{number}.py"
    file.write_text(MINE.format(number=number))
    version = load_pipeline("purchase").model.version
    shutil.copytree(SHIPPED / "purchase" / str(version), folder / "own_models" / "purchase" / str(version))
    return file


def test_a_shipment_has_all_that_workers_need_and_nothing_else(mine, tmp_path):
    pipeline = load_pipeline(str(mine))
    folder = make_shipment(pipeline, str(mine), Settings(home=tmp_path / "home"))
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"flink_jobs/operators.py", "udfs/kernels.py", "models/onnx_model.py", "shipment.json", mine.name} <= names
    assert f"models/purchase/{pipeline.model.version}/model.onnx" in names
    assert sum(name.endswith("model.onnx") for name in names) == 1, "only the pipeline's own model"
    assert any(name.startswith("beside_") for name in names)
    assert "unused.py" not in names
    assert not any("__pycache__" in name for name in names)
    assert json.loads((folder / "shipment.json").read_text()) == {"pipeline": "mine", "reference": mine.name}


def test_the_same_content_is_the_same_folder_and_a_change_another(mine, tmp_path):
    settings = Settings(home=tmp_path / "home")
    pipeline = load_pipeline(str(mine))
    first = make_shipment(pipeline, str(mine), settings)
    assert make_shipment(pipeline, str(mine), settings) == first
    mine.write_text(mine.read_text() + "# changed\n")
    assert make_shipment(pipeline, str(mine), settings) != first
    again = make_shipment(pipeline, str(mine), settings)
    assert {path.name for path in first.parent.iterdir()} == {first.name, again.name}


def test_shipped_code_opens_the_model_that_came_with_it(mine, tmp_path):
    pipeline = load_pipeline(str(mine))
    folder = make_shipment(pipeline, str(mine), Settings(home=tmp_path / "home"))
    code = (
        f"from flink_jobs.pipelines import load_pipeline, shipped_model; p = load_pipeline({mine.name!r}); "
        "from flink_jobs.pipeline_model import open_model; print(shipped_model(p)); open_model(p, shipped_model(p))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(str(folder))


def test_an_archive_of_packages_has_what_scores_and_not_what_trains(tmp_path, monkeypatch):
    packages = tmp_path / "site-packages"
    for name in ("numpy/core.py", "pyflink/bin/pyflink-udf-runner.sh", "pyflink/lib/flink-dist.jar", "scipy/x.py",
                 "mypy/main.py", "numpy/tests/test_x.py", "__editable___millrace_finder.py", "a.pth"):  # fmt: skip
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text("")
    monkeypatch.setattr("flink_jobs.python_archive._site_packages", lambda: packages)
    archive = make_archive(Settings(home=tmp_path / "home"))
    with zipfile.ZipFile(archive) as found:
        inside = {name.removeprefix("packages/") for name in found.namelist()}
        assert inside == {"bin/python", "numpy/core.py", "pyflink/bin/pyflink-udf-runner.sh"}
        assert found.getinfo("bin/python").external_attr >> 16 & 0o111
    written = archive.stat().st_mtime_ns
    assert make_archive(Settings(home=tmp_path / "home")).stat().st_mtime_ns == written
