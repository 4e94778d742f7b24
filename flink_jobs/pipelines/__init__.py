"""Pipelines by name or by file: one Python file each, with a `pipeline = Pipeline(...)` in it."""

import dataclasses
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import cloudpickle

from udfs.errors import DefinitionError
from udfs.pipeline import Pipeline

FOLDER = Path(__file__).parent
MODELS = FOLDER.parent.parent / "models"


class PipelineError(ValueError):
    """A pipeline that cannot be loaded; one line says why."""


def shipped_pipelines() -> list[str]:
    """Names of the pipelines in this folder."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def load_pipeline(reference: str) -> Pipeline:
    """The pipeline of that name, or of that file.

    A model root that is no absolute path and no URL is one beside the file, and so is the file of a lookup.

    Args:
        reference: `purchase` (a file of this folder) or `path/to/fraud.py`.

    Raises:
        PipelineError: If there is no such file, it cannot be run, or its definition is wrong.
    """
    path = Path(reference) if reference.endswith(".py") else FOLDER / f"{reference}.py"
    if not path.is_file():
        known = ", ".join(shipped_pipelines())
        raise PipelineError(f"no pipeline {reference!r}; name one of {known}, or give the path of a .py file")
    module = _run(path.resolve())
    found = getattr(module, "pipeline", None)
    if not isinstance(found, Pipeline):
        raise PipelineError(f"{path.name} has no `pipeline = Pipeline(...)` at its top level")
    lookups = [
        each if each.file is None else dataclasses.replace(each, file=str(path.resolve().parent / each.file))
        for each in found.lookups
    ]
    if lookups:
        found = dataclasses.replace(found, lookups=lookups)
    root = found.model.root
    if root is None or "://" in str(root) or Path(root).is_absolute():
        return found
    return dataclasses.replace(found, model=dataclasses.replace(found.model, root=path.parent / root))


def _run(path: Path) -> ModuleType:
    sys.path.insert(0, str(path.parent))
    try:
        if path.parent == FOLDER:
            # imported, so that it is run once and its classes are found by name
            return importlib.import_module(f"{__name__}.{path.stem}")
        return _run_own(f"millrace_pipeline_{path.stem}", path)
    except DefinitionError as error:
        raise PipelineError(f"{path.name}: {error}") from error
    except Exception as error:
        raise PipelineError(f"{path.name} cannot be run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))


def _run_own(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PipelineError(f"{path.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    # its classes travel to the workers by value: the file need not be there
    cloudpickle.register_pickle_by_value(module)
    return module


def companions(reference: str) -> list[Path]:
    """The pipeline's own file and the modules beside it that it imported, once it was loaded; none of a shipped one."""
    path = Path(reference).resolve()
    if not reference.endswith(".py") or path.parent == FOLDER:
        return []
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    beside = {Path(file).resolve() for file in files if file}
    inside = {file for file in beside if path.parent in file.parents and "site-packages" not in file.parts}
    return sorted({path, *(file for file in inside if MODELS.parent not in file.parents)})


def shipped_model(pipeline: Pipeline) -> Path:
    """Where the pipeline's model lies in code that was shipped with it, whatever its root was."""
    return MODELS / pipeline.model.name / str(pipeline.model.version)


def model_folder(pipeline: Pipeline) -> Path:
    """Where the pipeline's model lies: `<root>/<name>/<version>`; of a root elsewhere, the version is fetched first.

    Raises:
        ModelRefusedError: The version is not in a root elsewhere, or not whole.
        ModelUnreachableError: A root elsewhere does not answer.
    """
    root, model = model_root(pipeline), pipeline.model
    if isinstance(root, Path):
        return (root / model.name / str(model.version)).absolute()
    from models.fetching import fetch_version

    return fetch_version(root, model.name, model.version, signed=model.signed_by is not None)


def model_root(pipeline: Pipeline, given: Path | str | None = None) -> Path | str:
    """Where the pipeline's models lie: a folder, the project's models/ by default, or the URL of a root elsewhere.

    Args:
        pipeline: Whose model.
        given: What the command line says, which counts more.
    """
    root = pipeline.model.root if given is None else given
    if root is None:
        return MODELS
    return str(root) if _is_url(root) else Path(str(root).removeprefix("file://"))


def writable_root(pipeline: Pipeline, given: Path | str | None = None) -> Path:
    """The folder that a new version of the pipeline's model goes to.

    Args:
        pipeline: Whose model.
        given: What the command line says.

    Raises:
        PipelineError: The models are elsewhere, where nothing is written.
    """
    root = model_root(pipeline, given)
    if isinstance(root, Path):
        return root.absolute()
    message = f"models of {pipeline.name} are at {root}, where Millrace only reads: give a folder with --root, and copy"
    raise PipelineError(f"{message} the version there")


def _is_url(root: str | Path) -> bool:
    return "://" in str(root) and not str(root).startswith("file://")
