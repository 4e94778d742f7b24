"""The last n events of an entity as columns: the oracle and the engine agree, whatever is skipped and remembered."""

import dataclasses
import math
from typing import Annotated, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from shard_driver import Shard, pipeline_of, purchase
from test_against_oracle import EXTREMES, engine_of, histories, oracle_of

from udfs.kept_answers import kept_answers
from udfs.kept_entities import find_entity
from udfs.naive_features import NaiveFeatures
from udfs.pipeline import Count, DefinitionError, Events, LastN, Model, Pipeline, Ratio, SequenceLength, field
from udfs.plan import FeaturePlan
from udfs.sql_features import SqlRefusedError, compile_features

NAN = math.nan


def sequence(*features, events):
    return Shard(pipeline_of(*features)).advance(events).features


@pytest.mark.parametrize(
    ("settings", "first", "last"),
    [
        ({}, [NAN, NAN, 1.0], [2.0, 3.0, 4.0]),
        ({"pad": "right"}, [1.0, NAN, NAN], [2.0, 3.0, 4.0]),
        ({"fill": -1.0}, [-1.0, -1.0, 1.0], [2.0, 3.0, 4.0]),
        ({"where": field("amount") != 3}, [NAN, NAN, 1.0], [1.0, 2.0, 4.0]),
        ({"window": "2ms"}, [NAN, NAN, 1.0], [NAN, 3.0, 4.0]),
        ({"window": "2ms", "pad": "right"}, [1.0, NAN, NAN], [3.0, 4.0, NAN]),
    ],
)  # fmt: skip
def test_columns_are_the_latest_events_oldest_first(settings, first, last):
    feature = LastN("amount", **{"n": 3, "window": "1h", **settings})
    features = sequence(feature, events=[purchase(1_000 + each, float(each)) for each in (1, 2, 3, 4)])
    np.testing.assert_array_equal(features[0], first)
    np.testing.assert_array_equal(features[-1], last)


def test_an_event_without_the_field_has_its_place():
    events = [purchase(1_001, 1.0, "cart"), purchase(1_002, None, "pay"), purchase(1_003, 3.0, None)]
    features = sequence(LastN("amount", n=3, window="1h"), LastN("page", n=4, window="1h"), events=events)
    np.testing.assert_array_equal(features[-1], [1.0, NAN, 3.0, 0.0, 2.0, 3.0, 0.0])


def test_a_text_is_the_place_of_its_value_and_nothing_is_0_or_the_fill():
    events = [purchase(1_001, page="pay"), purchase(1_002, page="home")]
    features = sequence(LastN("page", n=3, window="1h", fill=-5), LastN("page", n=3, window="1d"), events=events)
    assert features.tolist() == [[-5, -5, 3, 0, 0, 3], [-5, 3, 1, 0, 3, 1]]


def test_mask_and_length_say_which_columns_are_events():
    events = [purchase(1_000 + each, None, "pay" if each != 2 else "home") for each in (1, 2, 3)]
    pays = {"n": 3, "window": "1h", "where": field("page") == "pay"}
    pipeline = pipeline_of(LastN(**pays), LastN(**pays, pad="right"), SequenceLength(**pays))
    assert pipeline.feature_names[:3] == tuple(f"page_is_pay_last_3_1h_{place}" for place in range(3))
    assert pipeline.feature_names[-1] == "page_is_pay_sequence_length_3_1h"
    assert tuple(pipeline.blocks) == ("page_is_pay_last_3_1h", "page_is_pay_last_3_1h_pad_right")
    found = Shard(pipeline).advance(events).features
    assert found.tolist() == [[0, 0, 1, 1, 0, 0, 1], [0, 0, 1, 1, 0, 0, 1], [0, 1, 1, 1, 1, 0, 2]]
    assert [row["meaning"] for row in pipeline.describe()["features"]][5:] == [
        "1 of number 3 of the last 3 events where page_is_pay of the last 1h, oldest first (0 where there are no later "
        "ones)", "number of events where page_is_pay of the last 1h, 3 at most",
    ]  # fmt: skip


def test_a_column_is_made_of_one_event_as_explain_says():
    pipeline = pipeline_of(LastN("amount", n=2, window="1h"), SequenceLength(n=2, window="1h"))
    oracle = NaiveFeatures(pipeline)
    for each in (1, 2, 3):
        oracle.advance(purchase(1_000 + each, float(each)), 0, 0)
    assert [[row.event.amount for row in oracle.window(each, "u")] for each in pipeline.features] == [
        [2.0], [3.0], [1.0, 2.0, 3.0],
    ]  # fmt: skip


def test_a_late_event_has_the_sequence_of_its_own_time():
    events = [purchase(time, float(time)) for time in (1_000, 3_000, 2_000, 4_000)]
    features = sequence(LastN("amount", n=3, window="1h"), events=events)
    np.testing.assert_array_equal(features[2], [NAN, 1_000.0, 2_000.0])
    np.testing.assert_array_equal(features[3], [2_000.0, 3_000.0, 4_000.0])


class Look:
    id: str
    user: str
    taste: Annotated[list[float], 2] | None
    kind: Literal["view", "buy"]
    at: int


def looks(*features):
    return Pipeline("looks", Events(Look, "looks", entity="user", time="at", id="id"), features, Model("m", 1), "s")


def look(at, taste, kind="view"):
    made = Look()
    made.id, made.user, made.taste, made.kind, made.at = f"e{at}", "u", taste, kind, at
    return made


def test_vectors_of_the_latest_events_are_one_block_event_by_event():
    pipeline = looks(LastN("taste", n=3, window="1h", where=field("kind") == "buy"), LastN("kind", n=2, window="1h"))
    names = tuple(f"kind_is_buy_taste_last_3_1h_{place}_{number}" for place in range(3) for number in range(2))
    assert pipeline.feature_names == (*names, "kind_last_2_1h_0", "kind_last_2_1h_1")
    assert pipeline.blocks == {
        "kind_is_buy_taste_last_3_1h": names, "kind_last_2_1h": ("kind_last_2_1h_0", "kind_last_2_1h_1"),
    }  # fmt: skip
    events = [look(1_001, [1.0, 2.0], "buy"), look(1_002, [3.0, 4.0]), look(1_003, [5.0, 6.0], "buy")]
    found = Shard(pipeline).advance(events).features[-1]
    np.testing.assert_array_equal(found, [NAN, NAN, 1.0, 2.0, 5.0, 6.0, 1.0, 2.0])
    turned = dataclasses.replace(pipeline, features=tuple(reversed(pipeline.features)))
    np.testing.assert_array_equal(Shard(turned).advance(events).features[-1], found[::-1])


def test_a_number_of_a_vector_is_a_sequence_of_its_own():
    pipeline = looks(LastN("taste[1]", n=2, window="1h"))
    assert pipeline.feature_names == ("taste_last_2_1h_0_1", "taste_last_2_1h_1_1")
    assert Shard(pipeline).advance([look(1, [1.0, 2.0]), look(2, [3.0, 4.0])]).features[-1].tolist() == [2.0, 4.0]


@pytest.mark.parametrize(
    ("feature", "line"),
    [
        (lambda: LastN("amount", n=0, window="1h"), "write a whole number from 1 to 1,000"),
        (lambda: LastN("amount", n=True, window="1h"), "write a whole number"),
        (lambda: LastN("amount", pad="top", window="1h"), "write 'left' or 'right'"),
        (lambda: LastN("amount", window="1h", tile="1m"), "tile is not supported"),
        (lambda: SequenceLength(window="1h", tile="1m"), "SequenceLength: tile is not supported"),
        (lambda: SequenceLength(window="1h", n=0), "SequenceLength: n is 0"),
        (lambda: LastN("label", window="1h"), "declare label: Literal"),
        (lambda: LastN("nothing", window="1h"), "no field 'nothing'"),
        (lambda: Ratio(LastN("amount", window="1h"), Count(window="1h")), "cannot be divided"),
    ],
)
def test_what_cannot_be_a_sequence_is_refused_in_one_line(feature, line):
    with pytest.raises(DefinitionError, match=line):
        pipeline_of(feature())


def test_sql_refuses_sequences_by_name_once():
    with pytest.raises(SqlRefusedError, match="amount_last_2_1h_0, amount_last_2_1h_1: a statement") as refused:
        compile_features(pipeline_of(LastN("amount", n=2, window="1h"), Count(window="1h")))
    with pytest.raises(SqlRefusedError, match="sequence_length_10_1h: a statement"):
        compile_features(pipeline_of(SequenceLength(window="1h")))
    assert str(refused.value).count("a statement has no columns") == 1


def test_what_a_sequence_is_made_of_is_part_of_what_a_model_was_made_for():
    hashes = {
        pipeline_of(LastN("page", **{"n": 2, "window": "1h", **each})).feature_set_hash()
        for each in ({}, {"n": 3}, {"pad": "right"}, {"fill": 9.0}, {"window": "2h"})
    }
    assert len(hashes) == 5


CONDITIONS = [None, field("page") == "pay", field("amount") > 1, ~(field("amount") <= 1), field("amount").is_null()]


@st.composite
def pipelines(draw):
    features = {}
    for _ in range(draw(st.integers(1, 4))):
        feature = LastN(
            draw(st.sampled_from(["amount", "page", None])), n=draw(st.sampled_from([1, 2, 3, 7, 40])),
            window=draw(st.sampled_from(["64ms", "10s", "1h", "20h"])), where=draw(st.sampled_from(CONDITIONS)),
            pad=draw(st.sampled_from(["left", "right"])), fill=draw(st.sampled_from([NAN, -7.0])),
        )  # fmt: skip
        features[feature.name] = feature
        length = SequenceLength(n=feature.n, window=feature.window, where=draw(st.sampled_from(CONDITIONS)))
        features[length.name] = length
    return pipeline_of(*features.values(), Count(window="1m"), lateness=draw(st.sampled_from([None, "5s", "30m"])))


@examples(15)
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
    """Many events, of which few pass, and some of which come late: stretches to skip on both sides of an anchor."""
    rng, now, events = np.random.default_rng(draw(st.integers(0, 1 << 30))), 1_700_000_000_000, []
    passing = draw(st.sampled_from([0.0, 0.02, 0.2, 0.9]))
    for _ in range(draw(st.integers(100, 500))):
        now += int(rng.choice([0, 1, 20, 1_000]))
        at = now - (int(rng.integers(0, 20_000)) if rng.random() < 0.03 else 0)
        page = "pay" if rng.random() < passing else "home"
        events.append((purchase(at, float(rng.integers(0, 99)), page, user="a"), at))
    return events


@examples(15)
@given(long_histories(), st.sampled_from([1, 3, 25]), st.sampled_from(["10s", "1h"]), st.sampled_from([9, 10_000]))
def test_skipping_what_does_not_pass_changes_no_bit(history, n, window, most_events):
    pipeline = pipeline_of(
        LastN("amount", n=n, window=window, where=field("page") == "pay"),
        Count(window=window, where=field("page") == "pay"), max_events_per_entity=most_events,
    )  # fmt: skip
    folded, flags = engine_of(pipeline, history, [], direct_rows=1 << 20)
    skipped, skipped_flags = engine_of(pipeline, history, [], direct_rows=1)
    assert skipped.tobytes() == folded.tobytes()
    assert skipped_flags.tobytes() == flags.tobytes()
    if most_events == 10_000:
        expected, _ = oracle_of(pipeline, history)
        np.testing.assert_array_equal(skipped, expected)


def test_a_sequence_that_is_new_to_a_state_is_read_from_the_events_kept():
    before = pipeline_of(Count(window="1h"), Count("amount", window="1h", where=field("amount") > 0),
                         LastN("amount", n=1, window="1h"))  # fmt: skip
    shard = Shard(before)
    shard.advance([purchase(1_000, 1.0), purchase(2_000, 2.0)])
    shard.plan = FeaturePlan.build(pipeline_of(LastN("amount", n=3, window="1h", where=field("amount") > 1)))
    shard.restart()
    np.testing.assert_array_equal(shard.advance([purchase(3_000, 3.0)]).features[-1], [NAN, 2.0, 3.0])


def test_what_is_kept_answers_without_an_event_of_its_own():
    pipeline = pipeline_of(
        LastN("amount", n=2, window="1h"), LastN("page", n=2, window="1h", pad="right"),
        LastN(n=2, window="1h"), SequenceLength(n=5, window="1h"),
    )  # fmt: skip
    shard = Shard(pipeline)
    shard.advance([purchase(1_000, 1.0, "cart"), purchase(2_000, 2.0, "pay"), purchase(3_000, 3.0, "home")])
    answers = kept_answers(shard.plan, *find_entity(shard.state, "u"), time_ms=10_000)
    assert list(answers.values()) == [2.0, 3.0, 3.0, 1.0, 1.0, 1.0, 3.0]
