"""`millrace transactions`: what is open in Kafka, whom it holds up, whose it is, and an end to the orphaned ones."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from flink_jobs.console import CommandError, fetch_jars, next_steps, out, say, show, show_json
from flink_jobs.local.home import connected
from flink_jobs.settings import Settings
from flink_jobs.state_reading import flink_ready
from flink_jobs.topics import SQL, STREAM, run_name, topics_of
from flink_jobs.transaction_owners import (
    COMPLETED,
    FOREIGN,
    ORPHANED,
    PENDING,
    REPLAY,
    RUNNING,
    OwnedTransaction,
    owned,
    replay_of,
    run_of,
)
from flink_jobs.transactions import (
    BlockedPartition,
    OpenTransaction,
    abort_transactions,
    blocked_partitions,
    open_transactions,
)
from udfs.pipeline import Pipeline

_LEAST_WAIT_S, _MOST_WAIT_S = 2.0, 30.0
_UNBLOCKED_S = 10.0


@dataclass(frozen=True)
class _Look:
    """What there is at one moment."""

    found: list[OwnedTransaction]
    blocked: list[BlockedPartition]


def run_transactions_command(
    pipeline: Pipeline | None,
    name: str | None,
    settings: Settings,
    *,
    abort: bool,
    yes: bool,
    force: bool,
    as_json: bool,
) -> None:
    """List them, and abort the orphaned ones if asked."""
    if abort and not yes and (as_json or not sys.stdin.isatty()):
        raise CommandError("--abort asks before it does anything: give --yes where nobody can answer")
    connected(settings)
    fetch_jars("job")
    with flink_ready(settings):
        look = _look(pipeline, settings)
        aborted: list[OwnedTransaction] = []
        if not as_json:
            _show(look, name)
        if abort:
            aborted = _abort(look, settings, yes=yes, force=force)
    if as_json:
        show_json(_document(look, aborted))
    elif aborted:
        _show_end(aborted, look, settings)
    elif any(each.owner == ORPHANED for each in look.found) and not abort:
        target = f" {name}" if name else ""
        next_steps((f"millrace transactions{target} --abort", "aborts the orphaned ones after asking"))


def _look(pipeline: Pipeline | None, settings: Settings) -> _Look:
    """Look twice where something seems to be nobody's: what moves is a job's, wherever that runs."""
    topics = [] if pipeline is None else topics_of(pipeline)
    first = _chosen(pipeline, settings, topics)
    found = owned(settings, first)
    if any(each.owner == ORPHANED and each.transaction.prefix is not None for each in found):
        wait_s = min(max(_LEAST_WAIT_S, 2.5 * settings.checkpoint_interval_ms / 1_000), _MOST_WAIT_S)
        say(f"- looking again in {wait_s:g} s: what changes is a running job's")
        time.sleep(wait_s)
        second = _chosen(pipeline, settings, topics)
        found = owned(settings, second, moving=_moving(first, second))
    return _Look(found, blocked_partitions(settings, [*topics, *_topics_in([each.transaction for each in found])]))


def _chosen(pipeline: Pipeline | None, settings: Settings, topics: Sequence[str]) -> list[OpenTransaction]:
    """A pipeline's, and others' in its topics; without a pipeline those of all pipelines, and others' in theirs."""
    found = open_transactions(settings, topics=topics)
    runs = None if pipeline is None else {run_name(pipeline, STREAM), run_name(pipeline, SQL)}
    mine = [
        each
        for each in found
        if (run := run_of(each) or replay_of(each)) is not None and (runs is None or run in runs)
    ]
    around = {*topics, *_topics_in(mine)}
    return [each for each in found if each in mine or around.intersection(_topics_in([each]))]


def _topics_in(transactions: Sequence[OpenTransaction]) -> set[str]:
    return {topic for each in transactions for topic, _ in each.first_offsets}


def _moving(first: Sequence[OpenTransaction], second: Sequence[OpenTransaction]) -> set[str]:
    """Prefixes of which other transactions are open the second time."""

    def ids(those: Sequence[OpenTransaction]) -> dict[str, set[tuple[str | None, int | None]]]:
        found: dict[str, set[tuple[str | None, int | None]]] = {}
        for each in those:
            if each.prefix is not None:
                found.setdefault(each.prefix, set()).add((each.transactional_id, each.started_ms))
        return found

    before, after = ids(first), ids(second)
    return {prefix for prefix, those in after.items() if those - before.get(prefix, set())}


def _abort(look: _Look, settings: Settings, *, yes: bool, force: bool) -> list[OwnedTransaction]:
    wanted = {ORPHANED, RUNNING, PENDING} if force else {ORPHANED}
    chosen = [each for each in look.found if each.owner in wanted]
    if not chosen:
        kept = sum(each.owner in (RUNNING, PENDING) for each in look.found)
        say("nothing to abort" + (f": {kept} are a job's or its next start's (--force aborts them)" if kept else ""))
        return []
    if not yes:
        owned_ones = sum(each.owner != ORPHANED for each in chosen)
        warning = f", {owned_ones} of them not orphaned: their answers are lost" if owned_ones else ""
        if not typer.confirm(f"abort {len(chosen)} transactions{warning}?", err=True):
            say("nothing was aborted")
            return []
    abort_transactions(settings, [each.transaction for each in chosen])
    return chosen


def _show(look: _Look, name: str | None) -> None:
    of = name or "any pipeline"
    if not look.found:
        show(f"no open transaction of {of}")
    else:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("transaction", "state", "owner", "open for", "producer", "partitions", "holds up"):
            table.add_column(column, overflow="fold")
        for each in look.found:
            table.add_row(*map(Text, _row(each, look.blocked)))
        out.print(table)
        for why in dict.fromkeys(f"{each.owner}: {each.why}" for each in look.found):
            show(f"  {why}")
    for place in look.blocked:
        show(
            f"{place.topic}/{place.partition}: readers of committed records stop at {place.last_stable:,}, "
            f"{place.waiting:,} before the end",
            style="yellow",
        )
    if not look.blocked:
        show("no reader of committed records waits for anything")
    if any(each.owner == PENDING for each in look.found):
        next_steps((f"millrace run {name or 'PIPELINE'}", "commits the pending ones: their answers are computed"))


def _row(each: OwnedTransaction, blocked: Sequence[BlockedPartition]) -> tuple[str, ...]:
    transaction = each.transaction
    held = transaction.blocks(blocked)
    return (
        transaction.transactional_id or "(unknown)", transaction.state, each.owner, _age(transaction),
        f"{transaction.producer_id} epoch {transaction.epoch}",
        ", ".join(f"{topic}/{number}" for topic, number in sorted(transaction.first_offsets)) or "none yet",
        ", ".join(f"{one.topic}/{one.partition}" for one in held) or "nobody",
    )  # fmt: skip


def _age(transaction: OpenTransaction) -> str:
    if transaction.started_ms is None:
        return "?"
    age_s = max(time.time() - transaction.started_ms / 1_000, 0.0)
    limit = f" of {transaction.timeout_ms / 1_000:g}" if transaction.timeout_ms else ""
    return f"{age_s:.0f}{limit} s"


def _show_end(aborted: Sequence[OwnedTransaction], look: _Look, settings: Settings) -> None:
    show(f"aborted {len(aborted)} transactions")
    held = {(one.topic, one.partition) for each in aborted for one in each.transaction.blocks(look.blocked)}
    deadline = time.monotonic() + _UNBLOCKED_S
    while left := _still(settings, held, look.blocked):
        if time.monotonic() > deadline:
            for each in left:
                show(f"{each.topic}/{each.partition}: readers still wait for {each.waiting:,}", style="yellow")
            return
        time.sleep(0.1)
    if held:
        show(f"readers go on in {', '.join(f'{topic}/{number}' for topic, number in sorted(held))}")


def _still(
    settings: Settings, held: set[tuple[str, int]], before: Sequence[BlockedPartition]
) -> list[BlockedPartition]:
    """Partitions in which readers have not got any further."""
    stable = {(each.topic, each.partition): each.last_stable for each in before}
    now = blocked_partitions(settings, {topic for topic, _ in held})
    return [
        each
        for each in now
        if (each.topic, each.partition) in held and each.last_stable == stable[each.topic, each.partition]
    ]


def _document(look: _Look, aborted: Sequence[OwnedTransaction]) -> dict[str, Any]:
    return {
        "transactions": [
            {
                "transactional_id": each.transaction.transactional_id,
                "run": each.run,
                "state": each.transaction.state,
                "owner": each.owner,
                "why": each.why,
                "producer_id": each.transaction.producer_id,
                "epoch": each.transaction.epoch,
                "started_ms": each.transaction.started_ms,
                "timeout_ms": each.transaction.timeout_ms,
                "partitions": [
                    {"topic": topic, "partition": number, "first_offset": first}
                    for (topic, number), first in sorted(each.transaction.first_offsets.items())
                ],
                "blocks": [f"{one.topic}/{one.partition}" for one in each.transaction.blocks(look.blocked)],
                "aborted": each in aborted,
            }
            for each in look.found
        ],
        "blocked": [{**vars(each), "waiting": each.waiting} for each in look.blocked],
        "counts": {
            owner: sum(each.owner == owner for each in look.found)
            for owner in (RUNNING, PENDING, COMPLETED, REPLAY, FOREIGN, ORPHANED)
        },
        "aborted": len(aborted),
    }
