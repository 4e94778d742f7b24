"""A Python worker ends with its TaskManager.

Nothing tells a worker that its TaskManager was killed: measured, it waited for its next batch for half an hour,
with all the state of its shards in memory.
"""

import os
import threading
import time
from pathlib import Path

LOOK_S = 2.0
_WORKER = b"pyflink.fn_execution.beam.beam_boot"


def end_with_taskmanager() -> None:
    """From now on, end this process soon after its TaskManager; elsewhere than in a worker nothing happens."""
    if _WORKER not in Path("/proc/self/cmdline").read_bytes().split(b"\0"):
        return
    if any(thread.name == end_with_taskmanager.__name__ for thread in threading.enumerate()):
        return
    shell = os.getppid()  # PyFlink's runner script, whose parent is the TaskManager
    threading.Thread(
        target=_watch, args=(shell, parent_of(shell)), name=end_with_taskmanager.__name__, daemon=True
    ).start()


def _watch(shell: int, taskmanager: int) -> None:
    while parent_of(shell) == taskmanager:
        time.sleep(LOOK_S)
    os._exit(1)


def parent_of(pid: int) -> int:
    """The parent of a process; 0 when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])
