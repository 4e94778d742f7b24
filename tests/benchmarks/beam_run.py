"""Runs the Beam contestant: no Kafka, the same records in memory, timed by the difference of two sizes."""

import itertools
import json
import resource
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from flink_jobs.local.shoppers import as_records, shopper_events
from tests.benchmarks.child_process import child, end_of
from tests.benchmarks.contest import LOG, SEED, SHOPPERS, START_MS
from tests.benchmarks.cpu_time import busy_s
from tests.benchmarks.outcomes import ContestantError, Outcome, decode_scored, speed_by_difference

MODULE = "tests.benchmarks.beam_pipeline"
WARM_UP = 1_000


def run_beam(python: Path, workers: str, sizes: Sequence[int], home: Path, timeout_s: float) -> Outcome:
    """Let it score a smaller and a larger number of the events, in its own process or in so many workers.

    Both must be large enough that every shopper is in them: a shopper's first event costs Beam a millisecond.

    Raises:
        ContestantError: It failed, or took longer than `timeout_s`.
    """
    home.mkdir(parents=True)
    source, output, seconds, log = home / "records", home / "predictions", home / "seconds.json", home / LOG
    _write_records(source, max(sizes))
    arguments = [workers, *map(str, (source, output, seconds, WARM_UP, *sizes))]
    before_s, busy_before_s, started = _children_s(), busy_s(), time.monotonic()
    with child([str(python), "-c", f"from {MODULE} import main; main()", *arguments], log) as process:
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ContestantError(f"it is not ready after {timeout_s:.0f} s:\n{end_of(log)}") from None
    if status:
        raise ContestantError(f"it ended with status {status}:\n{end_of(log)}")
    others_s = busy_s() - busy_before_s - (_children_s() - before_s)
    elapsed_s = time.monotonic() - started
    _, small_s, large_s = json.loads(seconds.read_text("utf-8"))
    speed = speed_by_difference(sizes[0], small_s, sizes[1], large_s)
    outcome = Outcome(events_per_s=speed, other_cores=others_s / elapsed_s)
    for value in output.read_bytes().splitlines():
        outcome.add(decode_scored(value))
    return outcome


def _children_s() -> float:
    """CPU seconds of our children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _write_records(path: Path, count: int) -> None:
    records = itertools.islice(as_records(shopper_events(SHOPPERS, SEED, START_MS)), count)
    with path.open("wb") as file:
        file.writelines(key + b"\t" + value + b"\n" for key, value in records)
