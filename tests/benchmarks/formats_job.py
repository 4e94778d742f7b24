"""Contestant: Millrace, the shipped pipeline, events and predictions in a format by a schema without a registry."""

import dataclasses
import sys

from flink_jobs.job_run import start_job
from flink_jobs.pipelines import load_pipeline
from tests.benchmarks.contestant import Task, wait_for_the_end
from tests.benchmarks.formats import in_format


def main() -> None:
    task = Task.from_command_line()
    shipped = load_pipeline("purchase")
    events = dataclasses.replace(shipped.events, topic=task.events)
    pipeline = in_format(dataclasses.replace(shipped, predictions=task.output, events=events), sys.argv[5])
    run = start_job(pipeline, task.settings())
    wait_for_the_end()
    run.cancel()
