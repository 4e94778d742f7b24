"""Processes we start beside ours, and ports for them: told apart from later ones with the same number (Linux)."""

import ctypes
import fcntl
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

HOST = "127.0.0.1"
LOWEST_PORT = 20_000
DEFAULT_EPHEMERAL_LOW = 32_768
PR_SET_PDEATHSIG = 1  # prctl(2)
KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "TZ", "MILLRACE_CACHE")  # nothing else of ours is a Java process's business

_libc = ctypes.CDLL(None, use_errno=True)  # loaded here: nothing may be loaded between fork and exec
_children: dict[int, "subprocess.Popen[bytes]"] = {}


def launch(
    command: list[str],
    folder: Path,
    output: IO[bytes],
    *,
    die_with_parent: bool = False,
    environment: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a process in a session of its own, so that a Ctrl-C meant for us does not reach it.

    Args:
        command: Program and arguments.
        folder: Its working directory.
        output: Where its stdout and stderr go.
        die_with_parent: The kernel kills it when the thread that called this ends, however that happens.
        environment: What it gets besides the little it needs of ours.
    """
    inherited = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    process = subprocess.Popen(  # noqa: S603 (the command is ours)
        command,
        cwd=folder,
        env={**inherited, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=with_parent() if die_with_parent else None,
    )
    _children[process.pid] = process
    return process


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """One at a time, over all processes; the others wait. The lock goes with its process, however that ends."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def identity(pid: int) -> str | None:
    """Boot and start time of a process, which no other process with this number shares; None when there is none.

    A killed Java process is a zombie while its threads still end and hold its ports: it counts until the last went.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold anything; after it come the state and, as the 20th, the start time in ticks.
    state, *fields = stat.rpartition(")")[2].split()
    ended = state in "ZX" and threads <= 1
    return None if ended else f"{boot}/{fields[18]}"


def is_alive(pid: int, known_identity: str) -> bool:
    """Whether the process that had this number and identity still runs; a dead child of ours is reaped."""
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        del _children[pid]
        return False
    return identity(pid) == known_identity


def wait_until_gone(pid: int, known_identity: str, wait_s: float) -> bool:
    """Whether the process ended within `wait_s`."""
    deadline = time.monotonic() + wait_s
    while is_alive(pid, known_identity):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def free_port(avoid: int | None = None) -> int:
    """A port nobody listens on, below those the kernel gives to outgoing connections.

    A client that keeps reconnecting to a dead broker in the kernel's own range would one day be given the broker's
    port as its local one, connect to itself, and keep the broker from coming back.
    """
    ports = range(LOWEST_PORT, max(_ephemeral_low(), LOWEST_PORT + 1_000))
    for port in random.SystemRandom().sample(ports, k=200):
        if port != avoid and is_port_free(port):
            return port
    raise OSError(f"no free port on {HOST} between {ports.start} and {ports.stop}")


def is_port_free(port: int) -> bool:
    """Whether a server could listen on the port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: closed connections don't count
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _ephemeral_low() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("utf-8").split()[0])
    except (OSError, ValueError, IndexError):
        return DEFAULT_EPHEMERAL_LOW


def worker_dies_with_parent() -> None:
    """Have the kernel kill this process, a child by multiprocessing, when its parent ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    _die_with(parent.pid)


def with_parent() -> Callable[[], None]:
    """For `preexec_fn`: the kernel kills the new process when the thread that started it ends."""
    return partial(_die_with, os.getpid())


def _die_with(parent: int) -> None:
    """At once if it has ended already: the kernel does not tell of that afterwards."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
