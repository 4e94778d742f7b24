"""A pipeline as a Flink application: in processes of a cluster of its own, as containers and Kubernetes have it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from answers import assert_as_uninterrupted, assert_dead_letters, read_answers, read_events
from own_cluster import SLOTS, cluster_of
from workloads import make_topics, settings_of, shoppers

from flink_jobs.application import MODULE
from flink_jobs.events_producer import produce_events
from flink_jobs.job_run import JobRun
from flink_jobs.pipelines import load_pipeline
from flink_jobs.rest_client import ClusterRest, RestError
from flink_jobs.settings import Settings
from flink_jobs.submission import find_job

pytestmark = pytest.mark.integration

MINE = """
import dataclasses
from flink_jobs.pipelines.purchase import pipeline as shipped
pipeline = dataclasses.replace(
    shipped, name="application", events=dataclasses.replace(shipped.events, topic="application-events"),
    predictions="application-predictions", dead_letters="application-dead-letters", include_features=True,
    max_record_bytes=100_000,
)
"""


def wait_for_job(pipeline, settings: Settings, jobmanager: "subprocess.Popen[bytes]", log: Path) -> JobRun:
    deadline = time.monotonic() + 120
    while True:
        try:
            job = find_job(pipeline, settings)
        except RestError:
            job = None
        if job is not None:
            job.wait_until_running()
            return job
        said = log.read_text("utf-8", "replace")[-3_000:]
        assert jobmanager.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.2)


def test_flink_makes_the_job_of_a_file_in_its_jobmanager_and_its_own_options_count(broker, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    pipeline = load_pipeline(str(tmp_path / "mine.py"))
    make_topics(broker, pipeline)
    records, broken = shoppers(2_000)
    produce_events(broker.bootstrap, pipeline.events.topic, records, None)
    settings = settings_of(broker, tmp_path / "home")
    options = {
        "parallelism.default": SLOTS,
        "execution.checkpointing.interval": "700 ms",
        "execution.checkpointing.dir": (tmp_path / "elsewhere").as_uri(),
        "execution.checkpointing.savepoint-dir": (tmp_path / "savepoints").as_uri(),
    }
    with cluster_of(tmp_path / "cluster", settings, [str(tmp_path / "mine.py")], **options) as (place, jobmanager):
        there = settings.model_copy(update={"cluster": f"http://{place}"})
        job = wait_for_job(pipeline, there, jobmanager, tmp_path / "cluster" / "log" / "jobmanager.out")
        job.wait_until_caught_up()
        config = ClusterRest(f"http://{place}").get(f"/jobs/{job.rest.job_id}/checkpoints/config")
        assert (config["interval"], config["timeout"]) == (700, settings.checkpoint_timeout_ms)
        assert config["state_backend"].startswith(("EmbeddedRocksDB", "rocksdb"))
        assert list((tmp_path / "elsewhere").glob("*/chk-*"))
        savepoint = job.rest.stop((tmp_path / "savepoints").as_uri())
    assert (tmp_path / "savepoints").as_uri().removeprefix("file://") in savepoint
    answers, events = read_answers(broker, pipeline), read_events(broker, pipeline)
    assert answers.predictions.keys() | answers.dead_letters.keys() == {event.place for event in events}
    reasons = {event.place: broken[event.key, event.value] for event in events if (event.key, event.value) in broken}
    assert_dead_letters(pipeline, events, answers.dead_letters, reasons)
    assert_as_uninterrupted(pipeline, events, answers.predictions)


def test_an_application_that_cannot_run_says_why_in_one_line(broker, tmp_path):
    (tmp_path / "mine.py").write_text(MINE.replace("application-", "nowhere-"))
    made = subprocess.run(
        [sys.executable, "-c", f"from {MODULE} import run; run(['{tmp_path / 'mine.py'}'])"],
        env={**os.environ, "MILLRACE_BOOTSTRAP": broker.bootstrap, "MILLRACE_HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert made.returncode == 1
    (line,) = made.stderr.strip().splitlines()
    assert line.startswith("Error: topic nowhere-dead-letters, nowhere-events, nowhere-predictions does not exist")
