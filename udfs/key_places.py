"""Where a Kafka key goes: to which shard of a job, and to which partition when `millrace produce` sends it."""

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from udfs.compiled import compiled


@compiled
def _java_hashes(octets: npt.NDArray[np.int8], ends: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint32]) -> None:
    """Java's `Arrays.hashCode(byte[])` of each key: h = 31 h + octet from 1 on, in 32 bits."""
    at = 0
    for key in range(len(ends)):
        total = 1
        while at < ends[key]:
            total = (31 * total + octets[at]) & 0xFFFFFFFF
            at += 1
        hashes[key] = total


def key_shards(keys: Sequence[str], shards: int) -> npt.NDArray[np.int64]:
    """(n,) int64: the shards of keys, as the job's `SubtaskBatches` finds them.

    That is Flink's `MathUtils.murmurHash` of the hash of the key's bytes, modulo the number of shards.
    """
    octets = [key.encode("utf-8", "surrogatepass") for key in keys]
    hashes = np.empty(len(keys), np.uint32)
    ends = np.cumsum([len(each) for each in octets], dtype=np.int64)
    _java_hashes(np.frombuffer(b"".join(octets), np.int8), ends, hashes)
    places: npt.NDArray[np.int64] = _murmur(hashes) % shards
    return places


def _murmur(hashes: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """Flink's mixing of a hash code, in 32 bits; never negative."""
    code = _rotated(hashes * np.uint32(0xCC9E2D51), 15)
    code = _rotated(code * np.uint32(0x1B873593), 13)
    code = (code * np.uint32(5) + np.uint32(0xE6546B64)) ^ np.uint32(4)
    code = (code ^ (code >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    code = (code ^ (code >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    signed = (code ^ (code >> np.uint32(16))).astype(np.int32).astype(np.int64)
    return np.where(signed == -(2**31), 0, np.abs(signed))


def _rotated(code: npt.NDArray[np.uint32], bits: int) -> npt.NDArray[np.uint32]:
    return (code << np.uint32(bits)) | (code >> np.uint32(32 - bits))


def key_partitions(keys: Sequence[str], partitions: int) -> npt.NDArray[np.int32]:
    """(n,) int32: the partitions of keys, as librdkafka's default partitioner chooses: CRC-32 modulo partitions."""
    return np.array([zlib.crc32(key.encode()) % partitions for key in keys], np.int32)
