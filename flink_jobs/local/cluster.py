"""A local Flink cluster: a JobManager, TaskManagers and a ZooKeeper, each a process, on 127.0.0.1 only.

A supervisor, a process too, starts them and starts again what dies, as Kubernetes or systemd would. Everything is in
one folder: `conf/`, `lib/`, `log/`, `ha/` (what a new JobManager knows its jobs by), `cluster.json` (the processes).
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flink_jobs.local import processes
from flink_jobs.local.cluster_files import HOST, write_files
from flink_jobs.local.server_process import port_of
from flink_jobs.rest_client import ClusterRest, RestError, root_cause_line

START_WAIT_S = 120.0
START_ATTEMPTS = 3
STOP_WAIT_S = 30.0
DEFAULT_REST_PORT = 8081
STATE = "cluster.json"
"""Written by the supervisor alone, whenever it has started a process."""
_PROJECT_ROOT = Path(__file__).resolve().parents[2]


class ClusterError(RuntimeError):
    """The local cluster could not be started or stopped; one line says why."""


@dataclass(frozen=True)
class ClusterProcess:
    """One process; `identity` tells it from a later one with the same number."""

    name: str
    pid: int
    identity: str
    starts: int = 1


@dataclass(frozen=True)
class ClusterState:
    """What `cluster.json` says."""

    pid: int
    identity: str
    rest_port: int
    taskmanagers: int
    slots: int
    processes: list[ClusterProcess] = field(default_factory=list)


class LocalCluster:
    """A local cluster that runs, or ran; made by `LocalCluster.start` or found by `LocalCluster.find`."""

    def __init__(self, folder: Path, state: ClusterState) -> None:
        self.folder, self.state = folder, state

    @classmethod
    def start(
        cls,
        folder: Path | str,
        *,
        taskmanagers: int = 1,
        slots: int = 2,
        rest_port: int | None = None,
        wait_s: float = START_WAIT_S,
        die_with_parent: bool = False,
        java_options: Sequence[str] = (),
    ) -> "LocalCluster":
        """Start the cluster of a folder, or return the one that already runs there.

        Args:
            folder: Where all of it is.
            taskmanagers: How many TaskManagers.
            slots: Of each.
            rest_port: Of the web UI. By default the one it had last time in this folder, or a free one.
            wait_s: How long it may take until every slot is there.
            die_with_parent: End it (SIGKILL) when the thread that called this ends.
            java_options: More of them for each process, from `kafka_security.java_options`.

        Raises:
            ClusterError: It does not get ready, or another one runs in the folder.
        """
        folder = Path(folder).expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with processes.locked(folder / "cluster.lock"):
            found = cls.find(folder)
            if found is not None and found.alive:
                asked = taskmanagers, slots, rest_port or found.state.rest_port
                if asked != (found.state.taskmanagers, found.state.slots, found.state.rest_port):
                    raise ClusterError(
                        f"a cluster of {found.state.taskmanagers} TaskManagers with {found.state.slots} slots already "
                        f"runs at {found.rest_address}: `millrace cluster down` ends it"
                    )
                return found
            last = found.state.rest_port if found else None
            port = _rest_port(rest_port, last)
            started = cls(folder, _launch(folder, port, taskmanagers, slots, die_with_parent, java_options))
            try:
                started.wait_until_ready(wait_s)
            except BaseException:
                started.stop(wait_s=5.0)
                raise
            return cls.find(folder) or started

    @classmethod
    def find(cls, folder: Path | str) -> "LocalCluster | None":
        """The cluster last started in the folder, alive or not; None when there never was one."""
        folder = Path(folder).expanduser().resolve()
        try:
            document = json.loads((folder / STATE).read_text("utf-8"))
            processes_of = [ClusterProcess(**each) for each in document.pop("processes")]
            return cls(folder, ClusterState(**document, processes=processes_of))
        except (FileNotFoundError, json.JSONDecodeError, TypeError, KeyError):
            return None

    @property
    def rest_address(self) -> str:
        """Of the REST interface and the web UI."""
        return f"http://{HOST}:{self.state.rest_port}"

    @property
    def alive(self) -> bool:
        """Whether its supervisor is there."""
        return processes.is_alive(self.state.pid, self.state.identity)

    def wait_until_ready(self, wait_s: float = START_WAIT_S) -> None:
        """Wait until every slot is there.

        Raises:
            ClusterError: It took too long, or the supervisor ended.
        """
        wanted = self.state.taskmanagers * self.state.slots
        deadline, rest = time.monotonic() + wait_s, ClusterRest(self.rest_address)
        while True:
            with contextlib.suppress(RestError):
                if rest.overview()["slots-total"] >= wanted:
                    return
            if not self.alive:
                raise ClusterError(f"the cluster's supervisor ended: {self._said('supervisor.log')}")
            for process in (self.find(self.folder) or self).state.processes:
                if process.starts > START_ATTEMPTS:
                    raise ClusterError(f"{process.name} does not start: {self._said(process.name + '.out')}")
            if time.monotonic() > deadline:
                raise ClusterError(f"the cluster has not {wanted} slots after {wait_s:g} s: see {self.folder / 'log'}")
            time.sleep(0.2)

    def running(self, role: str) -> list[ClusterProcess]:
        """The processes of a role that are alive now: zookeeper, jobmanager, taskmanager."""
        now = self.find(self.folder) or self
        found = [each for each in now.state.processes if each.name.partition("-")[0] == role]
        return [each for each in found if processes.is_alive(each.pid, each.identity)]

    def stop(self, *, wait_s: float = STOP_WAIT_S) -> None:
        """End all of it in order; after `wait_s` by force. Jobs that run there end with it."""
        if not self.alive:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.state.pid, signal.SIGTERM)
        if not processes.wait_until_gone(self.state.pid, self.state.identity, wait_s):
            self.kill()

    def kill(self) -> None:
        """End all of it at once (SIGKILL), Python workers included."""
        now = self.find(self.folder) or self
        if self.alive:
            os.kill(self.state.pid, signal.SIGKILL)
            processes.wait_until_gone(self.state.pid, self.state.identity, STOP_WAIT_S)
        for each in now.state.processes:
            # the kernel kills them with their supervisor, but not what they started, which is in their groups
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)
            processes.wait_until_gone(each.pid, each.identity, STOP_WAIT_S)

    def _said(self, log: str) -> str:
        """The root cause that a process's output names, and where it is."""
        file = self.folder / "log" / log
        return f"{root_cause_line(file.read_text('utf-8', 'replace'))} ({file})"


def _rest_port(asked: int | None, last: int | None) -> int:
    usual = DEFAULT_REST_PORT if processes.is_port_free(DEFAULT_REST_PORT) else processes.free_port()
    return port_of(asked, last, ClusterError) or usual


def _launch(
    folder: Path, rest_port: int, taskmanagers: int, slots: int, die_with_parent: bool, java_options: Sequence[str]
) -> ClusterState:
    ports = {"rest": rest_port}
    for name in ("rpc", "blob", "zookeeper"):
        port = processes.free_port()
        while port in ports.values():
            port = processes.free_port()
        ports[name] = port
    write_files(folder, ports, slots, java_options)
    (folder / STATE).unlink(missing_ok=True)
    order = [str(number) for number in (rest_port, taskmanagers, slots)]
    with (folder / "log" / "supervisor.log").open("wb") as log:
        process = processes.launch(
            [sys.executable, "-m", "flink_jobs.local.cluster_supervisor", str(folder), *order],
            _PROJECT_ROOT,
            log,
            die_with_parent=die_with_parent,
        )
    identity = processes.identity(process.pid)
    if identity is None:
        raise ClusterError(f"the cluster's supervisor ended at once: see {folder / 'log'}")
    return ClusterState(process.pid, identity, rest_port, taskmanagers, slots)
