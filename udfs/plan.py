"""Pipeline -> FeaturePlan: which columns and conditions are kept, and the operations the kernels run.

The plan also turns decoded events into the arrays the kernels take.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.columns import Column
from udfs.conditions import Condition
from udfs.event_reader import EventReader, OneHotPlace
from udfs.kernel_arrays import ENTITY, OWNER, Operations
from udfs.pipeline import Pipeline
from udfs.plan_builder import CustomOperation, PlanBuilder
from udfs.sequences import Codes

_NO_ROWS: Mapping[str, Sequence[Any]] = {}
_KEY_BYTES = 16 + 12
"""A key's block in the heap and its place in the hash table."""


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
        codes: Features that are codes of texts.
        layout: Names of everything in the state, for the codec.
        tile_width: Numbers in a tile's row.
        in_bits: Fields of few categories whose exact Distinct is told by conditions, without a column.
    """

    pipeline: Pipeline
    columns: list[Column] = field(default_factory=list)
    kept_columns: int = 0
    conditions: list[Condition] = field(default_factory=list)
    operations: Operations = field(init=False)
    customs: list[CustomOperation] = field(default_factory=list)
    codes: list[Codes] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)
    tile_width: int = 0
    direct_width: int = 0
    in_bits: set[str] = field(default_factory=set)
    _direct: list[OneHotPlace] = field(default_factory=list)
    _reader: EventReader = field(init=False)

    @classmethod
    def build(cls, pipeline: Pipeline) -> "FeaturePlan":
        """The plan of a pipeline.

        Raises:
            DefinitionError: If it has more than 64 different conditions.
        """
        plan = cls(pipeline)
        plan.operations = PlanBuilder(plan).build()
        plan._reader = EventReader(pipeline, plan.columns, plan.conditions, plan._direct, plan.direct_width)
        return plan

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features, in order."""
        return self.pipeline.feature_names

    @property
    def fields(self) -> tuple[str, ...]:
        """The event fields that `columnise` reads."""
        return self._reader.fields

    def columnise(
        self, events: Sequence[Any], rows: Mapping[str, Sequence[Any]] = _NO_ROWS
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.uint64], npt.NDArray[np.float64]]:
        """Decoded events as arrays.

        Args:
            events: Objects with the event's fields as attributes, times within 0..MAX_EVENT_TIME_MS.
            rows: Of each table of lookups, the row that each event sees.

        Returns:
            Event times (n,) int64 in ms; the columns aggregates read (n, len(columns)) float64; the conditions passed
            (n,) uint64, a bit each; the features of the event itself (n, direct_width) float64.

        Raises:
            DefinitionError: Features read lookups, and no rows are given.
        """
        return self._reader.read(events, rows)

    def state_description(self) -> dict[str, Any]:
        """What is kept per entity, as plain data."""
        operations, limits = self.operations, self.operations.limits
        tiles = []
        first_distinct = 1 + len(self.layout["tiles"])
        for tile_ms in self.layout["tiles"]:
            kept = self.pipeline.tile_retention_ms(tile_ms) // tile_ms + 1
            tiles.append({"tile_ms": tile_ms, "most_tiles": kept, "bytes_per_tile": 8 + 8 * self.tile_width})
            tiles[-1]["distinct_features"] = int((operations.stores["tile_ms"][first_distinct:] == tile_ms).sum())
        stores = len(operations.stores)
        return {
            "bytes_per_entity": ENTITY.itemsize + OWNER.itemsize * stores + _KEY_BYTES,
            "bytes_per_event": 8 * int(operations.stores["width"][0]) if limits.exact_window_ms > 0 else 0,
            "most_events": self.pipeline.max_events_per_entity,
            "kept_columns": [column.name for column in self.columns[: self.kept_columns]],
            "tiles": tiles,
        }
