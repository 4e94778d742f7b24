"""A backfill finds a key's shard where the job does."""

import pytest

from udfs.key_places import key_shards

KEYS = ["", "a", "user-1", "user-2", "17850", "käufer-🛒", "\0\n", "z" * 24]

# floorMod(MathUtils.murmurHash(Arrays.hashCode(key bytes)), shards), by Flink 2.2.1
BY_FLINK = {
    32: [22, 9, 23, 2, 28, 8, 20, 0],
    1_000_003: [75_274, 520_605, 768_597, 668_740, 194_923, 11_356, 381_778, 382_030],
}


@pytest.mark.parametrize("shards", BY_FLINK)
def test_shards_of_keys_are_those_that_flink_finds(shards):
    assert key_shards(KEYS, shards).tolist() == BY_FLINK[shards]


def test_no_keys_have_no_shards():
    assert key_shards([], 32).tolist() == []
