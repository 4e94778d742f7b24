"""What a job needs on its workers, in one folder: this project's code, the pipeline's own modules, its model.

The folder is named by its content and stays, so that a job can be submitted once more as it was.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from flink_jobs.environment import PROJECT_ROOT
from flink_jobs.pipeline_model import with_other_models
from flink_jobs.pipelines import companions, model_folder
from flink_jobs.settings import Settings
from flink_jobs.topics import STREAM, Engine, run_name
from udfs.pipeline import Pipeline

PACKAGES = ("flink_jobs", "udfs", "models")
CODE = ("*.py", "*.java", "*.lock")
NOTE = "shipment.json"


def make_shipment(pipeline: Pipeline, reference: str, settings: Settings, engine: Engine = STREAM) -> Path:
    """Put the folder together, or find the one with the same content.

    Args:
        pipeline: What is to be run.
        reference: As `load_pipeline` took it.
        settings: Their home is where folders are kept.
        engine: What runs it.

    Returns:
        The folder, `<home>/shipped/<run>/<digest>`.
    """
    kept = settings.home.absolute() / "shipped" / run_name(pipeline, engine)
    kept.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".", dir=kept))
    try:
        for package in PACKAGES:
            _copy_code(PROJECT_ROOT / package, draft / package)
        for each in (pipeline, *with_other_models(pipeline).values()):
            model = model_folder(each)
            shutil.copytree(model, draft / "models" / model.parent.name / model.name)
        own = companions(reference)
        for file in own:
            place = draft / file.relative_to(Path(reference).resolve().parent)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
        note = {"pipeline": pipeline.name, "reference": Path(reference).name if own else reference}
        (draft / NOTE).write_text(json.dumps(note) + "\n", "utf-8")
        draft.chmod(0o755)
        target = kept / _digest(draft)
        if not target.exists():
            draft.rename(target)
        return target
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _copy_code(source: Path, target: Path) -> None:
    for pattern in CODE:
        for file in source.rglob(pattern):
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)


def _digest(folder: Path) -> str:
    content = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode())
        content.update(file.read_bytes())
    return content.hexdigest()[:16]
