"""Hard rows for tables of lookups, made for the events that will look them up.

Versions before, at and after the times of events, at equal times, in any order, deleted ones among them; keys without a
row, and rows that begin late; records that are no rows. The same seed gives the same.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from flink_jobs.decoding import event_decoder, in_json
from flink_jobs.hard_events import DAY_MS, HOUR_MS, MANY_BYTES, HardValues, as_json, time_value
from flink_jobs.local.broken_records import broken_variants
from udfs.durations import LONGEST_MS
from udfs.events import MAX_EVENT_TIME_MS
from udfs.lookups import Lookup
from udfs.pipeline import Pipeline
from udfs.refused import Refused

MOST_KEYS, TIMES_OF_KEY = 20_000, 32
ROWLESS_SHARE, LATE_SHARE, DELETED_SHARE, EQUAL_SHARE, LEFT_OUT_SHARE = 0.06, 0.12, 0.08, 0.2, 0.1
BROKEN_ROWS = 5  # each made wrong in every way
SPAN_MS = LONGEST_MS - 60 * DAY_MS
"""Between the first and the last version: what is older than a lookup's longest history, a job may forget."""

Asked = Mapping[Any, list[int]]
"""Keys of rows, and as of which times, in ms, events ask for each."""


class HardRow(NamedTuple):
    """A Kafka record.

    Attributes:
        key: Kafka key.
        value: Kafka value; None deletes the row.
        time_ms: Kafka's timestamp; None is when it is sent.
        reason: Why it is no row; None for one, and for a deletion.
    """

    key: bytes | None
    value: bytes | None
    time_ms: int | None
    reason: str | None


def asked_rows(
    pipeline: Pipeline, records: Iterable[tuple[bytes | None, bytes | None]], seed: int
) -> dict[str, dict[Any, list[int]]]:
    """By lookup, the rows that events ask for; of very many keys the first, of many times of a key some.

    Args:
        pipeline: One with lookups.
        records: Key and value of events, in JSON whatever the pipeline's format.
        seed: Where chance comes from.
    """
    own, random = in_json(pipeline), np.random.default_rng(seed)
    decode, events = event_decoder(own).decode, pipeline.events
    asked: dict[str, dict[Any, list[int]]] = {each.name: {} for each in pipeline.lookups}
    counts: dict[tuple[str, Any], int] = {}
    for key, value in records:
        event = decode(key, value)
        if isinstance(event, Refused):
            continue
        (time_ms,) = events.times_ms([getattr(event, events.time)]).tolist()
        for lookup in pipeline.lookups:
            by, known = getattr(event, lookup.event_field), asked[lookup.name]
            if by is None or (by not in known and len(known) >= MOST_KEYS):
                continue
            times, place = known.setdefault(by, []), counts.get((lookup.name, by), 0)
            counts[lookup.name, by] = place + 1
            if len(times) < TIMES_OF_KEY:
                times.append(time_ms - lookup.delay_ms)
            elif random.random() < TIMES_OF_KEY / (place + 1):
                times[int(random.integers(TIMES_OF_KEY))] = time_ms - lookup.delay_ms
    return asked


def hard_rows(pipeline: Pipeline, lookup: Lookup, asked: Asked, seed: int) -> list[HardRow]:
    """The records of one table, in JSON and with plain keys, in order of arrival.

    Args:
        pipeline: Its conditions say what values of rows are likely.
        lookup: Of its lookups, one with a topic.
        asked: See `asked_rows`.
        seed: Where chance comes from.
    """
    return _Rows(pipeline, lookup, np.random.default_rng([seed, pipeline.lookups.index(lookup)])).of(asked)


class _Rows:
    def __init__(self, pipeline: Pipeline, lookup: Lookup, random: np.random.Generator) -> None:
        self._lookup, self._random, self._values = lookup, random, HardValues(pipeline, random)
        # as conditions call them
        self._named = {one.name.partition(".")[2]: one for one in lookup.event_fields() if one.name.count("[") == 0}

    def of(self, asked: Asked) -> list[HardRow]:
        if not asked:
            return []
        random = self._random
        times = sorted(time_ms for each in asked.values() for time_ms in each)
        # but for the few events that are centuries away from the rest
        begin = max(times[len(times) // 100] - DAY_MS, 0)
        rows, whole = list[HardRow](), list[dict[str, Any]]()
        for key, each in asked.items():
            if random.random() < ROWLESS_SHARE:
                continue
            for time_ms in self._versions(each, begin):
                if random.random() < DELETED_SHARE:
                    rows.append(HardRow(str(key).encode(), None, time_ms, None))
                    continue
                whole.append(self._row(key, time_ms))
                kept = whole[-1]
                if random.random() < LEFT_OUT_SHARE:
                    kept = {name: value for name, value in kept.items() if not self._named[name].nullable}
                rows.append(HardRow(str(key).encode(), as_json(kept, random), None, None))
        rows += self._broken(whole)
        return [rows[place] for place in random.permutation(len(rows)).tolist()]

    def _versions(self, times: list[int], begin: int) -> list[int]:
        """From when on the versions of a row are valid."""
        random, found = self._random, [begin]
        for time_ms in times:
            found.append(time_ms + int(random.integers(-1, 2)))
            if random.random() < EQUAL_SHARE:
                found.append(found[-1])
            if random.random() < 0.3:
                found.append(time_ms - int(random.exponential(HOUR_MS)))
        end = min(begin + SPAN_MS, MAX_EVENT_TIME_MS)
        found = [min(max(each, begin), end) for each in found]
        if random.random() < LATE_SHARE:
            half = sorted(times)[len(times) // 2]
            found = [each for each in found if each > half] or [min(max(begin, half + 1), end)]
        return found

    def _row(self, key: Any, time_ms: int) -> dict[str, Any]:
        lookup, row = self._lookup, dict[str, Any]()
        for one in lookup.schema:
            if one.name == lookup.key:
                row[one.name] = key
            elif one.name == lookup.time:
                row[one.name] = time_value(one, lookup.time_unit, time_ms)
            else:
                row[one.name] = self._values.of(self._named[one.name])
        return row

    def _broken(self, rows: list[dict[str, Any]]) -> list[HardRow]:
        """Records that are no rows, although what is left of them is of keys and times that events ask for."""
        limit, found = self._lookup.max_record_bytes, list[HardRow]()
        for number in range(min(BROKEN_ROWS, len(rows))):
            row = rows[int(self._random.integers(len(rows)))]
            for each in broken_variants(self._lookup, row, max_record_bytes=limit):
                if each.value is None or (each.reason == "too_large" and limit >= MANY_BYTES and number):
                    continue  # without a value it deletes
                found.append(HardRow(each.key, each.value, None, each.reason))
        return [*found, HardRow(None, None, None, "null_value")] if rows else found
