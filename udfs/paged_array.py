"""Arrays that grow page by page."""

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt


class PagedArray:
    """A one-dimensional array, zero where nothing was written, in memory of its own.

    It grows without a copy, and without being in memory twice; what was never written takes no memory; and it goes back
    to the system when it is dropped, where malloc would keep it.

    Attributes:
        length: Its elements.
    """

    def __init__(self, kind: npt.DTypeLike, length: int) -> None:
        self._kind, self.length = np.dtype(kind), length
        self._pages = mmap.mmap(-1, self._bytes(length), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def _bytes(self, length: int) -> int:
        return max(length * self._kind.itemsize, mmap.PAGESIZE)

    def array(self) -> npt.NDArray[Any]:
        """The array; while it or a view of it is alive, `grow` raises BufferError."""
        return np.frombuffer(self._pages, self._kind, self.length)

    def grow(self, length: int) -> None:
        """Make it longer."""
        if length > self.length:
            self._pages.resize(self._bytes(length))
            self.length = length
