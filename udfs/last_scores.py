"""The last score of each entity of a shard, and the log of them that is kept with the shard's state.

As of a shard's events only what is new is written, and all of it now and then, so that the log stays about as long as
what it says.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from udfs.entry_log import EntryLog
from udfs.errors import StateCorruptError, StateVersionError

VERSION = 1


class Scored(NamedTuple):
    """A score, and the time (ms) of its event."""

    score: float
    time_ms: int


class _Entry(msgspec.Struct, array_like=True):
    version: int
    entities: list[str]
    scores: list[float]
    times_ms: list[int]


class LastScores:
    """What one shard knows.

    Args:
        within_ms: Scores that much older than the newest event are forgotten.
        most: Most entities to be known; who was scored longest ago is forgotten first.
    """

    def __init__(self, within_ms: int, most: int) -> None:
        self._within_ms, self._most = within_ms, most
        self._known: dict[str, Scored] = {}
        self._new: dict[str, None] = {}
        self._log = EntryLog()
        self._newest_ms = -(2**62)

    @classmethod
    def restore(cls, within_ms: int, most: int, entries: Iterable[tuple[int, bytes]]) -> "LastScores":
        """Read what `take_changes` gave.

        Args:
            within_ms: As of the class.
            most: As of the class.
            entries: Numbered, in any order.

        Raises:
            StateVersionError: A version wrote it that this one does not know.
            StateCorruptError: An entry is none.
        """
        scores = cls(within_ms, most)
        numbered, logged = sorted(entries), 0
        for _, content in numbered:
            entry = _decoded(content)
            scores.note(entry.entities, entry.scores, entry.times_ms)
            logged += len(entry.entities)
        scores._new.clear()
        scores._log = EntryLog([number for number, _ in numbered], logged)
        return scores

    def note(self, entities: Sequence[str], scores: Sequence[float], times_ms: Sequence[int]) -> None:
        """Take in the scores of events in order of arrival."""
        if not entities:
            return
        known = self._known
        for entity, score, time_ms in zip(entities, scores, times_ms, strict=True):
            known.pop(entity, None)  # so that it is the last of all
            known[entity] = Scored(score, time_ms)
        self._new |= dict.fromkeys(entities)
        self._newest_ms = max(self._newest_ms, max(times_ms))
        while len(known) > self._most:
            del known[next(iter(known))]

    def get(self, entity: str) -> Scored | None:
        """The last score, however old; None if there is none."""
        return self._known.get(entity)

    def is_of_use(self, scored: Scored, time_ms: int) -> bool:
        """Whether a score is new enough for an event of that time."""
        return scored.time_ms >= time_ms - self._within_ms

    def take_changes(self) -> tuple[dict[int, bytes], list[int]]:
        """Entries to put, and numbers of entries to remove."""
        if not self._new:
            return {}, []
        removed = list[int]()
        if self._log.is_long(len(self._new), len(self._known)):
            self._known = {name: each for name, each in self._known.items() if self.is_of_use(each, self._newest_ms)}
            removed, self._new = self._log.begin_anew(), dict.fromkeys(self._known)
        names = [name for name in self._new if name in self._known]
        scored = [self._known[name] for name in names]
        entry = _Entry(VERSION, names, [each.score for each in scored], [each.time_ms for each in scored])
        self._new = {}
        return self._log.add(msgspec.msgpack.encode(entry), len(names)), removed

    def __len__(self) -> int:
        """How many entities are known."""
        return len(self._known)


def _decoded(content: bytes) -> _Entry:
    try:
        entry = msgspec.msgpack.decode(content, type=_Entry)
    except (msgspec.DecodeError, ValueError) as error:
        raise StateCorruptError(f"an entry of last scores of {len(content)} bytes is none: {error}") from error
    if entry.version != VERSION:
        raise StateVersionError(f"last scores have version {entry.version}, this Millrace reads {VERSION}")
    if not len(entry.entities) == len(entry.scores) == len(entry.times_ms):
        raise StateCorruptError(f"an entry of last scores has {len(entry.entities)} entities, not as many scores")
    return entry
