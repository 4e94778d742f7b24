"""Processes that a measure runs beside each other, and what they have used so far."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from flink_jobs.kafka_admin import KafkaAdminError, topic_ends
from tests.benchmarks.child_process import child, end_of
from tests.benchmarks.outcomes import ContestantError

LOG = "output.txt"


@contextmanager
def companion(
    module: str, arguments: list[str], home: Path, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `main` of a module until the block ends, by which its standard input is closed."""
    home.mkdir(parents=True, exist_ok=True)
    # imported, not run as `__main__`: functions of `__main__` travel to the workers by value
    command = [sys.executable, "-c", f"from {module} import main; main()", *arguments]
    with child(command, home / LOG, environment) as process:
        yield process


def raise_if_ended(process: "subprocess.Popen[bytes]", home: Path) -> None:
    """Raise with the end of its output if it is no longer there.

    Raises:
        ContestantError: It is not.
    """
    if process.poll() is not None:
        raise ContestantError(f"{home.name} ended with status {process.returncode}:\n{end_of(home / LOG)}")


def family(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """The process and its descendants, as far as they are there."""
    try:
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def committed_end(bootstrap: str, topic: str) -> int:
    """How many records a reader of committed ones could see; offsets count a few transaction markers, too."""
    try:
        return sum(topic_ends(bootstrap, topic, isolation="read_committed").values())
    except KafkaAdminError:  # a topic just made has no leader yet
        return 0
