"""Events in against answers out: which have none, which have two, and how long the answers took.

An event is identified by its partition and offset; every answer (prediction or dead letter) names those of its event in
its headers, so nothing is estimated.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from confluent_kafka import Message

from flink_jobs.committed_reader import receipt
from udfs.pipeline import Pipeline

Place = tuple[int, int]
Record = tuple[bytes | None, bytes | None]


@dataclass(frozen=True)
class Source:
    """A record of the events topic: when Kafka got it (ms since 1970), and the dead-letter reason it must get."""

    record_time_ms: int
    must_be_refused: str | None


@dataclass(frozen=True)
class Balance:
    """What came of the events.

    Attributes:
        produced: Records in the events topic.
        predictions: Predictions of them.
        missing: Events without any answer.
        duplicated: Answers beyond the first of an event.
        dead_letters: Dead letters of them.
        dead_letter_reasons: How many of each reason.
        unexpected: Answers that should not be: a good event refused, a broken one scored or refused for another
            reason, or an answer to no event; the first few as text.
    """

    produced: int
    predictions: int
    missing: int
    duplicated: int
    dead_letters: int
    dead_letter_reasons: dict[str, int]
    unexpected: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether every event has exactly the one answer it must have."""
        return not (self.missing or self.duplicated or self.unexpected)


@dataclass
class Ledger:
    """Collects events and answers in whatever order they are read.

    Attributes:
        pipeline: Whose topics are read.
        broken: Records that must become dead letters, and the reason of each.
    """

    pipeline: Pipeline
    broken: Mapping[Record, str] = field(default_factory=dict)
    sources: dict[Place, Source] = field(default_factory=dict)
    predicted_at_ms: dict[Place, int] = field(default_factory=dict)
    refused: dict[Place, str] = field(default_factory=dict)
    answers: int = 0

    def add(self, message: Message, seen_at_ms: int) -> None:
        """Enter a record of one of the three topics."""
        topic = message.topic()
        if topic == self.pipeline.events.topic:
            place = (int(message.partition() or 0), int(message.offset() or 0))
            reason = self.broken.get((message.key(), message.value())) if self.broken else None
            self.sources[place] = Source(message.timestamp()[1], reason)
            return
        headers = receipt(message)
        if headers.get("pipeline") != self.pipeline.name:
            return
        place = (int(headers["partition"]), int(headers["offset"]))
        self.answers += 1
        if topic == self.pipeline.predictions:
            self.predicted_at_ms.setdefault(place, seen_at_ms)
        else:
            self.refused.setdefault(place, headers["reason"])

    def balance(self) -> Balance:
        """The account so far."""
        answered = self.predicted_at_ms.keys() | self.refused.keys()
        unexpected = [f"an answer to no event: {place}" for place in sorted(answered - self.sources.keys())]
        for place, source in self.sources.items():
            got = self.refused.get(place)
            if place in answered and got != source.must_be_refused:
                wanted = source.must_be_refused or "a prediction"
                unexpected.append(f"event {place[0]}@{place[1]}: {got or 'a prediction'} instead of {wanted}")
        return Balance(
            produced=len(self.sources),
            predictions=len(self.predicted_at_ms),
            missing=len(self.sources.keys() - answered),
            duplicated=self.answers - len(answered),
            dead_letters=len(self.refused),
            dead_letter_reasons=dict(sorted(Counter(self.refused.values()).items())),
            unexpected=tuple(unexpected),
        )

    def latencies_ms(self, after_ms: int = 0) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        """(n,) ms from Kafka's record time to when the prediction was read, of events that Kafka got after a time."""
        found = [
            seen_at_ms - self.sources[place].record_time_ms
            for place, seen_at_ms in self.predicted_at_ms.items()
            if place in self.sources and self.sources[place].record_time_ms >= after_ms
        ]
        return np.array(found, np.float64)
