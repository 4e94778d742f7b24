"""The bytes in which raw Kafka records cross from the JVM: `flink_jobs/jvm/SubtaskBatches.java` writes them.

Little-endian int32: command, number of shards, count n, size of the keys. Then n each of offsets and record times
(int64); the shards' keys and their counts (int32); n each of partitions, lengths of keys and of values (int32; -1 is
null); the keys and the values, each with a newline behind it; how many values are not whole here because their pipeline
refuses them for their size, and of each its row and its size (int32). If fields of events are read from headers, then
of each record these headers: the length of each (int32; -1 where there is none) and its bytes.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from udfs.byte_lines import Lines
from udfs.raw_record import RawRecord, RecordParts

RECORDS, READ, WRITE, MODELS, REQUESTS, LOOKUPS, TICK = range(7)
"""What to do: score the records; read the state of the shard whose key this has, or write it; change its models as the
record of the control topic says that follows, or do what is due if there is none; answer the records, which are
requests and have no headers; take in the records, which are rows of lookups; or look at the clock of the machine. Of
LOOKUPS the number of their topic is in the command's upper bytes."""
_COMMAND_BITS = 8
_HEAD, _LENGTH = struct.Struct("<iiii"), struct.Struct("<i")


def lookups_command(topic: int) -> int:
    """The command of rows of the topic of that number."""
    return LOOKUPS | topic << _COMMAND_BITS


class RecordBatch:
    """Raw Kafka records, shard by shard, those of a shard in order of arrival.

    Args:
        data: The bytes.
        headers: Names of the headers in it.

    Attributes:
        command: RECORDS, READ, WRITE, MODELS, REQUESTS, LOOKUPS or TICK.
        topic: Of LOOKUPS: which topic of the pipeline's tables.
        offsets: (n,) int64.
        record_times_ms: (n,) int64, Kafka's timestamps.
        partitions: (n,) int32.
        keys: The n keys.
        values: The n values.
        sizes: How large values were that are not whole here, by row.
        names: Of the headers.
        change: Of MODELS: the record of the control topic, empty where there is none.
        shards: Which shards have records here; a shard is known by its key.
        shard_ends: Where the records of each end.
    """

    __slots__ = (
        "_headers",
        "change",
        "command",
        "keys",
        "names",
        "offsets",
        "partitions",
        "record_times_ms",
        "shard_ends",
        "shards",
        "sizes",
        "topic",
        "values",
    )

    def __init__(self, data: bytes, headers: Sequence[str] = ()) -> None:
        command, segments, count, keys_size = _HEAD.unpack_from(data)
        self.topic, self.command = command >> _COMMAND_BITS, command & (1 << _COMMAND_BITS) - 1
        # copies, for kernels are compiled for writable arrays
        longs = np.frombuffer(data, "<i8", 2 * count, _HEAD.size).copy()
        integers = np.frombuffer(data, "<i4", 2 * segments + 3 * count, _HEAD.size + longs.nbytes).copy()
        self.offsets, self.record_times_ms = longs[:count], longs[count:]
        self.shards: list[int] = integers[:segments].tolist()
        self.shard_ends: list[int] = integers[segments : 2 * segments].cumsum().tolist()
        self.partitions, key_lengths, value_lengths = integers[2 * segments :].reshape(3, count)
        begin = _HEAD.size + longs.nbytes + integers.nbytes
        self.keys = Lines(key_lengths, data[begin : begin + keys_size])
        # what a control topic says is all that follows
        end = len(data) if self.command == MODELS else begin + keys_size + int((value_lengths + 1).sum())
        self.values = Lines(value_lengths, data[begin + keys_size : end])
        self.sizes: dict[int, int] = {}
        if self.command in (RECORDS, REQUESTS, LOOKUPS):
            (cuts,) = _LENGTH.unpack_from(data, end)
            end += _LENGTH.size
            self.sizes = dict(np.frombuffer(data, "<i4", 2 * cuts, end).reshape(-1, 2).tolist())
            end += 8 * cuts
        self.names = headers if self.command in (RECORDS, LOOKUPS) else ()
        self._headers = data[end:] if headers else b""
        self.change = data[_HEAD.size :] if self.command == MODELS else b""

    def __len__(self) -> int:
        return len(self.offsets)

    def raw(self) -> list[RawRecord]:
        """The records one by one."""
        places = self.partitions.tolist(), self.offsets.tolist(), self.record_times_ms.tolist()
        parts = map(RecordParts, *places, self._each_headers()) if self.names else map(RecordParts, *places)
        found = list(map(RawRecord, self.keys.tolist(), self.values.tolist(), parts))
        for row, size in self.sizes.items():
            found[row] = found[row]._replace(size=size)
        return found

    def _each_headers(self) -> Iterator[dict[str, bytes | None]]:
        at = 0
        for _ in range(len(self)):
            found: dict[str, bytes | None] = {}
            for name in self.names:
                (length,) = _LENGTH.unpack_from(self._headers, at)
                at += _LENGTH.size
                if length >= 0:
                    found[name] = self._headers[at : at + length]
                    at += length
            yield found


def pack_records(
    keys: Sequence[bytes | None],
    values: Sequence[bytes | None],
    partitions: Sequence[int],
    offsets: Sequence[int],
    record_times_ms: Sequence[int],
    *,
    shard: int = 0,
    headers: Sequence[Mapping[str, bytes | None]] = (),
    names: Sequence[str] = (),
    sizes: Mapping[int, int] | None = None,
    command: int = RECORDS,
) -> bytes:
    """The bytes of n records of one shard as the JVM writes them, for whatever scores without a job.

    `names` are those of the headers that fields are read from, `headers` those of each record.
    """
    key_lines, value_lines = Lines.of(keys), Lines.of(values)
    parts = [
        _HEAD.pack(command, 1, len(keys), len(key_lines.content)),
        np.array([offsets, record_times_ms], "<i8").tobytes(),
        np.array([shard, len(keys), *partitions], "<i4").tobytes(),
        key_lines.lengths.tobytes(),
        value_lines.lengths.tobytes(),
        key_lines.content,
        value_lines.content,
        np.array([len(sizes or {}), *(number for pair in (sizes or {}).items() for number in pair)], "<i4").tobytes(),
        *(_packed(each.get(name)) for each in headers for name in names),
    ]
    return b"".join(parts)


def _packed(header: bytes | None) -> bytes:
    return _LENGTH.pack(-1) if header is None else _LENGTH.pack(len(header)) + header
