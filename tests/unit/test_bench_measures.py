"""The arithmetic of the measures of latency and memory: what belongs together, and what is an error."""

import numpy as np
import pytest

from tests.benchmarks.latency import VARIANTS
from tests.benchmarks.moments import moments_of
from tests.benchmarks.outcomes import ContestantError
from tests.benchmarks.soak import slope
from tests.benchmarks.visibility_reader import event_number

MS = 1_000_000


def columns(**values):
    return {name: np.array(column, np.int64) for name, column in values.items()}


def sent(*numbers):
    times = [(1_000 + number) * MS for number in numbers]
    return columns(number=numbers, sent_ns=times, due_ns=[time - 2 * MS for time in times])


def seen(*numbers):
    at = [1_000 + number for number in numbers]
    return columns(
        number=numbers,
        scored_ms=[ms + 10 for ms in at],
        appended_ms=[ms + 15 for ms in at],
        visible_ns=[(ms + 40) * MS for ms in at],
    )


APPENDED_MS = {number: 1_003 + number for number in range(10)}
SPAN_NS = (1_001 * MS, 1_005 * MS)


def test_predictions_are_matched_with_their_events_in_any_order_and_with_gaps_in_the_numbers():
    moments, lag = moments_of(sent(0, 1, 2, 4, 7), seen(7, 4, 1, 2, 0), APPENDED_MS, SPAN_NS, once=True)
    assert moments[0].tolist() == [1_001, 1_002, 1_004]
    assert np.diff(moments, axis=0).tolist() == [[3] * 3, [7] * 3, [5] * 3, [25] * 3]
    assert lag.tolist() == [2, 2, 2]


def test_events_before_and_after_the_span_need_no_prediction():
    moments, _ = moments_of(sent(0, 1, 2, 9), seen(1, 2), APPENDED_MS, SPAN_NS, once=True)
    assert moments.shape == (5, 2)


def test_a_missing_prediction_is_an_error():
    with pytest.raises(ContestantError, match="1 of 2 events have no prediction"):
        moments_of(sent(1, 2), seen(1), APPENDED_MS, SPAN_NS, once=False)


def test_no_event_in_the_span_is_an_error():
    with pytest.raises(ContestantError, match="0 of 0 events"):
        moments_of(sent(9), seen(9), APPENDED_MS, SPAN_NS, once=False)


def test_a_second_prediction_is_an_error_only_where_there_must_be_one():
    twice = {name: np.append(column, column[-1] + 500 * MS) for name, column in seen(1, 2).items()}
    twice["number"] = np.array([1, 2, 2])
    with pytest.raises(ContestantError, match="1 predictions came twice"):
        moments_of(sent(1, 2), twice, APPENDED_MS, SPAN_NS, once=True)
    moments, _ = moments_of(sent(1, 2), twice, APPENDED_MS, SPAN_NS, once=False)
    assert (moments[-1] - moments[0]).tolist() == [40, 40]


def test_the_figures_of_each_variant_have_names_of_their_own():
    assert [variant.key for variant in VARIANTS] == [
        "latency", "latency_bare_loop", "latency_exactly_once", "latency_bare_loop_exactly_once"
    ]  # fmt: skip


def test_an_event_number_is_what_follows_the_seed():
    assert event_number("1-32769") == 32_769
    assert event_number("each60000-7") == 7


def test_a_single_outlier_does_not_move_the_slope():
    minutes = np.arange(20.0)
    memory = 100 + 3 * minutes
    memory[7] = 10_000
    assert slope(minutes, memory) == pytest.approx(3)
