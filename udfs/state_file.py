"""A shard's log as one stretch of bytes, for a state handed over in a file: number and length before each entry."""

import struct
from collections.abc import Iterable, Iterator

from udfs.errors import StateCorruptError, StateVersionError

MAGIC, VERSION = b"MRSF", 1
_HEAD = struct.Struct("<4sI")
_ENTRY = struct.Struct("<qq")


def packed(entries: Iterable[tuple[int, bytes]]) -> Iterator[bytes]:
    """The bytes, piece by piece, of entries as `ShardState.entries` gives them."""
    yield _HEAD.pack(MAGIC, VERSION)
    for number, entry in entries:
        yield _ENTRY.pack(number, len(entry))
        yield entry


def unpacked(content: bytes) -> list[tuple[int, bytes]]:
    """The entries, for `ShardState.restore`.

    Raises:
        StateVersionError: The bytes have a version this one does not read.
        StateCorruptError: They do not add up, or hold no entry.
    """
    if content[:4] != MAGIC or len(content) < _HEAD.size:
        raise StateCorruptError("state file: these bytes are none")
    _, version = _HEAD.unpack_from(content)
    if version != VERSION:
        raise StateVersionError(f"state file: version {version}, and {VERSION} is read")
    entries, at = [], _HEAD.size
    while at < len(content):
        if at + _ENTRY.size > len(content):
            raise StateCorruptError("state file: cut off")
        number, length = _ENTRY.unpack_from(content, at)
        at += _ENTRY.size
        if length < 0 or at + length > len(content):
            raise StateCorruptError("state file: cut off")
        entries.append((number, content[at : at + length]))
        at += length
    if not entries:
        raise StateCorruptError("state file: no entries")
    return entries
