"""One micro-batch of a shard: raw records in; predictions and dead letters out.

    records -> decode -> features (per entity, in order of arrival) -> model -> predictions with receipts

A record that cannot be decoded, or whose row the model fails on, leaves as a dead letter; the others are scored.
"""

import math
from collections.abc import Callable
from itertools import repeat
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from udfs.entity_state import ShardState
from udfs.plan import FeaturePlan
from udfs.wire_formats import EventDecoder, OutputRecord, PredictionEncoder, RecordBatch, Refused

Features = npt.NDArray[np.float64]

FLAG_NAMES = ("", "late", "truncated", "late,truncated")
"""What the receipt says for the flags of `ShardState.advance`."""


class Model(Protocol):
    """What scoring needs of a model."""

    def predict(self, features: Features) -> npt.NDArray[np.float64]:
        """Scores (n,) of features (n, F); raises when a row cannot be scored."""


class Scorer:
    """Scores the micro-batches of one pipeline.

    Args:
        plan: The pipeline's features.
        model: Scores a matrix of features.
        encoder: Writes predictions and dead letters.
        clock_ms: Gives `scored_at`, in ms since 1970.
    """

    def __init__(
        self, plan: FeaturePlan, model: Model, encoder: PredictionEncoder, clock_ms: Callable[[], int]
    ) -> None:
        self.plan, self._model, self._encoder, self._clock_ms = plan, model, encoder, clock_ms
        self._decoder = EventDecoder(plan.pipeline)
        self._entity, self._include_features = plan.pipeline.events.entity, plan.pipeline.include_features

    def score(self, records: RecordBatch, state: ShardState) -> list[OutputRecord]:
        """Advance the shard's state by the records and score each: one output record for every record, in order."""
        decode, entity = self._decoder.decode, self._entity
        events: list[Any] = []
        rows: list[int] = []
        outputs: list[OutputRecord] = []
        for row, (key, value) in enumerate(zip(records.keys, records.values, strict=True)):
            event = decode(key, value)
            if isinstance(event, Refused):
                outputs.append(self._dead_letter(records, row, event, stage="decode"))
            else:
                events.append(event)
                rows.append(row)
        if not events:
            return outputs
        times_ms, columns, masks, direct = self.plan.columnise(events)
        advanced = state.advance(
            [str(getattr(event, entity)) for event in events],
            times_ms,
            np.array([records.record_times_ms[row] for row in rows], np.int64),
            np.array([records.partitions[row] for row in rows], np.int32),
            columns,
            masks,
            direct,
        )
        scores = predict_each(self._model, advanced.features)
        scored_at_ms, prediction = self._clock_ms(), self._encoder.prediction
        features = advanced.features.tolist() if self._include_features else repeat(None, len(events))
        for event, row, score, time_ms, flags, values in zip(
            events, rows, scores, times_ms.tolist(), advanced.flags.tolist(), features, strict=True
        ):
            if isinstance(score, Refused):
                outputs.append(self._dead_letter(records, row, score, stage="model"))
                continue
            outputs.append(
                prediction(
                    event,
                    score,
                    key=records.keys[row] or b"",
                    scored_at_ms=scored_at_ms,
                    partition=records.partitions[row],
                    offset=records.offsets[row],
                    event_time_ms=time_ms,
                    flags=FLAG_NAMES[flags],
                    features=values,
                )
            )
        return outputs

    def _dead_letter(self, records: RecordBatch, row: int, refused: Refused, *, stage: str) -> OutputRecord:
        return self._encoder.dead_letter(
            records.keys[row],
            records.values[row],
            refused,
            stage=stage,
            partition=records.partitions[row],
            offset=records.offsets[row],
        )


def predict_each(model: Model, features: Features) -> list[float | Refused]:
    """One call for all rows; if it fails, halves until only the rows that fail are left.

    A score that is not a number cannot be written as JSON and helps nobody: its row counts as failed.
    """
    try:
        scores = model.predict(features)
    except Exception as error:  # whatever a model raises, it is this row's or that row's fault, not the job's
        if len(features) == 1:
            return [Refused("model_failed", f"{type(error).__name__}: {error}")]
        half = len(features) // 2
        return predict_each(model, features[:half]) + predict_each(model, features[half:])
    listed: list[float] = scores.tolist()
    return [
        score if math.isfinite(score) else Refused("model_failed", f"the model's score is {score}") for score in listed
    ]
