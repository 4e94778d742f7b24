"""Feature vectors in a topic of their own: one an event, by entity, true whatever the model says."""

import dataclasses

import msgspec
import numpy as np
import pytest
from wire_records import (
    PURCHASE,
    SCORED_AT_MS,
    batch_of,
    encoder_of,
    headers_of,
    open_shipped,
    shopper_records,
    value_of,
)

from flink_jobs.acls import needed_acls
from flink_jobs.decoding import in_json
from flink_jobs.schema_check import check_schemas
from flink_jobs.settings import Settings
from flink_jobs.sql_statements import job_statements
from flink_jobs.topics import SQL, sink_ddl, topic_specs
from udfs.entity_state import ShardState
from udfs.feature_records import FeatureEncoder
from udfs.output_batch import read_outputs
from udfs.output_fields import features_of
from udfs.output_values import value_reader, value_schema
from udfs.pipeline import Avro, Count, DefinitionError, Events, Json, JsonSchema, Protobuf
from udfs.plan import FeaturePlan
from udfs.registered_schema import SchemaUnknownError
from udfs.scoring import Scorer
from udfs.sql_features import SqlRefusedError
from udfs.subjects import output_subject

TOPIC = "purchase-features"


def with_topic(**changes):
    return dataclasses.replace(PURCHASE, features_topic=TOPIC, include_features=True, **changes)


def scorer_of(pipeline, model, schema=None):
    plan = FeaturePlan.build(pipeline)
    vectors = FeatureEncoder(pipeline, schema)
    return Scorer(plan, model, encoder_of(pipeline), lambda: SCORED_AT_MS, vectors=vectors), ShardState(plan)


def outputs_by_topic(pipeline, records, model, schema=None):
    scorer, state = scorer_of(pipeline, model, schema)
    found = {TOPIC: {}, pipeline.predictions: {}, pipeline.dead_letters: {}}
    for output in read_outputs(scorer.score(batch_of(records), {0: state})):
        offset = int(headers_of(output)["offset"])
        assert offset not in found[output.topic], "each event has one vector and one answer"
        found[output.topic][offset] = output
    return found[TOPIC], found[pipeline.predictions], found[pipeline.dead_letters]


class Failing:
    """A model with a score for nothing."""

    def predict(self, features):
        raise ValueError("no")


def test_each_event_has_the_vector_that_its_prediction_was_made_of():
    pipeline, records = with_topic(), shopper_records(300)
    vectors, predictions, _ = outputs_by_topic(pipeline, records, open_shipped(2))
    assert vectors.keys() == predictions.keys() == set(range(300))
    for offset, (key, value) in enumerate(records):
        event, vector = msgspec.json.decode(value), value_of(vectors[offset])
        assert vectors[offset].key == key
        assert list(vector) == ["event_id", "user_id", "timestamp", "features"]
        assert [vector[name] for name in ("event_id", "user_id", "timestamp")] == [
            event[name] for name in ("event_id", "user_id", "timestamp")
        ]
        assert vector["features"] == value_of(predictions[offset])["features"]
        assert list(vector["features"]) == list(pipeline.feature_names)


def test_a_vector_has_the_receipt_of_its_prediction_without_the_model():
    pipeline = with_topic()
    vectors, predictions, _ = outputs_by_topic(pipeline, shopper_records(5), open_shipped(2))
    for offset, vector in vectors.items():
        receipt = {name: text for name, text in headers_of(predictions[offset]).items() if not name.startswith("model")}
        assert headers_of(vector) == receipt | {"feature-set": pipeline.feature_set_hash()}


def test_a_late_event_is_flagged_in_its_vector_too():
    pipeline = with_topic(lateness="1m")
    late = msgspec.json.decode(shopper_records(1)[0][1])
    late = (late["user_id"].encode(), msgspec.json.encode({**late, "timestamp": late["timestamp"] - 86_400_000}))
    vectors, predictions, _ = outputs_by_topic(pipeline, [*shopper_records(20), late], open_shipped(2))
    assert headers_of(vectors[20])["flags"] == headers_of(predictions[20])["flags"] == "late"
    assert "flags" not in headers_of(vectors[0])


def test_an_event_that_the_model_fails_on_has_its_vector_all_the_same():
    vectors, predictions, letters = outputs_by_topic(with_topic(), shopper_records(8), Failing())
    assert (len(vectors), len(predictions), len(letters)) == (8, 0, 8)
    assert {headers_of(each)["reason"] for each in letters.values()} == {"model_failed"}


def test_what_is_no_event_has_no_vector():
    vectors, _, letters = outputs_by_topic(with_topic(), [(b"u", b"{"), *shopper_records(3)], open_shipped(2))
    assert (set(vectors), set(letters)) == ({1, 2, 3}, {0})


def test_a_vector_that_cannot_be_written_is_a_dead_letter_and_the_others_are_not():
    small = with_topic(max_record_bytes=2_000)
    scorer, state = scorer_of(small, open_shipped(2))
    scorer._vectors._most_sent = max(
        len(each.key) + len(each.value)
        for each in outputs_by_topic(small, shopper_records(40), open_shipped(2))[0].values()
    )
    wide = msgspec.json.decode(shopper_records(1)[0][1])
    wide = (wide["user_id"].encode(), msgspec.json.encode({**wide, "event_id": "e" * 1_500}))
    found = read_outputs(scorer.score(batch_of([*shopper_records(20), wide, *shopper_records(20)]), {0: state}))
    letters = [each for each in found if each.topic == small.dead_letters]
    assert [headers_of(each)["offset"] for each in letters] == ["20"]
    assert (headers_of(letters[0])["reason"], headers_of(letters[0])["stage"]) == ("output_too_large", "encode")
    assert len([each for each in found if each.topic == TOPIC]) == 40
    assert len([each for each in found if each.topic == small.predictions]) == 40


def test_without_a_topic_of_features_nothing_else_is_written():
    scorer = Scorer(FeaturePlan.build(PURCHASE), open_shipped(2), encoder_of(), lambda: SCORED_AT_MS)
    state = ShardState(scorer.plan)
    found = read_outputs(scorer.score(batch_of(shopper_records(5)), {0: state}))
    assert {each.topic for each in found} == {PURCHASE.predictions}


@pytest.mark.parametrize("form", [Json(), JsonSchema(), Avro(), Protobuf()])
def test_vectors_are_read_back_in_every_format(form):
    pipeline = dataclasses.replace(with_topic(), output_format=form)
    values = features_of(pipeline)
    schema = value_schema(values)
    schema = schema and schema._replace(id=41)
    encoder = FeatureEncoder(pipeline, schema)
    event = msgspec.defstruct("E", [("event_id", str), ("user_id", str), ("timestamp", int)])("e1", "u1", 7)
    matrix = np.arange(len(pipeline.feature_names), dtype=np.float64)[None]
    matrix[0, 3] = np.nan
    keys = batch_of([(b"u1", b"")]).keys
    packed = encoder.vectors(
        [event], matrix, keys=keys, partitions=np.array([0], np.int32), offsets=np.array([0]),
        event_times_ms=np.array([7]),
    )  # fmt: skip
    read = value_reader(values, lambda _: schema)(read_outputs(packed)[0].value)
    assert (read["event_id"], read["user_id"]) == ("e1", "u1")
    expected = dict(zip(pipeline.feature_names, [None if np.isnan(x) else x for x in matrix[0]], strict=True))
    assert read["features"] == expected


def test_features_have_a_schema_and_a_subject_of_their_own():
    pipeline = with_topic(output_format=Avro())
    assert output_subject(features_of(pipeline)) == f"{TOPIC}-value"
    assert value_schema(features_of(pipeline)).text.startswith('{"type":"record","name":"PurchaseFeatures"')

    class Registry:
        """Takes predictions, and no features."""

        def latest(self, subject):
            raise SchemaUnknownError(subject)

        versions = latest

        def compatibility_level(self, subject):
            return "BACKWARD"

        def compatible(self, subject, kind, text):
            return [] if subject == f"{pipeline.predictions}-value" else ["no"]

    found = check_schemas(pipeline, Registry())
    assert not found.passed
    document = found.document()
    assert (document["predictions"]["problems"], document["features"]["problems"]) == ([], ["no"])
    assert {change["field"] for change in document["features"]["changes"]} == {
        "event_id", "user_id", "timestamp", "features",
    }  # fmt: skip


def test_a_schema_of_predictions_is_not_taken_for_features():
    text = value_schema(features_of(with_topic(output_format=Avro()))).text
    with pytest.raises(DefinitionError, match="output_format has a schema of predictions"):
        with_topic(output_format=Avro(schema='"string"'))
    assert features_of(with_topic(output_format=Avro(schema='"string"'), features_format=Avro(schema=text)))


def test_a_field_called_features_is_refused():
    class Odd:
        features: str
        user: str
        at: int

    events = Events(Odd, topic="odd", entity="user", time="at", id="features")
    with pytest.raises(DefinitionError, match="already takes"):
        dataclasses.replace(PURCHASE, events=events, features=[Count(window="1h")], include=(), features_topic="f")


def test_the_topic_is_a_table_of_latest_vectors_unless_a_retention_is_asked_for():
    specs = {spec.name: spec for spec in topic_specs(with_topic())}
    assert specs[TOPIC].wanted_settings == {"cleanup.policy": "compact"}
    assert specs[TOPIC].partitions == PURCHASE.events.partitions
    kept = {spec.name: spec for spec in topic_specs(with_topic(), 86_400_000)}
    assert kept[TOPIC].wanted_settings == {"cleanup.policy": "compact,delete", "retention.ms": "86400000"}
    assert TOPIC not in {spec.name for spec in topic_specs(PURCHASE)}


def test_the_job_may_write_the_topic_and_its_sink_knows_it():
    acls = {(acl.command, acl.operation) for acl in needed_acls(with_topic()) if acl.name == TOPIC}
    assert ("run", "Write") in acls
    assert ("topics create", "Create") in acls
    assert f";{TOPIC}" in sink_ddl("t", with_topic(), Settings())
    assert TOPIC not in sink_ddl("t", with_topic(), Settings(), SQL)


def test_sql_says_that_it_does_not_write_features():
    with pytest.raises(SqlRefusedError, match="features_topic"):
        job_statements(with_topic(), Settings(), None, "purchase/2")


def test_trials_on_topics_of_their_own_write_no_features():
    assert in_json(with_topic(features_format=Avro())).features_topic is None
