"""`millrace run`: where the job begins, how it is, and where the next run goes on."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import typer

from flink_jobs.bootstrap_command import asked_of
from flink_jobs.change_check import changes_as_json
from flink_jobs.console import INTERRUPTED, StopSignal, err, fetch_jars, next_steps, quiet_output, say, show, show_json
from flink_jobs.job_session import JobProgress, SessionReport, run_session
from flink_jobs.run_start import RunStart, bootstrap_as_json, note_checkpoint, settle_start
from flink_jobs.settings import Settings
from flink_jobs.topics import SQL, Engine, run_name
from udfs.pipeline import Pipeline

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
    bootstrap_from: Sequence[str] | None,
    order_by: str | None,
    accept_loss: Sequence[str],
    as_json: bool,
) -> None:
    """Run the job to its end and say how it ended."""
    asked = asked_of(pipeline, bootstrap_from, order_by, start_from)
    start = settle_start(
        pipeline, name, settings, engine=engine, asked=asked, start_from=start_from, fresh=fresh,
        accept_loss=accept_loss,
    )  # fmt: skip
    fetch_jars("job")
    say(f"{run_name(pipeline, engine)}: {start.position.text}")
    log_file = settings.logs / f"run-{run_name(pipeline, engine)}-{os.getpid()}.log"
    say(f"the job's own output goes to {settings.logs}")
    with quiet_output(log_file), StopSignal() as stop:
        status: Any = err.status("") if err.is_terminal else nullcontext(None)
        with status as line:
            told = [0]
            noted: list[bool] = []

            def show_progress(progress: JobProgress) -> None:
                if line is not None:
                    line.update(progress.as_line())
                elif told[0] % LINES_PER_STATUS == 0 or progress.status != "RUNNING":
                    say(progress.as_line())
                told[0] += 1
                if progress.checkpoints and not noted:
                    note_checkpoint(pipeline, settings, start)
                    noted.append(True)

            def step(text: str) -> None:
                if line is not None:
                    line.update(text)
                say(f"- {text}")

            report = run_session(
                pipeline,
                settings,
                start.position,
                stop,
                engine=engine,
                until_caught_up=until_caught_up,
                show=show_progress,
                step=step,
            )
    if engine != SQL:
        note_checkpoint(pipeline, settings, start)
    _show_report(report, start, pipeline, name, settings, engine, as_json=as_json)
    if stop.requested:
        raise typer.Exit(INTERRUPTED)


def _show_report(
    report: SessionReport,
    start: RunStart,
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    engine: Engine,
    *,
    as_json: bool,
) -> None:
    if as_json:
        changes = changes_as_json(start.changes)
        show_json({"engine": engine, **vars(report), "bootstrap": bootstrap_as_json(start), "changes": changes})
        return
    per_s = report.events / report.elapsed_s if report.elapsed_s else 0.0
    ended = "caught up" if report.caught_up else "stopped"
    show(
        f"{ended}: {report.events:,} events in {report.elapsed_s:.1f} s ({per_s:,.0f}/s), "
        f"{report.checkpoints} checkpoints; savepoint {report.savepoint}"
    )
    if engine == SQL and pipeline.longest_window_ms > 0:
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
