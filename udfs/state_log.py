"""The bytes of a shard's state: entries of a log, each self-describing and versioned.

An entry is a header (magic, version, kind, checksum, lengths), then the layout (names of columns, conditions and tiles,
as JSON), the keys of entities, and three stretches of little-endian words. EVENTS entries hold events to be taken in
again, SNAPSHOT entries everything of some entities. Reading maps columns by name: what a pipeline no longer reads is
dropped, what is new to it is missing (NaN, false).
"""

import functools
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.errors import StateCorruptError, StateVersionError

MAGIC, VERSION, OLDEST_VERSION = b"MRST", 3, 2
EVENTS, SNAPSHOT = 1, 2
_BEGIN = struct.Struct("<4sHHI")
_LENGTHS = struct.Struct("<5I")
_SECTIONS = ("layout", "keys", "clocks", "heads", "rows")
_WORD = np.dtype("<i8")
_NONE = np.empty(0, np.int64)
HEAD = 4
"""Words of an entity's head before the numbers of its rows; one less in version 2."""

Words = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Entry:
    """A decoded entry.

    Attributes:
        kind: EVENTS or SNAPSHOT.
        layout: Names; shared by all entries that have the same.
        count: How many events (EVENTS) or entities (SNAPSHOT).
        keys: One key each, as `entity_keys.joined_keys` writes them.
        clocks: (partitions,) int64, ms; SNAPSHOT only.
        heads: (entities, 4 + stores) int64: largest time, largest time dropped, partition, when it was active, rows in
            each store; SNAPSHOT only.
        rows: (words,) int64 of the events, or of the rows of each entity's stores.
    """

    kind: int
    layout: dict[str, Any]
    count: int
    keys: bytes
    clocks: Words
    heads: Words
    rows: Words


def encode(
    kind: int, layout: bytes, keys: bytes, rows: Words, *, clocks: Words = _NONE, heads: Words = _NONE
) -> bytes:
    """An entry's bytes; the parts are those of `Entry`, the layout as JSON."""
    parts = (layout, keys, _octets(clocks), _octets(heads), _octets(rows))
    lengths = _LENGTHS.pack(*map(len, parts))
    return b"".join((_BEGIN.pack(MAGIC, VERSION, kind, _checksum(kind, lengths, parts)), lengths, *parts))


def _octets(words: Words) -> bytes:
    return words.astype(_WORD, copy=False).tobytes()


def _checksum(kind: int, lengths: bytes, parts: Sequence[bytes | memoryview]) -> int:
    checksum = zlib.crc32(lengths, kind)
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return checksum


def decode(data: bytes) -> Entry:
    """Read an entry.

    Raises:
        StateVersionError: If a version wrote it that this one does not know.
        StateCorruptError: If its bytes do not add up.
    """
    if len(data) < _BEGIN.size or data[:4] != MAGIC:
        raise StateCorruptError(
            f"state entry of {len(data)} bytes does not begin with {MAGIC!r}: it is no Millrace state"
        )
    _, version, kind, checksum = _BEGIN.unpack_from(data)
    if not OLDEST_VERSION <= version <= VERSION:
        raise StateVersionError(
            f"state has version {version}, this Millrace reads {OLDEST_VERSION} and {VERSION}; "
            "start the one that wrote it"
        )
    if kind not in (EVENTS, SNAPSHOT):
        raise StateCorruptError(f"state entry has kind {kind}, which version {version} does not write")
    header = _BEGIN.size + _LENGTHS.size
    if len(data) < header:
        raise StateCorruptError(f"state entry of {len(data)} bytes: its header is cut off")
    lengths = _LENGTHS.unpack_from(data, _BEGIN.size)
    end, parts = header, []
    for name, length in zip(_SECTIONS, lengths, strict=True):
        if end + length > len(data):
            raise StateCorruptError(f"state entry: {name} has {len(data) - end} of {length} bytes")
        parts.append(memoryview(data)[end : end + length])
        end += length
    if end != len(data):
        raise StateCorruptError(f"state entry: {len(data) - end} bytes too many")
    if _checksum(kind, data[_BEGIN.size : header], parts) != checksum:
        raise StateCorruptError(f"state entry of {len(data)} bytes: checksum does not match its content")
    layout, keys, clocks, heads, rows = parts
    try:
        names = _layout(bytes(layout))
        found = _words(heads) if version == VERSION else _with_active(_words(heads), names)
        return _entry(kind, names, bytes(keys), _words(clocks), found, _words(rows))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError) as error:
        raise StateCorruptError(f"state entry: its layout is none ({type(error).__name__}: {error})") from error


@functools.lru_cache(maxsize=64)
def _layout(layout: bytes) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(layout)
    return parsed


def _words(part: memoryview) -> Words:
    if len(part) % _WORD.itemsize:
        raise StateCorruptError(f"state entry: {len(part)} bytes are no whole number of words")
    # a copy: kernels are compiled for writable, aligned arrays
    return np.frombuffer(part, _WORD).astype(np.int64, copy=True)


def _with_active(heads: Words, layout: dict[str, Any]) -> Words:
    """The heads of version 2, where an entity was active at its largest time."""
    width = HEAD - 1 + len(store_widths(layout))
    if len(heads) % width:
        raise StateCorruptError(f"state entry: {len(heads)} words of heads, not {width} an entity")
    heads = heads.reshape(-1, width)
    return np.insert(heads, HEAD - 1, heads[:, 0], axis=1).ravel()


def _entry(kind: int, layout: dict[str, Any], keys: bytes, clocks: Words, heads: Words, rows: Words) -> Entry:
    """Refuses parts that disagree about how many there are of what."""
    words, width = (rows, event_width(layout)) if kind == EVENTS else (heads, HEAD + len(store_widths(layout)))
    count = len(words) // width
    if len(words) % width or (keys.count(0) + 1 != count and (keys or count)):
        raise StateCorruptError(f"state entry: {len(words)} words for {keys.count(0) + 1} keys, not {width} a key")
    heads = heads.reshape(-1, width) if kind == SNAPSHOT else heads
    if kind == SNAPSHOT:
        kept = heads[:, HEAD:]
        if (kept < 0).any() or int((kept * store_widths(layout)).sum()) != len(rows):
            raise StateCorruptError(f"state entry: {len(rows)} words of rows are not as many as its entities have")
    return Entry(kind, layout, count, keys, clocks, heads, rows)


def event_width(layout: Mapping[str, Any]) -> int:
    """Words of an event in an entry."""
    return 4 + len(layout["columns"])


def store_widths(layout: Mapping[str, Any]) -> Words:
    """(stores,) int64: words of a row of each store, as an entry with this layout has them."""
    events, tiles, distincts = layout["kept_columns"], layout["tiles"], layout["distincts"]
    widths = [1 + layout["mask_words"] + events, *[1 + layout["tile_width"]] * len(tiles), *[2] * len(distincts)]
    return np.array(widths, np.int64)
