"""Answers that were served against what comes out now, stretch by stretch of the events' topic."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from flink_jobs.receipt_models import ReceiptModel, ReceiptModels
from flink_jobs.recomputed import Recomputed
from flink_jobs.served_answers import BUCKET_OFFSETS, DEAD_LETTER, PREDICTION, Bucket, ServedAnswers
from flink_jobs.served_scores import scores_as_served
from models.onnx_model import OnnxModel
from udfs.entity_state import LATE, TRUNCATED, WARMING
from udfs.pipeline import Pipeline
from udfs.refused import Refused
from udfs.scoring import FLAG_NAMES, predict_each
from udfs.wire_formats import NOT_TRIED_AGAIN

Place = tuple[int, int]
Floats = npt.NDArray[np.float64]
OF_THE_EVENT = "flags", "event time", "event id or entity"
"""Parts of an answer that no feature changes."""

DIFFERENT, MISSING, DUPLICATED, NO_EVENT = "different", "missing", "duplicated", "no_event"
WRONG_VECTOR = "wrong_vector"
OLDER_THAN_TOPIC = "its windows reach back before the first record that the topic still has"
ANSWER_DELETED = "its answer may be deleted: the topic of answers no longer has its beginning"
EVENT_DELETED = "its event is no longer in the topic"
WARMED_UP = "features of it were warming up after a change of the pipeline, as its receipt says"
EARLIER_JOB = "an earlier job answered it, before the state of this one was built (--job-began judges it)"


@dataclass(frozen=True)
class Judged:
    """Which events are judged.

    Attributes:
        begins: First offset of each partition: where the job began.
        ends: Offset after the last one whose answer must be there.
        full_from_ms: Event time from which windows are full, of partitions whose beginning the job had and we have not.
        since_ms: Only events from this time on.
        until_ms: Only events before this time.
        due_from: First offset whose answer must be there, where that is not the partition's `begins`.
    """

    begins: Mapping[int, int]
    ends: Mapping[int, int]
    full_from_ms: Mapping[int, int]
    since_ms: int
    until_ms: int
    due_from: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """Something that is not as it must be.

    Attributes:
        kind: DIFFERENT, MISSING, DUPLICATED, NO_EVENT or WRONG_VECTOR.
        place: Partition and offset of the event.
        what: Which parts differ, in words.
        served: The answers' places, as in `ServedAnswers.place`.
        now: What comes out now: the outputs by name, `flags`, `features` by name, or `dead_letter`.
    """

    kind: str
    place: Place
    what: str
    served: tuple[Any, ...]
    now: dict[str, Any]


@dataclass
class Findings:
    """What a comparison found.

    Attributes:
        equal: Answers that are what comes out now, dead letters included.
        dead_letters: How many of them are dead letters.
        other_batch: Predictions that the model gives in a batch of another size than that of the comparison only.
        vectors: Feature vectors in their topic that are what comes out now.
        counts: Of DIFFERENT, MISSING, DUPLICATED, NO_EVENT and WRONG_VECTOR.
        fallbacks: Predictions in place of the model's, by what scored. Another model's are counted as equal, too, if
            they are; of the others all but the score is compared.
        taken_as_told: Dead letters of events that decode and whose answer is not tried again, by reason.
        unverifiable: How many cannot be verified, by why.
        rows: By lookup, how many events saw another row than a backfill says now; see `StretchRows.counted`.
        waiting: Events without an answer that the job has not come to.
        first: The first findings of each kind.
    """

    equal: int = 0
    dead_letters: int = 0
    other_batch: int = 0
    vectors: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    fallbacks: Counter[str] = field(default_factory=Counter)
    taken_as_told: Counter[str] = field(default_factory=Counter)
    unverifiable: Counter[str] = field(default_factory=Counter)
    rows: dict[str, Counter[str]] = field(default_factory=dict)
    waiting: int = 0
    first: list[Finding] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.counts.total()


class AnswerComparison:
    """Compares stretch by stretch.

    Args:
        pipeline: Whose answers.
        answers: What was served.
        models: By receipt.
        own_model: The pipeline's own; None if it cannot be opened.
        judged: Which events.
        most: Findings kept of each kind.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        answers: ServedAnswers,
        models: ReceiptModels,
        own_model: OnnxModel | None,
        judged: Judged,
        most: int,
    ) -> None:
        self._pipeline, self._answers, self._models = pipeline, answers, models
        self._own_model, self._judged, self._most = own_model, judged, most
        self.findings = Findings()

    def compare(self, bucket: Bucket, now: Recomputed) -> None:
        """Compare the answers to a stretch with what comes out now."""
        partition, served = bucket[0], self._answers.bucket(bucket)
        for name, counts in ({} if now.seen is None else now.seen.counted()).items():
            self.findings.rows.setdefault(name, Counter()).update(counts)
        begin = self._judged.begins.get(partition, 0)
        letters = np.array(sorted(now.letters), np.int64)
        self._unanswered(partition, now.offsets[~np.isin(now.offsets, served["offset"])], now)
        self._unanswered(partition, letters[~np.isin(letters, served["offset"])], now)
        served = self._of_this_job(partition, served, np.concatenate([now.offsets, letters]))
        firsts = np.ones(len(served), np.bool_)
        firsts[1:] = served["offset"][1:] != served["offset"][:-1]
        known = np.isin(served["offset"], now.offsets) | np.isin(served["offset"], letters)
        for again in served[known & ~firsts]:
            self._find(DUPLICATED, partition, int(again["offset"]), "answered more than once", now)
        self._predictions(partition, served[known & (served["kind"] == PREDICTION)], now)
        for letter in served[known & (served["kind"] == DEAD_LETTER)]:
            self._dead_letter(partition, letter, now)
        for row in served[~known & (served["kind"] == PREDICTION)]:
            if self._judged.since_ms <= row["time_ms"] < self._judged.until_ms:
                if row["offset"] >= begin:
                    self._find(NO_EVENT, partition, int(row["offset"]), "an answer to a record that is no event", now)
                else:
                    self.findings.unverifiable[EVENT_DELETED] += 1

    def _of_this_job(
        self, partition: int, served: npt.NDArray[Any], offsets: npt.NDArray[np.int64]
    ) -> npt.NDArray[Any]:
        earlier = served["offset"] < self._judged.due_from.get(partition, 0)
        if among := int(np.isin(served["offset"][earlier], offsets).sum()):
            self.findings.unverifiable[EARLIER_JOB] += among
        return served[~earlier]

    def _unanswered(self, partition: int, offsets: npt.NDArray[np.int64], now: Recomputed) -> None:
        end, kept_from = self._judged.ends.get(partition, 0), self._answers.kept_from.get(partition, -1)
        self.findings.waiting += int((offsets >= end).sum())
        due = offsets[(offsets < end) & (offsets >= self._judged.due_from.get(partition, 0))]
        deleted = due <= kept_from
        if self._answers.beginning_deleted and kept_from < 0:
            deleted[:] = True
        if deleted.any():
            self.findings.unverifiable[ANSWER_DELETED] += int(deleted.sum())
        for offset in due[~deleted].tolist():
            self._find(MISSING, partition, offset, "neither a prediction nor a dead letter", now)

    def _predictions(self, partition: int, served: npt.NDArray[Any], now: Recomputed) -> None:
        for offset in served["offset"][np.isin(served["offset"], list(now.letters))].tolist():
            self._find(DIFFERENT, partition, offset, "a prediction, where a dead letter comes out now", now)
        served = self._complete(served[np.isin(served["offset"], now.offsets)])
        for number in np.unique(served["named"]).tolist():
            rows, named = served[served["named"] == number], self._answers.models[number]
            model = self._models.model(named)
            if isinstance(model, str):
                self.findings.unverifiable[model] += len(rows)
                continue
            self._scored(partition, rows, model, now, named)

    def _complete(self, served: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Without those that the job itself says were made with incomplete windows."""
        warming = (served["flags"] < len(FLAG_NAMES)) & (served["flags"] & WARMING > 0)
        if warming.any():
            self.findings.unverifiable[WARMED_UP] += int(warming.sum())
        return served[~warming]

    def _scored(
        self, partition: int, served: npt.NDArray[Any], model: OnnxModel, now: Recomputed, named: ReceiptModel
    ) -> None:
        places = np.searchsorted(now.offsets, served["offset"])
        features = now.features[places]
        scores, failed, otherwise = served["score"], dict[int, Refused](), np.zeros(len(served), np.bool_)
        if named.by_model:
            scores, failed, otherwise = scores_as_served(model, features, served["score"], self._pipeline.outputs)
        equal = {
            **self._pipeline.outputs.equal(served["score"], scores),
            "flags": served["flags"] == now.flags[places],
            "event time": served["time_ms"] == now.times_ms[places],
            "event id or entity": served["identity"] == now.identities[places],
        }
        if "features" in (served.dtype.names or ()):
            told = np.where(np.isfinite(features), features, np.nan)  # as JSON has it
            same = (served["features"] == told) | (np.isnan(served["features"]) & np.isnan(told))
            equal |= dict(zip(self._pipeline.feature_names, same.T, strict=True))
        if now.seen is not None:
            equal |= now.seen.right(places)
        good = np.logical_and.reduce(list(equal.values()))
        good[list(failed)] = False
        if named.fallback:
            self.findings.fallbacks[named.fallback] += int(good.sum())
        if named.by_model:
            self.findings.equal += int(good.sum())
            self.findings.other_batch += int((good & otherwise).sum())
        for row in np.flatnonzero(~good).tolist():
            offset, time_ms = int(served["offset"][row]), int(now.times_ms[places[row]])
            if time_ms < self._judged.full_from_ms.get(partition, time_ms):
                self.findings.unverifiable[OLDER_THAN_TOPIC] += 1
                continue
            unsure = now.why_unsure(int(places[row]))
            if unsure is not None and all(equal[name][row] for name in OF_THE_EVENT):
                self.findings.unverifiable[unsure] += 1
                continue
            what = ", ".join(name for name, same in equal.items() if not same[row])
            if row in failed:
                what = f"a prediction, where the model fails now: {failed[row].detail}"
            self._find(DIFFERENT, partition, offset, what, now, scores[row : row + 1])

    def _dead_letter(self, partition: int, letter: Any, now: Recomputed) -> None:
        offset, reason = int(letter["offset"]), self._answers.reasons[letter["named"]]
        if offset in now.letters:
            same = now.letters[offset] == reason
        elif reason in NOT_TRIED_AGAIN:
            self.findings.taken_as_told[reason] += 1
            return
        else:
            same = reason == "model_failed" and self._some_model_fails(now, offset)
            place = int(np.searchsorted(now.offsets, offset))
            wrong = [] if now.seen is None else list(now.seen.right(np.array([place])))
            if wrong:
                self._find(DIFFERENT, partition, offset, f"a dead letter ({reason}), {', '.join(wrong)}", now)
                return
            unsure = now.why_unsure(place)
            if not same and unsure is not None:
                self.findings.unverifiable[unsure] += 1
                return
        if same:
            self.findings.equal += 1
            self.findings.dead_letters += 1
            return
        self._find(DIFFERENT, partition, offset, f"a dead letter ({reason})", now)

    def _some_model_fails(self, now: Recomputed, offset: int) -> bool:
        """Dead letters do not name the model: any that is known to have been in use may have failed."""
        place = int(np.searchsorted(now.offsets, offset))
        named = [self._models.model(each) for each in self._answers.models]
        models = [each for each in (self._own_model, *named) if isinstance(each, OnnxModel)]
        return any(predict_each(model, now.features[place : place + 1], self._pipeline.outputs)[1] for model in models)

    def _find(
        self, kind: str, partition: int, offset: int, what: str, now: Recomputed, score: Floats | None = None
    ) -> None:
        findings = self.findings
        findings.counts[kind] += 1
        if findings.counts[kind] > self._most:
            return
        served = self._answers.bucket((partition, offset // BUCKET_OFFSETS))
        places = tuple(self._answers.place(row) for row in served[served["offset"] == offset])
        findings.first.append(Finding(kind, (partition, offset), what, places, self._now(now, offset, score)))

    def _now(self, now: Recomputed, offset: int, score: Floats | None) -> dict[str, Any]:
        if offset in now.letters:
            return {"dead_letter": now.letters[offset]}
        place = int(np.searchsorted(now.offsets, offset))
        if place == len(now.offsets) or now.offsets[place] != offset:
            return {}
        row, outputs = now.features[place], self._pipeline.outputs
        if score is None and self._own_model is not None:
            scores, failed = predict_each(self._own_model, row[None, :], outputs)
            score = None if failed else scores
        marks = int(now.flags[place])
        flags = [name for name, mark in (("late", LATE), ("truncated", TRUNCATED)) if marks & mark]
        features = dict(zip(self._pipeline.feature_names, row.tolist(), strict=True))
        told = dict.fromkeys(outputs.names) if score is None else outputs.values(score)
        return {**told, "flags": flags, "features": features}
