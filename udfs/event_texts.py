"""Raw records -> texts of their fields, for SQL: the stream's own decoder, and a form that any SQL type is cast from.

A record becomes a list: reason and detail if it is refused, then its event time in ms and its fields in the order of
the event class. The schema comes as text, so that a statement holds all that it needs.
"""

import functools
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from udfs.byte_lines import Lines
from udfs.errors import DefinitionError
from udfs.events import Events
from udfs.pipeline import Pipeline
from udfs.raw_record import RawRecord, RecordParts
from udfs.wire_formats import EventDecoder, Refused, printable

REASON, DETAIL, TIME_MS, FIRST_FIELD = 1, 2, 3, 4
"""Places in the list, counted from 1 as SQL does."""
_DETAIL_LETTERS = 300
_WHOLE = range(-(2**63), 2**63)
_NOWHERE = RecordParts(0, 0, 0)


class _Records(NamedTuple):
    """As much of a `RecordBatch` as the decoder reads."""

    keys: Lines
    values: Lines

    def __len__(self) -> int:
        return len(self.values)

    def raw(self) -> list[RawRecord]:
        """The records one by one."""
        return [RawRecord(*each, _NOWHERE) for each in zip(self.keys.tolist(), self.values.tolist(), strict=True)]


def schema_text(pipeline: Pipeline) -> str:
    """What `texts_of` needs to know of a pipeline, as JSON."""
    events = pipeline.events
    document = {
        "fields": [[*one.definition(), *([] if one.default is None else [one.default])] for one in events.schema],
        "entity": events.entity,
        "time": events.time,
        "time_unit": events.time_unit,
        "max_record_bytes": pipeline.max_record_bytes,
        **({"fields_from": dict(events.fields)} if events.fields else {}),
    }
    return json.dumps(document, separators=(",", ":"))


@functools.cache
def _reader(schema: str) -> "_Reader":
    return _Reader(json.loads(schema))


def texts_of(keys: Sequence[bytes | None], values: Sequence[bytes | None], schema: str) -> list[list[str | None]]:
    """The fields of n records as texts.

    Args:
        keys: Kafka keys.
        values: Kafka values.
        schema: From `schema_text`.

    Raises:
        DefinitionError: The schema is not one.
    """
    try:
        reader = _reader(schema)
    except (ValueError, TypeError, KeyError) as error:
        raise DefinitionError(f"decode_event: {schema!r:.200} is no schema of `millrace sql`: {error}") from error
    return reader.read(keys, values)


def _events(schema: dict[str, Any]) -> Events:
    kinds: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool}
    annotations, defaults = {}, {}
    for name, kind, nullable, categories, *default in schema["fields"]:
        annotation = kinds[kind] if categories is None else Literal[tuple(categories)]
        annotations[name] = annotation | None if nullable else annotation
        if default:
            defaults[name] = default[0]
    event_class = type("Event", (), {"__annotations__": annotations, **defaults})
    # the text does not say what the id is, for SQL reads it as any other field
    names = {"entity": schema["entity"], "id": schema["entity"], "time": schema["time"]}
    return Events(event_class, "events", **names, time_unit=schema["time_unit"], fields=schema.get("fields_from", {}))


class _Reader:
    def __init__(self, schema: dict[str, Any]) -> None:
        events = _events(schema)
        self._fields, self._time, self._times_ms = events.schema, events.time, events.times_ms
        pipeline: Any = SimpleNamespace(events=events, max_record_bytes=schema["max_record_bytes"])
        self._decoder = EventDecoder(pipeline)

    def read(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> list[list[str | None]]:
        records: Any = _Records(Lines.of(keys), Lines.of(values))
        events, _, rows, refused = self._decoder.decode_batch(records)
        columns: list[list[str | None]] = [[None] * len(events), [None] * len(events), self._times(events)]
        for field in self._fields:
            column = [getattr(event, field.name) for event in events]
            columns.append(column if field.kind == "str" else _texts(column, field.kind == "bool"))
            if field.kind == "int":
                self._refuse_long(column, field.name, columns)
        decoded = [list(row) for row in zip(*columns, strict=True)]
        if rows is None:
            return decoded
        found: list[list[str | None]] = [[]] * len(records)
        for row, texts in zip(rows.tolist(), decoded, strict=True):
            found[row] = texts
        for row, why in refused.items():
            found[row] = self._refusal(why)
        return found

    def _times(self, events: list[Any]) -> list[str | None]:
        times: npt.NDArray[np.int64] = self._times_ms([getattr(event, self._time) for event in events])
        return list(map(str, times.tolist()))

    def _refusal(self, why: Refused) -> list[str | None]:
        return [why.reason, printable(why.detail[:_DETAIL_LETTERS]), None, *[None] * len(self._fields)]

    @staticmethod
    def _refuse_long(column: list[Any], name: str, columns: list[list[str | None]]) -> None:
        """Whole numbers that SQL's BIGINT cannot hold."""
        for row, value in enumerate(column):
            if value is not None and value not in _WHOLE:
                columns[REASON - 1][row] = "wrong_type"
                columns[DETAIL - 1][row] = f"{name} is {value}: more than a BIGINT of SQL holds"


def _texts(column: list[Any], is_truth: bool) -> list[str | None]:
    if is_truth:
        return [None if value is None else "true" if value else "false" for value in column]
    return [None if value is None else repr(value) for value in column]
