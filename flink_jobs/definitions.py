"""Which pipeline wrote a checkpoint or savepoint: its whole definition, kept beside it.

<checkpoints>/<run>/<job id>/definition.json       from before the job's first checkpoint on
<checkpoints>/<run>/savepoints/<savepoint>/        a copy, as a savepoint may be taken elsewhere
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flink_jobs.documents import read_document, write_document
from flink_jobs.restore_points import folder_of
from flink_jobs.security_settings import OPEN
from flink_jobs.settings import Settings
from udfs.pipeline import Pipeline
from udfs.state_changes import Definition

FILE, FORMAT = "definition.json", 1
_NOT_KEPT = {"bootstrap", *OPEN, "home", "checkpoint_folder", "cluster"}
"""Settings of a place, and of who we are there."""


@dataclass(frozen=True)
class JobDefinition:
    """What a job was.

    Attributes:
        definition: Of its pipeline.
        settings: How it ran: parallelism, guarantee, and the like; without addresses and secrets.
        reference: Its pipeline as `load_pipeline` took it.
        shipment: The folder that was shipped to a cluster with it, by which it can be submitted once more as it was;
            None in a mini-cluster.
        python_archive: The packages that were shipped with it, if any.
    """

    definition: Definition
    settings: dict[str, Any]
    reference: str | None = None
    shipment: str | None = None
    python_archive: str | None = None

    @classmethod
    def of(
        cls,
        pipeline: Pipeline,
        settings: Settings,
        *,
        reference: str | None = None,
        shipment: Path | None = None,
        python_archive: Path | None = None,
    ) -> "JobDefinition":
        """That of a job that begins."""
        return cls(
            Definition.of(pipeline, settings.shards),
            settings.model_dump(mode="json", exclude=_NOT_KEPT),
            reference,
            None if shipment is None else str(shipment),
            None if python_archive is None else str(python_archive),
        )


def write_definition(folder: Path, job: JobDefinition) -> None:
    """Put it into a job's folder of checkpoints, or into a savepoint."""
    folder.mkdir(parents=True, exist_ok=True)
    write_document(folder / FILE, {"format": FORMAT, **vars(job), "definition": vars(job.definition)})


def definition_in(folder: Path) -> JobDefinition | None:
    """What `write_definition` put there; None where nothing is."""
    document = read_document(folder / FILE)
    if document is None:
        return None
    fields = {name: value for name, value in document.items() if name != "format"}
    return JobDefinition(**{**fields, "definition": Definition(**fields["definition"])})


def definition_of_restore_point(restore_point: str) -> JobDefinition | None:
    """The definition of the job that wrote a checkpoint or savepoint (a path or URI); None where it is not known."""
    folder = folder_of(restore_point)
    return definition_in(folder) or definition_in(folder.parent)


def keep_definition(savepoint: str, job_folder: Path) -> None:
    """Copy a job's definition into its savepoint."""
    job = definition_in(job_folder)
    if job is not None:
        write_definition(folder_of(savepoint), job)
