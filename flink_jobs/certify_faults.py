"""The faults of `millrace certify`: real processes killed and frozen, a disk that is full, at chosen moments."""

import contextlib
import os
import random
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from flink_jobs.job_run import JobRun, job_checkpoints
from flink_jobs.local.broker import Broker
from flink_jobs.local.cluster import ClusterProcess, LocalCluster
from flink_jobs.rest_client import RestError
from flink_jobs.topics import group_id
from flink_jobs.transactions import open_transactions

FREEZE_S = 20.0
FULL_S = 10.0
BROKER_AWAY_S = 1.0
WAIT_S = 60.0
GAP_TRIES = 40
WORKER = "pyflink.fn_execution.beam.beam_boot"


class FaultError(RuntimeError):
    """A fault could not be made; one line says why."""


@dataclass
class Lab:
    """What faults are made on.

    Attributes:
        broker: A broker of this run.
        cluster: A cluster of this run.
        job: The job on it.
        chance: Decides which process and when.
        freeze_s: How long a frozen broker stays so.
        full_s: How long the disk stays full.
        struck_at: When the last fault struck, s since 1970; choosing the moment is no part of a recovery.
    """

    broker: Broker
    cluster: LocalCluster
    job: JobRun
    chance: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311  # moments, no secrets
    freeze_s: float = FREEZE_S
    full_s: float = FULL_S
    struck_at: float = 0.0

    def strike(self) -> None:
        """Note that the fault happens now."""
        self.struck_at = time.time()

    def processes(self, role: str) -> list[ClusterProcess]:
        """Those of a role that are alive."""
        deadline = time.monotonic() + WAIT_S
        while not (found := self.cluster.running(role)):
            if time.monotonic() > deadline:
                raise FaultError(f"no {role} came up within {WAIT_S:g} s: see {self.cluster.folder / 'log'}")
            time.sleep(0.1)
        return found


def kill_workers(lab: Lab) -> str:
    """SIGKILL one Python worker."""
    workers = python_workers(lab.cluster)
    chosen = lab.chance.choice(workers)
    lab.strike()
    chosen.kill()
    return f"process {chosen.pid}, one of {len(workers)}"


def python_workers(cluster: LocalCluster) -> list[psutil.Process]:
    """The processes in which the cluster's jobs score.

    Raises:
        FaultError: There is none.
    """
    deadline = time.monotonic() + WAIT_S
    while True:
        found = []
        for manager in cluster.running("taskmanager"):
            with contextlib.suppress(psutil.Error):
                for process in psutil.Process(manager.pid).children(recursive=True):
                    if WORKER in process.cmdline() and not process.children():
                        found.append(process)
        if found:
            return found
        if time.monotonic() > deadline:
            raise FaultError(f"no Python worker within {WAIT_S:g} s")
        time.sleep(0.1)


def kill_taskmanager(lab: Lab) -> str:
    """SIGKILL one TaskManager."""
    chosen = lab.chance.choice(lab.processes("taskmanager"))
    lab.strike()
    os.kill(chosen.pid, signal.SIGKILL)
    return f"{chosen.name}, process {chosen.pid}"


def kill_jobmanager(lab: Lab) -> str:
    """SIGKILL the JobManager."""
    chosen = lab.processes("jobmanager")[0]
    lab.strike()
    os.kill(chosen.pid, signal.SIGKILL)
    return f"process {chosen.pid}"


def kill_broker(lab: Lab) -> str:
    """SIGKILL the broker, and start it again."""
    pid = lab.broker.state.pid
    lab.strike()
    lab.broker.kill()
    time.sleep(BROKER_AWAY_S)
    lab.broker.restart()
    return f"process {pid}"


def freeze_broker(lab: Lab) -> str:
    """SIGSTOP the broker for a while: connections stay open, and nothing answers."""
    lab.strike()
    lab.broker.freeze()
    try:
        time.sleep(lab.freeze_s)
    finally:
        lab.broker.thaw()
    return f"for {lab.freeze_s:g} s"


def kill_before_commit(lab: Lab) -> str:
    """SIGKILL all TaskManagers when a checkpoint is complete and its Kafka transactions are not yet committed."""
    managers, pending = halt_before_commit(lab)
    lab.strike()
    for each in managers:
        os.kill(each.pid, signal.SIGKILL)
    return f"a checkpoint complete, {', '.join(pending)} uncommitted"


def halt_before_commit(lab: Lab) -> tuple[list[ClusterProcess], list[str]]:
    """SIGSTOP all TaskManagers when a checkpoint is complete and its Kafka transactions are not yet committed.

    They are halted the moment the checkpoint's metadata is there. Only if Kafka then still has a transaction of that
    checkpoint open they stay so, otherwise they go on and a later checkpoint is tried.

    Returns:
        The TaskManagers, and the ids of the transactions.

    Raises:
        FaultError: No try came in time.
    """
    _uncommitted(lab, 0)  # the first question takes a second, and a TaskManager that is halted for long loses its job
    for _ in range(GAP_TRIES):
        checkpoint = _next_checkpoint(lab)
        managers = lab.processes("taskmanager")
        for each in managers:
            os.kill(each.pid, signal.SIGSTOP)
        pending: list[str] = []
        try:
            pending = _uncommitted(lab, checkpoint)
        finally:
            if not pending:
                for each in managers:
                    os.kill(each.pid, signal.SIGCONT)
        if pending:
            return managers, pending
        time.sleep(lab.chance.uniform(0.05, 0.5))
    raise FaultError(f"{GAP_TRIES} checkpoints were committed before the TaskManagers could be halted")


def _next_checkpoint(lab: Lab) -> int:
    """Wait for a checkpoint's metadata; its number. Looks very often: the commit follows within milliseconds."""
    folder = job_checkpoints(lab.job)
    known = max(_complete(folder), default=0)
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for ahead in (1, 2, 3):
            if (folder / f"chk-{known + ahead}" / "_metadata").exists():
                return known + ahead
        time.sleep(0.0002)
        if time.monotonic() % 1 < 0.001:
            known = max(_complete(folder), default=known)
    raise FaultError(f"no checkpoint completed within {WAIT_S:g} s")


def _complete(folder: Path) -> Iterator[int]:
    for file in folder.glob("chk-*/_metadata"):
        yield int(file.parent.name.removeprefix("chk-"))


def _uncommitted(lab: Lab, checkpoint: int) -> list[str]:
    """Transactions of the checkpoint that are open; their ids end with its number."""
    prefix = group_id(lab.job.pipeline, lab.job.engine)
    names = [str(each.transactional_id) for each in open_transactions(lab.job.settings, prefix)]
    return [name for name in names if re.fullmatch(rf".*-{checkpoint}", name)]


def fill_disk(lab: Lab) -> str:
    """Let no file of Flink's processes grow for a while, as on a full disk (RLIMIT_FSIZE: writes fail).

    Checkpoints fail, and with them restarts, until there is room again.
    """
    limited = [*lab.processes("jobmanager"), *lab.processes("taskmanager")]
    before = _failed_checkpoints(lab.job)
    lab.strike()
    for each in limited:
        _limit_files(each.pid, 0)
    try:
        time.sleep(lab.full_s)
    finally:
        for each in limited:
            _limit_files(each.pid, resource.RLIM_INFINITY)
    failed = _failed_checkpoints(lab.job)
    known = before is not None and failed is not None
    return f"for {lab.full_s:g} s" + (f", {max(0, (failed or 0) - (before or 0))} checkpoints failed" if known else "")


def _limit_files(pid: int, most_bytes: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended, and a new one has no limit
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most_bytes, hard))


def _failed_checkpoints(job: JobRun) -> int | None:
    try:
        return job.checkpoints().failed
    except RestError:
        return None


def restart_in_transaction(lab: Lab) -> str:
    """SIGKILL all of the cluster while a transaction with records is open, and start it again.

    Raises:
        FaultError: No transaction was open.
    """
    prefix, deadline = group_id(lab.job.pipeline, lab.job.engine), time.monotonic() + WAIT_S
    while not (found := open_transactions(lab.job.settings, prefix)):
        if time.monotonic() > deadline:
            raise FaultError(f"no transaction was open within {WAIT_S:g} s")
    state = lab.cluster.state
    lab.strike()
    lab.cluster.kill()
    lab.cluster = LocalCluster.start(
        lab.cluster.folder,
        taskmanagers=state.taskmanagers,
        slots=state.slots,
        rest_port=state.rest_port,
        die_with_parent=True,
    )
    return f"{', '.join(str(each.transactional_id) for each in found)} open"


FAULTS: dict[str, Callable[[Lab], str]] = {
    "python worker killed": kill_workers,
    "TaskManager killed": kill_taskmanager,
    "JobManager killed": kill_jobmanager,
    "broker killed": kill_broker,
    "broker frozen": freeze_broker,
    "killed between checkpoint and commit": kill_before_commit,
    "disk full": fill_disk,
    "cluster killed with a transaction open": restart_in_transaction,
}
"""By name; each returns what it did in words."""
