"""One micro-batch of requests: raw records in; replies out, and dead letters where no reply can be addressed.

    records -> read -> the event of each, tried on a copy of its entity -> model -> replies with receipts

Shards are only looked at: what follows is as if no request had ever been.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from udfs.duty_scores import DutyScores, ModelChoice
from udfs.entity_copies import Scratch, copies_of
from udfs.entity_state import ShardState
from udfs.ladder import Ladder
from udfs.lookup_join import Join
from udfs.plan import FeaturePlan
from udfs.positions import EventPlace, Positions
from udfs.predicting import Model
from udfs.receipts import NamedModel
from udfs.record_batch import RecordBatch
from udfs.refused import Refused
from udfs.replies import Reply, ReplyEncoder, Scored
from udfs.request_reader import Asked, RequestReader, Unanswerable
from udfs.requests import STAGE
from udfs.scored_events import Owners, ScoredEvents
from udfs.scoring import FLAG_NAMES
from udfs.served_models import Duties
from udfs.wire_formats import DeadLetters

_MOST_TOGETHER = 64
"""Requests whose entities are copied at once: a copy may have thousands of events."""
_NO_SCORES = np.empty(0)


class Answerer:
    """Answers the requests of one pipeline.

    Args:
        plan: The pipeline's features.
        model: Scores a matrix of features.
        named: What receipts say of it.
        clock_ms: Gives `scored_at`, and how old requests are, in ms since 1970.
        choice: Chooses the model of each request; None means always `model`.
        ladder: Scores what the model has no score for; None means that this is an error.
        positions: Of the shards in the topic of events, for requests that name an event.
        join: As of `Scorer`.

    Attributes:
        answered: How many requests were answered with a score so far.
        refused: How many others there were.
    """

    def __init__(
        self,
        plan: FeaturePlan,
        model: Model,
        named: NamedModel,
        clock_ms: Callable[[], int],
        choice: ModelChoice | None = None,
        ladder: Ladder | None = None,
        positions: Positions | None = None,
        join: Join | None = None,
    ) -> None:
        pipeline = plan.pipeline
        assert pipeline.requests is not None
        self._plan, self._named, self._clock_ms, self._join = plan, named, clock_ms, join
        self._scores = DutyScores(model, named, choice, pipeline.outputs)
        self._choice, self._ladder, self._pipeline = choice, ladder, pipeline
        self._positions, self._scratch = positions or Positions(), Scratch(plan)
        self._refuses_unknown = pipeline.requests.unknown == "error"
        self._reader, self._replies = RequestReader(pipeline), ReplyEncoder(pipeline)
        self._dead_letters = DeadLetters(pipeline, str(pipeline.requests_topic)).pack
        self.answered = self.refused = 0

    def score(
        self, records: RecordBatch, shards: Mapping[int, ShardState], *, crashed: Mapping[str, str] | None = None
    ) -> bytes:
        """Answer requests; arguments as of `Scorer.score`.

        Returns:
            A reply or a dead letter for each, as `output_batch` packs them.
        """
        now_ms = self._clock_ms()
        rows, asked, refused = list[int](), list[Asked](), dict[int, Unanswerable]()
        for row, record in enumerate(records.raw()):
            found = self._reader.read(record, now_ms)
            if isinstance(found, Asked) and found.after is not None:
                found = self._after_event(found, found.after, records.shards[bisect_right(records.shard_ends, row)])
            if isinstance(found, Unanswerable):
                refused[row] = found
            else:
                rows.append(row)
                asked.append(found)
        self.refused += len(refused)
        lost = {row: each.why for row, each in refused.items() if each.address is None}
        outputs = self._dead_letters(records, lost, stage=STAGE) if lost else b""
        replies = [
            Reply(each.address, _place(records, row), each.entity, each.why)
            for row, each in refused.items()
            if each.address is not None
        ]
        for begin in range(0, len(asked), _MOST_TOGETHER):
            part = slice(begin, begin + _MOST_TOGETHER)
            replies += self._answers(records, np.array(rows[part], np.int64), asked[part], shards, crashed or {})
        return outputs + self._replies.pack(replies, now_ms)

    def _after_event(self, asked: Asked, event: EventPlace, shard: int) -> Asked | Unanswerable:
        """Refused while the event that it names is not in the state of its shard."""
        if self._positions.has(shard, event):
            return asked
        why = Refused("behind", f"event {event.partition}/{event.offset} was not read yet: ask again")
        return Unanswerable(asked.address, why, getattr(asked.event, self._pipeline.events.entity))

    def _answers(
        self,
        records: RecordBatch,
        rows: npt.NDArray[np.int64],
        asked: Sequence[Asked],
        shards: Mapping[int, ShardState],
        crashed: Mapping[str, str],
    ) -> list[Reply]:
        scored, failed, duties = self._features(records, rows, asked, shards)
        of_row = dict(zip(rows.tolist(), asked, strict=True))
        whys = {scored.row_of(place): why for place, why in failed.items()}
        if failed:
            scored = scored.without(failed)
        if len(scored):
            scores, failed = self._scores.of(scored, duties, crashed)
            scored = replace(scored, scores=scores)
            if failed and self._ladder is not None:
                scored, failed = self._climb_down(self._ladder, scored, failed, crashed)
            whys |= {scored.row_of(place): why for place, why in failed.items()}
            scored = scored.without(failed) if failed else scored
        self.answered += len(scored)
        self.refused += len(whys)
        says: dict[int, Scored | Refused] = {**whys, **self._says(scored, duties)}
        entity_of = self._pipeline.events.entity
        return [
            Reply(of_row[row].address, _place(records, row), getattr(of_row[row].event, entity_of), says[row])
            for row in rows.tolist()
        ]

    def _features(
        self,
        records: RecordBatch,
        rows: npt.NDArray[np.int64],
        asked: Sequence[Asked],
        shards: Mapping[int, ShardState],
    ) -> tuple[ScoredEvents, dict[int, Refused], Duties | None]:
        """As of `Scorer`, of events that leave no trace."""
        events, entities = [each.event for each in asked], [each.entity for each in asked]
        numbers, counts = np.unique(np.searchsorted(records.shard_ends, rows, side="right"), return_counts=True)
        keys, ends = [records.shards[number] for number in numbers.tolist()], counts.cumsum().tolist()
        spans = list(zip(keys, map(slice, [0, *ends[:-1]], ends), strict=True))
        seen = () if self._join is None else (self._join.of(events).rows,)
        times_ms, columns, masks, direct = self._plan.columnise(events, *seen)
        copies = [copies_of(shards[key], entities[span]) for key, span in spans]
        advanced = self._scratch.advance(copies, times_ms, columns, masks, direct)
        flags, warming, some_warm = advanced.flags, list[str](), False
        for (key, span), copy in zip(spans, copies, strict=True):
            found = shards[key].mark_warming(times_ms[span], copy.partitions, flags[span])
            warming += found or [""] * (span.stop - span.start)
            some_warm = some_warm or found is not None
        failed = {place: Refused("feature_failed", why) for place, why in advanced.failed.items()}
        if self._refuses_unknown:
            kept = np.concatenate([copy.kept for copy in copies])
            unknown = np.flatnonzero(~kept).tolist()
            failed |= {place: Refused("unknown_entity", "nothing is kept of the entity") for place in unknown}
        duties = None if self._choice is None else self._choice.duties(keys, ends, times_ms, entities)
        scored = ScoredEvents(
            events, rows, times_ms, advanced.features, flags, warming if some_warm else None, _NO_SCORES,
            duties and duties.which,
        )  # fmt: skip
        if self._ladder is not None and self._ladder.last_scores:
            scored = replace(scored, owners=Owners(entities, np.repeat(np.array(keys, np.int64), counts)))
        return scored, failed, duties

    @staticmethod
    def _climb_down(
        ladder: Ladder, scored: ScoredEvents, failed: Mapping[int, Refused], crashed: Mapping[str, str]
    ) -> tuple[ScoredEvents, dict[int, Refused]]:
        """As of `Ladder`, of those that failed alone: what another request was told is nobody's last score."""
        places = np.array(sorted(failed), np.int64)
        part, left = ladder.climb_down(
            scored.part(places), {number: failed[place] for number, place in enumerate(places.tolist())}, crashed
        )
        scores, rungs = scored.scores.copy(), np.zeros(len(scored), np.intp)
        scores[places], rungs[places] = part.scores, part.rungs
        return replace(scored, scores=scores, rungs=rungs), {int(places[number]): why for number, why in left.items()}

    def _says(self, scored: ScoredEvents, duties: Duties | None) -> dict[int, Scored]:
        """What each request is told, by its row."""
        found = dict[int, Scored]()
        features = scored.features.tolist() if self._pipeline.include_features else None
        outputs = self._pipeline.outputs
        columns = outputs.columns(scored.scores) if len(scored) else ()
        for place, (time_ms, *values) in enumerate(zip(scored.times_ms.tolist(), *columns, strict=True)):
            named, role, fallback = self._named, "", ""
            if self._choice is not None and duties is not None:
                served = duties.known[0 if scored.which is None else scored.which[place]].served
                named, role = self._choice.named(served), served.name
            rung = 0 if scored.rungs is None else int(scored.rungs[place])
            if rung and self._ladder is not None:
                named, fallback = self._ladder.named(rung, named)
            found[scored.row_of(place)] = Scored(
                dict(zip(outputs.names, values, strict=True)),
                time_ms,
                features and features[place],
                named,
                role,
                fallback,
                FLAG_NAMES[scored.flags[place]],
                scored.warming[place] if scored.warming else "",
            )
        return found


def _place(records: RecordBatch, row: int) -> tuple[int, int]:
    return int(records.partitions[row]), int(records.offsets[row])
