"""Submitting what is on the cluster already."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from typer.testing import CliRunner

from flink_jobs.cli import app

JOB = {"jid": "ab" * 16, "name": "millrace-purchase", "state": "RUNNING", "start-time": 1_760_000_000_000}


class _Flink(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"jobs": [JOB]}).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Iterator[str]:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    server = HTTPServer(("127.0.0.1", 0), _Flink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_job_that_is_there_already_is_refused(cluster):
    result = CliRunner().invoke(app, ["submit", "purchase", "--cluster", cluster])
    assert result.exit_code == 1
    assert f"millrace-purchase already is at {cluster} as {JOB['jid']}" in result.stderr


def test_what_is_started_again_may_find_its_job_there_and_leaves_it_as_it_is(cluster):
    result = CliRunner().invoke(app, ["submit", "purchase", "--cluster", cluster, "--unless-running", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["job_id"] == JOB["jid"]
