"""Requests among events: each is answered as the event it stands for would be, and no event ever notices."""

import copy

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from shard_driver import Purchase, Shard
from test_against_oracle import EXTREMES, NUMBERS, histories, partition_of, pipelines

from udfs.entity_copies import Scratch, copies_of
from udfs.entity_state import LATE
from udfs.naive_features import NaiveFeatures


@st.composite
def requests(draw, history, numbers):
    """Before which event they come, and the events they stand for: missing fields are null."""
    asked = []
    for _ in range(draw(st.integers(1, 8))):
        place = draw(st.integers(0, len(history)))
        now = history[min(place, len(history) - 1)][0].time
        time = max(now + draw(st.sampled_from([0, 0, 1, -1, -5_000, 5_000, 70_000, -3_600_000, 6 * 3_600_000])), 0)
        page, label = draw(st.sampled_from(["home", "pay", None])), draw(st.sampled_from(["x", "", None]))
        asked.append((place, Purchase("", draw(st.sampled_from("abc")), page, draw(numbers), label, time)))
    return sorted(asked, key=lambda each: each[0])


def answer(shard, scratch, events):
    """What requests that come together are told: features, flags and of which something is kept."""
    copies = copies_of(shard.state, [event.user for event in events])
    advanced = scratch.advance([copies], *shard.plan.columnise(events))
    return advanced.features, advanced.flags, copies.kept


def asked_among(pipeline, history, asked, restart):
    """Answers of the engine and of an oracle's copy, and the features that events got, with requests and without."""
    shard, quiet, oracle = Shard(pipeline, 10), Shard(pipeline, 10), NaiveFeatures(pipeline)
    scratch = Scratch(shard.plan)
    answers, expected, features, undisturbed, by_oracle = [], [], [], [], []
    for place in range(len(history) + 1):
        here = [event for at, event in asked if at == place]
        if here:
            got, flags, kept = answer(shard, scratch, here)
            for number, event in enumerate(here):
                partition = partition_of(event) if event.user in "ab" else 0
                row, late = copy.deepcopy(oracle).advance(event, event.time, partition)
                answers.append((got[number], bool(flags[number] & LATE), bool(kept[number])))
                expected.append((row, late, event.user in {each.user for each, _ in history[:place]}))
        if place < len(history):
            event, record_time = history[place]
            arguments = [event], [record_time], [partition_of(event)]
            features.append(shard.advance(*arguments).features[0])
            undisturbed.append(quiet.advance(*arguments).features[0])
            by_oracle.append(oracle.advance(event, record_time, partition_of(event))[0])
            if restart and place % 7 == 3:
                shard.restart()
    return answers, expected, np.array(features), np.array(undisturbed), np.array(by_oracle)


@examples(25)
@given(pipelines(exact_bits_only=True), histories(EXTREMES), st.booleans(), st.data())
def test_a_request_gets_what_its_event_would_get_to_the_last_bit_and_leaves_no_trace(pipeline, history, restart, data):
    asked = data.draw(requests(history, EXTREMES))
    answers, expected, features, undisturbed, by_oracle = asked_among(pipeline, history, asked, restart)
    np.testing.assert_array_equal(np.array([row for row, _, _ in answers]), np.array([row for row, _, _ in expected]))
    assert [late for _, late, _ in answers] == [late for _, late, _ in expected]
    assert features.tobytes() == undisturbed.tobytes()
    np.testing.assert_array_equal(features, by_oracle)
    for (_, _, kept), (_, _, came) in zip(answers, expected, strict=True):
        assert came or not kept


@examples(25)
@given(pipelines(exact_bits_only=False), histories(NUMBERS), st.data())
def test_a_request_gets_the_bits_that_the_engine_would_give_its_event(pipeline, history, data):
    """Sums too, whatever is remembered of windows: the event comes to one of two shards, the request to the other."""
    (_, event), *_ = data.draw(requests(history, NUMBERS))
    asked, told = Shard(pipeline, direct_rows=1), Shard(pipeline, direct_rows=1)
    for shard in (asked, told):
        shard.advance([each for each, _ in history], [time for _, time in history],
                      [partition_of(each) for each, _ in history])  # fmt: skip
    partition = partition_of(event) if event.user in "ab" else 0
    came = told.advance([event], [event.time], [partition])
    twice, flags, _ = answer(asked, Scratch(asked.plan), [event, event])
    assert twice[0].tobytes() == twice[1].tobytes() == came.features[0].tobytes()
    assert flags.tolist() == [came.flags[0]] * 2


def test_a_request_for_an_entity_that_is_forgotten_finds_nothing_kept():
    from shard_driver import pipeline_of, purchase

    from udfs.pipeline import Count

    shard = Shard(pipeline_of(Count(window="1h")))
    hour = 3_600_000
    shard.advance([purchase(hour, user="a"), purchase(9 * hour, user="b")])
    features, _, kept = answer(shard, Scratch(shard.plan), [purchase(9 * hour, user=user) for user in "abc"])
    assert kept.tolist() == [False, True, False]
    assert features[:, 0].tolist() == [1.0, 2.0, 1.0]
