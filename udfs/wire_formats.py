"""Every byte format in and out: JSON events in, JSON predictions and their receipts out, dead letters with a reason.

Bytes enter here and leave here; in between there are only decoded events and arrays.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from udfs.byte_lines import Lines
from udfs.events import MAX_EVENT_TIME_MS, EventField
from udfs.output_batch import OutputGroup
from udfs.pipeline import Pipeline
from udfs.record_batch import RecordBatch

REASONS = (
    "null_value",
    "too_large",
    "not_json",
    "missing_field",
    "unknown_category",
    "wrong_type",
    "invalid_time",
    "key_mismatch",
    "feature_failed",
    "model_failed",
    "not_encodable",
    "output_too_large",
    "late",
)
"""Why a record is a dead letter; `late` with the SQL engine only."""

AFTER_DECODING = ("feature_failed", "model_failed", "not_encodable", "output_too_large")
"""Reasons of events that were decoded, and so are in the state."""
UNWRITTEN = ("not_encodable", "output_too_large")
"""Of an event that was scored, and whose prediction could not be written."""

ENVELOPE_BYTES = 65_536
"""What a record of the job may be larger than the pipeline's largest record: headers, and a key beside the value."""
_HEADERS_BYTES = 8_192
_LETTER_TEXTS = ("reason", "stage", "exception", "cut-from-bytes", "key-cut-from-bytes", "null")

HEADER = "millrace-"
_TEXT_BYTES_MAX = 300
_FEWEST_TOGETHER = 12
"""Below this many records, decoding them one by one takes less than preparing to decode them together."""
_OPEN, _CLOSE = ord("{"), ord("}")


class Refused(NamedTuple):
    """Why a record cannot be scored: a reason of `REASONS`, and what exactly was wrong, for people."""

    reason: str
    detail: str


class OutputTooLargeError(ValueError):
    """A prediction is larger than what is sent to Kafka."""


class DecodedBatch(NamedTuple):
    """A batch of records, decoded.

    Attributes:
        events: n events, objects with the event's fields.
        entities: Their n entities.
        rows: (n,) int64: which record each event is; None when all records are events.
        refused: The other records by row.
    """

    events: list[Any]
    entities: list[str]
    rows: npt.NDArray[np.int64] | None
    refused: dict[int, Refused]


def _headers(texts: Mapping[str, str]) -> dict[str, str]:
    return {f"{HEADER}{name}": printable(text) for name, text in texts.items()}


def printable(text: str) -> str:
    """The text without control characters: nothing that disturbs a terminal."""
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
        self._struct = msgspec.defstruct("Event", [struct_field(one) for one in events.schema], gc=False, kw_only=True)
        decoder = msgspec.json.Decoder(self._struct)
        self._decode: Callable[[bytes], Any] = decoder.decode
        self._decode_lines: Callable[[bytes], list[Any]] = decoder.decode_lines
        self._entity_of, self._time_of = operator.attrgetter(self._entity), operator.attrgetter(self._time)
        one_ms = {"s": 1e-3, "ms": 1, "us": 1_000, "ns": 1_000_000}[events.time_unit]
        self._last_time = MAX_EVENT_TIME_MS * one_ms

    def decode_batch(self, records: RecordBatch) -> DecodedBatch:
        """All records of a batch: together where that is safe, and one by one where one of them is broken."""
        if len(records) >= _FEWEST_TOGETHER:
            events = self._decode_together(records.values)
            if events is not None:
                entities = list(map(str, map(self._entity_of, events)))
                times = list(map(self._time_of, events))
                if min(times) >= 0 and max(times) <= self._last_time and _are_keys(entities, records.keys):
                    return DecodedBatch(events, entities, None, {})
        return self._decode_one_by_one(records)

    def _decode_together(self, values: Lines) -> list[Any] | None:
        """The events of records that each hold one JSON object and nothing else; None if that is not certain.

        All are decoded as one text, in which each has a line. A closing and an opening brace with only a newline
        between them can stand next to each other outside of all values alone; so where every record begins and ends
        with its brace, no value reaches over the end of its record, and n values in n records are one in each.
        """
        lengths, content = values.lengths, values.content
        if lengths.min() < 2 or lengths.max() > self._max_bytes:
            return None
        ends, letters = values.ends(), np.frombuffer(content, np.uint8)
        if not ((letters[ends - 2] == _CLOSE).all() and (letters[ends - 1 - lengths] == _OPEN).all()):
            return None
        try:
            events = self._decode_lines(content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return events if len(events) == len(values) else None

    def _decode_one_by_one(self, records: RecordBatch) -> DecodedBatch:
        events, entities, rows = [], [], []
        refused: dict[int, Refused] = {}
        for row, (key, value) in enumerate(zip(records.keys.tolist(), records.values.tolist(), strict=True)):
            event = self.decode(key, value)
            if isinstance(event, Refused):
                refused[row] = event
                continue
            events.append(event)
            entities.append(str(self._entity_of(event)))
            rows.append(row)
        return DecodedBatch(events, entities, np.array(rows, np.int64) if refused else None, refused)

    def decode(self, key: bytes | None, value: bytes | None) -> Any:
        """One record as an event object, or `Refused`."""
        if value is None:
            return Refused("null_value", "the record has no value")
        if len(value) > self._max_bytes:
            return Refused("too_large", f"{len(value)} bytes; the limit is {self._max_bytes}")
        event = decoded_json(value, self._decode)
        if isinstance(event, Refused):
            return event
        time = getattr(event, self._time)
        if not 0 <= time <= self._last_time:
            return Refused("invalid_time", f"{self._time} is {time}; it must lie between 1970 and the year 9999")
        entity = str(getattr(event, self._entity))
        if key is None or key != entity.encode():
            shown = "missing" if key is None else repr(key[:80])
            return Refused("key_mismatch", f"the key is {shown}, {self._entity} is {entity[:80]!r}")
        return event


def _are_keys(entities: list[str], keys: Lines) -> bool:
    """Whether each entity is the key of its record; False if that is not certain."""
    text = "\n".join(entities)
    return text.isascii() and list(map(len, entities)) == keys.lengths.tolist() and f"{text}\n".encode() == keys.content


def struct_field(one: EventField) -> Any:
    """A field of an event as one of a struct: name, type, and None as default where it may be absent."""
    kinds: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool}
    kind = kinds[one.kind] if one.categories is None else Literal[one.categories]
    return (one.name, kind | None, None) if one.nullable else (one.name, kind)


def decoded_json(value: bytes, decode: Callable[[bytes], Any]) -> Any:
    """What a JSON decoder makes of a value, or `Refused`."""
    try:
        return decode(value)
    except msgspec.ValidationError as error:
        return Refused(_validation_reason(str(error)), str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Refused("not_json", str(error))


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
        fields: list[Any] = [*((name, Any) for name in copied), (pipeline.prediction, float), ("scored_at", int)]
        self._features: Any = None
        if pipeline.include_features:
            renamed = {f"feature_{place}": name for place, name in enumerate(pipeline.feature_names)}
            self._features = msgspec.defstruct("Features", [(one, float) for one in renamed], rename=renamed, gc=False)
            fields.append(("features", self._features))
        self._prediction: Any = msgspec.defstruct("Prediction", fields, gc=False)
        self._copied = [operator.attrgetter(name) for name in copied]
        self._encode_lines = msgspec.json.Encoder().encode_lines
        self._max_bytes = pipeline.max_record_bytes
        self._most_sent = pipeline.max_record_bytes + ENVELOPE_BYTES - _HEADERS_BYTES
        receipt = {
            "pipeline": pipeline.name,
            "model": model["name"],
            "model-version": model["version"],
            "model-sha256": model["sha256"],
            "feature-set": feature_set_hash,
            "topic": events.topic,
        }
        place = [f"{HEADER}{name}" for name in ("partition", "offset")]
        numbers, flags = [*place, f"{HEADER}event-time"], [f"{HEADER}flags"]
        self._group = OutputGroup(pipeline.predictions, _headers(receipt), numbers)
        self._flagged_group = OutputGroup(pipeline.predictions, _headers(receipt), numbers, flags)
        warming = [*flags, f"{HEADER}warming"]
        self._warming_group = OutputGroup(pipeline.predictions, _headers(receipt), numbers, warming)
        self.dead_letters = DeadLetters(pipeline, events.topic).pack

    def predictions(
        self,
        events: Sequence[Any],
        scores: npt.NDArray[np.float64],
        *,
        keys: Lines,
        scored_at_ms: int,
        partitions: npt.NDArray[np.int32],
        offsets: npt.NDArray[np.int64],
        event_times_ms: npt.NDArray[np.int64],
        flags: Sequence[str] | None = None,
        warming: Sequence[str] | None = None,
        features: npt.NDArray[np.float64] | None = None,
    ) -> bytes:
        """The predictions of n events with their receipts, as a group of output records.

        Args:
            events: n events.
            scores: (n,) float64, finite.
            keys: n keys of their records.
            scored_at_ms: When, in ms since 1970.
            partitions: (n,) int32.
            offsets: (n,) int64.
            event_times_ms: (n,) int64.
            flags: What the receipt says is special about each event; None if nothing is about any.
            warming: Features that are not complete yet, of each event; None if all are of all. Only with `flags`.
            features: (n, F) float64, for pipelines that include them; NaN becomes null.

        Raises:
            OutputTooLargeError: A prediction is larger than what is sent to Kafka; the sink would fail on it for ever.
        """
        columns: list[Iterable[Any]] = [*(map(copy, events) for copy in self._copied), scores.tolist()]
        columns.append(repeat(scored_at_ms, len(events)))
        if self._features is not None and features is not None:
            columns.append(map(self._features, *features.T.tolist()))
        values = Lines.split(self._encode_lines(list(map(self._prediction, *columns))))
        numbers = (partitions, offsets, event_times_ms)
        texts = [Lines.of([text.encode() or None for text in column]) for column in (flags, warming) if column]
        largest = int(sum((lines.lengths for lines in (values, *texts)), keys.lengths).max(initial=0))
        if largest > self._most_sent:
            raise OutputTooLargeError(f"the prediction has {largest} bytes; the limit is {self._most_sent}")
        if flags is None:
            return self._group.pack(keys, values, numbers)
        group = self._flagged_group if warming is None else self._warming_group
        return group.pack(keys, values, numbers, texts)


class DeadLetters:
    """Refused records of one topic to records.

    Args:
        pipeline: Says where they go, and the largest record.
        topic: Where the refused records are from.
    """

    def __init__(self, pipeline: Pipeline, topic: str) -> None:
        self._max_bytes = pipeline.max_record_bytes
        self._group = OutputGroup(
            str(pipeline.dead_letters),
            _headers({"pipeline": pipeline.name, "topic": topic}),
            [f"{HEADER}{name}" for name in ("partition", "offset", "record-time")],
            [f"{HEADER}{name}" for name in _LETTER_TEXTS],
        )

    def pack(
        self,
        records: RecordBatch,
        refused: Mapping[int, Refused],
        *,
        stage: str,
        partitions: npt.NDArray[np.int32] | None = None,
    ) -> bytes:
        """The original bytes of refused records, with headers that say why and where from; cut when over the limit.

        Args:
            records: The batch.
            refused: Why, by row.
            stage: Where in the job.
            partitions: (n,) int32, where the batch's are not those of the topic.
        """
        rows = list(refused)
        keys, values = [records.keys[row] for row in rows], [records.values[row] for row in rows]
        most_key = ENVELOPE_BYTES - _HEADERS_BYTES
        columns = (
            [one.reason.encode() for one in refused.values()],
            [stage.encode()] * len(rows),
            [printable(one.detail[:_TEXT_BYTES_MAX]).encode() for one in refused.values()],
            [_size_over(value, self._max_bytes) for value in values],
            [_size_over(key, most_key) for key in keys],
            [_NULLS[key is None, value is None] for key, value in zip(keys, values, strict=True)],
        )
        partitions = records.partitions if partitions is None else partitions
        return self._group.pack(
            Lines.of([(key or b"")[:most_key] for key in keys]),
            Lines.of([(value or b"")[: self._max_bytes] for value in values]),
            (partitions[rows], records.offsets[rows], records.record_times_ms[rows]),
            [Lines.of(column) for column in columns],
        )


_NULLS = {(False, False): None, (True, False): b"key", (False, True): b"value", (True, True): b"key,value"}
"""What a dead letter says of an original without a key or a value, by whether they are null: it has empty ones."""


def _size_over(content: bytes | None, most: int) -> bytes | None:
    return str(len(content)).encode() if content is not None and len(content) > most else None
