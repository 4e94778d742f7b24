"""How far the shards of a subtask have come in the topic of events, so that a request can be answered after one."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from udfs.record_batch import RecordBatch

READ_TO = -1
"""Number in the map of a shard's log, whose entries have numbers from 0 on: a checkpoint waits for each state apart."""


class EventPlace(NamedTuple):
    """Partition and offset of an event in its topic."""

    partition: int
    offset: int


class Positions:
    """By shard and partition, the offset after the last record that the shard's state has.

    A partition's records come to a shard in order, so it has all before as well.
    """

    def __init__(self) -> None:
        self._ends: dict[int, dict[int, int]] = {}

    def note(self, records: RecordBatch) -> None:
        """The records of a batch of events are in the state."""
        begin, partitions, offsets = 0, records.partitions.tolist(), records.offsets.tolist()
        for shard, end in zip(records.shards, records.shard_ends, strict=True):
            ends = self._ends.setdefault(shard, {})
            # a partition's records are in order: the last one stays
            for partition, last in dict(zip(partitions[begin:end], offsets[begin:end], strict=True)).items():
                ends[partition] = max(ends.get(partition, 0), last + 1)
            begin = end

    def has(self, shard: int, event: EventPlace) -> bool:
        """Whether an event of a shard's entity is in its state; False where that is not known."""
        return self._ends.get(shard, _NOWHERE).get(event.partition, 0) > event.offset

    def packed(self, shard: int) -> bytes:
        """Of one shard, for `restore`."""
        return msgspec.msgpack.encode(self._ends.get(shard, {}))

    def restore(self, shard: int, packed: bytes) -> None:
        """Of one shard, as it was packed."""
        self._ends[shard] = msgspec.msgpack.decode(packed, type=dict[int, int])


_NOWHERE: Mapping[int, int] = {}
