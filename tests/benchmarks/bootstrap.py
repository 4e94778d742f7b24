"""Bootstrap: how long a topic's events take to become a state, against a job that streams them for it.

    python -m tests.benchmarks.bootstrap [--events N]

Both are `millrace run --until-caught-up` as a user runs it, on the shipped pipeline, one after the other on one broker.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flink_jobs.environment import PROJECT_ROOT
from flink_jobs.events_producer import produce_events
from flink_jobs.kafka_admin import create_topics
from flink_jobs.local.broker import Broker
from flink_jobs.pipelines import load_pipeline
from flink_jobs.topics import topic_specs
from tests.benchmarks.backfill import records

EVENTS = 1_000_000


def run(folder: Path, bootstrap: str, *options: str) -> tuple[dict[str, float], float]:
    """One run: its own report, and its seconds from the command to its end."""
    command = [sys.executable, "-m", "flink_jobs.cli", "run", "purchase", "--until-caught-up", "--json", *options]
    began = time.monotonic()
    environment = {**os.environ, "MILLRACE_BOOTSTRAP": bootstrap, "MILLRACE_HOME": str(folder)}
    report = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, check=True, stdout=subprocess.PIPE).stdout
    return json.loads(report), time.monotonic() - began


def measure(events: int) -> dict[str, float]:
    pipeline = load_pipeline("purchase")
    with tempfile.TemporaryDirectory(prefix="millrace-bootstrap-") as name:
        folder = Path(name)
        broker = Broker.start(folder / "broker", die_with_parent=True)
        try:
            create_topics(broker.bootstrap, topic_specs(pipeline))
            produce_events(broker.bootstrap, pipeline.events.topic, records(events))
            built, built_wall_s = run(folder / "built", broker.bootstrap, "--bootstrap-from", "earliest")
            streamed, streamed_wall_s = run(folder / "streamed", broker.bootstrap)
        finally:
            broker.kill()
    state = built["bootstrap"]
    assert state["events"] == streamed["events"] == events
    assert built["events"] == 0
    return {
        "bootstrap_events": events,
        "bootstrap_state_s": state["elapsed_s"],
        "bootstrap_state_mb": round(state["bytes"] / 1e6, 1),
        "bootstrap_wall_s": round(built_wall_s, 1),
        "streaming_job_s": round(streamed["elapsed_s"], 1),
        "streaming_wall_s": round(streamed_wall_s, 1),
        "bootstrap_times_faster": round(streamed["elapsed_s"] / state["elapsed_s"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bootstrap")
    parser.add_argument("--events", type=int, default=EVENTS, help=f"default: {EVENTS:,}")
    print(json.dumps(measure(parser.parse_args().events), indent=2))


if __name__ == "__main__":
    main()
