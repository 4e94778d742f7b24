"""One real broker and one schema registry for all integration tests, and others for tests that kill them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jobs import TESTS
from other_clients import Served, serve

from flink_jobs.environment import prepare_process
from flink_jobs.local import jars, registry_files
from flink_jobs.local.broker import Broker
from flink_jobs.local.processes import free_port
from flink_jobs.local.registry import LocalRegistry
from tests.interplay import files as interplay_files


@pytest.fixture(autouse=True, scope="session")
def _jvm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A Java machine in this process is begun by whichever test needs one first, and serves all others."""
    prepare_process(tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The shared broker: make topics with names of your own, and leave it running."""
    started = Broker.start(tmp_path_factory.mktemp("broker"), die_with_parent=True)
    yield started
    started.kill()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Callable[[], Broker]]:
    """Starts a broker that only this test has; it may be killed, frozen and restarted."""
    started: list[Broker] = []

    def start() -> Broker:
        started.append(Broker.start(tmp_path / f"broker-{len(started)}", die_with_parent=True))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture(scope="session")
def fetched_registry() -> None:
    """What the local schema registry is made of; without it, tests are skipped and say why."""
    try:
        registry_files.ensure_registry()
    except (registry_files.RegistryFilesError, jars.JarError) as error:
        pytest.skip(f"no local schema registry: {error}")


@pytest.fixture(scope="session")
def registry(fetched_registry: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    """The shared schema registry: make subjects with names of your own, and leave it running."""
    started = LocalRegistry.start(tmp_path_factory.mktemp("registry"), die_with_parent=True)
    yield started
    started.kill()


@pytest.fixture
def own_registry(fetched_registry: None, tmp_path: Path) -> Iterator[LocalRegistry]:
    """A registry that only this test has; it may be killed, frozen and restarted."""
    started = LocalRegistry.start(tmp_path / "registry", die_with_parent=True)
    yield started
    started.kill()


@pytest.fixture(scope="session")
def served(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """What a job wrote, for other clients to read, who leave it as it is."""
    return serve(broker, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def interplay() -> None:
    """Other clients for the Java machine; nothing is fetched here, because that takes minutes."""
    if not interplay_files.are_here():
        pytest.skip("Kafka Streams, Kafka Connect and Spark are not here: `make interplay` fetches them, 700 MB")


@pytest.fixture
def millrace(broker: Broker, tmp_path: Path) -> Iterator[Callable[..., "subprocess.CompletedProcess[str]"]]:
    """Runs commands against a cluster of its own."""
    environment = {
        **os.environ, "PYTHONPATH": str(TESTS.parent), "MILLRACE_HOME": str(tmp_path / "home"),
        "MILLRACE_BOOTSTRAP": broker.bootstrap,
    }  # fmt: skip

    def run(*arguments: str, fails: bool = False) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [sys.executable, "-m", "flink_jobs.cli", *arguments], env=environment, cwd=tmp_path, capture_output=True,
            text=True, timeout=400,
        )  # fmt: skip
        assert (done.returncode != 0) == fails, done.stderr[-3_000:]
        return done

    # of its own: another test may be about to take the usual one
    run("cluster", "up", "--slots", "3", "--port", str(free_port()), "--json")
    yield run
    run("cluster", "down")
