"""`millrace run`: where the job begins, how it is, and where the next run goes on."""

import os
from contextlib import nullcontext
from typing import Any

import typer

from flink_jobs.console import INTERRUPTED, StopSignal, err, fetch_jars, next_steps, quiet_output, say, show, show_json
from flink_jobs.job_run import latest_restore_point, pipeline_checkpoints
from flink_jobs.job_session import JobProgress, SessionReport, run_session
from flink_jobs.preflight import preflight
from flink_jobs.settings import Settings
from flink_jobs.sql_job import check_same_windows
from flink_jobs.start_position import choose_start
from flink_jobs.topics import SQL, Engine, run_name
from udfs.pipeline import Pipeline
from udfs.sql_features import compile_features

LINES_PER_STATUS = 10  # without a terminal: one line in ten


def run_job_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    *,
    engine: Engine,
    until_caught_up: bool,
    start_from: str | None,
    fresh: bool,
    as_json: bool,
) -> None:
    """Run the job to its end and say how it ended."""
    restore_point = latest_restore_point(pipeline, settings, engine)
    start = choose_start(start_from, fresh, restore_point, pipeline.events.topic)
    if engine == SQL:
        compile_features(pipeline)  # refuses what SQL cannot express, before anything is started
    preflight(pipeline, settings)
    if engine == SQL:
        folder = pipeline_checkpoints(pipeline, settings, engine)
        check_same_windows(pipeline, settings, folder, goes_on=start.restore_from is not None)
    fetch_jars("connector")
    say(f"{run_name(pipeline, engine)}: {start.text}")
    log_file = settings.logs / f"run-{run_name(pipeline, engine)}-{os.getpid()}.log"
    say(f"the job's own output goes to {settings.logs}")
    with quiet_output(log_file), StopSignal() as stop:
        status: Any = err.status("") if err.is_terminal else nullcontext(None)
        with status as line:
            told = [0]

            def show_progress(progress: JobProgress) -> None:
                if line is not None:
                    line.update(progress.as_line())
                elif told[0] % LINES_PER_STATUS == 0 or progress.status != "RUNNING":
                    say(progress.as_line())
                told[0] += 1

            def step(text: str) -> None:
                if line is not None:
                    line.update(text)
                say(f"- {text}")

            report = run_session(
                pipeline,
                settings,
                start,
                stop,
                engine=engine,
                until_caught_up=until_caught_up,
                show=show_progress,
                step=step,
            )
    _show_report(report, name, settings, engine, waits=pipeline.longest_window_ms > 0, as_json=as_json)
    if stop.requested:
        raise typer.Exit(INTERRUPTED)


def _show_report(
    report: SessionReport, name: str, settings: Settings, engine: Engine, *, waits: bool, as_json: bool
) -> None:
    if as_json:
        show_json({"engine": engine, **vars(report)})
        return
    per_s = report.events / report.elapsed_s if report.elapsed_s else 0.0
    ended = "caught up" if report.caught_up else "stopped"
    show(
        f"{ended}: {report.events:,} events in {report.elapsed_s:.1f} s ({per_s:,.0f}/s), "
        f"{report.checkpoints} checkpoints; savepoint {report.savepoint}"
    )
    if engine == SQL and waits:
        say(
            f"events of the last {settings.watermark_ms / 1_000:g} s of event time wait in the windows: "
            "later events, also of the next run, bring their answers"
        )
        if report.late_dropped:
            say(f"{report.late_dropped:,} events dropped: a later one of their entity was answered", style="yellow")
    next_steps(
        (f"millrace run {name}{' --engine sql' if engine == SQL else ''}", "goes on from this savepoint"),
        (f"millrace watch {name} --from-start", "the predictions"),
    )
