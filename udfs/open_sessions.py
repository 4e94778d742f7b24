"""The open sessions of one shard's entities, and which are over: by the times of events, one by one.

A session is a stretch of an entity's events in which no two neighbours are further apart than the gap. It is closed
once the clock of its partition, as this shard sees it, is more than gap and lateness behind its last event: the clock
is the largest event time so far, or the record's where that is smaller. So what is closed, and when, does not depend
on batches and restarts. An event that comes later than that, and that no open session takes, is a session of its own,
closed at once: every event is in one session.

Where no event of a partition comes any more, its time goes on by the clock of the machine, after a while.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from udfs.entry_log import EntryLog
from udfs.errors import StateCorruptError, StateVersionError

VERSION = 1
_NEVER_MS = -(2**62)


class ClosedSession(NamedTuple):
    """A session that is over.

    Attributes:
        entity: Whose.
        key: Of its last record, where that is not the entity as text; else None.
        partition: Of its last record.
        first_ms: Time of its first event.
        last_ms: Time of its last event.
        events: How many it has.
        is_late: Whether it is one event that came too late for its session.
    """

    entity: str
    key: bytes | None
    partition: int
    first_ms: int
    last_ms: int
    events: int
    is_late: bool


class _Session(msgspec.Struct, array_like=True, gc=False):
    """An open session; `place` is that of its entry among those that are due, which is no part of the state."""

    first_ms: int
    last_ms: int
    events: int
    partition: int
    key: bytes | None
    place: int = -1


class _Entry(msgspec.Struct, array_like=True):
    """Entities whose sessions changed, with all that are open of each; the clocks of partitions."""

    version: int
    entities: list[str]
    sessions: list[list[_Session]]
    clocks: dict[int, int]


class Arrived(NamedTuple):
    """Events of a shard in order of arrival, column by column.

    Attributes:
        entities: Of each.
        keys: Of each record, where it is not the entity as text; else None.
        times_ms: Event times.
        record_times_ms: Kafka's timestamps.
        partitions: Kafka's partitions.
    """

    entities: Sequence[str]
    keys: Iterable[bytes | None]
    times_ms: Sequence[int]
    record_times_ms: Sequence[int]
    partitions: Sequence[int]


class OpenSessions:
    """What one shard knows.

    Args:
        gap_ms: The longest pause within a session.
        lateness_ms: How much longer a session stays open for events that come late.
        idle_ms: How long no event of a partition comes until time goes on without; None waits for ever.
        entries: What `take_changes` gave, numbered, in any order.
        now_ms: By the clock of the machine.

    Raises:
        StateVersionError: A version wrote an entry that this one does not know.
        StateCorruptError: An entry is none.
    """

    def __init__(
        self,
        gap_ms: int,
        lateness_ms: int,
        idle_ms: int | None,
        entries: Iterable[tuple[int, bytes]] = (),
        *,
        now_ms: int,
    ) -> None:
        self._gap_ms, self._hold_ms, self._idle_ms = gap_ms, gap_ms + lateness_ms, idle_ms
        self._open: dict[str, list[_Session]] = {}
        self._clocks: dict[int, int] = {}
        self._arrived_ms: dict[int, int] = {}
        self._due: dict[int, list[tuple[int, str, int, _Session]]] = {}
        self._places = 0
        self._changed: dict[str, None] = {}
        self._restore(sorted(entries), now_ms)

    def __len__(self) -> int:
        """How many entities have an open session."""
        return len(self._open)

    def advance(self, arrived: Arrived, now_ms: int) -> list[ClosedSession]:
        """Take in events; the sessions that they close, in order."""
        closed: list[ClosedSession] = []
        clocks, known, gap_ms = self._clocks, self._open, self._gap_ms
        for entity, key, time_ms, record_ms, partition in zip(*arrived, strict=True):
            clock_ms = min(time_ms, record_ms)
            if clock_ms > clocks.get(partition, _NEVER_MS):
                clocks[partition] = clock_ms
                due = self._due.get(partition)
                if due and due[0][0] < clock_ms:
                    closed += self._close(partition, clock_ms)
            sessions = known.get(entity)
            self._changed[entity] = None
            if sessions is not None and len(sessions) == 1:
                (session,) = sessions
                if session.partition == partition and session.first_ms - gap_ms <= time_ms <= session.last_ms + gap_ms:
                    session.events += 1
                    session.key = key
                    if time_ms > session.last_ms:
                        session.last_ms = time_ms
                    elif time_ms < session.first_ms:
                        session.first_ms = time_ms
                    continue
            event = _Session(time_ms, time_ms, 1, partition, key)
            if not self._join(entity, event) and time_ms + self._hold_ms < clocks[partition]:
                closed.append(ClosedSession(entity, key, partition, time_ms, time_ms, 1, True))
                continue
            self._keep(entity, event)
            if event.last_ms + self._hold_ms < clocks[partition]:  # it was open in a partition whose clock is behind
                closed += self._close(partition, clocks[partition])
        self._arrived_ms |= dict.fromkeys(arrived.partitions, now_ms)
        return closed

    def pass_time(self, now_ms: int) -> list[ClosedSession]:
        """The sessions that are over by the clock of the machine, in partitions of which nothing comes."""
        closed: list[ClosedSession] = []
        if self._idle_ms is None:
            return closed
        for partition, due in self._due.items():
            waited_ms = now_ms - self._arrived_ms.setdefault(partition, now_ms)
            if due and waited_ms >= self._idle_ms:
                clock_ms = self._clocks.get(partition, _NEVER_MS) + waited_ms
                if due[0][0] < clock_ms:
                    closed += self._close(partition, clock_ms)
        return closed

    def take_changes(self) -> tuple[dict[int, bytes], list[int]]:
        """Entries to put, and numbers of entries to remove."""
        if not self._changed:
            return {}, []
        removed = list[int]()
        if self._log.is_long(len(self._changed), len(self._open)):
            removed, self._changed = self._log.begin_anew(), dict.fromkeys(self._open)
        names = list(self._changed)
        entry = _Entry(VERSION, names, [self._open.get(name, []) for name in names], self._clocks)
        self._changed = {}
        return self._log.add(msgspec.msgpack.encode(entry), len(names)), removed

    def _restore(self, entries: Sequence[tuple[int, bytes]], now_ms: int) -> None:
        logged = 0
        for _, content in entries:
            entry = _decoded(content)
            logged += len(entry.entities)
            self._open.update(zip(entry.entities, entry.sessions, strict=True))
            self._clocks = entry.clocks
        self._log = EntryLog([number for number, _ in entries], logged)
        self._open = {entity: sessions for entity, sessions in self._open.items() if sessions}
        for entity, sessions in self._open.items():
            for session in sessions:
                self._wait(entity, session)
        self._arrived_ms = dict.fromkeys(self._clocks, now_ms)

    def _join(self, entity: str, event: _Session) -> bool:
        """Make an event, or what was made of it, take in the open sessions that it belongs to; whether there were any.

        They are no longer open themselves.
        """
        sessions, gap_ms = self._open.get(entity, ()), self._gap_ms
        joined = [
            each for each in sessions
            if each.first_ms - gap_ms <= event.first_ms <= each.last_ms + gap_ms
        ]  # fmt: skip
        for each in joined:
            each.place = -1
            event.first_ms = min(event.first_ms, each.first_ms)
            event.last_ms = max(event.last_ms, each.last_ms)
            event.events += each.events
        if joined:
            self._open[entity] = [each for each in sessions if each.place >= 0]
        return bool(joined)

    def _keep(self, entity: str, session: _Session) -> None:
        self._open.setdefault(entity, []).append(session)
        self._wait(entity, session)

    def _wait(self, entity: str, session: _Session) -> None:
        """Put a session among those that are due once."""
        session.place = self._places
        self._places += 1
        due = self._due.setdefault(session.partition, [])
        heapq.heappush(due, (session.last_ms + self._hold_ms, entity, session.place, session))

    def _close(self, partition: int, clock_ms: int) -> Iterator[ClosedSession]:
        """Close the sessions that are due before a time. Those that went on since wait again."""
        due = self._due[partition]
        while due and due[0][0] < clock_ms:
            deadline_ms, entity, place, session = heapq.heappop(due)
            if session.place != place:
                continue
            if session.last_ms + self._hold_ms > deadline_ms:
                self._wait(entity, session)
                continue
            rest = [each for each in self._open[entity] if each is not session]
            if rest:
                self._open[entity] = rest
            else:
                del self._open[entity]
            self._changed[entity] = None
            yield ClosedSession(
                entity, session.key, partition, session.first_ms, session.last_ms, session.events, False
            )


def _decoded(content: bytes) -> _Entry:
    try:
        entry = msgspec.msgpack.decode(content, type=_Entry)
    except (msgspec.DecodeError, ValueError) as error:
        raise StateCorruptError(f"an entry of open sessions of {len(content)} bytes is none: {error}") from error
    if entry.version != VERSION:
        raise StateVersionError(f"open sessions have version {entry.version}, this Millrace reads {VERSION}")
    if len(entry.entities) != len(entry.sessions):
        raise StateCorruptError(f"an entry of open sessions has {len(entry.entities)} entities, not as many lists")
    return entry
