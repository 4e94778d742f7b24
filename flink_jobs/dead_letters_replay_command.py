"""`millrace dead-letters replay`: what would be fed again and what not, the question, the replay."""

import sys
import time

import typer

from flink_jobs.console import CommandError, next_steps, say, show, show_json
from flink_jobs.dead_letters import Wanted
from flink_jobs.dead_letters_command import reading
from flink_jobs.dead_letters_plan import COUNTED, REFUSED, ReplayPlan, plan_replay
from flink_jobs.dead_letters_reading import LetterBox, open_letter_box
from flink_jobs.dead_letters_replay import Replay, replay
from flink_jobs.kafka_admin import retention_ms
from flink_jobs.local.home import connected
from flink_jobs.settings import Settings
from udfs.pipeline import Pipeline

_OPTIONS = {REFUSED: "--also-refused feeds them all the same", COUNTED: "--also-counted feeds them all the same"}


def run_replay_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    wanted: Wanted,
    *,
    also_refused: bool,
    also_counted: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Feed them to the events topic, once."""
    if not dry_run and not yes and (as_json or not sys.stdin.isatty()):
        raise CommandError("replay asks before it does anything: give --yes where nobody can answer, or --dry-run")
    connected(settings)
    box = open_letter_box(pipeline, settings)
    with reading(f"reading {box.topic}") as looked:
        plan = plan_replay(box, wanted, also_refused=also_refused, also_counted=also_counted, looked=looked)
    if not as_json:
        _show_plan(plan, pipeline)
        _warn_of_retention(plan, pipeline, settings)
    done = Replay()
    if plan.records and not dry_run:
        if not yes and not typer.confirm(f"feed {len(plan.records):,} records to {_target(pipeline)}?", err=True):
            say("nothing was fed")
            raise typer.Exit(1)
        done = _replay(box, plan)
    if as_json:
        show_json({"pipeline": pipeline.name, "dry_run": dry_run, "planned": len(plan.records),
                   "by_reason": dict(plan.reasons), "left_out": dict(plan.left_out), **vars(done)})  # fmt: skip
        return
    _show_done(done, name, pipeline, planned=bool(plan.records), dry_run=dry_run)


def _replay(box: LetterBox, plan: ReplayPlan) -> Replay:
    with reading(f"feeding {_target(box.pipeline)}") as looked:
        looked(0, len(plan.records))
        try:
            return replay(box, plan, lambda done: looked(done, len(plan.records)))
        except KeyboardInterrupt:
            say("what was fed so far is marked; the same command goes on with the rest")
            raise


def _target(pipeline: Pipeline) -> str:
    """Where records go: those that were refused on their way from a source, there."""
    events = pipeline.events
    return f"{events.topic} and its sources" if events.sources else events.topic


def _show_plan(plan: ReplayPlan, pipeline: Pipeline) -> None:
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in plan.reasons.most_common())
    show(f"{len(plan.records):,} records to feed to {_target(pipeline)}{f': {reasons}' if reasons else ''}")
    for why, count in plan.left_out.most_common():
        option = f" ({_OPTIONS[why]})" if why in _OPTIONS else ""
        show(f"{count:,} left out: {why}{option}")


def _warn_of_retention(plan: ReplayPlan, pipeline: Pipeline, settings: Settings) -> None:
    """Kafka deletes by a record's own timestamp, which a record that is fed again has from then."""
    kept_ms = retention_ms(settings.bootstrap, pipeline.events.topic, settings.kafka_properties)
    oldest_ms = time.time_ns() // 1_000_000 - kept_ms
    old = sum(record.time_ms < oldest_ms for record in plan.records)
    if kept_ms >= 0 and old:
        say(
            f"{old:,} came longer ago than {pipeline.events.topic} keeps records: have the job run meanwhile, or Kafka "
            "may delete them again before they are read",
            style="yellow",
        )


def _show_done(done: Replay, name: str, pipeline: Pipeline, *, planned: bool, dry_run: bool) -> None:
    if dry_run or not planned:
        say("nothing was fed")
        return
    show(f"{done.replayed:,} records fed to {_target(pipeline)}, and marked as replayed")
    if done.meanwhile:
        show(f"{done.meanwhile:,} had been replayed by another command meanwhile")
    if done.gone:
        show(f"{done.gone:,} were deleted meanwhile", style="yellow")
    next_steps(
        (f"millrace run {name}", "scores them, each as of its event time, if no job is running"),
        (f"millrace dead-letters ls {name} --unreplayed", "those that failed again say so"),
    )
