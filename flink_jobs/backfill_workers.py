"""The processes of a backfill: each has its part of the work at a time, and none outlives us."""

import contextlib
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cloudpickle
import pyarrow

from flink_jobs.backfill_steps import Work, Worker
from flink_jobs.local.processes import worker_dies_with_parent

_cloudpickle: Any = cloudpickle
_worker: Worker | None = None


class WorkerLostError(RuntimeError):
    """A process of ours was killed."""


def _start(work: bytes) -> None:
    """Begin a process's life. A Ctrl-C is meant for its parent, which ends it."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker_dies_with_parent()
    pa: Any = pyarrow
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    _worker = Worker(_cloudpickle.loads(work))


def _call(method: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(_worker, method)(*arguments)


class Workers:
    """Processes that work; with one, it is this process.

    Args:
        work: What they must know.
        processes: How many.
    """

    def __init__(self, work: Work, processes: int) -> None:
        self._own = Worker(work) if processes == 1 else None
        self._pool: ProcessPoolExecutor | None = None
        if processes > 1:
            self._pool = ProcessPoolExecutor(
                processes,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start,
                initargs=(_cloudpickle.dumps(work),),
            )

    def each(self, method: str, calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Call a method of `Worker` with each of some arguments; (number of the call, result) as they come.

        Raises:
            WorkerLostError: A process was killed.
        """
        if self._pool is None:
            for number, arguments in enumerate(calls):
                yield number, getattr(self._own, method)(*arguments)
            return
        try:
            waiting = {self._pool.submit(_call, method, arguments): number for number, arguments in enumerate(calls)}
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool as error:
            raise WorkerLostError(
                "a process of the backfill was killed, perhaps for want of memory: run the command again, it goes on "
                "from what is finished (--processes 1 needs the least memory)"
            ) from error

    def close(self) -> None:
        """End all processes at once."""
        if self._own is not None:
            self._own.close()
        if self._pool is None:
            return
        processes: dict[int, Any] = dict(getattr(self._pool, "_processes", None) or {})
        for process in processes.values():
            with contextlib.suppress(OSError, ValueError):
                process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)
