"""One real broker for all integration tests, and brokers of their own for tests that kill them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flink_jobs.local.broker import Broker


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
