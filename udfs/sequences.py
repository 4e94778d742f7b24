"""The last n events of an entity as neighbouring columns: the input of a sequence model, with its mask and length.

oldest of the n ... newest, for each its field: one column of a number, `size` columns of a vector, a code of a text
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from udfs.columns import hash_text
from udfs.durations import duration_text
from udfs.errors import DefinitionError
from udfs.events import split_element
from udfs.features import NUMERIC, Aggregate, Feature, Fields, InBlock

MOST_ITEMS = 1_000
SIDES = ("left", "right")


@dataclass(frozen=True)
class LastN(Aggregate):
    """The field of the n events with the greatest (event time, arrival), the oldest first; a block of columns.

    An event whose field is null has its place, so that sequences of several fields go together. A text is its code: 1
    for the first value that its `Literal` lists, 2 for the second and so on. Without a field it is their mask: 1 for
    each event that is there.

    Attributes:
        field: A number, a bool, a vector, or a text with declared values; None for the mask.
        n: How many events, 1 to 1,000.
        pad: Where columns are filled when there are fewer: "left" (the newest event is always in the last column) or
            "right" (the oldest of them is always in the first).
        fill: What stands there, and for a null: NaN, of a text or a mask 0.
        place: Which of the n one column is of, 0 for the oldest; None before there are columns (derived).
    """

    field: str | None = None
    n: int = 10
    pad: str = "left"
    place: int | None = None
    suffix: ClassVar[str] = "last"
    words: ClassVar[str] = "the latest values"

    def __post_init__(self) -> None:
        label = f"LastN({self.field!r})"
        _check_n(self.n, label)
        if self.pad not in SIDES:
            raise DefinitionError(f"{label}: pad is {self.pad!r}; write 'left' or 'right'")
        if self.tile is not None:
            raise DefinitionError(f"{label}: tile is not supported; tiles do not keep the events")
        super().__post_init__()

    @override
    def _label(self) -> str:
        side = "" if self.pad == "left" else "_pad_right"
        place = "" if self.place is None else f"_{self.place}"
        return f"{self.suffix}_{self.n}_{duration_text(self.window_ms)}{side}{place}"

    @override
    def elements(self, schema: Fields) -> tuple[Feature, ...]:
        if self.place is not None or (self.field is not None and self.field not in schema):
            return (self,)
        self.check(schema)
        read = None if self.field is None else schema[self.field]
        names = [each.name for each in read.elements] if read and read.kind == "vector" else [self.field]
        is_code = read is None or read.kind == "str"
        fill = 0.0 if is_code and math.isnan(self.fill) else self.fill
        return tuple(
            replace(self, field=name, place=place, fill=fill) for place in range(self.n) for name in names
        )

    @override
    def block(self, schema: Fields) -> InBlock | None:
        if self.place is None:
            return None
        vector, element = split_element(self.field or "")
        size = 1 if element is None else schema[vector].size or 0
        if element is not None and self.field not in [each.name for each in schema[vector].elements]:
            return None
        whole = replace(self, field=vector or None, place=None)
        return InBlock(whole.name, self.place * size + (element or 0), self.n * size, self.n)

    @override
    def check(self, schema: Fields) -> None:
        super().check(schema)
        if self.field is None:
            return
        read = schema[self.field]
        if read.kind == "str" and read.categories is None:
            raise DefinitionError(
                f"feature {self.name}: a text without declared values has no code; declare {self.field}: "
                "Literal['a', 'b', ...]"
            )

    @override
    def _kinds(self) -> tuple[str, ...]:
        return ("str", "vector", *NUMERIC) if self.place is None else ("str", *NUMERIC)

    @property
    @override
    def meaning(self) -> str:
        where = f" where {self.where.name}" if self.where is not None else ""
        side = "no earlier ones" if self.pad == "left" else "no later ones"
        which = "" if self.place is None else f"number {self.place + 1} of "
        return (
            f"{self.field or 1} of {which}the last {self.n} events{where} of the last {self.window}, oldest first "
            f"({self.fill:g} where there are {side})"
        )

    @override
    def _parameters(self) -> dict[str, Any]:
        return {"n": self.n, "pad": self.pad, "place": self.place}


@dataclass(frozen=True)
class SequenceLength(Aggregate):
    """How many of the last n events there are: n, or fewer. Never NaN.

    Attributes:
        n: As of `LastN`.
    """

    n: int = 10
    suffix: ClassVar[str] = "sequence_length"
    words: ClassVar[str] = "number"

    def __post_init__(self) -> None:
        _check_n(self.n, "SequenceLength")
        if self.tile is not None:
            raise DefinitionError("SequenceLength: tile is not supported; tiles do not keep the events")
        super().__post_init__()

    @override
    def _label(self) -> str:
        return f"{self.suffix}_{self.n}_{duration_text(self.window_ms)}"

    @property
    @override
    def meaning(self) -> str:
        where = f" where {self.where.name}" if self.where is not None else ""
        return f"number of events{where} of the last {self.window}, {self.n} at most"

    @override
    def _parameters(self) -> dict[str, Any]:
        return {"n": self.n}


def _check_n(n: int, label: str) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST_ITEMS:
        raise DefinitionError(f"{label}: n is {n!r}; write a whole number from 1 to {MOST_ITEMS:,}")


@dataclass(frozen=True)
class Codes:
    """Columns of features that are codes of texts; kernels know only hashes.

    Attributes:
        outputs: (m,) int64: columns of the features.
        fill: Of a text that is missing.
        hashes: (categories,) float64, ascending.
        codes: (categories,) float64: of each.
    """

    outputs: npt.NDArray[np.int64]
    fill: float
    hashes: npt.NDArray[np.float64]
    codes: npt.NDArray[np.float64]

    @classmethod
    def of(cls, outputs: Sequence[int], fill: float, categories: Sequence[str]) -> "Codes":
        """The codes of a field with these values."""
        hashes = np.array([hash_text(value) for value in categories])
        order = np.argsort(hashes)
        return cls(np.array(outputs, np.int64), fill, hashes[order], 1.0 + order)

    def put(self, features: npt.NDArray[np.float64]) -> None:
        """Replace hashes in features (n, F) by codes; one that no declared value has is missing."""
        hashes = features[:, self.outputs]
        place = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        features[:, self.outputs] = np.where(self.hashes[place] == hashes, self.codes[place], self.fill)
