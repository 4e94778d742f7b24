"""Whose an open transaction is: a running job's, one that the next start will commit, or nobody's any more.

A transaction that a completed checkpoint holds is not lost with its job: the next start from that checkpoint commits
it. To abort it would lose answers for good, so it counts as owned like one of a running job.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flink_jobs.console import CommandError
from flink_jobs.job_run import ENDED, restore_points_in
from flink_jobs.restore_points import all_bytes, folder_of, load_metadata, operator_handles
from flink_jobs.running_mark import running_process
from flink_jobs.settings import Settings
from flink_jobs.submission import cluster_rest
from flink_jobs.topics import JOBS, REPLAY_ID
from flink_jobs.transactions import COMPLETING, HANGING, OpenTransaction

RUNNING, PENDING, COMPLETED = "running", "pending", "completing"
REPLAY, FOREIGN, ORPHANED = "replay", "foreign", "orphaned"
_ID = struct.Struct(">qH")
"""In a committable of the sink: the producer's number, and the length of its transactional id, which follows."""


@dataclass(frozen=True)
class OwnedTransaction:
    """An open transaction and whose it is.

    Attributes:
        transaction: It.
        run: Name of the pipeline's run; None if it is not of Millrace.
        owner: running, pending (the next start commits it), completing (Kafka is about to end it), replay (of dead
            letters), foreign, orphaned.
            A hanging one is orphaned whosever it was.
        why: Says it.
    """

    transaction: OpenTransaction
    run: str | None
    owner: str
    why: str


def owned(
    settings: Settings, transactions: Sequence[OpenTransaction], moving: Iterable[str] = ()
) -> list[OwnedTransaction]:
    """Whose each transaction is; needs Flink's JVM in this process.

    Args:
        settings: Where checkpoints are, and the cluster.
        transactions: From `open_transactions`.
        moving: Prefixes whose transactions were seen to change, so that a job has them wherever it runs.

    Raises:
        RestError: The cluster that the settings name does not answer: its jobs cannot be known.
    """
    runs = {run for each in transactions if (run := run_of(each)) is not None}
    jobs = _jobs_of(settings) if runs else {}
    moved = set(moving)
    running = {run: _running(run, settings, jobs, moved) for run in runs}
    content = {run: _newest_checkpoint(settings.checkpoints / run) for run in runs}
    return [_owned(each, running, content) for each in transactions]


def run_of(transaction: OpenTransaction) -> str | None:
    """The run whose sink has this transaction."""
    prefix = transaction.prefix
    return prefix.removeprefix(JOBS) if prefix is not None and prefix.startswith(JOBS) else None


def replay_of(transaction: OpenTransaction) -> str | None:
    """The pipeline whose dead letters this transaction feeds again."""
    name = transaction.transactional_id or ""
    if not (name.startswith(JOBS) and name.endswith(REPLAY_ID)) or transaction.prefix is not None:
        return None
    return name.removeprefix(JOBS).removesuffix(REPLAY_ID)


def _owned(
    transaction: OpenTransaction, running: Mapping[str, str | None], content: Mapping[str, tuple[str, bytes] | None]
) -> OwnedTransaction:
    run = run_of(transaction)
    if transaction.state in COMPLETING:
        return OwnedTransaction(transaction, run, COMPLETED, "Kafka is writing its end; it goes by itself")
    if transaction.state == HANGING:
        return OwnedTransaction(transaction, run, ORPHANED, "no coordinator knows of it: it would stay for ever")
    if (pipeline := replay_of(transaction)) is not None:
        return OwnedTransaction(
            transaction, pipeline, REPLAY,
            "a replay of dead letters; if that was killed, Kafka ends it after its timeout, or the next replay at once",
        )  # fmt: skip
    if run is None:
        return OwnedTransaction(transaction, run, FOREIGN, "another program's")
    job = running[run]
    if job is not None:
        return OwnedTransaction(transaction, run, RUNNING, job)
    newest = content[run]
    if newest is not None and _committable(transaction) in newest[1]:
        return OwnedTransaction(
            transaction, run, PENDING, f"the next start commits it: {Path(newest[0]).name} holds its answers"
        )
    return OwnedTransaction(transaction, run, ORPHANED, "no job runs that would end it, and no checkpoint holds it")


def _running(run: str, settings: Settings, jobs: Mapping[str, str], moving: set[str]) -> str | None:
    """What shows that a job of the run lives; None if nothing does."""
    name = f"{JOBS}{run}"
    if name in jobs:
        return jobs[name]
    process = running_process(settings.checkpoints / run)
    if process is not None:
        return f"process {process} runs it"
    return "it moves: a job runs somewhere" if name in moving else None


def _jobs_of(settings: Settings) -> dict[str, str]:
    """Living jobs of the cluster by name; none where no cluster is named and no local one runs."""
    try:
        cluster = cluster_rest(settings)
    except CommandError:
        return {}
    return {
        str(job["name"]): f"job {job['jid']} at {cluster.address}"
        for job in cluster.jobs()
        if job["state"] not in ENDED
    }


def _newest_checkpoint(folder: Path) -> tuple[str, bytes] | None:
    """The restore point from which a run's next start goes on, and all bytes of its operators' own states."""
    points = restore_points_in(folder)
    if not points:
        return None
    content = [all_bytes(handle) for handle in operator_handles(load_metadata(points[-1]))]
    return str(folder_of(points[-1])), b"\0".join(content)


def _committable(transaction: OpenTransaction) -> bytes:
    """The bytes of a committable of Kafka's sink, from its producer's number on."""
    name = (transaction.transactional_id or "").encode()
    return _ID.pack(transaction.producer_id, len(name)) + name
