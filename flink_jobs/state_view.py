"""What `millrace state` shows to people, from the same documents that `--json` prints."""

import json
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from flink_jobs.console import next_steps, out, show
from flink_jobs.topics import offsets_text
from udfs.aggregates import Previous, SinceLast
from udfs.durations import duration_text, time_text
from udfs.pipeline import Pipeline
from udfs.plan import FeaturePlan

_SHOWN = 30
_FORMS = {
    "savepoint": "a savepoint", "increment": "a checkpoint of RocksDB", "hashmap": "a checkpoint of hashmap",
    "empty": "nothing yet",
}  # fmt: skip


def show_summary(document: dict[str, Any], pipeline: Pipeline, name: str) -> None:
    """A whole state."""
    _show_place(document)
    show(
        f"{document['entities']:,} entities with {document['events']:,} events and {document['tiles']:,} rows of "
        f"tiles; {_size(document['bytes'])} in {document['entries']:,} entries of format {document['state_version']}"
    )
    show(f"events from {_time(document['oldest_event_ms'])} to {_time(document['newest_event_ms'])}")
    for partition, clock_ms in document["clocks_ms"].items():
        show(
            f"  partition {partition}: clock {_time(clock_ms)}; entities without an event since it was at "
            f"{_time(clock_ms - pipeline.retention_ms)} are forgotten"
        )
    _show_layout(document, pipeline)
    table = _table("shard", "entities", "events", "tiles", "oldest", "bytes", "entries")
    for shard in document["shards"]:
        table.add_row(
            str(shard["shard"]), f"{shard['entities']:,}", f"{shard['events']:,}", f"{shard['tiles']:,}",
            _time(shard["oldest_ms"]), f"{shard['bytes']:,}", f"{shard['entries']:,}",
        )  # fmt: skip
    out.print(table)
    next_steps((f"millrace state {name} --entity KEY", "what is kept of one entity"))


def _show_layout(document: dict[str, Any], pipeline: Pipeline) -> None:
    layouts = document["layouts"]
    if len(layouts) > 1:
        show(f"written in {len(layouts)} layouts: pipelines with other features have been at it, too")
    if layouts:
        layout = layouts[-1]
        tiles = ", ".join(duration_text(tile_ms) for tile_ms in layout["tiles"]) or "none"
        columns = ", ".join(layout["columns"][: layout["kept_columns"]]) or "none"
        show(f"kept of an event: {columns}; conditions: {len(layout['conditions'])}; tiles: {tiles}")
    show(f"features of {pipeline.name}: {', '.join(document['features'])}")
    for text in document["layout_changes"]:
        show(f"  as the pipeline is now, {text}", style="yellow")
    if document["features_without_state"]:
        show(f"  without state yet: {', '.join(document['features_without_state'])}", style="yellow")


def show_entity(document: dict[str, Any], plan: FeaturePlan) -> None:
    """One entity."""
    _show_place(document)
    show(f"{document['entity']}  (shard {document['shard']}, partition {document['partition']})", style="bold")
    left_ms = document["forgotten_after_ms"] - document["clock_ms"]
    show(
        f"newest event {_time(document['newest_event_ms'])}; its partition's clock is at {_time(document['clock_ms'])}"
    )
    show(f"forgotten once that clock passes {_time(document['forgotten_after_ms'])}, in {_span(left_ms)} of event time")
    if document["dropped_until_ms"] is not None:
        show(
            f"events up to {_time(document['dropped_until_ms'])} were dropped: at most "
            f"{plan.pipeline.max_events_per_entity:,} are kept (max_events_per_entity)",
            style="yellow",
        )
    _show_events(document["events"], plan)
    _show_tiles(document)
    show(f"features over what is kept, as of {_time(document['features_as_of_ms'])}")
    _show_features(document["features"], plan)


def _show_features(features: dict[str, Any], plan: FeaturePlan) -> None:
    table = _table("feature", "value")
    for feature in plan.pipeline.features:
        of_next = " (for the next event, at that time)" if isinstance(feature, Previous | SinceLast) else ""
        for name in feature.names(plan.pipeline.fields):
            value = features[name]
            told = "of the event itself" if value is None else "missing" if value == "nan" else str(value)
            table.add_row(name, Text(told + of_next, style="dim" if value is None else ""))
    out.print(table)


def _show_events(events: Sequence[dict[str, Any]], plan: FeaturePlan) -> None:
    if not events:
        show("no events kept for exact windows")
        return
    columns = [column.field for column in plan.columns[: plan.kept_columns]]
    show(f"{len(events):,} events kept")
    if len(events) > _SHOWN:
        show(f"  {len(events) - _SHOWN:,} earlier ones are left out here; --json has all")
    table = _table("event time", *columns, "conditions")
    for event in events[-_SHOWN:]:
        values = ["null" if event["columns"][name] is None else str(event["columns"][name]) for name in columns]
        table.add_row(_time(event["time_ms"]), *map(Text, values), Text(", ".join(event["conditions"])))
    out.print(table)


def _show_tiles(document: dict[str, Any]) -> None:
    rows = [*document["tiles"], *document["distinct"]]
    if not rows:
        return
    rows.sort(key=lambda row: row["begin_ms"])
    show(f"{len(rows):,} rows of tiles")
    if len(rows) > _SHOWN:
        show(f"  {len(rows) - _SHOWN:,} earlier ones are left out here; --json has all")
    table = _table("tile", "begins", "holds")
    for row in rows[-_SHOWN:]:
        if "values" in row and isinstance(row["values"], dict):
            held = "; ".join(f"{name} {_plain(value)}" for name, value in row["values"].items() if value is not None)
        else:
            held = f"{row['name']}: {', '.join(map(str, row['values']))}"
        table.add_row(duration_text(row["tile_ms"]), _time(row["begin_ms"]), Text(held, overflow="fold"))
    out.print(table)


def show_difference(document: dict[str, Any]) -> None:
    """Two states."""
    _show_place(document["first"], "first   ")
    _show_place(document["second"], "second  ")
    for text in document["layout_changes"]:
        show(f"layout: {text}", style="yellow")
    if "entity" in document:
        show(document["entity"], style="bold")
        for line in document["changes"] or ["the same is kept, to the last bit"]:
            show(f"  {line}")
        return
    show(f"{document['same']:,} entities are the same to the last bit")
    words = {
        "changed": "changed", "added": "only in the second", "forgotten": "forgotten by the second's clock",
        "gone": "only in the first, and not by its age",
    }  # fmt: skip
    for kind, text in words.items():
        some = document[kind]
        if some["count"]:
            more = ", …" if some["count"] > len(some["first"]) else ""
            show(f"{some['count']:,} {text}: {', '.join(some['first'])}{more}", style="red" if kind == "gone" else None)
    table = _table("shard", "entities", "", "bytes", "")
    for shard in document["shards"]:
        (entities, entities_now), (size, size_now) = shard["entities"], shard["bytes"]
        table.add_row(str(shard["shard"]), f"{entities:,}", f"{entities_now:,}", f"{size:,}", f"{size_now:,}")
    out.print(table)


def _show_place(document: dict[str, Any], label: str = "") -> None:
    form = _FORMS.get(document["form"], document["form"])
    show(
        f"{label}{document['restore_point']}: {form}, number {document['checkpoint_id']}, completed "
        f"{_time(document['written_ms'])}, by {document['parallelism']} subtasks; next offsets "
        f"{offsets_text(document['offsets']) or 'none'}"
    )


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, overflow="fold", justify="left" if place == 0 else "default")
    return table


def _plain(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else f"{value:g}" if isinstance(value, float) else str(value)


def _time(time_ms: int | None) -> str:
    return "never" if time_ms is None else time_text(time_ms)


def _span(span_ms: int) -> str:
    seconds = max(span_ms, 0) // 1_000
    days, hours, minutes = seconds // 86_400, seconds // 3_600 % 24, seconds // 60 % 60
    parts = [f"{number} {unit}" for number, unit in ((days, "d"), (hours, "h"), (minutes, "min")) if number]
    return " ".join(parts[:2]) or f"{seconds} s"


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
