"""Which process of this machine runs a pipeline in a mini-cluster: a locked file beside its checkpoints.

The lock goes with its process, however that ends. Jobs on a cluster are known by the cluster.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flink_jobs.console import CommandError

_FILE = "running"


@contextmanager
def marked_as_running(checkpoints: Path) -> Iterator[None]:
    """While this lasts, `running_process` names this process.

    Args:
        checkpoints: The run's folder.

    Raises:
        CommandError: Another process runs it: the two would abort each other's transactions.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    with (checkpoints / _FILE).open("a+") as file:
        if not _locked(file.fileno()):
            raise CommandError(
                f"{checkpoints.name} runs already, in process {_pid(checkpoints)}: stop that one first (Ctrl-C, or "
                f"`kill {_pid(checkpoints)}`)"
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def running_process(checkpoints: Path) -> int | None:
    """The process that runs what has its checkpoints in this folder; None if none does."""
    try:
        with (checkpoints / _FILE).open("r") as file:
            return None if _locked(file.fileno(), fcntl.LOCK_SH) else _pid(checkpoints)
    except FileNotFoundError:
        return None


def _locked(file: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid(checkpoints: Path) -> int:
    return int((checkpoints / _FILE).read_text() or 0)
