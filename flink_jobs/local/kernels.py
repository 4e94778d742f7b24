"""Compiles every kernel once, so that neither a worker's start nor the first backfill waits for it.

python -m flink_jobs.local.kernels
"""

import csv
import functools
import itertools
import json
import tempfile
from pathlib import Path

from flink_jobs.backfill_job import run_backfill
from flink_jobs.backfill_request import BackfillRequest
from flink_jobs.history_files import file_pieces
from flink_jobs.local.shoppers import as_records, shopper_events
from flink_jobs.pipelines import load_pipeline
from udfs.entity_state import warm_up

EVENTS = 200


def compile_kernels() -> None:
    """Run what streams, and replay a small history of each kind of file: numba keeps what it compiled on disk."""
    warm_up()
    pipeline = load_pipeline("purchase")
    records = itertools.islice(as_records(shopper_events(20, 1, 1_760_000_000_000)), EVENTS)
    lines = [value.decode() for _, value in records]
    with tempfile.TemporaryDirectory(prefix="millrace-kernels-") as name:
        folder = Path(name)
        as_json, as_csv = folder / "events.jsonl", folder / "events.csv"
        as_json.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        with as_csv.open("w", encoding="utf-8", newline="") as file:
            rows = [json.loads(line) for line in lines]
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        for path in (as_json, as_csv):
            pieces = functools.partial(file_pieces, [path], pipeline)
            target = folder / f"{path.name}.parquet"
            run_backfill(BackfillRequest(pipeline, {"files": [str(path)]}, pieces, target))


if __name__ == "__main__":
    compile_kernels()
