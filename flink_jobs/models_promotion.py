"""`millrace models promote|serving`: change the models of a running job, and say which is valid when."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from flink_jobs.backfill_command import time_ms
from flink_jobs.console import CommandError, next_steps, say, show, show_json
from flink_jobs.local.home import connected
from flink_jobs.model_changes import ChangeRefusedError, change_models, planned_and_rolled_back, serving_of
from flink_jobs.settings import Settings
from models.json_document import ModelRefusedError, ModelUnreachableError
from models.manifest import ModelMismatchError
from models.outputs import Number
from udfs.model_schedule import BEGINNING_MS, Guard, Period, Schedule, Serving
from udfs.pipeline import Pipeline

_GUARD_PARTS = {"events": "events", "failed": "failed_share", "us": "us_per_row", "psi": "psi"}
_GUARD_HELP = "write at least one of failed=SHARE, us=MICROSECONDS and psi=INDEX, and events=NUMBER (1,000)"


def run_promote_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    version: int,
    *,
    at: str | None,
    challengers: Sequence[str],
    shadows: Sequence[int],
    guard: str | None,
    wait_s: float,
    as_json: bool,
) -> None:
    """Have the running job score with a version from an event time on.

    Raises:
        CommandError: It cannot be, or a subtask of the job refused it.
    """
    _check_topic(pipeline, name)
    connected(settings)
    at_ms = None if at is None else time_ms(at, "--at")
    shares = [_share(each) for each in challengers]
    limits = None if guard is None else parse_guard(guard)
    if limits is not None and limits.psi is not None and not any(isinstance(e, Number) for e in pipeline.outputs.each):
        raise CommandError(f"--guard: psi is of numbers, and the prediction has {pipeline.outputs.text}")
    try:
        say(f"opening {pipeline.model.name}/{version} here, as the job will")
        serving = serving_of(pipeline, settings, version, shares, shadows)
        changed = change_models(pipeline, settings, serving, at_ms=at_ms, guard=limits, wait_s=wait_s, step=say)
    except (ChangeRefusedError, ModelRefusedError, ModelMismatchError, ModelUnreachableError) as error:
        raise CommandError(str(error)) from error
    ready = [each for each in changed.answers if each.state == "ready"]
    late_ms = changed.late_until_ms
    if as_json:
        show_json({
            "serving": msgspec.to_builtins(serving),
            "from_ms": changed.from_ms,
            "late_until_ms": late_ms,
            "answers": msgspec.to_builtins(changed.answers),
        })
        return
    show(f"{_words(serving)} from {_moment(changed.from_ms)} (event time) on", style="bold")
    slowest = max(ready, key=lambda each: each.load_ms)
    show(
        f"{len(ready)} subtasks opened it within {slowest.load_ms:,.0f} ms beside the one that scores; "
        f"a batch of {slowest.rows} rows takes {max(each.batch_ms for each in ready):.2f} ms"
    )
    if late_ms is not None:
        show(f"events from then to {_moment(late_ms)} had been scored already, by the model before")
    if limits is not None:
        show(f"the job goes back by itself if, of the first {limits.events:,} events in a subtask, {_limits(limits)}")
    next_steps(
        (f"millrace models serving {name}", "which model is valid when"),
        (f"millrace models promote {name} {pipeline.model.version}", "back to the pipeline's own"),
    )


def run_serving_command(pipeline: Pipeline, name: str, settings: Settings, *, as_json: bool) -> None:
    """Say which model is valid when, as the control topic has it."""
    _check_topic(pipeline, name)
    connected(settings)
    schedule, rollbacks = planned_and_rolled_back(pipeline, settings)
    if as_json:
        show_json({
            "pipeline": pipeline.name,
            "periods": [_document(each) for each in schedule.periods],
            "rolled_back": [
                {"from_ms": each.from_ms, "at_ms": each.asked_at_ms, "why": each.why} for each in rollbacks
            ],
        })
        return
    for line in schedule_lines(schedule):
        show(line)
    for each in rollbacks:
        show(f"rolled back at {_moment(each.asked_at_ms)}: {each.why}", style="yellow")


def parse_guard(text: str) -> Guard:
    """Limits as the command line has them, like failed=0.01,psi=0.25,us=200,events=1000.

    Raises:
        CommandError: They are none.
    """
    parts = dict[str, float]()
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            parts[_GUARD_PARTS[name.strip()]] = float(number)
        except (KeyError, ValueError):
            raise CommandError(f"--guard: {part!r} is no limit: {_GUARD_HELP}") from None
    events = parts.pop("events", 1_000.0)
    if not parts or events < 1 or events % 1 or not all(0 <= each < math.inf for each in parts.values()):
        raise CommandError(f"--guard is {text!r}: {_GUARD_HELP}")
    return Guard(int(events), **parts)


def _limits(guard: Guard) -> str:
    parts = []
    if guard.failed_share is not None:
        parts.append(f"more than {guard.failed_share:.4g} have no score")
    if guard.us_per_row is not None:
        parts.append(f"one takes more than {guard.us_per_row:g} us on average")
    if guard.psi is not None:
        parts.append(f"the scores are shifted by a PSI over {guard.psi:g}")
    return " or ".join(parts)


def schedule_lines(schedule: Schedule) -> list[str]:
    """A line for each period, the newest last."""
    return [
        f"{'from the beginning' if each.from_ms == BEGINNING_MS else f'from {_moment(each.from_ms)}':<32}"
        f"{_words(each.serving)}"
        for each in schedule.periods
    ]


def _document(period: Period) -> dict[str, Any]:
    from_ms = None if period.from_ms == BEGINNING_MS else period.from_ms
    return {"from_ms": from_ms, **msgspec.to_builtins(period.serving)}


def _words(serving: Serving) -> str:
    parts = [str(serving.champion)]
    parts += [f"{each.model} for {each.share:.4g} of the entities" for each in serving.challengers]
    parts += [f"{each} as a shadow" for each in serving.shadows]
    return ", ".join(parts)


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1e3, UTC).isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")


def _share(text: str) -> tuple[int, float]:
    version, _, share = text.partition("=")
    try:
        return int(version), float(share)
    except ValueError:
        raise CommandError(f"--challenger is {text!r}: write a version and its share, like 8=0.1") from None


def _check_topic(pipeline: Pipeline, name: str) -> None:
    if pipeline.models_topic is None:
        raise CommandError(
            f"{pipeline.name} has no control topic: write Pipeline(..., models_topic='{pipeline.name}-models'), "
            f"`millrace topics create {name}`, and start its job once more"
        )
