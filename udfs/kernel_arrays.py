"""What kernels work on: a pipeline as arrays of numbers, and a shard as arrays of entities and rows."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from udfs.compiled import kind_of
from udfs.heap import Heap, new_heap

NEVER_MS = -(2**62)
"""The time before all times; far enough from the end of int64 to be added to."""

TIME, CLOCK, PARTITION, MASK, COLUMNS = range(5)
"""Words of an event in a batch and in the log: event time, the smaller of event and record time (ms), Kafka partition,
a bit for each condition passed, and from COLUMNS on the fields aggregates read, as float64."""


BEFORE, AFTER, NEVER = range(3)


class Limits(NamedTuple):
    """Numbers of a pipeline.

    Attributes:
        retention_ms: An entity is forgotten when its partition's clock went on by this since it was active.
        lateness_ms: How late an event may be and still see its whole window.
        exact_retention_ms: Events are kept this long behind the entity's newest one.
        exact_window_ms: The longest exact window; 0 when no events are kept.
        most_events: Most events kept of an entity.
        kept_columns: How many columns are kept with an event.
        mask_bits: Bits of a kept event's first word that hold its conditions, below its time.
        mask_words: 1 where the conditions have a word of their own, else 0.
        direct_rows: Windows of at most this many rows are folded row by row, without remembering anything.
        lines: How many lines an entity's index has.
    """

    retention_ms: int
    lateness_ms: int
    exact_retention_ms: int
    exact_window_ms: int
    most_events: int
    kept_columns: int
    mask_bits: int
    mask_words: int
    direct_rows: int
    lines: int


OPERATION = np.dtype(
    [
        ("kind", np.int64),  # numbers of partials.py
        ("column", np.int64),  # the word of a row that is read, or the first of a partial (-1: none); for SEEN the
        # conditions that stand for categories, for DIRECT the direct value, for RATIO the numerator's operation, for
        # LATEST the place in a mark of the count of rows that pass
        ("other", np.int64),  # the denominator's operation; for LATEST how many rows, for ITEM the place of its row,
        # for LENGTH that of the first of the rows, which are as many as `column` says
        ("needed", np.int64),  # bits of the conditions an event must pass
        ("half_life_ms", np.float64),  # for sessions the gap
        ("fill", np.float64),
        ("output", np.int64),  # the feature's column; -1 for parts of ratios
        ("span", np.int64),  # the window; -1 for what has none
        ("line", np.int64),  # of a Distinct in the entity's index; else -1
        ("mark", np.int64),  # the partial's first word among those of a mark of the span; -1 for what has no partial
        ("without_own", np.int64),  # 1: over the rows before the event's own
        ("stage", np.int64),  # BEFORE the event enters its tile, or AFTER; NEVER: only marks are wanted, or the place
    ]
)
"""One feature, or part of a ratio."""

SPAN = np.dtype(
    [
        ("store", np.int64),
        ("window", np.int64),  # in ms (events) or in tiles
        ("stage", np.int64),  # of the operations over it
        ("line", np.int64),  # in the entity's index; -1 where nothing is folded
        ("mark_words", np.int64),  # words of a mark: the partials of all operations over the span
    ]
)
"""A window over one of an entity's stores of rows."""

STORE = np.dtype(
    [
        ("width", np.int64),  # words of a row: the time, above `mask_bits` bits of conditions, or the tile; maybe a
        # word of conditions; values
        ("tile_ms", np.int64),  # 0 for events
        ("retention_ms", np.int64),
    ]
)
"""An entity has one store of rows for its events, one for each length of tile, one for each tiled Distinct; in that
order."""

PART = np.dtype(
    [
        ("store", np.int64),
        ("kind", np.int64),
        ("column", np.int64),  # the event's word, or -1
        ("place", np.int64),  # the first word in the tile's row
        ("needed", np.int64),
        ("half_life_ms", np.float64),
    ]
)
"""A partial that tiles keep."""

DISTINCT_VALUES = np.dtype([("column", np.int64), ("needed", np.int64)])
"""A tiled Distinct: the event's word, and bits of the conditions an event must pass."""


class Operations(NamedTuple):
    """What a pipeline computes, as arrays of records: typed as Any, numba gives their fields as attributes.

    Attributes:
        steps: (operations,) OPERATION, in order.
        spans: (spans,) SPAN.
        stores: (stores,) STORE.
        parts: (partials,) PART.
        distincts: (tiled Distincts,) DISTINCT_VALUES.
        limits: Numbers.
    """

    steps: Any
    spans: Any
    stores: Any
    parts: Any
    distincts: Any
    limits: Limits


ENTITY = np.dtype(
    [
        ("max_time_ms", np.int64),  # its largest event time; NEVER_MS for an entity without events
        ("cut_ms", np.int64),  # the largest time dropped because it had too many events; NEVER_MS if none was
        ("active_ms", np.int64),  # its largest event time, or its partition's clock at its latest event if that is more
        ("partition", np.int32),  # of its latest event; in a free slot the next free one, or -1
        ("key", np.uint32),  # the heap's block with its key; 0 in a free slot
        ("key_octets", np.int32),
        ("index", np.uint32),  # the heap's block with what is remembered of its windows; 0 when nothing is
    ]
)
"""An entity: 40 bytes, in the slot that its key is found at."""

OWNER = np.dtype(
    [
        ("block", np.uint32),  # the heap's block with the rows; 0 without rows
        ("first", np.int32),  # how many rows at the block's beginning are dropped
        ("kept", np.int32),
        ("size_class", np.int32),
    ]
)
"""Where the rows of an entity in one store lie: 16 bytes, at slot * stores + store."""

ENTITIES, SLOTS_USED, FREE_SLOT, SWEPT, WANTED, SEED, FETCHED = range(7)
"""Places in `Shard.counts`: entities known, slots ever used, first free slot or -1, where the search for forgotten
entities stands, how much a kernel lacked, and what hashes of keys begin with: it differs from process to process, as
for Python's own tables, so that nobody can send keys that collide; and a place that is only written."""

BLOCK, LOW, MIDDLE, END, END_BEFORE, KEPT, LINE = range(7)
"""A window as found for an event: the first kept row's word; rows counted from there: where the window begins, the
first one at or after its anchor, where it ends, where it ends without the event's own row; rows kept; the line of its
marks, or 0."""


class Shard(NamedTuple):
    """All that is kept for a shard, and room for intermediate results: kernels make no arrays of their own.

    Attributes:
        operations: The pipeline's.
        heap: Everything of variable size.
        entities: (slots,) ENTITY.
        owners: (slots * stores,) OWNER.
        table: (places,) int64, a power of two: key hash and slot + 1, or 0; by open addressing.
        clocks_ms: (partitions,) int64: the largest time seen of each partition.
        counts: (7,) int64.
        results: (ops,) float64.
        windows: (spans, 7) int64.
        values: (4 * direct_rows,) float64, a power of two: a small table for distinct values.
        number: (1,) float64.
        bits: (1,) int64: the same memory as `number`.
        address: Of the parcel with all this.
    """

    operations: Operations
    heap: Heap
    entities: Any
    owners: Any
    table: npt.NDArray[np.int64]
    clocks_ms: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    results: npt.NDArray[np.float64]
    windows: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    number: npt.NDArray[np.float64]
    bits: npt.NDArray[np.int64]
    address: int


def new_shard(operations: Operations) -> Shard:
    """A shard without entities."""
    counts = np.empty(7, np.int64)
    no_entities(counts)
    number = np.zeros(1)
    places = 4 << (operations.limits.direct_rows - 1).bit_length()
    return Shard(
        operations, new_heap(64), np.zeros(0, ENTITY), np.zeros(0, OWNER), np.zeros(64, np.int64),
        np.full(1, NEVER_MS, np.int64), counts, np.empty(len(operations.steps)),
        np.zeros((len(operations.spans), 7), np.int64), np.empty(places), number, number.view(np.int64), 0,
    )  # fmt: skip


def no_entities(counts: npt.NDArray[np.int64]) -> None:
    """Make them the counts of a shard without entities."""
    counts[:] = 0
    counts[FREE_SLOT], counts[SEED] = -1, hash("keys of entities")


def _no_operations() -> Operations:
    """Kernels are compiled for the types of any pipeline."""
    steps, spans, stores, parts, distincts = (
        np.zeros(0, kind) for kind in (OPERATION, SPAN, STORE, PART, DISTINCT_VALUES)
    )
    return Operations(steps, spans, stores, parts, distincts, Limits(0, 0, 0, 0, 1, 0, 0, 0, 1, 0))


SHARD = kind_of(new_shard(_no_operations()))
"""For `opened`: a parcel with a `Shard`."""

