"""Kept events of a state as columns: what they say of fields and conditions, also of some that were not kept as such.

A condition on a kept column is computed from it, one on a category from the others' conditions, and a column of
categories from the conditions that stand for them. What cannot be told is None, never a guess.
"""

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.columns import hash_text

Truths = npt.NDArray[np.bool_]
Definition = Sequence[Any]
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_EXACT_IN_FLOAT64 = 2**53


@dataclass(frozen=True)
class KeptEvents:
    """n events as a state has them.

    Attributes:
        times_ms: (n,) int64.
        masks: (n,) int64, a bit for each condition.
        columns: (n,) int64 each, the bits of float64, by name.
        conditions: Definitions as JSON, by bit.
        fields: Kind, nullability and categories of the fields that were read, by name; empty where unknown.
    """

    times_ms: npt.NDArray[np.int64]
    masks: npt.NDArray[np.int64]
    columns: Mapping[str, npt.NDArray[np.int64]]
    conditions: Sequence[str]
    fields: Mapping[str, Sequence[Any]]

    def column(self, name: str) -> npt.NDArray[np.int64] | None:
        """(n,) int64, the bits of a field as a float64; its name as `Column.name` says it."""
        if name in self.columns:
            return self.columns[name]
        field, hashed = name.removesuffix("#"), name.endswith("#")
        categories = self._categories(field)
        if categories is None or hashed != (self.fields[field][0] == "str"):
            return None
        values = np.full(len(self.masks), np.nan)
        for category in categories:
            found = self._known(["==", field, category])
            if found is None:
                return None
            values[found] = hash_text(category) if hashed else float(category)
        return values.view(np.int64)

    def condition(self, definition: Definition) -> Truths | None:
        """(n,) whether each passes a condition."""
        found = self._known(definition)
        if found is not None:
            return found
        word, *rest = definition
        if word == "not":
            inner = self.condition(rest[0])
            return None if inner is None else ~inner
        if word in ("and", "or"):
            left, right = self.condition(rest[0]), self.condition(rest[1])
            if left is None or right is None:
                return None
            return left & right if word == "and" else left | right
        found = self._by_column(word, rest[0], rest[1:])
        return self._by_conditions(word, rest[0], rest[1:]) if found is None else found

    def _known(self, definition: Definition) -> Truths | None:
        text = json.dumps(definition)
        if text not in self.conditions:
            return None
        found: Truths = (self.masks >> list(self.conditions).index(text)) & 1 > 0
        return found

    def _categories(self, field: str) -> Sequence[Any] | None:
        categories: Sequence[Any] | None = self.fields[field][2] if field in self.fields else None
        return categories

    def _by_column(self, word: str, field: str, constants: Sequence[Any]) -> Truths | None:
        """A condition on a column that is there; `==` and the like are false for a null."""
        if f"{field}#" in self.columns:
            if word not in ("==", "!=", "in", "null"):
                return None  # a hash says nothing of the alphabet
            column, constants = self.columns[f"{field}#"].view(np.float64), [hash_text(each) for each in constants]
        elif field in self.columns:
            column = self.columns[field].view(np.float64)
            if any(abs(each) > _EXACT_IN_FLOAT64 for each in constants):
                return None
        else:
            return None
        if word == "null":
            return np.isnan(column)
        if word == "in":
            return np.isin(column, np.array(constants, np.float64))
        passed: Truths = _COMPARE[word](column, float(constants[0])) & ~np.isnan(column)
        return passed

    def _by_conditions(self, word: str, field: str, constants: Sequence[Any]) -> Truths | None:
        """A condition on a field that is only known by the conditions on it."""
        categories = self._categories(field)
        if word == "==" and categories is not None and constants[0] not in categories:
            return np.zeros(len(self.masks), np.bool_)  # it could not be that then
        if word == "null" and field in self.fields and not self.fields[field][1]:
            return np.zeros(len(self.masks), np.bool_)
        if word == "in":
            return self._any_of(field, constants)
        if word == "null" and categories is not None:
            known = self._any_of(field, categories)
            return None if known is None else ~known
        if word == "!=" and categories is not None:
            return self._any_of(field, [each for each in categories if each != constants[0]])
        return None

    def _any_of(self, field: str, constants: Sequence[Any]) -> Truths | None:
        passed = np.zeros(len(self.masks), np.bool_)
        for constant in constants:
            found = self.condition(["==", field, constant])
            if found is None:
                return None
            passed |= found
        return passed
