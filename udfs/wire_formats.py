"""Every byte format in and out: events in, predictions and their receipts out, dead letters with a reason.

Bytes enter here and leave here; in between there are only decoded events and arrays.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.byte_lines import Lines
from udfs.event_decoder import DecodedBatch as DecodedBatch
from udfs.event_decoder import EventDecoder as EventDecoder
from udfs.output_batch import OutputGroup
from udfs.output_fields import predictions_of
from udfs.output_writers import value_writer
from udfs.pipeline import Pipeline
from udfs.receipts import HEADER as HEADER
from udfs.receipts import ROWS_SEEN, NamedModel, Receipt, headers_of
from udfs.receipts import OutputTooLargeError as OutputTooLargeError
from udfs.receipts import printable as printable
from udfs.record_batch import RecordBatch
from udfs.refused import Refused as Refused
from udfs.registered_schema import RegisteredSchema

REASONS = (
    "null_value",
    "too_large",
    "not_json",
    "not_avro",
    "not_protobuf",
    "wrong_framing",
    "unknown_schema",
    "missing_field",
    "unknown_category",
    "wrong_type",
    "invalid_time",
    "key_mismatch",
    "feature_failed",
    "model_failed",
    "model_crashed",
    "model_over_budget",
    "not_encodable",
    "output_too_large",
    "late",
    "unknown_reply_topic",
)
"""Why a record is a dead letter; `late` with the SQL engine only, `unknown_reply_topic` of requests only."""

NOT_TRIED_AGAIN = ("model_crashed", "model_over_budget", "not_encodable", "output_too_large")
"""Of events whose answer only a job tries to give: whoever computes it again would have to crash, or to write it."""
AFTER_DECODING = ("feature_failed", "model_failed", *NOT_TRIED_AGAIN)
"""Reasons of events that were decoded, and so are in the state."""

ENVELOPE_BYTES = 65_536
"""What a record of the job may be larger than the pipeline's largest record: headers, and a key beside the value."""
_HEADERS_BYTES = 8_192
_LETTER_TEXTS = ("reason", "stage", "exception", "cut-from-bytes", "key-cut-from-bytes", "null")

_TEXT_BYTES_MAX = 300
_NONE_SEEN: Mapping[int, str] = {}


def most_sent_bytes(pipeline: Pipeline) -> int:
    """The largest key and value, together, of an answer that is sent to Kafka; its headers come on top."""
    return pipeline.max_record_bytes + ENVELOPE_BYTES - _HEADERS_BYTES


class PredictionEncoder:
    """Predictions and dead letters of one pipeline to records.

    Args:
        pipeline: Says the topics and the fields of a prediction.
        model: What the receipt says of the model.
        schema: What predictions are written with, as it was registered; None where none has to be.

    Attributes:
        named: The model, as it was given.

    Raises:
        DefinitionError: The schema of the output format is none.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        model: NamedModel,
        schema: RegisteredSchema | None = None,
    ) -> None:
        events = pipeline.events
        self._values_of = value_writer(predictions_of(pipeline), schema)
        copied = dict.fromkeys((events.id, events.entity, *pipeline.include))
        self._outputs = pipeline.outputs
        self._copied = [operator.attrgetter(name) for name in copied]
        self._most_sent = most_sent_bytes(pipeline)
        self.named = model
        self._receipt = Receipt.of(pipeline, model)
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
        receipt: Receipt | None = None,
        seen: Sequence[str] | None = None,
    ) -> bytes:
        """The predictions of n events with their receipts, as a group of output records.

        Args:
            events: n events.
            scores: (n, *shape) float64, finite, as of `models.outputs`.
            keys: n keys of their records.
            scored_at_ms: When, in ms since 1970.
            partitions: (n,) int32.
            offsets: (n,) int64.
            event_times_ms: (n,) int64.
            flags: What the receipt says is special about each event; None if nothing is about any.
            warming: Features that are not complete yet, of each event; None if all are of all. Only with `flags`.
            features: (n, F) float64, for pipelines that include them; NaN becomes null.
            receipt: Of another model than the pipeline's own.
            seen: As of `Receipt.pack`.

        Raises:
            OutputTooLargeError: A prediction is larger than what is sent to Kafka; the sink would fail on it for ever.
        """
        columns: list[Iterable[Any]] = [*(map(copy, events) for copy in self._copied), *self._outputs.columns(scores)]
        columns.append(repeat(scored_at_ms, len(events)))
        values, numbers = self._values_of(columns, features), (partitions, offsets, event_times_ms)
        return (receipt or self._receipt).pack(
            keys, values, numbers, flags, warming, seen, most_bytes=self._most_sent
        )


class DeadLetters:
    """Refused records of one topic to records.

    Args:
        pipeline: Says where they go, and the largest record.
        topic: Where the refused records are from.
    """

    def __init__(self, pipeline: Pipeline, topic: str) -> None:
        self._max_bytes, self._tells_rows = pipeline.max_record_bytes, bool(pipeline.lookups)
        self._group = OutputGroup(
            str(pipeline.dead_letters),
            headers_of({"pipeline": pipeline.name, "topic": topic}),
            [f"{HEADER}{name}" for name in ("partition", "offset", "record-time")],
            [*(f"{HEADER}{name}" for name in _LETTER_TEXTS), *([ROWS_SEEN] if pipeline.lookups else [])],
        )

    def pack(
        self,
        records: RecordBatch,
        refused: Mapping[int, Refused],
        *,
        stage: str,
        partitions: npt.NDArray[np.int32] | None = None,
        seen: Mapping[int, str] = _NONE_SEEN,
    ) -> bytes:
        """The original bytes of refused records, with headers that say why and where from; cut when over the limit.

        Args:
            records: The batch.
            refused: Why, by row.
            stage: Where in the job.
            partitions: (n,) int32, where the batch's are not those of the topic.
            seen: Which rows of lookups events saw, by row.
        """
        rows = list(refused)
        keys, values = [records.keys[row] for row in rows], [records.values[row] for row in rows]
        most_key = ENVELOPE_BYTES - _HEADERS_BYTES
        columns: list[list[bytes | None]] = [
            [one.reason.encode() for one in refused.values()],
            [stage.encode()] * len(rows),
            [printable(one.detail[:_TEXT_BYTES_MAX]).encode() for one in refused.values()],
            [
                _size_over(records.sizes.get(row, len(value or b"")), self._max_bytes)
                for row, value in zip(rows, values, strict=True)
            ],
            [_size_over(len(key or b""), most_key) for key in keys],
            [_NULLS[key is None, value is None] for key, value in zip(keys, values, strict=True)],
        ]
        if self._tells_rows:
            columns.append([seen.get(row, "").encode() or None for row in rows])
        partitions = records.partitions if partitions is None else partitions
        return self._group.pack(
            Lines.of([(key or b"")[:most_key] for key in keys]),
            Lines.of([(value or b"")[: self._max_bytes] for value in values]),
            (partitions[rows], records.offsets[rows], records.record_times_ms[rows]),
            [Lines.of(column) for column in columns],
        )


_NULLS = {(False, False): None, (True, False): b"key", (False, True): b"value", (True, True): b"key,value"}
"""What a dead letter says of an original without a key or a value, by whether they are null: it has empty ones."""


def _size_over(size: int, most: int) -> bytes | None:
    return str(size).encode() if size > most else None
