"""`millrace certify`: what is sent, what happens, and the verdict."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from itertools import chain, count, cycle, islice
from pathlib import Path

import msgspec

from flink_jobs.certify_faults import FAULTS
from flink_jobs.certify_job import CertifyPlan, run_certify
from flink_jobs.certify_report import PASSED, CertifyReport
from flink_jobs.console import CommandError, StopSignal, fetch_jars, out, quiet_output, say, show, show_json
from flink_jobs.decoding import in_json
from flink_jobs.event_files import file_events
from flink_jobs.hard_events import hard_records
from flink_jobs.local.broken_records import broken_records
from flink_jobs.local.live_shop import can_generate, expected_events, live_events
from flink_jobs.local.own_broker import OwnBroker, own_broker
from flink_jobs.own_tables import copy_tables, file_keys, put_hard_tables, table_spans
from flink_jobs.parity_engines import constant_model
from flink_jobs.security_settings import OPEN
from flink_jobs.settings import Settings
from udfs.lookups import table_topics
from udfs.pipeline import Pipeline

Known = tuple[bytes | None, bytes | None, str | None]
EVENTS_PER_BROKEN = 200


def run_certify_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    *,
    events: int,
    rate: float,
    faults: Sequence[str],
    times: int,
    seed: int,
    data: Path | None,
    freeze_s: float,
    full_s: float,
    target: Path | None,
    as_json: bool,
) -> None:
    """Certify the pipeline; fails when anything was lost, doubled, different or slow."""
    chosen = _chosen(faults)
    if data is not None:
        table_spans(pipeline, settings)  # a topic that is not there is said before anything is started
    fetch_jars()
    say(
        f"{name}: {events:,} events or more at {rate:,.0f}/s, {times} times each of {', '.join(chosen)}; on a broker "
        "and a cluster of their own, your topics stay as they are"
    )
    log_file = settings.logs / f"certify-{pipeline.name}-{os.getpid()}.log"
    with quiet_output(log_file), StopSignal() as stop, own_broker(settings, "certify-") as own:
        own.keep_logs = True
        job_settings = settings.model_copy(update={
            "bootstrap": own.bootstrap, "home": own.folder / "job", "checkpoint_folder": None, "cluster": None,
            **OPEN, "guarantee": "exactly-once", "checkpoint_interval_ms": 1_000,
        })  # fmt: skip
        certified, records, text = _traffic(pipeline, settings, own, events, rate, seed, data)
        plan = CertifyPlan(
            certified, name, records, text, events, rate, chosen, times, seed, freeze_s=freeze_s, full_s=full_s
        )
        report = run_certify(
            plan,
            job_settings,
            own.broker,
            own.folder / "check",
            processes=len(os.sched_getaffinity(0)),
            step=lambda line: say(f"- {line}"),
            should_stop=stop.raise_if_requested,
        )
        own.keep_logs = report.verdict != PASSED
    folder = target or settings.home / "certified" / pipeline.name
    written = report.write(folder)
    _show(report, written, as_json=as_json)
    if report.verdict != PASSED:
        raise CommandError(f"{pipeline.name} is not certified: {'; '.join(report.problems)}")


def _chosen(faults: Sequence[str]) -> list[str]:
    wanted = [each.strip() for one in faults for each in one.split(",")] or list(FAULTS)
    for each in wanted:
        if each not in FAULTS:
            raise CommandError(f"--faults names {each!r}: write some of {', '.join(FAULTS)}")
    return wanted


def _traffic(
    pipeline: Pipeline, settings: Settings, own: OwnBroker, events: int, rate: float, seed: int, data: Path | None
) -> tuple[Pipeline, Iterator[Known], str]:
    """The pipeline with its features in its predictions, what is sent, and what that is in words.

    The tables of its lookups are on the broker then, and stay as they are: so the oracle knows what events see.

    Hard records and rows may make a real model fail, and a dead letter hides features: with them the model is one that
    does not.
    """
    certified = dataclasses.replace(in_json(pipeline), include_features=True)
    if data is not None:
        rows = [(key, value, None) for key, value in file_events(data, pipeline)]
        if not rows:
            raise CommandError(f"{data} has no events")
        return copy_tables(certified, settings, own.bootstrap), cycle(rows), f"rows of {data.name}, again and again"
    text = "simulated shoppers, some broken records among them"
    if can_generate(pipeline):
        records, asking = _shoppers(pipeline, rate, seed), _expected(rate, seed)
        if not table_topics(pipeline.lookups):
            return certified, records, text
        text += ", and hard rows, scored by a constant model"
    else:
        likely = file_keys(pipeline)
        records, asking = (
            chain.from_iterable(hard_records(pipeline, 100_000, each, likely) for each in count(seed + 1))
            for _ in range(2)
        )
        text = "hard records, scored by a constant model"
    certified = dataclasses.replace(certified, model=constant_model(pipeline, own.folder / "models"))
    asked = ((key, value) for key, value, _ in islice(asking, events))
    return put_hard_tables(certified, own.bootstrap, asked, seed), records, text


def _expected(rate: float, seed: int) -> Iterator[Known]:
    for event in expected_events(rate, seed):
        yield event.user_id.encode(), msgspec.json.encode(event), None


def _shoppers(pipeline: Pipeline, rate: float, seed: int) -> Iterator[Known]:
    import numpy as np

    rng = np.random.default_rng(seed)

    def broken() -> Iterator[Known]:
        while True:
            for each in broken_records(rng, max_record_bytes=pipeline.max_record_bytes):
                if each.reason != "too_large":  # a megabyte each
                    yield each.key, each.value, each.reason

    bad, good = broken(), ((key, value, None) for key, value in live_events(rate, seed))
    while True:
        yield from chain(islice(good, EVENTS_PER_BROKEN - 1), islice(bad, 1))


def _show(report: CertifyReport, written: tuple[Path, Path], *, as_json: bool) -> None:
    if as_json:
        show_json(report.as_json())
        return
    from rich.markdown import Markdown

    out.print(Markdown(report.as_markdown()))
    show(f"written: {written[0]} and {written[1].name}")


