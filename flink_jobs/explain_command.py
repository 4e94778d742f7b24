"""`millrace explain`: one prediction, the features and events behind it, and whether it comes out again."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from flink_jobs.console import CommandError, bar, out, show, show_json
from flink_jobs.decoding import prediction_reader
from flink_jobs.explanation import Explanation, explain
from flink_jobs.feature_origins import UsedEvent
from flink_jobs.local.home import connected
from flink_jobs.served_answers import NO_ROW, NOT_TOLD
from flink_jobs.served_rows import SeenRow
from flink_jobs.settings import Settings
from flink_jobs.verify_command import value_of
from udfs.lookup_entries import RowVersion
from udfs.lookup_table import ALWAYS_MS
from udfs.lookups import Lookup
from udfs.naive_join import fields_of_row
from udfs.pipeline import Pipeline

EVENTS_SHOWN = 30


def run_explain_command(
    pipeline: Pipeline, name: str, settings: Settings, reference: str, *, job_began: str | None, as_json: bool
) -> None:
    """Explain an event; fails when what comes out now is not what was served."""
    connected(settings)
    with bar("records") as progress:
        task = progress.add_task("looking", total=None)

        def looked(text: str, done: int, total: int) -> None:
            progress.update(task, description=text, completed=done, total=total)

        explained = explain(pipeline, settings, reference, job_began, looked)
    document = _document(explained, pipeline)
    if as_json:
        show_json(document)
    else:
        _show(explained, document, pipeline)
    if explained.differences:
        hint = "" if explained.beginning is None else f" ({explained.beginning.text})"
        raise CommandError(
            f"{document['event']} does not come out as it was served: {'; '.join(explained.differences[:3])}{hint}"
        )


def _document(explained: Explanation, pipeline: Pipeline) -> dict[str, Any]:
    found, computed, told = explained.found, explained.computed, explained.receipt
    answer = found.answer
    served = None
    if answer is not None:
        at = f"{answer.topic()}/{answer.partition()}/{answer.offset()}"
        served = {"at": at, "value": value_of(answer, prediction_reader(pipeline)), "receipt": told}
    document: dict[str, Any] = {
        "event": f"{pipeline.events.topic}/{found.place[0]}/{found.place[1]}",
        "value": value_of(found.record),
        "served": served,
        "refused": None if explained.refused is None else explained.refused._asdict(),
        "model": f"{told['model']}/{told['model-version']}" if "model" in told else None,
        "member": explained.member,
        **(explained.score or dict.fromkeys(pipeline.outputs.names)),
        "model_problem": explained.model_problem,
        "equal": _is_equal(explained),
        "differences": list(explained.differences),
        "unverifiable": explained.unsure,
        "job_began": None if explained.beginning is None else explained.beginning.as_start,
    }
    if computed is None:
        return document
    uses: dict[str, list[int]] = {feature: [] for feature in computed.features}
    for event in computed.events:
        for feature in event.features:
            uses[feature].append(event.place[1])
    document["flags"] = computed.flags
    document["features"] = {
        feature: {"value": value if math.isfinite(value) else None, "offsets": uses[feature]}
        for feature, value in computed.features.items()
    }
    document["lookups"] = [
        _row_document(lookup, computed.rows[lookup.name]) for lookup in pipeline.lookups if lookup.name in computed.rows
    ]
    document["events"] = [
        {"offset": each.place[1], "time_ms": each.time_ms, "value": each.fields, "features": list(each.features)}
        for each in computed.events
    ]
    document["read"] = {"from": computed.read_from, "records": computed.read}
    return document


def _row_document(lookup: Lookup, seen: SeenRow) -> dict[str, Any]:
    """The row of a table that an event saw, and the one that a backfill gives it now."""
    told = None if seen.told in (NO_ROW, NOT_TOLD) else seen.told
    return {
        "lookup": lookup.name,
        "key": seen.key,
        "row": seen.state.name.lower(),
        "at": _row_place(lookup, *told) if told else None,
        "valid_from_ms": _valid_from(seen.version),
        "value": fields_of_row(seen.row),
        "now": None if isinstance(seen.now, str) else {
            "at": _row_place(lookup, seen.now.partition, seen.now.offset),
            "valid_from_ms": _valid_from(seen.now),
            "value": fields_of_row(seen.now.row),
        },
    }  # fmt: skip


def _row_place(lookup: Lookup, partition: int, offset: int) -> str:
    return f"{Path(lookup.file).name} row {offset}" if lookup.file else f"{lookup.topic}/{partition}/{offset}"


def _valid_from(version: RowVersion | None) -> int | None:
    return None if version is None or version.time_ms == ALWAYS_MS else version.time_ms


def _is_equal(explained: Explanation) -> bool | None:
    """None where nothing was served, or its model or a row that it was made of is not there to say."""
    if explained.differences:
        return False
    if explained.unsure is not None:
        return None
    known = explained.refused is not None or explained.score is not None or "reason" in explained.receipt
    return True if explained.found.answer is not None and known else None


def _show(explained: Explanation, document: dict[str, Any], pipeline: Pipeline) -> None:
    show(f"{document['event']}  {json.dumps(document['value'], ensure_ascii=False)}", style="bold")
    served = document["served"]
    if served is None:
        show("no committed answer yet; this is what comes out now")
    else:
        show(f"served  {json.dumps(served['value'], ensure_ascii=False)}")
        told = "  ".join(f"{name} {text}" for name, text in served["receipt"].items())
        show(f"        at {served['at']}: {told}")
    if explained.refused is not None:
        show(f"now     a dead letter: {explained.refused.reason}, {explained.refused.detail}")
        return
    computed = explained.computed
    assert computed is not None
    if explained.model_problem is not None:
        show(f"now     no score: {explained.model_problem}", style="yellow")
    else:
        verdict = {True: "to the last bit what was served", False: "NOT what was served", None: ""}[document["equal"]]
        values = explained.score or dict.fromkeys(pipeline.outputs.names)
        shown = ", ".join(f"{name} {value!r}" for name, value in values.items())
        by = f"by {explained.member} of the cascade  " if explained.member else ""
        show(f"now     {shown}  {by}{computed.flags}  {verdict}")
    features = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, side in (("feature", "left"), ("value", "right"), ("made of", "left")):
        features.add_column(column, justify=side, no_wrap=column != "made of")  # type: ignore[arg-type]
    for name, each in document["features"].items():
        value = "missing" if each["value"] is None else repr(each["value"])
        features.add_row(name, value, Text(_offsets_text(each["offsets"])))
    out.print(features)
    if explained.unsure is not None:
        show(f"What was served cannot be verified: {explained.unsure}", style="yellow")
    if document["lookups"]:
        _show_rows(document["lookups"])
    _show_events(computed.events)


def _show_rows(rows: list[dict[str, Any]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("lookup", "key", "row that it saw", "valid from", "fields"):
        table.add_column(column, overflow="fold")
    for each in rows:
        key, fields = json.dumps(each["key"], ensure_ascii=False), json.dumps(each["value"], ensure_ascii=False)
        where = each["at"] or {"not_told": "what a backfill says"}.get(each["row"], "none")
        table.add_row(each["lookup"], Text(key), where, _time_text(each["valid_from_ms"]), Text(fields))
    out.print(table)
    for each in rows:
        if each["row"] in ("older", "none"):
            now, about = each["now"], "another row" if each["row"] == "older" else "a row"
            is_there = "none" if now is None else f"{now['at']}, valid from {_time_text(now['valid_from_ms'])}"
            show(f"A backfill gives it {about} of {each['lookup']} now: {is_there}")


def _time_text(time_ms: int | None) -> str:
    if time_ms is None:
        return "always"
    return datetime.fromtimestamp(time_ms / 1_000, UTC).isoformat(timespec="milliseconds")


def _offsets_text(offsets: list[int]) -> str:
    few = ", ".join(map(str, offsets[-6:]))
    return f"{len(offsets):,} events: … {few}" if len(offsets) > 6 else few or "no event"


def _show_events(events: list[UsedEvent]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("offset", "event time", "event", "in features"):
        table.add_column(column, overflow="fold")
    if len(events) > EVENTS_SHOWN:
        show(f"{len(events) - EVENTS_SHOWN:,} earlier events are left out here; --json has all")
    for each in events[-EVENTS_SHOWN:]:
        at = _time_text(each.time_ms)
        fields = json.dumps(each.fields, ensure_ascii=False)
        table.add_row(f"{each.place[1]}", at, Text(fields), f"{len(each.features)}")
    out.print(table)
