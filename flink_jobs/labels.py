"""Where label events come from: files or a topic of records with the entity, a time and, if there is one, a value.

The entity and the time are named and written as in the events. With a column of values the value is the label, and
silence says nothing; without one each record says 1, and silence says 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from flink_jobs.console import CommandError
from flink_jobs.event_files import FALSE_WORDS, TRUE_WORDS, first_row, parse_line
from flink_jobs.history import Piece
from flink_jobs.history_files import file_kind, file_pieces
from flink_jobs.history_topic import first_value, topic_pieces
from flink_jobs.kafka_admin import topic_partitions
from udfs.pipeline import Events, Model, Pipeline, Value

DEFAULT_COLUMN = "label"
_TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}


@dataclass(frozen=True)
class LabelRequest:
    """What is asked for.

    Attributes:
        source: A file, a folder, a pattern, or a topic.
        horizon_ms: How long after an event a label event counts.
        column: Of the values.
        absent: The label of an event without a label event: 0, NaN for missing, or None for what is usual.
        until_ms: Label events before this time are known; None means until the last one.
        bootstrap: Where the brokers are.
        properties: Kafka client properties.
    """

    source: str
    horizon_ms: int
    column: str = DEFAULT_COLUMN
    absent: float | None = None
    until_ms: int | None = None
    bootstrap: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """All that the result depends on, as plain data."""
        absent = None if self.absent is None else str(self.absent)
        return {
            "source": self.source, "horizon_ms": self.horizon_ms, "column": self.column, "absent": absent,
            "until_ms": self.until_ms,
        }  # fmt: skip

    @property
    def is_topic(self) -> bool:
        """Whether the source is no file."""
        path = Path(self.source)
        return not (path.exists() or file_kind(path) is not None or any(mark in self.source for mark in "*?[/"))

    def found(self, pipeline: Pipeline) -> tuple[list[Piece], str | None]:
        """The label events' pieces, and the type of their values: float, bool, or None without values.

        Raises:
            CommandError: There is no such topic.
            EventFileError: The files cannot be label events.
        """
        if self.column in (pipeline.events.entity, pipeline.events.time):
            raise CommandError(f"--label-column is {self.column!r}, which says who or when, not what came of it")
        if not self.is_topic:
            path = Path(self.source)
            pieces = file_pieces([path], label_pipeline(pipeline, None, self.column))
            return pieces, _value_kind_of_file(Path(pieces[0].source), self.column) if pieces else None
        if self.source not in topic_partitions(self.bootstrap, [self.source], self.properties):
            raise CommandError(f"--labels is {self.source!r}: there is no such file, and no such topic")
        pieces = topic_pieces(self.bootstrap, self.source, self.properties)
        value = first_value(self.bootstrap, pieces, self.properties)
        row = parse_line(value or b"")
        return pieces, _kind(row.get(self.column)) if isinstance(row, dict) and self.column in row else None


def label_pipeline(pipeline: Pipeline, value_kind: str | None, column: str) -> Pipeline:
    """Label events as a pipeline's events: its one feature is the value, or without values the time."""
    events = pipeline.events
    types: dict[str, Any] = {
        name: _TYPES[pipeline.fields[name].kind] for name in dict.fromkeys((events.entity, events.time))
    }
    if value_kind is not None:
        types[column] = _TYPES[value_kind] | None
    made = type("LabelEvent", (), {"__annotations__": types})
    return Pipeline(
        name="labels",
        events=Events(
            made, topic="labels", entity=events.entity, time=events.time, id=events.entity, time_unit=events.time_unit
        ),
        features=[Value(column if value_kind is not None else events.time)],
        model=Model("labels", version=1),
        prediction="label_of_the_entity",
        max_record_bytes=pipeline.max_record_bytes,
    )


def _value_kind_of_file(path: Path, column: str) -> str | None:
    if file_kind(path) == "parquet":
        schema = pq.read_schema(path)  # type: ignore[no-untyped-call]
        if column not in schema.names:
            return None
        return "bool" if str(schema.field(column).type) == "bool" else "float"
    row = first_row(path)
    if row is None or column not in row:
        return None
    return _kind(row[column])


def _kind(value: Any) -> str:
    """The type of a column of values by its first one."""
    words = (TRUE_WORDS | FALSE_WORDS) - {"0", "1"}
    if isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in words):
        return "bool"
    return "float"
