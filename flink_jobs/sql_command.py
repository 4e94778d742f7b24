"""`millrace sql`: the statements of a pipeline's Table job, to read or to take into a job of one's own."""

from flink_jobs.console import say, show, show_json
from flink_jobs.pipelines import model_folder
from flink_jobs.preflight import check_model
from flink_jobs.settings import Settings
from flink_jobs.sql_job import sql_of
from flink_jobs.sql_statements import script
from flink_jobs.topics import EARLIEST
from udfs.pipeline import Pipeline
from udfs.sql_features import compile_features


def run_sql_command(pipeline: Pipeline, name: str, settings: Settings, *, as_json: bool) -> None:
    """Print the SQL; secrets are in it by the names of their files only."""
    compile_features(pipeline)  # what SQL cannot express is told even if there is no model yet
    check_model(pipeline)
    statements = sql_of(pipeline, model_folder(pipeline), settings, EARLIEST)
    if as_json:
        show_json([vars(statement) for statement in statements])
        return
    heading = (
        f"-- Pipeline {pipeline.name} as Flink SQL, as `millrace run {name} --engine sql` runs it.\n"
        "-- The functions need this project on the workers (python.files, or installed) and its Python\n"
        "-- (python.executable); SET 'table.exec.uid.generation' = 'ALWAYS' makes its savepoints last.\n"
    )
    show(f"{heading}\n{script(statements)}".rstrip())
    say(f"{len(statements)} statements; `millrace run {name} --engine sql` runs them")
