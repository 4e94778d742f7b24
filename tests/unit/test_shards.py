"""Shard keys spread evenly over subtasks, whatever the parallelism."""

from collections import Counter

import pytest

from flink_jobs.shards import shard_keys

KEY_GROUPS = 128


def scrambled_key_group(key: int) -> int:
    return (key * 2_654_435_761 % 2**32 >> 7) % KEY_GROUPS


@pytest.mark.parametrize("shards", [1, 16, 32, 100, 128])
def test_each_shard_has_a_key_group_of_its_own(shards):
    keys = shard_keys(shards, KEY_GROUPS, scrambled_key_group)
    assert len({scrambled_key_group(key) for key in keys}) == shards


@pytest.mark.parametrize("parallelism", [1, 2, 3, 4, 7, 8])
def test_subtasks_get_equal_shares_give_or_take_one(parallelism):
    keys = shard_keys(32, KEY_GROUPS, scrambled_key_group)
    # Flink: subtask = key group * parallelism // number of key groups
    shares = Counter(scrambled_key_group(key) * parallelism // KEY_GROUPS for key in keys)
    assert len(shares) == parallelism
    assert max(shares.values()) - min(shares.values()) <= 1
