"""Memory of a job, every process counted, in parts that can be compared between two jobs.

Linux's proportional set size (PSS) counts a page that several processes share once. A Java heap keeps what it once
had, garbage too; so the heap is given its full size and touched at the start (`WHOLE_HEAP`), and counts with what is
alive in it after collections. What the Java machine has besides, RocksDB's memory above all, is its PSS less its heap.
"""

import contextlib
from typing import NamedTuple

import psutil

from tests.benchmarks.companions import family
from tests.benchmarks.steered_job import SteeredJob

HEAP_MB = 1_536
WHOLE_HEAP = {"JVM_ARGS": f"-Xmx{HEAP_MB}m -Xms{HEAP_MB}m -XX:+AlwaysPreTouch"}


class JobMemory(NamedTuple):
    """Bytes of a job's processes.

    Attributes:
        python: PSS of the process that started the job and of the Python workers.
        heap: Alive in the Java heap.
        native: PSS of the Java machine less its heap: RocksDB, network buffers, code, classes, threads.
    """

    python: int
    heap: int
    native: int

    @property
    def whole(self) -> int:
        return self.python + self.heap + self.native


def memory_of(job: SteeredJob) -> JobMemory:
    """The job's memory now; collects the Java heap's garbage first. It must have been started with `WHOLE_HEAP`."""
    heap = job.ask("heap")
    python = java = 0
    for process in family(job.process):
        with contextlib.suppress(psutil.NoSuchProcess):
            pss = process.memory_full_info().pss
            if process.name() == "java":
                java += pss
            else:
                python += pss
    return JobMemory(python, heap["live"], java - heap["committed"])
