"""What a running job tells through Flink's REST interface, as plain data."""

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 10.0


class RestError(RuntimeError):
    """Flink did not answer."""


@dataclass(frozen=True)
class CheckpointStats:
    """A job's checkpoints.

    Attributes:
        completed: How many since the job was started (a restart of the process counts anew).
        failed: How many did not complete.
        last_path: The newest complete one.
        last_triggered_ms: When it began, ms since 1970.
        last_duration_ms: How long it took.
        last_size_bytes: Size of the state it holds.
    """

    completed: int
    failed: int
    last_path: str | None
    last_triggered_ms: int
    last_duration_ms: int
    last_size_bytes: int


class RestClient:
    """Reads one job.

    Args:
        address: Of the REST interface, like `http://127.0.0.1:8081`.
        job_id: Flink's id of the job.
    """

    def __init__(self, address: str, job_id: str) -> None:
        self._job = f"{address}/jobs/{job_id}"

    def _get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"{self._job}{path}", timeout=TIMEOUT_S) as answer:  # noqa: S310  # http only
                return json.load(answer)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise RestError(f"Flink's REST interface did not answer: {error}") from error

    def status(self) -> str:
        """RUNNING, RESTARTING, FAILED, FINISHED, CANCELED…; RUNNING only once all tasks run."""
        job = self._get("")
        tasks = {task["status"] for task in job["vertices"]}
        state = str(job["state"])
        return "STARTING" if state == "RUNNING" and tasks - {"RUNNING", "FINISHED"} else state

    def checkpoints(self) -> CheckpointStats:
        """The job's checkpoints so far."""
        found = self._get("/checkpoints")
        last = (found.get("latest") or {}).get("completed") or {}
        return CheckpointStats(
            completed=int(found["counts"]["completed"]),
            failed=int(found["counts"]["failed"]),
            last_path=last.get("external_path"),
            last_triggered_ms=int(last.get("trigger_timestamp") or 0),
            last_duration_ms=int(last.get("end_to_end_duration") or 0),
            last_size_bytes=int(last.get("state_size") or 0),
        )

    def total(self, metric: str) -> int:
        """The sum of a counter over all operators and subtasks that have it."""
        found = 0
        for vertex in self._get("")["vertices"]:
            place = f"/vertices/{vertex['id']}/subtasks/metrics"
            names = [one["id"] for one in self._get(place) if one["id"].endswith(f".{metric}")]
            if names:
                wanted = urllib.parse.quote(",".join(names))
                found += sum(int(one["sum"]) for one in self._get(f"{place}?get={wanted}&agg=sum"))
        return found

    def root_cause(self) -> str | None:
        """The last failure's cause in one line: what Python raised if Python did, else the innermost Java cause."""
        history = (self._get("/exceptions").get("exceptionHistory") or {}).get("entries") or []
        return root_cause_line(history[0]["stacktrace"]) if history else None


def root_cause_line(stacktrace: str) -> str:
    """The line of a Java or Python stack trace that says what went wrong."""
    lines = stacktrace.splitlines()
    tracebacks = [number for number, line in enumerate(lines) if "Traceback (most recent call last)" in line]
    if tracebacks:
        # a traceback's own lines are indented; the first one that is not says what was raised
        for line in lines[tracebacks[-1] + 1 :]:
            if line.strip() and not line[0].isspace():
                return line.strip()[:500]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return (causes[-1] if causes else lines[0] if lines else "unknown failure")[:500]
