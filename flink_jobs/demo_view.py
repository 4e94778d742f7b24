"""How the demo looks: a live panel on a terminal, lines elsewhere, and the summary."""

import time
from types import TracebackType
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from flink_jobs.console import err, out, say
from flink_jobs.demo import DemoReport, Snapshot
from flink_jobs.pipelines import model_folder
from flink_jobs.settings import Settings
from models.manifest import MANIFEST_FILE, Manifest
from udfs.pipeline import Pipeline

LINE_EVERY_S = 2.0


class LineView:
    """Lines on stderr: for `--json`, for logs, for a terminal that cannot move its cursor."""

    def __init__(self) -> None:
        self._next_line = 0.0

    def __enter__(self) -> "LineView":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def step(self, text: str) -> None:
        """Something that takes a while begins."""
        say(f"- {text}")

    def update(self, snapshot: Snapshot) -> None:
        """A line every two seconds."""
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_S
            say(
                f"  {snapshot.produced:,} of {snapshot.events_total:,} events sent ({snapshot.produced_per_s:,.0f}/s), "
                f"{snapshot.predictions:,} predictions committed ({snapshot.predictions_per_s:,.0f}/s), "
                f"{snapshot.dead_letters} dead letters, lag {snapshot.lag:,}, job {snapshot.job_status}"
            )


class PanelView:
    """A panel that is drawn anew while events flow; the steps stay above it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._step = ""
        self._snapshot: Snapshot | None = None
        self._spinner = Spinner("dots")
        self._live = Live(get_renderable=self._draw, console=err, refresh_per_second=8, transient=True)

    def __enter__(self) -> "PanelView":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def step(self, text: str) -> None:
        """Something that takes a while begins."""
        if self._step:
            self._live.console.print(Text.assemble(("✓ ", "green"), self._step))
        self._step = text

    def update(self, snapshot: Snapshot) -> None:
        """Shown with the next drawing."""
        self._snapshot = snapshot

    def _draw(self) -> RenderableType:
        self._spinner.update(text=self._step)
        return Group(self._spinner, _panel(self._pipeline, self._snapshot)) if self._snapshot else self._spinner


def _panel(pipeline: Pipeline, shown: Snapshot) -> Panel:
    numbers = Table.grid(padding=(0, 2))
    numbers.add_column(style="bold")
    numbers.add_column(justify="right")
    numbers.add_column(justify="right")
    numbers.add_column(style="dim")
    rows = [
        ("events sent", f"{shown.produced:,}", f"{shown.produced_per_s:,.0f}/s", f"of {shown.events_total:,}"),
        ("predictions", f"{shown.predictions:,}", f"{shown.predictions_per_s:,.0f}/s", "committed: visible to others"),
        ("lag", f"{shown.lag:,}", "", "sent, but no committed answer yet"),
        ("dead letters", f"{shown.dead_letters:,}", "", _reasons(shown.reasons)),
        ("job", shown.job_status, "", f"{shown.checkpoints} checkpoints; each commits what came before it"),
    ]
    for row in rows:
        numbers.add_row(*row)
    latest = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", title="latest predictions", title_style="dim")
    for name in (pipeline.events.entity, pipeline.outputs.names[0], "", "from event"):
        latest.add_column(name, no_wrap=True)
    for seen in reversed(shown.latest):
        score = float(seen.value[pipeline.outputs.names[0]])
        source = f"{seen.receipt.get('topic')}-{seen.receipt.get('partition')}@{seen.receipt.get('offset')}"
        bar = "█" * round(score * 20)
        latest.add_row(str(seen.value.get(pipeline.events.entity)), f"{score:.4f}", Text(bar, "cyan"), source)
    return Panel(Group(numbers, Text(), latest), title=f"millrace demo: {pipeline.name}", expand=False)


def show_summary(report: DemoReport, pipeline: Pipeline, settings: Settings, *, kept: bool) -> None:
    """What happened, and where to look next; on stdout."""
    balance = report.balance
    verdict = (
        Text(f"{balance.produced:,} events, each with exactly one answer", "bold green")
        if balance.holds
        else Text(f"{balance.produced:,} events, and NOT exactly one right answer for each", "bold red")
    )
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    for row in _rows(report, pipeline, settings):
        table.add_row(*row)
    out.print(Panel(Group(verdict, Text(), table), title="summary", expand=False))
    for problem in balance.unexpected[:5]:
        say(f"  {problem}", style="red")
    out.print("look next:", style="bold")
    for command, purpose in _look_next(report, pipeline, kept):
        out.print(f"  {command:<44} {purpose}", soft_wrap=True, markup=False)


def _rows(report: DemoReport, pipeline: Pipeline, settings: Settings) -> list[tuple[str, str, str]]:
    balance, events = report.balance, pipeline.events
    interval = f"{settings.checkpoint_interval_ms / 1000:g} s"
    rows = [
        ("produced", f"{balance.produced:,}", f"records in topic {events.topic}, {events.partitions} partitions"),
        ("predictions", f"{balance.predictions:,}", f"committed in {pipeline.predictions}"),
        ("missing", f"{balance.missing:,}", "events without an answer"),
        ("duplicated", f"{balance.duplicated:,}", "events answered more than once"),
        ("dead letters", f"{balance.dead_letters:,}", _dead_letter_text(report)),
    ]
    if report.latency_p50_ms is not None and report.latency_p99_ms is not None:
        latency = f"{report.latency_p50_ms:,.0f} / {report.latency_p99_ms:,.0f} ms"
        if settings.guarantee == "exactly-once":
            why = f"p50 / p99 from sent to visible; the next checkpoint (every {interval}) is the floor"
        else:
            why = "p50 / p99 from sent to visible; at-least-once does not wait for checkpoints"
        rows.append(("latency", latency, why))
    if report.first_prediction_s is not None:
        rows.append(("first prediction", f"{report.first_prediction_s:.1f} s", "after the command began"))
    rows.append(("model", f"{pipeline.model.name}/{pipeline.model.version}", _model_text(pipeline)))
    rows.append(("features", str(len(pipeline.feature_names)), f"for each {events.entity}: {_some_features(pipeline)}"))
    return rows


def _dead_letter_text(report: DemoReport) -> str:
    balance = report.balance
    if not balance.dead_letters:
        return "no broken records were among the events"
    right = "" if balance.unexpected else "; broken on purpose, each refused for the right reason"
    return f"{_reasons(balance.dead_letter_reasons)}{right}"


def _reasons(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))


def _model_text(pipeline: Pipeline) -> str:
    metrics: Any = Manifest.from_json((model_folder(pipeline) / MANIFEST_FILE).read_bytes()).metrics
    model, baseline = metrics.get("model", {}), metrics.get("baseline", {})
    if "auc" not in model:
        return str(model_folder(pipeline))
    beside = f"; a simple rule gets {baseline['auc']:.3f}" if "auc" in baseline else ""
    return f"AUC {model['auc']:.3f} on shoppers it was not trained on{beside}"


def _some_features(pipeline: Pipeline) -> str:
    names = pipeline.feature_names
    return ", ".join(names[-3:]) if len(names) <= 3 else f"{', '.join(names[-3:])}, …"


def _look_next(report: DemoReport, pipeline: Pipeline, kept: bool) -> list[tuple[str, str]]:
    name = pipeline.name
    described = (f"millrace describe {name}", "every feature, its window and what is kept for it")
    if kept:
        home = f"MILLRACE_HOME={report.home}"
        return [
            (
                f"{home} millrace watch {name} --from-start",
                f"the predictions at {report.bootstrap}",
            ),
            (f"{home} millrace down", "ends the broker"),
            described,
        ]
    return [
        described,
        ("flink_jobs/pipelines/purchase.py", "the definition: all you write for a pipeline of your own"),
        (f"millrace up && millrace topics create {name}", "a Kafka broker that stays"),
        (f"millrace produce {name} --rate 1000", "shoppers, until Ctrl-C"),
        (f"millrace run {name}", "the job, in a second terminal"),
        (f"millrace watch {name}", "its predictions, in a third"),
    ]
