"""Functions for Flink SQL, each usable alone: `CREATE TEMPORARY FUNCTION score AS 'udfs.table.score' LANGUAGE PYTHON`.

All are vectorised: they get columns through Arrow, some hundred rows a call. What they compute is in pure modules; a
class stands here where a function needs its job's parameters or takes a constant first (PyFlink checks the length of
the first argument of plain functions).

    score(model, feature, ...)          NULL where a feature is NULL, or where the model fails on the row
    score_missing(model, feature, ...)  the same, but a NULL feature is a missing value that the model is asked about
    decode_event(key, value, schema)    a raw record's fields as texts, or why it is refused
    window_sum/_mean/_std/_last(array), window_ewma(array, times, half_life_ms), window_previous(array, offsets,
    offset), window_since_last(times, offsets, time, offset): of a window that ARRAY_AGG gathered
    first_bytes(value, count)           the beginning of a value that is too long
"""

import functools
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyflink.table.udf import FunctionContext, ScalarFunction, udf
from typing_extensions import override

from models.onnx_model import OnnxModel
from models.opened import SHIPPED, open_alone
from udfs import window_arrays
from udfs.event_texts import texts_of
from udfs.sql_scoring import score_columns

MODEL_PARAMETER, MODELS_PARAMETER = "millrace.model", "millrace.models"
"""Job parameters (`pipeline.global-job-parameters`): the model to use without one in the call; the folder of models."""


class _CalledOnce(ScalarFunction):
    """Called where the statement calls it.

    The planner copies calls of functions that it takes for deterministic into every expression that uses their
    result: a row of the shipped pipeline was decoded seven times and scored four times.
    """

    @override
    def is_deterministic(self) -> bool:
        return False


class _Score(_CalledOnce):
    """Scores rows; each model is opened once a worker, after its digest was checked."""

    def __init__(self, keep_missing: bool) -> None:
        self._keep_missing = keep_missing

    @override
    def open(self, function_context: FunctionContext) -> None:
        root = Path(function_context.get_job_parameter(MODELS_PARAMETER, str(SHIPPED)))
        self._default = function_context.get_job_parameter(MODEL_PARAMETER, "")
        self._open_model: Callable[[str], OnnxModel] = functools.cache(lambda reference: open_alone(reference, root))

    def eval(self, *arguments: Any) -> "pd.Series[Any]":
        return score_columns(arguments, self._open_model, self._default, keep_missing=self._keep_missing)


_EMPTY = np.zeros(0)


class _OfWindow(_CalledOnce):
    """A function of arrays and numbers: columns, or constants."""

    def __init__(self, function: Callable[..., Any], arrays: int) -> None:
        self._function, self._arrays = function, arrays

    def eval(self, *arguments: Any) -> "pd.Series[Any]":
        columns, others = arguments[: self._arrays], arguments[self._arrays :]
        null = functools.reduce(operator.or_, (column.isna() for column in columns))
        arrays = [[_EMPTY if no else one for no, one in zip(null, column, strict=True)] for column in columns]
        numbers = [one.to_numpy("float64") if isinstance(one, pd.Series) else one for one in others]
        folded: pd.Series[Any] = pd.Series(self._function(*arrays, *numbers))
        return folded.mask(null)


class _DecodeEvent(_CalledOnce):
    def eval(self, keys: "pd.Series[Any]", values: "pd.Series[Any]", schema: str) -> "pd.Series[Any]":
        return pd.Series(texts_of(keys.tolist(), values.tolist(), schema), dtype=object)


class _FirstBytes(_CalledOnce):
    def eval(self, values: "pd.Series[Any]", count: int) -> "pd.Series[Any]":
        return values.map(lambda value: None if value is None else value[:count])


def _registered(function: ScalarFunction, result_type: str, name: str) -> Any:
    return udf(function, result_type=result_type, func_type="pandas", name=name)


score = _registered(_Score(keep_missing=False), "DOUBLE", "score")
score_missing = _registered(_Score(keep_missing=True), "DOUBLE", "score_missing")
decode_event = _registered(_DecodeEvent(), "ARRAY<STRING>", "decode_event")
first_bytes = _registered(_FirstBytes(), "BYTES", "first_bytes")
window_sum = _registered(_OfWindow(window_arrays.window_sum, 1), "DOUBLE", "window_sum")
window_mean = _registered(_OfWindow(window_arrays.window_mean, 1), "DOUBLE", "window_mean")
window_std = _registered(_OfWindow(window_arrays.window_std, 1), "DOUBLE", "window_std")
window_last = _registered(_OfWindow(window_arrays.window_last, 1), "DOUBLE", "window_last")
window_ewma = _registered(_OfWindow(window_arrays.window_ewma, 2), "DOUBLE", "window_ewma")
window_previous = _registered(_OfWindow(window_arrays.window_previous, 2), "DOUBLE", "window_previous")
window_since_last = _registered(_OfWindow(window_arrays.window_since_last, 2), "DOUBLE", "window_since_last")
