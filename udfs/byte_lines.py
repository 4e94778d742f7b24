"""Many byte strings in one: their lengths, and their contents one after the other."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_NEWLINE = 10


class Lines:
    """n byte strings, each of which may be null and may hold newlines of its own.

    Args:
        lengths: (n,) int32 in bytes; -1 is null.
        content: The strings, each with a newline behind it.
    """

    __slots__ = ("_ends", "content", "lengths")

    def __init__(self, lengths: npt.NDArray[np.int32], content: bytes) -> None:
        self.lengths, self.content = lengths, content
        self._ends: list[int] | None = None

    @classmethod
    def of(cls, strings: Sequence[bytes | None]) -> "Lines":
        """Lines of some strings."""
        lengths = np.array([-1 if one is None else len(one) for one in strings], np.int32)
        return cls(lengths, b"".join([one + b"\n" for one in strings if one is not None]))

    @classmethod
    def split(cls, content: bytes) -> "Lines":
        """Lines of a text that has newlines only between them and at its end."""
        ends = (np.frombuffer(content, np.uint8) == _NEWLINE).nonzero()[0]
        lengths = ends.astype(np.int32)
        lengths[1:] -= lengths[:-1] + 1  # the right side is computed before it is stored
        return cls(lengths, content)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> bytes | None:
        """One of the strings."""
        if self._ends is None:
            self._ends = self.ends().tolist()
        length, end = int(self.lengths[row]), self._ends[row]
        return None if length < 0 else self.content[end - length - 1 : end - 1]

    def ends(self) -> npt.NDArray[np.int64]:
        """(n,) int64: where each ends, behind its newline."""
        return np.cumsum(self.lengths + 1, dtype=np.int64)

    def tolist(self) -> list[bytes | None]:
        """All of them."""
        content, end, strings = self.content, 0, []
        for length in self.lengths.tolist():
            begin, end = end, end + length + 1
            strings.append(None if length < 0 else content[begin : end - 1])
        return strings

    def pick(self, rows: Sequence[int]) -> "Lines":
        """Those of some rows."""
        return Lines.of([self[row] for row in rows])

    def to_bytes(self) -> bytes:
        """Lengths (int32, little-endian), then the content."""
        return self.lengths.tobytes() + self.content
