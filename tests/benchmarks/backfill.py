"""Backfill: events a second from a file and from a topic, and the most memory all its processes had together.

    python -m tests.benchmarks.backfill [--quick]

Each is the command as a user runs it, start of its processes included, on the shipped pipeline's 18 features.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import psutil

from flink_jobs.environment import PROJECT_ROOT
from flink_jobs.events_producer import produce_events
from flink_jobs.kafka_admin import create_topics
from flink_jobs.local.broker import Broker
from flink_jobs.local.shoppers import TRAINING_START_MS, as_records, shopper_events
from flink_jobs.pipelines import load_pipeline
from flink_jobs.topics import topic_specs

QUICK_EVENTS, EVENTS = 1_000_000, 5_000_000
SHOPPERS = 10_000
SAMPLE_S = 0.2


def records(events: int) -> Iterator[tuple[bytes, bytes]]:
    return islice(as_records(shopper_events(SHOPPERS, 1, TRAINING_START_MS)), events)


def own_memory_mb(process: psutil.Process) -> float:
    """What the process and its children would give back by ending."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_full_info().uss
        except psutil.Error:
            continue
    return total / 1e6


def run(source: str, folder: Path, bootstrap: str) -> tuple[dict[str, float], float]:
    """One backfill: its own report, and the most memory seen."""
    command = [sys.executable, "-m", "flink_jobs.cli", "backfill", "purchase", "--from", source]
    command += ["--to", str(folder / "set.parquet"), "--replace", "--json"]
    began, peak_mb = time.monotonic(), 0.0
    with subprocess.Popen(
        command, cwd=PROJECT_ROOT, env={**os.environ, "MILLRACE_BOOTSTRAP": bootstrap}, stdout=subprocess.PIPE
    ) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak_mb = max(peak_mb, own_memory_mb(watched))
            except psutil.Error:
                break
            time.sleep(SAMPLE_S)
        elapsed_s = time.monotonic() - began
        assert process.stdout is not None
        report = json.loads(process.stdout.read())
    assert process.returncode == 0
    return {**report, "wall_s": elapsed_s}, peak_mb


def measure(quick: bool) -> dict[str, float]:
    events = QUICK_EVENTS if quick else EVENTS
    pipeline = load_pipeline("purchase")
    with tempfile.TemporaryDirectory(prefix="millrace-backfill-") as name:
        folder = Path(name)
        history = folder / "history.jsonl"
        with history.open("wb", 1 << 20) as file:
            file.writelines(value + b"\n" for _, value in records(events))
        broker = Broker.start(folder / "broker", die_with_parent=True)
        try:
            create_topics(broker.bootstrap, topic_specs(pipeline))
            produce_events(broker.bootstrap, pipeline.events.topic, records(events))
            result: dict[str, float] = {"backfill_events": events}
            for source, prefix in ((str(history), "backfill"), ("kafka", "backfill_kafka")):
                report, peak_mb = run(source, folder, broker.bootstrap)
                assert report["rows"] == events
                result[f"{prefix}_events_per_s"] = round(events / report["wall_s"])
                result[f"{prefix}_peak_mb"] = round(peak_mb)
        finally:
            broker.kill()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.backfill")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_EVENTS:,} events instead of {EVENTS:,}")
    print(json.dumps(measure(parser.parse_args().quick), indent=2))


if __name__ == "__main__":
    main()
