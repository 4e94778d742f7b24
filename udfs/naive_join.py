"""The oracle's lookups: what events see of tables by the definition, all versions of a row looked through each time.

Shares no code with `udfs.lookup_table` and `udfs.lookup_join` but the defaults, which are the pipeline's own words.
"""

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import numpy as np

from udfs.lookup_join import default_row
from udfs.pipeline import Pipeline


class CameRow(NamedTuple):
    """A row as it came.

    Attributes:
        key: Of the row, as text.
        time_ms: From when on it is valid.
        fields: By name, vectors as lists; None where the row is deleted.
    """

    key: str
    time_ms: int
    fields: dict[str, Any] | None


def fields_of_row(row: Any) -> dict[str, Any]:
    """The fields of a row, vectors as lists."""
    values = msgspec.structs.asdict(row)
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def with_rows(pipeline: Pipeline, event: Any, rows: Mapping[str, Mapping[str, Any]]) -> SimpleNamespace:
    """An event as the oracle reads it: fields of rows, like `products.price`, are fields of its own.

    Args:
        pipeline: Of the event.
        event: An object with the event's fields.
        rows: By lookup, the fields of the row that it sees.
    """
    fields = {one.name: getattr(event, one.name) for one in pipeline.events.schema}
    for lookup, row in rows.items():
        fields |= {f"{lookup}.{name}": value for name, value in row.items()}
    return SimpleNamespace(**fields)


class NaiveJoin:
    """Keeps every row for ever.

    Args:
        pipeline: Events of one without lookups are left as they are.
        rows: By lookup, all that came, in order of arrival.
    """

    def __init__(self, pipeline: Pipeline, rows: Mapping[str, Iterable[CameRow]]) -> None:
        self._pipeline = pipeline
        self._rows: dict[str, dict[str, list[CameRow]]] = {}
        self._defaults: dict[str, dict[str, Any]] = {}
        for lookup in pipeline.lookups:
            self._defaults[lookup.name] = fields_of_row(default_row(lookup))
            by_key = self._rows.setdefault(lookup.name, {})
            for each in rows[lookup.name]:
                by_key.setdefault(each.key, []).append(each)

    def seen(self, event: Any, time_ms: int) -> Any:
        """An event with the rows that it sees, as of `with_rows`; without lookups the event itself.

        Args:
            event: An object with the event's fields.
            time_ms: The event's time.
        """
        if not self._pipeline.lookups:
            return event
        rows = dict[str, dict[str, Any]]()
        for lookup in self._pipeline.lookups:
            key = getattr(event, lookup.event_field)
            row = None if key is None else self._as_of(lookup.name, str(key), time_ms - lookup.delay_ms)
            rows[lookup.name] = self._defaults[lookup.name] if row is None else row
        return with_rows(self._pipeline, event, rows)

    def _as_of(self, lookup: str, key: str, time_ms: int) -> dict[str, Any] | None:
        valid = None
        for each in self._rows[lookup].get(key, ()):
            # of one time, the last to come
            if each.time_ms <= time_ms and (valid is None or each.time_ms >= valid.time_ms):
                valid = each
        return None if valid is None else valid.fields
