"""The numbers of a log's entries, which is begun anew when it says much more than there is.

entry entry entry | all that is known, in one entry; everything before goes
"""

from collections.abc import Iterable

_LEAST_LOGGED = 4_096


class EntryLog:
    """Numbers what changed of a few things that are known, as a shard's map of entries has it.

    Args:
        numbers: Of the entries that there are.
        logged: How many things they name in all.
    """

    def __init__(self, numbers: Iterable[int] = (), logged: int = 0) -> None:
        known = sorted(numbers)
        self._first, self._next = (known[0], known[-1] + 1) if known else (0, 0)
        self._logged = logged

    def is_long(self, more: int, known: int) -> bool:
        """Whether it would name many more things than are known, with more of them."""
        return self._logged + more > max(2 * known, _LEAST_LOGGED)

    def begin_anew(self) -> list[int]:
        """The numbers of all entries: what is added next says everything."""
        removed = list(range(self._first, self._next))
        self._first, self._logged = self._next, 0
        return removed

    def add(self, entry: bytes, named: int) -> dict[int, bytes]:
        """An entry that names so many things, by its number."""
        self._next += 1
        self._logged += named
        return {self._next - 1: entry}
