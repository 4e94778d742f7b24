"""`millrace certify` without its words: a pipeline on a cluster, under load and faults, held against an oracle."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flink_jobs.certify_faults import FAULTS, FaultError, Lab
from flink_jobs.certify_readers import CommitWatch, EntityOrder, LiveReader, wait_for_answers
from flink_jobs.certify_report import CertifyReport, FaultReport
from flink_jobs.committed_reader import read_all
from flink_jobs.demo_traffic import Sender
from flink_jobs.first_checkpoint import START_S, wait_until_it_works
from flink_jobs.job_run import JobRun
from flink_jobs.kafka_admin import create_topics, topic_ends
from flink_jobs.local.broker import Broker
from flink_jobs.local.cluster import LocalCluster
from flink_jobs.lost_commits import lost_commits, refused_commits
from flink_jobs.parity_comparison import Side, compare
from flink_jobs.parity_engines import EngineRun, by_oracle, said_by_job
from flink_jobs.parity_rows import EngineRows, ParityInput, Record, spool_input
from flink_jobs.reconciliation import Ledger
from flink_jobs.settings import Settings
from flink_jobs.submission import submit_job
from flink_jobs.topics import group_id, sink_ids, topic_specs
from flink_jobs.transactions import blocked_partitions, open_transactions
from udfs.pipeline import Pipeline

RECOVERY_S = 240.0
QUIET_S = (1.0, 4.0)
"""Between a recovery and the next fault."""
CATCH_UP_S = 300.0
Step = Callable[[str], None]


@dataclass(frozen=True)
class CertifyPlan:
    """What is asked for.

    Attributes:
        pipeline: Its features in its predictions, topics that nobody else writes to.
        reference: As `load_pipeline` took it.
        records: Without end; key, value, and the reason for which a record must be refused, if known.
        records_text: Says to people what they are.
        events: Fewest to send; more are sent while faults happen.
        rate: Events a second.
        faults: Names of `FAULTS`.
        times: How often each.
        seed: Of their order and moments.
        freeze_s: How long a frozen broker stays so.
        full_s: How long the disk stays full.
    """

    pipeline: Pipeline
    reference: str
    records: Iterator[tuple[bytes | None, bytes | None, str | None]]
    records_text: str
    events: int
    rate: float
    faults: Sequence[str]
    times: int
    seed: int
    freeze_s: float
    full_s: float


def run_certify(
    plan: CertifyPlan,
    settings: Settings,
    broker: Broker,
    folder: Path,
    *,
    processes: int,
    step: Step,
    should_stop: Callable[[], None],
) -> CertifyReport:
    """Run the pipeline under faults, and check every answer.

    Args:
        plan: What is asked for.
        settings: How the job runs; its home is a folder of this run.
        broker: Of this run.
        folder: For all that is made.
        processes: How many may work for the oracle.
        step: Told what happens.
        should_stop: Called often; raises to end.

    Raises:
        JobFailedError: The job did not start.
        FaultError: A fault could not be made.
    """
    chance = random.Random(plan.seed)  # noqa: S311  # an order of faults, no secret
    create_topics(settings.bootstrap, topic_specs(plan.pipeline))
    step("starting a Flink cluster of two TaskManagers")
    slots = -(-settings.parallelism // 2)
    cluster = LocalCluster.start(settings.home / "cluster", taskmanagers=2, slots=slots, die_with_parent=True)
    lab = Lab(broker, cluster, None, chance, plan.freeze_s, plan.full_s)  # type: ignore[arg-type]  # set below
    try:
        step("submitting the job")
        lab.job = submit_job(plan.pipeline, plan.reference, settings)
        wait_until_it_works(lab.job, START_S)
        reasons: dict[Record, str] = {}
        sender, reader = Sender(settings, plan.pipeline.events.topic), LiveReader(plan.pipeline, settings)
        watch = CommitWatch(lab.job)
        try:
            reader.start()
            watch.start()
            done = threading.Event()
            enough = lambda: done.is_set() and sender.sent >= plan.events  # noqa: E731
            sender.send(_noted(plan.records, reasons, enough), plan.rate)
            began = time.time()
            faults = _make_faults(plan, lab, reader, chance, step, should_stop, began)
            done.set()
            _wait_for_sender(sender, plan, step, should_stop)
            step("waiting until everything is answered")
            caught_up = _caught_up(lab.job)
            step("stopping the job with a savepoint")
            if caught_up:
                lab.job.stop()
            lost = lost_commits(settings, refused_commits(lab.job.rest.cluster, sink_ids(plan.pipeline)))
        finally:
            for each in (sender, watch, reader):
                each.stop()
        for each in (sender, watch, reader):
            each.raise_if_failed()
        elapsed_s = time.time() - began
    finally:
        lab.cluster.stop(wait_s=10.0)
    step("counting with a fresh read_committed reader, and comparing every feature with the oracle")
    commits = watch.refused, len(lost)
    return _report(plan, settings, folder, faults, reasons, reader, commits, elapsed_s, processes, should_stop)


def _noted(
    records: Iterator[tuple[bytes | None, bytes | None, str | None]],
    reasons: dict[Record, str],
    is_done: Callable[[], bool],
) -> Iterator[Record]:
    for key, value, reason in records:
        if is_done():
            return
        if reason is not None:
            reasons[key, value] = reason
        yield key, value


def _make_faults(
    plan: CertifyPlan,
    lab: Lab,
    reader: LiveReader,
    chance: random.Random,
    step: Step,
    should_stop: Callable[[], None],
    began: float,
) -> list[FaultReport]:
    names = list(plan.faults) * plan.times
    chance.shuffle(names)
    made: list[FaultReport] = []
    if wait_for_answers(reader, int(began * 1_000), RECOVERY_S) is None:
        raise FaultError(f"no answer within {RECOVERY_S:g} s, before any fault: {_cause(lab.job)}")
    for number, name in enumerate(names, 1):
        _wait_for_checkpoint(lab.job)
        _sleep(chance.uniform(*QUIET_S), should_stop)
        detail = FAULTS[name](lab)
        at = lab.struck_at
        recovery_s = wait_for_answers(reader, int(at * 1_000), RECOVERY_S)
        rounded = None if recovery_s is None else round(recovery_s, 1)
        made.append(FaultReport(name, round(at - began, 1), rounded, detail))
        after = f"answers again after {recovery_s:.1f} s" if recovery_s else f"no answer within {RECOVERY_S:g} s"
        step(f"{number} of {len(names)}: {name} ({detail}): {after}")
        if recovery_s is None:
            step(f"giving up: {_cause(lab.job)}")
            break
    return made


def _cause(job: JobRun) -> str:
    return job.failure() or "the job names no failure"


def _wait_for_checkpoint(job: JobRun, timeout_s: float = 60.0) -> None:
    """Until one that began from now on is complete: the next fault strikes a job that works."""
    now_ms, deadline = time.time() * 1_000, time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if job.has_checkpoint_since(now_ms):
            return
        time.sleep(0.1)


def _sleep(seconds: float, should_stop: Callable[[], None]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        should_stop()
        time.sleep(0.05)


def _wait_for_sender(sender: Sender, plan: CertifyPlan, step: Step, should_stop: Callable[[], None]) -> None:
    if sender.running:
        step(f"sending on until {plan.events:,} events are there ({sender.sent:,} so far)")
    while sender.running:
        should_stop()
        time.sleep(0.1)


def _caught_up(job: JobRun) -> bool:
    """Wait until the job answered everything; False if it does not get there."""
    deadline = time.monotonic() + CATCH_UP_S

    def give_up(_done: int, _total: int) -> None:
        if time.monotonic() > deadline:
            raise TimeoutError

    try:
        job.wait_until_caught_up(give_up)
    except TimeoutError:
        return False
    return True


def _report(
    plan: CertifyPlan,
    settings: Settings,
    folder: Path,
    faults: list[FaultReport],
    reasons: dict[Record, str],
    reader: LiveReader,
    commits: tuple[int, int],
    elapsed_s: float,
    processes: int,
    should_stop: Callable[[], None],
) -> CertifyReport:
    pipeline, place = plan.pipeline, settings.bootstrap
    ledger, order = Ledger(pipeline, reasons), EntityOrder(pipeline)
    answers = [pipeline.predictions, str(pipeline.dead_letters)]
    for message in read_all(place, [pipeline.events.topic, *answers]):
        ledger.add(message, 0)
        order.add(message)
    balance, live = ledger.balance(), reader.ledger.balance()
    given = spool_input(
        pipeline, place, folder, topic_ends(place, pipeline.events.topic), settings.shards, reasons, plan.records_text
    )
    compared, differences, first = _compare(given, settings, processes, should_stop)
    blocked = sum(each.waiting for each in blocked_partitions(settings, answers))
    still_open = open_transactions(settings, group_id(pipeline))
    return CertifyReport(
        pipeline=pipeline.name,
        records=plan.records_text,
        rate=plan.rate,
        seed=plan.seed,
        elapsed_s=round(elapsed_s, 1),
        events=balance.produced,
        predictions=balance.predictions,
        dead_letters=balance.dead_letters,
        lost=balance.missing,
        duplicated=balance.duplicated,
        unexpected=list(balance.unexpected),
        live_lost=live.missing,
        live_duplicated=live.duplicated,
        order_violations=order.violations + reader.order.violations,
        features_compared=compared,
        feature_differences=differences,
        first_difference=first,
        open_transactions=len(still_open),
        blocked_records=blocked,
        failed_commits=commits[1],
        refused_again=commits[0] - commits[1],
        faults=faults,
        faults_asked=len(plan.faults) * plan.times,
    )


def _compare(
    given: ParityInput, settings: Settings, processes: int, should_stop: Callable[[], None]
) -> tuple[int, int, str | None]:
    """Values compared, how many differ from the oracle's, and the first in words."""
    pipeline = given.pipeline
    width = len(pipeline.feature_names)
    answered, expected = (
        EngineRows(given.folder / "rows" / name, given.count, width, create=True) for name in ("job", "oracle")
    )
    job = Side("streaming", answered, said_by_job(pipeline, given, answered))
    oracle = by_oracle(EngineRun(given, settings, expected, lambda _share: None, should_stop, processes))
    found = compare(given, Side("oracle", expected, oracle), job, None)
    wrong = [each for each in found if each.differences]
    first = None
    if wrong and wrong[0].row is not None:
        first = f"{wrong[0].feature} of the record at {given.place(wrong[0].row)} (partition, offset)"
    return sum(each.compared for each in found), sum(each.differences for each in found), first
