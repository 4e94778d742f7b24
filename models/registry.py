"""The versions of a model under a root: what is there, which are retired, and how a new one comes in.

A version's folder never changes once it is there. What is said about it later lies beside: `retired.json`.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.fetching import check_place, version_file, version_numbers
from models.json_document import ModelRefusedError, read_object
from models.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, MODEL_FILE, Manifest

RETIRED_FILE = "retired.json"
MAX_RETIRED_BYTES = 10_000


@dataclass(frozen=True)
class Version:
    """One version of a model, as its small files say; `model.onnx` was not looked at.

    Attributes:
        number: The version.
        where: Its folder, or URL.
        manifest: What `manifest.json` says; None where it cannot be read.
        problem: Why it cannot be read.
        retired: Why it is not to be promoted any more; None if it is not retired.
    """

    number: int
    where: str
    manifest: Manifest | None
    problem: str | None
    retired: str | None


def read_versions(root: str | Path, name: str) -> list[Version]:
    """Every version of a model, lowest first.

    Raises:
        ModelUnreachableError: The root does not answer.
    """
    return [read_version(root, name, number) for number in version_numbers(root, name)]


def read_version(root: str | Path, name: str, number: int) -> Version:
    """One version of a model, also one that cannot be used: `problem` says why.

    Raises:
        ModelUnreachableError: The root does not answer.
        ModelRefusedError: There is no such version.
    """
    where = f"{str(root).rstrip('/')}/{name}/{number}"
    try:
        content = version_file(root, name, number, MANIFEST_FILE, MAX_MANIFEST_BYTES)
        if content is not None:
            manifest = Manifest.from_json(content, where=f"{where}/{MANIFEST_FILE}")
            wrong = (manifest.name, manifest.version) != (name, number)
            problem = f"holds {manifest.name}/{manifest.version}: move the folder" if wrong else None
            return Version(number, where, manifest, problem, retired_reason(root, name, number))
    except ModelRefusedError as error:
        return Version(number, where, None, str(error), None)
    _refuse_unknown(root, name, number)
    return Version(number, where, None, f"{MANIFEST_FILE} is not there", None)


def retired_reason(root: str | Path, name: str, number: int) -> str | None:
    """Why a version is not to be promoted; None if it may be. Without a reason given it is an empty text.

    Raises:
        ModelUnreachableError: The root does not answer.
        ModelRefusedError: What says so cannot be read.
    """
    content = version_file(root, name, number, RETIRED_FILE, MAX_RETIRED_BYTES)
    if content is None:
        return None
    return read_object(content, f"{name}/{number}/{RETIRED_FILE}").text("reason")


def retire(root: Path, name: str, number: int, reason: str) -> None:
    """Mark a version as not to be promoted; again, for another reason.

    Raises:
        ModelRefusedError: There is no such version.
    """
    folder = _folder(root, name, number)
    draft = folder / f".{RETIRED_FILE}.{os.getpid()}"
    draft.write_text(json.dumps({"reason": reason}, ensure_ascii=False) + "\n", "utf-8")
    draft.replace(folder / RETIRED_FILE)


def take_back(root: Path, name: str, number: int) -> bool:
    """Undo `retire`; False if the version was not retired.

    Raises:
        ModelRefusedError: There is no such version.
    """
    path = _folder(root, name, number) / RETIRED_FILE
    if not path.exists():
        return False
    path.unlink()
    return True


def next_version(root: Path, name: str) -> int:
    """The first free version: one above the highest folder of `<root>/<name>` that is named by a whole number."""
    folders = (root / name).iterdir() if (root / name).is_dir() else ()
    return 1 + max((int(each.name) for each in folders if each.name.isdecimal()), default=0)


@contextmanager
def draft_folder(root: Path, name: str) -> Iterator[Path]:
    """A folder beside the versions to put a new one together in; gone in the end, unless it was made a version."""
    check_place(name, 1)
    (root / name).mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=root / name))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def make_version(draft: Path, number: int) -> Path:
    """Make a draft the version of that number, whole or not at all.

    Raises:
        ModelRefusedError: There is such a version already.
    """
    target = draft.parent / str(number)
    draft.chmod(0o755)
    try:
        if any((target / each).exists() for each in (MODEL_FILE, MANIFEST_FILE)):
            raise FileExistsError(target)
        draft.rename(target)
    except OSError as error:
        message = f"{target} is there already: leave out --version to get the first free one"
        raise ModelRefusedError(message) from error
    return target


def _folder(root: Path, name: str, number: int) -> Path:
    check_place(name, number)
    _refuse_unknown(root, name, number)
    return root / name / str(number)


def _refuse_unknown(root: str | Path, name: str, number: int) -> None:
    known = version_numbers(root, name)
    if number not in known:
        message = f"no version {number} of {name} in {root}; there are {', '.join(map(str, known)) or 'none'}"
        raise ModelRefusedError(message)
