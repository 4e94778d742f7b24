"""A pipeline file on a Flink cluster of separate processes: submitted, watched, stopped, failed, killed, certified."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from answers import assert_as_uninterrupted, assert_entity_order, read_answers, read_events
from exposure import beyond_loopback, listeners, own_processes
from workloads import make_topics, shipped_as, shoppers

from flink_jobs.certify_faults import Lab, halt_before_commit
from flink_jobs.events_producer import produce_events
from flink_jobs.local.cluster import LocalCluster
from flink_jobs.local.processes import identity, with_parent
from flink_jobs.pipelines import load_pipeline
from flink_jobs.settings import Settings
from flink_jobs.submission import find_job
from flink_jobs.topics import group_id
from flink_jobs.transactions import abort_transactions, open_transactions

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
ROLES = ("zookeeper", "jobmanager", "taskmanager")


def wait_for(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)
    return found


@pytest.fixture(scope="module")
def home(broker, tmp_path_factory):
    """A home with a cluster and a pipeline file, and `run`: the command line as a user has it."""
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "mine.py"
    file.write_text(
        shipped_as(
            "submitted", "include_features=True, prediction=helper_beside.PREDICTION", imports="import helper_beside"
        )
    )
    (folder / "helper_beside.py").write_text('PREDICTION = "purchase_probability"\n')
    settings = Settings(home=folder / "home", bootstrap=broker.bootstrap, restart_delay_ms=200, shards=8)

    def run(*arguments, status=0, timeout_s=200, **environment):
        done = subprocess.run(
            [sys.executable, "-c", "from flink_jobs.cli import main; main()", *arguments],
            cwd=ROOT,
            env={
                **os.environ, "PYTHONPATH": str(ROOT), "MILLRACE_HOME": str(settings.home),
                "MILLRACE_BOOTSTRAP": broker.bootstrap, "MILLRACE_RESTART_DELAY_MS": "200", "MILLRACE_SHARDS": "8",
                **environment,
            },
            capture_output=True, text=True, timeout=timeout_s, preexec_fn=with_parent(),
        )  # fmt: skip
        assert status in (None, done.returncode), done.stderr + done.stdout
        return SimpleNamespace(
            json=_json(done.stdout), out=done.stdout, err=done.stderr, status=done.returncode
        )

    cluster = LocalCluster.start(settings.home / "cluster", taskmanagers=2, slots=1, die_with_parent=True)
    pipeline = load_pipeline(str(file))
    make_topics(broker, pipeline)
    yield SimpleNamespace(folder=folder, file=str(file), settings=settings, run=run, cluster=cluster, pipeline=pipeline)
    cluster.stop()
    for each in LocalCluster.find(cluster.folder).state.processes:
        assert identity(each.pid) != each.identity, f"{each.name} is still there"


def _json(text):
    try:
        return json.loads(text.splitlines()[-1])
    except (json.JSONDecodeError, IndexError):
        return None


def produce(broker, pipeline, records):
    produce_events(broker.bootstrap, pipeline.events.topic, records)


def healthy(home, events):
    """The job's status, once it has answered so many events."""

    def look():
        found = home.run("status", home.file, "--json").json
        return found if sum(each["done"] for each in found["lag"]) >= events else None

    return wait_for(look)


def test_a_job_is_submitted_watched_stopped_and_goes_on_with_another_parallelism(broker, home):
    records, _ = shoppers(6_000)
    produce(broker, home.pipeline, records[:3_000])
    submitted = home.run("submit", home.file, "--json").json
    assert submitted["restored_from"] is None
    status = healthy(home, 3_000)
    ports = listeners(own_processes(*(each.pid for role in ROLES for each in home.cluster.running(role))))
    assert len(ports) > 15, "those of the workers of two TaskManagers are among them"
    assert beyond_loopback(ports) == set()
    assert status["state"] == "RUNNING"
    assert status["well"]
    assert status["lost_commits"] == []
    assert status["checkpoints"]["completed"] > 0
    assert 0 <= status["checkpoint_age_s"] < 30
    assert {each["partition"] for each in status["lag"]} == set(range(home.pipeline.events.partitions))
    assert "already is at" in home.run("submit", home.file, status=1).err
    assert "JobManager" in home.run("logs", "--lines", "2").err
    savepoint = home.run("stop", home.file, "--json").json["savepoint"]
    produce(broker, home.pipeline, records[3_000:])
    again = home.run("submit", home.file, "--parallelism", "1", "--json").json
    assert again["restored_from"].rstrip("/").endswith(Path(savepoint).name)
    healthy(home, 6_000)
    home.run("cancel", home.file)
    assert home.run("status", home.file, "--json", status=1).json["state"] == "CANCELED"
    answers, events = read_answers(broker, home.pipeline), read_events(broker, home.pipeline)
    assert answers.predictions.keys() | answers.dead_letters.keys() == {event.place for event in events}
    assert_entity_order(home.pipeline, answers.predictions)
    assert_as_uninterrupted(home.pipeline, events, answers.predictions)


def test_a_job_that_cannot_start_says_why_in_one_line(home):
    failed = home.run("submit", home.file, status=1, MILLRACE_WORKER_PYTHON="/no/such/python")
    home.run("cancel", home.file)
    line = failed.err.strip().splitlines()[-1]
    assert line.startswith("error: the job failed")
    assert "/no/such/python" in line
    assert "Traceback" not in failed.err


def test_too_few_slots_and_no_cluster_are_said_before_anything_starts(home):
    assert "2 free slots of 2" in home.run("submit", home.file, "--parallelism", "5", status=1).err
    other = home.run("submit", home.file, "--cluster", "http://127.0.0.1:9", status=1)
    assert "did not answer" in other.err


def test_a_commit_that_kafka_refused_turns_the_job_red(broker, home):
    """Flink only logs it: the answers of a checkpoint are gone, and the job goes on."""
    home.run("submit", home.file, "--json")
    records, _ = shoppers(3_000, seed=9)
    job = find_job(home.pipeline, home.settings)
    ended = threading.Event()
    traffic = threading.Thread(
        target=produce_events,
        args=(broker.bootstrap, home.pipeline.events.topic, records * 20, 400),
        kwargs={"should_stop": ended.is_set},
    )
    traffic.start()
    try:
        wait_for(lambda: job.checkpoints().completed > 2)
        lab = Lab(broker, home.cluster, job)
        managers, pending = halt_before_commit(lab)
        found = open_transactions(home.settings, group_id(home.pipeline))
        abort_transactions(home.settings, [each for each in found if each.transactional_id in pending])
        for each in managers:
            os.kill(each.pid, signal.SIGCONT)
        red = wait_for(lambda: _red(home))
    finally:
        ended.set()
        traffic.join()
    assert red["refused_commits"] >= len(red["lost_commits"])
    assert set(pending) <= set(red["lost_commits"])
    assert not red["well"]
    assert "answers are lost" in home.run("status", home.file, status=1).err
    home.run("cancel", home.file)


def _red(home):
    found = home.run("status", home.file, "--json", status=None)
    return found.json if found.status == 1 and found.json and found.json["lost_commits"] else None


FAULTS = (
    "python worker killed", "JobManager killed", "broker killed", "killed between checkpoint and commit", "disk full",
    "cluster killed with a transaction open",
)  # fmt: skip


def test_faults_in_a_row_and_every_event_has_one_answer(tmp_path, home):
    home.cluster.stop()  # its memory and its cores are needed
    certified = home.run(
        "certify", "purchase", "--events", "5000", "--rate", "200", "--times", "1", "--full", "6",
        "--faults", ",".join(FAULTS),
        "--to", str(tmp_path), "--json", MILLRACE_HOME=str(tmp_path / "home"), timeout_s=800, status=None,
    ).json  # fmt: skip
    written = json.loads((tmp_path / "certificate.json").read_text())
    assert certified == written
    # how long a recovery takes is this machine's, which runs other tests beside
    assert [each for each in written["problems"] if not each.startswith("recovery took")] == []
    assert (written["lost"], written["duplicated"], written["feature_differences"]) == (0, 0, 0)
    assert {each["kind"] for each in written["faults"]} == set(FAULTS)
    if written["verdict"] == "passed":  # else its logs are kept
        assert not list((tmp_path / "home").glob("certify-*")), "nothing is left of the broker and the cluster"
