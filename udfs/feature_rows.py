"""Rows of features in the forms that people have them, as a matrix; a row that is none says why."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.refused import Refused

_NUMBERS = "biuf"


def rows_of_features(
    rows: Sequence[Any], names: Sequence[str]
) -> tuple[npt.NDArray[np.float64], list[int], list[Refused | None]]:
    """Rows as a matrix.

    Args:
        rows: n rows: features by name in a dict, named tuple or another object with attributes; or in order in a numpy
            row, list or tuple. None is a missing value.
        names: The F features.

    Returns:
        (m, F) float64 of the rows that are good, their m places, and for each of the n rows why it is refused, or None.
    """
    refused: list[Refused | None] = [None] * len(rows)
    try:
        found = np.array([_values(row, names) for row in rows])
    except (KeyError, AttributeError, TypeError, ValueError):  # a row is not like the others
        found = np.array(None)
    # a text would make all of them texts, a None objects
    if found.dtype.kind in _NUMBERS and found.shape == (len(rows), len(names)):
        return found.astype(np.float64), list(range(len(rows))), refused
    good: list[npt.NDArray[np.float64]] = []
    places = []
    for place, row in enumerate(rows):
        one = _row(row, names)
        if isinstance(one, Refused):
            refused[place] = one
        else:
            good.append(one)
            places.append(place)
    return np.array(good).reshape(-1, len(names)), places, refused


def _values(row: Any, names: Sequence[str]) -> Any:
    if isinstance(row, np.ndarray | list):
        return row
    if isinstance(row, Mapping):
        return [row[name] for name in names]
    if type(row) is tuple:
        return row
    return [getattr(row, name) for name in names]


def _row(row: Any, names: Sequence[str]) -> npt.NDArray[np.float64] | Refused:
    try:
        values = list(_values(row, names))
    except (KeyError, AttributeError) as error:
        missing = error.args[0] if isinstance(error, KeyError) else error.name
        return Refused("missing_field", f"the row has no feature {missing}")
    except TypeError:
        return Refused("wrong_type", f"a {type(row).__name__} is no row of features")
    if len(values) != len(names):
        return Refused("wrong_type", f"the row has {len(values)} values, not {len(names)}: {', '.join(names)}")
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        if value is None:
            values[place] = np.nan
        elif np.ndim(value) or (np.asarray(value).dtype.kind not in _NUMBERS and not isinstance(value, int)):
            return Refused("wrong_type", f"feature {name} is {value!r:.80}, no number")
    try:
        return np.array([float(value) for value in values])
    except OverflowError:
        return Refused("wrong_type", "a feature is a whole number that no float holds")
