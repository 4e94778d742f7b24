"""A Python worker does not outlive its TaskManager."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from flink_jobs.worker_end import end_with_taskmanager, parent_of

ROOT = Path(__file__).parents[2]
WORK = """
import sys, time
import flink_jobs.worker_end as end
end.LOOK_S = 0.05
end.end_with_taskmanager()
print("ready", flush=True)
time.sleep(60)
"""


def is_there(pid):
    return parent_of(pid) != 0


def test_a_worker_ends_soon_after_the_process_that_started_its_shell(tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text(WORK)
    shell = f"{sys.executable} {worker} pyflink.fn_execution.beam.beam_boot | cat"
    manager = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run(['bash', '-c', {shell!r}])"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert manager.stdout.readline() == b"ready\n"
    workers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and is_worker(path, worker)]
    assert len(workers) == 1
    time.sleep(0.3)
    assert is_there(workers[0]), "it works as long as its TaskManager does"
    manager.send_signal(signal.SIGKILL)
    manager.wait()
    deadline = time.monotonic() + 10
    while is_there(workers[0]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_there(workers[0])


def is_worker(path, file):
    try:
        words = (path / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[1:2] == [str(file).encode()]


def test_another_process_is_left_alone():
    end_with_taskmanager()
    assert parent_of(os.getpid()) == os.getppid()
