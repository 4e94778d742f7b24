"""`millrace train`: progress and result of a training."""

from pathlib import Path

from flink_jobs.console import bar, next_steps, say, show, show_json
from flink_jobs.training import SHIPPED_EVENTS, SHIPPED_SEED, train_shipped
from udfs.pipeline import Pipeline


def run_train_command(
    pipeline: Pipeline,
    *,
    events_total: int = SHIPPED_EVENTS,
    seed: int = SHIPPED_SEED,
    version: int | None = None,
    root: Path | None = None,
    as_json: bool = False,
    quiet: bool = False,
) -> None:
    """Train and say what came of it; `quiet` keeps stdout free."""
    with bar("events") as progress:
        task = progress.add_task("simulating shoppers", total=events_total)

        def advance(events: int) -> None:
            text = "computing features" if events < events_total else "fitting and checking the model"
            progress.update(task, completed=events, description=text)

        report = train_shipped(
            pipeline, events_total=events_total, seed=seed, version=version, root=root, progress=advance
        )
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
            show(f"  {who}: {', '.join(f'{name} {value:.4g}' for name, value in numbers.items() if _is_number(value))}")
    if report.version == pipeline.model.version:
        next_steps((f"millrace run {pipeline.name}", "score with it"))
    else:
        next_steps((f"Model({pipeline.model.name!r}, version={report.version})", "write this in the pipeline"))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
