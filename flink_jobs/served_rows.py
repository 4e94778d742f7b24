"""The rows of lookups that events saw when they were answered: what `verify` and `explain` compute again with.

    place in the receipt -> that version of the row, if the topic still has it -> fields of the event to features
                         -> is it of the event's key, and not of a later time? has the history another one by now?

An event whose answer tells no rows, as one without an answer, sees those that a backfill says.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flink_jobs.row_marks import RowState, write_marks
from flink_jobs.served_answers import BUCKET_OFFSETS, NO_ROW, NOT_TOLD, AnswerFiles, Bucket
from udfs.lookup_entries import RowVersion
from udfs.lookup_join import Found, LookupHistory, LookupJoin, default_row
from udfs.lookups import Lookup
from udfs.pipeline import Pipeline

Place = tuple[int, int]
Numbers = npt.NDArray[np.int64]


class SeenRow(NamedTuple):
    """The row of a table that an event saw.

    Attributes:
        key: That the event names; None if it names none.
        state: What is to be said of it.
        told: Its place in the table's topic, or NO_ROW or NOT_TOLD.
        row: Its fields; the defaults where there was none. Where it is gone, what a backfill says.
        version: What the fields are of; None for the defaults.
        now: What a backfill says.
    """

    key: str | None
    state: RowState
    told: Place
    row: Any
    version: RowVersion | None
    now: Found


class ServedPlaces(NamedTuple):
    """Where to find out which rows events saw.

    Attributes:
        answers: What was served.
        live: By partition, the first offset that the job itself answered: state for what is before was built from
            history.
        row_ends: By topic of lookups and partition, where it ended when that was done.
        marks: A folder for what is to be said of rows; None keeps nothing.
    """

    answers: AnswerFiles
    live: Mapping[int, int]
    row_ends: Mapping[str, Mapping[int, int]]
    marks: Path | None


class ServedRows:
    """Finds the rows that the events of one pipeline saw.

    Args:
        pipeline: One with lookups.
        histories: All versions that its tables have now, by name.
        places: Where receipts tell the rows.
    """

    def __init__(self, pipeline: Pipeline, histories: Mapping[str, LookupHistory], places: ServedPlaces) -> None:
        self._lookups, self._events = pipeline.lookups, pipeline.events
        self._histories = self._built_with = histories
        self._places, self._asked = places, LookupJoin(pipeline, histories).asked
        if places.row_ends:
            ends = {each.name: places.row_ends.get(str(each.topic), {}) for each in pipeline.lookups}
            self._built_with = {name: each.before(ends[name]) for name, each in histories.items()}
        self._defaults = {each.name: default_row(each) for each in pipeline.lookups}
        self._bucket: tuple[Bucket, npt.NDArray[Any]] | None = None

    def rows(self, events: Sequence[Any], partition: int, offsets: Numbers) -> dict[str, list[Any]]:
        """Of each table, the rows that n events saw; what is to be said of them is put down.

        Args:
            events: Objects with the event's fields.
            partition: Of all of them.
            offsets: (n,) of theirs, ascending.
        """
        seen = self.seen(events, partition, offsets)
        folder = self._places.marks
        if folder is not None and len(events):
            states = np.array([[each.state for each in seen[lookup.name]] for lookup in self._lookups], np.uint8).T
            times_ms = self._events.times_ms([getattr(event, self._events.time) for event in events])
            entities = [str(getattr(event, self._events.entity)) for event in events]
            write_marks(folder, partition, offsets, times_ms, entities, states)
        return {name: [each.row for each in found] for name, found in seen.items()}

    def seen(self, events: Sequence[Any], partition: int, offsets: Numbers) -> dict[str, list[SeenRow]]:
        """Of each table, the rows that n events saw; arguments as of `rows`."""
        told, asked, found = self._told(partition, offsets), self._asked(events), dict[str, list[SeenRow]]()
        built = int(np.searchsorted(offsets, self._places.live.get(partition, 0)))
        for number, lookup in enumerate(self._lookups):
            keys, as_of_ms = asked[lookup.name]
            # what a backfill says; of events that the state was built from, what it said then
            then = self._built_with[lookup.name].find_all(keys[:built], as_of_ms[:built])
            now = self._histories[lookup.name].find_all(keys[built:], as_of_ms[built:])
            places = map(tuple, told[:, number].tolist())
            each = zip(keys, as_of_ms.tolist(), places, [*then, *now], strict=True)
            found[lookup.name] = [self._seen(lookup, *one) for one in each]
        return found

    def _seen(self, lookup: Lookup, key: str | None, as_of_ms: int, told: Place, now: Found) -> SeenRow:
        version = None if isinstance(now, str) else now
        if told == NOT_TOLD:
            state = RowState.NOT_TOLD
        elif told == NO_ROW:
            state = RowState.SAME if version is None else RowState.NONE
            version = None
        else:
            named = self._histories[lookup.name].at(*told)
            state = _state(named, key, as_of_ms, now)
            version = version if named is None or named.row is None else named
        row = self._defaults[lookup.name] if version is None else version.row
        return SeenRow(key, state, told, row, version, now)

    def _told(self, partition: int, offsets: Numbers) -> Numbers:
        """(n, lookups, 2) places of rows."""
        places = np.full((len(offsets), len(self._lookups), 2), NOT_TOLD, np.int64)
        for number in np.unique(offsets // BUCKET_OFFSETS).tolist():
            answers = self._answers((partition, number))
            answered, first = np.unique(answers["offset"], return_index=True)
            _, of_answers, of_events = np.intersect1d(answered, offsets, assume_unique=True, return_indices=True)
            places[of_events] = answers["rows"][first[of_answers]]
        places[offsets < self._places.live.get(partition, 0)] = NOT_TOLD
        return places

    def _answers(self, bucket: Bucket) -> npt.NDArray[Any]:
        if self._bucket is None or self._bucket[0] != bucket:
            self._bucket = bucket, self._places.answers.bucket(bucket)
        return self._bucket[1]


def _state(named: RowVersion | None, key: str | None, as_of_ms: int, now: Found) -> RowState:
    if named is None:
        return RowState.GONE
    if named.row is None:
        return RowState.DELETES
    if named.key != key:
        return RowState.OTHER_KEY
    if named.time_ms > as_of_ms:
        return RowState.TOO_NEW
    return RowState.SAME if named is now else RowState.OLDER
