"""`millrace tune`: tries settings one after the other, shows throughput against latency, and names the best."""

import contextlib
import functools
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.table import Table

from flink_jobs.console import (
    INTERRUPTED,
    CommandError,
    StopSignal,
    bar,
    fetch_jars,
    next_steps,
    out,
    quiet_output,
    say,
    show,
    show_json,
)
from flink_jobs.local.own_broker import own_broker
from flink_jobs.own_tables import copy_tables, table_spans
from flink_jobs.preflight import check_model
from flink_jobs.settings import ENVIRONMENT_PREFIX, SETTINGS_FILE, Settings
from flink_jobs.tune import Setting, Trial, candidates, choose, most_trials, next_setting
from flink_jobs.tune_sample import Sample, load_sample, repeated
from flink_jobs.tune_trial import Laboratory
from udfs.pipeline import Pipeline

TUNED = ("parallelism", "shards", "batch_ms", "bundle_ms")
FIRST_BACKLOG, LARGEST_BACKLOG = 20_000, 2_000_000
BACKLOG_S = 6.0
STEADY_SHARE = 0.3
WARM_UPS = (
    2  # the first job finds a cold Java machine: it says how large a backlog the second needs, which is the measure
)
TRIAL_S = 35.0  # on two idle cores


def run_tune_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    *,
    file: Path | None,
    rate: float | None,
    most_latency_ms: float | None,
    as_json: bool,
) -> None:
    """Try settings on a sample and say which to use."""
    check_model(pipeline)
    table_spans(pipeline, settings)  # a topic that is not there is said before anything is started
    sample = load_sample(pipeline, settings, file)
    fetch_jars()
    start: Setting = {one: getattr(settings, one) for one in TUNED}
    values = candidates(len(os.sched_getaffinity(0)), pipeline.events.partitions)
    trials_at_most = WARM_UPS + most_trials(start, values)
    say(f"{pipeline.name}: {sample.origin}; on a broker of its own, your topics stay as they are")
    say(
        f"up to {trials_at_most} trials, about {trials_at_most * TRIAL_S / 60:.0f} minutes on an idle machine; "
        "Ctrl-C ends with what is known by then"
    )
    search = _Search(start, values, most_latency_ms, rate)
    log_file = settings.logs / f"tune-{pipeline.name}-{os.getpid()}.log"
    with (
        quiet_output(log_file),
        StopSignal() as stop,
        contextlib.suppress(KeyboardInterrupt),
        own_broker(settings, "tune-") as broker,
    ):
        records = functools.partial(repeated, pipeline, sample.records)
        own = copy_tables(pipeline, settings, broker.bootstrap, stop.raise_if_requested, remember_all=False)
        search.run(Laboratory(own, settings, broker.bootstrap, broker.folder, records, stop.raise_if_requested))
        broker.keep_logs = search.problem is not None
    chosen = choose(search.trials, most_latency_ms)
    if chosen is None:
        if stop.requested:
            raise KeyboardInterrupt
        raise CommandError(f"no trial succeeded: {search.problem}; logs are in {settings.home.absolute()}")
    log_file.unlink(missing_ok=True)
    if as_json:
        show_json({**_document(search, chosen, sample, settings), "complete": not stop.requested})
    else:
        _show(search, chosen, settings, name)
    if stop.requested:
        raise typer.Exit(INTERRUPTED)


@dataclass
class _Search:
    """The trials made so far, and the load they are made with."""

    start: Setting
    values: dict[str, tuple[int, ...]]
    most_latency_ms: float | None
    rate: float | None
    trials: list[Trial] = field(default_factory=list)
    problem: str | None = None
    backlog: int = FIRST_BACKLOG

    def run(self, laboratory: Laboratory) -> None:
        """Make trials until all are made or one of the first fails."""
        total = WARM_UPS + most_trials(self.start, self.values)
        with bar("trials") as progress:
            task = progress.add_task("starting", total=total)
            began = time.monotonic()
            for number in range(WARM_UPS):
                progress.update(task, description="warming up, to learn the size of a trial")
                trial = laboratory.run(self.start, self.backlog, 0.0)
                if trial.problem is not None:
                    self.problem = trial.problem
                    return
                self.backlog = min(LARGEST_BACKLOG, max(FIRST_BACKLOG, int(trial.events_per_s * BACKLOG_S)))
                progress.update(task, completed=number + 1)
            rate = self.rate = self.rate or round(trial.events_per_s * STEADY_SHARE, -2) or 1.0
            say(f"each trial: {self.backlog:,} events as fast as they go, then {rate:,.0f} a second for latency")
            while (setting := next_setting(self.start, self.values, self.trials, self.most_latency_ms)) is not None:
                done = WARM_UPS + len(self.trials)
                left_s = (time.monotonic() - began) / done * (total - done)
                progress.update(task, description=f"{_text(setting)}; {left_s / 60:.0f} min left")
                self.trials.append(laboratory.run(setting, self.backlog, rate))
                say(_line(self.trials[-1]))
                progress.update(task, completed=done + 1)
        if choose(self.trials) is None:
            self.problem = self.trials[0].problem


def _text(setting: Setting) -> str:
    return ", ".join(f"{name} {value}" for name, value in setting.items())


def _line(trial: Trial) -> str:
    if trial.problem is not None:
        return f"- {_text(trial.setting)}: failed, {trial.problem}"
    return (
        f"- {_text(trial.setting)}: {trial.events_per_s:,.0f} events/s, "
        f"p50 {trial.latency_p50_ms:.0f} ms, p99 {trial.latency_p99_ms:.0f} ms"
    )


def _show(search: _Search, chosen: Trial, settings: Settings, name: str) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in (*TUNED, "events/s", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for trial in sorted(search.trials, key=lambda one: -one.events_per_s):
        cells = [str(trial.setting[one]) for one in TUNED]
        if trial.problem is None:
            cells += [f"{trial.events_per_s:,.0f}", f"{trial.latency_p50_ms:.0f}", f"{trial.latency_p99_ms:.0f}"]
        else:
            cells += ["-", "-", "-"]
        table.add_row(*cells, _remark(trial, search, chosen), style="bold" if trial is chosen else None)
    show(f"throughput under a backlog; latency at {search.rate or 0:,.0f} events/s")
    out.print(table)
    if settings.guarantee == "exactly-once":
        show(f"latency is until the answer is written; it is visible up to {settings.checkpoint_interval_ms} ms later")
    if search.most_latency_ms is not None and chosen.latency_p99_ms > search.most_latency_ms:
        say(f"no setting had a p99 of {search.most_latency_ms:g} ms or less: this one comes closest", style="yellow")
    if chosen.setting == search.start:
        show("the settings you have are the best of these")
        return
    changed = _changed(search.start, chosen.setting)
    show(f"in {SETTINGS_FILE}:")
    for one, value in changed.items():
        show(f"{one} = {value}")
    show("or in the environment:")
    show(" ".join(f"{ENVIRONMENT_PREFIX}{one.upper()}={value}" for one, value in changed.items()))
    if "shards" in changed:
        say("a savepoint keeps its number of shards: with another one a run begins anew (`millrace run --fresh`)")
    next_steps((f"millrace run {name}", "run with what the file or the environment says"))


def _remark(trial: Trial, search: _Search, chosen: Trial) -> str:
    if trial.problem is not None:
        return f"failed: {trial.problem}"
    marks = ["<- use"] if trial is chosen else []
    if trial.setting == search.start:
        marks.append("now")
    return ", ".join(marks)


def _changed(start: Setting, chosen: Setting) -> Setting:
    return {name: value for name, value in chosen.items() if value != start[name]}


def _document(search: _Search, chosen: Trial, sample: Sample, settings: Settings) -> dict[str, Any]:
    trials: Sequence[Trial] = search.trials
    return {
        "sample": sample.origin,
        "guarantee": settings.guarantee,
        "backlog_events": search.backlog,
        "latency_events_per_s": search.rate,
        "trials": [asdict(trial) for trial in trials],
        "now": search.start,
        "use": chosen.setting,
        "changed": _changed(search.start, chosen.setting),
        "limit_kept": search.most_latency_ms is None or chosen.latency_p99_ms <= search.most_latency_ms,
    }
