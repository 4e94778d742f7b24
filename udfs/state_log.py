"""The bytes of a shard's state: entries of a log, each self-describing and versioned.

An entry is a header (magic, version, kind, checksum), the layout (names of columns, conditions and tiles, as JSON) and
raw little-endian arrays. EVENTS entries hold events to be taken in again, SNAPSHOT entries everything of some entities.
Reading maps columns by name: what a pipeline no longer reads is dropped, what is new to it is missing (NaN, false).
"""

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.errors import StateCorruptError, StateVersionError

MAGIC, VERSION = b"MRST", 1
EVENTS, SNAPSHOT = 1, 2
_HEADER = struct.Struct("<4sHBBII")
_ARRAY = struct.Struct("<BBxxII")
_TYPES = tuple(np.dtype(name) for name in ("<i8", "<u8", "<f8", "<i4", "<u4", "<u1"))
_ARRAYS = {
    EVENTS: ("key_lengths", "keys", "times", "clocks", "partitions", "columns", "masks"),
    SNAPSHOT: (
        "key_lengths", "keys", "max_times", "cuts", "partitions", "clocks",
        "event_counts", "event_times", "event_masks", "event_values",
        "tile_counts", "tiles", "tile_values", "distinct_counts", "distinct_tiles", "distinct_values",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A decoded entry: its kind, its layout, the entities' keys, and its arrays by name."""

    kind: int
    layout: dict[str, Any]
    entities: list[str]
    arrays: dict[str, npt.NDArray[Any]]

    def check_length(self, name: str, rows: int) -> None:
        """Refuse an array with another number of rows than the rest of the entry says."""
        if len(self.arrays[name]) != rows:
            raise StateCorruptError(f"state entry: array {name} has {len(self.arrays[name])} rows instead of {rows}")


def encode(kind: int, layout: bytes, entities: Sequence[str], arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    """An entry's bytes.

    Args:
        kind: EVENTS or SNAPSHOT.
        layout: The layout as JSON.
        entities: One key an event (EVENTS) or an entity (SNAPSHOT).
        arrays: All arrays of the kind but the keys.
    """
    keys = [entity.encode("utf-8", "surrogatepass") for entity in entities]
    lengths = np.array([len(key) for key in keys], dtype=np.uint32)
    complete: dict[str, npt.NDArray[Any]] = {
        "key_lengths": lengths,
        "keys": np.frombuffer(b"".join(keys), dtype=np.uint8),
        **arrays,
    }
    parts = [layout]
    for name in _ARRAYS[kind]:
        array = complete[name]
        rows, width = array.shape if array.ndim == 2 else (len(array), 0)
        little = array.dtype.newbyteorder("<")
        parts += [
            _ARRAY.pack(_TYPES.index(little), array.ndim, rows, width),
            array.astype(little, copy=False).tobytes(),
        ]
    body = b"".join(parts)
    return _HEADER.pack(MAGIC, VERSION, kind, len(_ARRAYS[kind]), len(layout), zlib.crc32(body)) + body


def decode(data: bytes) -> Entry:
    """Read an entry.

    Raises:
        StateVersionError: If a version wrote it that this one does not know.
        StateCorruptError: If its bytes do not add up.
    """
    if len(data) < _HEADER.size or data[:4] != MAGIC:
        raise StateCorruptError(
            f"state entry of {len(data)} bytes does not begin with {MAGIC!r}: it is no Millrace state"
        )
    _, version, kind, count, layout_length, checksum = _HEADER.unpack_from(data)
    if version != VERSION:
        raise StateVersionError(
            f"state has version {version}, this Millrace reads {VERSION}; start the one that wrote it"
        )
    names = _ARRAYS.get(kind)
    if names is None or count != len(names):
        raise StateCorruptError(
            f"state entry has kind {kind} with {count} arrays, which version {VERSION} does not write"
        )
    body = memoryview(data)[_HEADER.size :]
    if zlib.crc32(body) != checksum:
        raise StateCorruptError(f"state entry of {len(data)} bytes: checksum does not match its content")
    if layout_length > len(body):
        raise StateCorruptError(f"state entry: layout of {layout_length} bytes is cut off")
    offset, arrays = layout_length, {}
    for name in names:
        if offset + _ARRAY.size > len(body):
            raise StateCorruptError(f"state entry: array {name} is cut off")
        code, dimensions, rows, width = _ARRAY.unpack_from(body, offset)
        offset += _ARRAY.size
        if code >= len(_TYPES) or dimensions not in (1, 2):
            raise StateCorruptError(f"state entry: array {name} has type {code} and {dimensions} dimensions")
        shape = (rows, width) if dimensions == 2 else (rows,)
        size = _TYPES[code].itemsize * rows * (width if dimensions == 2 else 1)
        if offset + size > len(body):
            raise StateCorruptError(f"state entry: array {name} has {len(body) - offset} of {size} bytes")
        little = np.frombuffer(body[offset : offset + size], dtype=_TYPES[code])
        # a copy: kernels are compiled for writable, aligned arrays
        arrays[name] = little.astype(_TYPES[code].newbyteorder("="), copy=True).reshape(shape)
        offset += size
    if offset != len(body):
        raise StateCorruptError(f"state entry: {len(body) - offset} bytes too many")
    return Entry(kind, json.loads(bytes(body[:layout_length])), _keys(arrays), arrays)


def _keys(arrays: dict[str, npt.NDArray[Any]]) -> list[str]:
    raw, ends = arrays["keys"].tobytes(), np.cumsum(arrays["key_lengths"], dtype=np.int64).tolist()
    if (ends[-1] if ends else 0) != len(raw):
        raise StateCorruptError(f"state entry: entity keys have {len(raw)} bytes, not {ends[-1] if ends else 0}")
    begins = [0, *ends[:-1]]
    return [raw[begin:end].decode("utf-8", "surrogatepass") for begin, end in zip(begins, ends, strict=True)]


def map_columns(
    values: npt.NDArray[np.float64], written: Sequence[str], wanted: Sequence[str]
) -> npt.NDArray[np.float64]:
    """(n, len(wanted)) float64: columns by name; what was not written is NaN."""
    if list(written) == list(wanted):
        return values
    mapped = np.full((len(values), len(wanted)), np.nan)
    for index, name in enumerate(wanted):
        if name in written:
            mapped[:, index] = values[:, list(written).index(name)]
    return mapped


def map_bits(masks: npt.NDArray[np.uint64], written: Sequence[str], wanted: Sequence[str]) -> npt.NDArray[np.uint64]:
    """(n,) uint64: conditions by definition; what was not written is false."""
    if list(written) == list(wanted):
        return masks
    mapped = np.zeros(len(masks), dtype=np.uint64)
    for bit, name in enumerate(wanted):
        if name in written:
            mapped |= ((masks >> np.uint64(list(written).index(name))) & np.uint64(1)) << np.uint64(bit)
    return mapped
