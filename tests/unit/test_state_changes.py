"""What a change of pipeline does to its state, said before anything stops."""

import dataclasses
import json
from typing import Literal

import pytest
from shard_driver import pipeline_of

from udfs.errors import DefinitionError
from udfs.pipeline import (
    Count,
    Distinct,
    Events,
    Last,
    Lookup,
    Mean,
    Model,
    OneHot,
    Ratio,
    Requests,
    SinceLast,
    Sum,
    Value,
    field,
)
from udfs.state_changes import (
    BLOCKED,
    COMPUTED,
    KEPT,
    LOST,
    NOTE,
    REMOVED,
    WARMING,
    Definition,
    changes_between,
)

PAID, BIG = field("page") == "pay", field("amount") > 9
DAY_MS = 86_400_000


def changes(before, after, shards=(32, 32)):
    written = Definition(**json.loads(json.dumps(vars(Definition.of(before, shards[0])))))
    return changes_between(written, after, shards[1])


def effects(before, after):
    return {change.name: change.effect for change in changes(pipeline_of(*before), pipeline_of(*after))}


def test_the_same_pipeline_keeps_everything():
    features = [
        Value("amount"), OneHot("page"), Count(window="1h"), Distinct("page", window="1h"),
        Sum("amount", window="30d", tile="1h", where=PAID), Ratio(Count(window="1h", where=PAID), Count(window="1h")),
    ]  # fmt: skip
    assert set(effects(features, reversed(features)).values()) == {KEPT}


SUM_30D = Sum("amount", window="30d", tile="1h")


@pytest.mark.parametrize(
    ("before", "after", "name", "effect"),
    [
        ([Count(window="1h")], [Count(window="30m")], "count_30m", COMPUTED),
        ([Count(window="1h")], [Count(window="2h")], "count_2h", COMPUTED),  # kept for window and lateness
        ([Count(window="1h")], [Count(window="4h")], "count_4h", WARMING),
        ([Count(window="1h")], [Sum("amount", window="1h")], "amount_sum_1h", WARMING),
        ([Mean("amount", window="1h")], [Count(window="1h", where=BIG)], "amount_gt_9_count_1h", COMPUTED),
        ([Sum("amount", window="1h")], [Sum("amount", window="1h", tile="10m")], "amount_sum_1h_tile_10m", COMPUTED),
        ([Sum("amount", window="1h")], [SUM_30D], "amount_sum_30d_tile_1h", WARMING),
        ([SUM_30D], [Sum("amount", window="30d", tile="1d")], "amount_sum_30d_tile_1d", COMPUTED),
        ([SUM_30D], [Sum("amount", window="30d", tile="30m")], "amount_sum_30d_tile_30m", LOST),
        ([SUM_30D], [Sum("amount", window="30d", tile="90m")], "amount_sum_30d_tile_90m", LOST),
        ([SUM_30D], [Sum("amount", window="2h")], "amount_sum_2h", LOST),
        ([SUM_30D], [SUM_30D, Sum("amount", window="2h")], "amount_sum_2h", WARMING),  # nothing goes
        ([SUM_30D], [Mean("amount", window="30d", tile="1h")], "amount_mean_30d_tile_1h", WARMING),
        ([Mean("amount", window="30d", tile="1h")], [SUM_30D], "amount_sum_30d_tile_1h", COMPUTED),
        ([Count(window="1h")], [SinceLast(window="1h"), Value("amount")], "amount", COMPUTED),
        ([Count(window="1h")], [SinceLast(window="1h")], "count_1h", REMOVED),
        ([Last("amount", window="1h")], [Last("amount", window="1h", fill=0)], "amount_last_1h", COMPUTED),
    ],
)  # fmt: skip
def test_every_feature_is_kept_computed_warms_up_or_is_lost(before, after, name, effect):
    assert effects(before, after)[name] == effect


def test_a_feature_that_warms_up_says_how_long():
    found = changes(pipeline_of(Sum("amount", window="1h")), pipeline_of(SUM_30D))
    (change,) = [each for each in found if each.effect == WARMING]
    assert change.warms_up_ms == 30 * DAY_MS - 2 * DAY_MS // 24
    assert change.text == (
        "warms up for 718h of event time, marked in receipts; the last 2h are known, in place of amount_sum_1h"
    )


class Profile:
    user: str
    age: int


@dataclasses.dataclass
class Payment:
    id: str
    user: str
    page: Literal["home", "cart", "pay"] | None
    amount_eur: float | None
    label: int | None
    time: int
    country: str


def on_payments(*features, **renamed):
    events = Events(Payment, topic="purchases", entity="user", time="time", id="id", renamed=renamed)
    return dataclasses.replace(pipeline_of(Count(window="1h")), events=events, features=features)


def test_a_renamed_field_is_said_to_be_kept_and_an_unsaid_renaming_loses_it():
    before = pipeline_of(Sum("amount", window="1h"), Count(window="1h", where=field("amount") > 3))
    after = [Sum("amount_eur", window="1h"), Count(window="1h", where=field("amount_eur") > 3)]
    said = changes(before, on_payments(*after, amount_eur="amount"))
    assert [(each.effect, each.text) for each in said[:2]] == [
        (KEPT, "as it was, called amount_sum_1h before"), (KEPT, "as it was, called amount_gt_3_count_1h before"),
    ]  # fmt: skip
    unsaid = changes(before, on_payments(*after))
    assert [each.effect for each in unsaid[:4]] == [WARMING, WARMING, REMOVED, REMOVED]


def test_a_field_is_renamed_from_a_name_that_no_other_has():
    for renamed, words in (
        ({"amount_eur": "label"}, "'amount_eur' was 'label'"),
        ({"amount_eur": "x", "country": "x"}, "no other field has or had"),
        ({"amount": "x"}, "no field 'amount'"),
    ):
        with pytest.raises(DefinitionError, match=words):
            on_payments(Count(window="1h"), **renamed)


def test_a_field_of_another_type_loses_what_was_kept_of_it_and_a_new_one_is_noted():
    before = pipeline_of(Distinct("label", window="1h"))
    found = changes(before, on_payments(Distinct("label", window="1h")))
    assert [(each.effect, each.name) for each in found[:1]] == [(LOST, "label_distinct_1h")]
    notes = [each.text for each in found if each.effect == NOTE]
    assert "country is new; events without it are dead letters, unless it is `str | None`" in notes
    assert "label was str, is int" in notes
    assert "amount is gone" in notes


def test_a_new_model_and_other_bounds_are_noted():
    before = pipeline_of(Count(window="1h"))
    after = dataclasses.replace(before, model=Model("m", version=2), lateness="10m", max_events_per_entity=5)
    found = changes(before, after)
    assert [each.text for each in found if each.effect == NOTE] == [
        "m/1 becomes m/2", "3,600,000 becomes 600,000", "10,000 becomes 5",
    ]  # fmt: skip
    assert found[0].effect == KEPT


def test_topics_of_requests_and_lookups_that_come_and_go_are_noted():
    before = pipeline_of(Count(window="1h"))
    lookup = Lookup("users", Profile, file="users.csv", key="user")
    after = dataclasses.replace(before, requests=Requests(), lookups=[lookup])
    assert [(each.name, each.text) for each in changes(before, after) if each.effect == NOTE] == [
        ("requests_topic", f"none becomes {after.name}-requests"), ("lookups", "none becomes users"),
    ]  # fmt: skip
    assert [(each.name, each.text) for each in changes(after, before) if each.effect == NOTE] == [
        ("requests_topic", f"{after.name}-requests becomes none"), ("lookups", "users becomes none"),
    ]  # fmt: skip


def test_another_entity_topic_time_or_number_of_shards_blocks_everything():
    before = pipeline_of(Count(window="1h"))
    for change in ({"entity": "id"}, {"topic": "others"}):
        after = dataclasses.replace(before, events=dataclasses.replace(before.events, **change))
        assert [(each.effect, each.name) for each in changes(before, after)] == [(BLOCKED, *change)]
    assert [each.name for each in changes(before, before, shards=(32, 64))] == ["shards"]
