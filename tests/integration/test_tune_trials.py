"""`millrace tune` on a pipeline whose topic has events, ended by Ctrl-C: it tells what it found and leaves nothing."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flink_jobs.events_producer import produce_events
from flink_jobs.kafka_admin import TopicSpec, create_topics, topic_ends
from flink_jobs.local.shoppers import as_records, shopper_events

pytestmark = pytest.mark.integration

EVENTS = 2_000
TRIALS_SEEN = 2
TIMEOUT_S = 400.0


LOOKED_UP = """
import dataclasses
from flink_jobs.pipelines.purchase import pipeline as purchase
from udfs.pipeline import Lookup, Value

class Shopper:
    user_id: str
    age: int
    at: int

shoppers = Lookup("shoppers", Shopper, topic="tuned-shoppers", key="user_id", time="at", fields={"at": "@timestamp"},
                  defaults={"age": 40})
pipeline = dataclasses.replace(purchase, lookups=[shoppers], features=[*purchase.features, Value("shoppers.age")])
"""


def test_tune_tries_settings_on_events_of_the_topic_and_writes_nothing_to_it(broker, tmp_path):
    (tmp_path / "tuned.py").write_text(LOOKED_UP)
    create_topics(broker.bootstrap, [TopicSpec("user-events", 3), TopicSpec("tuned-shoppers", 2)])
    ages = ((f"user-{number}".encode(), b'{"age": 30, "user_id": "user-%d"}' % number) for number in range(200))
    produce_events(broker.bootstrap, "tuned-shoppers", ages)
    before = sum(topic_ends(broker.bootstrap, "user-events").values())
    events = itertools.islice(shopper_events(200, 1, 1_760_000_000_000), EVENTS)
    produce_events(broker.bootstrap, "user-events", as_records(events))
    home = tmp_path / "home"
    process = subprocess.Popen(
        [sys.executable, "-m", "flink_jobs.cli", "tune", str(tmp_path / "tuned.py"), "--rate", "500", "--json"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "MILLRACE_BOOTSTRAP": broker.bootstrap, "MILLRACE_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said: list[str] = []
    enough = threading.Event()

    def listen():
        for line in process.stderr:
            said.append(line)
            if sum(line.startswith("- parallelism") for line in said) == TRIALS_SEEN:
                enough.set()
        enough.set()

    threading.Thread(target=listen, daemon=True).start()
    try:
        assert enough.wait(TIMEOUT_S), said
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, (said, stdout)
    found = json.loads(stdout)
    assert "topic user-events" in found["sample"]
    assert not found["complete"]
    assert len(found["trials"]) >= TRIALS_SEEN
    for trial in found["trials"][:TRIALS_SEEN]:
        assert trial["problem"] is None
        assert trial["events_per_s"] > 0
        assert 0 < trial["latency_p50_ms"] <= trial["latency_p99_ms"]
    assert found["use"] in [trial["setting"] for trial in found["trials"]]
    assert sum(topic_ends(broker.bootstrap, "user-events").values()) == before + EVENTS
    assert [path.name for path in home.iterdir()] == ["logs"]
