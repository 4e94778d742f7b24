"""A pipeline as SQL text: every aggregate, conditions with two truth values, one window a view, and refusals."""

import math
from dataclasses import dataclass
from typing import Literal

import pytest
from shard_driver import pipeline_of

from udfs.pipeline import (
    Count,
    Custom,
    Distinct,
    Events,
    Ewma,
    Last,
    Max,
    Mean,
    Min,
    Model,
    OneHot,
    Pipeline,
    Previous,
    Ratio,
    SinceLast,
    Std,
    Sum,
    Value,
    field,
)
from udfs.sql_features import SqlRefusedError, compile_features
from udfs.sql_text import condition_text, double_literal, interval, quoted, text_literal

PAY = field("page") == "pay"
PAYS = "(`page` = 'pay') IS TRUE"


class Range(Custom):
    def init(self):
        return [math.inf, -math.inf]

    def add(self, state, value, event_time_ms):
        return [min(state[0], value), max(state[1], value)]

    def value(self, state):
        return state[1] - state[0]


@pytest.mark.parametrize(
    ("feature", "expression", "columns"),
    [
        (Value("amount"), "`amount`", {}),
        (Value("amount", fill=-1), "COALESCE(`amount`, -1.0E0)", {}),
        (Count(window="10m"), "CAST(`_count_10m` AS DOUBLE)", {"_count_10m": "COUNT(*)"}),
        (
            Count(where=PAY, window="1h"),
            "CAST(`_page_is_pay_count_1h` AS DOUBLE)",
            {"_page_is_pay_count_1h": f"COUNT(CASE WHEN {PAYS} THEN 1 END)"},
        ),
        (
            Count("label", window="1h"),
            "CAST(`_label_count_1h` AS DOUBLE)",
            {"_label_count_1h": "COUNT(`label`)"},
        ),
        (Min("amount", window="1d"), "`_amount_min_1d`", {"_amount_min_1d": "MIN(`amount`)"}),
        (
            Max("amount", where=PAY, window="1d", fill=0),
            "COALESCE(`_page_is_pay_amount_max_1d`, 0.0E0)",
            {"_page_is_pay_amount_max_1d": f"MAX(CASE WHEN {PAYS} THEN `amount` END)"},
        ),
        (
            Distinct("label", window="1h"),
            "CAST(`_label_distinct_1h` AS DOUBLE)",
            {"_label_distinct_1h": "COUNT(DISTINCT `label`)"},
        ),
        (
            Distinct("amount", window="1h"),
            "CAST(`_amount_distinct_1h` AS DOUBLE)",
            {"_amount_distinct_1h": "COUNT(DISTINCT `amount` + 0E0)"},
        ),
        (
            Sum("amount", window="1h"),
            "window_sum(`_amount_values_1h`)",
            {"_amount_values_1h": "ARRAY_AGG(`amount`)"},
        ),
        (
            Mean("amount", where=PAY, window="1h"),
            "window_mean(`_page_is_pay_amount_values_1h`)",
            {"_page_is_pay_amount_values_1h": f"ARRAY_AGG(CASE WHEN {PAYS} THEN `amount` END)"},
        ),
        (Std("amount", window="1h"), "window_std(`_amount_values_1h`)", {"_amount_values_1h": "ARRAY_AGG(`amount`)"}),
        (Last("amount", window="1h"), "window_last(`_amount_values_1h`)", {"_amount_values_1h": "ARRAY_AGG(`amount`)"}),
        (
            Ewma("amount", window="1h", half_life="5m"),
            "window_ewma(`_amount_values_1h`, `_times_1h`, 300000)",
            {"_amount_values_1h": "ARRAY_AGG(`amount`)", "_times_1h": "ARRAY_AGG(`_time_ms`)"},
        ),
        (
            Previous("amount", window="1h"),
            "window_previous(`_amount_values_1h`, `_offsets_1h`, `_record_offset`)",
            {"_amount_values_1h": "ARRAY_AGG(`amount`)", "_offsets_1h": "ARRAY_AGG(`_record_offset`)"},
        ),
        (
            SinceLast(where=PAY, window="1h"),
            "window_since_last(`_page_is_pay_times_1h`, `_offsets_1h`, `_time_ms`, `_record_offset`)",
            {
                "_page_is_pay_times_1h": f"ARRAY_AGG(CASE WHEN {PAYS} THEN `_time_ms` END)",
                "_offsets_1h": "ARRAY_AGG(`_record_offset`)",
            },
        ),
        (
            Ratio(Count(where=PAY, window="1h"), Count(window="10m"), fill=0.5),
            "COALESCE(CASE WHEN CAST(`_count_10m` AS DOUBLE) <> 0E0 THEN "
            "CAST(`_page_is_pay_count_1h` AS DOUBLE) / CAST(`_count_10m` AS DOUBLE) END, 0.5E0)",
            {
                "_count_10m": "COUNT(*)",
                "_page_is_pay_count_1h": f"COUNT(CASE WHEN {PAYS} THEN 1 END)",
            },
        ),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else "",
)
def test_feature_is_this_text_over_these_columns(feature, expression, columns):
    compiled = compile_features(pipeline_of(feature))
    assert compiled.expressions == {feature.name: expression}
    assert {name: sql for window in compiled.windows for name, sql in window.columns.items()} == columns


def test_one_hot_has_a_column_a_category():
    assert compile_features(pipeline_of(OneHot("page"))).expressions == {
        f"page_is_{page}": f"CASE WHEN `page` = '{page}' THEN 1E0 ELSE 0E0 END" for page in ("home", "cart", "pay")
    }


def test_windows_are_the_shortest_first_and_what_two_features_need_is_computed_once():
    features = [Mean("amount", window="1h"), Sum("amount", window="1h"), Sum("amount", window="60s")]
    features.append(Std("amount", window="1m"))
    windows = compile_features(pipeline_of(*features)).windows
    assert [(window.name, window.length_ms) for window in windows] == [("last_1m", 60_000), ("last_1h", 3_600_000)]
    assert [list(window.columns) for window in windows] == [["_amount_values_1m"], ["_amount_values_1h"]]


def test_two_conditions_of_one_name_are_two_columns():
    """Contract: 'a b' and 'a_b' are the same in a name, and are different texts."""
    counts = [Count(where=field("label") == text, window=window) for text, window in (("a b", "1h"), ("a_b", "60m"))]
    pipeline = pipeline_of(Ratio(*counts))
    [window] = compile_features(pipeline).windows
    assert len(window.columns) == 2 == len(set(window.columns.values()))


@pytest.mark.parametrize(
    ("feature", "why"),
    [
        (Sum("amount", window="1h", tile="1m"), "amount_sum_1h_tile_1m: .*leave out tile="),
        (Range("amount", window="1h"), "amount_range_1h: .*aggregate of your own"),
        (Count(window="1001d"), "count_1001d: .*1,000 days"),
        (
            Ratio(Sum("amount", window="1h", tile="1m"), Count(window="1h")),
            "amount_sum_1h_tile_1m_over_count_1h: .*tile=",
        ),
    ],
)
def test_what_sql_cannot_say_is_refused_with_the_features_name_and_why(feature, why):
    with pytest.raises(SqlRefusedError, match=why):
        compile_features(pipeline_of(Value("amount"), feature))


def test_all_refusals_are_told_at_once():
    with pytest.raises(SqlRefusedError) as refused:
        compile_features(
            pipeline_of(Sum("amount", window="1h", tile="1m"), Range("amount", window="1h"), max_events_per_entity=5)
        )
    for name in ("amount_sum_1h_tile_1m", "amount_range_1h", "max_events_per_entity=5"):
        assert name in str(refused.value)


@dataclass
class Typed:
    id: str
    user: str
    whole: int
    real: float | None
    truth: bool
    color: Literal["it's", "b"] | None
    time: int


FIELDS = Pipeline(
    name="t",
    events=Events(Typed, topic="t", entity="user", time="time", id="id"),
    features=[Value("whole")],
    model=Model("m", version=1),
    prediction="s",
).fields


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (field("whole") > 3, "`whole` > 3"),
        (field("whole") > 2.5, "CAST(`whole` AS DOUBLE) > 2.5E0"),
        (field("real") != 1, "(`real` <> 1.0E0) IS TRUE"),
        (field("truth") == True, "`truth`"),  # noqa: E712
        (field("truth") != True, "NOT `truth`"),  # noqa: E712
        (field("color") == "it's", "(`color` = 'it''s') IS TRUE"),
        (field("color").isin(["it's", "b"]), "((`color` = 'it''s' OR `color` = 'b')) IS TRUE"),
        (field("color").is_null(), "`color` IS NULL"),
        (~(field("real") < 0), "NOT ((`real` < 0.0E0) IS TRUE)"),
        ((field("whole") == 1) & (field("whole") != 2), "(`whole` = 1) AND (`whole` <> 2)"),
        ((field("whole") == 1) | field("real").is_null(), "(`whole` = 1) OR (`real` IS NULL)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_condition_is_true_or_false_and_never_null(condition, text):
    assert condition_text(condition, FIELDS) == text


def test_names_texts_numbers_and_durations_are_quoted():
    assert quoted("a`b") == "`a``b`"
    assert text_literal("a'b") == "'a''b'"
    assert [double_literal(number) for number in (1, 1e-300, 2.5e20, -0.0)] == ["1.0E0", "1E-300", "2.5E20", "-0.0E0"]
    assert interval(599_999) == "INTERVAL '0 00:09:59.999' DAY(3) TO SECOND(3)"
    assert interval(999 * 86_400_000 + 86_399_999) == "INTERVAL '999 23:59:59.999' DAY(3) TO SECOND(3)"
