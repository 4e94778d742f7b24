"""`millrace train`: progress and result of a training."""

from pathlib import Path

from flink_jobs.console import CommandError, bar, next_steps, say, show, show_json
from flink_jobs.training import SHIPPED_EVENTS, SHIPPED_SEED, TrainedReport, train_from_set, train_shipped
from flink_jobs.training_set import LABEL
from udfs.pipeline import Pipeline


def run_train_command(
    pipeline: Pipeline,
    name: str | None = None,
    *,
    training_set: Path | None = None,
    label: str | None = None,
    events_total: int | None = None,
    seed: int = SHIPPED_SEED,
    version: int | None = None,
    root: Path | None = None,
    as_json: bool = False,
    quiet: bool = False,
) -> None:
    """Train and say what came of it; `quiet` keeps stdout free."""
    if training_set is None:
        if label is not None:
            raise CommandError("--label names a column of a training set: give one with --from")
        report = _train_on_shoppers(pipeline, events_total or SHIPPED_EVENTS, seed, version, root)
    else:
        if events_total is not None:
            raise CommandError("--events simulates shoppers, --from reads a training set: give one of them")
        with bar("") as progress:
            progress.add_task(f"fitting on {training_set.name} and checking the model", total=None)
            report = train_from_set(pipeline, training_set, label=label or LABEL, version=version, root=root, seed=seed)
    if quiet:
        say(f"trained {pipeline.model.name}/{report.version} on {report.rows:,} events")
        return
    if as_json:
        found = {"version": report.version, "folder": str(report.folder), "rows": report.rows}
        show_json({**found, "metrics": report.metrics})
        return
    show(f"trained {pipeline.model.name}/{report.version} on {report.rows:,} events: {report.folder}")
    for who, numbers in report.metrics.items():
        if isinstance(numbers, dict):
            shown = ", ".join(f"{key} {_number_text(value)}" for key, value in numbers.items() if _is_number(value))
            show(f"  {who}: {shown}")
    if report.version == pipeline.model.version:
        next_steps((f"millrace run {name or pipeline.name}", "score with it"))
    else:
        next_steps((f"Model({pipeline.model.name!r}, version={report.version})", "write this in the pipeline"))


def _train_on_shoppers(
    pipeline: Pipeline, events_total: int, seed: int, version: int | None, root: Path | None
) -> TrainedReport:
    with bar("events") as progress:
        task = progress.add_task("simulating shoppers", total=events_total)

        def advance(events: int) -> None:
            text = "computing features" if events < events_total else "fitting and checking the model"
            progress.update(task, completed=events, description=text)

        return train_shipped(
            pipeline, events_total=events_total, seed=seed, version=version, root=root, progress=advance
        )


def _number_text(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
