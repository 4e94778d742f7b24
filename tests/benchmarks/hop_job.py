"""Contestant: Millrace, the shipped pipeline with its events behind a hop, as if their topic were keyed otherwise."""

import dataclasses
import json
import os

from flink_jobs.job_run import start_job
from flink_jobs.kafka_admin import TopicSpec, create_topics
from flink_jobs.pipelines import load_pipeline
from tests.benchmarks.contestant import Task, wait_for_the_end
from udfs.pipeline import Pipeline, Source


def hop_pipeline(source: str, output: str) -> Pipeline:
    """The shipped pipeline, from a source to a topic of predictions."""
    shipped = load_pipeline("purchase")
    events = dataclasses.replace(shipped.events, topic=f"{output}-by-entity", sources=[Source(source)])
    return dataclasses.replace(shipped, predictions=output, events=events)


def main() -> None:
    task = Task.from_command_line()
    pipeline = hop_pipeline(task.events, task.output)
    create_topics(task.bootstrap, [TopicSpec(pipeline.events.topic, pipeline.events.partitions)])
    tried: dict[str, object] = json.loads(os.environ.get("BENCH_SETTINGS", "{}"))
    run = start_job(pipeline, task.settings(**tried))
    wait_for_the_end()
    run.cancel()
