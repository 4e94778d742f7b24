"""Contestant: Millrace, the shipped pipeline with the default settings."""

import dataclasses
import json
import os

from flink_jobs.job_run import start_job
from flink_jobs.pipelines import load_pipeline
from tests.benchmarks.contestant import Task, wait_for_the_end


def main() -> None:
    task = Task.from_command_line()
    shipped = load_pipeline("purchase")
    pipeline = dataclasses.replace(
        shipped, predictions=task.output, events=dataclasses.replace(shipped.events, topic=task.events)
    )
    tried: dict[str, object] = json.loads(os.environ.get("BENCH_SETTINGS", "{}"))
    run = start_job(pipeline, task.settings(**tried))
    wait_for_the_end()
    run.cancel()
