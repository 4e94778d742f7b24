"""The generator: the same seed gives the same shop, in order, with something to learn in it."""

from collections import defaultdict
from itertools import islice, pairwise

import msgspec
import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from flink_jobs.local import shoppers
from flink_jobs.local.broken_records import broken_records
from udfs.wire_formats import AFTER_DECODING, REASONS

START_MS = 1_700_000_000_000


def first(n_events: int, n_users: int = 50, seed: int = 1) -> list[shoppers.ShopperEvent]:
    return list(islice(shoppers.shopper_events(n_users, seed, START_MS), n_events))


def test_same_seed_gives_the_same_events_and_another_seed_others():
    assert first(5_000) == first(5_000)
    assert first(100) != first(100, seed=2)


def test_events_come_in_the_order_of_their_time_over_the_joints_of_batches():
    times = [event.timestamp for event in first(2 * shoppers.BATCH_EVENTS + 10, n_users=2_000)]
    assert times == sorted(times)
    assert times[0] >= START_MS


def test_event_ids_are_unique_and_fields_are_in_range():
    events = first(20_000)
    assert len({event.event_id for event in events}) == len(events)
    assert {event.page_id for event in events} == set(shoppers.PAGES)
    assert {event.user_id for event in events} == {f"user-{i:06d}" for i in range(50)}
    assert all(0 < event.dwell_time_sec < 7_200 for event in events)


def test_events_of_many_shoppers_are_interleaved():
    neighbours = first(5_000, n_users=2_000)
    assert np.mean([a.user_id != b.user_id for a, b in pairwise(neighbours)]) > 0.9


def test_one_shopper_never_has_two_events_at_one_time():
    seen = [(event.user_id, event.timestamp) for event in first(20_000)]
    assert len(set(seen)) == len(seen)


def test_number_of_shoppers_for_a_rate_makes_about_that_rate():
    events = first(60_000, n_users=shoppers.shoppers_for_rate(10))
    seconds = (events[-1].timestamp - events[10_000].timestamp) / 1_000
    assert 50_000 / seconds == pytest.approx(10, rel=0.15)


def test_labelled_events_are_the_generators_events():
    events, labels = shoppers.labelled_events(3_000, 4, n_users=50, start_ms=START_MS)
    assert events == first(3_000, seed=4)
    assert labels.shape == (3_000,)
    assert labels.dtype == np.int8


def test_labelled_event_belongs_to_a_session_that_reaches_the_checkout():
    events, labels = shoppers.labelled_events(20_000, 5, n_users=200)
    later_checkouts = defaultdict(list)
    for event in events:
        if event.page_id == "checkout":
            later_checkouts[event.user_id].append(event.timestamp)
    for event, bought in list(zip(events, labels, strict=True))[:10_000]:
        if bought:
            ahead = [t - event.timestamp for t in later_checkouts[event.user_id]]
            assert any(0 <= ms <= shoppers.LABEL_HORIZON_MS for ms in ahead)


def test_an_hour_of_a_shopper_says_more_than_the_rule_on_one_event():
    """Contract: a model on rolling features beats the shipped rule by more than 0.03 AUC on held-out shoppers."""
    events, labels = shoppers.labelled_events(40_000, 3)
    weight = {"checkout": 1.5, "product": 1.2, "search": 0.9, "home": 0.7}
    rule = np.array([min(event.dwell_time_sec / 120 * weight[event.page_id], 1) for event in events])
    history = defaultdict(list)
    rows = []
    for event in events:
        kept = [e for e in history[event.user_id] if e.timestamp > event.timestamp - 3_600_000]
        history[event.user_id] = [*kept, event]
        dwell = [e.dwell_time_sec for e in history[event.user_id]]
        checkouts = sum(e.page_id == "checkout" for e in history[event.user_id])
        rows.append(
            [event.dwell_time_sec, shoppers.PAGES.index(event.page_id), len(dwell), float(np.mean(dwell)), checkouts]
        )
    features = np.array(rows)
    held_out = np.array([int(event.user_id[-1]) % 2 == 0 for event in events])
    model = HistGradientBoostingClassifier(max_iter=60, random_state=0).fit(features[~held_out], labels[~held_out])
    learned = roc_auc_score(labels[held_out], model.predict_proba(features[held_out])[:, 1])
    assert 0.1 < labels.mean() < 0.4
    assert learned > roc_auc_score(labels[held_out], rule[held_out]) + 0.03


def test_records_are_keyed_by_the_shopper_and_decode_to_the_event():
    (event,) = first(1)
    ((key, value),) = shoppers.as_records([event])
    assert key == event.user_id.encode()
    assert msgspec.json.decode(value) == msgspec.to_builtins(event)


def test_a_shop_without_shoppers_is_refused():
    with pytest.raises(ValueError, match="at least one shopper"):
        next(shoppers.shopper_events(0, 1, 0))


def test_broken_records_cover_every_reason_and_follow_from_the_chance_given():
    records = broken_records(np.random.default_rng(1))
    # the others take a model, an aggregate of the user's own, SQL, requests, or events that are not in JSON
    others = {*AFTER_DECODING, "late", "not_avro", "not_protobuf", "unknown_schema", "wrong_framing"}
    others.add("unknown_reply_topic")
    assert {record.reason for record in records} == set(REASONS) - others
    assert records == broken_records(np.random.default_rng(1))
    assert len({record.kind for record in records}) == len(records)
    sizes = {record.kind: len(record.value or b"") for record in records}
    assert [kind for kind, size in sizes.items() if size > 1_000_000] == ["oversized"]
