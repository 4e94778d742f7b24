"""Which entries a shard's log gets and loses: every batch its events, now and then a slice of the entities.

    events events events | slice events slice events ... slice | events events
                           everything before goes once all entities have been written

The log is rewritten while batches go on. A round begins when more events were logged than rows are kept, writes a few
entities with each batch, and ends when all that were there at its beginning are written; then nothing before its first
slice is needed. Reading takes the entries in order, and a slice replaces what was known of its entities: whatever
became of an entity whose earlier events are gone already, its slice puts right, or its partition's clock forgets it.
"""

from collections import deque

import numpy as np
import numpy.typing as npt

from udfs.shard_memory import ShardMemory
from udfs.snapshots import EntityWriter
from udfs.state_log import EVENTS, Entry, encode

_ROWS_AN_EVENT = 3
"""Rows that a round writes for each event logged: a round is over before as many events came as a third of what is kept."""
_LEAST_ROWS, _MOST_ROWS = 512, 4_096
"""Rows of one slice: few enough for a short stop, enough to be worth an entry of its own."""
_REMOVED_AT_ONCE = 64


class ShardLog:
    """The log of one shard.

    Args:
        memory: The shard's arrays.
        layout: The layout of entries, as JSON.
        compact_after: Fewest events logged before a round begins.
    """

    def __init__(self, memory: ShardMemory, layout: bytes, compact_after: int) -> None:
        self._memory, self._layout, self._compact_after = memory, layout, compact_after
        self._pending: list[tuple[bytes, npt.NDArray[np.int64]]] = []
        self._entries: deque[int] = deque()
        self._next_entry = 0
        self._logged = 0
        self._rows_kept = 0
        self._needed_from = 0
        self._round: EntityWriter | None = None
        self._round_entry, self._rows_written, self._rows_due = 0, 0, 0

    def add(self, keys: bytes, events: npt.NDArray[np.int64]) -> None:
        """Log events at the next `take_changes`; the array must not change."""
        self._pending.append((keys, events))

    def restored(self, number: int, entry: Entry) -> None:
        """Know an entry that was read; they come in order."""
        self._entries.append(number)
        self._next_entry = number + 1
        if entry.kind == EVENTS:
            self._logged += entry.count
            self._rows_kept = self._memory.rows_kept()

    def take_changes(self) -> tuple[dict[int, bytes], list[int]]:
        """Entries to put, and numbers of entries to remove."""
        put: dict[int, bytes] = {}
        if self._pending:
            put[self._new_number()] = self._events_entry()
        if self._round is None and self._logged > max(self._compact_after, self._rows_kept):
            self._round = EntityWriter(self._memory, self._layout)
            self._round_entry, self._rows_written, self._rows_due = self._next_entry, 0, _LEAST_ROWS
            self._logged = 0
        if self._round is not None and self._rows_due >= _LEAST_ROWS:
            put[self._new_number()] = self._slice_entry(self._round)
        return put, self._unneeded()

    def _new_number(self) -> int:
        number = self._next_entry
        self._entries.append(number)
        self._next_entry += 1
        return number

    def _events_entry(self) -> bytes:
        keys, events = self._pending[0]
        if len(self._pending) > 1:
            keys = b"\0".join(keys for keys, _ in self._pending)
            events = np.concatenate([events for _, events in self._pending])
        self._pending.clear()
        self._logged += len(events)
        self._rows_due += _ROWS_AN_EVENT * len(events)
        return encode(EVENTS, self._layout, keys, events)

    def _slice_entry(self, writer: EntityWriter) -> bytes:
        entry, rows = writer.next_entry(min(self._rows_due, _MOST_ROWS))
        self._rows_written += rows
        self._rows_due = 0
        if writer.done:
            self._round, self._rows_kept, self._needed_from = None, self._rows_written, self._round_entry
        return entry

    def _unneeded(self) -> list[int]:
        removed: list[int] = []
        while self._entries and self._entries[0] < self._needed_from and len(removed) < _REMOVED_AT_ONCE:
            removed.append(self._entries.popleft())
        return removed
