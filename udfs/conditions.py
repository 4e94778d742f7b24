"""Conditions on an event's fields: `field("page_id") == "checkout"`, combined with `&`, `|` and `~`.

Two-valued logic. A null (None or NaN) makes every comparison false, `!=` and `isin` included; only `is_null()` is
true for it. So `~(field("x") == 1)` is true for a null x, and `field("x") != 1` is not.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from udfs.errors import DefinitionError

Constant = bool | int | float | str
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_WORDS = {"==": "is", "!=": "is_not", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}


def is_null(value: object) -> bool:
    """Whether a field's value counts as null: None, or a NaN."""
    return value is None or value != value


def name_part(value: object) -> str:
    """A value as part of a feature's name: 'New York' is 'New_York', 1.5 is '1_5', -2 is 'minus_2'."""
    text = f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)
    if isinstance(value, bool):
        text = text.lower()
    if isinstance(value, int | float) and text.startswith("-"):
        text = "minus_" + text[1:]
    return re.sub(r"\W+", "_", text).strip("_") or "empty"


def _field_part(field: str) -> str:
    """A field as part of a name; of a number of a vector, `shape[3]` is `shape_3`."""
    return field if field.isidentifier() else name_part(field)


class Condition:
    """A test on one event; made by `field(...)`, compared by its structure."""

    @property
    def name(self) -> str:
        """The condition as part of a feature's name, like `page_id_is_checkout`."""
        raise NotImplementedError

    @property
    def fields(self) -> tuple[str, ...]:
        """The event fields it reads, without repeats."""
        raise NotImplementedError

    def passes(self, columns: Mapping[str, Sequence[Any]]) -> list[bool]:
        """Whether each of n events passes, from one sequence of n values a field."""
        raise NotImplementedError

    def definition(self) -> list[Any]:
        """The condition as plain data: the same for equal conditions, in every process."""
        raise NotImplementedError

    def comparisons(self) -> "list[Comparison | IsIn]":
        """The parts that hold a constant, for type checks."""
        return []

    def evaluate(self, columns: Mapping[str, Sequence[Any]]) -> npt.NDArray[np.bool_]:
        """Whether each event passes.

        Args:
            columns: For every field of `fields`, its n values.

        Returns:
            (n_events,) bool.
        """
        return np.array(self.passes(columns), dtype=np.bool_)

    def __and__(self, other: "Condition") -> "Condition":
        return Both(self, _condition(other))

    def __or__(self, other: "Condition") -> "Condition":
        return Either(self, _condition(other))

    def __invert__(self) -> "Condition":
        return Negation(self)

    def __bool__(self) -> bool:
        raise DefinitionError(
            f"condition {self.name} was used as true or false; combine conditions with &, | and ~ (in parentheses) "
            "instead of and, or, not and chained comparisons"
        )


def _condition(value: object) -> Condition:
    if not isinstance(value, Condition):
        raise DefinitionError(f"{value!r} is not a condition; put each comparison in parentheses: (a == 1) & (b == 2)")
    return value


@dataclass(frozen=True)
class Comparison(Condition):
    """A field against a constant."""

    field: str
    operator: str
    value: Constant

    def __post_init__(self) -> None:
        if not isinstance(self.value, bool | int | float | str) or self.value != self.value:
            raise DefinitionError(
                f"field {self.field!r} is compared with {self.value!r}; compare with a text, a number or a bool, "
                "and test for missing values with .is_null()"
            )

    @property
    @override
    def name(self) -> str:
        return f"{_field_part(self.field)}_{_WORDS[self.operator]}_{name_part(self.value)}"

    @property
    @override
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    @override
    def passes(self, columns: Mapping[str, Sequence[Any]]) -> list[bool]:
        constant, column = self.value, columns[self.field]
        if self.operator == "==":  # nothing null equals a constant
            return [value == constant for value in column]
        compare = _COMPARE[self.operator]
        return [value is not None and value == value and compare(value, constant) for value in column]

    @override
    def definition(self) -> list[Any]:
        return [self.operator, self.field, self.value]

    @override
    def comparisons(self) -> "list[Comparison | IsIn]":
        return [self]


@dataclass(frozen=True)
class IsIn(Condition):
    """A field against a list of constants."""

    field: str
    values: tuple[Constant, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise DefinitionError(f"field {self.field!r}: isin() needs at least one value")
        for value in self.values:
            Comparison(self.field, "==", value)

    @property
    @override
    def name(self) -> str:
        return "_".join([_field_part(self.field), "in", *map(name_part, self.values)])

    @property
    @override
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    @override
    def passes(self, columns: Mapping[str, Sequence[Any]]) -> list[bool]:
        values = self.values
        return [value in values for value in columns[self.field]]

    @override
    def definition(self) -> list[Any]:
        return ["in", self.field, *self.values]

    @override
    def comparisons(self) -> "list[Comparison | IsIn]":
        return [self]


@dataclass(frozen=True)
class IsNull(Condition):
    """A field that is None or NaN."""

    field: str

    @property
    @override
    def name(self) -> str:
        return f"{_field_part(self.field)}_is_null"

    @property
    @override
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    @override
    def passes(self, columns: Mapping[str, Sequence[Any]]) -> list[bool]:
        return [value is None or value != value for value in columns[self.field]]

    @override
    def definition(self) -> list[Any]:
        return ["null", self.field]


@dataclass(frozen=True)
class Negation(Condition):
    """Whatever the other condition is not."""

    condition: Condition

    @property
    @override
    def name(self) -> str:
        return f"not_{self.condition.name}"

    @property
    @override
    def fields(self) -> tuple[str, ...]:
        return self.condition.fields

    @override
    def passes(self, columns: Mapping[str, Sequence[Any]]) -> list[bool]:
        return [not passed for passed in self.condition.passes(columns)]

    @override
    def definition(self) -> list[Any]:
        return ["not", self.condition.definition()]

    @override
    def comparisons(self) -> "list[Comparison | IsIn]":
        return self.condition.comparisons()


@dataclass(frozen=True)
class _Pair(Condition):
    left: Condition
    right: Condition
    word: ClassVar[str]

    @property
    @override
    def name(self) -> str:
        return f"{self.left.name}_{self.word}_{self.right.name}"

    @property
    @override
    def fields(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.left.fields, *self.right.fields)))

    @override
    def definition(self) -> list[Any]:
        return [self.word, self.left.definition(), self.right.definition()]

    @override
    def comparisons(self) -> "list[Comparison | IsIn]":
        return [*self.left.comparisons(), *self.right.comparisons()]


@dataclass(frozen=True)
class Both(_Pair):
    """Events that pass both conditions."""

    word: ClassVar[str] = "and"

    @override
    def passes(self, columns: Mapping[str, Sequence[Any]]) -> list[bool]:
        return [a and b for a, b in zip(self.left.passes(columns), self.right.passes(columns), strict=True)]


@dataclass(frozen=True)
class Either(_Pair):
    """Events that pass at least one of the conditions."""

    word: ClassVar[str] = "or"

    @override
    def passes(self, columns: Mapping[str, Sequence[Any]]) -> list[bool]:
        return [a or b for a, b in zip(self.left.passes(columns), self.right.passes(columns), strict=True)]


class FieldReference:
    """A field of the event; comparing it makes a `Condition`."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, value: Constant) -> Condition:  # type: ignore[override]
        return Comparison(self.name, "==", value)

    def __ne__(self, value: Constant) -> Condition:  # type: ignore[override]
        return Comparison(self.name, "!=", value)

    def __lt__(self, value: Constant) -> Condition:
        return Comparison(self.name, "<", value)

    def __le__(self, value: Constant) -> Condition:
        return Comparison(self.name, "<=", value)

    def __gt__(self, value: Constant) -> Condition:
        return Comparison(self.name, ">", value)

    def __ge__(self, value: Constant) -> Condition:
        return Comparison(self.name, ">=", value)

    def isin(self, values: Sequence[Constant]) -> Condition:
        """Events whose field is one of the values."""
        if isinstance(values, str):
            raise DefinitionError(f"field {self.name!r}: isin({values!r}) needs a list; write isin([{values!r}])")
        return IsIn(self.name, tuple(values))

    def is_null(self) -> Condition:
        """Events whose field is None or NaN."""
        return IsNull(self.name)


def field(name: str) -> FieldReference:
    """A field of the event, to be compared: `field("page_id") == "checkout"`."""
    return FieldReference(name)
