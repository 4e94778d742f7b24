"""One micro-batch: raw records in; predictions and dead letters out.

    records -> decode -> features (per entity, in order of arrival) -> model -> predictions with receipts

A record that cannot be decoded, whose features or score cannot be computed, or whose prediction cannot be written,
leaves as a dead letter; the others are scored. From its decoding on an event is in the state, whatever becomes of it.
Where features have a topic of their own, they are written before the model is asked: whatever it says, they are true.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.duty_scores import DutyScores, ModelChoice
from udfs.entity_state import Advanced, ShardState
from udfs.feature_records import FeatureEncoder
from udfs.ladder import Ladder
from udfs.lookup_join import Join
from udfs.plan import FeaturePlan
from udfs.predicting import Model
from udfs.predicting import predict_each as predict_each
from udfs.receipts import Receipt
from udfs.record_batch import RecordBatch
from udfs.registered_schema import SchemaSource, no_schemas
from udfs.scored_events import Owners, ScoredEvents, joined
from udfs.served_models import Duties, Role, by_shadow, runs_of
from udfs.session_records import SessionWatch
from udfs.wire_formats import EventDecoder, OutputTooLargeError, PredictionEncoder, Refused

DECODE, FEATURES, MODEL, ENCODE = STAGES = "decode", "features", "model", "encode"
"""Where on its way a record became a dead letter; `route` comes before them, where events have sources."""
_NO_SCORES = np.empty(0)

FLAG_NAMES = (
    "", "late", "truncated", "late,truncated", "warming", "late,warming", "truncated,warming", "late,truncated,warming",
)  # fmt: skip
"""What the receipt says for the flags of `ShardState.advance`."""


class Scorer:
    """Scores the micro-batches of one pipeline.

    Args:
        plan: The pipeline's features.
        model: Scores a matrix of features.
        encoder: Writes predictions and dead letters.
        clock_ms: Gives `scored_at`, in ms since 1970.
        schemas: Where the schemas come from that records name.
        choice: Chooses the model of each event; None means always `model`.
        ladder: Scores what the model has no score for; None means that this is a dead letter.
        vectors: Writes feature vectors; None means that they have no topic.
        sessions: Follows the sessions of entities; None means that they have no topic.
        join: Joins events with the rows of lookups; None where there are none.

    Attributes:
        plan: As it was given.
        clock_ms: As it was given.
        passed_over: How many records of the last batch were neither events nor dead letters.
        shadow_failures: Scores of shadows that could not be had or written so far; nobody was to be served with them.
    """

    def __init__(
        self,
        plan: FeaturePlan,
        model: Model,
        encoder: PredictionEncoder,
        clock_ms: Callable[[], int],
        schemas: SchemaSource = no_schemas,
        choice: ModelChoice | None = None,
        ladder: Ladder | None = None,
        vectors: FeatureEncoder | None = None,
        sessions: SessionWatch | None = None,
        join: Join | None = None,
    ) -> None:
        self._vectors, self._sessions, self._join = vectors, sessions, join
        self.plan, self._encoder, self.clock_ms = plan, encoder, clock_ms
        self._scores = DutyScores(model, encoder.named, choice, plan.pipeline.outputs)
        self._choice, self._ladder, self.shadow_failures = choice, ladder, 0
        self._decoder = EventDecoder(plan.pipeline, schemas)
        self.passed_over = 0

    def score(
        self, records: RecordBatch, shards: Mapping[int, ShardState], *, crashed: Mapping[str, str] | None = None
    ) -> bytes:
        """Advance the shards' states by the records and score each.

        Args:
            records: The batch.
            shards: The state of every shard that has records in it.
            crashed: How models kill their process on these events, by the models' sha256: they are not asked.

        Returns:
            One output record for every record that is not passed over, as `output_batch` packs them: dead letters, then
            predictions in order; then those of shadows. Where features have a topic, their vectors come before, and
            where sessions have one, those that are over.
        """
        events, entities, rows, refused = self._decoder.decode_batch(records)
        self.passed_over = len(records) - len(events) - len(refused)
        outputs = self._encoder.dead_letters(records, refused, stage=DECODE) if refused else b""
        if not events:
            return outputs
        scored, failed, duties = self._features(records, events, entities, rows, shards)
        if self._sessions is not None:
            ends = _ends_among(rows, records.shard_ends)
            outputs += self._sessions.advance(records, entities, rows, scored.times_ms, ends)
        if failed:
            outputs += self._dead_letters(records, scored, failed, FEATURES)
            scored = scored.without(failed)
        if not len(scored):
            return outputs
        if self._vectors is not None:
            vectors, failed = self._written(scored, partial(self._write_vectors, self._vectors, records))
            outputs += vectors
            if failed:
                outputs += self._dead_letters(records, scored, failed, ENCODE)
                scored = scored.without(failed)
            if not len(scored):
                return outputs
        crashed = crashed or {}
        shadows = self._shadows(records, scored, duties, crashed)
        scores, failed = self._scores.of(scored, duties, crashed)
        scored = replace(scored, scores=scores)
        if failed and self._ladder is not None:
            scored, failed = self._ladder.climb_down(scored, failed, crashed)
        if failed:
            outputs += self._dead_letters(records, scored, failed, MODEL)
            scored = scored.without(failed)
        if not len(scored):
            return outputs + shadows
        if self._ladder is not None:
            self._ladder.note(scored)
        predictions, failed = self._encode(records, scored, duties)
        if failed:
            outputs += self._dead_letters(records, scored, failed, ENCODE)
        return outputs + predictions + shadows

    def _features(
        self,
        records: RecordBatch,
        events: Sequence[Any],
        entities: Sequence[str],
        rows: npt.NDArray[np.int64] | None,
        shards: Mapping[int, ShardState],
    ) -> tuple[ScoredEvents, dict[int, Refused], Duties | None]:
        """The events with their features, why some have none, by place, and who is to score them."""
        record_times_ms, partitions = records.record_times_ms, records.partitions
        if rows is not None:
            record_times_ms, partitions = record_times_ms[rows], partitions[rows]
        seen = None if self._join is None else self._join.of(events)
        times_ms, columns, masks, direct = self.plan.columnise(events, *(() if seen is None else (seen.rows,)))
        parts: list[Advanced] = []
        begin, ends = 0, _ends_among(rows, records.shard_ends)
        for shard, end in zip(records.shards, ends, strict=True):
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
        whole = joined(parts)
        failed = {place: Refused("feature_failed", why) for place, why in whole.failed.items()}
        duties = None
        if self._choice is not None:
            duties = self._choice.duties(records.shards, ends, times_ms, entities)
        scored = ScoredEvents(events, rows, times_ms, whole.features, whole.flags, whole.warming, _NO_SCORES)
        scored = replace(scored, which=duties and duties.which, seen=seen and seen.places)
        if self._ladder is not None and self._ladder.last_scores:
            counts = np.diff(ends, prepend=0)
            scored = replace(scored, owners=Owners(entities, np.repeat(np.array(records.shards), counts)))
        return scored, failed, duties

    def _shadows(
        self, records: RecordBatch, scored: ScoredEvents, duties: Duties | None, crashed: Mapping[str, str]
    ) -> bytes:
        """The predictions of shadows; one that fails is left out, for the event has its answer all the same."""
        outputs = b""
        if self._choice is None or duties is None:
            return outputs
        for role, places in by_shadow(duties.known, scored.which, len(scored)).items():
            if role.model.sha256 in crashed:
                self.shadow_failures += len(places)
                continue
            part = scored.part(places)
            scores, failed = self._choice.predict(role, part.features)
            part = replace(part, scores=scores).without(failed)
            written, unwritten = b"", dict[int, Refused]()
            if len(part):
                write = partial(self._write_predictions, records, self.clock_ms(), self._choice.receipt(role))
                written, unwritten = self._written(part, write)
            outputs += written
            self.shadow_failures += len(failed) + len(unwritten)
        return outputs

    def _encode(
        self, records: RecordBatch, scored: ScoredEvents, duties: Duties | None
    ) -> tuple[bytes, dict[int, Refused]]:
        """The predictions in order: neighbours by the same model in a call."""
        scored_at_ms = self.clock_ms()
        if scored.rungs is None and (self._choice is None or duties is None):
            return self._written(scored, partial(self._write_predictions, records, scored_at_ms, None))
        outputs, failed = b"", dict[int, Refused]()
        for place, rung, begin, end in runs_of(scored.which, scored.rungs, len(scored)):
            part = scored if end - begin == len(scored) else scored.part(np.arange(begin, end))
            receipt = self._receipt(duties and duties.known[place].served, rung)
            write = partial(self._write_predictions, records, scored_at_ms, receipt)
            written, unwritten = self._written(part, write)
            outputs += written
            failed |= {begin + place: why for place, why in unwritten.items()}
        return outputs, failed

    def _receipt(self, role: Role | None, rung: int) -> Receipt | None:
        """Of what a rung of the ladder scored, 0 for the model itself; None for the pipeline's own model."""
        if rung and self._ladder is not None:
            served = self._encoder.named if self._choice is None or role is None else self._choice.named(role)
            return self._ladder.receipt(rung, served, "" if role is None else role.name)
        return None if self._choice is None or role is None else self._choice.receipt(role)

    def _write_predictions(
        self, records: RecordBatch, scored_at_ms: int, receipt: Receipt | None, scored: ScoredEvents
    ) -> bytes:
        return self._encoder.predictions(
            scored.events,
            scored.scores,
            scored_at_ms=scored_at_ms,
            features=scored.features,
            receipt=receipt,
            **_origins(records, scored),
        )

    def _write_vectors(self, vectors: FeatureEncoder, records: RecordBatch, scored: ScoredEvents) -> bytes:
        return vectors.vectors(scored.events, scored.features, **_origins(records, scored))

    def _written(
        self, scored: ScoredEvents, write: Callable[[ScoredEvents], bytes]
    ) -> tuple[bytes, dict[int, Refused]]:
        """One call for all events; if it fails, halves until only those that cannot be written are left."""
        try:
            return write(scored), {}
        except OutputTooLargeError as error:
            reason, detail = "output_too_large", str(error)
        except Exception as error:  # what a format cannot write is in the event: an id too large for its type, say
            reason, detail = "not_encodable", f"{type(error).__name__}: {error}"
        count = len(scored)
        if count == 1:
            return b"", {0: Refused(reason, detail)}
        half, places = count // 2, np.arange(count)
        first, first_failed = self._written(scored.part(places[:half]), write)
        second, second_failed = self._written(scored.part(places[half:]), write)
        return first + second, first_failed | {half + place: why for place, why in second_failed.items()}

    def _dead_letters(
        self, records: RecordBatch, scored: ScoredEvents, failed: Mapping[int, Refused], stage: str
    ) -> bytes:
        refused = {scored.row_of(place): why for place, why in failed.items()}
        if scored.seen is None:
            return self._encoder.dead_letters(records, refused, stage=stage)
        seen = {scored.row_of(place): scored.seen[place] for place in failed}
        return self._encoder.dead_letters(records, refused, stage=stage, seen=seen)


def _origins(records: RecordBatch, scored: ScoredEvents) -> dict[str, Any]:
    """Where events come from, and what is special about them, as encoders take it."""
    rows = scored.rows
    return {
        "keys": records.keys if rows is None else records.keys.pick(rows.tolist()),
        "partitions": records.partitions if rows is None else records.partitions[rows],
        "offsets": records.offsets if rows is None else records.offsets[rows],
        "event_times_ms": scored.times_ms,
        "flags": [FLAG_NAMES[flag] for flag in scored.flags.tolist()] if scored.flags.any() else None,
        "warming": scored.warming,
        "seen": scored.seen,
    }


def _ends_among(rows: npt.NDArray[np.int64] | None, ends: list[int]) -> list[int]:
    """Where segments end among some of the rows only."""
    if rows is None:
        return ends
    found: list[int] = np.searchsorted(rows, ends).tolist()
    return found
