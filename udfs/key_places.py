"""Where a Kafka key goes: to which shard of a job, and to which partition when `millrace produce` sends it."""

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from udfs.compiled import compiled


@compiled
def _java_hashes(units: npt.NDArray[np.uint16], ends: npt.NDArray[np.int64], hashes: npt.NDArray[np.int32]) -> None:
    at = 0
    for key in range(len(ends)):
        total = 0
        while at < ends[key]:
            total = (31 * total + units[at]) & 0xFFFFFFFF
            at += 1
        hashes[key] = total if total < 2**31 else total - 2**32


def key_shards(keys: Sequence[str], shards: int) -> npt.NDArray[np.int64]:
    """(n,) int64: the shards of keys, as the job's SQL finds them: `ABS(MOD(HASH_CODE(key), shards))`.

    HASH_CODE of a text is Java's `String.hashCode`: over its UTF-16 units, h = 31 h + unit, in 32 bits.
    """
    units = np.frombuffer("".join(keys).encode("utf-16-le", "surrogatepass"), np.uint16)
    lengths = [len(key) for key in keys]
    if len(units) != sum(lengths):  # characters of two units
        lengths = [len(key.encode("utf-16-le", "surrogatepass")) // 2 for key in keys]
    hashes = np.empty(len(keys), np.int32)
    _java_hashes(units, np.cumsum(lengths, dtype=np.int64), hashes)
    places: npt.NDArray[np.int64] = np.abs(np.fmod(hashes.astype(np.int64), shards))
    return places


def key_partitions(keys: Sequence[str], partitions: int) -> npt.NDArray[np.int32]:
    """(n,) int32: the partitions of keys, as librdkafka's default partitioner chooses: CRC-32 modulo partitions."""
    return np.array([zlib.crc32(key.encode()) % partitions for key in keys], np.int32)
