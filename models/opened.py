"""Models by reference, for callers without a pipeline: a name, a name and a version, or a folder."""

from pathlib import Path

from models.json_document import ModelRefusedError
from models.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, Manifest
from models.onnx_checks import read_bytes
from models.onnx_model import OnnxModel
from models.registry import RETIRED_FILE

SHIPPED = Path(__file__).resolve().parent
"""The root that names are looked up in by default: this project's models/."""


def find_model(reference: str, root: Path = SHIPPED) -> Path:
    """The version folder that a reference means.

    Args:
        reference: `purchase` (its newest version that is not retired), `purchase/2`, or the path of a version folder
            (absolute, or beginning with a dot).
        root: Folder of `<name>/<version>/`.

    Raises:
        ModelRefusedError: There is no such model; says which there are.
    """
    given = Path(reference)
    if given.is_absolute() or reference.startswith("."):
        folder: Path | None = given
    elif "/" in reference:
        folder = root / reference
    else:
        versions = [path for path in (root / reference).glob("*") if path.name.isdecimal() and path.is_dir()]
        versions = [path for path in versions if not (path / RETIRED_FILE).exists()]
        folder = max(versions, key=lambda path: int(path.name), default=None)
    if not reference or folder is None or not (folder / MANIFEST_FILE).is_file():
        known = sorted(f"{path.parent.parent.name}/{path.parent.name}" for path in root.glob(f"*/*/{MANIFEST_FILE}"))
        message = f"no model {reference!r} in {root}; there are {', '.join(known) or 'none'} (or give a folder)"
        raise ModelRefusedError(message)
    return folder


def find_manifest(reference: str, root: Path = SHIPPED) -> tuple[Path, Manifest]:
    """The version folder that a reference means, and what it says about its model.

    Args:
        reference: As `find_model` takes it; `@` and a sha256 behind it pin the digest.
        root: Folder of `<name>/<version>/`.

    Raises:
        ModelRefusedError: It is not there, its manifest is none, or it is of another digest.
    """
    place, _, pinned = reference.partition("@")
    folder = find_model(place, root)
    manifest = Manifest.from_json(
        read_bytes(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES), where=str(folder / MANIFEST_FILE)
    )
    if pinned and pinned != manifest.sha256:
        message = f"{folder} has sha256 {manifest.sha256}, asked for was {pinned}: it is another model by now"
        raise ModelRefusedError(message)
    return folder, manifest


def open_alone(reference: str, root: Path = SHIPPED) -> OnnxModel:
    """Open a model for whoever gives it features by themselves, in the order of its manifest or by their names.

    Args:
        reference: As `find_manifest` takes it.
        root: Folder of `<name>/<version>/`.

    Raises:
        ModelRefusedError: It is not there, has another digest than its manifest says or the reference asks for, or is
            nothing that Millrace opens.
        ModelMismatchError: It disagrees with its manifest.
    """
    folder, manifest = find_manifest(reference, root)
    return OnnxModel.load(
        folder,
        feature_names=manifest.features,
        feature_set_hash=lambda _names: manifest.feature_set_hash,
        name=manifest.name,
        version=manifest.version,
    )
