"""Pipeline -> FeaturePlan: which columns and conditions are kept, and the operations the kernels run.

The plan also turns decoded events into the arrays the kernels take.
"""

import json
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs import partials
from udfs.aggregates import Aggregate, Count, Custom, Distinct, Ewma, Feature, OneHot, Ratio, Value, aggregates_of
from udfs.columns import Column, numbers
from udfs.conditions import Condition, IsNull, Negation
from udfs.errors import DefinitionError
from udfs.kernel_arrays import Operations
from udfs.pipeline import Pipeline
from udfs.window_kernels import BLOCKS_PER_WINDOW

_KINDS = {
    "count": partials.COUNT, "sum": partials.SUM, "mean": partials.MEAN, "min": partials.MIN, "max": partials.MAX,
    "std": partials.STD, "last": partials.LAST, "previous": partials.PREVIOUS, "sincelast": partials.SINCE,
    "ewma": partials.EWMA, "distinct": partials.DISTINCT,
}  # fmt: skip
_MOST_CONDITIONS = 64
_ENTITY_BYTES = 28 + 2 * 17


@dataclass(frozen=True)
class CustomOperation:
    """A user's own aggregate, folded in Python."""

    aggregate: Custom
    column: int
    needed: int
    output: int


@dataclass
class FeaturePlan:
    """A pipeline as the engine runs it.

    Attributes:
        pipeline: What it was built from.
        columns: Fields aggregates read; the first `kept_columns` are kept for exact windows.
        kept_columns: See `columns`.
        conditions: By bit.
        operations: For the kernels.
        customs: Operations that Python computes.
        layout: Names of everything in the state, for the codec.
        tile_width: Numbers in a tile's row.
    """

    pipeline: Pipeline
    columns: list[Column] = field(default_factory=list)
    kept_columns: int = 0
    conditions: list[Condition] = field(default_factory=list)
    operations: Operations = field(init=False)
    customs: list[CustomOperation] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)
    tile_width: int = 0
    direct_width: int = 0
    _direct: list[tuple[int, str, dict[Any, int] | None]] = field(default_factory=list)
    _fields: tuple[str, ...] = ()
    _getter: Callable[[Any], tuple[Any, ...]] = field(init=False)

    @classmethod
    def build(cls, pipeline: Pipeline) -> "FeaturePlan":
        """The plan of a pipeline.

        Raises:
            DefinitionError: If it has more than 64 different conditions.
        """
        plan = cls(pipeline)
        builder = _Builder(plan)
        plan.operations = builder.build()
        read = {pipeline.events.time, *(column.field for column in plan.columns)}
        read.update(name for _, name, _ in plan._direct)
        read.update(name for condition in plan.conditions for name in condition.fields)
        plan._fields = tuple(sorted(read))
        if len(plan._fields) == 1:  # attrgetter of one name gives no tuple
            plan._fields *= 2
        plan._getter = operator.attrgetter(*plan._fields)
        return plan

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features, in order."""
        return self.pipeline.feature_names

    def columnise(
        self, events: Sequence[Any]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.uint64], npt.NDArray[np.float64]]:
        """Decoded events as arrays.

        Args:
            events: Objects with the event's fields as attributes, times within 0..MAX_EVENT_TIME_MS.

        Returns:
            Event times (n,) int64 in ms; the columns aggregates read (n, len(columns)) float64; the conditions passed
            (n,) uint64, a bit each; the features of the event itself (n, direct_width) float64.
        """
        count = len(events)
        sequences = zip(*map(self._getter, events), strict=True) if count else ((),) * len(self._fields)
        values: dict[str, Sequence[Any]] = dict(zip(self._fields, sequences, strict=True))
        columns = np.empty((count, len(self.columns)))
        for index, column in enumerate(self.columns):
            columns[:, index] = column.read(values[column.field])
        masks = np.zeros(count, dtype=np.uint64)
        for bit, condition in enumerate(self.conditions):
            masks |= np.array(condition.passes(values), dtype=np.uint64) << np.uint64(bit)
        direct = np.zeros((count, self.direct_width))
        for index, name, categories in self._direct:
            if categories is None:
                direct[:, index] = numbers(values[name])
                continue
            for row, value in enumerate(values[name]):
                place = categories.get(value)
                if place is not None:
                    direct[row, index + place] = 1.0
        return self.pipeline.events.times_ms(values[self.pipeline.events.time]), columns, masks, direct

    def state_description(self) -> dict[str, Any]:
        """What is kept per entity, as plain data."""
        tiles = []
        for group, tile_ms in enumerate(self.operations.tile_ms.tolist()):
            kept = self.pipeline.tile_retention_ms(tile_ms) // tile_ms + 1
            tiles.append({"tile_ms": tile_ms, "most_tiles": kept, "bytes_per_tile": 8 + 8 * self.tile_width})
            tiles[-1]["distinct_features"] = int((self.operations.distincts[:, 0] == group).sum())
        return {
            "bytes_per_entity": _ENTITY_BYTES,
            "bytes_per_event": 16 + 8 * self.kept_columns if self.operations.limits[3] > 0 else 0,
            "most_events": self.pipeline.max_events_per_entity,
            "kept_columns": [column.name for column in self.columns[: self.kept_columns]],
            "tiles": tiles,
        }


class _Builder:
    """Collects the operations of a plan."""

    def __init__(self, plan: FeaturePlan) -> None:
        self.plan, self.pipeline = plan, plan.pipeline
        self.rows: list[dict[str, Any]] = []
        self.known: dict[str, int] = {}
        self.tiles: list[int] = []
        self.parts: list[dict[str, Any]] = []
        self.distincts: list[dict[str, Any]] = []

    def build(self) -> Operations:
        aggregates = self._aggregates()
        for aggregate in sorted(aggregates, key=lambda found: found.tile_ms is not None):  # kept columns first
            self._column(aggregate)
            if aggregate.tile_ms is None:
                self.plan.kept_columns = len(self.plan.columns)
        self.tiles = sorted({found.tile_ms for found in aggregates if found.tile_ms is not None})
        output = 0
        for feature in self.pipeline.features:
            names = feature.names(self.pipeline.fields)
            if isinstance(feature, OneHot):
                self._one_hot(feature, output)
            else:
                self.rows[self._operation(feature)]["output"] = output
            output += len(names)
        for operation in self.rows:
            if operation["kind"] == partials.CUSTOM:
                custom = CustomOperation(operation["of"], operation["column"], operation["needed"], operation["output"])
                self.plan.customs.append(custom)
        return self._arrays()

    def _aggregates(self) -> list[Aggregate]:
        return aggregates_of(tuple(self.pipeline.features))

    def _column(self, aggregate: Aggregate) -> int:
        """Index of the column an aggregate reads; 0 for those that read conditions only."""
        if aggregate.input is None or isinstance(aggregate, Count):
            return 0
        column = Column(aggregate.input, self.pipeline.fields[aggregate.input].kind == "str")
        if column not in self.plan.columns:
            self.plan.columns.append(column)
        return self.plan.columns.index(column)

    def _needed(self, aggregate: Aggregate) -> int:
        """Bits of the conditions an aggregate's events must pass."""
        needed = 0
        wanted = [aggregate.where] if aggregate.where is not None else []
        if isinstance(aggregate, Count) and aggregate.field is not None:
            wanted.append(Negation(IsNull(aggregate.field)))
        for condition in wanted:
            if condition not in self.plan.conditions:
                self.plan.conditions.append(condition)
            needed |= 1 << self.plan.conditions.index(condition)
        if len(self.plan.conditions) > _MOST_CONDITIONS:
            raise DefinitionError(f"pipeline {self.pipeline.name}: more than {_MOST_CONDITIONS} different conditions")
        return needed

    def _add(self, kind: int, **values: Any) -> int:
        row = {
            "kind": kind, "column": 0, "other": 0, "needed": 0, "window": 0, "block": 0, "group": -1, "half_life": 1.0,
            "fill": np.nan, "output": -1, "before": False, **values,
        }  # fmt: skip
        self.rows.append(row)
        return len(self.rows) - 1

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
            elif isinstance(feature, Aggregate):
                self.known[key] = self._tiled(feature) if feature.tile_ms is not None else self._exact(feature)
        return self.known[key]

    def _exact(self, aggregate: Aggregate) -> int:
        custom = isinstance(aggregate, Custom)
        half_life = float(aggregate.half_life_ms) if isinstance(aggregate, Ewma) else 1.0
        return self._add(
            partials.CUSTOM if custom else _KINDS[aggregate.definition()["feature"]],
            column=self._column(aggregate), needed=self._needed(aggregate), window=aggregate.window_ms,
            block=max(aggregate.window_ms // BLOCKS_PER_WINDOW, 1), half_life=half_life, fill=aggregate.fill,
            of=aggregate,
        )  # fmt: skip

    def _tiled(self, aggregate: Aggregate) -> int:
        kind = _KINDS[aggregate.definition()["feature"]]
        tile_ms = aggregate.tile_ms or 0
        group, needed, column = self.tiles.index(tile_ms), self._needed(aggregate), self._column(aggregate)
        half_life = float(aggregate.half_life_ms) if isinstance(aggregate, Ewma) else 1.0
        where = aggregate.where.definition() if aggregate.where is not None else None
        identity: list[Any] = [tile_ms, aggregate.input, where]
        if isinstance(aggregate, Distinct):
            place = _position(self.distincts, {"id": identity, "group": group, "column": column, "needed": needed})
        else:
            kept = partials.LAST if kind == partials.PREVIOUS else kind
            part: dict[str, Any] = {"kind": kept, "group": group, "needed": needed, "half_life": half_life}
            part["column"] = -1 if aggregate.input is None or isinstance(aggregate, Count) else column
            part["id"] = [*identity, _part_name(kept), half_life]
            place = _position(self.parts, part)
        return self._add(
            kind, column=place, needed=needed, window=aggregate.window_ms // tile_ms, group=group, half_life=half_life,
            fill=aggregate.fill, before=kind in (partials.PREVIOUS, partials.SINCE),
        )  # fmt: skip

    def _arrays(self) -> Operations:
        offsets = self._offsets()
        for row in self.rows:
            if row["group"] >= 0 and row["kind"] != partials.DISTINCT:
                row["column"] = offsets[row["column"]]
        types: dict[str, Any] = {"needed": np.uint64, "half_life": np.float64, "fill": np.float64, "before": np.bool_}
        names = Operations._fields[: Operations._fields.index("tile_ms")]
        arrays: dict[str, Any] = {n: np.array([row[n] for row in self.rows], types.get(n, np.int64)) for n in names}
        parts = [[p["group"], p["kind"], p["column"], offsets[i]] for i, p in enumerate(self.parts)]
        distincts = [[d["group"], d["column"]] for d in self.distincts]
        exact = [row["window"] for row in self.rows if row["block"] > 0]
        pipeline = self.pipeline
        self.plan.layout = {
            "columns": [column.name for column in self.plan.columns],
            "kept_columns": self.plan.kept_columns,
            "conditions": [json.dumps(condition.definition()) for condition in self.plan.conditions],
            "tiles": self.tiles,
            "parts": [[json.dumps(p["id"]), offsets[i], partials.WIDTHS[p["kind"]]] for i, p in enumerate(self.parts)],
            "tile_width": self.plan.tile_width,
            "distincts": [json.dumps(d["id"]) for d in self.distincts],
        }
        return Operations(
            **arrays,
            tile_ms=np.array(self.tiles, np.int64),
            tile_retention_ms=np.array([pipeline.tile_retention_ms(tile_ms) for tile_ms in self.tiles], np.int64),
            parts=np.array(parts, np.int64).reshape(-1, 4),
            part_needed=np.array([p["needed"] for p in self.parts], np.uint64),
            part_half_life=np.array([p["half_life"] for p in self.parts], np.float64),
            distincts=np.array(distincts, np.int64).reshape(-1, 2),
            distinct_needed=np.array([d["needed"] for d in self.distincts], np.uint64),
            limits=np.array(
                [
                    pipeline.retention_ms, pipeline.lateness_ms, pipeline.exact_retention_ms, max(exact, default=0),
                    pipeline.max_events_per_entity, self.plan.kept_columns,
                ],
                np.int64,
            ),
        )  # fmt: skip

    def _offsets(self) -> list[int]:
        """Where each partial begins in its tile's row."""
        used = dict.fromkeys(range(len(self.tiles)), 0)
        offsets = []
        for part in self.parts:
            offsets.append(used[part["group"]])
            used[part["group"]] += partials.WIDTHS[part["kind"]]
        self.plan.tile_width = max(used.values(), default=0)
        return offsets


def _position(known: list[dict[str, Any]], wanted: dict[str, Any]) -> int:
    if wanted not in known:
        known.append(wanted)
    return known.index(wanted)


def _part_name(kind: int) -> str:
    return ("count", "sum", "mean", "min", "max", "std", "last", "since", "ewma")[kind]
