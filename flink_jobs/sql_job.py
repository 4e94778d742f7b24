"""The Table job: the statements of `sql_statements`, in an environment with what SQL needs."""

from pathlib import Path
from typing import TYPE_CHECKING

from flink_jobs.console import CommandError
from flink_jobs.pipelines import model_folder
from flink_jobs.settings import Settings
from flink_jobs.sql_statements import Statement, job_statements, state_text
from flink_jobs.topics import EARLIEST
from models.manifest import Manifest
from models.opened import SHIPPED
from udfs.pipeline import Pipeline

if TYPE_CHECKING:
    from pyflink.datastream import StreamExecutionEnvironment
    from pyflink.table import StatementSet

BUNDLE_MS = 100
"""Rows that come in this time cross into Python together, or so many as `OPTIONS` says."""

OPTIONS = {
    # single rows cross between tasks here, not batches: sent one by one they would cost a buffer each
    "execution.buffer-timeout.interval": "20 ms",
    "python.fn-execution.bundle.time": str(BUNDLE_MS),
    "python.fn-execution.bundle.size": "8000",
    "python.fn-execution.arrow.batch.size": "4000",
    # counters are shown when they change, not ten seconds later
    "metrics.fetcher.update-interval": "1000 ms",
}
"""Beside those of every job."""


def build_sql_job(
    environment: "StreamExecutionEnvironment",
    pipeline: Pipeline,
    folder: Path,
    settings: Settings,
    start_from: str,
    *,
    model_by_name: bool = False,
) -> "StatementSet":
    """Add the job to the environment; arguments (`folder` is the model's) and result as of `build_scoring_job`.

    Args:
        environment: See there.
        pipeline: See there.
        folder: The model's, readable here.
        settings: See there.
        start_from: See there.
        model_by_name: Workers find the model by its name, in the code that was shipped to them.

    Raises:
        SqlRefusedError: SQL cannot express a feature.
    """
    from pyflink.table import StreamTableEnvironment

    tables = StreamTableEnvironment.create(environment)
    *definitions, insert = sql_of(pipeline, folder, settings, start_from, model_by_name=model_by_name)
    for definition in definitions:
        tables.execute_sql(definition.sql)
    statements = tables.create_statement_set()
    statements.add_insert_sql(insert.sql)
    return statements


def check_same_windows(pipeline: Pipeline, settings: Settings, folder: Path, *, goes_on: bool) -> None:
    """Refuse to go on with windows that another run's state does not fit; note those of this run.

    Args:
        pipeline: What is to be run.
        settings: How.
        folder: Of the run's checkpoints.
        goes_on: Whether it begins with the state of the last run.

    Raises:
        CommandError: The SQL of the windows is another than the last run's.
    """
    text = state_text(sql_of(pipeline, model_folder(pipeline), settings, EARLIEST))
    note = folder / "windows.sql"
    if goes_on and note.is_file() and note.read_text("utf-8") != text:
        raise CommandError(
            f"the features or fields of {pipeline.name} changed since its last run by SQL, whose state does not fit: "
            "undo the change, or begin anew with --fresh"
        )
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(text, "utf-8")


def sql_of(
    pipeline: Pipeline, folder: Path, settings: Settings, start_from: str, *, model_by_name: bool = False
) -> list[Statement]:
    """The statements, with the model by the digest that it has now."""
    manifest = Manifest.read(folder)
    by_name = model_by_name or folder.parent.parent == SHIPPED
    place = f"{manifest.name}/{manifest.version}" if by_name else str(folder)
    return job_statements(pipeline, settings, manifest, f"{place}@{manifest.sha256}", start_from)
