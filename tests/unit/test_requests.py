"""Requests of a batch are answered once each: with a score and a receipt, with an error, or by a dead letter."""

import dataclasses
from typing import Annotated, Literal

import msgspec
import numpy as np
import pytest
from wire_records import (
    PURCHASE,
    RECEIPT_MODEL,
    START_MS,
    batch_of,
    encoder_of,
    headers_of,
    shopper_records,
    value_of,
)

from flink_jobs.acls import needed_acls
from flink_jobs.topics import topics_of
from models.budget import OverBudgetError
from udfs.answering import Answerer
from udfs.entity_state import ShardState
from udfs.errors import DefinitionError
from udfs.fallbacks import Default, LastScore
from udfs.ladder import Ladder
from udfs.output_batch import read_outputs
from udfs.pipeline import Count, Events, Label, Mean, Model, Pipeline, Requests, Value, Vector
from udfs.plan import FeaturePlan
from udfs.positions import EventPlace, Positions
from udfs.record_batch import REQUESTS, RecordBatch, pack_records
from udfs.request_reader import request_bytes
from udfs.requests import MOST_REQUEST_BYTES, required_fields
from udfs.scoring import Scorer

ASKED = dataclasses.replace(PURCHASE, requests=Requests(reply_topics=("elsewhere",)), include_features=True)
NOW_MS = START_MS + 3_600_000
DWELL = PURCHASE.feature_names.index("dwell_time_sec")
COUNT = PURCHASE.feature_names.index("count_10m")
FIELDS = {"dwell_time_sec": 7.5, "page_id": "home"}


class Dwell:
    """Scores the dwell time; fails above a limit."""

    def __init__(self, limit=np.inf):
        self.limit = limit

    def predict(self, features):
        if (features[:, DWELL] > self.limit).any():
            raise ValueError("too long")
        return features[:, DWELL].copy()


class Shop:
    """A shard that had events, and who answers requests about it."""

    def __init__(self, pipeline=ASKED, model=None, ladder=None, events=300):
        plan, self.model = FeaturePlan.build(pipeline), model or Dwell()
        self.records, self.state, self.ladder = shopper_records(events), ShardState(plan), ladder
        scores = self.model if pipeline.prediction != PURCHASE.prediction else Dwell()
        Scorer(plan, scores, encoder_of(pipeline), lambda: NOW_MS, ladder=ladder).score(
            batch_of(self.records), {0: self.state}
        )
        self.answerer = Answerer(plan, self.model, RECEIPT_MODEL, lambda: NOW_MS, ladder=ladder)
        self.entity = msgspec.json.decode(self.records[-1][1])["user_id"]

    def ask(self, *records, crashed=None, sent_ms=NOW_MS):
        """What becomes of requests, by the place of each."""
        keys, values = zip(*records, strict=True)
        count = range(len(records))
        packed = pack_records(keys, values, [3] * len(keys), list(count), [sent_ms] * len(keys), command=REQUESTS)
        outputs = read_outputs(self.answerer.score(RecordBatch(packed, ("unused",)), {0: self.state}, crashed=crashed))
        assert len(outputs) == len(records)
        return sorted(outputs, key=lambda each: int(headers_of(each)["offset"]))

    def one(self, *arguments, sent_ms=NOW_MS, crashed=None, **named):
        """The reply to one request, by its fields."""
        (reply,) = self.ask(request_bytes("r1", *arguments, **named), sent_ms=sent_ms, crashed=crashed)
        return reply


@pytest.fixture
def shop():
    return Shop()


def reason_of(reply):
    return value_of(reply)["error"]["reason"]


def test_a_reply_has_the_score_the_features_and_a_receipt_under_the_id_of_its_request(shop):
    newest = max(msgspec.json.decode(value)["timestamp"] for _, value in shop.records)
    reply = shop.one(shop.entity, FIELDS, as_of_ms=newest)
    value, headers = value_of(reply), headers_of(reply)
    assert (reply.topic, reply.key) == ("purchase-replies", b"r1")
    assert value["purchase_probability"] == 7.5
    assert (value["entity"], value["as_of"], value["scored_at"]) == (shop.entity, newest, NOW_MS)
    assert value["features"]["count_10m"] >= 2  # the event that it stands for is one of them
    assert headers["topic"] == "purchase-requests"
    assert (headers["partition"], headers["offset"]) == ("3", "0")
    assert headers["model-sha256"] == RECEIPT_MODEL.sha256
    assert "error" not in headers


def test_a_batch_of_requests_leaves_the_state_as_it_was(shop):
    shop.state.take_changes()
    before = list(shop.state.entries())
    asked = [request_bytes(f"r{n}", msgspec.json.decode(value)["user_id"], FIELDS) for n, (_, value) in
             enumerate(shop.records[:200])]  # fmt: skip
    replies = shop.ask(*asked)
    assert all("error" not in value_of(reply) for reply in replies)
    assert list(shop.state.entries()) == before
    assert shop.state.take_changes() == ({}, [])
    assert (shop.answerer.answered, shop.answerer.refused) == (200, 0)


def test_a_request_may_name_another_declared_topic_and_no_other(shop):
    assert shop.one(shop.entity, FIELDS, reply_to="elsewhere").topic == "elsewhere"
    for topic in ("purchase-predictions", "user-events", "nowhere"):
        letter = shop.one(shop.entity, FIELDS, reply_to=topic)
        assert letter.topic == "purchase-dead-letters"
        assert headers_of(letter)["reason"] == "unknown_reply_topic"
        assert headers_of(letter)["topic"] == "purchase-requests"
        assert headers_of(letter)["stage"] == "request"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "null_value"),
        (b"{", "not_json"),
        (b"\xff", "not_json"),
        (b"[" * 5_000, "wrong_type"),
        (b'{"request_id": "r", "fields": ' + b"[" * 5_000, "not_json"),
        (b"{}", "missing_field"),
        (b'{"request_id": ""}', "wrong_type"),
        (b'{"request_id": 1}', "wrong_type"),
        (b'{"request_id": "%s"}' % (b"x" * 201), "wrong_type"),
        (b'{"request_id": "%s"}' % (b"x" * MOST_REQUEST_BYTES), "too_large"),
    ],
)
def test_a_request_without_an_address_is_a_dead_letter(shop, value, reason):
    (letter,) = shop.ask((b"u", value))
    assert letter.topic == "purchase-dead-letters"
    assert headers_of(letter)["reason"] == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"entity": 7}, "wrong_type"),
        ({"entity": "nobody"}, "unknown_entity"),
        ({"fields": {"page_id": "home"}}, "missing_field"),
        ({"fields": {**FIELDS, "dwell_time_sec": None}}, "missing_field"),
        ({"fields": {**FIELDS, "dwell_time_sec": "long"}}, "wrong_type"),
        ({"fields": {**FIELDS, "page_id": "nowhere"}}, "unknown_category"),
        ({"fields": {**FIELDS, "colour": "red"}}, "unknown_field"),
        ({"fields": {**FIELDS, "user_id": "u1"}}, "unknown_field"),
        ({"colour": "red"}, "unknown_field"),
        ({"as_of": -1}, "invalid_time"),
        ({"as_of": NOW_MS + 3_600_001}, "invalid_time"),
        ({"as_of": 10**30}, "invalid_time"),
        ({"as_of": "now"}, "wrong_type"),
        ({"after": [1, 2]}, "wrong_type"),
        ({"after": {"partition": -1, "offset": 0}}, "wrong_type"),
        ({"after": {"partition": 0}}, "missing_field"),
    ],
)
def test_a_request_that_is_wrong_is_told_so(shop, changes, reason):
    told = {"request_id": "r1", "entity": shop.entity, "fields": FIELDS, **changes}
    (reply,) = shop.ask((str(told["entity"]).encode(), msgspec.json.encode(told)))
    assert (reply.topic, reply.key, headers_of(reply)["error"]) == ("purchase-replies", b"r1", reason)
    assert reason_of(reply) == reason


def test_a_request_under_another_key_than_its_entity_is_refused_for_its_state_may_be_elsewhere(shop):
    _, value = request_bytes("r1", shop.entity, FIELDS)
    for key in (None, b"u", shop.entity.encode() + b"1"):
        (reply,) = shop.ask((key, value))
        assert reason_of(reply) == "key_mismatch"


def test_a_request_that_nobody_waits_for_any_more_is_stale(shop):
    assert reason_of(shop.one(shop.entity, FIELDS, sent_ms=NOW_MS - 30_001)) == "stale"
    assert "error" not in value_of(shop.one(shop.entity, FIELDS, sent_ms=NOW_MS - 30_000))


def test_an_unknown_entity_is_scored_as_by_its_first_event_where_the_pipeline_says_so():
    shop = Shop(dataclasses.replace(ASKED, requests=Requests(unknown="score")))
    value = value_of(shop.one("nobody", FIELDS))
    assert value["purchase_probability"] == 7.5
    assert value["features"]["count_10m"] == 1


def test_a_failing_model_fails_for_its_requests_alone(shop):
    shop = Shop(model=Dwell(limit=50))
    long = request_bytes("long", shop.entity, {**FIELDS, "dwell_time_sec": 60.0})
    replies = shop.ask(request_bytes("a", shop.entity, FIELDS), long, request_bytes("b", "nobody", FIELDS))
    assert [("error" in value_of(reply)) and reason_of(reply) for reply in replies] == [
        False, "model_failed", "unknown_entity",
    ]  # fmt: skip


def test_a_model_that_kills_its_process_on_a_request_is_not_asked_again(shop):
    reply = shop.one(shop.entity, FIELDS, crashed={RECEIPT_MODEL.sha256: "Segmentation fault"})
    assert reason_of(reply) == "model_crashed"


def test_a_request_goes_down_the_ladder_and_is_nobodys_last_score():
    pipeline = dataclasses.replace(ASKED, fallbacks=(LastScore(), Default(-1.0)))
    ladder = Ladder(pipeline, {})
    ladder.last_scores[0] = ladder.restored({})
    shop = Shop(pipeline, Dwell(limit=50), ladder)
    last = ladder.last_scores[0].get(shop.entity)
    fields = {**FIELDS, "dwell_time_sec": 60.0}
    at = last.time_ms
    first, second = shop.ask(
        request_bytes("a", shop.entity, FIELDS, as_of_ms=at), request_bytes("b", shop.entity, fields, as_of_ms=at)
    )
    assert value_of(first)["purchase_probability"] == 7.5
    assert value_of(second)["purchase_probability"] == last.score
    assert headers_of(second)["fallback"] == "last-score"
    assert ladder.last_scores[0].get(shop.entity) == last


def test_a_prediction_of_several_outputs_is_whole_unless_it_is_too_large_to_be_sent():
    outputs = (Vector("taste", 3), Label("segment", ("few", "many")))

    class Both:
        def predict(self, features):
            return np.tile([0.5, 0.25, 1.0, 1.0], (len(features), 1))

    pipeline = dataclasses.replace(ASKED, prediction=outputs, model=Model("both", 1))
    shop = Shop(pipeline, Both())
    value = value_of(shop.one(shop.entity, FIELDS))
    assert (value["taste"], value["segment"]) == ([0.5, 0.25, 1.0], "many")

    class Huge:
        def predict(self, features):
            return np.full((len(features), 60_000), 1 / 3)

    huge = dataclasses.replace(pipeline, prediction=Vector("taste", 60_000), max_record_bytes=100_000)
    shop = Shop(huge, Huge())
    assert reason_of(shop.one(shop.entity, FIELDS)) == "output_too_large"


def test_a_model_over_its_budget_is_told(shop):
    class Slow:
        def predict(self, _features):
            raise OverBudgetError("it takes too long")

    assert reason_of(Shop(model=Slow()).one(shop.entity, FIELDS)) == "model_over_budget"


def test_a_request_after_an_event_is_answered_once_that_is_read_also_after_a_restart(shop):
    positions = Positions()
    answerer = Answerer(shop.answerer._plan, shop.model, RECEIPT_MODEL, lambda: NOW_MS, positions=positions)
    shop.answerer = answerer
    for read in (300, 301):
        positions.note(batch_of(shopper_records(read), partition=2))
        for partition, offset, reads in ((2, 299, True), (2, 300, read > 300), (1, 0, False)):
            value = value_of(shop.one(shop.entity, FIELDS, after=(partition, offset)))
            assert ("error" not in value) == reads
            assert reads or value["error"]["reason"] == "behind"
    after = Positions()
    assert not after.has(0, EventPlace(2, 0))
    after.restore(0, positions.packed(0))
    assert after.has(0, EventPlace(2, 300))
    assert not after.has(0, EventPlace(2, 301))
    after.note(batch_of(shopper_records(10), partition=2))  # again, as after a failure
    assert after.has(0, EventPlace(2, 300))


# the definition


class Visit:
    id: str
    user: str
    at: int
    page: Literal["a", "b"]
    amount: float
    note: str = ""


def pipeline_of(**settings):
    events = Events(Visit, topic="visits", entity="user", time="at", id="id")
    features = [Count(window="1h"), Mean("amount", window="1h")]
    settings = {"requests": Requests(), **settings}
    return Pipeline(name="v", events=events, features=features, model=Model("m", 1), prediction="score", **settings)


def test_topics_of_requests_are_made_and_allowed_with_the_others():
    pipeline = pipeline_of(requests=Requests(reply_topics=["mine"]))
    assert {"v-requests", "v-replies", "mine"} <= set(topics_of(pipeline))
    of_run = {(acl.name, acl.operation) for acl in needed_acls(pipeline) if acl.command == "run"}
    assert {("v-requests", "Read"), ("millrace-v.requests", "Read"), ("v-replies", "Write")} <= of_run
    of_serve = {(acl.name, acl.operation) for acl in needed_acls(pipeline) if acl.command == "serve"}
    assert of_serve == {("v-requests", "Write"), ("v-replies", "Read")}
    assert not {"v-requests", "v-replies"} & set(topics_of(dataclasses.replace(pipeline, requests=None)))


def test_only_what_features_read_of_the_event_itself_must_be_given():
    assert required_fields(pipeline_of()) == []
    assert required_fields(ASKED) == ["page_id", "dwell_time_sec"]
    assert required_fields(pipeline_of(requests=Requests(required=("note",)))) == ["note"]


@pytest.mark.parametrize(
    ("requests", "told"),
    [
        (Requests(topic="visits"), "need different topics"),
        (Requests(replies="v-dead-letters"), "need different topics"),
        (Requests(reply_topics=("v-replies",)), "need different topics"),
        (Requests(required=("colour",)), "required names 'colour'"),
        (Requests(required=("user",)), "required names 'user'"),
        ("yes", "write requests=Requests"),
    ],
)
def test_requests_that_a_pipeline_cannot_have_are_refused(requests, told):
    with pytest.raises(DefinitionError, match=told):
        pipeline_of(requests=requests)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"topic": "a b"}, "Kafka topic name"),
        ({"reply_topics": "one"}, "reply_topics"),
        ({"required": "note"}, "required"),
        ({"max_age": "soon"}, "max_age"),
        ({"unknown": "guess"}, "unknown"),
    ],
)
def test_settings_of_requests_are_checked(settings, told):
    with pytest.raises(DefinitionError, match=told):
        Requests(**settings)


def test_a_prediction_cannot_be_called_like_a_field_of_replies():
    with pytest.raises(DefinitionError, match="as_of"):
        dataclasses.replace(pipeline_of(), prediction="as_of")


class Look:
    id: str
    user: str
    at: int
    taste: Annotated[list[float], 2]


def test_a_request_gives_a_vector_whole_or_not_at_all():
    events = Events(Look, topic="looks", entity="user", time="at", id="id")
    features = [Value("taste"), Mean("taste", window="1h")]
    pipeline = Pipeline(
        name="v", events=events, features=features, model=Model("m", 1), prediction="score", include_features=True,
        requests=Requests(unknown="score"),
    )  # fmt: skip
    assert required_fields(pipeline) == ["taste"]

    class Sum:
        def predict(self, features):
            return features.sum(axis=1)

    def ask(pipeline, fields):
        answerer = Answerer(FeaturePlan.build(pipeline), Sum(), RECEIPT_MODEL, lambda: NOW_MS)
        key, value = request_bytes("r1", "u", fields)
        packed = pack_records([key], [value], [0], [0], [NOW_MS], command=REQUESTS)
        (reply,) = read_outputs(answerer.score(RecordBatch(packed), {0: ShardState(answerer._plan)}))
        return value_of(reply)

    assert ask(pipeline, {"taste": [1.0, 2.0]})["score"] == 6.0
    for taste in ([1.0], [1.0, "x"], 1.0):
        assert ask(pipeline, {"taste": taste})["error"]["reason"] == "wrong_type"
    assert ask(pipeline, {})["error"]["reason"] == "missing_field"
    free = dataclasses.replace(pipeline, requests=Requests(required=(), unknown="score"))
    assert ask(free, {})["error"]["reason"] == "model_failed"  # its features are missing, and so is their sum
