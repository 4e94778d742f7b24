"""One micro-batch: raw records in; predictions and dead letters out.

    records -> decode -> features (per entity, in order of arrival) -> model -> predictions with receipts

A record that cannot be decoded, or whose row the model fails on, leaves as a dead letter; the others are scored.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from udfs.entity_state import Advanced, ShardState
from udfs.plan import FeaturePlan
from udfs.record_batch import RecordBatch
from udfs.registered_schema import SchemaSource, no_schemas
from udfs.wire_formats import EventDecoder, PredictionEncoder, Refused

Features = npt.NDArray[np.float64]

FLAG_NAMES = (
    "", "late", "truncated", "late,truncated", "warming", "late,warming", "truncated,warming", "late,truncated,warming",
)  # fmt: skip
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
        schemas: Where the schemas come from that records name.
    """

    def __init__(
        self,
        plan: FeaturePlan,
        model: Model,
        encoder: PredictionEncoder,
        clock_ms: Callable[[], int],
        schemas: SchemaSource = no_schemas,
    ) -> None:
        self.plan, self._model, self._encoder, self._clock_ms = plan, model, encoder, clock_ms
        self._decoder = EventDecoder(plan.pipeline, schemas)

    def score(self, records: RecordBatch, shards: Mapping[int, ShardState]) -> bytes:
        """Advance the shards' states by the records and score each.

        Args:
            records: The batch.
            shards: The state of every shard that has records in it.

        Returns:
            One output record for every record, as `output_batch` packs them: dead letters, then predictions in order.
        """
        events, entities, rows, refused = self._decoder.decode_batch(records)
        outputs = self._encoder.dead_letters(records, refused, stage="decode") if refused else b""
        if not events:
            return outputs
        record_times_ms, partitions = records.record_times_ms, records.partitions
        if rows is not None:
            record_times_ms, partitions = record_times_ms[rows], partitions[rows]
        times_ms, columns, masks, direct = self.plan.columnise(events)
        parts: list[Advanced] = []
        begin = 0
        for shard, end in zip(records.shards, _ends_among(rows, records.shard_ends), strict=True):
            part = slice(begin, end)
            parts.append(
                shards[shard].advance(
                    entities[part],
                    times_ms[part],
                    record_times_ms[part],
                    partitions[part],
                    columns[part],
                    masks[part],
                    direct[part],
                )
            )
            begin = end
        features = np.concatenate([part.features for part in parts])
        flags = np.concatenate([part.flags for part in parts])
        warming = _warming(parts)
        scores, failed = predict_each(self._model, features)
        if failed:
            all_rows = np.arange(len(records)) if rows is None else rows
            outputs += self._encoder.dead_letters(
                records, {int(all_rows[place]): why for place, why in failed.items()}, stage="model"
            )
            kept = np.array([place for place in range(len(events)) if place not in failed], np.int64)
            events = [events[place] for place in kept]
            rows, scores, times_ms = all_rows[kept], scores[kept], times_ms[kept]
            features, flags = features[kept], flags[kept]
            warming = warming and [warming[place] for place in kept]
        if not events:
            return outputs
        return outputs + self._encoder.predictions(
            events,
            scores,
            keys=records.keys if rows is None else records.keys.pick(rows.tolist()),
            scored_at_ms=self._clock_ms(),
            partitions=records.partitions if rows is None else records.partitions[rows],
            offsets=records.offsets if rows is None else records.offsets[rows],
            event_times_ms=times_ms,
            flags=[FLAG_NAMES[flag] for flag in flags.tolist()] if flags.any() else None,
            warming=warming,
            features=features,
        )


def _warming(parts: Sequence[Advanced]) -> list[str] | None:
    """The features that warm up, for each event of all parts; None if none does."""
    if all(part.warming is None for part in parts):
        return None
    return [text for part in parts for text in part.warming or [""] * len(part.flags)]


def _ends_among(rows: npt.NDArray[np.int64] | None, ends: list[int]) -> list[int]:
    """Where segments end among some of the rows only."""
    if rows is None:
        return ends
    found: list[int] = np.searchsorted(rows, ends).tolist()
    return found


def predict_each(model: Model, features: Features) -> tuple[Features, dict[int, Refused]]:
    """One call for all rows; if it fails, halves until only the rows that fail are left.

    A score that is not a number cannot be written as JSON and helps nobody: its row counts as failed.

    Args:
        model: Scores the rows.
        features: (n, F) float64.

    Returns:
        Scores (n,) float64, and why rows failed by their place; what their scores are then means nothing.
    """
    try:
        scores = model.predict(features)
    except Exception as error:  # whatever a model raises, it is this row's or that row's fault, not the job's
        if len(features) == 1:
            return np.zeros(1), {0: Refused("model_failed", f"{type(error).__name__}: {error}")}
        half = len(features) // 2
        first, first_failed = predict_each(model, features[:half])
        second, second_failed = predict_each(model, features[half:])
        failed = first_failed | {half + place: why for place, why in second_failed.items()}
        return np.concatenate([first, second]), failed
    odd = np.flatnonzero(~np.isfinite(scores)).tolist()
    return scores, {place: Refused("model_failed", f"the model's score is {scores[place]}") for place in odd}
