"""Schemas that are derived from event classes and pipelines, read again by the libraries of their formats."""

import dataclasses
import io
import json
from typing import Literal

import fastavro
import jsonschema
import pytest

from flink_jobs.pipelines import load_pipeline
from udfs.pipeline import Count, DefinitionError, Events, Model, Pipeline
from udfs.schema_texts import event_schema_text, prediction_schema_text


class Payment:
    payment_id: str
    card: str
    amount: float
    retries: int
    country: Literal["DE", "FR"] | None
    plan: Literal["pay-as-you-go", "flat"]
    at: int


PAYMENT = {"payment_id": "p1", "card": "c", "amount": 1.5, "retries": 2, "country": None, "plan": "flat", "at": 7}


def payments(**changes) -> Events:
    return Events(Payment, **{"topic": "payments", "entity": "card", "time": "at", "id": "payment_id", **changes})


def pipeline(**changes) -> Pipeline:
    chosen = {"name": "card-fraud", "events": payments(), "features": [Count(window="1h")], "prediction": "risk"}
    return Pipeline(**{**chosen, "model": Model("fraud", 1), **changes})


def test_events_go_through_their_avro_schema_unchanged():
    parsed = fastavro.parse_schema(json.loads(event_schema_text(payments(), "AVRO")))
    written = io.BytesIO()
    fastavro.schemaless_writer(written, parsed, PAYMENT)
    written.seek(0)
    read = fastavro.schemaless_reader(written, parsed, None)
    assert read | {"at": 7} == PAYMENT
    assert read["at"].timestamp() == 0.007  # a timestamp, and not any number


def test_literals_are_an_avro_enum_only_where_its_symbols_allow_them():
    fields = {one["name"]: one["type"] for one in json.loads(event_schema_text(payments(), "AVRO"))["fields"]}
    assert fields["country"] == ["null", {"type": "enum", "name": "Payment_country", "symbols": ["DE", "FR"]}]
    assert fields["plan"] == "string"


@pytest.mark.parametrize(("unit", "logical"), [("us", "timestamp-micros"), ("ns", "timestamp-nanos"), ("s", None)])
def test_the_time_field_says_its_unit(unit, logical):
    fields = json.loads(event_schema_text(payments(time_unit=unit), "AVRO"))["fields"]
    assert fields[-1]["type"] == ({"type": "long", "logicalType": logical} if logical else "long")


def test_events_are_valid_by_their_json_schema_and_broken_ones_are_not():
    validator = jsonschema.Draft7Validator(json.loads(event_schema_text(payments(), "JSON")))
    assert validator.is_valid(PAYMENT)
    for broken in ({"amount": "1"}, {"country": "IT"}, {"plan": None}, {"unheard_of": 1}):
        assert not validator.is_valid(PAYMENT | broken)


def test_predictions_have_the_fields_that_the_encoder_writes():
    included = pipeline(include=("country",), include_features=True)
    found = json.loads(prediction_schema_text(included, "AVRO"))
    assert found["name"] == "CardFraudPrediction"
    names = ["payment_id", "card", "country", "risk", "scored_at", "features"]
    assert [one["name"] for one in found["fields"]] == names
    assert [one["name"] for one in found["fields"][-1]["type"]["fields"]] == ["count_1h"]


def test_protobuf_fields_keep_their_numbers_and_never_get_those_of_others():
    first = prediction_schema_text(pipeline(include_features=True), "PROTOBUF")
    changed = prediction_schema_text(pipeline(include=("plan",)), "PROTOBUF", first)
    assert "string payment_id = 1;" in changed
    assert "double risk = 3;" in changed
    assert "string plan = 6;" in changed
    assert "CardFraudPrediction_features features = 5;" in changed, "taking a field out would break readers"
    assert "message CardFraudPrediction_features {" in changed
    again = prediction_schema_text(pipeline(include_features=True), "PROTOBUF", changed)
    assert "CardFraudPrediction_features features = 5;" in again
    assert "string plan = 6;" in again


@pytest.mark.parametrize("kind", ["AVRO", "PROTOBUF", "JSON"])
def test_a_schema_made_from_itself_is_the_same(kind):
    shipped = dataclasses.replace(load_pipeline("purchase"), include_features=True)
    first = prediction_schema_text(shipped, kind)
    assert prediction_schema_text(shipped, kind, first) == first
    later = prediction_schema_text(dataclasses.replace(shipped, include=("page_id",)), kind, first)
    assert later != first
    assert prediction_schema_text(dataclasses.replace(shipped, include=("page_id",)), kind, later) == later


def test_who_has_the_new_avro_schema_reads_records_of_the_old():
    old = prediction_schema_text(pipeline(include=("plan",)), "AVRO")
    new = prediction_schema_text(pipeline(include=("country", "amount"), include_features=True), "AVRO", old)
    writer, reader = (fastavro.parse_schema(json.loads(text)) for text in (old, new))
    written = io.BytesIO()
    record = {"payment_id": "p", "card": "c", "plan": "flat", "risk": 0.5, "scored_at": 7}
    fastavro.schemaless_writer(written, writer, record)
    written.seek(0)
    read = fastavro.schemaless_reader(written, writer, reader)
    assert (read["risk"], read["amount"], read["country"], read["features"]) == (0.5, None, None, None)
    assert "plan" not in read


def test_an_avro_schema_keeps_the_namespace_under_which_it_was_registered():
    registered = json.loads(prediction_schema_text(pipeline(), "AVRO")) | {"namespace": "com.shop", "name": "Risk"}
    found = json.loads(prediction_schema_text(pipeline(), "AVRO", json.dumps(registered)))
    assert (found["namespace"], found["name"]) == ("com.shop", "Risk")


def test_predictions_of_the_old_json_schema_are_valid_by_the_new():
    old = prediction_schema_text(pipeline(include=("plan",)), "JSON")
    new = json.loads(prediction_schema_text(pipeline(include=("amount",)), "JSON", old))
    record = {"payment_id": "p", "card": "c", "plan": "flat", "risk": 0.5, "scored_at": 7}
    assert jsonschema.Draft7Validator(new).is_valid(record)
    assert not jsonschema.Draft7Validator(new).is_valid(record | {"never": 1})


def test_a_name_that_the_format_does_not_allow_is_named():
    class Sale:
        größe: int
        kunde: str
        at: int

    events = Events(Sale, "sales", entity="kunde", time="at", id="kunde")
    for kind in ("AVRO", "PROTOBUF"):
        with pytest.raises(DefinitionError, match="'größe' is no name for"):
            event_schema_text(events, kind)
    assert "größe" in json.loads(event_schema_text(events, "JSON"))["properties"]
