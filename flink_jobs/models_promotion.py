"""`millrace models promote|serving`: change the models of a running job, and say which is valid when."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from flink_jobs.backfill_command import time_ms
from flink_jobs.console import CommandError, next_steps, say, show, show_json
from flink_jobs.local.home import connected
from flink_jobs.model_changes import ChangeRefusedError, change_models, planned, serving_of
from flink_jobs.settings import Settings
from models.json_document import ModelRefusedError, ModelUnreachableError
from models.manifest import ModelMismatchError
from udfs.model_schedule import BEGINNING_MS, Period, Schedule, Serving
from udfs.pipeline import Pipeline


def run_promote_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    version: int,
    *,
    at: str | None,
    challengers: Sequence[str],
    shadows: Sequence[int],
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
    try:
        say(f"opening {pipeline.model.name}/{version} here, as the job will")
        serving = serving_of(pipeline, settings, version, shares, shadows)
        changed = change_models(pipeline, settings, serving, at_ms=at_ms, wait_s=wait_s, step=say)
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
    next_steps(
        (f"millrace models serving {name}", "which model is valid when"),
        (f"millrace models promote {name} {pipeline.model.version}", "back to the pipeline's own"),
    )


def run_serving_command(pipeline: Pipeline, name: str, settings: Settings, *, as_json: bool) -> None:
    """Say which model is valid when, as the control topic has it."""
    _check_topic(pipeline, name)
    connected(settings)
    schedule = planned(pipeline, settings)
    if as_json:
        show_json({"pipeline": pipeline.name, "periods": [_document(each) for each in schedule.periods]})
        return
    for line in schedule_lines(schedule):
        show(line)


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
