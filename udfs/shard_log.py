"""Which entries a shard's log gets and loses: every batch its events, now and then a slice of the entities.

    events events events | slice events slice events ... slice | events events
                           everything before goes once all entities have been written

The log is rewritten while batches go on. A round begins when more events were logged than rows are kept, writes a few
entities with each batch, and ends when all that were there at its beginning are written; then nothing before its first
slice is needed. Reading takes the entries in order, and a slice replaces what was known of its entities: whatever
became of an entity whose earlier events are gone already, its slice puts right, or its partition's clock forgets it.
"""

import numpy as np
import numpy.typing as npt

from udfs.shard_memory import ShardMemory
from udfs.snapshots import EntityWriter
from udfs.state_log import EVENTS, encode

_ROWS_AN_EVENT = 3
"""Rows that a round writes for each event logged: it is over after as many events as a third of the rows kept."""
_LEAST_ROWS, _MOST_ROWS = 512, 4_096
"""Rows of one slice: few enough for a short stop, enough to be worth an entry of its own."""
_REMOVED_AT_ONCE = 64
_TOO_MANY = 4
"""How many times too many events a log holds only where restarts come faster than rounds end: then a round is written
in one go."""


class ShardLog:
    """The log of one shard.

    Args:
        memory: The shard's arrays.
        layout: The layout of entries, as JSON.
        compact_after: Fewest events logged before a round begins.
    """

    def __init__(self, memory: ShardMemory, layout: bytes, compact_after: int) -> None:
        self.layout = layout
        self._memory, self._compact_after = memory, compact_after
        self._pending: list[tuple[bytes, npt.NDArray[np.int64]]] = []
        self._first_entry = self._next_entry = 0
        self._logged = 0
        self._rows_kept = 0
        self._needed_from = 0
        self._round: EntityWriter | None = None
        self._round_entry, self._rows_written, self._rows_due = 0, 0, 0
        self._in_one_go = self._rewrites = False

    def add(self, keys: bytes, events: npt.NDArray[np.int64]) -> None:
        """Log events at the next `take_changes`; the array must not change."""
        self._pending.append((keys, events))

    def resume(self, first_entry: int, next_entry: int, events_logged: int) -> None:
        """Go on with a log that was read; its entries have the numbers first_entry..next_entry-1."""
        self._first_entry, self._next_entry = first_entry, next_entry
        self._logged, self._rows_kept = events_logged, self._memory.rows_kept()

    def rewrite(self) -> None:
        """Write everything anew at the next `take_changes`, and remove everything before."""
        self._rewrites = True

    def take_changes(self) -> tuple[dict[int, bytes], list[int]]:
        """Entries to put, and numbers of entries to remove."""
        put: dict[int, bytes] = {}
        if self._pending:
            put[self._new_number()] = self._events_entry()
        enough = max(self._compact_after, self._rows_kept)
        if self._round is None and (self._rewrites or self._logged > enough):
            self._in_one_go = self._rewrites or self._logged > _TOO_MANY * enough
            self._round = EntityWriter(self._memory, self.layout)
            self._round_entry, self._rows_written, self._rows_due = self._next_entry, 0, _LEAST_ROWS
            self._logged = 0
        while self._round is not None and self._rows_due >= _LEAST_ROWS:
            put[self._new_number()] = self._slice_entry(self._round)
            self._rows_due = _MOST_ROWS if self._in_one_go else 0
        removed = self._unneeded(self._next_entry if self._rewrites else _REMOVED_AT_ONCE)
        self._rewrites = False
        return put, removed

    def _new_number(self) -> int:
        self._next_entry += 1
        return self._next_entry - 1

    def _events_entry(self) -> bytes:
        keys, events = self._pending[0]
        if len(self._pending) > 1:
            keys = b"\0".join(keys for keys, _ in self._pending)
            events = np.concatenate([events for _, events in self._pending])
        self._pending.clear()
        self._logged += len(events)
        self._rows_due += _ROWS_AN_EVENT * len(events)
        return encode(EVENTS, self.layout, keys, events)

    def _slice_entry(self, writer: EntityWriter) -> bytes:
        entry, rows = writer.next_entry(min(self._rows_due, _MOST_ROWS))
        self._rows_written += rows
        if writer.done:
            self._round, self._rows_kept, self._needed_from = None, self._rows_written, self._round_entry
        return entry

    def _unneeded(self, most: int) -> list[int]:
        first = self._first_entry
        self._first_entry = max(first, min(self._needed_from, first + most))
        return list(range(first, self._first_entry))
