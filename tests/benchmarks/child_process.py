"""A process of the bench, and all it starts: in a session of its own, of which nothing is left when the block ends."""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from flink_jobs.environment import PROJECT_ROOT

STOP_S = 60.0
KILL_S = 10.0
LOG_LETTERS = 3_000


@contextmanager
def child(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command of this project, with our environment and what is given beside; what it prints is in `log`.

    When the block ends in order, its standard input is closed, by which it knows, and it has `STOP_S` to end. After an
    error or a Ctrl-C it is killed at once. A Ctrl-C reaches it in no other way: its session is not the terminal's.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            cwd=PROJECT_ROOT,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT), **(environment or {})},
        )
    patience_s = 0.0
    try:
        yield process
        patience_s = STOP_S
    finally:
        assert process.stdin is not None
        try:
            process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
        finally:
            kill_session(process.pid)
            process.wait()


def kill_session(session: int) -> None:
    """Kill every process of it, those included whose parent is gone; return when none is left."""
    deadline = time.monotonic() + KILL_S
    while members := [pid for pid in psutil.pids() if _is_member(pid, session)]:
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {members} are still there {KILL_S:g} s after SIGKILL")
        time.sleep(0.05)


def end_of(log: Path) -> str:
    """The last lines of a log."""
    return log.read_text("utf-8", "replace")[-LOG_LETTERS:].strip() if log.exists() else ""


def _is_member(pid: int, session: int) -> bool:
    try:
        return os.getsid(pid) == session and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
