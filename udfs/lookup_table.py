"""What a job has of a table of lookups: versions of its rows, each valid from its time until the next one's.

    as of a time -> the newest version of the row that is not after it -> its fields, or none: no row, or deleted

What is kept of a row ends at its floor: the newest version's time less the history, or the time of the oldest of the
`most_versions` newest, whichever is later. Whoever asks for an earlier time is told of the floor. So the answer follows
from the records alone, and not from when something was thrown away.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from udfs.lookup_entries import Entry, EntryCodec, RowVersion, Whole
from udfs.lookups import Lookup

ALWAYS_MS = -(2**62)
"""From when a row is valid that always was: before any event."""
FILE_PARTITION = -1
"""Of rows of a file; their offset is their number there."""
_LEAST_LOGGED = 4_096

Missing = Literal["no_row", "too_early", "no_key"]
"""Why an event has no row: there is none, or it was deleted; its versions are later; the event names none."""


class _Kept:
    """Versions of one row in the order of their times, those of one time in the order in which they came."""

    __slots__ = ("floor_ms", "times_ms", "versions")

    def __init__(self) -> None:
        self.times_ms: list[int] = []
        self.versions: list[RowVersion] = []
        self.floor_ms = ALWAYS_MS

    def insert(self, version: RowVersion, history_ms: int, most: int) -> None:
        times = self.times_ms
        place = bisect_right(times, version.time_ms)
        times.insert(place, version.time_ms)
        self.versions.insert(place, version)
        self.floor_ms = max(self.floor_ms, times[-1] - history_ms, times[-most] if len(times) > most else ALWAYS_MS)
        first = bisect_right(times, self.floor_ms) - 1  # the version that the floor is told
        if first > 0:
            del times[:first], self.versions[:first]


class LookupTable:
    """The rows of one table.

    Args:
        lookup: The table.
        history_ms: How long a version is kept after the next one is valid.

    Attributes:
        refused: How many records had a new key when the table had `most_rows`.
    """

    def __init__(self, lookup: Lookup, history_ms: int) -> None:
        self._lookup, self._history_ms = lookup, history_ms
        self._codec = EntryCodec(lookup)
        self._rows: dict[str, _Kept] = {}
        self._clocks_ms: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._new: list[RowVersion] = []
        self._first_entry = self._next_entry = self._logged = self._kept_versions = 0
        self.refused = 0

    def put(self, versions: Iterable[RowVersion]) -> None:
        """Take in versions, those of a partition in the order of their offsets; those that it has are passed over."""
        for version in versions:
            if version.offset < self._ends.get(version.partition, 0):
                continue
            self._ends[version.partition] = version.offset + 1
            if self._insert(version):
                self._new.append(version)

    def _insert(self, version: RowVersion) -> bool:
        kept = self._rows.get(version.key)
        if kept is not None and self._is_forgotten(kept):
            del self._rows[version.key]
            self._kept_versions -= len(kept.times_ms)
            kept = None
        clock_ms = self._clocks_ms.get(version.partition, ALWAYS_MS)
        self._clocks_ms[version.partition] = max(clock_ms, version.time_ms)
        if kept is None:
            if len(self._rows) >= self._lookup.most_rows:
                self.refused += 1
                return False
            kept = self._rows[version.key] = _Kept()
        before = len(kept.times_ms)
        kept.insert(version, self._history_ms, self._lookup.most_versions)
        self._kept_versions += len(kept.times_ms) - before
        return True

    def _is_forgotten(self, kept: _Kept) -> bool:
        """Whether a row was deleted so long ago that nothing is known of it any more."""
        newest = kept.versions[-1]
        return newest.row is None and newest.time_ms + self._history_ms <= self._clocks_ms[newest.partition]

    def find(self, key: str, as_of_ms: int) -> "RowVersion | Missing":
        """The version of a row as of a time, or why there is none."""
        kept = self._rows.get(key)
        if kept is None:
            return "no_row"
        if as_of_ms >= kept.times_ms[-1]:
            found = kept.versions[-1]
        elif self._is_forgotten(kept):
            return "no_row"
        else:
            place = bisect_right(kept.times_ms, max(as_of_ms, kept.floor_ms)) - 1
            if place < 0:
                return "too_early"
            found = kept.versions[place]
        return "no_row" if found.row is None else found

    def find_all(self, keys: Sequence[str | None], as_of_ms: npt.NDArray[np.int64]) -> "list[RowVersion | Missing]":
        """The version of a row as of a time, of n keys and (n,) times."""
        find = self.find
        times = as_of_ms.tolist()
        return ["no_key" if key is None else find(key, time) for key, time in zip(keys, times, strict=True)]

    def __len__(self) -> int:
        """How many rows there are, deleted ones included while they are known."""
        return len(self._rows)

    @property
    def ends(self) -> dict[int, int]:
        """By partition, the offset after the last record that was taken in."""
        return dict(self._ends)

    def take_changes(self) -> tuple[dict[int, bytes], list[int]]:
        """Entries to put into the state, and numbers of entries to remove: what is new, and now and then all."""
        put, removed = dict[int, bytes](), list[int]()
        # a log with rows forgotten since would not fit into a full table again
        is_cleared = len(self._rows) >= self._lookup.most_rows and self._forget()
        if not self._new and not is_cleared:
            return put, removed
        if is_cleared or self._logged + len(self._new) > max(2 * self._kept_versions, _LEAST_LOGGED):
            self._forget()
            removed = list(range(self._first_entry, self._next_entry))
            self._first_entry, self._logged = self._next_entry, self._kept_versions
            entries = self._whole()
        else:
            self._logged += len(self._new)
            entries = self._codec.packed(self._new)
        for entry in entries:
            put[self._next_entry] = entry
            self._next_entry += 1
        self._new = []
        return put, removed

    def _forget(self) -> bool:
        """Let go of rows that were deleted long ago; whether there were some."""
        forgotten = [key for key, kept in self._rows.items() if self._is_forgotten(kept)]
        for key in forgotten:
            self._kept_versions -= len(self._rows.pop(key).times_ms)
        return bool(forgotten)

    def _whole(self) -> Iterator[bytes]:
        kept = [(version, each.floor_ms) for each in self._rows.values() for version in each.versions]
        whole = Whole([floor_ms for _, floor_ms in kept], self._clocks_ms, self._ends)
        return self._codec.packed([version for version, _ in kept], whole)

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """All of it, numbered, for `restore`: at least one entry."""
        return enumerate(self._whole())

    @classmethod
    def restore(cls, lookup: Lookup, history_ms: int, entries: Iterable[tuple[int, bytes]]) -> "LookupTable":
        """Read what `take_changes` gave.

        Args:
            lookup: As of the class.
            history_ms: As of the class.
            entries: Numbered, in any order.

        Raises:
            StateVersionError: A version wrote it that this one does not know, or the table has other fields by now.
            StateCorruptError: An entry is none.
        """
        table, numbered = cls(lookup, history_ms), sorted(entries)
        for _, content in numbered:
            table._take(table._codec.entry(content))
        table._new.clear()
        if numbered:
            table._first_entry, table._next_entry = numbered[0][0], numbered[-1][0] + 1
        return table

    def _take(self, entry: Entry) -> None:
        versions = self._codec.versions(entry)
        if not entry.is_all:
            self.put(versions)
        else:
            for version, floor_ms in zip(versions, entry.floors_ms, strict=True):
                kept = self._rows.setdefault(version.key, _Kept())
                kept.insert(version, self._history_ms, self._lookup.most_versions)
                kept.floor_ms = max(kept.floor_ms, floor_ms)
            self._kept_versions = sum(len(kept.times_ms) for kept in self._rows.values())
            self._clocks_ms.update(entry.clocks_ms)
            self._ends.update(entry.ends)
        self._logged += len(entry.keys)
