"""A whole state in numbers: how much each shard keeps, how old it is, and in which layouts it was written."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from udfs.entity_state import ShardState
from udfs.kept_entities import kept_entries
from udfs.kernel_arrays import NEVER_MS
from udfs.layouts import Stores
from udfs.plan import FeaturePlan
from udfs.state_log import Entry, decode

Logs = Mapping[int, Sequence[tuple[int, bytes]]]
"""By shard key, a shard's log."""


@dataclass(frozen=True)
class ShardSummary:
    """What one shard keeps.

    Attributes:
        shard: Its key.
        entities: Not forgotten ones.
        events: Kept for exact windows.
        tiles: Rows of tiles, distinct values included.
        oldest_ms: Time of the oldest event, or the oldest tile's begin; None if none is kept.
        newest_ms: Largest event time of an entity.
        entries: Of its log.
        bytes: Of its log.
    """

    shard: int
    entities: int
    events: int
    tiles: int
    oldest_ms: int | None
    newest_ms: int | None
    entries: int
    bytes: int


@dataclass(frozen=True)
class StateSummary:
    """What all shards keep.

    Attributes:
        shards: By shard key.
        clocks_ms: By partition, the largest time seen.
        layouts: Layouts in which entries are written, the newest entry's last.
    """

    shards: list[ShardSummary]
    clocks_ms: dict[int, int]
    layouts: list[dict[str, Any]]

    def total(self, what: str) -> int:
        """The sum of a number over all shards."""
        return sum(int(getattr(shard, what)) for shard in self.shards)

    @property
    def oldest_ms(self) -> int | None:
        """Time of the oldest event kept."""
        return min((shard.oldest_ms for shard in self.shards if shard.oldest_ms is not None), default=None)

    @property
    def newest_ms(self) -> int | None:
        """Time of the newest event."""
        return max((shard.newest_ms for shard in self.shards if shard.newest_ms is not None), default=None)


def summarize(plan: FeaturePlan, logs: Logs) -> StateSummary:
    """Numbers of a state as a pipeline would go on with it.

    Raises:
        StateVersionError: An entry has a version this Millrace does not read.
        StateCorruptError: An entry's bytes do not add up.
    """
    clocks: dict[int, int] = {}
    shards = []
    for shard, log in logs.items():
        entries = list(kept_entries(ShardState.restore(plan, log, log_changes=False)))
        shards.append(_shard(plan, shard, log, entries))
        for partition, clock_ms in enumerate(entries[0].clocks.tolist()):
            if clock_ms != NEVER_MS:
                clocks[partition] = max(clock_ms, clocks.get(partition, clock_ms))
    return StateSummary(shards, dict(sorted(clocks.items())), layouts_of(logs))


def layouts_of(logs: Logs) -> list[dict[str, Any]]:
    """The different layouts of all entries, those of the newest entries last."""
    found: dict[str, dict[str, Any]] = {}
    for log in logs.values():
        for _, data in log:
            layout = decode(data).layout
            name = json.dumps(layout)
            found[name] = found.pop(name, layout)
    return list(found.values())


def _shard(
    plan: FeaturePlan, shard: int, log: Sequence[tuple[int, bytes]], entries: Sequence[Entry]
) -> ShardSummary:
    bits, tiles_ms = int(plan.operations.limits.mask_bits), plan.operations.stores["tile_ms"].tolist()
    rows, oldest = [0] * len(tiles_ms), []
    for entry in entries:
        stores = Stores(entry)
        for store, tile_ms in enumerate(tiles_ms):
            _, kept = stores.of(store)
            rows[store] += len(kept)
            if len(kept):
                first = int(kept[:, 0].min())
                oldest.append(first * tile_ms if tile_ms else first >> bits)
    newest = [int(entry.heads[:, 0].max()) for entry in entries if entry.count]
    return ShardSummary(
        shard, sum(entry.count for entry in entries), rows[0], sum(rows[1:]), min(oldest, default=None),
        max(newest, default=None), len(log), sum(len(data) for _, data in log),
    )  # fmt: skip


def sizes(logs: Logs) -> dict[int, int]:
    """Bytes of each shard's log."""
    return {shard: int(np.sum([len(data) for _, data in log], dtype=np.int64)) for shard, log in logs.items()}
