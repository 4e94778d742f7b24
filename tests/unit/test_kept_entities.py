"""What is said of an entity is what is kept of it: its events, tiles and values by name, and what they would answer."""

import json
import math
from typing import Any

import numpy as np
import pytest
from shard_driver import HOUR_MS, Shard, pipeline_of, purchase
from test_shard_log import FEATURES, shopping, times_and_partitions

from udfs import shard_log
from udfs.entity_state import ShardState
from udfs.kept_answers import kept_answers
from udfs.kept_entities import condition_text, describe_entity, find_entity, kept_entities, kept_entries
from udfs.pipeline import (
    Count,
    Custom,
    Distinct,
    Ewma,
    Max,
    Mean,
    Min,
    OneHot,
    Previous,
    Ratio,
    SinceLast,
    Std,
    Sum,
    Value,
    field,
)
from udfs.state_log import SNAPSHOT, decode

T = 100 * HOUR_MS
AT_CART = field("page") == "cart"


class Range(Custom):
    """Greatest minus smallest."""

    def init(self) -> Any:
        return math.inf, -math.inf

    def add(self, state: Any, value: float, event_time_ms: int) -> Any:
        return min(state[0], value), max(state[1], value)

    def value(self, state: Any) -> float:
        return state[1] - state[0] if state[1] >= state[0] else math.nan


def kept(shard, name):
    found = find_entity(shard.state, name)
    assert found is not None
    return found


def described(shard, name="u"):
    return describe_entity(shard.plan, *kept(shard, name))


def test_events_are_told_by_the_names_of_fields_with_text_only_where_it_is_known():
    shard = Shard(pipeline_of(Sum("amount", window="1h"), Count(where=AT_CART, window="1h"),
                              Distinct("label", window="1h"), Distinct("page", window="2h", tile="1h")))  # fmt: skip
    shard.advance([purchase(T, 2.5, "cart", label="x"), purchase(T + 1_000, None, "home"), purchase(T, 1.0, "pay")])
    told = described(shard)
    assert [event["time_ms"] for event in told["events"]] == [T, T, T + 1_000]
    assert [event["columns"]["amount"] for event in told["events"]] == [2.5, 1.0, None]
    assert [event["conditions"] for event in told["events"]] == [["page_is_cart"], [], []]
    assert told["events"][0]["columns"]["label"].startswith("#"), "of a free text only a hash is kept"
    assert told["events"][1]["columns"]["label"] is None
    (values,) = told["distinct"]
    assert (values["name"], values["begin_ms"]) == ("page distinct", T)
    assert sorted(values["values"]) == ["cart", "home", "pay"]
    assert (told["newest_event_ms"], told["clock_ms"], told["partition"]) == (T + 1_000, T + 1_000, 0)
    assert told["forgotten_after_ms"] == T + 1_000 + shard.plan.pipeline.retention_ms
    assert told["dropped_until_ms"] is None


def test_tiles_are_told_with_what_each_partial_holds():
    shard = Shard(pipeline_of(Mean("amount", window="2h", tile="1h"), Max("amount", window="2h", tile="1h"),
                              Count(where=AT_CART, window="2h", tile="1h"), Std("amount", window="2h", tile="1h"),
                              Previous("amount", window="2h", tile="1h")))  # fmt: skip
    shard.advance([purchase(T, 1.0), purchase(T + 5, 3.0, "cart"), purchase(T + HOUR_MS, None)])
    first, second = described(shard)["tiles"]
    assert (first["tile_ms"], first["begin_ms"], second["begin_ms"]) == (HOUR_MS, T, T + HOUR_MS)
    assert first["values"] == {
        "amount mean": {"count": 2.0, "sum": 4.0},
        "amount max": 3.0,
        "count where page == 'cart'": 1.0,
        "amount std": {"count": 2.0, "mean": 2.0, "squared_deviations": 2.0},
        "amount last": {"value": 3.0, "time_ms": T + 5},
    }
    assert second["values"]["amount mean"] is second["values"]["amount max"] is None
    assert described(shard)["events"] == []


def test_what_was_dropped_for_being_too_many_is_said():
    shard = Shard(pipeline_of(Sum("amount", window="1h"), max_events_per_entity=2))
    shard.advance([purchase(T + second * 1_000) for second in range(4)])
    assert described(shard)["dropped_until_ms"] == T + 1_000
    assert len(described(shard)["events"]) == 2


def test_unknown_and_forgotten_entities_are_not_found_and_odd_names_are():
    shard = Shard(pipeline_of(Sum("amount", window="1h")))
    shard.advance([purchase(T, user="long ago"), purchase(T, user=""), purchase(T, user="nul\0inside")])
    assert find_entity(shard.state, "nobody") is None
    assert find_entity(shard.state, "lon") is None
    for name in ("long ago", "", "nul\0inside"):
        assert kept(shard, name)[0].name == name
    shard.advance([purchase(T + 3 * HOUR_MS, user="today")])
    assert find_entity(shard.state, "long ago") is None


@pytest.mark.parametrize("tile", [None, "10m"])
def test_the_answers_as_of_the_newest_event_are_those_that_it_got(tile):
    """Contract: to the last bit, for every aggregate that counts the event itself."""
    features = [
        make("amount", window="1h", tile=tile) for make in (Sum, Mean, Min, Max, Std, Ewma)
    ] + [
        Count(window="1h", tile=tile), Count(where=AT_CART, window="30m", tile=tile), Count("amount", window="1h"),
        Distinct("label", window="1h", tile=tile), Distinct("page", window="1h", tile=tile),
        Ratio(Count(where=AT_CART, window="1h", tile=tile), Count(window="1h", tile=tile), fill=-1.0),
        Range("amount", window="1h"), Value("amount", fill=0.0), OneHot("page"),
    ]  # fmt: skip
    shard = Shard(pipeline_of(*features, max_events_per_entity=5))
    names = shard.plan.feature_names
    newest = {}
    for batch in shopping(3, 200, users=12):
        advanced = shard.advance(batch, **times_and_partitions(batch))
        for place, event in enumerate(batch):
            before = newest.get(event.user, (-1, None))[0]
            # what arrived before it with the same time, or after it and late, is in what is kept
            newest[event.user] = (event.time, advanced.features[place]) if event.time >= before else (before, None)
    compared = 0
    for user, (_, got) in newest.items():
        found = find_entity(shard.state, user)
        if found is None or got is None:
            continue
        answers = kept_answers(shard.plan, *found)
        assert [name for name, value in answers.items() if value is None] == list(names[-4:])
        told = np.array([value for value in answers.values() if value is not None])
        wanted = np.array([value for name, value in zip(names, got, strict=True) if answers[name] is not None])
        assert told.tobytes() == wanted.tobytes(), dict(zip(names, got, strict=True))
        compared += 1
    assert compared > 3


def test_earlier_events_answer_as_the_next_event_will_be_answered():
    features = [Previous("amount", window="1h"), SinceLast(window="1h"), SinceLast(where=AT_CART, window="1h"),
                Previous("amount", window="2h", tile="1h"), SinceLast(window="2h", tile="1h")]  # fmt: skip
    shard = Shard(pipeline_of(*features))
    shard.advance([purchase(T, 1.5, "cart"), purchase(T + 60_000, 2.5)])
    told = kept_answers(shard.plan, *kept(shard, "u"), time_ms=T + 90_000)
    got = shard.advance([purchase(T + 90_000, 7.0)]).features[0]
    assert list(told.values()) == got.tolist()


def test_later_answers_lose_what_has_left_the_window():
    shard = Shard(pipeline_of(Sum("amount", window="1h"), Count(window="1h"), Mean("amount", window="10m")))
    shard.advance([purchase(T, 1.0), purchase(T + 30_000, 2.0)])
    told = [
        list(kept_answers(shard.plan, *kept(shard, "u"), time_ms=T + later).values())
        for later in (30_000, 601_000, HOUR_MS, 2 * HOUR_MS)
    ]
    assert told[0] == [3.0, 2.0, 1.5]
    assert told[1] == [3.0, 2.0, 2.0]
    assert told[2][:2] == [2.0, 1.0]
    assert told[3][:2] == [0.0, 0.0]


def test_asking_changes_nothing():
    shard = Shard(pipeline_of(*FEATURES))
    for batch in shopping(9, 40):
        shard.advance(batch, **times_and_partitions(batch))
    before = [each.content for entry in kept_entries(shard.state) for each in kept_entities(entry)]
    for entry in kept_entries(shard.state):
        for each in kept_entities(entry):
            describe_entity(shard.plan, each, entry.clocks)
            kept_answers(shard.plan, each, entry.clocks)
    assert [each.content for entry in kept_entries(shard.state) for each in kept_entities(entry)] == before


def test_the_same_is_kept_however_its_log_was_cut(monkeypatch):
    """A difference between two states is then one of events, not of where the log's rewriting stood."""
    for name, value in (("_LEAST_ROWS", 6), ("_MOST_ROWS", 9), ("_REMOVED_AT_ONCE", 3)):
        monkeypatch.setattr(shard_log, name, value)
    often, never = Shard(pipeline_of(*FEATURES), compact_after=10), Shard(pipeline_of(*FEATURES), compact_after=10**9)
    for batch in shopping(11, 150):
        for shard in (often, never):
            shard.advance(batch, **times_and_partitions(batch))
    assert any(decode(entry).kind == SNAPSHOT for entry in often.log.values())
    restored = [ShardState.restore(shard.plan, shard.log.items()) for shard in (often, never)]
    contents = [
        {each.key: each.content for entry in kept_entries(state) for each in kept_entities(entry)}
        for state in restored
    ]
    assert contents[0] == contents[1]


def test_conditions_read_as_expressions():
    condition = (field("page") == "cart") & ~(field("amount").is_null() | field("label").isin(["x", "y"]))
    told = condition_text(json.loads(json.dumps(condition.definition())))
    assert told == "(page == 'cart') and (not ((amount is null) or (label in ('x', 'y'))))"
