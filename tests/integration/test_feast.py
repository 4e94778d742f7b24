"""The real Feast reads our online stores and training sets: `make feast` makes its environment, which takes minutes."""

import itertools
import json
import subprocess
import time
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from redis_server import RedisServer
from typer.testing import CliRunner
from wire_features import feature_records, shopper_lines
from workloads import shipped_as

from flink_jobs.backfill_job import run_backfill
from flink_jobs.backfill_request import BackfillRequest
from flink_jobs.cli import app
from flink_jobs.feature_store import FeatureRow, open_store
from flink_jobs.history_files import file_pieces
from flink_jobs.pipelines import load_pipeline
from flink_jobs.settings import Settings
from tests.benchmarks.peers import FEAST, READY
from udfs.feast_layout import FeastLayout

pytestmark = pytest.mark.integration
READER = Path(__file__).parents[1] / "feast_reader.py"
EVENTS = 400


@pytest.fixture(scope="module")
def feast_python():
    if not (FEAST.folder / READY).exists():
        pytest.skip("Feast is not installed: `make feast` does it, in an environment of its own")
    return FEAST.folder / "bin" / "python"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("pipeline") / "for_feast.py"
    file.write_text(shipped_as("for-feast", 'features_topic="for-feast-features"'))
    return file


@pytest.fixture(params=["sqlite", "redis"])
def url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'online.sqlite'}"
        return
    server = RedisServer(tmp_path)
    yield server.url
    server.kill()


def put(pipeline, url, records):
    """Write vectors into the store; the newest features of each entity."""
    newest, layout = {}, FeastLayout.of(pipeline)
    for record in records:
        vector = msgspec.json.decode(record.value)
        newest[vector["user_id"]] = int(record.headers["millrace-event-time"]), vector["features"]
    store = open_store(pipeline, Settings(), url)
    rows = [FeatureRow(layout.entity_key(user), ms, 1, layout.packed(found)) for user, (ms, found) in newest.items()]
    store.write(rows, time.time_ns() // 1_000_000)
    store.close()
    return {user: found for user, (_, found) in newest.items()}


def read_by_feast(python, repository, pipeline, entities, moments, tmp_path):
    view = FeastLayout.of(pipeline).view
    asked = {"join_key": "user_id", "entities": entities, "moments": moments,
             "features": [f"{view}:{name}" for name in pipeline.feature_names]}  # fmt: skip
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    # nothing of ours: Feast's environment has its own
    ran = subprocess.run(
        [python, READER, repository, tmp_path / "asked.json"], capture_output=True, text=True, timeout=240, check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "FEAST_USAGE": "False"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-2_000:] + ran.stderr[-2_000:]
    return json.loads(ran.stdout.splitlines()[-1])


def test_feast_returns_what_was_written_and_what_history_knew(feast_python, file, url, tmp_path):
    pipeline = load_pipeline(str(file))
    start_ms = time.time_ns() // 1_000_000 - 600_000
    history = tmp_path / "events.jsonl"
    history.write_bytes(b"".join(value + b"\n" for _, value in shopper_lines(EVENTS, start_ms)))
    source, training_set = {"files": [str(history)]}, tmp_path / "training_set.parquet"
    run_backfill(BackfillRequest(pipeline, source, lambda: file_pieces([history], pipeline), training_set))
    rows = pq.read_table(training_set).to_pylist()
    assert len(rows) == EVENTS

    records = feature_records(pipeline, EVENTS, start_ms)
    put(pipeline, url, records[:100])
    repository = tmp_path / "repository"
    result = CliRunner().invoke(
        app, ["features", "export-feast", str(file), "--to", str(repository), "--store", url,
              "--training-set", str(training_set)],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    newest = put(pipeline, url, records)
    entities, times = sorted(newest), {row["_event_time"]: row for row in rows}
    asked_at = [row for row in rows[50::40] if times[row["_event_time"]] is row]  # Feast takes any of two at one time
    moments = [[row["_entity"], int(row["_event_time"].timestamp() * 1_000)] for row in asked_at]
    read = read_by_feast(feast_python, repository, pipeline, [*entities, "nobody"], moments, tmp_path)

    online = read["online"]
    assert online.pop("user_id") == [*entities, "nobody"]
    assert online.keys() == set(pipeline.feature_names)
    for place, entity in enumerate(entities):
        assert {name: values[place] for name, values in online.items()} == newest[entity]
    assert {values[-1] for values in online.values()} == {None}
    assert len(read["history"]) == len(asked_at) > 5
    for found, row in zip(read["history"], asked_at, strict=True):
        assert found.pop("user_id") == row["_entity"]
        assert found == {name: None if row[name] != row[name] else row[name] for name in pipeline.feature_names}

    later = put(pipeline, url, list(itertools.islice(records, EVENTS)))  # `feast apply` leaves our tables as they were
    assert later == newest
