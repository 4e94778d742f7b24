"""Contestant: Millrace, the shipped pipeline with its events behind a hop, as if their topic were keyed otherwise."""

import dataclasses
import json
import os

from flink_jobs.job_run import start_job
from flink_jobs.kafka_admin import TopicSpec, create_topics
from flink_jobs.pipelines import load_pipeline
from tests.benchmarks.contestant import Task, wait_for_the_end
from udfs.pipeline import Source


def main() -> None:
    task = Task.from_command_line()
    shipped = load_pipeline("purchase")
    events = dataclasses.replace(shipped.events, topic=f"{task.output}-by-entity", sources=[Source(task.events)])
    create_topics(task.bootstrap, [TopicSpec(events.topic, events.partitions)])
    pipeline = dataclasses.replace(shipped, predictions=task.output, events=events)
    tried: dict[str, object] = json.loads(os.environ.get("BENCH_SETTINGS", "{}"))
    run = start_job(pipeline, task.settings(**tried))
    wait_for_the_end()
    run.cancel()
