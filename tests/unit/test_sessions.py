"""Features of sessions: what session an event is in, also one that comes late, and the engines against the oracle."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from shard_driver import Shard, pipeline_of, purchase
from test_against_oracle import CONDITIONS, EXTREMES, engine_of, histories, oracle_of

from udfs.feature_age import aged
from udfs.kept_answers import kept_answers
from udfs.kept_entities import find_entity
from udfs.pipeline import (
    Count,
    DefinitionError,
    Ratio,
    SessionCount,
    SessionDuration,
    SessionPause,
    SessionPosition,
    field,
)
from udfs.sql_features import SqlRefusedError, compile_features

NAN = math.nan
KINDS = SessionPosition, SessionDuration, SessionPause, SessionCount
FOUR = [kind(gap="10s", window="1h") for kind in KINDS]
S = 1_000


def sessions(*seconds, features=FOUR, page="home"):
    return Shard(pipeline_of(*features)).advance([purchase(each * S, page=page) for each in seconds]).features


def test_names_say_the_window_and_the_gap():
    assert pipeline_of(*FOUR).feature_names == (
        "session_position_1h_gap_10s", "session_duration_1h_gap_10s", "session_pause_1h_gap_10s",
        "session_count_1h_gap_10s",
    )  # fmt: skip


def test_a_session_goes_on_until_more_than_the_gap_has_passed():
    np.testing.assert_array_equal(
        sessions(100, 110, 110, 121, 125, 200),
        [[1, 0, NAN, 1], [2, 10, NAN, 1], [3, 10, NAN, 1], [1, 0, 11, 2], [2, 4, 11, 2], [1, 0, 75, 3]],
    )


def test_a_late_event_is_in_the_session_of_its_own_time():
    np.testing.assert_array_equal(
        sessions(100, 105, 150, 102, 149, 139),
        [[1, 0, NAN, 1], [2, 5, NAN, 1], [1, 0, 45, 2], [2, 2, NAN, 1], [1, 0, 44, 2], [1, 0, 34, 2]],
    )


def test_a_late_event_that_closes_a_pause_joins_two_sessions_for_later_ones():
    found = sessions(100, 115, 107, 116)
    np.testing.assert_array_equal(found[1:], [[1, 0, 15, 2], [2, 7, NAN, 1], [4, 16, NAN, 1]])


def test_a_session_is_seen_as_far_as_the_window_reaches():
    short = [kind(gap="10s", window="15s") for kind in KINDS]
    np.testing.assert_array_equal(sessions(100, 108, 116, 124, features=short)[-1], [2, 8, NAN, 1])


def test_an_event_that_does_not_count_is_in_the_session_of_those_before_it_or_in_none():
    features = [kind(gap="10s", window="1h", where=field("page") == "pay") for kind in KINDS]
    shard = Shard(pipeline_of(*features))
    pages = (100, "pay"), (104, "pay"), (110, "home"), (115, "home")
    found = shard.advance([purchase(each * S, page=page) for each, page in pages]).features
    np.testing.assert_array_equal(found[2:], [[2, 10, NAN, 1], [0, NAN, NAN, 1]])
    np.testing.assert_array_equal(sessions(100, features=features)[-1], [0, NAN, NAN, 0])


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (lambda: SessionPosition(gap="1h", window="1h"), "gap 1h is not shorter than window 1h"),
        (lambda: SessionPosition(gap="soon", window="1h"), "SessionPosition: gap"),
        (lambda: SessionCount(gap="1m", window="1h", tile="1m"), "tile is not supported"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(made, line):
    with pytest.raises(DefinitionError, match=line):
        made()


def test_sql_refuses_sessions_by_name():
    with pytest.raises(SqlRefusedError, match="session_count_1h_gap_30m: an OVER window"):
        compile_features(pipeline_of(SessionCount(window="1h")))


@st.composite
def pipelines(draw):
    features = {}
    for _ in range(draw(st.integers(1, 6))):
        lengths = [("5s", "64s"), ("1m", "1h"), ("999ms", "10s"), ("1h", "9h"), ("1ms", "1m")]
        gap, window = draw(st.sampled_from(lengths))
        feature = draw(st.sampled_from(KINDS))(
            gap=gap, window=window, where=draw(CONDITIONS), fill=draw(st.sampled_from([NAN, -7.0]))
        )
        features[feature.name] = feature
    made = list(features.values())
    made.append(Ratio(made[0], Count(window="1m"), fill=0.5))
    return pipeline_of(*made, lateness=draw(st.sampled_from([None, "5s", "30m"])))


@examples(20)
@given(pipelines(), histories(EXTREMES), st.data())
def test_engine_and_oracle_agree_to_the_last_bit_whatever_the_batches_and_restarts(pipeline, history, data):
    expected, _ = oracle_of(pipeline, history)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(history)), max_size=6)))
    whole, _ = engine_of(pipeline, history, [])
    features, _ = engine_of(pipeline, history, cuts, data.draw(st.sampled_from([1, 10, 1024])), restart=True)
    np.testing.assert_array_equal(whole, expected)
    assert features.tobytes() == whole.tobytes()


@st.composite
def long_histories(draw):
    rng, now, events = np.random.default_rng(draw(st.integers(0, 1 << 30))), 1_700_000_000_000, []
    for _ in range(draw(st.integers(60, 300))):
        now += int(rng.choice([0, 1, 900, 1_000, 1_001, 30_000], p=[0.1, 0.2, 0.3, 0.2, 0.1, 0.1]))
        at = now - (int(rng.integers(0, 90_000)) if rng.random() < 0.05 else 0)
        events.append((purchase(at, 1.0, str(rng.choice(["home", "pay"])), user="a"), at))
    return events


@examples(15)
@given(long_histories(), st.sampled_from([None, field("page") == "pay"]))
def test_what_is_remembered_of_long_windows_changes_no_bit(history, where):
    pipeline = pipeline_of(*(kind(gap="1s", window="1h", where=where) for kind in KINDS))
    expected, _ = oracle_of(pipeline, history)
    remembered, _ = engine_of(pipeline, history, [], direct_rows=1)
    np.testing.assert_array_equal(remembered, expected)


@pytest.mark.parametrize(
    ("later", "told"), [(0, [2, 5, 85, 2]), (10, [2, 15, 85, 2]), (11, [0, NAN, NAN, 2]), (3_595, [0, NAN, NAN, 1]),
                        (3_600, [0, NAN, NAN, 0])],
)  # fmt: skip
def test_what_is_kept_answers_without_an_event_of_its_own(later, told):
    shard = Shard(pipeline_of(*FOUR))
    shard.advance([purchase(each * S) for each in (1, 15, 100, 105)][1:])
    answers = kept_answers(shard.plan, *find_entity(shard.state, "u"), time_ms=(105 + later) * S)
    np.testing.assert_array_equal(list(answers.values()), told)


def test_sessions_that_windows_have_passed_are_none():
    pipeline = pipeline_of(*FOUR)
    values = dict(zip(pipeline.feature_names, [2.0, 5.0, 85.0, 2.0], strict=True))
    after = aged(pipeline, values, 105 * S, 105 * S + 3_600 * S)
    assert list(after.values.values()) == [0.0, None, None, 0.0]
    assert aged(pipeline, values, 105 * S, 106 * S).moving == pipeline.feature_names
