"""Answers of the running job against those of its would-be successor, event by event."""

import heapq
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flink_jobs.decoding import ValueReader
from models.outputs import Outputs
from udfs.json_events import json_fields
from udfs.lookup_join import places_told

Place = tuple[int, int]
ROUNDED = 1e-6
"""Relative: several units in the last place of a float of 32 bits, and far below what a feature changes."""


@dataclass(frozen=True)
class Answer:
    """An answer to one event.

    Attributes:
        score: None in a dead letter; of more than one number all of them, as of `models.outputs`.
        reason: Of a dead letter; empty in a prediction.
        event: The event's id, for people.
        warming: Features that were warming up.
        rows: Of each lookup, where the row is that the event saw; as of `udfs.lookup_join.places_told`.
    """

    score: float | tuple[float, ...] | None
    reason: str = ""
    event: str = ""
    warming: str = ""
    rows: Mapping[str, Place | None] = field(default_factory=dict)


def answer_of(
    value: bytes | None,
    headers: Mapping[str, str],
    outputs: Outputs,
    event_id: str,
    read: ValueReader = json_fields,
) -> tuple[Place, Answer]:
    """The place of an event and its answer.

    Args:
        value: Of the output record.
        headers: Without their prefix.
        outputs: Of the prediction.
        event_id: Name of the id.
        read: Reads the value of a prediction.
    """
    place = int(headers["partition"]), int(headers["offset"])
    rows = places_told(headers["lookups"]) if "lookups" in headers else {}
    if "reason" in headers:
        return place, Answer(None, headers["reason"], rows=rows)
    body = read(value or b"")
    about = str(body.get(event_id, "")), headers.get("warming", ""), rows
    try:
        numbers = tuple(outputs.numbers(body))
    except ValueError:
        return place, Answer(None, "", *about)
    return place, Answer(numbers[0] if outputs.is_number else numbers, "", *about)


@dataclass
class DryRunComparison:
    """What differs.

    Attributes:
        events: Events that both answered.
        equal: With the same score, to the last bit, or the same reason.
        rounded: With scores that are less than ROUNDED of them apart: a model may round a row by its place in a batch.
        worst: Largest differences of scores: (difference, place, before, now), the smallest first.
        most: How many of them are kept.
        only_before: Events that only the running job has answered.
        only_now: Events that only the new one has answered.
        refused: Predictions that became dead letters, or the other way round, by what happened.
        warming: Events with a feature that warms up.
        other_rows: Events that saw another row of a lookup in the one than in the other.
        total: Sum of all differences.
    """

    most: int = 5
    events: int = 0
    equal: int = 0
    rounded: int = 0
    worst: list[tuple[float, Place, Answer, Answer]] = field(default_factory=list)
    only_before: int = 0
    only_now: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    warming: int = 0
    other_rows: int = 0
    total: float = 0.0

    def compare(self, before: Mapping[Place, Answer], now: Mapping[Place, Answer]) -> "DryRunComparison":
        """Compare the answers to the same events."""
        self.only_before, self.only_now = len(before.keys() - now.keys()), len(now.keys() - before.keys())
        for place in sorted(before.keys() & now.keys()):
            self._one(place, before[place], now[place])
        return self

    def _one(self, place: Place, was: Answer, new: Answer) -> None:
        self.events += 1
        self.warming += bool(new.warming)
        self.other_rows += any(was.rows[name] != new.rows[name] for name in was.rows.keys() & new.rows.keys())
        if (was.score, was.reason) == (new.score, new.reason):
            self.equal += 1
            return
        if was.score is None or new.score is None:
            self.refused[f"{was.reason or 'a prediction'} becomes {new.reason or 'a prediction'}"] += 1
            return
        if np.allclose(was.score, new.score, rtol=ROUNDED, atol=0.0):
            self.rounded += 1
            return
        difference = float(np.max(np.abs(np.subtract(was.score, new.score))))
        self.total += difference
        heapq.heappush(self.worst, (difference, place, was, new))
        if len(self.worst) > self.most:
            heapq.heappop(self.worst)

    @property
    def differing(self) -> int:
        """Events with two scores that no rounding explains."""
        return self.events - self.equal - self.rounded - self.refused.total()

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        worst = sorted(self.worst, key=lambda each: (-each[0], each[1]))
        return {
            "events": self.events,
            "equal": self.equal,
            "rounded": self.rounded,
            "differing": self.differing,
            "refused": dict(self.refused),
            "only_before": self.only_before,
            "only_now": self.only_now,
            "warming": self.warming,
            "other_rows": self.other_rows,
            "max_difference": worst[0][0] if worst else 0.0,
            "mean_difference": self.total / self.events if self.events else math.nan,
            "worst": [
                {
                    "partition": place[0], "offset": place[1], "event_id": new.event, "before": was.score,
                    "now": new.score, "difference": difference, "warming": new.warming,
                }
                for difference, place, was, new in worst
            ],
        }  # fmt: skip
