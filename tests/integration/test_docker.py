"""docker/ for real, where a Docker engine answers: built, started, killed in part, and every event answered once."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from exposure import beyond_loopback, listeners_in

from flink_jobs.application import DRIVER, MODULE
from flink_jobs.kafka_admin import KafkaAdminError, topic_ends
from flink_jobs.local.processes import free_port

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker" / "compose.yaml"
BUILD_S, START_S, RECOVERY_S = 900.0, 300.0, 180.0


def _says(*command: str) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0


ENGINE = _says("docker", "info")
COMPOSE = next((each for each in (["docker", "compose"], ["docker-compose"]) if ENGINE and _says(*each, "version")), [])
pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(not ENGINE, reason="no Docker engine answers"),
    pytest.mark.skipif(ENGINE and not COMPOSE, reason="Docker has no compose"),
]


def ran(*command: str, timeout_s: float = 60.0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, cwd=ROOT)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3_000:]}\n{done.stderr[-3_000:]}"
    return done.stdout


@dataclass(frozen=True)
class Project:
    """What compose started."""

    name: str
    kafka_port: int

    def compose(self, *arguments: str, timeout_s: float = 60.0) -> str:
        command = [*COMPOSE, "--file", str(COMPOSE_FILE), "--project-name", self.name, *arguments]
        return ran(*command, timeout_s=timeout_s)

    def millrace(self, *arguments: str, timeout_s: float = 60.0) -> str:
        """A command in the JobManager's container, which has the cluster's settings."""
        return self.compose("exec", "-T", "jobmanager", "millrace", *arguments, timeout_s=timeout_s)

    def ask(self, *arguments: str) -> Any:
        return json.loads(self.millrace(*arguments, "--json"))

    def container(self, service: str) -> str:
        return self.compose("ps", "-q", service).split()[0]

    def predictions(self) -> int:
        """How many are committed, and Kafka's marks of transactions; read through the published port."""
        ends = topic_ends(f"127.0.0.1:{self.kafka_port}", "predictions", {}, isolation="read_committed")
        return sum(ends.values())

    def wait_for_predictions(self, why: str) -> None:
        """Wait for some hundred more than there are."""
        goal = self.predictions() + 300
        wait_until(f"predictions {why}", lambda: self.predictions() >= goal, RECOVERY_S)


def crash(container: str) -> None:
    """SIGKILL its process and wait until Docker has started it again.

    `docker kill` would count as the user's wish, after which nothing is started again.
    """
    pid, restarts = look(container)
    assert pid > 1
    os.kill(pid, signal.SIGKILL)
    wait_until(f"{container} is started again", lambda: look(container)[1] > restarts and look(container)[0] > 1, 60.0)


def look(container: str) -> tuple[int, int]:
    """(process, how often it was started again)."""
    pid, restarts = ran("docker", "inspect", "--format", "{{.State.Pid}} {{.RestartCount}}", container).split()
    return int(pid), int(restarts)


def wait_until(what: str, holds: Callable[[], bool], timeout_s: float) -> None:
    """Wait; a command that fails meanwhile counts as a no."""
    deadline = time.monotonic() + timeout_s
    last = ""
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except (AssertionError, KafkaAdminError, TypeError, json.JSONDecodeError, subprocess.TimeoutExpired) as error:
            last = str(error)
        time.sleep(1.0)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what}; {last}")


@pytest.fixture(scope="module")
def images() -> None:
    ran(*COMPOSE, "--file", str(COMPOSE_FILE), "build", "kafka", "jobmanager", timeout_s=BUILD_S)


def version() -> str:
    from importlib.metadata import version

    return version("millrace")


@pytest.fixture(scope="module")
def project(images: None) -> Iterator[Project]:
    """All of compose.yaml, with few events a second: the machine has little to give."""
    started = Project(f"millrace-test-{os.getpid()}", free_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_RATE", "50")
        patch.setenv("MILLRACE_KAFKA_PORT", str(started.kafka_port))
        patch.setenv("MILLRACE_FLINK_PORT", str(free_port()))
        try:
            started.compose("up", "--detach", "--no-build", timeout_s=START_S)
            yield started
        finally:
            started.compose("down", "--volumes", "--timeout", "5", timeout_s=120.0)


def test_nothing_in_the_image_runs_as_root_or_is_fetched_at_the_start(images):
    image = f"millrace:{version()}"
    assert ran("docker", "run", "--rm", "--network", "none", image, "id", "-un").strip() == "flink"
    check = ran("docker", "run", "--rm", "--network", "none", image, "millrace", "describe", "purchase", "--json")
    assert json.loads(check)["name"] == "purchase"
    # compiled when the image was built: with a processor's own kernels this would take half a minute
    timed = "import time; t = time.time(); from udfs.kernel_warm_up import warm_up; warm_up(); print(time.time() - t)"
    assert float(ran("docker", "run", "--rm", "--network", "none", image, "python", "-c", timed)) < 10.0


def test_a_pipeline_of_one_s_own_is_added_with_its_model(images, tmp_path):
    shipped = (ROOT / "flink_jobs/pipelines/purchase.py").read_text()
    mine = shipped.replace('name="purchase"', 'name="mine"').replace("version=2)", 'version=2, root="my_models")')
    (tmp_path / "mine.py").write_text(mine)
    shutil.copytree(ROOT / "models" / "purchase", tmp_path / "my_models" / "purchase")
    (tmp_path / "Dockerfile").write_text(
        f"FROM millrace:{version()}\n"
        "COPY mine.py /opt/millrace/pipelines/\n"
        "COPY my_models /opt/millrace/pipelines/my_models\n"
    )
    ran("docker", "build", "--network", "none", "--tag", "millrace-test-mine", str(tmp_path))
    try:
        # as the JobManager would: the pipeline by its path, its model opened, and then no Kafka
        run = f"from {MODULE} import run; run(['/opt/millrace/pipelines/mine.py'])"
        tried = ("docker", "run", "--rm", "--network", "none", "millrace-test-mine", "python", "-c", run)
        done = subprocess.run(tried, capture_output=True, text=True, timeout=60.0)
        assert done.returncode == 1
        assert done.stderr.startswith("Error: no Kafka broker answers at 127.0.0.1:9092"), done.stderr
    finally:
        ran("docker", "rmi", "millrace-test-mine")


def test_up_ends_with_predictions_and_killed_parts_come_back_with_nothing_lost_or_doubled(project):
    seen = project.millrace("watch", "purchase", "--from-start", "--limit", "5", "--json", timeout_s=START_S)
    assert len(seen.splitlines()) == 5
    assert all(0.0 < json.loads(line)["purchase_probability"] < 1.0 for line in seen.splitlines())

    tables = project.compose("exec", "-T", "taskmanager", "cat", "/proc/net/tcp", "/proc/net/tcp6")
    ports = listeners_in(tables)
    assert len(beyond_loopback(ports)) <= 3, "RPC, shuffles and metrics, which the other containers need"
    assert len(ports - beyond_loopback(ports)) >= 6, "Beam's servers for the Python worker"
    for service in ("taskmanager", "jobmanager"):
        # so that what is seen after the crash was made after it
        wait_until("the job keeps up", lambda: lag(project) < 200, RECOVERY_S)
        crash(project.container(service))
        project.wait_for_predictions(f"after {service} died")

    project.compose("stop", "shoppers")
    wait_until("all events are answered", lambda: not lag(project), RECOVERY_S)
    report = project.ask("verify", "purchase")
    assert report["ok"], report
    assert report["answers"] == report["events"] > 500


def lag(project: Project) -> int:
    """Events that no checkpoint covers yet."""
    return sum(each["lag"] for each in project.ask("status", "purchase")["lag"])


def test_what_was_taken_down_comes_up_again_with_the_same_job(project):
    job = project.ask("status", "purchase")["job_id"]
    project.compose("down", timeout_s=120.0)
    project.compose("up", "--detach", "--no-build", timeout_s=START_S)
    assert ran("docker", "wait", project.container("submit"), timeout_s=120.0).strip() == "0"
    project.wait_for_predictions("after all of it was taken down")
    assert project.ask("status", "purchase")["job_id"] == job


@dataclass(frozen=True)
class Application:
    """A cluster of its own for the job, beside the services of compose: what Kubernetes runs, without Kubernetes."""

    project: Project
    savepoint: str

    OPTIONS = """\
jobmanager.rpc.address: application
parallelism.default: 2
taskmanager.numberOfTaskSlots: 2
high-availability.type: zookeeper
high-availability.zookeeper.quorum: zookeeper:2181
high-availability.cluster-id: /application
high-availability.storageDir: file:///var/lib/millrace/application/high-availability
execution.checkpointing.dir: file:///var/lib/millrace/application/checkpoints
"""

    def start(self, name: str, *command: str) -> str:
        return ran(
            "docker", "run", "--detach", "--init", "--restart", "always", "--network", f"{self.project.name}_default",
            "--network-alias", name, "--volume", f"{self.project.name}_state:/var/lib/millrace",
            "--env", "MILLRACE_BOOTSTRAP=kafka:9092", "--env", "MILLRACE_CLUSTER=http://application:8081",
            "--env", f"FLINK_PROPERTIES={self.OPTIONS}", f"millrace:{version()}", *command,
        ).strip()  # fmt: skip

    def start_jobmanager(self) -> str:
        return self.start(
            "application", "standalone-job", "--job-classname", DRIVER, "--fromSavepoint", self.savepoint,
            "-pym", MODULE, "purchase",
        )  # fmt: skip


def test_an_application_goes_on_from_a_session_s_savepoint_and_from_its_own_checkpoint_after_a_crash(project):
    application = Application(project, project.ask("stop", "purchase")["savepoint"])
    project.compose("stop", "jobmanager", "taskmanager")
    containers = [application.start_jobmanager(), application.start("worker", "taskmanager")]

    def ask(*arguments: str) -> Any:
        return json.loads(ran("docker", "exec", containers[0], "millrace", *arguments, "--json"))

    def events_behind() -> int:
        return sum(each["lag"] for each in ask("status", "purchase")["lag"])

    try:
        project.compose("start", "shoppers")
        project.wait_for_predictions("of the application")
        wait_until("the application keeps up", lambda: events_behind() < 200, RECOVERY_S)
        crash(containers[0])
        project.wait_for_predictions("after the application's JobManager died")
        project.compose("stop", "shoppers")
        wait_until("all events are answered", lambda: events_behind() == 0, RECOVERY_S)
        report = ask("verify", "purchase")
        assert report["ok"], report
        assert report["answers"] == report["events"]
    except AssertionError as error:
        logs = "\n".join(ran("docker", "logs", "--tail", "60", each) for each in containers)
        raise AssertionError(f"{error}\n{logs}") from error
    finally:
        ran("docker", "rm", "--force", *containers)
