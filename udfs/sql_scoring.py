"""A model applied to SQL columns: features by position or by name, one model for all rows or one named by each row."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from udfs.errors import DefinitionError
from udfs.scoring import predict_each

Floats = npt.NDArray[np.float64]


class NamedModel(Protocol):
    """What scoring needs of a model here."""

    @property
    def manifest(self) -> Any:
        """Its manifest: `features` and `prediction` are read."""

    def predict(self, features: Floats) -> Floats:
        """Scores (n,) of features (n, F)."""


def score_columns(
    arguments: Sequence[Any], open_model: Callable[[str], NamedModel], default_model: str, *, keep_missing: bool
) -> "pd.Series[float]":
    """Scores of n rows.

    Args:
        arguments: Of the SQL function: the model first, unless the first one is a number; then the features of the
            model's manifest in its order, or alternately a name and a value.
        open_model: Opens a model by its reference.
        default_model: The reference to use without one; "" if there is none.
        keep_missing: Whether a null feature is a missing value that the model is asked about; otherwise its row's
            score is null.

    Returns:
        n float64; NaN, which SQL gets as NULL, for rows that cannot be scored.

    Raises:
        DefinitionError: The features are not the model's.
    """
    length = next((len(each) for each in arguments if isinstance(each, pd.Series)), None)
    if length is None:
        raise DefinitionError("score: give at least one column; all arguments are constants")
    reference, values = _split_model(list(arguments), default_model)
    if isinstance(reference, str):
        return pd.Series(_scores(open_model(reference), reference, values, length, keep_missing=keep_missing))
    scores = np.full(length, np.nan)
    references = reference.to_numpy()
    for each in reference.dropna().unique():
        rows = np.flatnonzero(references == each)
        taken = [value.iloc[rows] if isinstance(value, pd.Series) else value for value in values]
        scores[rows] = _scores(open_model(each), each, taken, len(rows), keep_missing=keep_missing)
    return pd.Series(scores)


def _split_model(arguments: list[Any], default_model: str) -> tuple[Any, list[Any]]:
    """The model's reference, a text or a column of them, and the other arguments."""
    first = arguments[0] if arguments else None
    if isinstance(first, pd.Series):
        if first.dtype == object and (first.isna() | first.map(lambda one: isinstance(one, str))).all():
            return first, arguments[1:]
    elif isinstance(first, str):
        return first, arguments[1:]
    if not default_model:
        raise DefinitionError(
            "score: no model; name it in the first argument, like score('purchase/2', ...), or set the job parameter "
            "millrace.model"
        )
    return default_model, arguments


def _scores(model: NamedModel, reference: str, values: list[Any], length: int, *, keep_missing: bool) -> Floats:
    names = tuple(model.manifest.features)
    if not model.manifest.prediction.is_number:
        raise DefinitionError(f"score: {reference} gives {model.manifest.prediction.text}; SQL takes one number only")
    if values and isinstance(values[0], str):
        values = _in_order(names, values, reference)
    if len(values) != len(names):
        raise DefinitionError(
            f"score: {reference} takes {len(names)} features, {len(values)} were given; it takes {', '.join(names)}"
        )
    features = np.empty((length, len(names)))
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        features[:, place] = _numbers(value, name, reference)
    scores = np.full(length, np.nan)
    rows = np.arange(length) if keep_missing else np.flatnonzero(~np.isnan(features).any(axis=1))
    if len(rows):
        found, failed = predict_each(model, features[rows])
        found = np.where(np.isin(np.arange(len(rows)), list(failed)), np.nan, found)
        scores[rows] = found
    return scores


def _in_order(names: Sequence[str], pairs: list[Any], reference: str) -> list[Any]:
    """Values in the order of the model's features."""
    given, values = pairs[::2], pairs[1::2]
    if len(given) != len(values) or not all(isinstance(name, str) for name in given):
        raise DefinitionError(f"score: {reference}: write a name before every feature, or before none")
    wrong = [name for name in given if name not in names or given.count(name) > 1]
    missing = [name for name in names if name not in given]
    if wrong or missing:
        raise DefinitionError(
            f"score: {reference} takes {', '.join(names)}; not its features or twice: {', '.join(wrong) or 'none'}; "
            f"missing: {', '.join(missing) or 'none'}"
        )
    by_name = dict(zip(given, values, strict=True))
    return [by_name[name] for name in names]


def _numbers(value: Any, name: str, reference: str) -> Any:
    """A feature as float64, null as NaN."""
    try:
        if isinstance(value, pd.Series):
            return value.to_numpy(np.float64, na_value=np.nan)
        if isinstance(value, str):
            raise TypeError("a text")
        return np.nan if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise DefinitionError(f"score: {reference}: feature {name} is no number ({error})") from error
