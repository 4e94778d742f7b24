"""State written by another pipeline: its entries as this pipeline would have written them.

Columns, conditions and tiles are found by name. What is no longer wanted is dropped; what was not written is missing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.kernel_arrays import COLUMNS, MASK
from udfs.partials import empty
from udfs.plan import FeaturePlan
from udfs.state_log import Entry, Words, event_width, store_widths

_HEAD = 3

Layout = dict[str, Any]


def events_for(plan: FeaturePlan, entry: Entry) -> Words:
    """(n, words) int64: the events of an entry as the plan has them."""
    written, wanted = entry.layout, plan.layout
    events = entry.rows.reshape(entry.count, event_width(written))
    if written == wanted:
        return events
    mapped = np.empty((entry.count, event_width(wanted)), np.int64)
    mapped[:, :MASK] = events[:, :MASK]
    mapped[:, MASK] = _bits(events[:, MASK], written["conditions"], wanted["conditions"])
    mapped[:, COLUMNS:] = _columns(events[:, COLUMNS:], written["columns"], wanted["columns"])
    return mapped


def entities_for(plan: FeaturePlan, entry: Entry) -> tuple[Words, Words]:
    """The heads and rows of an entry's entities as the plan has them."""
    written, wanted = entry.layout, plan.layout
    if written == wanted:
        return entry.heads, entry.rows
    stores = Stores(entry)
    counts, rows = zip(
        _events(stores, wanted, keep=plan.operations.limits.exact_window_ms > 0),
        *[_tiles(stores, plan, group) for group in range(len(wanted["tiles"]))],
        *[_distincts(stores, name) for name in wanted["distincts"]],
        strict=True,
    )
    return np.column_stack([entry.heads[:, :_HEAD], *counts]), _interleaved(counts, rows, store_widths(wanted))


class Stores:
    """The rows of each store of an entry's entities."""

    def __init__(self, entry: Entry) -> None:
        self.layout, self._rows = entry.layout, entry.rows
        self._widths, self._counts = store_widths(entry.layout), entry.heads[:, _HEAD:]
        self._begins = _begins(self._counts, self._widths)

    def of(self, store: int) -> tuple[Words, Words]:
        """Rows of each entity (n,), and all of them (rows, width)."""
        counts, width = self._counts[:, store], int(self._widths[store])
        return counts, self._rows[_places(self._begins[:, store], counts, width)]

    def none(self, width: int) -> tuple[Words, Words]:
        """As `of`, for a store that was not written."""
        return np.zeros(len(self._counts), np.int64), np.empty((0, width), np.int64)


def _begins(counts: Words, widths: Words) -> Words:
    """(n, stores): where each entity's rows of each store begin."""
    words = (counts * widths).ravel()
    begins: Words = (np.cumsum(words) - words).reshape(counts.shape)
    return begins


def _places(begins: Words, counts: Words, width: int) -> Words:
    """(rows, width): the word of each value of each row."""
    ends = np.cumsum(counts)
    in_entity = np.arange(int(counts.sum())) - np.repeat(ends - counts, counts)
    places: Words = (np.repeat(begins, counts) + in_entity * width)[:, None] + np.arange(width)
    return places


def _interleaved(counts: Sequence[Words], rows: Sequence[Words], widths: Words) -> Words:
    """Rows store by store as words entity by entity."""
    begins = _begins(np.column_stack(counts), widths)
    words = np.empty(sum(part.size for part in rows), np.int64)
    for store, (count, part) in enumerate(zip(counts, rows, strict=True)):
        words[_places(begins[:, store], count, int(widths[store]))] = part
    return words


def _events(stores: Stores, wanted: Layout, *, keep: bool) -> tuple[Words, Words]:
    width, written = int(store_widths(wanted)[0]), stores.layout
    if not keep:
        return stores.none(width)
    counts, old = stores.of(0)
    bits, wanted_bits = _mask_bits(written), _mask_bits(wanted)
    masks = old[:, 1] if written["mask_words"] else old[:, 0] & ((1 << bits) - 1)
    masks = _bits(masks, written["conditions"], wanted["conditions"])
    rows = np.empty((len(old), width), np.int64)
    rows[:, 0] = (old[:, 0] >> bits) << wanted_bits
    if wanted["mask_words"]:
        rows[:, 1] = masks
    else:
        rows[:, 0] |= masks
    rows[:, 1 + wanted["mask_words"] :] = _columns(
        old[:, 1 + written["mask_words"] :],
        written["columns"][: written["kept_columns"]],
        wanted["columns"][: wanted["kept_columns"]],
    )
    return counts, rows


def _mask_bits(layout: Layout) -> int:
    return 0 if layout["mask_words"] else len(layout["conditions"])


def _tiles(stores: Stores, plan: FeaturePlan, group: int) -> tuple[Words, Words]:
    written, wanted = stores.layout, plan.layout
    width, tile_ms = 1 + wanted["tile_width"], wanted["tiles"][group]
    if tile_ms not in written["tiles"]:
        return stores.none(width)
    counts, old = stores.of(1 + written["tiles"].index(tile_ms))
    places = {name: offset for name, offset, _ in written["parts"]}
    rows = np.zeros((len(old), width), np.int64)
    rows[:, 0] = old[:, 0]
    for (name, offset, numbers), part in zip(wanted["parts"], plan.operations.parts, strict=True):
        if part["store"] != 1 + group:
            continue
        if name in places:
            rows[:, 1 + offset :][:, :numbers] = old[:, 1 + places[name] :][:, :numbers]
        else:
            rows[:, 1 + offset :][:, :numbers] = np.array(empty(int(part["kind"]))[:numbers]).view(np.int64)
    return counts, rows


def _distincts(stores: Stores, name: str) -> tuple[Words, Words]:
    written = stores.layout
    if name not in written["distincts"]:
        return stores.none(2)
    return stores.of(1 + len(written["tiles"]) + written["distincts"].index(name))


def _columns(values: Words, written: Sequence[str], wanted: Sequence[str]) -> Words:
    """(n, len(wanted)): columns by name; what was not written is NaN."""
    mapped = np.full((len(values), len(wanted)), np.nan).view(np.int64)
    for place, name in enumerate(wanted):
        if name in written:
            mapped[:, place] = values[:, list(written).index(name)]
    return mapped


def _bits(masks: Words, written: Sequence[str], wanted: Sequence[str]) -> npt.NDArray[np.int64]:
    """(n,): conditions by definition; what was not written is false."""
    mapped = np.zeros(len(masks), np.int64)
    for bit, name in enumerate(wanted):
        if name in written:
            mapped |= ((masks >> list(written).index(name)) & 1) << bit
    return mapped
