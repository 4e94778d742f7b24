"""What comes out now for the events of a topic, as a backfill computed it again: stretch by stretch."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.parquet

from flink_jobs.row_marks import StretchRows
from flink_jobs.served_answers import BUCKET_OFFSETS, Bucket, identity
from udfs.entity_state import LATE, TRUNCATED
from udfs.pipeline import Pipeline

pa: Any = pyarrow
pq: Any = pyarrow.parquet
READ_ROWS = 65_536


@dataclass
class Recomputed:
    """What comes out now for a stretch of events, in order of offsets.

    Attributes:
        offsets: (n,) int64 of events.
        times_ms: (n,) int64.
        flags: (n,) uint8.
        identities: (n,) int64.
        features: (n, features) float64.
        letters: Reasons of records that are no events, by offset.
        entities: n names.
        seen: What is to be said of the rows of lookups that they saw; None where nothing is.
    """

    offsets: npt.NDArray[np.int64]
    times_ms: npt.NDArray[np.int64]
    flags: npt.NDArray[np.uint8]
    identities: npt.NDArray[np.int64]
    features: npt.NDArray[np.float64]
    letters: dict[int, str] = field(default_factory=dict)
    entities: list[str] = field(default_factory=list)
    seen: StretchRows | None = None

    def why_unsure(self, place: int) -> str | None:
        """Why the features of an event cannot be computed again; None if they can."""
        return None if self.seen is None else self.seen.why_unsure(place)


def recomputed_stretches(
    pipeline: Pipeline, rows: Path, letters: Path | None, wanted: list[Bucket]
) -> Iterator[tuple[Bucket, Recomputed]]:
    """The training set that a backfill of the topic made, stretch by stretch; those of `wanted` even if empty.

    Args:
        pipeline: Whose features.
        rows: The training set: partition by partition, by offset.
        letters: Records that were no events, in the same order.
        wanted: In order.
    """
    row_source, letter_source = _rows(pipeline, rows), _letters(letters)
    row, letter = next(row_source, None), next(letter_source, None)
    waiting = list(reversed(wanted))
    while row or letter or waiting:
        heads = [each[0] for each in (row, letter) if each] + waiting[-1:]
        bucket = min(heads)
        parts: list[Recomputed] = []
        found_letters: dict[int, str] = {}
        while row and row[0] == bucket:
            parts.append(row[1])
            row = next(row_source, None)
        while letter and letter[0] == bucket:
            found_letters[letter[1]] = letter[2]
            letter = next(letter_source, None)
        if waiting and waiting[-1] == bucket:
            waiting.pop()
        yield bucket, _joined(parts, len(pipeline.feature_names), found_letters)


def _rows(pipeline: Pipeline, path: Path) -> Iterator[tuple[Bucket, Recomputed]]:
    names = pipeline.feature_names
    about = ["_partition", "_offset", "_event_id", "_entity", "_event_time", "_late", "_truncated"]
    with pq.ParquetFile(path) as file:
        if "_partition" not in file.schema_arrow.names:  # nothing was read
            return
        for batch in file.iter_batches(READ_ROWS, columns=[*about, *names]):
            partitions, offsets = batch.column("_partition").to_numpy(), batch.column("_offset").to_numpy()
            numbers = offsets // BUCKET_OFFSETS
            cuts = np.flatnonzero((np.diff(partitions) != 0) | (np.diff(numbers) != 0)) + 1
            marks = batch.column("_late").to_numpy(zero_copy_only=False) * np.uint8(LATE)
            marks = marks + batch.column("_truncated").to_numpy(zero_copy_only=False) * np.uint8(TRUNCATED)
            who = list(zip(batch.column("_event_id").to_pylist(), batch.column("_entity").to_pylist(), strict=True))
            entities = [entity for _, entity in who]
            identities = np.array([identity(*each) for each in who], np.int64)
            times = batch.column("_event_time").cast(pa.int64()).to_numpy()
            features = np.array([batch.column(name).to_numpy() for name in names]).T
            for begin, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(offsets)], strict=True):
                part = slice(begin, end)
                if begin < end:
                    yield (int(partitions[begin]), int(numbers[begin])), Recomputed(
                        offsets[part], times[part], marks[part].astype(np.uint8), identities[part], features[part],
                        entities=entities[part],
                    )  # fmt: skip


def _letters(path: Path | None) -> Iterator[tuple[Bucket, int, str]]:
    if path is None:
        return
    with path.open("rb") as lines:
        for line in lines:
            letter = json.loads(line)
            offset = letter["offset"]
            yield (letter["partition"], offset // BUCKET_OFFSETS), offset, letter["reason"]


def _joined(parts: list[Recomputed], width: int, letters: dict[int, str]) -> Recomputed:
    if not parts:
        nothing = np.empty(0, np.int64)
        return Recomputed(nothing, nothing, np.empty(0, np.uint8), nothing, np.empty((0, width)), letters)
    names = ("offsets", "times_ms", "flags", "identities", "features")
    arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Recomputed(**arrays, letters=letters, entities=[name for part in parts for name in part.entities])
