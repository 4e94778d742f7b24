"""Version folders from wherever models are kept: a local folder, an object store, a web server.

In: a root, which is a folder or a URL that `fsspec` knows (`s3://bucket/models`, `https://…`, `file://…`). Out: a
local folder with `manifest.json` and a `model.onnx` whose digest was checked before anything parses it. Credentials of
a store are where its own client looks for them (environment, `~/.config/fsspec/`, `~/.netrc`); nothing here holds any.
"""

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import requests

from models.json_document import ModelRefusedError, ModelUnreachableError
from models.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, MODEL_FILE, NAME, Manifest
from models.onnx_checks import MAX_MODEL_BYTES, read_bytes
from models.signing import MAX_SIGNATURE_BYTES, SIGNATURE_FILE

WAIT_S = 300.0
"""For one file, however slowly it comes."""
_SILENCE_S = 30.0  # of a web server, within a file
_BLOCK_BYTES = 1 << 20
_WEB = ("http", "https")
_fsspec: Any = fsspec  # has no types


class _NotThereError(ModelRefusedError):
    """The root answers, and has no such file or folder."""


def fetch_version(
    root: str | Path,
    name: str,
    version: int,
    sha256: str | None = None,
    *,
    manifest_sha256: str | None = None,
    signed: bool = False,
    cache: Path | None = None,
    max_bytes: int = MAX_MODEL_BYTES,
) -> Path:
    """A version's folder on this machine: the folder itself under a local root, else one of the cache.

    A cached version is used again without asking when `manifest_sha256` says which it is, else its manifest is fetched
    anew. Any number of processes may fetch at once: a folder of the cache is there whole or not at all, and is checked
    at every call. Open it with `OnnxModel.load`, which checks the graph.

    Args:
        root: Folder or URL of `<name>/<version>/`.
        name: Of the model.
        version: Of the model.
        sha256: Digest that `model.onnx` must have; None takes the one that the manifest says.
        manifest_sha256: Digest that `manifest.json` must have: with it, the features and the output are certain too.
        signed: Whether its signature will be checked: that is fetched too, if there is one.
        cache: Where fetched versions are kept; `cache_folder()` by default.
        max_bytes: Largest `model.onnx`.

    Returns:
        A folder `…/<name>/<version>` with `model.onnx` and `manifest.json`.

    Raises:
        ModelUnreachableError: The root does not answer.
        ModelRefusedError: The version is not there, too big, or not what the digests say.
    """
    check_place(name, version)
    place = f"{name}/{version}"
    local = local_root(root)
    if local is not None:
        folder = (local / place).absolute()
        manifest = _checked_manifest(read_bytes(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES), folder, manifest_sha256)
        _check_manifest(manifest, name, version, sha256, str(folder))
        _check_digest(hashlib.sha256(read_bytes(folder, MODEL_FILE, max_bytes)).hexdigest(), manifest, str(folder))
        return folder
    kept, where = cache or cache_folder(), f"{str(root).rstrip('/')}/{place}"
    if manifest_sha256 is not None:
        folder = kept / manifest_sha256 / place
        manifest_bytes = _kept_manifest(folder, manifest_sha256)
    else:
        manifest_bytes = None
    if manifest_bytes is None:
        manifest_bytes = _fetched_bytes(f"{where}/{MANIFEST_FILE}", MAX_MANIFEST_BYTES)
    manifest = _checked_manifest(manifest_bytes, where, manifest_sha256)
    _check_manifest(manifest, name, version, sha256, where)
    folder = kept / hashlib.sha256(manifest_bytes).hexdigest() / place
    if not _is_whole(folder, manifest_bytes, manifest.sha256):
        _put_into_cache(folder, manifest_bytes, manifest, where, max_bytes)
    if signed:
        _fetch_signature(folder, where)
    return folder


def version_numbers(root: str | Path, name: str) -> list[int]:
    """Versions of a model under a root, lowest first; none where there is no such model.

    Args:
        root: Folder or URL of `<name>/<version>/`. A web server must list its folders.
        name: Of the model.

    Raises:
        ModelUnreachableError: The root does not answer.
    """
    check_place(name, 1)
    local = local_root(root)
    if local is not None:
        folder = local / name
        names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    else:
        is_web = urlsplit(str(root)).scheme in _WEB
        try:
            names = (_linked_names if is_web else _stored_names)(f"{str(root).rstrip('/')}/{name}/")
        except _NotThereError:
            names = []
    return sorted(int(each) for each in names if re.fullmatch(r"[1-9][0-9]*", each))


def version_file(root: str | Path, name: str, version: int, file_name: str, max_bytes: int) -> bytes | None:
    """One small file of a version, unchecked; None where there is none.

    Args:
        root: Folder or URL of `<name>/<version>/`.
        name: Of the model.
        version: Of the model.
        file_name: In the version's folder.
        max_bytes: Its largest size.

    Raises:
        ModelUnreachableError: The root does not answer.
        ModelRefusedError: It is too big, or no file.
    """
    check_place(name, version)
    local = local_root(root)
    if local is not None:
        folder = local / name / str(version)
        return read_bytes(folder, file_name, max_bytes) if os.path.lexists(folder / file_name) else None
    try:
        return _fetched_bytes(f"{str(root).rstrip('/')}/{name}/{version}/{file_name}", max_bytes)
    except _NotThereError:
        return None


def local_root(root: str | Path) -> Path | None:
    """The root as a local folder; None where it is elsewhere.

    Raises:
        ModelRefusedError: It is a URL with a password, which errors and logs would repeat.
    """
    text = str(root)
    if "://" in text and urlsplit(text).password is not None:
        message = "a root of models holds a password: put that where the store's client looks for it, like ~/.netrc"
        raise ModelRefusedError(message)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    return None if "://" in text else Path(root)


def cache_folder() -> Path:
    """Where fetched versions are kept: `$MILLRACE_CACHE/models`, or `~/.cache/millrace/models`."""
    configured = os.environ.get("MILLRACE_CACHE")
    return (Path(configured).expanduser() if configured else Path.home() / ".cache" / "millrace") / "models"


def check_place(name: str, version: int) -> None:
    """Refuse a name and a version that could lead out of a root.

    Raises:
        ModelRefusedError: They are none that a manifest could have.
    """
    if not NAME.fullmatch(name) or type(version) is not int or version < 1:
        message = f"{name!r} version {version!r} is no name and version of a model"
        raise ModelRefusedError(message)


def _checked_manifest(manifest_bytes: bytes, where: str | Path, wanted: str | None) -> Manifest:
    found = hashlib.sha256(manifest_bytes).hexdigest()
    if wanted not in (None, found):
        message = f"{where}/{MANIFEST_FILE} has sha256 {found}, asked for was {wanted}: it was changed"
        raise ModelRefusedError(message)
    return Manifest.from_json(manifest_bytes, where=f"{where}/{MANIFEST_FILE}")


def _check_manifest(manifest: Manifest, name: str, version: int, sha256: str | None, where: str) -> None:
    if (manifest.name, manifest.version) != (name, version):
        message = f"{where} holds {manifest.name}/{manifest.version}, not {name}/{version}: move the folder"
        raise ModelRefusedError(message)
    if sha256 not in (None, manifest.sha256):
        message = f"{where} has sha256 {manifest.sha256}, asked for was {sha256}: it is another model by now"
        raise ModelRefusedError(message)


def _check_digest(found: str, manifest: Manifest, where: str) -> None:
    if found != manifest.sha256:
        message = (
            f"{where}/{MODEL_FILE} has sha256 {found}, its manifest says {manifest.sha256}: the file was changed or is "
            "of another version; restore it, or make the manifest anew if the change is yours"
        )
        raise ModelRefusedError(message)


def _kept_manifest(folder: Path, wanted: str) -> bytes | None:
    try:
        manifest_bytes = read_bytes(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES)
    except ModelRefusedError:
        return None
    return manifest_bytes if hashlib.sha256(manifest_bytes).hexdigest() == wanted else None


def _is_whole(folder: Path, manifest_bytes: bytes, sha256: str) -> bool:
    try:
        if read_bytes(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES) != manifest_bytes:
            return False
        with (folder / MODEL_FILE).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except (ModelRefusedError, OSError):
        return False


def _put_into_cache(folder: Path, manifest_bytes: bytes, manifest: Manifest, where: str, max_bytes: int) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        digest = hashlib.sha256()
        with (draft / MODEL_FILE).open("wb") as file:
            for block in _blocks(f"{where}/{MODEL_FILE}", max_bytes):
                digest.update(block)
                file.write(block)
        _check_digest(digest.hexdigest(), manifest, where)
        (draft / MANIFEST_FILE).write_bytes(manifest_bytes)
        draft.chmod(0o755)
        try:
            draft.rename(folder)
        except OSError:
            # somebody else was first, or what lies there is broken
            if not _is_whole(folder, manifest_bytes, manifest.sha256):
                shutil.rmtree(folder, ignore_errors=True)
                draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _fetch_signature(folder: Path, where: str) -> None:
    """Anew each time: a version may be signed after it was fetched. The one that is kept does where nobody answers."""
    try:
        signature = _fetched_bytes(f"{where}/{SIGNATURE_FILE}", MAX_SIGNATURE_BYTES)
    except _NotThereError:
        return
    except ModelUnreachableError:
        if (folder / SIGNATURE_FILE).is_file():
            return
        raise
    descriptor, draft = tempfile.mkstemp(prefix=".", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(signature)
        Path(draft).chmod(0o644)
        Path(draft).replace(folder / SIGNATURE_FILE)
    finally:
        Path(draft).unlink(missing_ok=True)


def _fetched_bytes(url: str, max_bytes: int) -> bytes:
    return b"".join(_blocks(url, max_bytes))


def _blocks(url: str, max_bytes: int) -> Iterator[bytes]:
    """The content of a file, block by block; refused once it is over `max_bytes`, whatever its server says of it."""
    ends, size = time.monotonic() + WAIT_S, 0
    with _told(url):
        for block in (_web_blocks if urlsplit(url).scheme in _WEB else _store_blocks)(url):
            size += len(block)
            if size > max_bytes:
                message = f"{url} is over {max_bytes:,} bytes: make the model smaller, or allow more with max_bytes"
                raise ModelRefusedError(message)
            if time.monotonic() > ends:
                message = f"{url} did not come within {WAIT_S:g} s"
                raise ModelUnreachableError(message)
            yield block


def _store_blocks(url: str) -> Iterator[bytes]:
    system, path = _fsspec.core.url_to_fs(url)
    system.invalidate_cache()
    with system.open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def _web_blocks(url: str) -> Iterator[bytes]:
    # fsspec's own client of web servers wants aiohttp, and its other one has no time limits
    # as it is sent: what is unpacked on the way could be a thousand times what the limit allows
    headers = {"Accept-Encoding": "identity"}
    with requests.get(url, headers=headers, stream=True, timeout=_SILENCE_S) as answer:
        if answer.status_code == requests.codes.not_found:
            raise FileNotFoundError(url)
        answer.raise_for_status()
        yield from answer.raw.stream(_BLOCK_BYTES, decode_content=False)


def _stored_names(url: str) -> list[str]:
    with _told(url):
        system, path = _fsspec.core.url_to_fs(url)
        system.invalidate_cache()
        return [each.rstrip("/").rsplit("/", 1)[-1] for each in system.ls(path, detail=False)]


def _linked_names(url: str) -> list[str]:
    page = _fetched_bytes(url, MAX_MANIFEST_BYTES).decode("utf-8", "replace")
    return re.findall(r"""href=["'](?:\./)?([^"'/]+)/?["']""", page, re.IGNORECASE)


@contextmanager
def _told(url: str) -> Iterator[None]:
    """What clients of stores raise, in two kinds: not there, or not to be had now."""
    try:
        yield
    except (ModelRefusedError, ModelUnreachableError):
        raise
    except FileNotFoundError as error:
        message = f"{url} is not there: a version's folder holds {MODEL_FILE} and {MANIFEST_FILE}"
        raise _NotThereError(message) from error
    except (ImportError, ValueError) as error:
        # no such scheme, or its client is not installed: fsspec's text says what to install
        message = f"{url}: {' '.join(str(error).split())}"
        raise ModelRefusedError(message) from error
    except Exception as error:
        message = f"{url} cannot be read: {type(error).__name__}: {' '.join(str(error).split()):.300}"
        raise ModelUnreachableError(message) from error
