"""History -> training set, in three steps; what is finished is kept, so that a killed run can go on.

    read: pieces of the source     compute: shards               write: one file
    decode, cut by shard      ->   features, labels         ->   rows in the order of the source

Reading and computing are done by several processes, a piece or a shard at a time. The number of processes, kills and
restarts change no byte of the result.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flink_jobs.backfill_request import BackfillPlan, BackfillRequest, alone, load_plan
from flink_jobs.backfill_steps import Work
from flink_jobs.backfill_workers import Workers
from flink_jobs.backfill_writer import write_letters, write_training_set
from udfs.label_join import LabelRule

NEVER_MS = 2**62
READ, COMPUTE, WRITE = "reading", "computing", "writing"
_SHARES = {READ: (0.0, 0.35), COMPUTE: (0.35, 0.4), WRITE: (0.75, 0.25)}  # as measured; only the estimate needs them


@dataclass(frozen=True)
class Progress:
    """How far a backfill is.

    Attributes:
        step: READ, COMPUTE or WRITE.
        share: Of the whole work that is done, from 0 to 1.
        events: Read so far.
    """

    step: str
    share: float
    events: int


@dataclass(frozen=True)
class BackfillReport:
    """What a backfill gave.

    Attributes:
        rows: In the file.
        events: In the history, those that only warmed up included.
        refused: How many records were no events, by reason.
        late: Rows flagged late.
        truncated: Rows flagged truncated.
        labelled: Rows with a label.
        label_sum: Sum of the labels: how many are 1, where labels are 0 and 1.
        label_events: Label events read.
        labels_refused: How many label records were no label events, by reason.
        labels_until_ms: Until when label events are known.
        label_values: Whether label events carry values.
        behind: Events that come after ones so much later that their entities may be forgotten.
        resumed: Whether an earlier run began it.
        letters: Where the refused records are, if there are any.
        missing: How many events had no row, by lookup and reason.
    """

    rows: int
    events: int
    refused: dict[str, int]
    late: int
    truncated: int
    labelled: int
    label_sum: float
    label_events: int
    labels_refused: dict[str, int]
    labels_until_ms: int | None
    label_values: bool
    behind: int
    resumed: bool
    letters: Path | None
    missing: dict[str, int]


def run_backfill(
    request: BackfillRequest, progress: Callable[[Progress], None] = lambda _: None
) -> BackfillReport:
    """Make a training set; goes on with what an earlier run of the same arguments left.

    Raises:
        BackfillError: Unfinished work of other arguments is there, the sources changed since it began, or another
            process is at it.
    """
    plan = load_plan(request)
    with alone(request.work_folder):
        return _run(request, plan, progress)


def _run(
    request: BackfillRequest, plan: BackfillPlan, progress: Callable[[Progress], None]
) -> BackfillReport:
    shards = request.work_folder / "shards"
    shards.mkdir(exist_ok=True)
    work = Work(
        events=plan.events,
        labels=plan.labels,
        label_values=plan.label_kind is not None,
        shards=request.shards,
        since_ms=-NEVER_MS if request.since_ms is None else request.since_ms,
        until_ms=NEVER_MS if request.until_ms is None else request.until_ms,
        folder=shards,
        bootstrap=request.bootstrap,
        properties=request.properties,
        tables=plan.tables,
        served=request.served,
    )
    workers = Workers(work, request.processes)
    try:
        return _Backfill(request, plan, work, workers, progress).run()
    finally:
        workers.close()


def read_pieces(
    plan: BackfillPlan, workers: Workers, tell: Callable[[float, int], None]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read all of a history that is not read yet.

    Args:
        plan: What to read.
        workers: Read it.
        tell: Told the share that is done and how many events that were.

    Returns:
        Facts of all pieces, of the events and of the labels.
    """
    pieces = [(False, number, piece) for number, piece in enumerate(plan.events.pieces)]
    if plan.labels is not None:
        pieces += [(True, number, piece) for number, piece in enumerate(plan.labels.pieces)]
    weight, done, events = max(sum(piece.weight for *_, piece in pieces), 1), 0, 0
    facts: dict[int, dict[str, Any]] = {}
    tell(0.0, 0)
    for call, found in workers.each("read", [(of_labels, number) for of_labels, number, _ in pieces]):
        facts[call] = found
        done += pieces[call][2].weight
        events += 0 if pieces[call][0] else found["events"]
        tell(done / weight, events)
    of_events = [facts[call] for call, (of_labels, *_) in enumerate(pieces) if not of_labels]
    return of_events, [facts[call] for call, (of_labels, *_) in enumerate(pieces) if of_labels]


def refused_records(facts: Iterable[dict[str, Any]]) -> dict[str, int]:
    """How many records of some pieces were no events, by reason."""
    refused = Counter[str]()
    for each in facts:
        refused.update(each["reasons"])
    return dict(sorted(refused.items()))


def missing_rows(facts: Iterable[dict[str, Any]]) -> dict[str, int]:
    """How many events of some pieces had no row, by lookup and reason."""
    missing = Counter[str]()
    for each in facts:
        missing.update(each.get("missing", {}))
    return dict(sorted(missing.items()))


def _with_failed(refused: dict[str, int], failed: int) -> dict[str, int]:
    return dict(sorted({**refused, "feature_failed": failed}.items())) if failed else refused


class _Backfill:
    """One run."""

    def __init__(
        self,
        request: BackfillRequest,
        plan: BackfillPlan,
        work: Work,
        workers: Workers,
        progress: Callable[[Progress], None],
    ) -> None:
        self._request, self._plan, self._work, self._workers = request, plan, work, workers
        self._progress, self._events = progress, 0

    def run(self) -> BackfillReport:
        events, labels = read_pieces(self._plan, self._workers, self._tell_read)
        rule = self._rule(labels)
        shards = self._compute(rule)
        rows = self._write(rule)
        letters = write_letters(self._request.letters_file, self._plan.events, self._plan.labels)
        shutil.rmtree(self._request.work_folder)
        return BackfillReport(
            rows=rows,
            events=sum(facts["events"] for facts in events),
            refused=_with_failed(refused_records(events), sum(facts["failed"] for facts in shards)),
            late=sum(facts["late"] for facts in shards),
            truncated=sum(facts["truncated"] for facts in shards),
            labelled=sum(facts["labelled"] for facts in shards),
            label_sum=sum(facts["label_sum"] for facts in shards),
            label_events=sum(facts["events"] for facts in labels),
            labels_refused=refused_records(labels),
            labels_until_ms=None if rule is None or rule.until_ms == -NEVER_MS else rule.until_ms,
            label_values=self._plan.label_kind is not None,
            behind=sum(facts["behind"] for facts in events),
            resumed=self._plan.resumed,
            letters=self._request.letters_file if letters else None,
            missing=missing_rows(events),
        )

    def _say(self, step: str, done: float) -> None:
        begin, width = _SHARES[step]
        self._progress(Progress(step, begin + width * done, self._events))

    def _tell_read(self, share: float, events: int) -> None:
        self._events = events
        self._say(READ, share)

    def _rule(self, labels: list[dict[str, Any]]) -> LabelRule | None:
        request = self._request.labels
        if request is None:
            return None
        last = max((facts["latest_ms"] for facts in labels if facts["latest_ms"] is not None), default=-NEVER_MS)
        until_ms = last if request.until_ms is None else request.until_ms
        return LabelRule(request.horizon_ms, self._plan.absent(request), until_ms)

    def _compute(self, rule: LabelRule | None) -> list[dict[str, Any]]:
        """Facts of all shards."""
        shards, facts = self._work.shards, []
        self._say(COMPUTE, 0.0)
        for _, found in self._workers.each("compute", [(shard, rule) for shard in range(shards)]):
            facts.append(found)
            self._say(COMPUTE, len(facts) / shards)
        return facts

    def _write(self, rule: LabelRule | None) -> int:
        arguments = self._request.arguments()
        label = None if rule is None else {
            **arguments["labels"], "absent": str(rule.absent), "until_ms": rule.until_ms,
            "values": self._plan.label_kind is not None,
        }  # fmt: skip
        facts = {name: arguments[name] for name in ("source", "since_ms", "until_ms", "order_by", "shards")}
        unfinished = self._request.work_folder / "training_set.parquet"
        rows = write_training_set(
            unfinished, self._work, {**facts, "label": label}, lambda share: self._say(WRITE, share)
        )
        unfinished.replace(self._request.target)
        return rows
