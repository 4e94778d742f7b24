"""A pipeline as a Flink application: in processes of a cluster of its own, as containers and Kubernetes have it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from answers import assert_as_uninterrupted, assert_dead_letters, read_answers, read_events
from workloads import make_topics, settings_of, shoppers

from flink_jobs.application import DRIVER, MODULE
from flink_jobs.events_producer import produce_events
from flink_jobs.job_run import JobRun
from flink_jobs.local import processes
from flink_jobs.local.cluster_files import java_command, write_files
from flink_jobs.local.flink_lib import flink_home
from flink_jobs.pipelines import load_pipeline
from flink_jobs.rest_client import ClusterRest, RestError
from flink_jobs.settings import Settings
from flink_jobs.submission import find_job

pytestmark = pytest.mark.integration

SESSION = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
APPLICATION = "org.apache.flink.container.entrypoint.StandaloneApplicationClusterEntryPoint"
SLOTS = 2
MINE = """
import dataclasses
from flink_jobs.pipelines.purchase import pipeline as shipped
pipeline = dataclasses.replace(
    shipped, name="application", events=dataclasses.replace(shipped.events, topic="application-events"),
    predictions="application-predictions", dead_letters="application-dead-letters", include_features=True,
    max_record_bytes=100_000,
)
"""


@contextlib.contextmanager
def cluster_of(
    folder: Path, settings: Settings, arguments: list[str], **options: object
) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """An application's processes until the end of the block; the REST address, and the JobManager."""
    ports: dict[str, int] = {}
    for name in ("rest", "rpc", "blob", "zookeeper"):
        ports[name] = processes.free_port(avoid=next(reversed(ports.values()), None))
    write_files(folder, ports, SLOTS)
    file = folder / "conf" / "config.yaml"
    python = {"python.executable": sys.executable, "python.client.executable": sys.executable}
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **python, **options}))
    environment = {
        "FLINK_CONF_DIR": str(folder / "conf"), "FLINK_LOG_DIR": str(folder / "log"),
        "FLINK_OPT_DIR": str(flink_home() / "opt"), "MILLRACE_RESTART_ATTEMPTS": "0",
        "MILLRACE_BOOTSTRAP": settings.bootstrap, "MILLRACE_HOME": str(settings.home),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    running: list[subprocess.Popen[bytes]] = []
    try:
        for role in ("zookeeper", "jobmanager", "taskmanager"):
            command = [APPLICATION if word == SESSION else word for word in java_command(folder, role, role, SLOTS)]
            if role == "jobmanager":
                # it knows no --host, and takes what follows an unknown option for the program's
                command[command.index("--host") :] = ["--job-classname", DRIVER, "-pym", MODULE, *arguments]
            with (folder / "log" / f"{role}.out").open("wb") as out:
                running.append(
                    processes.launch(command, folder, out, die_with_parent=True, environment=environment)
                )
        yield f"http://127.0.0.1:{ports['rest']}", running[1]
    finally:
        for process in reversed(running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


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
    with cluster_of(tmp_path / "cluster", settings, [str(tmp_path / "mine.py")], **options) as (address, jobmanager):
        there = settings.model_copy(update={"cluster": address})
        job = wait_for_job(pipeline, there, jobmanager, tmp_path / "cluster" / "log" / "jobmanager.out")
        job.wait_until_caught_up()
        config = ClusterRest(address).get(f"/jobs/{job.rest.job_id}/checkpoints/config")
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
