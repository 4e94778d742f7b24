"""Processes that a measure runs beside each other: started with a module's `main`, ended by closing their input."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from flink_jobs.environment import PROJECT_ROOT
from flink_jobs.kafka_admin import KafkaAdminError, topic_ends

STOP_S = 60.0
LOG_TAIL = 3_000


@contextmanager
def companion(
    module: str, arguments: list[str], home: Path, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `main` of a module until the block ends; what it prints is in `home/output.txt`."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "output.txt").open("ab") as log:
        # imported, not run as `__main__`: functions of `__main__` travel to the workers by value
        process = subprocess.Popen(
            [sys.executable, "-c", f"from {module} import main; main()", *arguments],
            cwd=PROJECT_ROOT,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT), **(environment or {})},
        )
    try:
        yield process
    finally:
        end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ask it to end, wait, and leave none of its children."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.stdin.close()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(children, timeout=5)
    for child in alive:
        child.kill()


def raise_if_ended(process: "subprocess.Popen[bytes]", home: Path) -> None:
    """Raise SystemExit with the end of its output if it is no longer there."""
    if process.poll() is not None:
        log = (home / "output.txt").read_text("utf-8", "replace")
        raise SystemExit(f"{home.name} ended with status {process.returncode}:\n{log[-LOG_TAIL:]}")


def family(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """The process and its descendants, as far as they are there."""
    try:
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_s(processes: list[psutil.Process]) -> dict[str, float]:
    """CPU seconds so far of Java machines and of Python processes."""
    spent = {"jvm": 0.0, "python": 0.0}
    for one in processes:
        try:
            times = one.cpu_times()
            spent["jvm" if one.name() == "java" else "python"] += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return spent


def committed_end(bootstrap: str, topic: str) -> int:
    """How many records a reader of committed ones could see; offsets count a few transaction markers, too."""
    try:
        return sum(topic_ends(bootstrap, topic, isolation="read_committed").values())
    except KafkaAdminError:  # a topic just made has no leader yet
        return 0
