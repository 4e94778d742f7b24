"""The supervisor of a local cluster: starts its processes, and starts again what dies, until it is told to end.

`python -m flink_jobs.local.cluster_supervisor FOLDER REST_PORT TASKMANAGERS SLOTS`. When it is killed the kernel kills
its processes with it.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from flink_jobs.documents import write_document
from flink_jobs.local import processes
from flink_jobs.local.cluster import STATE, ClusterProcess, ClusterState
from flink_jobs.local.cluster_files import java_command

POLL_S = 0.2
AGAIN_S = 1.0
END_WAIT_S = 15.0


class Supervisor:
    """Keeps the processes of one cluster running.

    Args:
        folder: The cluster's, with all configuration in it.
        rest_port: Of the JobManager.
        taskmanagers: How many.
        slots: Of each.
    """

    def __init__(self, folder: Path, rest_port: int, taskmanagers: int, slots: int) -> None:
        own = processes.identity(os.getpid())
        assert own is not None
        self._folder = folder
        self._state = ClusterState(os.getpid(), own, rest_port, taskmanagers, slots)
        self._names = ["zookeeper", "jobmanager", *(f"taskmanager-{n + 1}" for n in range(taskmanagers))]
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._records: dict[str, ClusterProcess] = {}
        self._ended = False

    def run(self) -> None:
        """Until SIGTERM."""
        signal.signal(signal.SIGTERM, self._end)
        for name in self._names:
            self._start(name)
        while not self._ended:
            for name, process in list(self._running.items()):
                if process.poll() is not None:
                    self._say(f"{name} ended with status {process.returncode}; starting it again")
                    _end_group(process.pid)
                    time.sleep(AGAIN_S)
                    if not self._ended:
                        self._start(name)
            time.sleep(POLL_S)
        self._end_all()

    def _start(self, name: str) -> None:
        role = name.partition("-")[0]
        log = self._folder / "log" / f"{name}.out"
        with log.open("ab") as out:
            process = processes.launch(
                java_command(self._folder, role, name, self._state.slots),
                self._folder,
                out,
                die_with_parent=True,
                environment={"FLINK_CONF_DIR": str(self._folder / "conf"), "FLINK_LOG_DIR": str(log.parent)},
            )
        self._running[name] = process
        starts = self._records[name].starts + 1 if name in self._records else 1
        self._records[name] = ClusterProcess(name, process.pid, processes.identity(process.pid) or "", starts)
        state = dataclasses.replace(self._state, processes=list(self._records.values()))
        write_document(self._folder / STATE, dataclasses.asdict(state))

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self._ended = True

    def _end_all(self) -> None:
        """TaskManagers first, which have Python workers to end."""
        deadline = time.monotonic() + END_WAIT_S
        for name in reversed(self._names):
            self._running[name].terminate()
        for name in reversed(self._names):
            process = self._running[name]
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            _end_group(process.pid)
            process.wait()

    def _say(self, text: str) -> None:
        sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        sys.stderr.flush()


def _end_group(group: int) -> None:
    """What a dead TaskManager leaves behind: its Python workers, which are in its process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    Supervisor(Path(sys.argv[1]), *map(int, sys.argv[2:])).run()
