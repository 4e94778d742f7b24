"""History -> the state that a job would have after it; what is finished is kept, so that a killed run can go on.

    read: pieces of the source     build: shards
    decode, cut by shard      ->   the engine, no features   ->   a file of each shard: the log that Flink would hold

It is the backfill's way, cut by the job's own shards. Processes, kills and restarts change no feature that comes of it.
"""

import shutil
import time
from collections.abc import Callable
from typing import Any

from flink_jobs.backfill_job import NEVER_MS, READ, Progress, read_pieces, refused_records
from flink_jobs.backfill_request import BackfillPlan, BackfillRequest, alone, load_plan
from flink_jobs.backfill_steps import Work
from flink_jobs.backfill_workers import Workers
from flink_jobs.backfill_writer import write_letters

BUILD = "building"
_READ_SHARE = 0.8  # as measured; only the estimate needs it


def build_state(
    request: BackfillRequest, progress: Callable[[Progress], None] = lambda _: None
) -> tuple[list[str], dict[str, Any]]:
    """Build the state of all shards in the folder `request.target`; goes on with what an earlier run left.

    Returns:
        sha256 of each shard's file, and what was counted.

    Raises:
        BackfillError: Unfinished work of other arguments is there, the sources changed since it began, or another
            process is at it.
    """
    began = time.monotonic()
    plan = load_plan(request)
    with alone(request.work_folder):
        request.target.mkdir(exist_ok=True)
        workers = Workers(_work(request, plan), request.processes)
        try:
            read, shards = _read_and_build(request, plan, workers, progress)
        finally:
            workers.close()
        letters = write_letters(request.letters_file, plan.events, None)
    facts = {
        "events": sum(facts["events"] for facts in read),
        "refused": refused_records(read),
        "behind": sum(facts["behind"] for facts in read),
        "latest_ms": max((facts["latest_ms"] for facts in read if facts["latest_ms"] is not None), default=None),
        "entities": sum(facts["entities"] for facts in shards),
        "bytes": sum(facts["bytes"] for facts in shards),
        "letters": str(request.letters_file) if letters else None,
        "elapsed_s": round(time.monotonic() - began, 3),
        "resumed": plan.resumed,
        "row_ends": plan.row_ends,
    }
    return [facts["sha256"] for facts in shards], facts


def forget_work(request: BackfillRequest) -> None:
    """Remove what was read; the state's files stay."""
    shutil.rmtree(request.work_folder, ignore_errors=True)


def _work(request: BackfillRequest, plan: BackfillPlan) -> Work:
    return Work(
        events=plan.events,
        labels=None,
        label_values=False,
        shards=request.shards,
        since_ms=NEVER_MS,  # every event only warms up
        until_ms=NEVER_MS,
        folder=request.target,
        bootstrap=request.bootstrap,
        properties=request.properties,
        tables=plan.tables,
    )


def _read_and_build(
    request: BackfillRequest, plan: BackfillPlan, workers: Workers, progress: Callable[[Progress], None]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Facts of all pieces, and of all shards in order."""

    def tell_read(share: float, events: int) -> None:
        progress(Progress(READ, _READ_SHARE * share, events))

    read, _ = read_pieces(plan, workers, tell_read)
    events, built = sum(facts["events"] for facts in read), {}
    for shard, facts in workers.each("build", [(shard,) for shard in range(request.shards)]):
        built[shard] = facts
        progress(Progress(BUILD, _READ_SHARE + (1 - _READ_SHARE) * len(built) / request.shards, events))
    return read, [built[shard] for shard in range(request.shards)]
