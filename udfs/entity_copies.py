"""What is kept of some entities, copied: to try an event on it that never happened.

shard's entities -> copies under numbers in a shard of their own -> take in the event -> features; thrown away
"""

from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from udfs.compiled import compiled, opened
from udfs.entity_keys import end_of, find, hash_of, joined_keys
from udfs.entity_slots import is_expired
from udfs.entity_state import Advanced, ShardState
from udfs.kernel_arrays import NEVER_MS, SHARD
from udfs.plan import FeaturePlan
from udfs.slabs import rows_of
from udfs.snapshots import load_entities, write_entities
from udfs.state_log import HEAD

_PARTITION = 2
"""Word of a head."""
NOWHERE = np.iinfo(np.int32).max
"""As the partition of an entity of which nothing is kept."""
_MOST_KEPT_BYTES = 1 << 24
"""A scratch that grew larger than this is made anew: its next copies are hardly as large."""


@compiled
def _find_kept(address: int, keys: bytes, slots: npt.NDArray[np.int64]) -> int:
    """Fill the slots of entities, -1 for those that are not known or forgotten; the words of their rows."""
    shard = opened(address, SHARD)
    begin, words = 0, 0
    for place in range(len(slots)):
        end = end_of(keys, begin)
        slot = find(shard, keys, begin, end, hash_of(shard, keys, begin, end))
        begin = end + 1
        if slot >= 0 and (shard.entities[slot].max_time_ms == NEVER_MS or is_expired(shard, slot)):
            slot = -1
        slots[place] = slot
        if slot >= 0:
            for store in range(len(shard.operations.stores)):
                words += rows_of(shard, slot, store).kept * shard.operations.stores[store].width
    return words


class EntityCopies(NamedTuple):
    """What is kept of n entities; the same one may be there several times.

    Attributes:
        kept: (n,) bool: of which something is.
        partitions: (n,) int32: of the latest event of each; NOWHERE without one.
        heads: (kept, HEAD + stores) int64, as of `Entry`.
        rows: (words,) int64, as of `Entry`.
    """

    kept: npt.NDArray[np.bool_]
    partitions: npt.NDArray[np.int32]
    heads: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]


def copies_of(state: ShardState, entities: Sequence[str]) -> EntityCopies:
    """What a shard keeps of some entities; it is not touched."""
    address, stores = state.memory.address, len(state.plan.operations.stores)
    slots = np.empty(len(entities), np.int64)
    words = _find_kept(address, joined_keys(entities), slots)
    kept = slots >= 0
    heads, rows = np.empty((int(kept.sum()), HEAD + stores), np.int64), np.empty(words, np.int64)
    write_entities(address, slots[kept], heads, rows)
    partitions = np.full(len(entities), NOWHERE, np.int32)
    partitions[kept] = heads[:, _PARTITION]
    return EntityCopies(kept, partitions, heads, rows)


class Scratch:
    """A shard for copies; it is made once, for making one costs more than what a few requests need of it.

    Args:
        plan: Of the shards that are copied from.
    """

    def __init__(self, plan: FeaturePlan) -> None:
        self._plan = plan
        self._state = ShardState(plan, log_changes=False)

    def advance(
        self,
        copies: Sequence[EntityCopies],
        times_ms: npt.NDArray[np.int64],
        columns: npt.NDArray[np.float64],
        masks: npt.NDArray[np.uint64],
        direct: npt.NDArray[np.float64],
    ) -> Advanced:
        """What n events would give, each alone on the copy of its entity; arguments as of `ShardState.advance`.

        Args:
            copies: Of the n entities, shard by shard.
            times_ms: (n,) int64.
            columns: (n, len(plan.columns)) float64.
            masks: (n,) uint64.
            direct: (n, plan.direct_width) float64.
        """
        state, count = self._state, len(times_ms)
        if state.memory_bytes() > _MOST_KEPT_BYTES:
            state = self._state = ShardState(self._plan, log_changes=False)
        state.memory.clear()
        names = list(map(str, range(count)))
        kept = np.concatenate([each.kept for each in copies]).tolist()
        heads = np.concatenate([each.heads for each in copies])
        # no clock goes on in the scratch, so no copy is forgotten because of another
        heads[:, _PARTITION] = 0
        if len(heads):
            slots = state.slots_of(joined_keys([*compress(names, kept)]), len(heads))
            load_entities(state.memory, slots, heads, np.concatenate([each.rows for each in copies]))
        never, nowhere = np.full(count, NEVER_MS, np.int64), np.zeros(count, np.int32)
        return state.advance(names, times_ms, never, nowhere, columns, masks, direct)
