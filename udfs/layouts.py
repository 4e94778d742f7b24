"""State written by another pipeline: its entries as this pipeline would have written them.

Columns, conditions and tiles are found by name, or computed from what is there (state_sources.py). What is no longer
wanted is dropped; what cannot be told is missing (NaN, false, no rows), and warming.py says of which events.
"""

import json
from collections.abc import Sequence

import numpy as np

from udfs.kept_events import KeptEvents
from udfs.kernel_arrays import COLUMNS, MASK, TIME
from udfs.plan import FeaturePlan
from udfs.state_log import HEAD, Entry, Words, event_width, store_widths
from udfs.state_sources import Layout, Sources, is_mapped_alike, renamed
from udfs.tile_rows import OwnedRows, Stored, distinct_rows, tile_rows

_CUT = 1


def layout_of(plan: FeaturePlan, written: Layout) -> Layout:
    """A layout with the names that the plan's pipeline has for fields."""
    return renamed(written, plan.pipeline.events.new_names)


def events_for(plan: FeaturePlan, entry: Entry) -> Words:
    """(n, words) int64: the events of an entry as the plan has them."""
    written, wanted = layout_of(plan, entry.layout), plan.layout
    events = entry.rows.reshape(entry.count, event_width(written))
    if is_mapped_alike(written, wanted):
        return events
    columns = {name: events[:, COLUMNS + place] for place, name in enumerate(written["columns"])}
    kept = _kept_events(written, events[:, TIME], events[:, MASK], columns)
    mapped = np.empty((entry.count, event_width(wanted)), np.int64)
    mapped[:, :MASK] = events[:, :MASK]
    mapped[:, MASK] = _masks(kept, wanted)
    for place, name in enumerate(wanted["columns"]):
        mapped[:, COLUMNS + place] = _column(kept, name)
    return mapped


def entities_for(plan: FeaturePlan, entry: Entry) -> tuple[Words, Words]:
    """The heads and rows of an entry's entities as the plan has them."""
    written, wanted = layout_of(plan, entry.layout), plan.layout
    if is_mapped_alike(written, wanted):
        return entry.heads, entry.rows
    stored, sources = _stored(written, entry), Sources(written, wanted)
    heads = entry.heads[:, :HEAD].copy()
    events = _events(stored, wanted, keep=plan.operations.limits.exact_window_ms > 0)
    kinds = plan.operations.parts["kind"].tolist()
    stores = [
        _at_most(wanted["most_events"], events, heads, 0 if wanted["mask_words"] else len(wanted["conditions"])),
        *[tile_rows(stored, sources, wanted, kinds, group) for group in range(len(wanted["tiles"]))],
        *[distinct_rows(stored, sources, name) for name in wanted["distincts"]],
    ]
    counts = [store.counts for store in stores]
    return np.column_stack([heads, *counts]), _interleaved(stores, store_widths(wanted))


def _kept_events(written: Layout, times_ms: Words, masks: Words, columns: dict[str, Words]) -> KeptEvents:
    return KeptEvents(times_ms, masks, columns, written["conditions"], written.get("fields", {}))


def _stored(written: Layout, entry: Entry) -> Stored:
    of = Stores(entry).of
    stores = [OwnedRows(*of(store)) for store in range(len(store_widths(written)))]
    rows, bits = stores[0].rows, 0 if written["mask_words"] else len(written["conditions"])
    masks = rows[:, 1] if written["mask_words"] else rows[:, 0] & ((1 << bits) - 1)
    names = written["columns"][: written["kept_columns"]]
    columns = {name: rows[:, 1 + written["mask_words"] + place] for place, name in enumerate(names)}
    first_distinct = 1 + len(written["tiles"])
    return Stored(
        layout=written,
        events=_kept_events(written, rows[:, 0] >> bits, masks, columns),
        owners=stores[0].owners,
        tiles=dict(zip(written["tiles"], stores[1:first_distinct], strict=True)),
        distincts=dict(zip(written["distincts"], stores[first_distinct:], strict=True)),
        entities=entry.count,
    )


class Stores:
    """The rows of each store of an entry's entities."""

    def __init__(self, entry: Entry) -> None:
        self.layout, self._rows = entry.layout, entry.rows
        self._widths, self._counts = store_widths(entry.layout), entry.heads[:, HEAD:]
        self._begins = _begins(self._counts, self._widths)

    def of(self, store: int) -> tuple[Words, Words]:
        """Rows of each entity (n,), and all of them (rows, width)."""
        counts, width = self._counts[:, store], int(self._widths[store])
        return counts, self._rows[_places(self._begins[:, store], counts, width)]


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


def _interleaved(stores: Sequence[OwnedRows], widths: Words) -> Words:
    """Rows store by store as words entity by entity."""
    begins = _begins(np.column_stack([store.counts for store in stores]), widths)
    words = np.empty(sum(store.rows.size for store in stores), np.int64)
    for number, store in enumerate(stores):
        words[_places(begins[:, number], store.counts, int(widths[number]))] = store.rows
    return words


def _events(stored: Stored, wanted: Layout, *, keep: bool) -> OwnedRows:
    width, events = int(store_widths(wanted)[0]), stored.events
    if not keep:
        return OwnedRows(np.zeros(stored.entities, np.int64), np.empty((0, width), np.int64))
    masks = _masks(events, wanted)
    rows = np.empty((len(masks), width), np.int64)
    if wanted["mask_words"]:
        rows[:, 0], rows[:, 1] = events.times_ms, masks
    else:
        rows[:, 0] = events.times_ms << len(wanted["conditions"]) | masks
    for place, name in enumerate(wanted["columns"][: wanted["kept_columns"]]):
        rows[:, 1 + wanted["mask_words"] + place] = _column(events, name)
    return OwnedRows(np.bincount(stored.owners, minlength=stored.entities).astype(np.int64), rows)


def _at_most(most: int, events: OwnedRows, heads: Words, mask_bits: int) -> OwnedRows:
    """The newest events of each entity; the heads note the latest of those that go."""
    gone = np.maximum(events.counts - most, 0)
    if not gone.any():
        return events
    begins = np.cumsum(events.counts) - events.counts
    cut = np.flatnonzero(gone)
    heads[cut, _CUT] = np.maximum(heads[cut, _CUT], events.rows[begins[cut] + gone[cut] - 1, 0] >> mask_bits)
    left = np.arange(len(events.rows)) - np.repeat(begins, events.counts) >= np.repeat(gone, events.counts)
    return OwnedRows(events.counts - gone, events.rows[left])


def _column(events: KeptEvents, name: str) -> Words:
    """(n,): a column; what is not known is NaN."""
    found = events.column(name)
    return np.full(len(events.masks), np.nan).view(np.int64) if found is None else found


def _masks(events: KeptEvents, wanted: Layout) -> Words:
    """(n,): a bit for each condition; what is not known is false."""
    masks = np.zeros(len(events.masks), np.int64)
    for bit, text in enumerate(wanted["conditions"]):
        found = events.condition(json.loads(text))
        if found is not None:
            masks |= found.astype(np.int64) << bit
    return masks
