"""Processes that end with whoever started them, however early that was."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ALONE = "import os; from flink_jobs.local.processes import _die_with; _die_with({parent}); print('goes on')"
POOL = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor

def begin():  # as if the imports before took long
    print(os.getpid(), flush=True)
    time.sleep(1.0)
    from flink_jobs.local.processes import worker_dies_with_parent
    worker_dies_with_parent()

if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=begin) as pool:
        pool.submit(time.sleep, 60).result()
"""


@pytest.mark.parametrize(("parent", "status"), [("os.getppid()", 0), ("os.getppid() + 1", -signal.SIGKILL)])
def test_a_process_whose_parent_is_gone_already_ends_at_once(parent, status):
    done = subprocess.run([sys.executable, "-c", ALONE.format(parent=parent)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (status, "" if status else "goes on\n")


def test_a_worker_whose_parent_is_killed_while_it_begins_is_not_left_behind(tmp_path):
    (tmp_path / "pool.py").write_text(POOL)
    command = [sys.executable, str(tmp_path / "pool.py")]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as pool:
        worker = int(pool.stdout.readline())
        pool.kill()
        deadline = time.monotonic() + 20
        while is_there(worker):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def is_there(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
