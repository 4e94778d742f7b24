"""Why an event got its score: the events of its entity that its features were made of, and the score once more.

The events of the entity's shard go through the engine, as they did in the job; the oracle says which of them each
feature used.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from confluent_kafka import Message

from flink_jobs.committed_reader import receipt
from flink_jobs.decoding import decode_message, event_decoder, prediction_reader
from flink_jobs.event_lookup import CLOCKS_APART_MS, Found, Looked, find_event
from flink_jobs.job_beginning import JobBeginning, said_beginning
from flink_jobs.kafka_admin import offsets_for_time, topic_starts
from flink_jobs.receipt_models import ReceiptModel, ReceiptModels
from flink_jobs.settings import Settings
from flink_jobs.topic_scan import scan
from flink_jobs.verify_command import value_of
from flink_jobs.verify_job import VerifyRequest, beginning_of, own_folder, read_answers
from models.onnx_model import OnnxModel
from udfs.aggregates import Aggregate, Ratio
from udfs.entity_state import FAILED, ShardState
from udfs.event_keys import shard_text
from udfs.key_places import key_shards
from udfs.naive_features import Arrived, NaiveFeatures
from udfs.pipeline import Pipeline
from udfs.plan import FeaturePlan
from udfs.scoring import FLAG_NAMES, predict_each
from udfs.wire_formats import NOT_TRIED_AGAIN, Refused

Place = tuple[int, int]


@dataclass(frozen=True)
class UsedEvent:
    """An event that a feature was made of.

    Attributes:
        place: Partition and offset.
        time_ms: Its event time.
        fields: Its fields.
        features: Names of the features that used it.
    """

    place: Place
    time_ms: int
    fields: dict[str, Any]
    features: tuple[str, ...]


@dataclass(frozen=True)
class Computed:
    """What comes out for an event now.

    Attributes:
        features: By name.
        flags: As a receipt has them.
        events: Those that the features were made of, in order of arrival; the event itself is the last.
        read_from: First offset that was read.
        read: Records read.
        failed: Whether an aggregate of the user's own raised, whose feature is NaN then.
    """

    features: dict[str, float]
    flags: str
    events: list[UsedEvent]
    read_from: int
    read: int
    failed: bool = False


@dataclass(frozen=True)
class Explanation:
    """One event explained.

    Attributes:
        found: The event and its answer.
        refused: Why the record is no event, if it is none.
        computed: What comes out now; None for a record that is no event.
        score: The outputs now, by name; None if there are none.
        model_problem: Why the receipt's model cannot score it, if so.
        differences: What differs from what was served, in words; () if nothing does or nothing was served.
        beginning: Where the job is taken to have begun; None if that did not matter.
    """

    found: Found
    refused: Refused | None
    computed: Computed | None
    score: dict[str, Any] | None
    model_problem: str | None
    differences: tuple[str, ...]
    beginning: JobBeginning | None

    @property
    def receipt(self) -> dict[str, str]:
        """The answer's receipt; {} if there is no answer."""
        return {} if self.found.answer is None else receipt(self.found.answer)


def explain(
    pipeline: Pipeline, settings: Settings, reference: str, job_began: str | None, looked: Looked
) -> Explanation:
    """Explain one event.

    The shard's events from one retention before the event on are enough, unless clocks were wild: if what comes out
    differs from what was served, everything since the job began is read.

    Args:
        pipeline: Whose.
        settings: Where Kafka is, and the number of shards of the job.
        reference: See `find_event`.
        job_began: What `--job-began` says; None asks the receipts, if need be.
        looked: See `Looked`.

    Raises:
        CommandError: There is no such event.
    """
    found = find_event(pipeline, settings, reference, looked)
    event = decode_message(event_decoder(pipeline, settings), found.record)
    if event is None:
        event = Refused("null_value", "the record has no value, and the pipeline ignores such records")
    if isinstance(event, Refused):
        told = {} if found.answer is None else receipt(found.answer)
        differs = () if told.get("reason") in (None, event.reason) else (f"served: {told['reason']}",)
        if found.answer is not None and "reason" not in told:
            differs = ("a prediction was served",)
        return Explanation(found, event, None, None, None, differs, None)
    events = pipeline.events
    time_ms = int(events.times_ms([getattr(event, events.time)])[0])
    place = settings.bootstrap, events.topic, settings.kafka_properties
    kept = topic_starts(*place)
    said = None if job_began is None else said_beginning(*place, job_began, kept)
    first = (said.offsets if said else kept)[found.place[0]]
    near_ms = min(time_ms, found.record.timestamp()[1]) - pipeline.retention_ms - CLOCKS_APART_MS
    near = first
    if near_ms > 0:
        near = offsets_for_time(place[0], place[1], near_ms, place[2])[found.place[0]]
    explained = _explained(pipeline, settings, found, max(first, min(near, found.place[1])), said, looked)
    if not explained.differences or (said is not None and near <= first):
        return explained
    if said is None:
        request = VerifyRequest(pipeline, settings)
        with own_folder(settings) as folder:
            answers = read_answers(request, folder, lambda text, share: looked(text, int(share * 1_000), 1_000))
            said = beginning_of(request, answers)
    return _explained(pipeline, settings, found, said.offsets[found.place[0]], said, looked)


def _explained(
    pipeline: Pipeline, settings: Settings, found: Found, begin: int, said: JobBeginning | None, looked: Looked
) -> Explanation:
    computed = compute(pipeline, settings, found, begin, looked)
    told = {} if found.answer is None else receipt(found.answer)
    named = ReceiptModel.of(told)
    if "reason" in told or found.answer is None:  # it does not say by which model
        named = _own(pipeline)
    model: OnnxModel | str = "it killed its worker on this event"
    if not named.by_model:
        model = f"the fallback {named.fallback} scored it, in place of {named.model}/{named.version}"
    elif told.get("reason") != "model_crashed":
        model = ReceiptModels(pipeline).model(named)
    if isinstance(model, str):
        differences = _feature_differences(pipeline, found, computed)
        return Explanation(found, None, computed, None, model, differences, said)
    row = np.array([list(computed.features.values())])
    scores, failed = predict_each(model, row, pipeline.outputs)
    score = None if failed else pipeline.outputs.values(scores)
    differences = () if found.answer is None else _differences(pipeline, found, computed, score, told)
    problem = failed[0].detail if failed else None
    return Explanation(found, None, computed, score, problem, differences, said)


def _own(pipeline: Pipeline) -> ReceiptModel:
    """What a receipt of the pipeline's own model would say."""
    from flink_jobs.preflight import check_model

    manifest = check_model(pipeline).manifest
    return ReceiptModel(
        pipeline.events.topic, manifest.name, str(manifest.version), manifest.sha256, manifest.feature_set_hash
    )


def compute(pipeline: Pipeline, settings: Settings, found: Found, begin: int, looked: Looked) -> Computed:
    """The features of an event, from the events of its shard in its partition, and what they were made of.

    Args:
        pipeline: Whose features.
        settings: Where Kafka is, and the number of shards.
        found: The event.
        begin: First offset to read.
        looked: See `Looked`.
    """
    shard = _Shard(pipeline, settings.shards, found)
    partition, offset = found.place
    spans = {partition: (begin, offset + 1)}
    read = 0
    for messages in scan(settings.bootstrap, settings.kafka_properties, pipeline.events.topic, spans):
        shard.take(messages)
        read += len(messages)
        looked(f"reading {pipeline.events.topic}/{partition}", read, offset + 1 - begin)
    features, flags = shard.latest
    names = pipeline.feature_names
    given = dict(zip(names, features, strict=True))
    return Computed(given, FLAG_NAMES[flags & ~FAILED], shard.used(), begin, read, bool(flags & FAILED))


class _Shard:
    """The events of one shard, through the engine; those of one entity through the oracle too."""

    def __init__(self, pipeline: Pipeline, shards: int, found: Found) -> None:
        self._pipeline, self._shards, self._partition = pipeline, shards, found.place[0]
        self._plan, self._decoder = FeaturePlan.build(pipeline), event_decoder(pipeline)
        self._state, self._oracle = ShardState(self._plan, log_changes=False), NaiveFeatures(pipeline)
        self._key = _bytes(found.record.key()) or b""
        self._key_text, self._shard = shard_text(pipeline.events, self._key), self._shard_of(self._key)
        self._known: dict[bytes, bool] = {}
        self._places: dict[int, Place] = {}
        self._entity: Any = None
        self.latest: tuple[list[float], int] = [], 0

    def take(self, messages: list[Message]) -> None:
        """Take in the records that are of the shard."""
        events, record_times_ms = [], []
        for message in messages:
            key: Any = message.key()
            if key is None or not self._is_mine(key):
                continue
            event = decode_message(self._decoder, message)
            if event is None or isinstance(event, Refused):
                continue
            events.append(event)
            record_times_ms.append(message.timestamp()[1])
            if shard_text(self._pipeline.events, key) == self._key_text:
                self._entity = getattr(event, self._pipeline.events.entity)
                self._places[id(event)] = self._partition, int(message.offset() or 0)
                self._oracle.advance(event, record_times_ms[-1], self._partition, wanted=False)
            else:
                self._oracle.pass_by(self._oracle.time_ms(event), record_times_ms[-1], self._partition)
        if not events:
            return
        names = [str(getattr(event, self._pipeline.events.entity)) for event in events]
        times_ms, columns, masks, direct = self._plan.columnise(events)
        partitions = np.full(len(events), self._partition, np.int32)
        advanced = self._state.advance(
            names, times_ms, np.array(record_times_ms, np.int64), partitions, columns, masks, direct
        )
        self.latest = advanced.features[-1].tolist(), int(advanced.flags[-1])

    def used(self) -> list[UsedEvent]:
        """The events that the features of the last event were made of."""
        by_event: dict[int, tuple[Arrived, list[str]]] = {}
        latest = self._oracle.arrived[self._entity][-1]
        by_event[id(latest.event)] = latest, []
        for feature in self._pipeline.features:
            parts = (feature.numerator, feature.denominator) if isinstance(feature, Ratio) else (feature,)
            names = feature.names(self._pipeline.fields)
            for part in parts:
                inside = self._oracle.window(part, self._entity) if isinstance(part, Aggregate) else [latest]
                for row in inside:
                    known = by_event.setdefault(id(row.event), (row, []))[1]
                    known.extend(name for name in names if name not in known)
        fields = [one.name for one in self._pipeline.events.schema]
        used = [
            UsedEvent(
                self._places[number], row.time_ms, {name: getattr(row.event, name) for name in fields}, tuple(names)
            )
            for number, (row, names) in by_event.items()
        ]
        return sorted(used, key=lambda each: each.place)

    def _is_mine(self, key: bytes) -> bool:
        if key not in self._known:
            self._known[key] = self._shard_of(key) == self._shard
        return self._known[key]

    def _shard_of(self, key: bytes) -> int:
        return int(key_shards([shard_text(self._pipeline.events, key)], self._shards)[0])


def _bytes(content: Any) -> bytes | None:
    return None if content is None else bytes(content)


def _differences(
    pipeline: Pipeline, found: Found, computed: Computed, score: dict[str, Any] | None, told: Mapping[str, str]
) -> tuple[str, ...]:
    """What of the answer is not what comes out now."""
    assert found.answer is not None
    if told.get("reason") in NOT_TRIED_AGAIN or (told.get("reason") == "feature_failed" and computed.failed):
        return ()
    if "reason" in told:
        same = told["reason"] == "model_failed" and score is None
        return () if same else (f"a dead letter ({told['reason']}) was served, a prediction comes out now",)
    served = value_of(found.answer, prediction_reader(pipeline))
    told_outputs = served if isinstance(served, dict) else {}
    differences = []
    warming = "warming" in told  # its windows were not full, as all are here: its score may be another one
    for name in () if warming else pipeline.outputs.names:
        was, now = told_outputs.get(name), None if score is None else score[name]
        if was != now:
            differences.append(f"{name} was {was!r:.200}, is {now!r:.200}")
    flags = ",".join(flag for flag in told.get("flags", "").split(",") if flag != "warming")
    if flags != computed.flags:
        differences.append(f"flags were {flags!r}, are {computed.flags!r}")
    incomplete = told.get("warming", "").split(",")
    return (*differences, *_feature_differences(pipeline, found, computed, but=incomplete))


def _feature_differences(
    pipeline: Pipeline, found: Found, computed: Computed, *, but: Collection[str] = ()
) -> tuple[str, ...]:
    served = value_of(found.answer, prediction_reader(pipeline)) if found.answer is not None else None
    told = served.get("features") if isinstance(served, dict) and pipeline.include_features else None
    if not isinstance(told, dict):
        return ()
    now = {name: value if np.isfinite(value) else None for name, value in computed.features.items()}
    differing = [name for name, value in now.items() if told.get(name) != value and name not in but]
    return tuple(f"{name} was {told.get(name)!r}, is {now[name]!r}" for name in differing)
