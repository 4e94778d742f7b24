"""What a prediction holds: one number, or several numbers, vectors and class labels, each by its name.

A batch of predictions is an array. Of one number a row it is (n,); of anything else (n, width), each output in its
columns: a number has one, a vector one for each of its numbers, a label one with the place of the class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MOST_NUMBERS = 65_536
"""Of one prediction."""


@dataclass(frozen=True)
class Number:
    """One number.

    Attributes:
        name: As in the prediction.
    """

    name: str

    @property
    def width(self) -> int:
        """Columns."""
        return 1

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.name}, a number"


@dataclass(frozen=True)
class Vector:
    """Numbers in order, like an embedding or a probability of each class.

    Attributes:
        name: As in the prediction.
        size: How many.
    """

    name: str
    size: int

    @property
    def width(self) -> int:
        """Columns."""
        return self.size

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.name}, a vector of {self.size}"


@dataclass(frozen=True)
class Label:
    """The class that a model decided for.

    Attributes:
        name: As in the prediction.
        classes: All there are: texts, or whole numbers.
    """

    name: str
    classes: tuple[str, ...] | tuple[int, ...]

    @property
    def width(self) -> int:
        """Columns."""
        return 1

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.name}, one of {', '.join(map(repr, self.classes))}"


Output = Number | Vector | Label


@dataclass(frozen=True)
class Outputs:
    """All outputs of a prediction, in order."""

    each: tuple[Output, ...]

    @classmethod
    def of(cls, given: "str | Output | Sequence[str | Output]") -> "Outputs":
        """From what a user writes; a text is a number's name.

        Raises:
            ValueError: It is none; says how to write it.
        """
        listed = [given] if isinstance(given, str | Number | Vector | Label) else given
        if not isinstance(listed, list | tuple) or not listed:
            raise ValueError(f"is {given!r}; write a name like 'score', or outputs like Vector('embedding', 16)")
        found = cls(tuple(Number(one) if isinstance(one, str) else _checked(one, given) for one in listed))
        for one in found.each:
            if not isinstance(one.name, str) or not one.name.isidentifier():
                raise ValueError(f"{one.name!r} is no name; write one like 'score'")
            if found.names.count(one.name) > 1:
                raise ValueError(f"has {one.name!r} twice")
        if found.width > MOST_NUMBERS:
            raise ValueError(f"has {found.width:,} numbers; at most {MOST_NUMBERS:,} go into one")
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(one.name for one in self.each)

    @property
    def is_number(self) -> bool:
        """Whether there is only one number."""
        return len(self.each) == 1 and isinstance(self.each[0], Number)

    @property
    def width(self) -> int:
        """Columns of a batch."""
        return sum(one.width for one in self.each)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one prediction in a batch: () for one number."""
        return () if self.is_number else (self.width,)

    @property
    def text(self) -> str:
        """In words."""
        return "; ".join(one.text for one in self.each)

    def nothing(self, count: int, fill: float = 0.0) -> Floats:
        """(count, *shape) of one number."""
        return np.full((count, *self.shape), fill)

    def parts(self, scores: Floats) -> list[tuple[Output, Floats]]:
        """Each output with its numbers: (n,) of a number or label, (n, size) of a vector.

        Args:
            scores: (n, *shape).
        """
        if self.is_number:
            return [(self.each[0], scores)]
        found, begin = list[tuple[Output, Floats]](), 0
        for one in self.each:
            end = begin + one.width
            found.append((one, scores[:, begin:end] if isinstance(one, Vector) else scores[:, begin]))
            begin = end
        return found

    def columns(self, scores: Floats) -> list[list[Any]]:
        """What is written of each output: floats, lists of floats, or classes.

        Args:
            scores: (n, *shape), finite.
        """
        return [
            [one.classes[int(code)] for code in part.tolist()] if isinstance(one, Label) else part.tolist()
            for one, part in self.parts(scores)
        ]

    def values(self, scores: Floats) -> dict[str, Any]:
        """What is written of one prediction, by name.

        Args:
            scores: (1, *shape), finite.
        """
        return {name: column[0] for name, column in zip(self.names, self.columns(scores), strict=True)}

    def numbers(self, fields: Mapping[str, Any]) -> list[float]:
        """The numbers of a prediction that was read, (width,).

        Raises:
            ValueError: It has not these outputs.
        """
        found: list[float] = []
        try:
            for one in self.each:
                value = fields[one.name]
                if isinstance(one, Label):
                    found.append(float(one.classes.index(value)))
                elif isinstance(one, Vector):
                    found += map(float, value)
                    if len(value) != one.size:
                        raise ValueError(f"{one.name} has {len(value)} numbers, not {one.size}")
                else:
                    found.append(float(value))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it has not the outputs {', '.join(self.names)}: {error}") from error
        return found

    def finite(self, scores: Floats) -> npt.NDArray[np.bool_]:
        """(n,) whether all numbers of each prediction are."""
        finite = np.isfinite(scores)
        return finite if self.is_number else finite.all(axis=1)

    def equal(self, a: Floats, b: Floats) -> dict[str, npt.NDArray[np.bool_]]:
        """By output, whether two batches (n, *shape) say the same."""
        pairs = zip(self.parts(a), self.parts(b), strict=True)
        return {
            one.name: (first == second).all(axis=1) if isinstance(one, Vector) else first == second
            for (one, first), (_, second) in pairs
        }

    def alike(self, a: Floats, b: Floats) -> npt.NDArray[np.bool_]:
        """(n,) whether two batches (n, *shape) say the same in all outputs."""
        same: npt.NDArray[np.bool_] = np.logical_and.reduce(list(self.equal(a, b).values()))
        return same

    def apart(self, a: Floats, b: Floats) -> Floats:
        """(n,) how far predictions of two batches are apart; of several outputs the largest.

        Of numbers it is the difference, of vectors its length, of different labels 1.
        """
        found = np.zeros(len(a))
        for (one, first), (_, second) in zip(self.parts(a), self.parts(b), strict=True):
            part = (first != second).astype(np.float64) if isinstance(one, Label) else np.abs(first - second)
            found = np.maximum(found, np.linalg.norm(part, axis=1) if isinstance(one, Vector) else part)
        return found

    def problem(self, row: Floats) -> str:
        """Why a prediction, (*shape), is none."""
        if self.is_number:
            return f"the model's score is {row}"
        for one, part in self.parts(row[None]):
            odd = np.flatnonzero(~np.isfinite(part))
            if len(odd):
                if isinstance(one, Label):
                    return f"the model's {one.name} is none of {', '.join(map(repr, one.classes))}"
                place = f"[{odd[0]}]" if isinstance(one, Vector) else ""
                return f"the model's {one.name}{place} is {part.flat[odd[0]]}"
        return "the model's score is none"


def _checked(one: Output, given: Any) -> Output:
    if isinstance(one, Vector):
        if isinstance(one.size, bool) or not isinstance(one.size, int) or one.size < 1:
            raise ValueError(f"has {one!r}; write how many numbers the vector has, like Vector('embedding', 16)")
    elif isinstance(one, Label):
        classes = one.classes if isinstance(one.classes, list | tuple) else ()
        kinds = {type(each) for each in classes}
        if kinds not in ({str}, {int}) or len(set(classes)) < len(classes):
            raise ValueError(f"has {one!r}; write its classes, like Label('decision', ('keep', 'churn'))")
        return Label(one.name, tuple(classes))  # type: ignore[arg-type]  # of one kind, as checked
    elif not isinstance(one, Number):
        raise ValueError(f"is {given!r}; write names, Number, Vector or Label, like Vector('embedding', 16)")
    return one


SCORE = Outputs((Number("score"),))
"""What a model gives whose manifest names its one number not."""


def distances(a: Floats, b: Floats) -> dict[str, Floats]:
    """How far vectors of the same events are apart.

    Args:
        a: (n, size).
        b: (n, size).

    Returns:
        (n,) `cosine`: 1 - the cosine of their angle, 1 where one of them is 0; `euclidean`: the length of b - a.
    """
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.where(lengths > 0, 1.0 - (a * b).sum(axis=1) / lengths, np.where((a == b).all(axis=1), 0.0, 1.0))
    return {"cosine": np.clip(cosine, 0.0, 2.0), "euclidean": np.linalg.norm(b - a, axis=1)}
