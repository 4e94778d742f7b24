"""A real Redis server for tests, from the distribution's package (`apt-get install redis-server`)."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import redis

from flink_jobs.local.processes import _die_with_parent


class RedisServer:
    """A server of this test alone, without persistence: killed, it forgets everything.

    Args:
        folder: For its log.
        password: None lets anybody in.
    """

    def __init__(self, folder: Path, password: str | None = None):
        if shutil.which("redis-server") is None:
            pytest.skip("no redis-server here: install the distribution's package")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._folder, self._password = folder, password
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=self._password)

    def start(self) -> None:
        """Start it, empty."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command += ["--requirepass", self._password] if self._password else []
        with (self._folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._folder, preexec_fn=_die_with_parent
            )
        deadline = time.monotonic() + 10
        while True:
            try:
                self.client.ping()
                return
            except redis.exceptions.ConnectionError:
                assert time.monotonic() < deadline, (self._folder / "redis.log").read_text()
                time.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
