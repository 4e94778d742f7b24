"""A prediction carries its features when the pipeline says so, and only then."""

import dataclasses

import pytest
from wire_records import PURCHASE, Shard, open_shipped, shopper_records, value_of

from udfs.errors import DefinitionError
from udfs.events import Events
from udfs.pipeline import Model, Pipeline, Value


class Seen:
    """A model that keeps what it was given."""

    def __init__(self):
        self.rows = []

    def predict(self, features):
        self.rows += features.tolist()
        return features[:, 0].copy()


def test_prediction_carries_the_features_the_model_was_given():
    model = Seen()
    outputs = Shard(model, dataclasses.replace(PURCHASE, include_features=True)).score(shopper_records(300))
    assert len(outputs) == len(model.rows) == 300
    for output, row in zip(outputs, model.rows, strict=True):
        features = value_of(output)["features"]
        assert tuple(features) == PURCHASE.feature_names
        assert list(features.values()) == [None if value != value else value for value in row]


def test_first_event_has_null_where_nothing_came_before():
    [output] = Shard(Seen(), dataclasses.replace(PURCHASE, include_features=True)).score(shopper_records(1))
    assert value_of(output)["features"]["since_last_1h"] is None


def test_prediction_is_the_same_otherwise():
    with_features = Shard(open_shipped(2), dataclasses.replace(PURCHASE, include_features=True))
    for plain, rich in zip(
        Shard(open_shipped(2)).score(shopper_records(50)), with_features.score(shopper_records(50)), strict=True
    ):
        value = value_of(rich)
        del value["features"]
        assert value == value_of(plain)
        assert rich.headers == plain.headers
    assert with_features.scorer.plan.pipeline.feature_set_hash() == PURCHASE.feature_set_hash()


def test_name_that_is_taken_is_refused():
    class Event:
        id: str
        user: str
        time: int
        features: float

    def made(**settings):
        events = Events(Event, topic="t", entity="user", time="time", id="id")
        names = {"model": Model("m", version=1), "prediction": "score", **settings}
        return Pipeline(name="p", events=events, features=[Value("features")], **names)

    assert made(include=("features",)).include_features is False
    for settings in ({"include": ("features",)}, {"prediction": "features"}):
        with pytest.raises(DefinitionError, match="features"):
            made(include_features=True, **settings)
    with pytest.raises(DefinitionError, match="write True or False"):
        made(include_features="yes")
