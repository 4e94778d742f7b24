"""Contestant: Millrace, the shipped pipeline with a topic of its features, which is the output that is looked at."""

import dataclasses
import json
import os

from flink_jobs.job_run import start_job
from flink_jobs.kafka_admin import TopicSpec, create_topics
from flink_jobs.pipelines import load_pipeline
from tests.benchmarks.contestant import Task, wait_for_the_end
from udfs.pipeline import Pipeline


def features_pipeline(events: str, features: str) -> Pipeline:
    """The shipped pipeline, from a topic of events to one of features."""
    shipped = load_pipeline("purchase")
    return dataclasses.replace(
        shipped,
        events=dataclasses.replace(shipped.events, topic=events),
        predictions=f"{features}-predictions",
        features_topic=features,
    )


def main() -> None:
    task = Task.from_command_line()
    pipeline = features_pipeline(task.events, task.output)
    create_topics(task.bootstrap, [TopicSpec(pipeline.predictions, pipeline.events.partitions)])
    tried: dict[str, object] = json.loads(os.environ.get("BENCH_SETTINGS", "{}"))
    run = start_job(pipeline, task.settings(**tried))
    wait_for_the_end()
    run.cancel()
