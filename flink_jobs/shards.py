"""Shard keys: integers chosen so that each falls in a key group of its own and subtasks get equal shares.

Keys 0..N-1 do not: hashed into 128 key groups, 32 of them came out as 13 and 19 at parallelism 2.
"""

from collections.abc import Callable


def shard_keys(shards: int, max_parallelism: int, key_group: Callable[[int], int]) -> list[int]:
    """One key for each shard, the smallest that does it.

    Shard i gets a key of key group `i * max_parallelism // shards`: Flink gives a subtask a contiguous range of key
    groups, so any parallelism gets its share of shards, give or take one.

    Args:
        shards: How many, at most `max_parallelism`.
        max_parallelism: Flink's number of key groups.
        key_group: Flink's assignment of a key to its key group.
    """
    wanted = {shard * max_parallelism // shards: shard for shard in range(shards)}
    keys: dict[int, int] = {}
    key = 0
    while len(keys) < shards:
        shard = wanted.get(key_group(key))
        if shard is not None:
            keys.setdefault(shard, key)
        key += 1
    return [keys[shard] for shard in range(shards)]
