"""Submits a job once more as it was: run by the code that was shipped with it, not by what is here now.

python -m flink_jobs.resubmit  <  order (JSON)  >  {"job_id": ...}
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flink_jobs.console import quiet_output
from flink_jobs.definitions import JobDefinition
from flink_jobs.pipelines import load_pipeline
from flink_jobs.settings import Settings
from flink_jobs.submission import submit_job


class ResubmitError(RuntimeError):
    """A job cannot be submitted once more; the message says why in one line."""


@dataclass(frozen=True)
class Resubmission:
    """What is asked of the old code.

    Attributes:
        shipment: The folder that was shipped with the job.
        reference: Its pipeline: a name, or a file of the folder.
        settings: How it ran, with the addresses and secrets of now.
        restore_from: Checkpoint or savepoint.
        python_archive: Packages that are shipped, if any.
    """

    shipment: str
    reference: str
    settings: dict[str, Any]
    restore_from: str
    python_archive: str | None

    @classmethod
    def of(cls, job: JobDefinition, settings: Settings, restore_from: str) -> "Resubmission":
        """That of a job.

        Raises:
            ResubmitError: What was shipped with it is not there any more.
        """
        if job.shipment is None or job.reference is None or not Path(job.shipment).is_dir():
            raise ResubmitError(f"the code that was shipped with it is gone ({job.shipment or 'none was'})")
        own = job.reference.endswith(".py")
        reference = str(Path(job.shipment) / Path(job.reference).name) if own else job.reference
        as_it_ran = {**settings.model_dump(mode="json"), **job.settings}
        return cls(job.shipment, reference, as_it_ran, restore_from, job.python_archive)


def resubmit(order: Resubmission, log_file: Path, timeout_s: float = 180.0) -> str:
    """Submit it, by the shipped code in a process of its own; the new job's id.

    Raises:
        ResubmitError: It could not be done.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        try:
            done = subprocess.run(  # our own code, with this interpreter
                [sys.executable, "-m", "flink_jobs.resubmit"],
                cwd=order.shipment,
                env={**os.environ, "PYTHONPATH": order.shipment},
                input=json.dumps(vars(order)).encode(),
                stdout=subprocess.PIPE,
                stderr=log,
                timeout=timeout_s,
                check=True,
            )
            return str(json.loads(done.stdout)["job_id"])
        except (subprocess.SubprocessError, ValueError, KeyError) as error:
            raise ResubmitError(f"{type(error).__name__}; see {log_file}") from error


def main() -> None:
    """What the process does."""
    order = Resubmission(**json.load(sys.stdin))
    settings = Settings(**order.settings)
    archive = None if order.python_archive is None else Path(order.python_archive)
    with quiet_output(settings.logs / "resubmit.log"):
        job = submit_job(
            load_pipeline(order.reference), order.reference, settings, restore_from=order.restore_from,
            shipment=Path(order.shipment), python_archive=archive,
        )  # fmt: skip
    sys.stdout.write(json.dumps({"job_id": job.rest.job_id}) + "\n")


if __name__ == "__main__":
    main()
