"""A job in a process of its own, so that a test may kill it: it is told what to do by lines, and answers in JSON lines.

test -> pickled pipeline, settings, where to begin   job: running, caught up, stopped with a savepoint, or failed
"""

import contextlib
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from flink_jobs.local.processes import with_parent
from flink_jobs.settings import Settings
from flink_jobs.topics import STREAM, Engine
from udfs.pipeline import Pipeline

TESTS = Path(__file__).parents[1]
WORKER = "pyflink.fn_execution.beam.beam_boot"


class JobProcess:
    """A running job.

    Args:
        pipeline: Its event class must be importable from tests/ or the project.
        settings: How it runs.
        folder: For what the process writes.
        restore_from: Where to go on from.
        engine: What runs it.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        folder: Path,
        restore_from: str | None = None,
        engine: Engine = STREAM,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        order = folder / "order.pickle"
        order.write_bytes(pickle.dumps((pipeline, settings.model_dump(), restore_from, engine)))
        self._errors = folder / "errors.log"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-u", __file__, str(order)],
                cwd=TESTS.parent,
                # the workers find the event class by this, too
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
                preexec_fn=with_parent(),
            )
        self._answers: queue.Queue[dict | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self._process.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                self._answers.put(json.loads(line))
        self._answers.put(None)

    def wait_for(self, event, timeout_s=180.0):
        """What the job said with that event; fails with the root cause when it says that it failed."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                answer = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(
                    f"the job did not get to {event!r} within {timeout_s:g} s: {self._tail()}"
                ) from None
            if answer is None:
                raise AssertionError(f"the job's process ended before {event!r}: {self._tail()}")
            if answer["event"] == "failed":
                raise AssertionError(f"the job failed: {answer['cause']}")
            if answer["event"] == event:
                return answer

    def _tail(self):
        return self._errors.read_text("utf-8", "replace")[-2_000:]

    def _tell(self, command):
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def go_on_as(self, pipeline, settings):
        """Stop with a savepoint, and go on from it with another pipeline or other settings."""
        order = self._errors.parent / "next_order.pickle"
        order.write_bytes(pickle.dumps((pipeline, settings.model_dump())))
        self._tell("go_on")
        self.wait_for("running")

    def catch_up(self, timeout_s=240.0):
        """Wait until the answers to everything that is in the topic now are committed."""
        self._tell("catch_up")
        self.wait_for("caught_up", timeout_s)

    def read_all(self, timeout_s=240.0):
        """Wait until a checkpoint covers everything that is in the topic now."""
        self._tell("read_all")
        self.wait_for("read", timeout_s)

    def checkpoints(self):
        """How many completed, the cause of the last failure, and how many events SQL's windows dropped as late."""
        self._tell("look")
        return self.wait_for("looked")

    def stop(self, *, drain=False):
        """Stop with a savepoint; returns where it is."""
        self._tell("drain" if drain else "stop")
        savepoint = self.wait_for("stopped")["savepoint"]
        self._process.wait(120)  # the JVM ends its cluster first, which takes long on a busy machine
        return savepoint

    def workers(self):
        """The Python processes in which the job scores."""
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if WORKER in process.cmdline() and not process.children():
                    found.append(process)
        return found

    def kill_workers(self, count, wait_s=60.0):
        """SIGKILL every Python worker, once there are so many."""
        deadline = time.monotonic() + wait_s
        while len(workers := self.workers()) < count:
            assert time.monotonic() < deadline, f"the job has {len(workers)} Python workers, not {count}"
            time.sleep(0.1)
        for worker in workers:
            worker.kill()

    def kill(self):
        """SIGKILL everything of the job, its JVM first, so that nothing can tidy up."""
        kill_all(self._process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def kill_all(process):
    """SIGKILL a process's children, and their children, and then itself."""
    children = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    for each in [*children, process]:
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            each.send_signal(signal.SIGKILL)
    psutil.wait_procs(children, 10)
    process.wait(10)


def _say(event, **values):
    print(json.dumps({"event": event, **values}), flush=True)


def main(order):
    """The process itself."""
    from flink_jobs.job_run import start_job

    pipeline, settings, restore_from, engine = pickle.loads(Path(order).read_bytes())
    try:
        run = start_job(pipeline, Settings(**settings), restore_from=restore_from, engine=engine)
        run.wait_until_running()
        _say("running")
        for command in sys.stdin:
            if command == "catch_up\n":
                run.wait_until_caught_up()
                _say("caught_up")
            elif command == "read_all\n":
                run.wait_until_read()
                _say("read")
            elif command == "go_on\n":
                savepoint = run.stop()
                pipeline, settings = pickle.loads(Path(order).with_name("next_order.pickle").read_bytes())
                run = start_job(pipeline, Settings(**settings), restore_from=savepoint, engine=engine)
                run.wait_until_running()
                _say("running")
            elif command == "look\n":
                stats = {"completed": run.checkpoints().completed, "failure": run.failure()}
                _say("looked", **stats, late_dropped=run.late_dropped())
            elif command in ("stop\n", "drain\n"):
                _say("stopped", savepoint=run.stop(drain=command == "drain\n"))
                return
    except Exception as error:
        _say("failed", cause=f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main(sys.argv[1])
