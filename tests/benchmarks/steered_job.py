"""The shipped pipeline as a job in a process of its own that says when it came how far, and does what it is told.

The parent writes commands to its standard input, a word a line; the job answers with lines of JSON in `answers.jsonl`.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from flink_jobs.pipelines import load_pipeline
from flink_jobs.settings import load_settings
from tests.benchmarks.companions import companion, raise_if_ended
from tests.benchmarks.outcomes import ContestantError
from udfs.pipeline import Pipeline, Requests

ANSWER_S = 300.0
LOOK_S = 0.02
HEAP_LOOKS = 3  # one collection leaves what was being cleared


class JobTask(NamedTuple):
    """What to run: the topics are the shipped pipeline's, renamed."""

    bootstrap: str
    events: str
    output: str
    settings: dict[str, object]
    restore_from: str | None = None
    models_topic: str | None = None
    requests: bool = False

    @property
    def pipeline(self) -> Pipeline:
        shipped = load_pipeline("purchase")
        events = dataclasses.replace(shipped.events, topic=self.events)
        asked = Requests(unknown="score") if self.requests else None  # events are of another time than now
        return dataclasses.replace(
            shipped, predictions=self.output, events=events, models_topic=self.models_topic, requests=asked
        )


class SteeredJob:
    """The parent's side of a running job.

    Attributes:
        process: The job's process; its children are the Java machine and the Python workers.
        started_s: `time.time()` just before it was made.
        home: Folder of its checkpoints and logs.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", started_s: float, home: Path) -> None:
        self.process, self.started_s, self.home = process, started_s, home

    def ask(self, command: str, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """Give a command and wait for its answer: `heap`, `catch_up`, or `stop`, after which the process ends."""
        known = len(self.answers(command))
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()
        return self.wait_for(command, timeout_s, known)

    def wait_for(self, what: str, timeout_s: float = ANSWER_S, known: int = 0) -> dict[str, Any]:
        """The first answer with this name after those that are known."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = self.answers(what)
            if len(found) > known:
                return found[known]
            raise_if_ended(self.process, self.home)
            time.sleep(LOOK_S)
        raise ContestantError(f"the job did not get to {what!r} within {timeout_s:.0f} s")

    def answers(self, what: str | None = None) -> list[dict[str, Any]]:
        """What it has said so far, phases included; all of it, or those of a name."""
        file = self.home / "answers.jsonl"
        text = file.read_text("utf-8") if file.exists() else ""
        complete = text[: text.rfind("\n") + 1]
        found = [json.loads(line) for line in complete.splitlines()]
        return [answer for answer in found if what in (None, answer["what"])]


@contextmanager
def steered_job(task: JobTask, home: Path, environment: Mapping[str, str] | None = None) -> Iterator[SteeredJob]:
    """Start the job; it is cancelled at the end of the block if it was not stopped before."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "answers.jsonl").unlink(missing_ok=True)
    started_s = time.time()
    with companion(f"{__name__}", [str(home), json.dumps(task)], home, environment) as process:
        yield SteeredJob(process, started_s, home)


class _Answers:
    """Writes the answers; a phase is one with the time at which it ended."""

    def __init__(self, home: Path) -> None:
        self._file = (home / "answers.jsonl").open("a", encoding="utf-8")

    def say(self, what: str, **values: object) -> None:
        self._file.write(json.dumps({"what": what, "at_s": time.time(), **values}) + "\n")
        self._file.flush()

    def after(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which tells that it has returned."""

        def told(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            self.say(what)
            return result

        return told


def main() -> None:
    """The job's side."""
    home, task = Path(sys.argv[1]), JobTask(*json.loads(sys.argv[2]))
    answers = _Answers(home)
    answers.say("process")
    import flink_jobs.environment as environment
    import flink_jobs.job_run as job_run

    environment.prepare_process(home / "logs")
    import pyflink.datastream
    import pyflink.table  # noqa: F401  # the job imports them a moment later: here the time is seen

    answers.say("imports")
    settings = load_settings(bootstrap=task.bootstrap, home=home, **task.settings)
    with (
        mock.patch.object(job_run, "create_environment", answers.after("jvm", job_run.create_environment)),
        mock.patch.object(job_run, "build_scoring_job", answers.after("planning", job_run.build_scoring_job)),
    ):
        run = job_run.start_job(task.pipeline, settings, restore_from=task.restore_from)
    answers.say("submitted")
    while run.status() != "RUNNING":
        run.raise_if_ended()
        time.sleep(LOOK_S)
    answers.say("running")
    for line in sys.stdin:
        command = line.strip()
        if command == "heap":
            answers.say(command, **_heap_bytes())
        elif command == "catch_up":
            run.wait_until_caught_up()
            answers.say(command)
        elif command == "stop":
            answers.say(command, savepoint=run.stop())
            os._exit(0)  # the Java machine has nothing more to do
    run.cancel()


def _heap_bytes() -> dict[str, int]:
    """Live and committed bytes of the Java heap after collections."""
    from pyflink.java_gateway import get_gateway

    jvm: Any = get_gateway().jvm
    for _ in range(HEAP_LOOKS):
        jvm.System.gc()
    runtime = jvm.Runtime.getRuntime()
    return {"live": runtime.totalMemory() - runtime.freeMemory(), "committed": runtime.totalMemory()}
