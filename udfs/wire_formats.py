"""Every byte format in and out: JSON events in, JSON predictions and their receipts out, dead letters with a reason.

Bytes enter here and leave here; in between there are only decoded events and arrays.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from udfs.events import MAX_EVENT_TIME_MS, EventField
from udfs.pipeline import Pipeline

REASONS = (
    "null_value",
    "too_large",
    "not_json",
    "missing_field",
    "unknown_category",
    "wrong_type",
    "invalid_time",
    "key_mismatch",
    "model_failed",
)
"""Why a record is a dead letter."""

HEADER = "millrace-"
_HEADER_SEPARATOR, _PAIR_SEPARATOR = "\x1f", "\x1e"
_TEXT_BYTES_MAX = 300


class RecordBatch(NamedTuple):
    """Raw Kafka records of one shard in order of arrival; five lists of n."""

    keys: list[bytes | None]
    values: list[bytes | None]
    partitions: list[int]
    offsets: list[int]
    record_times_ms: list[int]


class OutputRecord(NamedTuple):
    """A Kafka record to write; `headers` is text in the form of `header_text`."""

    topic: str
    key: bytes
    value: bytes
    headers: str


class Refused(NamedTuple):
    """Why a record cannot be scored: a reason of `REASONS`, and what exactly was wrong, for people."""

    reason: str
    detail: str


def header_text(headers: dict[str, str]) -> str:
    """Headers as one text, taken apart again in the JVM (`STR_TO_MAP`): a map would cross at several times the cost."""
    return _PAIR_SEPARATOR.join(f"{HEADER}{name}{_HEADER_SEPARATOR}{_clean(text)}" for name, text in headers.items())


def _clean(text: str) -> str:
    """The text without control characters: the separators among them, and nothing that disturbs a terminal."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else " " for character in text)


class EventDecoder:
    """Raw records to typed events of one pipeline.

    Args:
        pipeline: Says the fields, the entity, the time and the largest record.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        events = pipeline.events
        self._max_bytes = pipeline.max_record_bytes
        self._entity, self._time = events.entity, events.time
        self._times_ms = events.times_ms
        self._struct = msgspec.defstruct("Event", [_struct_field(one) for one in events.schema], gc=False, kw_only=True)
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(self._struct).decode
        one_ms = {"s": 1e-3, "ms": 1, "us": 1_000, "ns": 1_000_000}[events.time_unit]
        self._last_time = MAX_EVENT_TIME_MS * one_ms

    def decode(self, key: bytes | None, value: bytes | None) -> Any:
        """One record as an event object, or `Refused`."""
        if value is None:
            return Refused("null_value", "the record has no value")
        if len(value) > self._max_bytes:
            return Refused("too_large", f"{len(value)} bytes; the limit is {self._max_bytes}")
        try:
            event = self._decode(value)
        except msgspec.ValidationError as error:
            return Refused(_validation_reason(str(error)), str(error))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Refused("not_json", str(error))
        time = getattr(event, self._time)
        if not 0 <= time <= self._last_time:
            return Refused("invalid_time", f"{self._time} is {time}; it must lie between 1970 and the year 9999")
        entity = str(getattr(event, self._entity))
        if key is None or key != entity.encode():
            shown = "missing" if key is None else repr(key[:80])
            return Refused("key_mismatch", f"the key is {shown}, {self._entity} is {entity[:80]!r}")
        return event


def _struct_field(one: EventField) -> Any:
    kinds: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool}
    kind = kinds[one.kind] if one.categories is None else Literal[one.categories]
    return (one.name, kind | None, None) if one.nullable else (one.name, kind)


def _validation_reason(message: str) -> str:
    if message.startswith("Object missing required field"):
        return "missing_field"
    return "unknown_category" if message.startswith("Invalid enum value") else "wrong_type"


class PredictionEncoder:
    """Predictions and dead letters of one pipeline to records.

    Args:
        pipeline: Says the topics and the fields of a prediction.
        model: What the receipt says of the model: `name`, `version`, `sha256`.
        feature_set_hash: sha256 over the definitions of the model's features.
    """

    def __init__(self, pipeline: Pipeline, *, model: dict[str, str], feature_set_hash: str) -> None:
        events = pipeline.events
        copied = tuple(dict.fromkeys((events.id, events.entity, *pipeline.include)))
        types = {one.name: Any for one in events.schema}
        features = [("features", dict[str, float])] if pipeline.include_features else []
        self._feature_names = pipeline.feature_names
        self._prediction: Any = msgspec.defstruct(
            "Prediction",
            [*((name, types[name]) for name in copied), (pipeline.prediction, float), ("scored_at", int), *features],
            gc=False,
        )
        self._copied, self._entity = copied, events.entity
        self._encode = msgspec.json.Encoder().encode
        self._predictions, self._dead_letters = pipeline.predictions, str(pipeline.dead_letters)
        self._events_topic, self._pipeline = events.topic, pipeline.name
        self._max_bytes = pipeline.max_record_bytes
        self._receipt = (
            header_text(
                {
                    "pipeline": pipeline.name,
                    "model": model["name"],
                    "model-version": model["version"],
                    "model-sha256": model["sha256"],
                    "feature-set": feature_set_hash,
                    "topic": events.topic,
                }
            )
            + f"{_PAIR_SEPARATOR}{HEADER}partition{_HEADER_SEPARATOR}"
        )
        self._offset = f"{_PAIR_SEPARATOR}{HEADER}offset{_HEADER_SEPARATOR}"
        self._event_time = f"{_PAIR_SEPARATOR}{HEADER}event-time{_HEADER_SEPARATOR}"
        self._flags = f"{_PAIR_SEPARATOR}{HEADER}flags{_HEADER_SEPARATOR}"

    def prediction(
        self,
        event: Any,
        score: float,
        *,
        key: bytes,
        scored_at_ms: int,
        partition: int,
        offset: int,
        event_time_ms: int,
        flags: str,
        features: Sequence[float] | None = None,
    ) -> OutputRecord:
        """The prediction of one event, with its receipt; `features` are for pipelines that include them."""
        headers = f"{self._receipt}{partition}{self._offset}{offset}{self._event_time}{event_time_ms}"
        if flags:
            headers = f"{headers}{self._flags}{flags}"
        values = [*[getattr(event, name) for name in self._copied], score, scored_at_ms]
        if features is not None:
            values.append(dict(zip(self._feature_names, features, strict=True)))  # NaN becomes null
        value = self._encode(self._prediction(*values))
        return OutputRecord(self._predictions, key, value, headers)

    def dead_letter(
        self, key: bytes | None, value: bytes | None, refused: Refused, *, stage: str, partition: int, offset: int
    ) -> OutputRecord:
        """The original bytes, with headers that say why and where from; cut when they are over the size limit."""
        original = b"" if value is None else value
        headers = {
            "pipeline": self._pipeline,
            "reason": refused.reason,
            "stage": stage,
            "topic": self._events_topic,
            "partition": str(partition),
            "offset": str(offset),
            "exception": refused.detail[:_TEXT_BYTES_MAX],
        }
        if len(original) > self._max_bytes:
            headers["cut-from-bytes"] = str(len(original))
            original = original[: self._max_bytes]
        return OutputRecord(self._dead_letters, key or b"", original, header_text(headers))
