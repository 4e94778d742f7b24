"""What a job writes: predictions, features, and closed sessions; without a word on how it is encoded."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from udfs.formats import Format
from udfs.pipeline import Pipeline
from udfs.registered_schema import SchemaKind
from udfs.schema_texts import (
    FEATURES,
    PREDICTION,
    SESSION,
    features_schema_text,
    prediction_schema_text,
    record_name,
    sessions_schema_text,
)
from udfs.session_topic import SESSION_FIELDS


class OutputValues(NamedTuple):
    """The values of one topic.

    Attributes:
        what: They are, for people.
        one: Of them, for people.
        topic: Where they are.
        form: How they are written.
        names: Of their fields, in order.
        features: Names of the features, which are their last field; none if they have none.
        record: Name of their record in schemas.
        schema_text: The schema of a kind, as it follows a registered one if there is one.
        setting: That says the format, for errors.
        more: How to have more fields, for errors.
    """

    what: str
    one: str
    topic: str
    form: Format
    names: tuple[str, ...]
    features: tuple[str, ...]
    record: str
    schema_text: Callable[[SchemaKind, str | None], str]
    setting: str
    more: str


def predictions_of(pipeline: Pipeline) -> OutputValues:
    """A pipeline's predictions: id, entity, included fields, prediction, `scored_at`, and features if wanted."""
    events, with_features = pipeline.events, pipeline.include_features
    copied = dict.fromkeys((events.id, events.entity, *pipeline.include))
    return OutputValues(
        "predictions",
        "a prediction",
        pipeline.predictions,
        pipeline.output_format,
        (*copied, *pipeline.outputs.names, "scored_at", *(("features",) if with_features else ())),
        pipeline.feature_names if with_features else (),
        record_name(pipeline, PREDICTION),
        partial(prediction_schema_text, pipeline),
        "output_format",
        " (more with include=)",
    )


def features_of(pipeline: Pipeline) -> OutputValues:
    """A pipeline's feature vectors: id, entity, event time and features. Only of one that has a topic for them."""
    assert pipeline.features_topic is not None
    return OutputValues(
        "features",
        "a feature vector",
        pipeline.features_topic,
        pipeline.features_format or pipeline.output_format,
        (*pipeline.identity_fields, "features"),
        pipeline.feature_names,
        record_name(pipeline, FEATURES),
        partial(features_schema_text, pipeline),
        "features_format",
        "",
    )


def sessions_of(pipeline: Pipeline) -> OutputValues:
    """A pipeline's closed sessions. Only of one that has a topic for them."""
    assert pipeline.sessions is not None
    return OutputValues(
        "sessions",
        "a session",
        str(pipeline.sessions_topic),
        pipeline.sessions.format or pipeline.output_format,
        (pipeline.events.entity, *SESSION_FIELDS),
        (),
        record_name(pipeline, SESSION),
        partial(sessions_schema_text, pipeline),
        "Sessions(format=...)",
        "",
    )


def outputs_of(pipeline: Pipeline) -> list[OutputValues]:
    """All that a pipeline's job writes with a schema."""
    features = [features_of(pipeline)] if pipeline.features_topic else []
    return [predictions_of(pipeline), *features, *([sessions_of(pipeline)] if pipeline.sessions else [])]
