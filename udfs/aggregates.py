"""Aggregates over an entity's recent events: Count, Sum, Mean, ..., a Ratio of them, and a user's own (Custom).

For event e with time t, an aggregate sees the entity's events that arrived up to and including e with a time in
(t - window, t]; with `tile`, whole tiles up to e's. Nulls (None, NaN) of the field are skipped.
"""

import math
import re
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from typing_extensions import override

from udfs.conditions import name_part
from udfs.durations import duration_text, parse_duration
from udfs.errors import DefinitionError
from udfs.features import NUMERIC, Aggregate, Feature, Fields, OneHot, Value, check_fill, fill_definition
from udfs.sequences import LastN, SequenceLength
from udfs.sessions import SessionAggregate, SessionCount, SessionDuration, SessionPause, SessionPosition

__all__ = [
    "Aggregate", "Count", "Custom", "Distinct", "Ewma", "Feature", "Last", "LastN", "Max", "Mean", "Min", "OneHot",
    "Previous", "Ratio", "SequenceLength", "SessionAggregate", "SessionCount", "SessionDuration", "SessionPause",
    "SessionPosition", "SinceLast", "Std", "Sum", "Value", "aggregates_of",
]  # fmt: skip


@dataclass(frozen=True)
class Count(Aggregate):
    """How many events; with a field, how many where it is not null. Never NaN."""

    field: str | None = None
    suffix: ClassVar[str] = "count"
    words: ClassVar[str] = "number"

    @override
    def _kinds(self) -> tuple[str, ...]:
        return ("str", *NUMERIC)


@dataclass(frozen=True)
class Sum(Aggregate):
    """Sum; 0 of nothing."""

    field: str
    suffix: ClassVar[str] = "sum"
    words: ClassVar[str] = "sum"


@dataclass(frozen=True)
class Mean(Aggregate):
    """Arithmetic mean; NaN of nothing."""

    field: str
    suffix: ClassVar[str] = "mean"
    words: ClassVar[str] = "mean"


@dataclass(frozen=True)
class Min(Aggregate):
    """Smallest value; NaN of nothing."""

    field: str
    suffix: ClassVar[str] = "min"
    words: ClassVar[str] = "minimum"


@dataclass(frozen=True)
class Max(Aggregate):
    """Greatest value; NaN of nothing."""

    field: str
    suffix: ClassVar[str] = "max"
    words: ClassVar[str] = "maximum"


@dataclass(frozen=True)
class Std(Aggregate):
    """Population standard deviation (divided by n); 0 of one value, NaN of nothing.

    Two passes inside a block of time, blocks merged by Chan, Golub and LeVeque, "Updating Formulae and a Pairwise
    Algorithm for Computing Sample Variances" (1979).
    """

    field: str
    suffix: ClassVar[str] = "std"
    words: ClassVar[str] = "population standard deviation"


@dataclass(frozen=True)
class Last(Aggregate):
    """The value with the greatest (event time, arrival); NaN of nothing."""

    field: str
    suffix: ClassVar[str] = "last"
    words: ClassVar[str] = "latest value"


@dataclass(frozen=True)
class Previous(Aggregate):
    """`Last` over the events that arrived before this one; NaN of nothing."""

    field: str
    suffix: ClassVar[str] = "previous"
    words: ClassVar[str] = "latest earlier value"


@dataclass(frozen=True)
class SinceLast(Aggregate):
    """Seconds since the latest matching event that arrived before this one; NaN when there is none."""

    suffix: ClassVar[str] = "since_last"
    words: ClassVar[str] = "seconds since the latest earlier event"


@dataclass(frozen=True)
class Distinct(Aggregate):
    """How many different values; texts are told apart by a 62-bit hash. Never NaN."""

    field: str
    suffix: ClassVar[str] = "distinct"
    words: ClassVar[str] = "number of different values"

    @override
    def _kinds(self) -> tuple[str, ...]:
        return ("str", *NUMERIC)


@dataclass(frozen=True)
class Ewma(Aggregate):
    """Mean weighted by 2 ** -(age / half_life); NaN of nothing.

    Ages are taken from the newest value in the window: the weights' common factor cancels, and the sum of weights
    stays at least 1 however old the values are.
    """

    field: str
    half_life: str = "10m"
    suffix: ClassVar[str] = "ewma"
    words: ClassVar[str] = "exponentially weighted mean"

    def __post_init__(self) -> None:
        parse_duration(self.half_life, f"Ewma({self.field!r}): half_life")
        super().__post_init__()

    @property
    def half_life_ms(self) -> int:
        """The age in ms at which a value weighs half."""
        return parse_duration(self.half_life, "half_life")

    @override
    def _label(self) -> str:
        return f"{super()._label()}_half_life_{duration_text(self.half_life_ms)}"

    @override
    def _parameters(self) -> dict[str, Any]:
        return {"half_life_ms": self.half_life_ms}


@dataclass(frozen=True)
class Custom(Aggregate):
    """Base of a user's own aggregate: subclass it in an importable module and write `init`, `add` and `value`.

    Evaluated in Python by folding over the window's events in (event time, arrival) order: slower than the built-in
    ones, and only for exact windows. Raise `version` whenever the result for the same events changes: the feature
    set's hash holds it. Parameters are further dataclass fields with defaults.
    """

    field: str
    version: ClassVar[int] = 1
    words: ClassVar[str] = "user-defined aggregate"

    def init(self) -> Any:
        """The state of an empty window."""
        raise NotImplementedError

    def add(self, state: Any, value: float, event_time_ms: int) -> Any:
        """The state after one more value (never null); may change and return `state`."""
        raise NotImplementedError

    def value(self, state: Any) -> float:
        """The feature, NaN if there is none."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        if self.tile is not None:
            raise DefinitionError(
                f"{type(self).__name__}({self.field!r}): tile is not supported for your own aggregates"
            )
        for method in ("init", "add", "value"):
            if getattr(type(self), method) is getattr(Custom, method):
                raise DefinitionError(f"{type(self).__name__}({self.field!r}): write the method {method}()")
        super().__post_init__()

    def _parameter_values(self) -> dict[str, Any]:
        own = {f.name for f in fields(Custom)}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in own}

    @override
    def _label(self) -> str:
        suffix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()
        parameters = [f"{name}_{name_part(value)}" for name, value in self._parameter_values().items()]
        return "_".join([suffix, duration_text(self.window_ms), *parameters])

    @override
    def _parameters(self) -> dict[str, Any]:
        return {"feature": f"custom:{type(self).__qualname__}", "version": self.version, **self._parameter_values()}


@dataclass(frozen=True)
class Ratio(Feature):
    """One feature divided by another; NaN, or `fill`, when the divisor is 0 or either is NaN."""

    numerator: Feature
    denominator: Feature
    fill: float = math.nan

    def __post_init__(self) -> None:
        for part in (self.numerator, self.denominator):
            if isinstance(part, Custom | LastN) or not isinstance(part, Value | Aggregate):
                raise DefinitionError(
                    f"Ratio: {part!r} cannot be divided; write Value or a built-in aggregate such as Count"
                )
        check_fill(self.fill, self.name)

    @property
    @override
    def name(self) -> str:
        return f"{self.numerator.name}_over_{self.denominator.name}"

    @property
    @override
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.numerator.reads, *self.denominator.reads)))

    @property
    @override
    def meaning(self) -> str:
        return f"({self.numerator.meaning}) / ({self.denominator.meaning})"

    @override
    def check(self, schema: Fields) -> None:
        self.numerator.check(schema)
        self.denominator.check(schema)

    @override
    def definition(self) -> dict[str, Any]:
        parts = [self.numerator.definition(), self.denominator.definition()]
        return {"feature": "ratio", "parts": parts, "fill": fill_definition(self.fill)}


def aggregates_of(features: tuple[Feature, ...]) -> list[Aggregate]:
    """Every aggregate among the features, the parts of ratios included."""
    found: list[Aggregate] = []
    for feature in features:
        parts = (feature.numerator, feature.denominator) if isinstance(feature, Ratio) else (feature,)
        found += [part for part in parts if isinstance(part, Aggregate)]
    return found
