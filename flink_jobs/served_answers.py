"""What was answered: all committed predictions and dead letters of a pipeline.

They are kept on disk by the place of their event, and so can be compared stretch by stretch in little memory.
"""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from confluent_kafka import Message

from flink_jobs.decoding import prediction_reader
from flink_jobs.receipt_models import RECEIPT_NAMES, ReceiptModel
from flink_jobs.settings import Settings
from flink_jobs.topic_scan import Span, scan
from udfs.lookup_join import places_told
from udfs.pipeline import Pipeline
from udfs.receipts import ROWS_SEEN
from udfs.scoring import FLAG_NAMES
from udfs.wire_formats import HEADER

BUCKET_OFFSETS = 131_072
FLUSH_ROWS = 20_000
FIRST_ANSWERS = 1_000  # of a topic whose beginning is deleted: about what answers of one moment are spread over
ONE_MOMENT_MS = 60_000
ALL_EVENTS = np.iinfo(np.int64).max
PREDICTION, DEAD_LETTER = 0, 1
NO_ROW, NOT_TOLD = (-2, -2), (-3, -3)  # in place of where a row of a lookup is
NO_TIME = -1
Score = float | list[float]
Bucket = tuple[int, int]
"""Partition of the events topic, and offset // BUCKET_OFFSETS."""


def identity(event_id: object, entity: object) -> int:
    """A number for an event's id and entity, the same within this process."""
    return hash((str(event_id), str(entity)))


class PlaceOfAnswer(NamedTuple):
    """Where an answer lies itself."""

    topic: str
    partition: int
    offset: int


class AnswerFiles(NamedTuple):
    """Where answers are kept, for other processes too.

    Attributes:
        folder: Of the files.
        row_type: Of their rows.
    """

    folder: Path
    row_type: np.dtype[Any]

    def path(self, bucket: Bucket) -> Path:
        """The file of a stretch."""
        return self.folder / f"{bucket[0]:06d}-{bucket[1]:012d}.answers"

    def bucket(self, bucket: Bucket) -> npt.NDArray[Any]:
        """(n,) of `row_type`: the answers to a stretch, by offset and then by the place of the answer."""
        path = self.path(bucket)
        rows = np.fromfile(path, self.row_type) if path.exists() else np.empty(0, self.row_type)
        ordered: npt.NDArray[Any] = rows[np.lexsort((rows["at_offset"], rows["kind"], rows["offset"]))]
        return ordered


class ServedAnswers:
    """The answers of a pipeline.

    Args:
        pipeline: Whose.
        folder: An empty folder to spill to.

    Attributes:
        files: Where they are kept.
        models: What receipts say, by the number in column `named`.
        reasons: Of dead letters, by the number in column `named`.
        foreign: Records of others in the same topics.
        elsewhere: Answers of this pipeline to events of other topics, by topic.
        first: Lowest offset answered of each partition of the events.
        ends: Offset after the highest one answered.
        kept_from: Where the beginning of an answers' topic is deleted: answers to events before these offsets may be
            deleted with it.
        beginning_deleted: Whether the beginning of an answers' topic is.
    """

    def __init__(self, pipeline: Pipeline, folder: Path, settings: Settings | None = None) -> None:
        self._pipeline = pipeline
        features = [("features", np.float64, (len(pipeline.feature_names),))] if pipeline.include_features else []
        rows = [("rows", np.int64, (len(pipeline.lookups), 2))] if pipeline.lookups else []
        self.files = AnswerFiles(folder, np.dtype([
            ("offset", np.int64), ("at_offset", np.int64), ("identity", np.int64), ("time_ms", np.int64),
            ("score", np.float64, pipeline.outputs.shape), ("named", np.int32), ("at_partition", np.int32),
            ("kind", np.uint8), ("flags", np.uint8), *features, *rows,
        ]))  # fmt: skip
        self.models: list[ReceiptModel] = []
        self.reasons: list[str] = []
        self.foreign = 0
        self.elsewhere: Counter[str] = Counter()
        self.count: Counter[int] = Counter()
        self.first: dict[int, int] = {}
        self.ends: dict[int, int] = {}
        self.kept_from: dict[int, int] = {}
        self.beginning_deleted = False
        self._model_numbers: dict[tuple[bytes, ...], int] = {}
        self._reason_numbers: dict[bytes, int] = {}
        self._waiting: dict[Bucket, list[tuple[Any, ...]]] = {}
        self._waiting_rows = 0
        self._no_score: Score = math.nan if pipeline.outputs.is_number else [math.nan] * pipeline.outputs.width
        self._no_features = [math.nan] * len(pipeline.feature_names)
        self._decode = prediction_reader(pipeline, settings)

    def read(
        self,
        bootstrap: str,
        properties: dict[str, str],
        spans: dict[str, dict[int, Span]],
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Read all answers of spans of the topics of predictions and of dead letters; may be called again for more.

        Args:
            bootstrap: Where the brokers are.
            properties: Client properties.
            spans: By topic and partition.
            progress: Told how many records were read.
        """
        for topic, partitions in spans.items():
            kind = PREDICTION if topic == self._pipeline.predictions else DEAD_LETTER
            first_kept: dict[Any, list[Message]] = {at: [] for at, (begin, _) in partitions.items() if begin > 0}
            for messages in scan(bootstrap, properties, topic, partitions):
                for message in messages:
                    self._enter(message, kind)
                    first = first_kept.get(message.partition())
                    if first is not None and len(first) < FIRST_ANSWERS:
                        first.append(message)
                progress(sum(self.count.values()) + self.foreign)
            for each in first_kept.values():
                self._note_cut(each)
        self._flush()

    def buckets(self) -> list[Bucket]:
        """Stretches of the events that have answers, in order."""
        names = (path.stem.split("-") for path in self.files.folder.glob("*.answers"))
        return sorted((int(partition), int(number)) for partition, number in names)

    def bucket(self, bucket: Bucket) -> npt.NDArray[Any]:
        """As of `AnswerFiles`."""
        return self.files.bucket(bucket)

    def place(self, row: Any) -> PlaceOfAnswer:
        """Where an answer lies."""
        pipeline = self._pipeline
        topic = pipeline.predictions if row["kind"] == PREDICTION else str(pipeline.dead_letters)
        return PlaceOfAnswer(topic, int(row["at_partition"]), int(row["at_offset"]))

    def _enter(self, message: Message, kind: int) -> None:
        told = _told(message)
        if told.get(_PIPELINE) != self._pipeline.name.encode():
            self.foreign += 1
            return
        place = _place(told)
        if place is None:
            self.foreign += 1
            return
        partition, offset = place
        self.count[kind] += 1
        topic = (told.get(_TOPIC) or b"").decode("utf-8", "replace")
        if topic != self._pipeline.events.topic:
            self.elsewhere[topic] += 1
            return
        self.first[partition] = min(self.first.get(partition, offset), offset)
        self.ends[partition] = max(self.ends.get(partition, 0), offset + 1)
        if kind == PREDICTION:
            who, time_ms, score, features = self._prediction(message, told)
            named = self._model(told)
        else:
            who, time_ms, score, features = 0, NO_TIME, self._no_score, self._no_features
            named = self._reason(told.get(_REASON, b""))
        flags = _FLAGS.get(told.get(_FLAG_NAMES, b""), 255)
        row: tuple[Any, ...] = offset, message.offset(), who, time_ms, score, named, message.partition(), kind, flags
        if self._pipeline.include_features:
            row = *row, features
        if self._pipeline.lookups:
            row = *row, self._rows_seen(told)
        self._waiting.setdefault((partition, offset // BUCKET_OFFSETS), []).append(row)
        self._waiting_rows += 1
        if self._waiting_rows >= FLUSH_ROWS:
            self._flush()

    def _prediction(self, message: Message, told: dict[str, bytes]) -> tuple[int, int, Score, list[float]]:
        """identity, time_ms, score, features: what cannot be read is a number that nothing equals."""
        events, who, score, features = self._pipeline.events, 0, self._no_score, None
        try:
            value = self._decode(message.value() or b"")
            who = identity(value[events.id], value[events.entity])
            features = value.get("features")
            numbers = self._pipeline.outputs.numbers(value)
            score = numbers[0] if self._pipeline.outputs.is_number else numbers
        except (KeyError, TypeError, ValueError, AttributeError):
            pass
        try:
            time_ms = int(told[_EVENT_TIME])
        except (KeyError, ValueError, TypeError):
            time_ms = NO_TIME
        return who, time_ms, score, self._row_of(features)

    def _row_of(self, features: Any) -> list[float]:
        names = self._pipeline.feature_names
        if not isinstance(features, dict) or features.keys() != set(names):
            return [math.inf] * len(names)  # predictions have no infinity: nothing equals it
        values = [features[name] for name in names]
        return [math.nan if each is None else each for each in values]

    def _rows_seen(self, told: dict[str, bytes]) -> list[tuple[int, int]]:
        """Of each lookup, the place of the row that the event saw."""
        try:
            places = places_told(told[ROWS_SEEN].decode())
        except (KeyError, ValueError, AttributeError):
            places = {}
        found = [places.get(each.name, NOT_TOLD) for each in self._pipeline.lookups]
        return [NO_ROW if each is None else each for each in found]

    def _model(self, told: dict[str, bytes]) -> int:
        key = tuple(told.get(name, b"") or b"" for name in _NAMED)
        if key not in self._model_numbers:
            self._model_numbers[key] = len(self.models)
            texts = {name.removeprefix(HEADER): (told.get(name) or b"").decode("utf-8", "replace") for name in _NAMED}
            self.models.append(ReceiptModel.of(texts))
        return self._model_numbers[key]

    def _reason(self, reason: bytes) -> int:
        if reason not in self._reason_numbers:
            self._reason_numbers[reason] = len(self.reasons)
            self.reasons.append(reason.decode("utf-8", "replace"))
        return self._reason_numbers[reason]

    def _note_cut(self, first_kept: list[Message]) -> None:
        """Learn from the first answers that a partition keeps up to which event answers may be deleted.

        Answers of one moment lie in any order, so where no later moment is kept, any event's may be.
        """
        if not first_kept:
            return
        self.beginning_deleted = True
        times = [message.timestamp()[1] for message in first_kept]
        one_moment = len(first_kept) < FIRST_ANSWERS and max(times) - min(times) < ONE_MOMENT_MS
        ours = self._pipeline.name.encode(), self._pipeline.events.topic.encode()
        for message in first_kept:
            told = _told(message)
            place = _place(told)
            if place and (told.get(_PIPELINE), told.get(_TOPIC)) == ours:
                offset = ALL_EVENTS if one_moment else place[1]
                self.kept_from[place[0]] = max(self.kept_from.get(place[0], 0), offset)

    def _flush(self) -> None:
        for bucket, rows in self._waiting.items():
            with self.files.path(bucket).open("ab") as file:
                np.array(rows, self.files.row_type).tofile(file)
        self._waiting, self._waiting_rows = {}, 0


def _told(message: Message) -> dict[str, bytes]:
    headers: Any = message.headers() or ()
    return dict(headers)


def _place(told: dict[str, bytes]) -> tuple[int, int] | None:
    """Partition and offset of the event that is answered; None if the receipt has no such."""
    try:
        return int(told[_PARTITION]), int(told[_OFFSET])
    except (KeyError, ValueError, TypeError):
        return None


def spans_of(starts: dict[int, int], ends: dict[int, int]) -> dict[int, Span]:
    """The spans from starts to ends."""
    return {partition: (begin, ends.get(partition, begin)) for partition, begin in sorted(starts.items())}


_PIPELINE, _PARTITION, _OFFSET = f"{HEADER}pipeline", f"{HEADER}partition", f"{HEADER}offset"
_TOPIC, _REASON, _FLAG_NAMES = f"{HEADER}topic", f"{HEADER}reason", f"{HEADER}flags"
_EVENT_TIME = f"{HEADER}event-time"
_NAMED = (_TOPIC, *(f"{HEADER}{each}" for each in RECEIPT_NAMES))
_FLAGS = {name.encode(): number for number, name in enumerate(FLAG_NAMES)}
