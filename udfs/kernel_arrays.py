"""The arrays kernels work on, as named tuples: what numba can take and a reader can follow."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from udfs.slabs import Slabs

NEVER_MS = -(2**62)
"""The time before all times; far enough from the end of int64 to be added to."""


class Operations(NamedTuple):
    """A pipeline's operations and how long it keeps what; one array element an operation, in order.

    Attributes:
        kind: (ops,) int64, numbers of partials.py.
        column: (ops,) int64: column of an event's values (exact), first number of the partial in a tile's row (tiled),
            which distinct store (tiled Distinct), which direct value, or the numerator's operation.
        other: (ops,) int64: the denominator's operation.
        needed: (ops,) uint64: bits of the conditions an event must pass.
        window: (ops,) int64: the window in ms (exact), or in tiles.
        block: (ops,) int64: width of a block in ms (exact).
        group: (ops,) int64: index of the tile length; -1 for exact windows and everything else.
        half_life: (ops,) float64, ms.
        fill: (ops,) float64.
        output: (ops,) int64: the feature's column; -1 for parts of ratios.
        before: (ops,) bool: tiled, and computed before the event enters its tile.
        tile_ms, tile_retention_ms: (groups,) int64.
        parts: (partials, 4) int64: group, kind, column of the event's values or -1, first number in the tile's row.
        part_needed: (partials,) uint64.
        part_half_life: (partials,) float64.
        distincts: (distincts, 2) int64: group, column of the event's values.
        distinct_needed: (distincts,) uint64.
        limits: (6,) int64: retention, lateness, exact retention, longest exact window (ms); most rows; columns stored.
    """

    kind: npt.NDArray[np.int64]
    column: npt.NDArray[np.int64]
    other: npt.NDArray[np.int64]
    needed: npt.NDArray[np.uint64]
    window: npt.NDArray[np.int64]
    block: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]
    half_life: npt.NDArray[np.float64]
    fill: npt.NDArray[np.float64]
    output: npt.NDArray[np.int64]
    before: npt.NDArray[np.bool_]
    tile_ms: npt.NDArray[np.int64]
    tile_retention_ms: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]
    part_needed: npt.NDArray[np.uint64]
    part_half_life: npt.NDArray[np.float64]
    distincts: npt.NDArray[np.int64]
    distinct_needed: npt.NDArray[np.uint64]
    limits: npt.NDArray[np.int64]


class Entities(NamedTuple):
    """What is known of each entity beside its rows; (slots,) each.

    Attributes:
        max_time_ms: int64: its largest event time; NEVER_MS for an entity without events.
        cut_ms: int64: the largest time dropped because the entity had too many events; NEVER_MS if none was.
        partition: int32: of its latest event.
        generation: int64: how often the slot was emptied, so that remembered blocks of its past are not used.
    """

    max_time_ms: npt.NDArray[np.int64]
    cut_ms: npt.NDArray[np.int64]
    partition: npt.NDArray[np.int32]
    generation: npt.NDArray[np.int64]


class Batch(NamedTuple):
    """n events in order of arrival.

    Attributes:
        slots: (n,) int64: entities.
        times: (n,) int64: event times, ms.
        clocks: (n,) int64: the smaller of event and record time, ms.
        partitions: (n,) int32.
        columns: (n, columns) float64: the fields aggregates read; stored ones first.
        masks: (n,) uint64: conditions passed.
        direct: (n, direct) float64: features of the event itself.
    """

    slots: npt.NDArray[np.int64]
    times: npt.NDArray[np.int64]
    clocks: npt.NDArray[np.int64]
    partitions: npt.NDArray[np.int32]
    columns: npt.NDArray[np.float64]
    masks: npt.NDArray[np.uint64]
    direct: npt.NDArray[np.float64]


class Stores(NamedTuple):
    """Rows of a shard by slot; tiles by slot * groups + group, their distinct values by slot * distincts + distinct."""

    events: Slabs
    tiles: Slabs
    distincts: Slabs
