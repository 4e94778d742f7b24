"""What a user writes: a Pipeline says what an event is, which features an entity has and which model scores them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

from models.blocks import Block
from models.outputs import Label, Number, Output, Outputs, Vector
from udfs.aggregates import (
    Count,
    Custom,
    Distinct,
    Ewma,
    Feature,
    Last,
    LastN,
    Max,
    Mean,
    Min,
    OneHot,
    Previous,
    Ratio,
    SequenceLength,
    SessionCount,
    SessionDuration,
    SessionPause,
    SessionPosition,
    SinceLast,
    Std,
    Sum,
    Value,
    aggregates_of,
)
from udfs.conditions import Condition, field
from udfs.definition_checks import check_budget, check_count, check_name
from udfs.durations import parse_duration
from udfs.errors import DefinitionError
from udfs.events import EventField, Events, check_topic, split_element
from udfs.fallbacks import Default, Fallback, LastScore, OtherModel, check_fallbacks
from udfs.formats import Avro, Format, Json, JsonSchema, Protobuf, Text, check_format
from udfs.lookups import Lookup, check_defaults, check_lookups, lookups_read, table_topics
from udfs.requests import Requests, check_requests
from udfs.session_topic import Sessions, check_sessions
from udfs.sources import Debezium, Source

__all__ = [
    "Avro", "Condition", "Count", "Custom", "Debezium", "Default", "DefinitionError", "Distinct", "EventField",
    "Events", "Ewma", "Json", "JsonSchema", "Label", "Last", "LastN", "LastScore", "Lookup", "Max", "Mean", "Min",
    "Model", "Number", "OneHot", "OtherModel", "Pipeline", "Previous", "Protobuf", "Ratio", "Requests",
    "SequenceLength", "SessionCount", "SessionDuration", "SessionPause", "SessionPosition", "Sessions", "SinceLast",
    "Source", "Std", "Sum", "Text", "Value", "Vector", "field",
]  # fmt: skip

@dataclass(frozen=True)
class Model:
    """A model artefact: `<root>/<name>/<version>/`.

    Attributes:
        name: Its name.
        version: Its version.
        root: None means the models folder of this project.
        signed_by: PEM texts of public keys, one behind the other: a model that the owner of none of them signed is not
            opened. None takes unsigned ones.
    """

    name: str
    version: int
    root: str | Path | None = None
    signed_by: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "Model: name")
        check_count(self.version, "Model: version", 1)


@dataclass(frozen=True)
class Pipeline:
    """Events, features and a model: everything the engines need to know.

    Attributes:
        name: Lower-case name; part of receipts, transaction prefixes and default topics.
        events: The event class and its topic.
        features: In the order of the model's inputs. One of a vector is one of each of its numbers.
        model: The model that scores them.
        prediction: Name of the prediction's value in the output record, where that is a number; or its outputs: names
            of numbers, Number, Vector and Label, one or several.
        predictions: Topic of the predictions.
        dead_letters: Topic of records that could not be scored; None means `<name>-dead-letters`.
        include: Further event fields copied into the prediction.
        lateness: How late an event may be and still see its whole window; None means the longest window. State is
            kept for a window and the lateness, so say it when a window is long.
        max_events_per_entity: Most events kept for exact windows of one entity; the oldest goes first.
        max_record_bytes: A larger record is a dead letter.
        include_features: Whether a prediction carries its features, as `features: {name: value, or null for NaN}`: to
            look at or to train on, at the cost of larger records.
        output_format: How predictions are written.
        features_topic: Topic of all feature vectors, by entity; compacted, it is a table of each entity's latest. None
            means that there is none.
        features_format: How they are written; None means like predictions.
        models_topic: Control topic by which a running job is told to score with other models; None means that it scores
            with `model` until it is stopped. It answers in `<models_topic>-status`; shadows write to
            `<predictions>-shadow`.
        fallbacks: What scores an event that the model fails on or is too slow for, the first that has a score; none
            means that it is a dead letter.
        model_budget_ms: How long a model may take for a batch of at most 4,096 events; None means as long as it takes.
        requests: A topic in which scores may be asked for, without an event; None means that there is none.
        sessions: A topic of the sessions of entities that are over; None means that there is none.
        lookups: Tables of attributes that events are joined with; features read their fields as `products.price`.
        feature_names: The features in order (derived).
        outputs: Of the prediction (derived).
        fields: The event's fields by name, and behind them the numbers of its vectors, like `embedding[3]`, and those
            of lookups (derived).
    """

    name: str
    events: Events
    features: Sequence[Feature]
    model: Model
    prediction: str | Output | Sequence[str | Output]
    predictions: str = "predictions"
    dead_letters: str | None = None
    include: tuple[str, ...] = ()
    lateness: str | None = None
    max_events_per_entity: int = 10_000
    max_record_bytes: int = 1_000_000
    include_features: bool = False
    output_format: Format = dataclass_field(default_factory=Json)
    features_topic: str | None = None
    features_format: Format | None = None
    models_topic: str | None = None
    fallbacks: Sequence[Fallback] = ()
    model_budget_ms: float | None = None
    requests: Requests | None = None
    sessions: Sessions | None = None
    lookups: Sequence[Lookup] = ()
    feature_names: tuple[str, ...] = dataclass_field(init=False, compare=False)
    outputs: Outputs = dataclass_field(init=False, compare=False)
    fields: Mapping[str, EventField] = dataclass_field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_name(self.name, "Pipeline: name")
        if not isinstance(self.requests, Requests | None):
            raise DefinitionError(f"pipeline {self.name}: requests is {self.requests!r}; write requests=Requests()")
        for value, kind, setting in ((self.events, Events, "events"), (self.model, Model, "model")):
            if not isinstance(value, kind):
                raise DefinitionError(
                    f"pipeline {self.name}: {setting} is {value!r}; write {setting}={kind.__name__}(...)"
                )
        if self.dead_letters is None:
            object.__setattr__(self, "dead_letters", f"{self.name}-dead-letters")
        check_topic(self.predictions, f"pipeline {self.name}: predictions")
        check_topic(self.dead_letters or "", f"pipeline {self.name}: dead_letters")
        for topic, setting in ((self.models_topic, "models_topic"), (self.features_topic, "features_topic")):
            if topic is not None:
                check_topic(topic, f"pipeline {self.name}: {setting}")
        topics = [self.events.topic, *self.events.source_topics, self.predictions, self.dead_letters]
        check_format(self.output_format, f"pipeline {self.name}: output_format")
        check_sessions(self)
        check_lookups(self.lookups, self.events, f"pipeline {self.name}")
        object.__setattr__(self, "lookups", tuple(self.lookups))
        further = [self.features_topic, self.sessions_topic, self.models_topic, self.models_status_topic]
        further += [self.shadow_topic, *table_topics(self.lookups)]
        topics += [each for each in (*further, self.requests_topic, *self.reply_topics) if each]
        if len(set(topics)) < len(topics):
            raise DefinitionError(
                f"pipeline {self.name}: events, predictions, dead_letters and what else it has need different topics; "
                f"they are {', '.join(map(str, topics))}"
            )
        if not isinstance(self.include, list | tuple):
            raise DefinitionError(f"pipeline {self.name}: include is {self.include!r}; write include=('page_id',)")
        object.__setattr__(self, "include", tuple(self.include))
        for name in self.include:
            self.events.field(name, f"pipeline {self.name}: include")
        try:
            object.__setattr__(self, "outputs", Outputs.of(self.prediction))
        except ValueError as error:
            raise DefinitionError(f"pipeline {self.name}: prediction {error}") from error
        if isinstance(self.prediction, list):
            object.__setattr__(self, "prediction", tuple(self.prediction))
        if not isinstance(self.include_features, bool):
            raise DefinitionError(
                f"pipeline {self.name}: include_features is {self.include_features!r}; write True or False"
            )
        taken = {self.events.entity, self.events.id, "scored_at", *self.include}
        if self.include_features:
            if "features" in taken:
                raise DefinitionError(
                    f"pipeline {self.name}: include_features writes a field 'features', which the event's field "
                    "'features' already takes; leave one of them out"
                )
            taken.add("features")
        for name in self.outputs.names:
            if name in taken:
                raise DefinitionError(f"pipeline {self.name}: prediction {name!r} is already a field of the output")
        self._check_features_topic()
        check_count(self.max_events_per_entity, f"pipeline {self.name}: max_events_per_entity", 1)
        check_count(self.max_record_bytes, f"pipeline {self.name}: max_record_bytes", 1)
        if self.lateness is not None:
            parse_duration(self.lateness, f"pipeline {self.name}: lateness")
        object.__setattr__(self, "fallbacks", tuple(self.fallbacks))
        check_fallbacks(self.fallbacks, self.model.version, self.outputs, f"pipeline {self.name}: fallbacks")
        check_budget(self.model_budget_ms, f"pipeline {self.name}: model_budget_ms")
        whole = self.events.schema
        fields = (*whole, *(each for found in whole for each in found.elements))
        fields += tuple(one for each in self.lookups for one in each.event_fields())
        object.__setattr__(self, "fields", {found.name: found for found in fields})
        self._name_features()
        read = [name for feature in self.features for name in feature.reads]
        check_defaults(self.lookups, read, f"pipeline {self.name}")
        if self.requests is not None:
            check_requests(self, self.requests, f"pipeline {self.name}: requests")

    def _check_features_topic(self) -> None:
        """Say how feature vectors are written, where there is a topic of them."""
        if self.features_topic is None:
            return
        if "features" in self.identity_fields:
            raise DefinitionError(
                f"pipeline {self.name}: features_topic has a field 'features', which the event's field 'features' "
                "already takes; rename that with Events(fields=...)"
            )
        if self.features_format is None:
            form = self.output_format
            if not isinstance(form, Json) and not form.framed:
                raise DefinitionError(
                    f"pipeline {self.name}: output_format has a schema of predictions; write the one of features_topic "
                    f"as features_format={type(form).__name__}(...), or Json()"
                )
            return
        check_format(self.features_format, f"pipeline {self.name}: features_format")

    def _name_features(self) -> None:
        features = [each.elements(self.fields) if isinstance(each, Feature) else (each,) for each in self.features]
        object.__setattr__(self, "features", tuple(one for each in features for one in each))
        if not self.features:
            raise DefinitionError(
                f"pipeline {self.name}: features is empty; write at least one, like Count(window='1h')"
            )
        owners: dict[str, Feature] = {}
        for feature in self.features:
            if not isinstance(feature, Feature):
                raise DefinitionError(
                    f"pipeline {self.name}: {feature!r} is not a feature; write e.g. Count(window='1h')"
                )
            feature.check(self.fields)
            for name in feature.names(self.fields):
                if not name.isidentifier():
                    raise DefinitionError(f"pipeline {self.name}: feature name {name!r} is not an identifier")
                if name in owners:
                    raise DefinitionError(
                        f"pipeline {self.name}: two features are called {name}: {owners[name]!r} and {feature!r}"
                    )
                owners[name] = feature
        object.__setattr__(self, "feature_names", tuple(owners))

    @property
    def models_status_topic(self) -> str | None:
        """Where a running job answers what it was told by `models_topic`."""
        return self.models_topic and f"{self.models_topic}-status"

    @property
    def shadow_topic(self) -> str | None:
        """Where the predictions of shadows go, which nobody is served with; None where there can be none."""
        return self.models_topic and f"{self.predictions}-shadow"

    @property
    def sessions_topic(self) -> str | None:
        """Where sessions go that are over; None where nobody follows them."""
        return None if self.sessions is None else self.sessions.topic or f"{self.name}-sessions"

    @property
    def identity_fields(self) -> tuple[str, ...]:
        """The fields that say which event something is of: id, entity and time."""
        return tuple(dict.fromkeys((self.events.id, self.events.entity, self.events.time)))

    @property
    def requests_topic(self) -> str | None:
        """Where scores are asked for; None where nobody can."""
        return None if self.requests is None else self.requests.topic or f"{self.name}-requests"

    @property
    def reply_topics(self) -> list[str]:
        """Where requests are answered: the topic of those that name none, and those that they may name."""
        if self.requests is None:
            return []
        return [self.requests.replies or f"{self.name}-replies", *self.requests.reply_topics]

    @property
    def columns_used(self) -> tuple[str, ...]:
        """The event fields anything reads, in the event's order."""
        used = {self.events.entity, self.events.time, self.events.id, *self.include}
        used.update(name for feature in self.features for name in feature.reads)
        used.update(each.event_field for each in self.lookups)
        used = {split_element(name)[0] for name in used}
        return tuple(one.name for one in self.events.schema if one.name in used)

    @property
    def blocks(self) -> dict[str, Block]:
        """Features that are the numbers of a vector or sequence, by what they are called together: neighbours."""
        found, run, of = dict[str, Block](), list[str](), ""
        for feature in self.features:
            part = feature.block(self.fields)
            if part is None or (part.name, part.place) != (of, len(run)):
                run, of = [], "" if part is None else part.name
            if part is not None and part.place == len(run):
                run.append(feature.name)
                if len(run) == part.size:
                    found[part.name] = Block.of(run, part.events)
        return found

    @property
    def longest_window_ms(self) -> int:
        """The longest window; 0 without aggregates."""
        return max((aggregate.window_ms for aggregate in aggregates_of(tuple(self.features))), default=0)

    @property
    def lateness_ms(self) -> int:
        """How late an event may be and still see its whole window."""
        return self.longest_window_ms if self.lateness is None else parse_duration(self.lateness, "lateness")

    @property
    def retention_ms(self) -> int:
        """An entity is forgotten when its partition's clock has gone on by this without an event of it."""
        return self.longest_window_ms + self.lateness_ms

    @property
    def exact_retention_ms(self) -> int:
        """Events are kept for exact windows this long behind the entity's newest: longest exact window + lateness."""
        exact = (a.window_ms for a in aggregates_of(tuple(self.features)) if a.tile_ms is None)
        return max(exact, default=0) + self.lateness_ms

    def tile_retention_ms(self, tile_ms: int) -> int:
        """Tiles of this length are kept this long: the longest window that uses them + lateness."""
        tiled = (a.window_ms for a in aggregates_of(tuple(self.features)) if a.tile_ms == tile_ms)
        return max(tiled, default=0) + self.lateness_ms

    def feature_set_hash(self, names: Sequence[str] | None = None) -> str:
        """sha256 (hex) over the definitions of features and the types of the fields they read.

        Args:
            names: The features, in the order of a model's inputs; None means all.

        Raises:
            DefinitionError: If a name is not a feature of this pipeline.
        """
        owners = {name: feature for feature in self.features for name in feature.names(self.fields)}
        chosen = self.feature_names if names is None else tuple(names)
        for name in chosen:
            if name not in owners:
                raise DefinitionError(f"pipeline {self.name} has no feature {name!r}; it has {', '.join(owners)}")
        read = sorted({column for name in chosen for column in owners[name].reads})
        canonical: dict[str, Any] = {
            "features": [[name, owners[name].definition()] for name in chosen],
            "fields": [self.fields[column].definition() for column in read],
        }
        defaults = {column: self.fields[column].default for column in read if self.fields[column].default is not None}
        if defaults:
            canonical["defaults"] = defaults
        lookups = lookups_read(self.lookups, read)
        if lookups:
            canonical["lookups"] = lookups
        text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """The pipeline as plain data: features with their meaning, and what is kept per entity (bytes, tiles)."""
        from udfs.pipeline_description import describe_pipeline

        return describe_pipeline(self)
