"""The demo: a broker of its own, live shopping events, the scoring job, and an account of every single event.

In: how many events at what rate. Out: a `DemoReport`. Whoever shows it gets a `DemoView` told about every step.
"""

import contextlib
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from flink_jobs.committed_reader import read_all
from flink_jobs.console import CommandError
from flink_jobs.demo_traffic import Sender, Watcher
from flink_jobs.job_run import JobRun, start_job
from flink_jobs.job_session import wait_until_running
from flink_jobs.kafka_admin import create_topics
from flink_jobs.local.broker import Broker
from flink_jobs.local.home import broker_folder
from flink_jobs.local.live_shop import live_events, some_broken_records, with_broken
from flink_jobs.preflight import preflight
from flink_jobs.reconciliation import Balance, Ledger, Record
from flink_jobs.settings import Settings
from flink_jobs.topics import topic_specs, topics_of
from flink_jobs.watch import SeenPrediction
from udfs.pipeline import Pipeline

OPENING_EVENTS = 50  # sent first, so that latency is not that of processes which are still starting
SILENCE_S = 120.0
LOOP_S = 0.1
STATUS_S = 1.0
RATE_WINDOW_S = 3.0
SEED = 20_26


class DemoError(CommandError):
    """The demo did not come to its end."""


@dataclass
class Snapshot:
    """What the view shows while events flow."""

    events_total: int
    produced: int = 0
    predictions: int = 0
    dead_letters: int = 0
    produced_per_s: float = 0.0
    predictions_per_s: float = 0.0
    job_status: str = "STARTING"
    checkpoints: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    latest: list[SeenPrediction] = field(default_factory=list)

    @property
    def lag(self) -> int:
        """Events that have no committed answer yet."""
        return max(0, self.produced - self.predictions - self.dead_letters)


@dataclass(frozen=True)
class DemoReport:
    """What happened, counted after the job had ended."""

    balance: Balance
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    first_prediction_s: float | None
    bootstrap: str
    home: Path

    def as_json(self) -> dict[str, Any]:
        """The one object that `--json` prints."""
        balance = self.balance
        return {
            "produced": balance.produced,
            "predictions": balance.predictions,
            "missing": balance.missing,
            "duplicated": balance.duplicated,
            "dead_letters": balance.dead_letters,
            "dead_letter_reasons": balance.dead_letter_reasons,
            "unexpected": list(balance.unexpected),
            "latency_p50_ms": self.latency_p50_ms,
            "latency_p99_ms": self.latency_p99_ms,
            "first_prediction_s": self.first_prediction_s,
        }


class DemoView(Protocol):
    """Who shows the demo."""

    def step(self, text: str) -> None:
        """Something that takes a while begins."""

    def update(self, snapshot: Snapshot) -> None:
        """Events flow."""


def run_demo(
    pipeline: Pipeline,
    settings: Settings,
    view: DemoView,
    *,
    events_total: int,
    rate: float,
    keep: bool = False,
    should_stop: Callable[[], None] = lambda: None,
) -> DemoReport:
    """Run the demo to its end.

    Args:
        pipeline: The shipped one.
        settings: How to run the job; the demo has a home, a broker and checkpoints of its own below `settings.home`.
        view: Told what happens.
        events_total: Records to send, broken ones included.
        rate: Records a second.
        keep: Leave the broker running and its folder in place.
        should_stop: Called often; raises to end the demo early, and nothing is left behind.
    """
    started = time.monotonic()
    settings.home.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="demo-", dir=settings.home)).absolute()
    with _own_broker(settings.model_copy(update={"home": home}), view, keep) as broker:
        own: dict[str, Any] = {"home": home, "checkpoint_folder": None, "bootstrap": broker.bootstrap}
        demo = _Demo(pipeline, settings.model_copy(update=own), view, events_total, rate, should_stop, started)
        should_stop()
        create_topics(broker.bootstrap, topic_specs(pipeline))
        preflight(pipeline, demo.settings)
        return demo.run()


@contextlib.contextmanager
def _own_broker(settings: Settings, view: DemoView, keep: bool) -> Iterator[Broker]:
    """The demo's broker; afterwards it is gone with all it wrote, but for the logs if something failed."""
    view.step("starting a Kafka broker")
    succeeded = False
    broker = None
    try:
        broker = Broker.start(broker_folder(settings), die_with_parent=not keep)
        yield broker
        succeeded = True
    finally:
        if broker is not None and not (keep and succeeded):
            broker.stop()
        if not keep:
            home = settings.home
            for folder in (home,) if succeeded else (broker_folder(settings) / "data", home / "checkpoints"):
                shutil.rmtree(folder, ignore_errors=True)


class _Demo:
    """One run on a broker that is there."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        view: DemoView,
        events_total: int,
        rate: float,
        should_stop: Callable[[], None],
        started: float,
    ) -> None:
        self.pipeline, self.settings, self.view = pipeline, settings, view
        self.rate, self.should_stop, self.started = rate, should_stop, started
        broken = some_broken_records(events_total, pipeline, SEED)
        self.records = with_broken(live_events(rate, SEED), broken, events_total)
        self.broken: dict[Record, str] = {(each.key, each.value): each.reason for each in broken}
        self.watcher = Watcher(pipeline, settings, self.broken)
        self.snapshot = Snapshot(events_total)
        self.history: deque[tuple[float, int, int]] = deque()
        self.progress_at = self.status_at = 0.0
        self.answered = 0

    def run(self) -> DemoReport:
        self.view.step("starting the scoring job in a Flink mini-cluster (about 15 s)")
        job = start_job(self.pipeline, self.settings)
        try:
            wait_until_running(job, self.should_stop)
            self.view.step("the job runs; sending the first events")
            self.watcher.start()
            steady_from_ms = self._stream(job)
            self.view.step("all answered; stopping the job with a savepoint")
            job.stop()
        except BaseException:
            with contextlib.suppress(Exception):
                job.cancel()
            raise
        finally:
            self.watcher.stop()
        self.view.step("counting again from the start, with a fresh read_committed reader")
        return self._report(steady_from_ms)

    def _stream(self, job: JobRun) -> int:
        """Send everything and wait for the answers; returns when latency began to be that of a warm job."""
        opening = list(islice(self.records, OPENING_EVENTS))
        sender = Sender(self.settings, self.pipeline.events.topic)
        sender.send(iter(opening), None)
        self._wait(job, sender, len(opening))
        steady_from_ms = time.time_ns() // 1_000_000
        sender.send(self.records, self.rate)
        try:
            self._wait(job, sender, self.snapshot.events_total)
        finally:
            sender.stop()
        return steady_from_ms

    def _wait(self, job: JobRun, sender: Sender, answers: int) -> None:
        self.progress_at = time.monotonic()
        while self.answered < answers or sender.running:
            self.should_stop()
            sender.raise_if_failed()
            self.watcher.raise_if_failed()
            self._look(job, sender)
            time.sleep(LOOP_S)
        self._look(job, sender)

    def _look(self, job: JobRun, sender: Sender) -> None:
        now, ledger, shown = time.monotonic(), self.watcher.ledger, self.snapshot
        shown.produced, shown.predictions = sender.sent, len(ledger.predicted_at_ms)
        shown.dead_letters, shown.reasons = len(ledger.refused), _counted(ledger)
        shown.latest = list(self.watcher.latest)
        if (answered := shown.predictions + shown.dead_letters) > self.answered:
            self.answered, self.progress_at = answered, now
        if now - self.status_at > STATUS_S:
            self.status_at = now
            job.raise_if_ended()
            shown.job_status, shown.checkpoints = job.status(), job.checkpoints().completed
        if now - self.progress_at > SILENCE_S:
            cause = job.failure() or "the job names no failure"
            raise DemoError(f"no answer for {SILENCE_S:g} s at {self.answered} of {shown.produced} events: {cause}")
        self.history.append((now, shown.produced, shown.predictions))
        while now - self.history[0][0] > RATE_WINDOW_S:
            self.history.popleft()
        then, produced, predictions = self.history[0]
        if now > then:
            shown.produced_per_s = (shown.produced - produced) / (now - then)
            shown.predictions_per_s = (shown.predictions - predictions) / (now - then)
        self.view.update(shown)

    def _report(self, steady_from_ms: int) -> DemoReport:
        audit = Ledger(self.pipeline, self.broken)
        for message in read_all(self.settings.bootstrap, topics_of(self.pipeline), self.settings.kafka_properties):
            audit.add(message, 0)
        latencies = self.watcher.ledger.latencies_ms(steady_from_ms)
        p50, p99 = np.percentile(latencies, [50, 99]).round(1).tolist() if len(latencies) else (None, None)
        first = self.watcher.first_prediction
        return DemoReport(
            audit.balance(),
            p50,
            p99,
            None if first is None else round(first - self.started, 2),
            self.settings.bootstrap,
            self.settings.home,
        )


def _counted(ledger: Ledger) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reason in list(ledger.refused.values()):
        counts[reason] = counts.get(reason, 0) + 1
    return counts
