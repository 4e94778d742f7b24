"""Feature vectors that were written, against those that come out now, stretch by stretch of the events' topic.

The topic of features is compacted: that one is not there says nothing, nor that one is there twice. Those that are
there must be right.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from flink_jobs.answer_comparison import (
    OF_THE_EVENT,
    OLDER_THAN_TOPIC,
    WARMED_UP,
    WRONG_VECTOR,
    Finding,
    Findings,
    Judged,
)
from flink_jobs.recomputed import Recomputed
from flink_jobs.served_answers import Bucket, ServedAnswers
from flink_jobs.settings import Settings
from udfs.entity_state import WARMING
from udfs.pipeline import Pipeline
from udfs.scoring import FLAG_NAMES

OTHER_FEATURES = "feature vectors of another feature set"


def written_vectors(pipeline: Pipeline, folder: Path, settings: Settings) -> ServedAnswers:
    """Vectors in place of answers, to be read from the topic of features."""
    as_predictions = replace(
        pipeline,
        predictions=str(pipeline.features_topic),
        features_topic=None,
        sessions=None,
        output_format=pipeline.features_format or pipeline.output_format,
        include_features=True,
        include=(),
    )
    return ServedAnswers(as_predictions, folder, settings)


class VectorComparison:
    """Compares stretch by stretch.

    Args:
        pipeline: Whose.
        vectors: From `written_vectors`.
        judged: Which events.
        findings: Where it is counted.
        most: Findings to keep whole.
    """

    def __init__(
        self, pipeline: Pipeline, vectors: ServedAnswers, judged: Judged, findings: Findings, most: int
    ) -> None:
        self._pipeline, self._vectors, self._judged = pipeline, vectors, judged
        self._findings, self._most, self._feature_set = findings, most, pipeline.feature_set_hash()

    def compare(self, bucket: Bucket, now: Recomputed) -> None:
        """Compare the vectors of a stretch with what comes out now."""
        partition, rows = bucket[0], self._vectors.bucket(bucket)
        rows = rows[rows["offset"] >= self._judged.due_from.get(partition, self._judged.begins.get(partition, 0))]
        others = np.array([each.feature_set != self._feature_set for each in self._vectors.models], np.bool_)
        if len(rows) and others.any():
            of_others = others[rows["named"]]
            self._count(OTHER_FEATURES, int(of_others.sum()))
            rows = rows[~of_others]
        warming = (rows["flags"] < len(FLAG_NAMES)) & (rows["flags"] & WARMING > 0)
        self._count(WARMED_UP, int(warming.sum()))
        rows = rows[~warming]
        known = np.isin(rows["offset"], now.offsets)
        for row in rows[~known]:
            if self._judged.since_ms <= row["time_ms"] < self._judged.until_ms:
                self._find(partition, row, "the vector of a record that is no event", {})
        rows = rows[known]
        places = np.searchsorted(now.offsets, rows["offset"])
        features = now.features[places]
        told = np.where(np.isfinite(features), features, np.nan)  # as JSON has it
        same = (rows["features"] == told) | (np.isnan(rows["features"]) & np.isnan(told))
        names = self._pipeline.feature_names
        equal = {
            "flags": rows["flags"] == now.flags[places],
            "event time": rows["time_ms"] == now.times_ms[places],
            "event id or entity": rows["identity"] == now.identities[places],
            **dict(zip(names, same.T, strict=True)),
        }
        if now.seen is not None:
            equal |= now.seen.right(places)
        good = np.logical_and.reduce(list(equal.values()))
        older = now.times_ms[places] < self._judged.full_from_ms.get(partition, -(2**62))
        self._findings.vectors += int(good.sum())
        self._count(OLDER_THAN_TOPIC, int((~good & older).sum()))
        for number in np.flatnonzero(~good & ~older).tolist():
            unsure = now.why_unsure(int(places[number]))
            if unsure is not None and all(equal[name][number] for name in OF_THE_EVENT):
                self._count(unsure, 1)
                continue
            what = "in its vector, " + ", ".join(name for name, alike in equal.items() if not alike[number])
            expected = dict(zip(names, told[number].tolist(), strict=True))
            self._find(partition, rows[number], what, {"features": expected})

    def _count(self, why: str, vectors: int) -> None:
        if vectors:
            self._findings.unverifiable[why] += vectors

    def _find(self, partition: int, row: np.void, what: str, now: dict[str, dict[str, float]]) -> None:
        self._findings.counts[WRONG_VECTOR] += 1
        if self._findings.counts[WRONG_VECTOR] <= self._most:
            place = partition, int(row["offset"])
            self._findings.first.append(Finding(WRONG_VECTOR, place, what, (self._vectors.place(row),), now))
