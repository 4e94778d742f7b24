"""What a definition derives, and how a wrong one says what to write instead."""

import pickle
import subprocess
import sys
from typing import Literal

import pytest

from udfs.pipeline import (
    Count,
    DefinitionError,
    Distinct,
    Events,
    Ewma,
    Mean,
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
)  # fmt: skip


class PageView:
    event_id: str
    user_id: str
    page_id: Literal["home", "product", "checkout"]
    dwell_time_sec: float
    amount: float | None
    mobile: bool
    timestamp: int


CHECKOUT = field("page_id") == "checkout"
FEATURES = [
    Value("dwell_time_sec"), OneHot("page_id"), Count(window="60m"), Mean("dwell_time_sec", window="600s"),
    Count(window="1h", where=CHECKOUT), SinceLast(window="24h"), SinceLast(window="1d", where=CHECKOUT),
    Previous("amount", window="1h"), Distinct("page_id", window="1h"), Ewma("amount", window="1h", half_life="10m"),
    Ratio(Count(window="1h"), Count(window="1d")), Sum("amount", window="30d", tile="1h"),
    Std("amount", window="1h", where=field("mobile") == True),  # noqa: E712
]  # fmt: skip


def pipeline_of(*features, events=None, **settings):
    events = events or events_of(PageView)
    return Pipeline(
        name="purchase", events=events, features=list(features), model=Model("purchase", version=1),
        **{"prediction": "score", **settings},
    )  # fmt: skip


def events_of(event_type, **settings):
    roles = {"topic": "user-events", "entity": "user_id", "time": "timestamp", "id": "event_id", **settings}
    return Events(event_type, **roles)


def test_names_are_derived_and_durations_shortened():
    assert pipeline_of(*FEATURES).feature_names == (
        "dwell_time_sec", "page_id_is_home", "page_id_is_product", "page_id_is_checkout", "count_1h",
        "dwell_time_sec_mean_10m", "page_id_is_checkout_count_1h", "since_last_1d", "page_id_is_checkout_since_last_1d",
        "amount_previous_1h", "page_id_distinct_1h", "amount_ewma_1h_half_life_10m", "count_1h_over_count_1d",
        "amount_sum_30d_tile_1h", "mobile_is_true_amount_std_1h",
    )  # fmt: skip


def test_hash_is_the_same_in_every_process_and_after_pickling():
    here = pipeline_of(*FEATURES)
    assert pickle.loads(pickle.dumps(here)).feature_set_hash() == here.feature_set_hash()
    program = "from test_pipeline_definition import *; print(pipeline_of(*FEATURES).feature_set_hash())"
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "5"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == here.feature_set_hash()


def test_hash_ignores_how_a_duration_is_written_and_notices_everything_else():
    same = [Count(window="1h"), Count(window="60m")]
    other = [
        Count(window="1h", fill=0), Count(window="2h"), Count(window="1h", where=CHECKOUT),
        Count(window="1h", tile="1m"), Count("amount", window="1h"),
    ]  # fmt: skip
    hashes = [pipeline_of(feature).feature_set_hash() for feature in same + other]
    assert len(set(hashes)) == len(other) + 1


def test_hash_of_chosen_features_does_not_depend_on_the_others():
    few, more = pipeline_of(Count(window="1h")), pipeline_of(Value("amount"), Count(window="1h"))
    assert more.feature_set_hash(["count_1h"]) == few.feature_set_hash()
    assert more.feature_set_hash(["amount", "count_1h"]) != more.feature_set_hash(["count_1h", "amount"])


def test_conditions_know_their_names():
    amount, page = field("amount"), field("page_id")
    assert (amount > 1.5).name == "amount_gt_1_5"
    assert page.isin(["home", "product"]).name == "page_id_in_home_product"
    assert (~amount.is_null() & (amount <= -2)).name == "not_amount_is_null_and_amount_le_minus_2"


def test_null_compares_to_false_even_with_unequal():
    column = {"amount": [None, float("nan"), 1.0, 2.0]}
    amount = field("amount")
    assert (amount != 1).evaluate(column).tolist() == [False, False, False, True]
    assert (~(amount == 1)).evaluate(column).tolist() == [True, True, False, True]
    assert amount.is_null().evaluate(column).tolist() == [True, True, False, False]


def test_retention_is_the_longest_window_and_the_lateness():
    pipeline = pipeline_of(Count(window="10m"), Sum("amount", window="30d", tile="1h"), lateness="1h")
    assert pipeline.retention_ms == (30 * 24 + 1) * 3_600_000
    assert pipeline.exact_retention_ms == 70 * 60_000
    assert pipeline.describe()["state"]["tiles"][0]["most_tiles"] == 30 * 24 + 2


class Odd:
    event_id: str
    user_id: str
    timestamp: int
    tags: list[str]


class OptionalUser:
    event_id: str
    user_id: str | None
    timestamp: int


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Count(window="1 hour"), "Count: window is '1 hour'; write a whole number and a unit"),
        (lambda: Sum("amount", window="90m", tile="1h"), "window 90m is not a multiple of tile 1h"),
        (lambda: pipeline_of(Mean("page_id", window="1h")), "field 'page_id' is str; Mean needs a number"),
        (lambda: pipeline_of(Mean("amonut", window="1h")), "no field 'amonut'; it has event_id"),
        (lambda: pipeline_of(Value("page_id")), "use OneHot"),
        (lambda: pipeline_of(OneHot("user_id")), "declare user_id: Literal"),
        (lambda: pipeline_of(Count(window="1h", where=field("page_id") == "chekout")), "'chekout' is no value"),
        (lambda: pipeline_of(Count(window="1h", where=field("amount") > "5")), "'amount' is float, compared with '5'"),
        (lambda: pipeline_of(Count(window="1h"), Count(window="60m", fill=0)), "two features are called count_1h"),
        (lambda: Count(window="1h", where=CHECKOUT and CHECKOUT), "combine conditions with &"),
        (lambda: field("amount") == None, "is_null"),  # noqa: E711
        (lambda: Ratio(OneHot("page_id"), Count(window="1h")), "cannot be divided"),
        (lambda: events_of(Odd), "Odd.tags is list"),
        (lambda: events_of(OptionalUser), "entity field 'user_id' must be str or int and not optional"),
        (lambda: events_of(PageView, time="time"), "has no field 'time'"),
        (lambda: events_of(PageView, time_unit="min"), "write one of s, ms, us, ns"),
        (lambda: pipeline_of(), "features is empty"),
        (lambda: pipeline_of(Count(window="1h"), prediction="user_id"), "already a field of the output"),
        (lambda: pipeline_of(Count(window="1h"), predictions="user-events"), "need different topics"),
        (lambda: pipeline_of(Count(window="1h"), include=("nope",)), "no field 'nope'"),
        (lambda: pipeline_of(Count(window="1h"), lateness="soon"), "lateness is 'soon'"),
    ],
)  # fmt: skip
def test_wrong_definition_says_what_to_write(make, message):
    with pytest.raises(DefinitionError) as raised:
        make()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("unit", "value"), [("s", 1_700_000_000.123), ("us", 1_700_000_000_123_999)])
def test_event_times_become_whole_milliseconds(unit, value):
    class Timed:
        event_id: str
        user_id: str
        timestamp: float

    assert events_of(Timed, time_unit=unit).times_ms([value]).tolist() == [1_700_000_000_123]
