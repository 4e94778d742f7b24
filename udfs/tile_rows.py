"""Rows of tiles for a pipeline from a state that another one wrote: kept as they are, or made of what was kept.

Where a partial was not kept, it is made of richer ones, of shorter tiles, or of kept events: state_sources.py.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.compiled import compiled
from udfs.kept_events import KeptEvents
from udfs.partials import add, empty, load, merge, save
from udfs.state_sources import (
    FROM_EVENTS,
    RICHER,
    SAME,
    SHORTER_TILES,
    Layout,
    Source,
    Sources,
    tile_column,
    tile_conditions,
)

Words = npt.NDArray[np.int64]


@dataclass(frozen=True)
class OwnedRows:
    """Rows of one store of n entities, entity by entity.

    Attributes:
        counts: (n,) int64: rows of each entity.
        rows: (rows, width) int64: each begins with a time or a tile.
    """

    counts: Words
    rows: Words

    @property
    def owners(self) -> Words:
        """(rows,) int64: whose each row is."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


@dataclass(frozen=True)
class Stored:
    """What a state has of n entities.

    Attributes:
        layout: The state's.
        events: The kept events, in order of the entities.
        owners: (events,) int64: whose each event is.
        tiles: Rows by length of tile.
        distincts: Rows by identity.
        entities: n.
    """

    layout: Layout
    events: KeptEvents
    owners: Words
    tiles: dict[int, OwnedRows]
    distincts: dict[str, OwnedRows]
    entities: int


@compiled
def _add_events(
    kind: int, half_life_ms: float, numbers: npt.NDArray[np.float64], places: npt.NDArray[np.int64],
    passed: npt.NDArray[np.bool_], values: npt.NDArray[np.float64], times_ms: npt.NDArray[np.int64],
) -> None:  # fmt: skip
    """Add events to the partials at their places."""
    for event in range(len(places)):
        value = values[event]
        if passed[event] and value == value:
            partial = load(kind, numbers, places[event])
            save(kind, numbers, places[event], add(kind, partial, value, float(times_ms[event]), half_life_ms))


@compiled
def _merge_tiles(
    kind: int, half_life_ms: float, numbers: npt.NDArray[np.float64], places: npt.NDArray[np.int64],
    shorter: npt.NDArray[np.float64], shorter_places: npt.NDArray[np.int64],
) -> None:  # fmt: skip
    """Merge the partials of shorter tiles, in order of time, into those at their places."""
    for row in range(len(places)):
        partial = load(kind, numbers, places[row])
        merged = merge(kind, partial, load(kind, shorter, shorter_places[row]), half_life_ms)
        save(kind, numbers, places[row], merged)


def tile_rows(stored: Stored, sources: Sources, wanted: Layout, kinds: Sequence[int], group: int) -> OwnedRows:
    """The rows of one length of tile.

    Args:
        stored: What there is.
        sources: Where partials are found.
        wanted: The pipeline's layout.
        kinds: Of all its partials, in the layout's order.
        group: Which length of tile.
    """
    tile_ms, width = wanted["tiles"][group], 1 + wanted["tile_width"]
    parts = [(name, offset, kind) for (name, offset, _), kind in zip(wanted["parts"], kinds, strict=True)]
    parts = [part for part in parts if json.loads(part[0])[0] == tile_ms]
    filled = [(part, sources.tile(part[0])) for part in parts]
    pieces = _tiles_of(stored, tile_ms, [source for _, source in filled])
    places = _Places.of_pieces(pieces)
    rows = np.zeros((len(places.tiles), width), np.int64)
    rows[:, 0] = places.tiles
    numbers = rows.reshape(-1).view(np.float64)
    for (name, offset, kind), source in filled:
        nothing = np.array(empty(kind))[: _numbers_of(wanted, name)]
        rows[:, 1 + offset :][:, : len(nothing)] = nothing.view(np.int64)
        _fill(stored, sources, name, source, kind, numbers, lambda *pairs, o=offset: width * places.of(*pairs) + 1 + o)
    return OwnedRows(np.bincount(places.owners, minlength=stored.entities).astype(np.int64), rows)


def _numbers_of(layout: Layout, name: str) -> int:
    return next(int(numbers) for known, _, numbers in layout["parts"] if known == name)


def _place_of(layout: Layout, name: str) -> int:
    return next(1 + int(offset) for known, offset, _ in layout["parts"] if known == name)


def _tiles_of(stored: Stored, tile_ms: int, sources: Sequence[Source]) -> list[tuple[Words, Words]]:
    """Owners and tiles of all rows that there will be, once or more often."""
    pieces = []
    if tile_ms in stored.tiles:
        kept = stored.tiles[tile_ms]
        pieces.append((kept.owners, kept.rows[:, 0]))
    for source in sources:
        if source.how == SHORTER_TILES:
            kept = stored.tiles[json.loads(source.of)[0]]
            pieces.append((kept.owners, kept.rows[:, 0] * json.loads(source.of)[0] // tile_ms))
    if any(source.how == FROM_EVENTS for source in sources):
        pieces.append((stored.owners, stored.events.times_ms // tile_ms))
    return pieces


class _Places:
    """The pairs of owner and tile that have a row, sorted; and where each has it."""

    def __init__(self, owners: Words, tiles: Words) -> None:
        self._low, self._span = int(tiles.min(initial=0)), int(np.ptp(tiles)) + 1 if len(tiles) else 1
        self._keys, first = np.unique(self._key(owners, tiles), return_index=True)
        self.owners, self.tiles = owners[first], tiles[first]

    @classmethod
    def of_pieces(cls, pieces: Sequence[tuple[Words, Words]]) -> "_Places":
        none = np.empty(0, np.int64)
        owners, tiles = [none, *(owner for owner, _ in pieces)], [none, *(tile for _, tile in pieces)]
        return cls(np.concatenate(owners), np.concatenate(tiles))

    def _key(self, owners: Words, tiles: Words) -> Words:
        return owners * self._span + (tiles - self._low)  # thousands of owners, tiles of 48 bits

    def of(self, owners: Words, tiles: Words) -> Words:
        """(n,) int64: the rows of n pairs, all of which have one."""
        rows: Words = np.searchsorted(self._keys, self._key(owners, tiles))
        return rows


def _fill(
    stored: Stored, sources: Sources, name: str, source: Source, kind: int, numbers: npt.NDArray[np.float64],
    places_of: Callable[[Words, Words], Words],
) -> None:  # fmt: skip
    """Put a partial into the new rows; `places_of` says where it lies for n pairs of owner and tile."""
    tile_ms, _, _, _, half_life_ms = identity = json.loads(name)
    if source.how == FROM_EVENTS:
        events = stored.events
        passed, values = _counting(stored, sources, identity)
        _add_events(
            kind, float(half_life_ms), numbers, places_of(stored.owners, events.times_ms // tile_ms), passed, values,
            events.times_ms,
        )  # fmt: skip
    elif source.how in (SAME, RICHER, SHORTER_TILES):
        of_ms, _, _, of_kind, _ = json.loads(source.of)
        kept, offset = stored.tiles[of_ms], _place_of(stored.layout, source.of)
        at = places_of(kept.owners, kept.rows[:, 0] * of_ms // tile_ms)
        old = kept.rows.view(np.float64)
        if source.how == SHORTER_TILES:
            old_places = np.arange(len(old)) * old.shape[1] + offset
            _merge_tiles(kind, float(half_life_ms), numbers, at, old.reshape(-1), old_places)
        else:
            width = _numbers_of(stored.layout, source.of)
            partials = _reduced(old[:, offset : offset + width], of_kind, identity[3])
            for number in range(partials.shape[1]):
                numbers[at + number] = partials[:, number]


def _reduced(partials: npt.NDArray[np.float64], of: str, wanted: str) -> npt.NDArray[np.float64]:
    """Partials of one kind, or what another kind would have had in their place."""
    if of == wanted:
        return partials
    count, total = partials[:, :1], partials[:, 1:2]
    if of == "std":
        total = np.where(count > 0, count * total, 0.0)  # it has the mean there
    return {"count": count, "sum": total, "mean": np.column_stack([count, total])}[wanted]


def _counting(
    stored: Stored, sources: Sources, identity: Sequence[Any]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Which events count in tiles, and what as."""
    events = stored.events
    passed = np.ones(len(events.times_ms), np.bool_)
    for condition in tile_conditions(identity):
        found = events.condition(condition)
        assert found is not None, identity
        passed &= found
    name = tile_column(identity, sources.wanted["fields"])
    if name is None:
        return passed, np.zeros(len(passed))
    column = events.column(name)
    assert column is not None, identity
    return passed, column.view(np.float64)


def distinct_rows(stored: Stored, sources: Sources, name: str) -> OwnedRows:
    """The rows of a tiled Distinct: values of each tile once, sorted."""
    tile_ms, source = json.loads(name)[0], sources.tile(name)
    if source.how == SAME:
        return stored.distincts[name]
    if source.how == SHORTER_TILES:
        kept = stored.distincts[source.of]
        owners, tiles = kept.owners, kept.rows[:, 0] * json.loads(source.of)[0] // tile_ms
        values = kept.rows[:, 1].view(np.float64)
    elif source.how == FROM_EVENTS:
        passed, values = _counting(stored, sources, json.loads(name))
        passed = passed & ~np.isnan(values)
        owners, tiles = stored.owners[passed], stored.events.times_ms[passed] // tile_ms
        values = values[passed] + 0.0
    else:
        owners, tiles, values = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    order = np.lexsort((values, tiles, owners))
    owners, tiles, values = owners[order], tiles[order], values[order]
    differ = np.ones(len(order), np.bool_)
    differ[1:] = (np.diff(owners) != 0) | (np.diff(tiles) != 0) | (values[1:] != values[:-1])
    rows = np.column_stack([tiles[differ], values[differ].view(np.int64)])
    return OwnedRows(np.bincount(owners[differ], minlength=stored.entities).astype(np.int64), rows)
