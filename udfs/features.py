"""What a feature is: the base classes, and the features of the event itself (Value, OneHot). Names are derived.

The aggregates built on `Aggregate` are in aggregates.py.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

from typing_extensions import override

from udfs.conditions import Comparison, Condition, IsIn
from udfs.durations import duration_text, parse_duration
from udfs.errors import DefinitionError
from udfs.events import EventField, element_name, split_element

Fields = Mapping[str, EventField]
NUMERIC = ("int", "float", "bool")


def check_fill(fill: float, name: str) -> None:
    """Refuse a fill that is no number."""
    if isinstance(fill, bool) or not isinstance(fill, int | float):
        raise DefinitionError(f"feature {name}: fill is {fill!r}; write a number (or leave it out to keep NaN)")


def fill_definition(fill: float) -> float | None:
    """A fill as JSON can hold it."""
    return None if math.isnan(fill) else float(fill)


class InBlock(NamedTuple):
    """A column of a vector.

    Attributes:
        name: What all of them are called together.
        place: Which of them it is.
        size: How many they are.
        events: Of how many events they are.
    """

    name: str
    place: int
    size: int
    events: int = 1


def _require(name: str, feature: str, schema: Fields, kinds: tuple[str, ...], advice: str) -> None:
    if name not in schema:
        raise DefinitionError(f"feature {feature}: the event has no field {name!r}; it has {', '.join(schema)}")
    if schema[name].kind == "vector":
        advice = f"take Value, Mean, Last, Ewma and others of numbers, or one of them, like {element_name(name, 0)!r}"
    if schema[name].kind not in kinds:
        raise DefinitionError(f"feature {feature}: field {name!r} is {schema[name].kind}; {advice}")


def _each_element(feature: "Value | Aggregate", name: str | None, schema: Fields) -> "tuple[Feature, ...]":
    if name is None or name not in schema or schema[name].kind != "vector":
        return (feature,)
    made: Any = replace
    return tuple(made(feature, field=each.name) for each in schema[name].elements)


def _in_block(feature: "Value | Aggregate", name: str | None, schema: Fields) -> InBlock | None:
    vector, place = split_element(name or "")
    if place is None:
        return None
    return InBlock(feature.name.removesuffix(f"_{place}"), place, schema[vector].size or 0)


def _behind(field: str | None) -> tuple[str, str]:
    """A field in a name, and what comes last in the name where it is a number of a vector."""
    vector, place = split_element(field or "")
    return vector.replace(".", "_"), "" if place is None else f"_{place}"


def check_condition(condition: Condition, feature: str, schema: Fields) -> None:
    """Refuse a condition that reads unknown fields or compares a text with a number."""
    for name in condition.fields:
        _require(name, feature, schema, ("str", *NUMERIC), "")
    for part in condition.comparisons():
        read = schema[part.field]
        constants = part.values if isinstance(part, IsIn) else (part.value,)
        for constant in constants:
            if isinstance(constant, str) != (read.kind == "str"):
                raise DefinitionError(
                    f"feature {feature}: field {part.field!r} is {read.kind}, compared with {constant!r}"
                )
            if read.categories is not None and constant not in read.categories:
                allowed = ", ".join(map(repr, read.categories))
                raise DefinitionError(
                    f"feature {feature}: {constant!r} is no value of {part.field!r}; it has {allowed}"
                )


class Feature:
    """Anything that may stand in a pipeline's list of features."""

    def names(self, schema: Fields) -> tuple[str, ...]:
        """The names of the features it makes, in order."""
        return (self.name,)

    def elements(self, schema: Fields) -> "tuple[Feature, ...]":
        """Of a vector, the same of each of its numbers, in order; itself of anything else."""
        return (self,)

    def block(self, schema: Fields) -> "InBlock | None":
        """Which neighbouring columns it is one of; None where it is a column by itself."""
        return None

    @property
    def name(self) -> str:
        """The feature's derived name."""
        raise NotImplementedError

    @property
    def reads(self) -> tuple[str, ...]:
        """The event fields it reads."""
        raise NotImplementedError

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        raise NotImplementedError

    def check(self, schema: Fields) -> None:
        """Refuse fields that do not exist or have the wrong type."""
        raise NotImplementedError

    def definition(self) -> dict[str, Any]:
        """The feature as plain data: the same in every process, different when values could differ."""
        raise NotImplementedError


@dataclass(frozen=True)
class Value(Feature):
    """A number or bool of the event itself; null is NaN, or `fill`."""

    field: str
    fill: float = math.nan

    def __post_init__(self) -> None:
        check_fill(self.fill, self.name)

    @property
    @override
    def name(self) -> str:
        return "".join(_behind(self.field))

    @override
    def elements(self, schema: Fields) -> tuple[Feature, ...]:
        return _each_element(self, self.field, schema)

    @override
    def block(self, schema: Fields) -> InBlock | None:
        return _in_block(self, self.field, schema)

    @property
    @override
    def reads(self) -> tuple[str, ...]:
        return (self.field,)

    @property
    @override
    def meaning(self) -> str:
        return f"{self.field} of the event"

    @override
    def check(self, schema: Fields) -> None:
        _require(self.field, self.name, schema, NUMERIC, f"use OneHot({self.field!r}) for a text")

    @override
    def definition(self) -> dict[str, Any]:
        return {"feature": "value", "field": self.field, "fill": fill_definition(self.fill)}


@dataclass(frozen=True)
class OneHot(Feature):
    """One feature a category of a `Literal[...]` field: 1 for the event's own, else 0; all 0 for null."""

    field: str

    @property
    @override
    def name(self) -> str:
        return f"{self.field}_is"

    @override
    def names(self, schema: Fields) -> tuple[str, ...]:
        return tuple(Comparison(self.field, "==", value).name for value in schema[self.field].categories or ())

    @property
    @override
    def reads(self) -> tuple[str, ...]:
        return (self.field,)

    @property
    @override
    def meaning(self) -> str:
        return f"1 for the event's {self.field}, 0 for every other"

    @override
    def check(self, schema: Fields) -> None:
        label = f"OneHot({self.field!r})"
        _require(self.field, label, schema, ("str", *NUMERIC), "")
        if schema[self.field].categories is None:
            raise DefinitionError(
                f"feature {label}: the values are not known; declare {self.field}: Literal['a', 'b', ...]"
            )

    @override
    def definition(self) -> dict[str, Any]:
        return {"feature": "one_hot", "field": self.field}


@dataclass(frozen=True, kw_only=True)
class Aggregate(Feature):
    """An aggregate over a window.

    Attributes:
        window: Its length, like "10m".
        where: Only events that pass count.
        tile: For long windows: keep one partial aggregate per tile of this length, not every event.
        fill: The value instead of NaN.
    """

    window: str
    where: Condition | None = None
    tile: str | None = None
    fill: float = math.nan

    suffix: ClassVar[str]
    words: ClassVar[str]

    def __post_init__(self) -> None:
        label = f"{type(self).__name__}({self.input!r})" if self.input else type(self).__name__
        if self.input is not None and not isinstance(self.input, str):
            raise DefinitionError(f"{type(self).__name__}: the field is {self.input!r}; write its name as a text")
        if self.where is not None and not isinstance(self.where, Condition):
            raise DefinitionError(f"{label}: where is {self.where!r}; write e.g. where=field('page_id') == 'checkout'")
        window_ms = parse_duration(self.window, f"{label}: window")
        if self.tile is not None:
            tile_ms = parse_duration(self.tile, f"{label}: tile")
            if window_ms % tile_ms:
                raise DefinitionError(f"{label}: window {self.window} is not a multiple of tile {self.tile}")
            if window_ms // tile_ms > 10_000:
                raise DefinitionError(f"{label}: window {self.window} holds more than 10000 tiles; write a longer tile")
        check_fill(self.fill, self.name)

    @property
    def input(self) -> str | None:
        """The field it aggregates; None when it looks at whole events."""
        found: str | None = getattr(self, "field", None)
        return found

    @property
    def window_ms(self) -> int:
        """The window in ms."""
        return parse_duration(self.window, "window")

    @property
    def tile_ms(self) -> int | None:
        """The tile in ms; None for an exact window."""
        return None if self.tile is None else parse_duration(self.tile, "tile")

    @property
    @override
    def name(self) -> str:
        of, place = _behind(self.input)
        parts = [self.where.name if self.where is not None else "", of, self._label()]
        window = f"_tile_{duration_text(self.tile_ms)}" if self.tile_ms is not None else ""
        return "_".join(part for part in parts if part) + window + place

    @override
    def elements(self, schema: Fields) -> tuple[Feature, ...]:
        return _each_element(self, self.input, schema) if self._kinds() == NUMERIC else (self,)

    @override
    def block(self, schema: Fields) -> InBlock | None:
        return _in_block(self, self.input, schema)

    def _label(self) -> str:
        return f"{self.suffix}_{duration_text(self.window_ms)}"

    @property
    @override
    def reads(self) -> tuple[str, ...]:
        conditions = self.where.fields if self.where is not None else ()
        return tuple(dict.fromkeys((*((self.input,) if self.input else ()), *conditions)))

    @property
    @override
    def meaning(self) -> str:
        where = f" where {self.where.name}" if self.where is not None else ""
        of = f" of {self.input}" if self.input else ""
        span = f"whole tiles of {self.tile}, {self.window} in all" if self.tile else f"the last {self.window}"
        return f"{self.words}{of}{where} over {span}"

    @override
    def check(self, schema: Fields) -> None:
        if self.input is not None:
            advice = f"{type(self).__name__} needs a number; use OneHot, Distinct, or Count with where= for a text"
            _require(self.input, self.name, schema, self._kinds(), advice)
        if self.where is not None:
            check_condition(self.where, self.name, schema)

    def _kinds(self) -> tuple[str, ...]:
        return NUMERIC

    @override
    def definition(self) -> dict[str, Any]:
        return {
            "feature": type(self).__name__.lower(),
            "field": self.input,
            "where": self.where.definition() if self.where is not None else None,
            "window_ms": self.window_ms,
            "tile_ms": self.tile_ms,
            "fill": fill_definition(self.fill),
            **self._parameters(),
        }

    def _parameters(self) -> dict[str, Any]:
        return {}
