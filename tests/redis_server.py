"""A real Redis server for tests, from the distribution's package (`apt-get install redis-server`)."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import redis
from certificates import Signed

from flink_jobs.local.processes import with_parent


class RedisServer:
    """A server of this test alone, without persistence: killed, it forgets everything.

    Args:
        folder: For its log.
        password: None lets anybody in.
        tls: The server's certificate, and who may sign those that it asks for; None speaks no TLS.
    """

    def __init__(self, folder: Path, password: str | None = None, tls: tuple[Signed, Path] | None = None):
        if shutil.which("redis-server") is None:
            pytest.skip("no redis-server here: install the distribution's package")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._folder, self._password, self._tls = folder, password, tls
        self.start()

    @property
    def url(self) -> str:
        return f"redis{'s' if self._tls else ''}://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        if self._tls is None:
            return redis.Redis(port=self.port, password=self._password)
        own, authority = self._tls
        files = {"ssl_ca_certs": authority, "ssl_certfile": own.certificate, "ssl_keyfile": own.key}
        return redis.Redis(host="127.0.0.1", port=self.port, ssl=True, **{name: str(f) for name, f in files.items()})

    def start(self) -> None:
        """Start it, empty."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command += ["--requirepass", self._password] if self._password else []
        if self._tls is not None:
            own, authority = self._tls
            command[1:3] = ["--port", "0", "--tls-port", str(self.port)]
            command += ["--tls-cert-file", str(own.certificate), "--tls-key-file", str(own.key)]
            command += ["--tls-ca-cert-file", str(authority)]
        with (self._folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._folder, preexec_fn=with_parent()
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
