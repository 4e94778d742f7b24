"""Contestant: `run --engine sql`: the shipped pipeline, or with a folder of models one without windows."""

import dataclasses
import sys
from pathlib import Path

from flink_jobs.job_run import start_job
from flink_jobs.pipelines import load_pipeline
from flink_jobs.topics import SQL
from tests.benchmarks.contest import PARTITIONS
from tests.benchmarks.contestant import Task, wait_for_the_end
from udfs.pipeline import Model, OneHot, Pipeline, Value


def pipeline_of(events: str, output: str, models: Path | None) -> Pipeline:
    """The shipped pipeline on these topics; with a folder of models, only the features of the event itself."""
    shipped = load_pipeline("purchase")
    pipeline = dataclasses.replace(
        shipped, predictions=output, events=dataclasses.replace(shipped.events, topic=events)
    )
    if models is None:
        return pipeline
    features = [Value("dwell_time_sec"), OneHot("page_id")]
    return dataclasses.replace(pipeline, features=features, model=Model("visit", version=1, root=models))


def main() -> None:
    task = Task.from_command_line()
    models = Path(sys.argv[5]) if sys.argv[5:] else None
    run = start_job(pipeline_of(task.events, task.output, models), task.settings(parallelism=PARTITIONS), engine=SQL)
    wait_for_the_end()
    run.cancel()
