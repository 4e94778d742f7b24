"""From a pipeline's features to the operations, windows and stores of rows that kernels run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from udfs import partials
from udfs.aggregates import Aggregate, Count, Custom, Distinct, Feature, LastN, OneHot, Ratio, Value, aggregates_of
from udfs.columns import Column
from udfs.conditions import Condition
from udfs.errors import DefinitionError
from udfs.kernel_arrays import (
    AFTER,
    BEFORE,
    COLUMNS,
    DISTINCT_VALUES,
    NEVER,
    OPERATION,
    PART,
    SPAN,
    STORE,
    Limits,
    Operations,
)
from udfs.sequences import Codes, SequenceLength
from udfs.state_needs import category_conditions, conditions_of, half_life_ms_of, kind_of, tile_identity
from udfs.window_kernels import DIRECT_ROWS

if TYPE_CHECKING:
    from udfs.plan import FeaturePlan

_MOST_CONDITIONS = 64
_MOST_BITS_BESIDE_TIME = 15
"""MAX_EVENT_TIME_MS has 48 bits, and a word has a sign."""
_DISTINCT_WIDTH = 2
_NO_COLUMN = (partials.SEEN, partials.LATEST_LEFT, partials.LATEST_RIGHT)


@dataclass(frozen=True)
class CustomOperation:
    """A user's own aggregate, folded in Python."""

    aggregate: Custom
    column: int
    needed: int
    output: int


class PlanBuilder:
    """Collects the operations of a plan."""

    def __init__(self, plan: "FeaturePlan") -> None:
        self.plan, self.pipeline = plan, plan.pipeline
        self.rows: list[dict[str, Any]] = []
        self.known: dict[str, int] = {}
        self.tiles: list[int] = []
        self.spans: list[dict[str, int]] = []
        self.lines = 0
        self.parts: list[dict[str, Any]] = []
        self.distincts: list[dict[str, Any]] = []
        self.in_bits = plan.in_bits

    def build(self) -> Operations:
        """Fill the plan's columns, conditions, customs and layout; its operations."""
        aggregates = aggregates_of(tuple(self.pipeline.features))
        self._choose_fields_in_bits(aggregates)
        for aggregate in sorted(aggregates, key=lambda found: found.tile_ms is not None):  # kept columns first
            self._column(aggregate)
            if aggregate.tile_ms is None:
                self.plan.kept_columns = len(self.plan.columns)
        self.tiles = sorted({found.tile_ms for found in aggregates if found.tile_ms is not None})
        texts: dict[tuple[str, float], list[int]] = {}
        output = 0
        for feature in self.pipeline.features:
            names = feature.names(self.pipeline.fields)
            if isinstance(feature, OneHot):
                self._one_hot(feature, output)
            else:
                self.rows[self._operation(feature)]["output"] = output
            if isinstance(feature, LastN) and self._is_text(feature):
                texts.setdefault((feature.field or "", feature.fill), []).append(output)
            output += len(names)
        for operation in self.rows:
            if operation["kind"] == partials.CUSTOM:
                custom = CustomOperation(operation["of"], operation["column"], operation["needed"], operation["output"])
                self.plan.customs.append(custom)
        self.plan.codes = [
            Codes.of(outputs, fill, [str(value) for value in self.pipeline.fields[name].categories or ()])
            for (name, fill), outputs in texts.items()
        ]
        return self._arrays()

    def _is_text(self, item: LastN) -> bool:
        return item.field is not None and self.pipeline.fields[item.field].kind == "str"

    def _choose_fields_in_bits(self, aggregates: Sequence[Aggregate]) -> None:
        """Fields of few categories whose exact Distinct needs no column: a condition a category says which it was.

        Only as long as all conditions fit beside an event's time.
        """
        known = [condition for aggregate in aggregates for condition in conditions_of(aggregate)]
        for aggregate in aggregates:
            if isinstance(aggregate, Distinct) and aggregate.tile_ms is None:
                known += category_conditions(self.pipeline, aggregate.field)
                if len(dict.fromkeys(known)) > _MOST_BITS_BESIDE_TIME:
                    return
                if category_conditions(self.pipeline, aggregate.field):
                    self.in_bits.add(aggregate.field)

    def _is_in_bits(self, aggregate: Aggregate) -> bool:
        return isinstance(aggregate, Distinct) and aggregate.tile_ms is None and aggregate.field in self.in_bits

    def _column(self, aggregate: Aggregate) -> int:
        """Index of the column an aggregate reads; -1 for those that read conditions only."""
        if aggregate.input is None or isinstance(aggregate, Count) or self._is_in_bits(aggregate):
            return -1
        column = Column(aggregate.input, self.pipeline.fields[aggregate.input].kind == "str")
        if column not in self.plan.columns:
            self.plan.columns.append(column)
        return self.plan.columns.index(column)

    def _needed(self, aggregate: Aggregate) -> int:
        """Bits of the conditions an aggregate's events must pass."""
        return self._bits(conditions_of(aggregate))

    def _bits(self, conditions: Sequence[Condition]) -> int:
        bits = 0
        for condition in conditions:
            if condition not in self.plan.conditions:
                self.plan.conditions.append(condition)
            bits |= 1 << self.plan.conditions.index(condition)
        if len(self.plan.conditions) > _MOST_CONDITIONS:
            raise DefinitionError(f"pipeline {self.pipeline.name}: more than {_MOST_CONDITIONS} different conditions")
        return bits

    def _add(self, kind: int, **values: Any) -> int:
        row = {
            "kind": kind, "column": -1, "other": 0, "needed": 0, "half_life_ms": 1.0, "fill": np.nan, "output": -1,
            "span": -1, "line": -1, "mark": -1, "without_own": False, "stage": AFTER, "part": -1, **values,
        }  # fmt: skip
        row["needed"] = _signed(row["needed"])
        if row.pop("remembers", False):
            self._remember(row)
        self.rows.append(row)
        return len(self.rows) - 1

    def _remember(self, row: dict[str, Any]) -> None:
        """Give a tally its line in the index, and a partial its place in the marks of its span's line."""
        span = self.spans[row["span"]]
        if row["kind"] == partials.DISTINCT:
            row["line"] = self._line()
            return
        if span["line"] < 0:
            span["line"] = self._line()
        row["mark"] = span["mark_words"]
        span["mark_words"] += partials.WIDTHS[row["kind"]]

    def _line(self) -> int:
        self.lines += 1
        return self.lines - 1

    def _one_hot(self, feature: OneHot, output: int) -> None:
        categories = self.pipeline.fields[feature.field].categories or ()
        self.plan._direct.append((self.plan.direct_width, feature.field, {v: i for i, v in enumerate(categories)}))
        for place in range(len(categories)):
            self._add(partials.DIRECT, column=self.plan.direct_width + place, output=output + place)
        self.plan.direct_width += len(categories)

    def _operation(self, feature: Feature) -> int:
        """Index of a feature's operation; the same feature is computed once."""
        key = json.dumps(feature.definition(), sort_keys=True)
        if key not in self.known:
            if isinstance(feature, Ratio):
                parts = {"column": self._operation(feature.numerator), "other": self._operation(feature.denominator)}
                self.known[key] = self._add(partials.RATIO, fill=feature.fill, **parts)
            elif isinstance(feature, Value):
                self.plan._direct.append((self.plan.direct_width, feature.field, None))
                self.known[key] = self._add(partials.DIRECT, column=self.plan.direct_width, fill=feature.fill)
                self.plan.direct_width += 1
            elif isinstance(feature, LastN):
                self.known[key] = self._item(feature)
            elif isinstance(feature, SequenceLength):
                first = self._latest_rows(feature, feature.n, "left")
                self.known[key] = self._add(partials.LENGTH, column=feature.n, other=first)
            elif isinstance(feature, Aggregate):
                self.known[key] = self._tiled(feature) if feature.tile_ms is not None else self._exact(feature)
        return self.known[key]

    def _exact(self, aggregate: Aggregate) -> int:
        kind, without_own = (partials.CUSTOM, False) if isinstance(aggregate, Custom) else kind_of(aggregate)
        needed, column = self._needed(aggregate), self._column(aggregate)
        if self._is_in_bits(aggregate):
            kind, column = partials.SEEN, self._bits(category_conditions(self.pipeline, aggregate.input or ""))
        plain_count = kind == partials.COUNT and needed == 0
        return self._add(
            kind, column=column, needed=needed, span=self._span(0, aggregate.window_ms, AFTER), fill=aggregate.fill,
            remembers=kind != partials.CUSTOM and not plain_count, without_own=without_own, of=aggregate,
            half_life_ms=half_life_ms_of(aggregate),
        )  # fmt: skip

    def _item(self, item: LastN) -> int:
        """A column of a sequence: read from one of the rows that all columns share."""
        first, column = self._latest_rows(item, item.n, item.pad), self._column(item)
        fill = np.nan if self._is_text(item) else item.fill  # of a text it is a code, put where there is none
        span = self._span(0, item.window_ms, AFTER)
        return self._add(partials.ITEM, column=column, other=first + (item.place or 0), span=span, fill=fill)

    def _latest_rows(self, aggregate: Aggregate, count: int, pad: str) -> int:
        """The first of the operations that have the rows of the last events of a window."""
        needed, span = self._needed(aggregate), self._span(0, aggregate.window_ms, AFTER)
        shared = f"rows {needed} {span} {count} {pad}"
        if shared not in self.known:
            passed = -1
            if needed:
                marked = self._add(partials.COUNT, needed=needed, span=span, stage=NEVER, remembers=True)
                passed = self.rows[marked]["mark"]
            kind = partials.LATEST_LEFT if pad == "left" else partials.LATEST_RIGHT
            self.known[shared] = self._add(kind, column=passed, other=count, needed=needed, span=span)
            for _ in range(count - 1):
                self._add(kind, stage=NEVER)
        return self.known[shared]

    def _tiled(self, aggregate: Aggregate) -> int:
        kind, without_own = kind_of(aggregate)
        tile_ms = aggregate.tile_ms or 0
        group, needed, column = self.tiles.index(tile_ms), self._needed(aggregate), self._column(aggregate)
        identity = tile_identity(aggregate)
        window, half_life = aggregate.window_ms // tile_ms, half_life_ms_of(aggregate)
        if isinstance(aggregate, Distinct):
            distinct = {"id": identity, "store": 1 + group, "column": column, "needed": _signed(needed)}
            store = 1 + len(self.tiles) + _position(self.distincts, distinct)
            span = self._span(store, window, stage=AFTER)
            return self._add(kind, column=0, span=span, fill=aggregate.fill, remembers=True)
        part: dict[str, Any] = {"store": 1 + group, "kind": kind, "needed": _signed(needed), "half_life_ms": half_life}
        part["column"] = column
        part["id"] = identity
        stage = BEFORE if without_own else AFTER
        return self._add(
            kind, part=_position(self.parts, part), span=self._span(1 + group, window, stage), stage=stage,
            half_life_ms=half_life, fill=aggregate.fill, remembers=True,
        )  # fmt: skip

    def _span(self, store: int, window: int, stage: int) -> int:
        for number, span in enumerate(self.spans):
            if (span["store"], span["window"], span["stage"]) == (store, window, stage):
                return number
        self.spans.append({"store": store, "window": window, "stage": stage, "line": -1, "mark_words": 0})
        return len(self.spans) - 1

    def _arrays(self) -> Operations:
        offsets = self._offsets()
        mask_bits, mask_words = self._mask_place()
        for row in self.rows:
            if row["part"] >= 0:
                row["column"] = 1 + offsets[row["part"]]
            elif row["span"] >= 0 and row["column"] >= 0 and row["kind"] not in _NO_COLUMN:
                row["column"] += 1 + (mask_words if self.spans[row["span"]]["store"] == 0 else 0)
        groups, kept, pipeline = len(self.tiles), self.plan.kept_columns, self.pipeline
        kept_long = [pipeline.tile_retention_ms(tile_ms) for tile_ms in self.tiles]
        of_distinct = [distinct["store"] for distinct in self.distincts]
        tile_ms, retention_ms = [0, *self.tiles], [pipeline.exact_retention_ms, *kept_long]
        exact = [span["window"] for span in self.spans if span["store"] == 0]
        self.plan.layout = {
            "columns": [column.name for column in self.plan.columns],
            "kept_columns": kept,
            "conditions": [json.dumps(condition.definition()) for condition in self.plan.conditions],
            "mask_words": mask_words,
            "tiles": self.tiles,
            "parts": [[json.dumps(p["id"]), offsets[i], partials.WIDTHS[p["kind"]]] for i, p in enumerate(self.parts)],
            "tile_width": self.plan.tile_width,
            "distincts": [json.dumps(d["id"]) for d in self.distincts],
            "most_events": pipeline.max_events_per_entity,
            "kept_ms": {"events": pipeline.exact_retention_ms if exact else 0, "tiles": kept_long},
            "fields": self._fields_read(),
        }
        widths = [1 + mask_words + kept, *[1 + self.plan.tile_width] * groups, *[_DISTINCT_WIDTH] * len(of_distinct)]
        parts = [
            {**part, "column": _word(part["column"]), "place": 1 + offset}
            for part, offset in zip(self.parts, offsets, strict=True)
        ]
        return Operations(
            steps=_records(self.rows, OPERATION),
            spans=_records(self.spans, SPAN),
            stores=_records(
                [
                    {"width": width, "tile_ms": tile_ms[of], "retention_ms": retention_ms[of]}
                    for width, of in zip(widths, [*range(1 + groups), *of_distinct], strict=True)
                ],
                STORE,
            ),
            parts=_records(parts, PART),
            distincts=_records([{**d, "column": _word(d["column"])} for d in self.distincts], DISTINCT_VALUES),
            limits=Limits(
                pipeline.retention_ms, pipeline.lateness_ms, pipeline.exact_retention_ms, max(exact, default=0),
                pipeline.max_events_per_entity, kept, mask_bits, mask_words, DIRECT_ROWS, self.lines,
            ),
        )  # fmt: skip

    def _fields_read(self) -> dict[str, list[Any]]:
        """What the fields were that columns, conditions and tiles are made of."""
        read = {name for aggregate in aggregates_of(tuple(self.pipeline.features)) for name in aggregate.reads}
        return {name: each.definition()[1:] for name, each in self.pipeline.fields.items() if name in read}

    def _mask_place(self) -> tuple[int, int]:
        """How many bits beside an event's time hold its conditions, and how many words of their own."""
        conditions = len(self.plan.conditions)
        return (conditions, 0) if conditions <= _MOST_BITS_BESIDE_TIME else (0, 1)

    def _offsets(self) -> list[int]:
        """Where each partial begins in its tile's row, after the tile."""
        used = dict.fromkeys(range(1, 1 + len(self.tiles)), 0)
        offsets = []
        for part in self.parts:
            offsets.append(used[part["store"]])
            used[part["store"]] += partials.WIDTHS[part["kind"]]
        self.plan.tile_width = max(used.values(), default=0)
        return offsets


def _records(rows: Sequence[dict[str, Any]], kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """One record a row, of the row's values with the names of the record's fields."""
    kind = np.dtype(kind)
    return np.array([tuple(row[name] for name in kind.names or ()) for row in rows], kind)


def _word(column: int) -> int:
    """The word of an event that holds a column."""
    return column if column < 0 else COLUMNS + column


def _signed(bits: int) -> int:
    """64 bits as the int64 that has them."""
    return bits - (1 << 64) if bits >> 63 else bits


def _position(known: list[dict[str, Any]], wanted: dict[str, Any]) -> int:
    if wanted not in known:
        known.append(wanted)
    return known.index(wanted)
