"""`millrace demo`: prepares, shows and judges the demo."""

import os

from flink_jobs.console import CommandError, StopSignal, err, fetch_jars, out, quiet_output, say, show_json
from flink_jobs.demo import DemoReport, run_demo
from flink_jobs.demo_view import LineView, PanelView, show_summary
from flink_jobs.pipelines import load_pipeline, model_folder
from flink_jobs.settings import Settings
from flink_jobs.train_command import run_train_command
from udfs.pipeline import Pipeline

SHIPPED = "purchase"


def run_demo_command(settings: Settings, *, events_total: int, rate: float, keep: bool, as_json: bool) -> None:
    """Run the demo and show its summary.

    Raises:
        CommandError: An event has no answer, two, or the wrong one.
    """
    pipeline = load_pipeline(SHIPPED)
    if not model_folder(pipeline).is_dir():
        say(f"model {pipeline.model.name}/{pipeline.model.version} is not there: training it once")
        run_train_command(pipeline, version=pipeline.model.version, quiet=True)
    fetch_jars()
    seconds = events_total / rate
    say(f"{events_total:,} shopping events at {rate:,.0f} a second: about {seconds + 30:.0f} s in all; Ctrl-C ends it")
    report = _run(pipeline, settings, events_total, rate, keep, as_json)
    if as_json:
        show_json(report.as_json())
    else:
        show_summary(report, pipeline, settings, kept=keep)
    balance = report.balance
    if not balance.holds:
        raise CommandError(
            f"the account is wrong: {balance.missing} events missing, {balance.duplicated} duplicated, "
            f"{len(balance.unexpected)} unexpected answers; please report it with {report.home}"
        )


def _run(
    pipeline: Pipeline, settings: Settings, events_total: int, rate: float, keep: bool, as_json: bool
) -> DemoReport:
    log_file = settings.logs / f"demo-{os.getpid()}.log"
    with quiet_output(log_file), StopSignal() as stop:
        lines = as_json or not (out.is_terminal and err.is_terminal)
        with LineView() if lines else PanelView(pipeline) as view:
            report = run_demo(
                pipeline,
                settings,
                view,
                events_total=events_total,
                rate=rate,
                keep=keep,
                should_stop=stop.raise_if_requested,
            )
    log_file.unlink(missing_ok=True)
    return report
