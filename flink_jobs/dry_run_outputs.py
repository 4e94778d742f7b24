"""Files of a dry run's outputs: a length before each batch of output records, read while they are written."""

import struct
from collections.abc import Iterator
from pathlib import Path

from udfs.output_batch import OutputRecord, read_outputs

SUFFIX = ".outputs"
_LENGTH = struct.Struct("<I")


def framed(batch: bytes) -> bytes:
    """A batch as it is in a file."""
    return _LENGTH.pack(len(batch)) + batch


class KeptOutputs:
    """Reads what the job has written so far.

    Args:
        folder: As `start_dry_run` was given it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._done: dict[Path, int] = {}

    def new_ones(self) -> Iterator[OutputRecord]:
        """The output records since the last call."""
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            at = self._done.get(path, 0)
            with path.open("rb") as file:
                file.seek(at)
                content = file.read()
            end = 0
            while end + _LENGTH.size <= len(content):
                (length,) = _LENGTH.unpack_from(content, end)
                if end + _LENGTH.size + length > len(content):
                    break
                begin = end + _LENGTH.size
                yield from read_outputs(content[begin : begin + length])
                end = begin + length
            self._done[path] = at + end
