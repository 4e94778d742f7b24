"""The folder of jars that every Java machine of Flink's here has in its class path: Flink's own, and those of Kafka.

Loaded from there Kafka's clients exist once in a process. Handed over with each job, every job, and each part of a
mini-cluster, has classes of its own, and a login with tokens fails in all but the first: the JDK keeps one maker of
such logins for a process, and it does not know the others' classes.

Made once in the cache, of links; `python -m flink_jobs.local.flink_lib` makes it when an image is built.
"""

import hashlib
import os
import tempfile
from pathlib import Path

from flink_jobs.local import beam_servers, jars

BEAM_SERVERS = "beam-servers-on-loopback.jar"
"""Its name is before flink-python's: class paths are sorted."""


def flink_home() -> Path:
    """The Flink distribution: `FLINK_HOME`, as in Flink's image, else PyFlink's own."""
    import pyflink

    return Path(os.environ.get("FLINK_HOME") or Path(pyflink.__file__).parent).resolve()


def flink_lib() -> Path:
    """The folder, made if it is not there yet; without flink-python, which PyFlink's launcher adds at the end.

    Raises:
        JarError: A jar cannot be fetched, or flink-python is not the one that Millrace is made for.
    """
    home = flink_home()
    python = flink_python_jar(home)
    kafka = jars.job_jars(login=True)
    own = [jar for jar in sorted((home / "lib").glob("*.jar")) if jar.name not in (python.name, BEAM_SERVERS)]
    wanted = {jar.name: jar.absolute() for jar in (*own, *kafka)}
    named = "\n".join([beam_servers.CLASS_SHA256, *map(str, wanted.values())])
    folder = jars.cache_folder().parent / f"flink-lib-{hashlib.sha256(named.encode()).hexdigest()[:16]}"
    if not folder.is_dir():
        _make(folder, wanted, python)
    return folder


def flink_python_jar(home: Path) -> Path:
    """PyFlink's Java part, in a distribution."""
    return next((home / "opt").glob("flink-python-*.jar"))


def _make(folder: Path, wanted: dict[str, Path], python: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".flink-lib-", dir=folder.parent))
    made.chmod(0o755)
    for name, jar in wanted.items():
        (made / name).symlink_to(jar)
    beam_servers.write_jar(python, made / BEAM_SERVERS)
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        # another process was faster; what is left is nothing but links
        for each in made.iterdir():
            each.unlink()
        made.rmdir()


if __name__ == "__main__":
    print(flink_lib())
