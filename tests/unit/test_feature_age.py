"""What time alone does to features, against the state, which knows the events that they were made of."""

import math

from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from shard_driver import HOUR_MS, Shard, pipeline_of, purchase

from udfs.feature_age import aged
from udfs.kept_answers import kept_answers
from udfs.kept_entities import find_entity
from udfs.pipeline import (
    Count,
    Distinct,
    Ewma,
    Last,
    Max,
    Mean,
    OneHot,
    Previous,
    Ratio,
    SinceLast,
    Std,
    Sum,
    Value,
    field,
)

T = 100 * HOUR_MS
FEATURES = [
    Value("amount"), OneHot("page"), Count(window="1h"), Count(where=field("page") == "pay", window="10m"),
    Sum("amount", window="1h"), Mean("amount", window="10m"), Mean("amount", window="1h", fill=-1.0),
    Max("amount", window="2h"), Std("amount", window="10m"), Last("amount", window="1h"),
    Previous("amount", window="1h"), SinceLast(window="10m"), Distinct("page", window="1h"),
    Ewma("amount", window="1h", half_life="10m"), Sum("amount", window="4h", tile="1h"),
    Count(window="2h", tile="1h"), Ratio(Count(window="10m"), Count(window="1h")),
    Ratio(Sum("amount", window="10m"), Mean("amount", window="10m", fill=2.0), fill=7.0),
    Ratio(Count(window="10m"), Value("amount")),
]  # fmt: skip
PIPELINE = pipeline_of(*FEATURES, lateness="10h")
OF_THE_EVENT = {"amount", "page_is_home", "page_is_cart", "page_is_pay", "count_10m_over_amount"}
MINUTE_MS = 60_000


@examples(60)
@given(
    gaps=st.lists(st.integers(0, 40), min_size=1, max_size=8),
    pages=st.lists(st.sampled_from(["home", "cart", "pay", None]), min_size=8, max_size=8),
    later=st.one_of(st.integers(0, 6 * 60).map(lambda m: m * MINUTE_MS), st.integers(0, 6 * HOUR_MS)),
)
def test_what_is_said_to_be_certain_is_what_the_state_says(gaps, pages, later):
    shard, time_ms = Shard(PIPELINE), T
    for place, gap in enumerate(gaps):
        time_ms += gap * MINUTE_MS
        got = shard.advance([purchase(time_ms, float(place), pages[place])]).features[0].tolist()
    stored = {
        name: None if math.isnan(value) else value for name, value in zip(PIPELINE.feature_names, got, strict=True)
    }
    now_ms = time_ms + later
    since = aged(PIPELINE, stored, time_ms, now_ms)
    truth = kept_answers(shard.plan, *find_entity(shard.state, "u"), time_ms=now_ms)
    assert not set(since.passed) & set(since.moving)
    for name in PIPELINE.feature_names:
        if name not in since.passed:
            assert since.values[name] == stored[name]
        if name not in OF_THE_EVENT and name not in since.moving and now_ms > time_ms:
            assert since.values[name] == (None if math.isnan(truth[name]) else truth[name]), name


def test_windows_pass_one_after_the_other():
    stored = dict.fromkeys(PIPELINE.feature_names, 1.0)
    after = {hours: set(aged(PIPELINE, stored, T, T + hours * HOUR_MS).passed) for hours in (1, 2, 4)}
    assert "count_1h" in after[1]
    assert "amount_max_2h" in after[2] - after[1]
    assert "amount_sum_4h_tile_1h" in after[4] - after[2]
    assert set(aged(PIPELINE, stored, T, T + 50 * HOUR_MS).moving) == {"count_10m_over_amount"}


def test_nothing_has_moved_at_the_moment_of_the_event():
    stored = dict.fromkeys(PIPELINE.feature_names, 1.0)
    for now_ms in (T, T - 5_000):  # or where our clock is behind
        assert aged(PIPELINE, stored, T, now_ms) == (stored, (), ())
