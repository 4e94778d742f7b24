"""The bytes in which raw Kafka records cross from the JVM: `flink_jobs/jvm/SubtaskBatches.java` writes them.

Little-endian int32: command, number of shards, count n, size of the keys. Then n each of offsets and record times
(int64); the shards' keys and their counts (int32); n each of partitions, lengths of keys and of values (int32; -1 is
null); the keys and the values, each with a newline behind it.
"""

import struct
from collections.abc import Sequence

import numpy as np

from udfs.byte_lines import Lines

RECORDS, READ, WRITE, MODELS = 0, 1, 2, 3
"""What to do: score the records; read the state of the shard whose key this has, or write it; change its models as the
record of the control topic says that is in place of values, or do what is due if there is none."""
_HEAD = struct.Struct("<iiii")


class RecordBatch:
    """Raw Kafka records, shard by shard, those of a shard in order of arrival.

    Args:
        data: The bytes.

    Attributes:
        command: RECORDS, READ, WRITE or MODELS.
        offsets: (n,) int64.
        record_times_ms: (n,) int64, Kafka's timestamps.
        partitions: (n,) int32.
        keys: The n keys.
        values: The n values.
        shards: Which shards have records here; a shard is known by its key.
        shard_ends: Where the records of each end.
    """

    __slots__ = (
        "command", "keys", "offsets", "partitions", "record_times_ms", "shard_ends", "shards", "values",
    )  # fmt: skip

    def __init__(self, data: bytes) -> None:
        self.command, segments, count, keys_size = _HEAD.unpack_from(data)
        # copies, for kernels are compiled for writable arrays
        longs = np.frombuffer(data, "<i8", 2 * count, _HEAD.size).copy()
        integers = np.frombuffer(data, "<i4", 2 * segments + 3 * count, _HEAD.size + longs.nbytes).copy()
        self.offsets, self.record_times_ms = longs[:count], longs[count:]
        self.shards: list[int] = integers[:segments].tolist()
        self.shard_ends: list[int] = integers[segments : 2 * segments].cumsum().tolist()
        self.partitions, key_lengths, value_lengths = integers[2 * segments :].reshape(3, count)
        begin = _HEAD.size + longs.nbytes + integers.nbytes
        self.keys = Lines(key_lengths, data[begin : begin + keys_size])
        self.values = Lines(value_lengths, data[begin + keys_size :])

    def __len__(self) -> int:
        return len(self.offsets)


def pack_records(
    keys: Sequence[bytes | None],
    values: Sequence[bytes | None],
    partitions: Sequence[int],
    offsets: Sequence[int],
    record_times_ms: Sequence[int],
    *,
    shard: int = 0,
) -> bytes:
    """The bytes of n records of one shard as the JVM writes them, for whatever scores without a job."""
    key_lines, value_lines = Lines.of(keys), Lines.of(values)
    parts = [
        _HEAD.pack(RECORDS, 1, len(keys), len(key_lines.content)),
        np.array([offsets, record_times_ms], "<i8").tobytes(),
        np.array([shard, len(keys), *partitions], "<i4").tobytes(),
        key_lines.lengths.tobytes(),
        value_lines.lengths.tobytes(),
        key_lines.content,
        value_lines.content,
    ]
    return b"".join(parts)
