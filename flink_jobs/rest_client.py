"""What a cluster and a running job tell and are told through Flink's REST interface, as plain data."""

import http.client
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 10.0
LIMIT_REACHED = "dead-letter limit: "
"""What the failure of a job begins with that stopped because most of its records were dead letters."""


class RestError(RuntimeError):
    """Flink did not answer, or refused.

    Attributes:
        status: Of HTTP; None when there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


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


class ClusterRest:
    """Reads a cluster, and changes what runs there.

    Args:
        address: Of the REST interface, like `http://127.0.0.1:8081`.
        tls: What https is spoken with; by default what the system trusts.
    """

    def __init__(self, address: str, tls: ssl.SSLContext | None = None) -> None:
        self.address, self._tls = address.rstrip("/"), tls

    def overview(self) -> dict[str, Any]:
        """Numbers of TaskManagers and slots, and Flink's version."""
        found: dict[str, Any] = self.get("/overview")
        return found

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs that the JobManager remembers: jid, name, state, start-time, the newest first."""
        found: list[dict[str, Any]] = self.get("/jobs/overview")["jobs"]
        return sorted(found, key=lambda job: -int(job["start-time"]))

    def taskmanagers(self) -> dict[str, str]:
        """Ids of the TaskManagers, and the path of each below which its logs are."""
        found = [str(each["id"]) for each in self.get("/taskmanagers")["taskmanagers"]]
        return {name: f"/taskmanagers/{urllib.parse.quote(name, safe='')}" for name in found}

    def get(self, path: str) -> Any:
        """An answer's JSON."""
        return json.loads(self.text(path))

    def text(self, path: str) -> str:
        """An answer as it is."""
        return self._ask(urllib.request.Request(f"{self.address}{path}"))  # noqa: S310  # checked there

    def send(self, path: str, body: Mapping[str, Any] | None = None, method: str = "POST") -> Any:
        """Ask for a change; its answer's JSON."""
        request = urllib.request.Request(  # noqa: S310  # checked when asked
            f"{self.address}{path}",
            data=json.dumps(body or {}).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        return json.loads(self._ask(request) or "{}")

    def _ask(self, request: urllib.request.Request) -> str:
        if not request.full_url.startswith(("http://", "https://")):
            raise RestError(f"{request.full_url} is no address of a Flink cluster: write http://host:port")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self._tls) as answer:  # noqa: S310  # http(s) only
                content: bytes = answer.read()
        except urllib.error.HTTPError as error:
            raise RestError(f"Flink at {self.address} refused: {_reason(error)}", status=error.code) from error
        except (OSError, http.client.HTTPException) as error:
            why = _network_reason(error)
            raise RestError(f"Flink's REST interface at {self.address} did not answer: {why}") from error
        return content.decode("utf-8", "replace")


def _network_reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(error, ssl.SSLError) or isinstance(reason, ssl.SSLError):
        return f"{reason} (tls_ca_file says whom to trust, tls_certificate_file and tls_key_file who asks)"
    return str(error)


def _reason(error: urllib.error.HTTPError) -> str:
    """The line of Flink's answer that says why."""
    try:
        errors = [str(each) for each in json.loads(error.read())["errors"]]
    except (ValueError, KeyError, TypeError):
        return str(error)
    return root_cause_line("\n".join(errors)) if errors else str(error)


class RestClient:
    """One job.

    Args:
        cluster: Where it runs.
        job_id: Flink's id of the job.
    """

    def __init__(self, cluster: ClusterRest, job_id: str) -> None:
        self.cluster = cluster
        self.job_id = job_id
        self._job = f"/jobs/{job_id}"

    def _get(self, path: str) -> Any:
        return self.cluster.get(f"{self._job}{path}")

    def stop(self, folder: str, *, drain: bool = False, timeout_s: float = 300.0) -> str:
        """Stop with a canonical savepoint below a folder; its path."""
        return self._savepoint("/stop", {"targetDirectory": folder, "drain": drain}, timeout_s)

    def savepoint(self, folder: str, *, timeout_s: float = 300.0) -> str:
        """Make a canonical savepoint below a folder, while the job goes on; its path."""
        return self._savepoint("/savepoints", {"target-directory": folder, "cancel-job": False}, timeout_s)

    def _savepoint(self, path: str, body: dict[str, Any], timeout_s: float) -> str:
        trigger = self.cluster.send(f"{self._job}{path}", {**body, "formatType": "CANONICAL"})["request-id"]
        deadline = time.monotonic() + timeout_s
        while True:
            answer = self._get(f"/savepoints/{trigger}")
            if answer["status"]["id"] == "COMPLETED":
                operation = answer["operation"]
                if failure := operation.get("failure-cause"):
                    raise RestError(f"no savepoint was made: {root_cause_line(failure['stack-trace'])}")
                return str(operation["location"])
            if time.monotonic() > deadline:
                raise RestError(f"no savepoint was made within {timeout_s:g} s")
            time.sleep(0.1)

    def cancel(self) -> None:
        """End the job at once."""
        self.cluster.send(f"{self._job}?mode=cancel", method="PATCH")

    def restarts(self) -> int:
        """How often the job was restarted after a failure, since its JobManager began."""
        found = self._get("/metrics?get=numRestarts")
        return int(float(found[0]["value"])) if found else 0

    def started_ms(self) -> int:
        """When the job was started, ms since 1970; the JobManager's start, after it was lost."""
        return int(self._get("")["start-time"])

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
        return int(self.rate(metric))

    def rate(self, metric: str, of: str = "") -> float:
        """The sum of a metric over all subtasks of the operators whose names begin so."""
        found = 0.0
        for vertex in self._get("")["vertices"]:
            place = f"/vertices/{vertex['id']}/subtasks/metrics"
            names = [one["id"] for one in self._get(place)]
            names = [name for name in names if name.endswith(f".{metric}") and name.startswith(of)]
            if names:
                wanted = urllib.parse.quote(",".join(names))
                found += sum(float(one["sum"]) for one in self._get(f"{place}?get={wanted}&agg=sum"))
        return found

    def root_cause(self) -> str | None:
        """The last failure's cause in one line: what Python raised if Python did, else the innermost Java cause."""
        history = (self._get("/exceptions").get("exceptionHistory") or {}).get("entries") or []
        return root_cause_line(history[0]["stacktrace"]) if history else None


def root_cause_line(stacktrace: str) -> str:
    """The line of a Java or Python stack trace that says what went wrong."""
    lines = stacktrace.splitlines()
    for line in lines:
        if LIMIT_REACHED in line:
            return line[line.index(LIMIT_REACHED) :].strip()[:500]
    tracebacks = [number for number, line in enumerate(lines) if "Traceback (most recent call last)" in line]
    if tracebacks:
        # a traceback's own lines are indented; the first one that is not says what was raised
        for line in lines[tracebacks[-1] + 1 :]:
            if line.strip() and not line[0].isspace():
                return line.strip()[:500]
    causes = lines[:1] + [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    if len(causes) > 1 and "error=" in causes[-1] and causes[-1].partition("error=")[2] in causes[-2]:
        causes.pop()  # the one before says of which file
    return (causes[-1] if causes else "unknown failure")[:500]
