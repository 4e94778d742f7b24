"""Pipeline -> SQL expressions of its features, and the OVER windows that they read.

Streaming SQL allows one OVER window in a SELECT, so there is a view for each length, one on top of the other. A window
is (t - length, t], for a RANGE frame reaches to `length - 1 ms` before t, both ends included. Counts, extremes and
distinct values are SQL's own; what SQL would compute by taking off what it once added (sums and all that follows from
them), or cannot say (the event before this one), is folded from arrays by the functions of `udfs.table`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from udfs.aggregates import (
    Aggregate,
    Count,
    Custom,
    Distinct,
    Ewma,
    Feature,
    Last,
    LastN,
    Max,
    Mean,
    Min,
    OneHot,
    Previous,
    Ratio,
    SequenceLength,
    SessionAggregate,
    SinceLast,
    Std,
    Sum,
    Value,
)
from udfs.durations import duration_text
from udfs.errors import DefinitionError
from udfs.events import EventField
from udfs.pipeline import Pipeline
from udfs.sql_text import LONGEST_INTERVAL_MS, condition_text, double_literal, number, quoted, text_literal

ROWTIME, OFFSET, TIME_MS = "_rowtime", "_record_offset", "_time_ms"
"""Columns that the windows need beside the event's fields; no field begins with an underscore."""

DEFAULT_MOST_EVENTS = 10_000


class SqlRefusedError(DefinitionError):
    """SQL cannot express a feature; the message names each and says why."""


@dataclass
class Window:
    """One OVER window.

    Attributes:
        length_ms: Its length.
        columns: What is computed over it: name and SQL.
    """

    length_ms: int
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For SQL, like `last_10m`."""
        return f"last_{duration_text(self.length_ms)}"


@dataclass(frozen=True)
class SqlFeatures:
    """A pipeline's features in SQL.

    Attributes:
        windows: The shortest first.
        expressions: By feature name in the model's order: SQL of a DOUBLE over the event's fields and the windows'
            columns; NULL is a missing value.
        functions: The functions of `udfs.table` in them.
    """

    windows: list[Window]
    expressions: dict[str, str]
    functions: list[str]


def compile_features(pipeline: Pipeline) -> SqlFeatures:
    """The SQL of a pipeline's features.

    Raises:
        SqlRefusedError: Some cannot be expressed; names all of them.
    """
    compiler = _Compiler(pipeline)
    expressions: dict[str, str] = {}
    refused, columns = [], dict[str, list[str]]()
    if pipeline.max_events_per_entity != DEFAULT_MOST_EVENTS:
        refused.append(
            f"max_events_per_entity={pipeline.max_events_per_entity}: an OVER window keeps all events of its length"
        )
    if not pipeline.outputs.is_number:
        refused.append(f"its statements write one number, and the prediction has {pipeline.outputs.text}")
    if pipeline.events.vectors:
        listed = ", ".join(one.name for one in pipeline.events.vectors)
        refused.append(f"its statements read single values, and {listed} is a vector of them")
    if pipeline.lookups:
        refused.append(f"its statements join with nothing, and there are lookups: {_listed(pipeline)}")
    for feature in () if pipeline.events.vectors or pipeline.lookups else pipeline.features:
        names = feature.names(pipeline.fields)
        try:
            expressions |= zip(names, compiler.expressions(feature), strict=True)
        except DefinitionError as error:
            columns.setdefault(str(error), []).extend(names)
    refused += [f"{', '.join(names)}: {why}" for why, names in columns.items()]
    if refused:
        raise SqlRefusedError(f"pipeline {pipeline.name} cannot be run by SQL: {'; '.join(refused)}")
    windows = sorted(compiler.windows.values(), key=lambda window: window.length_ms)
    return SqlFeatures(windows, expressions, sorted(compiler.functions))


def _listed(pipeline: Pipeline) -> str:
    return ", ".join(each.name for each in pipeline.lookups)


class _Compiler:
    def __init__(self, pipeline: Pipeline) -> None:
        self._fields = pipeline.fields
        self.windows: dict[int, Window] = {}
        self.functions: set[str] = set()
        self._aggregates: dict[type[Aggregate], Callable[..., str]] = {
            Count: self._count, Distinct: self._distinct, Min: self._extreme, Max: self._extreme,
            Sum: self._folded, Mean: self._folded, Std: self._folded, Last: self._folded,
            Ewma: self._ewma, Previous: self._previous, SinceLast: self._since_last,
        }  # fmt: skip

    def expressions(self, feature: Feature) -> list[str]:
        """A DOUBLE for each of its names.

        Raises:
            DefinitionError: SQL cannot say it.
        """
        if isinstance(feature, OneHot):
            one = self._fields[feature.field]
            return [
                f"CASE WHEN {_equals(one, category)} THEN 1E0 ELSE 0E0 END" for category in one.categories or ()
            ]
        if isinstance(feature, Ratio):
            above, below = (self._filled(part) for part in (feature.numerator, feature.denominator))
            return [_with_fill(f"CASE WHEN {below} <> 0E0 THEN {above} / {below} END", feature.fill)]
        return [self._filled(feature)]

    def _filled(self, feature: Feature) -> str:
        if isinstance(feature, Value):
            return _with_fill(number(self._fields[feature.field]), feature.fill)
        assert isinstance(feature, Aggregate)
        if isinstance(feature, Custom):
            raise DefinitionError("an aggregate of your own is Python code, which a statement cannot carry")
        if isinstance(feature, LastN | SequenceLength):
            raise DefinitionError("a statement has no columns of the last events; the stream engine has")
        if isinstance(feature, SessionAggregate):
            raise DefinitionError("an OVER window does not know where a session begins; the stream engine does")
        if feature.tile_ms is not None:
            raise DefinitionError(
                "an OVER window begins a fixed time before its row and keeps every event; leave out tile="
            )
        if feature.window_ms > LONGEST_INTERVAL_MS:
            raise DefinitionError("an INTERVAL of Flink has at most 1,000 days")
        return _with_fill(self._aggregates[type(feature)](feature), feature.fill)

    def _column(self, aggregate: Aggregate, what: str, sql: str) -> str:
        """The name of a window's column; the same one is computed once."""
        window = self.windows.setdefault(aggregate.window_ms, Window(aggregate.window_ms))
        where = f"{aggregate.where.name}_" if aggregate.where is not None else ""
        name = f"_{where}{what}_{duration_text(aggregate.window_ms)}"
        while window.columns.get(name, sql) != sql:  # two conditions may have one name
            name += "_"
        window.columns[name] = sql
        return quoted(name)

    def _matching(self, aggregate: Aggregate, sql: str) -> str:
        """SQL of a value, null for events that do not pass the condition."""
        if aggregate.where is None:
            return sql
        return f"CASE WHEN {condition_text(aggregate.where, self._fields)} THEN {sql} END"

    def _call(self, function: str, *arguments: str) -> str:
        self.functions.add(function)
        return f"{function}({', '.join(arguments)})"

    def _field(self, aggregate: Aggregate) -> EventField:
        return self._fields[aggregate.input or ""]

    def _count(self, count: Count) -> str:
        value = "1" if count.field is None else quoted(count.field)
        counted = "*" if count.field is None and count.where is None else self._matching(count, value)
        what = f"{count.field}_count" if count.field else "count"
        return f"CAST({self._column(count, what, f'COUNT({counted})')} AS DOUBLE)"

    def _distinct(self, distinct: Distinct) -> str:
        one = self._field(distinct)
        # -0.0 + 0.0 is 0.0: the two are one value
        value = f"{quoted(one.name)} + 0E0" if one.kind == "float" else quoted(one.name)
        sql = f"COUNT(DISTINCT {self._matching(distinct, value)})"
        return f"CAST({self._column(distinct, f'{distinct.field}_distinct', sql)} AS DOUBLE)"

    def _extreme(self, extreme: Min | Max) -> str:
        sql = f"{extreme.suffix.upper()}({self._matching(extreme, number(self._field(extreme)))})"
        return self._column(extreme, f"{extreme.field}_{extreme.suffix}", sql)

    def _values(self, aggregate: Aggregate) -> str:
        sql = f"ARRAY_AGG({self._matching(aggregate, number(self._field(aggregate)))})"
        return self._column(aggregate, f"{aggregate.input}_values", sql)

    def _times(self, aggregate: Aggregate) -> str:
        return self._column(aggregate, "times", f"ARRAY_AGG({self._matching(aggregate, quoted(TIME_MS))})")

    def _offsets(self, aggregate: Aggregate) -> str:
        window = Count(window=aggregate.window)  # of all events, whatever the condition
        return self._column(window, "offsets", f"ARRAY_AGG({quoted(OFFSET)})")

    def _folded(self, aggregate: Aggregate) -> str:
        return self._call(f"window_{aggregate.suffix}", self._values(aggregate))

    def _ewma(self, ewma: Ewma) -> str:
        return self._call("window_ewma", self._values(ewma), self._times(ewma), str(ewma.half_life_ms))

    def _previous(self, previous: Previous) -> str:
        return self._call("window_previous", self._values(previous), self._offsets(previous), quoted(OFFSET))

    def _since_last(self, since: SinceLast) -> str:
        arrays = self._times(since), self._offsets(since)
        return self._call("window_since_last", *arrays, quoted(TIME_MS), quoted(OFFSET))


def _equals(one: EventField, category: str | int | bool) -> str:
    if isinstance(category, bool):
        return quoted(one.name) if category else f"NOT {quoted(one.name)}"
    return f"{quoted(one.name)} = {text_literal(category) if isinstance(category, str) else category}"


def _with_fill(sql: str, fill: float) -> str:
    return sql if fill != fill else f"COALESCE({sql}, {double_literal(fill)})"
