"""`millrace upgrade --dry-run`: the new code goes on from a savepoint of the running job, beside it, and is compared.

running job --savepoint--> the new job in a mini-cluster here, without commits, its answers in files
|                                        |
committed answers   <---- compared ---->   answers to the same events
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flink_jobs.committed_reader import CommittedReader
from flink_jobs.console import CommandError, quiet_output
from flink_jobs.decoding import prediction_reader
from flink_jobs.definitions import JobDefinition
from flink_jobs.dry_run_comparison import Answer, DryRunComparison, Place, answer_of
from flink_jobs.dry_run_outputs import KeptOutputs
from flink_jobs.environment import prepare_process
from flink_jobs.job_run import JobRun, pipeline_checkpoints
from flink_jobs.job_session import wait_until_running
from flink_jobs.kafka_admin import topic_ends
from flink_jobs.savepoint_offsets import source_offsets
from flink_jobs.settings import Settings
from models.outputs import Outputs
from udfs.json_events import json_fields
from udfs.pipeline import Pipeline
from udfs.state_changes import prediction_document
from udfs.wire_formats import HEADER

LAST_ANSWERS_S = 90.0
"""How long the answers to the last events are waited for."""
STRAGGLERS_S = 3.0
"""Another subtask may still have earlier events when the last one is answered."""


def dry_run(
    job: JobRun,
    before: JobDefinition,
    pipeline: Pipeline,
    settings: Settings,
    *,
    minutes: float,
    step: Callable[[str], None],
) -> DryRunComparison:
    """Try a pipeline beside the running job.

    Args:
        job: The running one, which notices nothing but a savepoint.
        before: What it was submitted as.
        pipeline: To be tried.
        settings: To run it with.
        minutes: How long to compare.
        step: Told what is being done.

    Raises:
        JobFailedError: The new job fails on the savepoint, or on an event.
    """
    place = before.definition.settings
    reader = CommittedReader(
        settings.bootstrap, [place["predictions"], place["dead_letters"]], settings.kafka_properties, from_start=False
    )
    # not among the savepoints: a later run must not take it for the newest
    savepoints = pipeline_checkpoints(job.pipeline, job.settings) / "dry-run"
    settings.home.mkdir(parents=True, exist_ok=True)
    outputs = Path(tempfile.mkdtemp(prefix="dry-run-", dir=settings.home)).absolute()
    prepare_process(settings.logs)
    try:
        with quiet_output(settings.logs / f"dry-run-{pipeline.name}.log"):
            step("making a savepoint; the job goes on")
            _wait_until_at_end(reader)
            savepoint = job.rest.savepoint(savepoints.as_uri())
            step("starting the new job from it in a mini-cluster here; it commits nothing (about 15 s)")
            trial = _Trial(job, before, pipeline, settings, savepoint, outputs, reader)
            return trial.run(minutes, step)
    finally:
        reader.close()
        shutil.rmtree(outputs, ignore_errors=True)
        shutil.rmtree(savepoints, ignore_errors=True)


def _wait_until_at_end(reader: CommittedReader) -> None:
    """Until the reader stands where the topics end: it finds that out late, and must not miss the first answers."""
    deadline = time.monotonic() + LAST_ANSWERS_S
    while not reader.at_end and time.monotonic() < deadline:
        reader.read(0.1)


class _Trial:
    def __init__(
        self,
        job: JobRun,
        before: JobDefinition,
        pipeline: Pipeline,
        settings: Settings,
        savepoint: str,
        outputs: Path,
        reader: CommittedReader,
    ) -> None:
        from flink_jobs.dry_run_job import start_dry_run

        self._job, self._pipeline, self._settings, self._reader = job, pipeline, settings, reader
        self._served = served_outputs(before.definition.settings["prediction"], pipeline)
        self._id = before.definition.settings["id"]
        self._read_served = prediction_reader(pipeline, settings)
        self._before: dict[Place, Answer] = {}
        self._now: dict[Place, Answer] = {}
        self._outputs, self._savepoint = KeptOutputs(outputs), savepoint
        self._trial = start_dry_run(pipeline, settings, savepoint, outputs)

    def run(self, minutes: float, step: Callable[[str], None]) -> DryRunComparison:
        try:
            wait_until_running(self._trial, self._read)
            begins = source_offsets(self._savepoint, self._pipeline.events.topic)
            step(f"both run; comparing their answers for {minutes:g} min")
            self._read_until(time.monotonic() + 60.0 * minutes, {})
            ends = self._ends()
            step("waiting for the answers to the last events")
            self._read_until(time.monotonic() + LAST_ANSWERS_S, ends)
        finally:
            self._trial.cancel()
        judged = [
            {place: each for place, each in answers.items() if begins.get(place[0], 0) <= place[1] < ends[place[0]]}
            for answers in (self._before, self._now)
        ]
        return DryRunComparison().compare(*judged)

    def _ends(self) -> dict[int, int]:
        settings, topic = self._settings, self._pipeline.events.topic
        return topic_ends(settings.bootstrap, topic, settings.kafka_properties, isolation="read_committed")

    def _read_until(self, deadline: float, ends: dict[int, int]) -> None:
        """Read both until a time, or until both have answered everything before the ends."""
        while time.monotonic() < deadline:
            self._trial.raise_if_ended()
            if ends and all(_reaches(answers, ends) for answers in (self._before, self._now)):
                deadline = min(deadline, time.monotonic() + STRAGGLERS_S)
                ends = {}
            self._read(0.5)

    def _read(self, wait_s: float = 0.1) -> None:
        for message in self._reader.read(wait_s):
            headers: Any = message.headers() or ()
            self._enter(self._before, message.value(), {name: (text or b"").decode() for name, text in headers})
        for record in self._outputs.new_ones():
            self._enter(self._now, record.value, record.headers, self._pipeline)

    def _enter(
        self, answers: dict[Place, Answer], value: Any, headers: dict[str, str], pipeline: Pipeline | None = None
    ) -> None:
        told = {name.removeprefix(HEADER): text for name, text in headers.items()}
        if pipeline is None and told.get("pipeline") != self._pipeline.name:
            return
        outputs, event_id = (pipeline.outputs, pipeline.events.id) if pipeline else (self._served, self._id)
        read = json_fields if pipeline else self._read_served
        place, answer = answer_of(value, told, outputs, event_id, read)
        answers.setdefault(place, answer)


def served_outputs(told: str | Mapping[str, str], pipeline: Pipeline) -> Outputs:
    """What the running job's predictions hold.

    Args:
        told: As its definition says it; see `prediction_document`.
        pipeline: That is to come after it.

    Raises:
        CommandError: It is something else than the pipeline's.
    """
    if isinstance(told, str) and pipeline.outputs.is_number:
        return Outputs.of(told)
    if told != prediction_document(pipeline):
        was = told if isinstance(told, str) else "; ".join(told.values())
        raise CommandError(f"the running job's predictions have {was}, the new ones {pipeline.outputs.text}: they "
                          "cannot be compared")  # fmt: skip
    return pipeline.outputs


def _reaches(answers: dict[Place, Answer], ends: dict[int, int]) -> bool:
    """Whether the last event of each partition has its answer: those before it have theirs, too."""
    return all(end == 0 or (partition, end - 1) in answers for partition, end in ends.items())


