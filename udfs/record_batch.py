"""The bytes in which a batch of raw Kafka records crosses from the JVM: `flink_jobs/jvm/ShardBatches.java` writes them.

Little-endian: count and size of the keys (int32), then n each of offsets and record times (int64), partitions, lengths
of keys and of values (int32; -1 is null), then the keys and the values, each with a newline behind it.
"""

import struct
from collections.abc import Sequence

import numpy as np

from udfs.byte_lines import Lines

_HEAD = struct.Struct("<ii")
_RECORD_BYTES = 2 * 8 + 3 * 4


class RecordBatch:
    """Raw Kafka records of one shard in order of arrival.

    Args:
        data: The bytes.

    Attributes:
        offsets: (n,) int64.
        record_times_ms: (n,) int64, Kafka's timestamps.
        partitions: (n,) int32.
        keys: The n keys.
        values: The n values.
    """

    __slots__ = ("keys", "offsets", "partitions", "record_times_ms", "values")

    def __init__(self, data: bytes) -> None:
        count, keys_size = _HEAD.unpack_from(data)
        # copies, for kernels are compiled for writable arrays
        longs = np.frombuffer(data, "<i8", 2 * count, _HEAD.size).copy()
        integers = np.frombuffer(data, "<i4", 3 * count, _HEAD.size + longs.nbytes).copy()
        self.offsets, self.record_times_ms = longs[:count], longs[count:]
        self.partitions = integers[:count]
        begin = _HEAD.size + _RECORD_BYTES * count
        self.keys = Lines(integers[count : 2 * count], data[begin : begin + keys_size])
        self.values = Lines(integers[2 * count :], data[begin + keys_size :])

    def __len__(self) -> int:
        return len(self.offsets)


def pack_records(
    keys: Sequence[bytes | None],
    values: Sequence[bytes | None],
    partitions: Sequence[int],
    offsets: Sequence[int],
    record_times_ms: Sequence[int],
) -> bytes:
    """The bytes of n records as the JVM writes them, for whatever scores without a job."""
    key_lines, value_lines = Lines.of(keys), Lines.of(values)
    parts = [
        _HEAD.pack(len(keys), len(key_lines.content)),
        np.array([offsets, record_times_ms], "<i8").tobytes(),
        np.array(partitions, "<i4").tobytes(),
        key_lines.lengths.tobytes(),
        value_lines.lengths.tobytes(),
        key_lines.content,
        value_lines.content,
    ]
    return b"".join(parts)
