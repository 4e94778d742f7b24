"""One pipeline as a Flink application: what the JobManager of a cluster of its own runs to make its job.

    standalone-job --job-classname org.apache.flink.client.python.PythonDriver -pym flink_jobs.application purchase

The cluster has the image with Millrace in it, so nothing is shipped. What its configuration says, as a FlinkDeployment
does, is left as it is; all else is as for `millrace run`. Its parallelism is the job's (`parallelism.default`), and the
savepoint to begin with, if any, is told to Flink, not here.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flink_jobs.console import CommandError, say
from flink_jobs.environment import MAX_PARALLELISM, configuration_of, flink_options
from flink_jobs.event_files import EventFileError
from flink_jobs.job_run import add_job, pipeline_checkpoints
from flink_jobs.kafka_admin import KafkaAdminError
from flink_jobs.pipelines import PipelineError, load_pipeline, model_folder
from flink_jobs.preflight import PreflightError, check_folder, check_kafka, check_model
from flink_jobs.settings import Settings, SettingsError, load_settings
from flink_jobs.sql_job import OPTIONS as SQL_OPTIONS
from flink_jobs.start_position import parse_start
from flink_jobs.topics import EARLIEST, SQL, STREAM, Engine, job_name, parse_engine
from udfs.errors import DefinitionError
from udfs.pipeline import Pipeline

if TYPE_CHECKING:
    from pyflink.datastream import StreamExecutionEnvironment

DRIVER = "org.apache.flink.client.python.PythonDriver"
"""Flink's class that runs a Python module in the JobManager."""
MODULE = "flink_jobs.application"
OF_THE_IMAGE = ("python.executable", "python.client.executable")
"""Options that the cluster has from its image."""


def run(arguments: Sequence[str]) -> None:
    """Do it; a job that cannot run ends the process with one line that says why."""
    try:
        make_job(arguments)
    except (
        CommandError, DefinitionError, EventFileError, KafkaAdminError, PipelineError, PreflightError, SettingsError,
    ) as error:  # fmt: skip
        say(f"Error: {error}")
        sys.exit(1)


def make_job(arguments: Sequence[str]) -> None:
    """Make the job and hand it over to the JobManager."""
    options = _parse(arguments)
    pipeline, engine = load_pipeline(options.pipeline), parse_engine(options.engine)
    check_model(pipeline)
    check_kafka(pipeline, load_settings())
    from pyflink.datastream import StreamExecutionEnvironment

    environment = StreamExecutionEnvironment.get_execution_environment()
    settings = load_settings(parallelism=environment.get_parallelism())
    _complete(environment, pipeline, settings, engine)
    start_from = EARLIEST if options.start_from is None else parse_start(options.start_from)
    add_job(environment, pipeline, model_folder(pipeline), settings, start_from, engine=engine)
    environment.execute_async(job_name(pipeline, engine))
    say(f"{job_name(pipeline, engine)} is handed over to Flink")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description="Run by Flink in its JobManager.")
    parser.add_argument("pipeline", help="a shipped pipeline, or the path of a .py file in the image")
    parser.add_argument("--engine", default=STREAM, help="stream or sql")
    parser.add_argument("--from", dest="start_from", help="earliest, committed, latest or a time, without a savepoint")
    return parser.parse_args(arguments)


def _complete(
    environment: "StreamExecutionEnvironment", pipeline: Pipeline, settings: Settings, engine: Engine
) -> None:
    """Give the job the options that the cluster's own configuration leaves open."""
    given = environment._j_stream_execution_environment.getConfiguration()
    folder = pipeline_checkpoints(pipeline, settings, engine)
    options = flink_options(settings, folder, None) | (SQL_OPTIONS if engine == SQL else {})
    if not given.containsKey("execution.checkpointing.dir"):
        check_folder(settings.checkpoints)
    left_open = {
        name: value for name, value in options.items() if name not in OF_THE_IMAGE and not given.containsKey(name)
    }
    environment.configure(configuration_of(left_open))
    environment.set_max_parallelism(MAX_PARALLELISM)


if __name__ == "__main__":
    run(sys.argv[1:])
