"""`millrace parity`: the same hard input through every engine, and a table of what they agree on."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from flink_jobs.console import (
    CommandError,
    StopSignal,
    err,
    fetch_jars,
    out,
    quiet_output,
    say,
    show,
    show_json,
)
from flink_jobs.event_files import file_events
from flink_jobs.hard_events import hard_records
from flink_jobs.local.own_broker import own_broker
from flink_jobs.own_tables import copy_tables, file_keys, put_hard_tables, table_spans
from flink_jobs.parity_comparison import Comparison
from flink_jobs.parity_job import ENGINES, Difference, ParityReport, run_engines, send_input
from flink_jobs.settings import Settings
from udfs.pipeline import Pipeline

DIFFERENCES_SHOWN = 5
TABLE_WIDTH = 120
NO_JOINS = "it joins events with no rows, and the pipeline has lookups"


def run_parity_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    *,
    events: int,
    seed: int,
    data: Path | None,
    engines: Sequence[str],
    processes: int | None,
    as_json: bool,
) -> None:
    """Compare the engines; fails when they disagree."""
    chosen = _chosen(engines, pipeline)
    given_text = f"the first {events:,} rows of {data}" if data else f"{events:,} hard records, seed {seed}"
    likely = file_keys(pipeline) if data is None else {}
    records = _records(pipeline, events, seed, data, likely)
    if data is not None:
        table_spans(pipeline, settings)  # a topic that is not there is said before anything is started
    fetch_jars()
    say(f"{name}: {given_text}, through {', '.join(chosen)}; on a broker of its own, your topics stay as they are")
    if pipeline.lookups and not engines:
        say(f"SQL is left out: {NO_JOINS}")
    log_file = settings.logs / f"parity-{pipeline.name}-{os.getpid()}.log"
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with (
        quiet_output(log_file),
        StopSignal() as stop,
        own_broker(settings, "parity-") as broker,
        Progress(*columns, TimeElapsedColumn(), console=err, transient=True) as bars,
    ):
        task = bars.add_task("sending", total=1.0)
        broker.keep_logs = True
        if data is None:
            asking = ((key, value) for key, value, _ in hard_records(pipeline, events, seed, likely))
            own = put_hard_tables(pipeline, broker.bootstrap, asking, seed)
        else:
            own = copy_tables(pipeline, settings, broker.bootstrap, stop.raise_if_requested)
        given = send_input(
            own, broker.bootstrap, broker.folder, records, settings.shards, given_text, stop.raise_if_requested
        )
        report = run_engines(
            given,
            settings,
            chosen,
            processes=processes or len(os.sched_getaffinity(0)),
            should_stop=stop.raise_if_requested,
            step=lambda text, share: bars.update(task, description=text, completed=share),
        )
        broker.keep_logs = False
    log_file.unlink(missing_ok=True)
    if as_json:
        show_json(_as_json(report, chosen))
    else:
        _show(report, chosen)
    if not report.holds:
        total = sum(each.differences for each in report.comparisons) + sum(report.answers_twice.values())
        raise CommandError(f"the engines disagree: {total:,} differences over {given_text}")


def _chosen(engines: Sequence[str], pipeline: Pipeline) -> list[str]:
    named = [each.strip() for one in engines for each in one.split(",")]
    if pipeline.lookups and "sql" in named:
        raise CommandError(f"--engines names sql, which cannot compute {pipeline.name}: {NO_JOINS}")
    wanted = named or [each for each in ENGINES if each != "sql" or not pipeline.lookups]
    unknown = [each for each in wanted if each not in ENGINES]
    if unknown:
        raise CommandError(f"--engines names {unknown[0]!r}: write some of {', '.join(ENGINES)}")
    if len(set(wanted)) < 2:
        raise CommandError("--engines names one engine: at least two are needed to compare")
    return [each for each in ENGINES if each in wanted]


def _records(
    pipeline: Pipeline, events: int, seed: int, data: Path | None, likely: Mapping[str, Sequence[Any]]
) -> Iterable[tuple[bytes | None, bytes | None, str | None]]:
    if data is None:
        return hard_records(pipeline, events, seed, likely)
    return ((key, value, None) for key, value in islice(file_events(data, pipeline), events))


def _as_json(report: ParityReport, engines: Sequence[str]) -> dict[str, Any]:
    return {
        "events": report.given.count,
        "refused": report.refused,
        "input": report.given.seed_text,
        "engines": list(engines),
        "features": len(report.given.pipeline.feature_names),
        "compared": sum(each.compared for each in report.comparisons),
        "differences": sum(each.differences for each in report.comparisons) + sum(report.answers_twice.values()),
        "by_design": sum(each.by_design for each in report.comparisons),
        "answers_twice": report.answers_twice,
        "elapsed_s": {name: round(elapsed_s, 1) for name, elapsed_s in report.elapsed_s.items()},
        "comparisons": [
            {
                "engines": [each.first, each.second], "feature": each.feature, "compared": each.compared,
                "differences": each.differences, "by_design": each.by_design, "refused": each.refused,
                "largest_relative_difference": each.largest if each.largest != float("inf") else "infinite",
            }
            for each in report.comparisons
        ],
        "first": [_difference_json(each) for each in report.differences],
    }  # fmt: skip


def _difference_json(difference: Difference) -> dict[str, Any]:
    values = {name: value if value == value else None for name, value in difference.values.items()}
    return {
        "engines": [difference.comparison.first, difference.comparison.second],
        "feature": difference.comparison.feature,
        "partition": difference.place[0],
        "offset": difference.place[1],
        "key": difference.record[0],
        "value": difference.record[1],
        "said": values,
        "events": difference.events,
    }


def _show(report: ParityReport, engines: Sequence[str]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("engines", no_wrap=True)
    table.add_column("feature", overflow="fold")
    with_design = any(each.by_design for each in report.comparisons)
    for column in ("compared", "differences", *(("by design",) if with_design else ()), "largest"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in report.comparisons:
        table.add_row(*_cells(each, with_design), style="red" if each.differences else None)
    # wider than the 80 columns that a pipe is taken to have: names are long
    Console(file=out.file, highlight=False, width=max(out.width, TABLE_WIDTH)).print(table)
    compared = sum(each.compared for each in report.comparisons)
    for difference in report.differences[:DIFFERENCES_SHOWN]:
        _show_difference(difference)
    if len(report.differences) > DIFFERENCES_SHOWN:
        show(f"and first differences of {len(report.differences) - DIFFERENCES_SHOWN} more features; --json has all")
    for name, count in report.answers_twice.items():
        if count:
            show(f"{name} answered {count:,} records more than once", style="red")
    if report.holds:
        took = ", ".join(f"{name} {elapsed_s:.0f} s" for name, elapsed_s in report.elapsed_s.items())
        show(
            f"{', '.join(engines)} agree on {compared:,} values of {report.given.count:,} records "
            f"({report.refused:,} are no events; {took})"
        )


def _cells(each: Comparison, with_design: bool) -> list[str]:
    pair = f"{each.first}, {each.second}"
    if each.refused is not None:
        told = f"{each.feature}: not in {each.second}, {each.refused}"
        return [pair, told, "", "", *([""] if with_design else []), ""]
    design = [f"{each.by_design:,}"] if with_design else []
    largest = f"{each.largest:.1e}" if each.largest else "0"
    return [pair, each.feature, f"{each.compared:,}", f"{each.differences:,}", *design, largest]


def _show_difference(difference: Difference) -> None:
    show("")
    place = f"partition {difference.place[0]}, offset {difference.place[1]}"
    said = "  ".join(f"{name}: {value!r}" for name, value in difference.values.items())
    show(f"{difference.comparison.feature} of {place}  {said}", style="bold")
    show(f"  record  {difference.record[1]}")
    for event in difference.events:
        show(f"  from    {event['time_ms']}  {json.dumps(event['event'], ensure_ascii=False)}")
