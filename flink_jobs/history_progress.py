"""How far work on history is, as a bar with an estimate on stderr."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rich.progress import (
    BarColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from flink_jobs.backfill_job import Progress
from flink_jobs.console import err, say

T = TypeVar("T")


def with_progress(work: Callable[[Callable[[Progress], None]], T], folder: Path) -> T:
    """Do work that tells how far it is; what is finished is kept in the folder if it is interrupted."""
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[events]:,} events"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    try:
        with RichProgress(*columns, console=err, transient=True) as bars:
            task = bars.add_task("reading", total=1.0, events=0)

            def advance(now: Progress) -> None:
                bars.update(task, completed=now.share, description=now.step, events=now.events)

            return work(advance)
    except KeyboardInterrupt:
        say(f"what is finished is kept in {folder}; the same command goes on from there")
        raise
