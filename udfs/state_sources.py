"""Where a pipeline finds what it needs in a state that another one wrote, and how far back that reaches.

    need                         kept as such, or else computed from
    events                       -
    a column, a condition        columns and conditions of the same events
    a partial that tiles keep    a richer partial of the tiles, shorter tiles, kept events
    values that tiles keep       shorter tiles, kept events

Mapping a state (layouts.py), saying what a change does to it (state_changes.py) and marking answers that lack something
(warming.py) all go by this.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from udfs.kept_events import Definition, KeptEvents

Layout = Mapping[str, Any]

EVENTS = "events"
FOR_EVER_MS = 2**62
"""How long a state keeps things that does not say so: one of before this was noted, taken at its word."""
SAME, RICHER, SHORTER_TILES, FROM_EVENTS, MISSING = "same", "richer", "shorter tiles", "from events", "missing"

_MAPPED = (
    "columns", "kept_columns", "conditions", "mask_words", "tiles", "parts", "tile_width", "distincts", "most_events",
)  # fmt: skip
_RICHER = {"count": ("mean", "std"), "sum": ("mean", "std"), "mean": ("std",)}
"""Partials that others hold: a mean has the number and the sum of what went in, a deviation both in another form."""


@dataclass(frozen=True)
class Source:
    """Where a need is met.

    Attributes:
        how: SAME, RICHER, SHORTER_TILES, FROM_EVENTS or MISSING.
        of: Identity of the partial, or of the values, that it is computed from, as JSON; for RICHER and SHORTER_TILES.
        kept_ms: How far behind an entity's newest event the state has it; 0 where it is missing.
    """

    how: str
    of: str
    kept_ms: int


_MISSING = Source(MISSING, "", 0)


def column_need(name: str) -> str:
    """A column of the kept events."""
    return f"column {name}"


def condition_need(text: str) -> str:
    """A condition of the kept events."""
    return f"condition {text}"


def part_need(identity: str) -> str:
    """A partial, or the values, that tiles keep."""
    return f"tiles {identity}"


def is_mapped_alike(written: Layout, wanted: Layout) -> bool:
    """Whether the rows of one are those of the other."""
    return all(written.get(name, wanted[name]) == wanted[name] for name in _MAPPED)


def is_alike(written: Layout, wanted: Layout) -> bool:
    """Whether nothing changes for a state: rows, and how long they are kept."""
    return is_mapped_alike(written, wanted) and written.get("kept_ms", wanted["kept_ms"]) == wanted["kept_ms"]


def events_kept_ms(layout: Layout) -> int:
    """How far back events are kept; 0 if they are not."""
    kept = layout.get("kept_ms")
    if kept is None:  # a state of before this was noted
        return FOR_EVER_MS if layout["kept_columns"] or not layout["tiles"] else 0
    return int(kept["events"])


def tiles_kept_ms(layout: Layout, tile_ms: int) -> int:
    """How far back tiles of a length are kept; 0 if they are not."""
    if tile_ms not in layout["tiles"]:
        return 0
    kept = layout.get("kept_ms")
    return FOR_EVER_MS if kept is None else int(kept["tiles"][layout["tiles"].index(tile_ms)])


def fields_of(definition: Definition) -> set[str]:
    """The fields that a condition reads."""
    word, *rest = definition
    if word in ("not", "and", "or"):
        return set().union(*map(fields_of, rest))
    return {str(rest[0])}


def tile_conditions(identity: Definition) -> list[Definition]:
    """What events must pass to count in a partial or among values with that identity."""
    _, field, where, *kind = identity
    conditions = [] if where is None else [where]
    if kind and kind[0] == "count" and field is not None:
        conditions.append(["not", ["null", field]])
    return conditions


def tile_column(identity: Definition, fields: Mapping[str, Any]) -> str | None:
    """The column of events that a partial or values with that identity are made of."""
    _, field, _, *kind = identity
    if field is None or (kind and kind[0] == "count"):
        return None
    return f"{field}#" if field in fields and fields[field][0] == "str" else str(field)


def _written_events(layout: Layout) -> KeptEvents:
    """No events, but with all columns and conditions that kept ones have."""
    none = np.empty(0, np.int64)
    columns = dict.fromkeys(layout["columns"][: layout["kept_columns"]], none)
    return KeptEvents(none, none, columns, layout["conditions"], layout.get("fields", {}))


class Sources:
    """Where a pipeline with one layout finds things in a state with another.

    Args:
        written: The state's, fields renamed to the pipeline's.
        wanted: The pipeline's.
    """

    def __init__(self, written: Layout, wanted: Layout) -> None:
        self.written, self.wanted = written, wanted
        self._events, self._events_kept_ms = _written_events(written), events_kept_ms(written)
        self._parts = {name for name, _, _ in written["parts"]}

    def of(self, need: str) -> Source:
        """Where a need is met."""
        kind, _, name = need.partition(" ")
        if kind == EVENTS:
            return Source(SAME, "", self._events_kept_ms) if self._events_kept_ms else _MISSING
        if kind == "column":
            same, found = name in self._events.columns, self._events.column(name)
            return self._from_events(same, found is not None)
        if kind == "condition":
            same, known = name in self.written["conditions"], self._events.condition(json.loads(name))
            return self._from_events(same, known is not None)
        return self.tile(name)

    def _from_events(self, same: bool, found: bool) -> Source:
        if not found or not self._events_kept_ms:
            return _MISSING
        return Source(SAME if same else FROM_EVENTS, "", self._events_kept_ms)

    def tile(self, name: str) -> Source:
        """Where a partial or values of tiles, with that identity, come from."""
        # the first of those that reach as far
        return max(self._tile_options(name), key=lambda option: option.kept_ms, default=_MISSING)

    def _tile_options(self, name: str) -> list[Source]:
        identity = json.loads(name)
        tile_ms, field, where, *kind = identity
        if not self._reads_alike(field):
            return []
        known = self._parts if kind else set(self.written["distincts"])
        kept_ms = tiles_kept_ms(self.written, tile_ms)
        if name in known:
            return [Source(SAME, name, kept_ms)]
        options = []
        for richer in _RICHER.get(kind[0], ()) if kind and field is not None else ():
            of = json.dumps([tile_ms, field, where, richer, kind[1]])
            options += [Source(RICHER, of, kept_ms)] if of in known else []
        for shorter_ms in self.written["tiles"]:
            of = json.dumps([shorter_ms, *identity[1:]])
            if tile_ms % shorter_ms == 0 and of in known:
                options.append(Source(SHORTER_TILES, of, tiles_kept_ms(self.written, shorter_ms)))
        column = tile_column(identity, self.wanted["fields"])
        conditions = [self._events.condition(each) for each in tile_conditions(identity)]
        lacking = any(each is None for each in conditions)
        if self._events_kept_ms and not lacking and (column is None or self._events.column(column) is not None):
            options.append(Source(FROM_EVENTS, "", self._events_kept_ms))
        return options

    def _reads_alike(self, field: str | None) -> bool:
        """Whether a field is a number, or a text, in both."""
        before, now = (layout.get("fields", {}).get(field) for layout in (self.written, self.wanted))
        return before is None or now is None or (before[0] == "str") == (now[0] == "str")


def needs_met_by(need: str, source: Source, written: Layout) -> set[str]:
    """The needs of the one who wrote a state that a need is met by: what those lack, this lacks."""
    if source.how == SAME:
        return {need}
    if source.how in (RICHER, SHORTER_TILES):
        return {part_need(source.of)}
    if source.how == MISSING:
        return set()
    kind, _, name = need.partition(" ")
    fields = {name.removesuffix("#")} if kind == "column" else set()
    if kind == "condition":
        fields = fields_of(json.loads(name))
    if kind == "tiles":
        identity = json.loads(name)
        fields = {str(identity[1])}.union(*map(fields_of, tile_conditions(identity)))
    met = {EVENTS}
    met.update(column_need(name) for name in written["columns"] if name.removesuffix("#") in fields)
    met.update(condition_need(text) for text in written["conditions"] if fields_of(json.loads(text)) & fields)
    return met


def renamed(layout: Layout, names: Mapping[str, str]) -> Layout:
    """A layout whose fields have their new names.

    Args:
        layout: As it was written.
        names: New name by old name; one that the layout knows already stays what it is.
    """
    known = layout.get("fields") or {name.removesuffix("#"): None for name in layout["columns"]}
    fitting = {old: new for old, new in names.items() if old in known and new not in known}
    return _renamed(json.dumps(layout), tuple(fitting.items())) if fitting else layout


@functools.lru_cache(maxsize=64)
def _renamed(layout: str, names: tuple[tuple[str, str], ...]) -> Layout:
    new: dict[str, Any] = json.loads(layout)
    by_old = dict(names)
    new["columns"] = [
        by_old.get(name.removesuffix("#"), name.removesuffix("#")) + "#" * name.endswith("#") for name in new["columns"]
    ]
    new["conditions"] = [json.dumps(with_names(json.loads(text), by_old)) for text in new["conditions"]]
    new["parts"] = [[_renamed_identity(name, by_old), *place] for name, *place in new["parts"]]
    new["distincts"] = [_renamed_identity(name, by_old) for name in new["distincts"]]
    if "fields" in new:
        new["fields"] = {by_old.get(name, name): kind for name, kind in new["fields"].items()}
    for gap in new.get("gaps", ()):
        gap["need"] = _renamed_need(gap["need"], by_old)
    return new


def with_names(definition: Definition, names: Mapping[str, str]) -> list[Any]:
    """A condition with the new names of its fields."""
    word, *rest = definition
    if word in ("not", "and", "or"):
        return [word, *(with_names(each, names) for each in rest)]
    return [word, names.get(rest[0], rest[0]), *rest[1:]]


def _renamed_identity(text: str, names: Mapping[str, str]) -> str:
    tile_ms, field, where, *kind = json.loads(text)
    return json.dumps([tile_ms, names.get(field, field), where and with_names(where, names), *kind])


def _renamed_need(need: str, names: Mapping[str, str]) -> str:
    kind, _, name = need.partition(" ")
    if kind == "column":
        field = name.removesuffix("#")
        return column_need(names.get(field, field) + "#" * name.endswith("#"))
    if kind == "condition":
        return condition_need(json.dumps(with_names(json.loads(name), names)))
    return part_need(_renamed_identity(name, names)) if kind == "tiles" else need
