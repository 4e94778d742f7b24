"""`millrace fork`: events that were answered are scored by another version of the model, and both are compared.

    events from where the job began -> features by the backfill -> the other version -> a topic or a file of its own
    committed predictions, by the places of their events ------------------------------> compared

Kafka is only read, but for the topic that is asked for: no group commits, no transaction is begun.
"""

import heapq
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flink_jobs.fork_target import FORK, ForkTarget
from flink_jobs.job_beginning import JobBeginning
from flink_jobs.kafka_admin import topic_partitions
from flink_jobs.models_comparison import Scores, places_of
from flink_jobs.receipt_models import ReceiptModels
from flink_jobs.recomputed import Recomputed, recomputed_stretches
from flink_jobs.served_answers import PREDICTION, Bucket, ServedAnswers
from flink_jobs.served_scores import scores_as_served
from flink_jobs.verify_job import Step, VerifyError, VerifyRequest, beginning_of, own_folder, read_answers, recompute
from models.onnx_model import OnnxModel
from udfs.scoring import predict_each

NO_PREDICTION = "no served prediction"


@dataclass(frozen=True)
class ForkRequest:
    """What is to be forked.

    Attributes:
        history: Which pipeline's events, and how they are read; as `verify` takes it.
        model: What scores them now.
        base: What it is compared with; None means what was served.
        target: Where the new predictions go; None keeps none.
        most: Largest differences to keep.
    """

    history: VerifyRequest
    model: OnnxModel
    base: OnnxModel | None = None
    target: ForkTarget | None = None
    most: int = 3


class Difference(NamedTuple):
    """An event on which the two are far apart; both say a number, or the outputs by name."""

    difference: float
    partition: int
    offset: int
    before: Any
    now: Any


@dataclass
class ForkReport:
    """What came of it.

    Attributes:
        beginning: Where windows begin.
        events: Of the stretch of time.
        failed: Of them, those that the new version fails on.
        left_out: Events that are not compared, by why.
        again: Served scores that come out again by the model that their receipt names.
        not_again: Served scores that do not: their windows were others, as a rule.
        unchecked: Served scores whose model is not to be had.
        before: What was served, or the base's scores.
        now: The new version's.
        largest: The largest differences, the largest first.
        written: Predictions in the target.
    """

    beginning: JobBeginning
    before: Scores
    now: Scores
    events: int = 0
    failed: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    again: int = 0
    not_again: int = 0
    unchecked: int = 0
    largest: list[Difference] = field(default_factory=list)
    written: int = 0


def fork(request: ForkRequest, step: Step = lambda _text, _share: None) -> ForkReport:
    """Score again with another model, and put both side by side.

    Args:
        request: What.
        step: Told what is being done, and the share of that which is done.

    Raises:
        VerifyError: There is nothing to compare.
        KafkaAdminError: Kafka does not let us read, or write the topic.
    """
    history, pipeline = request.history, request.history.pipeline
    settings = history.settings
    names = [pipeline.events.topic, pipeline.predictions, str(pipeline.dead_letters)]
    missing = sorted(set(names) - set(topic_partitions(settings.bootstrap, names, settings.kafka_properties)))
    if missing:
        raise VerifyError(f"topic {', '.join(missing)} does not exist at {settings.bootstrap}")
    with own_folder(settings) as folder:
        answers = read_answers(history, folder, step)
        if request.base is None and not answers.count[PREDICTION]:
            raise VerifyError(
                f"no prediction of pipeline {pipeline.name} is committed in {pipeline.predictions}: give --against "
                "VERSION to compare two versions without"
            )
        beginning = beginning_of(history, answers)
        made = recompute(history, beginning, answers, folder, step)
        side = SideBySide(request, answers, beginning)
        with ExitStack() as opened:
            if request.target is not None:
                opened.enter_context(request.target)
            done = 0
            for bucket, now in recomputed_stretches(pipeline, folder / "now.parquet", None, []):
                side.add(bucket, now)
                done += len(now.offsets)
                step("scoring", min(1.0, done / max(1, made.rows)))
        return side.report()


class SideBySide:
    """Gathers both scores of each event.

    Args:
        request: Whose.
        answers: What was served.
        beginning: For the report.
    """

    def __init__(self, request: ForkRequest, answers: ServedAnswers, beginning: JobBeginning) -> None:
        self._request, self._answers = request, answers
        self._models = ReceiptModels(request.history.pipeline)
        self._names: dict[tuple[str, str], int] = {}
        self._parts: list[tuple[npt.NDArray[Any], ...]] = []
        self._outputs = request.history.pipeline.outputs
        nothing = _scores([np.empty(0, np.int64), self._outputs.nothing(0), np.empty(0, np.int64)], {})
        self._report = ForkReport(beginning, nothing, nothing)

    def add(self, bucket: Bucket, now: Recomputed) -> None:
        """Score a stretch of events of a partition."""
        request, report, partition, outputs = self._request, self._report, bucket[0], self._outputs
        scores, failed = predict_each(request.model, now.features, outputs)
        good = np.ones(len(scores), np.bool_)
        good[list(failed)] = False
        report.events += len(scores)
        report.failed += len(failed)
        before, which = self._served(bucket, now) if request.base is None else self._base_scores(request.base, now)
        if request.target is not None:
            told = scores.copy()
            told[~good] = np.nan
            report.written += request.target.write(partition, now, told, before)
        both = good & outputs.finite(before)
        apart = outputs.apart(before, scores)
        places = places_of(np.full(len(scores), partition, np.int64), now.offsets)
        self._parts.append((places[both], before[both], scores[both], which[both]))
        for row in np.flatnonzero(both)[np.argsort(-apart[both], kind="stable")[: request.most]]:
            was, new = self._value(before[row : row + 1]), self._value(scores[row : row + 1])
            report.largest.append(Difference(float(apart[row]), partition, int(now.offsets[row]), was, new))
        report.largest = heapq.nlargest(request.most, report.largest, key=lambda each: each.difference)

    def _value(self, scores: npt.NDArray[np.float64]) -> Any:
        return float(scores[0]) if self._outputs.is_number else self._outputs.values(scores)

    def report(self) -> ForkReport:
        """What came of all of them."""
        columns = [np.concatenate(each) for each in zip(*self._parts, strict=True)] if self._parts else []
        report = self._report
        if columns:
            order = np.argsort(columns[0])
            places, before, now, which = (each[order] for each in columns)
            report.before = _scores([places, before, which], self._names)
            name = str(self._request.model.manifest.version), FORK
            report.now = _scores([places, now, np.zeros(len(now), np.int64)], {name: 0})
        return report

    def _base_scores(
        self, base: OnnxModel, now: Recomputed
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        scores, failed = predict_each(base, now.features, self._outputs)
        scores = scores.copy()
        scores[list(failed)] = np.nan
        if failed:
            self._report.left_out["the version compared with fails"] += len(failed)
        return scores, np.full(len(scores), self._number(str(base.manifest.version), ""), np.int64)

    def _served(
        self, bucket: Bucket, now: Recomputed
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """The first prediction that was served of each event, NaN without one, and by which model."""
        answers = self._answers.bucket(bucket)
        answers = answers[answers["kind"] == PREDICTION]
        offsets, first = np.unique(answers["offset"], return_index=True)
        _, of_answers, of_events = np.intersect1d(offsets, now.offsets, assume_unique=True, return_indices=True)
        answers = answers[first[of_answers]]
        before = self._outputs.nothing(len(now.offsets), np.nan)
        which = np.zeros(len(now.offsets), np.int64)
        before[of_events] = answers["score"]
        for number in np.unique(answers["named"]).tolist():
            named, mine = self._answers.models[number], answers["named"] == number
            which[of_events[mine]] = self._number(named.version, "served")
            self._check(self._models.model(named), now.features[of_events[mine]], answers["score"][mine])
        if without := len(before) - int(self._outputs.finite(before).sum()):
            self._report.left_out[NO_PREDICTION] += without
        return before, which

    def _check(
        self, model: OnnxModel | str, features: npt.NDArray[np.float64], served: npt.NDArray[np.float64]
    ) -> None:
        """Whether what was served comes out again: if not, the other version's scores are of other windows, too."""
        if isinstance(model, str):
            self._report.unchecked += len(served)
            return
        again = int(self._outputs.alike(scores_as_served(model, features, served, self._outputs).scores, served).sum())
        self._report.again += again
        self._report.not_again += len(served) - again

    def _number(self, version: str, role: str) -> int:
        return self._names.setdefault((version, role), len(self._names))


def _scores(columns: list[npt.NDArray[Any]], names: Mapping[tuple[str, str], int]) -> Scores:
    places, scores, which = columns
    return Scores(places, scores, which, list(names))
