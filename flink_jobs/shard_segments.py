"""The events of one shard, in the order the features are defined in, through the engine: features, or the state left.

Files: the order of the source, or of a field. Topics: each partition by offset; partitions do not matter to each other,
unless an entity has events in several: then all are merged by record time.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flink_jobs.history import Piece
from flink_jobs.spill import PieceFiles, PieceIndex, RowLayout, Segment, SegmentReader
from udfs.entity_state import Advanced, ShardState
from udfs.key_places import key_partitions
from udfs.pipeline import Pipeline
from udfs.plan import FeaturePlan

SORTED_ROWS = 65_536

_Stretch = tuple[list[str], Segment, npt.NDArray[np.int32]]
"""Entities, events and partitions."""


@dataclass(frozen=True)
class Source:
    """What is read: the events, or the label events.

    Attributes:
        pipeline: Whose events; for labels one that says what a label event is.
        pieces: In order.
        folder: For what was read.
        order_by: A number field that says the order of arrival.
        keyed: Whether a record's key must be its entity.
    """

    pipeline: Pipeline
    pieces: tuple[Piece, ...]
    folder: Path
    order_by: str | None = None
    keyed: bool = True

    @property
    def from_topic(self) -> bool:
        """Whether the pieces are of a topic."""
        return any(piece.kind == "topic" for piece in self.pieces)


def layout_of(source: Source, plan: FeaturePlan) -> RowLayout:
    """Which arrays the rows of a source have."""
    return RowLayout.of(plan, from_topic=source.from_topic, by_field=source.order_by is not None)


class ShardSegments:
    """The segments of a shard.

    Args:
        source: All pieces of which are finished.
        plan: Of its pipeline.
        shard: Which.
    """

    def __init__(self, source: Source, plan: FeaturePlan, shard: int) -> None:
        self._source, self._plan, self._shard = source, plan, shard
        self._layout = layout_of(source, plan)

    def stored(self) -> Iterator[tuple[Segment, npt.NDArray[np.int32]]]:
        """Segments in the order of the source, and the partition of each event."""
        partitions = self._source.pipeline.events.partitions
        for number, piece in enumerate(self._source.pieces):
            files = PieceFiles.of(self._source.folder, number)
            reader = SegmentReader(files, _index_of(files), self._layout)
            for block in range(reader.blocks):
                segment = reader.segment(block, self._shard)
                if piece.kind == "topic":
                    yield segment, np.full(len(segment.codes), piece.partition, np.int32)
                elif segment.keys:
                    yield segment, key_partitions(segment.keys, partitions)[segment.codes]

    def advanced(self) -> Iterator[tuple[Segment, Advanced]]:
        """Every segment in the order of the source, with its features."""
        state = ShardState(self._plan, log_changes=False)
        if self._must_be_sorted():
            yield from self._sorted(state)
            return
        for segment, partitions in self.stored():
            yield segment, _advance(state, _names(segment), segment, partitions)

    def state(self) -> ShardState:
        """What the shard keeps after all events."""
        state = ShardState(self._plan, log_changes=False)
        for names, segment, partitions in self._arrivals() if self._must_be_sorted() else self._as_stored():
            state.take_in(
                names, segment.times_ms, segment.record_times_ms, partitions, segment.columns, segment.masks
            )
        return state

    def _must_be_sorted(self) -> bool:
        by_field = self._source.order_by is not None
        return by_field or (self._source.from_topic and self._entity_has_several_partitions())

    def _as_stored(self) -> Iterator[_Stretch]:
        for segment, partitions in self.stored():
            yield _names(segment), segment, partitions

    def _arrivals(self) -> Iterator[_Stretch]:
        for _, stretch in self._by_arrival(list(self.stored())):
            yield stretch

    def _entity_has_several_partitions(self) -> bool:
        known: dict[str, int] = {}
        for number, piece in enumerate(self._source.pieces):
            files = PieceFiles.of(self._source.folder, number)
            reader = SegmentReader(files, _index_of(files), self._layout)
            for block in range(reader.blocks):
                for key in reader.keys(block, self._shard):
                    if known.setdefault(key, piece.partition) != piece.partition:
                        return True
        return False

    def _sorted(self, state: ShardState) -> Iterator[tuple[Segment, Advanced]]:
        """The segments of all events, which are taken in by arrival."""
        stored = list(self.stored())
        count = sum(len(segment.codes) for segment, _ in stored)
        features, flags = np.empty((count, len(self._plan.feature_names))), np.empty(count, np.uint8)
        for rows, (names, segment, partitions) in self._by_arrival(stored):
            advanced = _advance(state, names, segment, partitions)
            features[rows], flags[rows] = advanced.features, advanced.flags
        begin = 0
        for segment, _ in stored:
            span = slice(begin, begin + len(segment.codes))
            yield segment, Advanced(features[span], flags[span])
            begin += len(segment.codes)

    def _by_arrival(
        self, stored: list[tuple[Segment, npt.NDArray[np.int32]]]
    ) -> Iterator[tuple[npt.NDArray[np.int64], _Stretch]]:
        """All events of the shard at once, sorted, and their rows; equal ones stay in the order of the source."""
        if not stored:
            return
        whole = _joined([segment for segment, _ in stored])
        partitions = np.concatenate([each for _, each in stored])
        names = np.array([name for segment, _ in stored for name in _names(segment)], object)
        order = np.argsort(self._arrival_times(whole, partitions), kind="stable")
        for begin in range(0, len(order), SORTED_ROWS):
            rows = order[begin : begin + SORTED_ROWS]
            yield rows, (names[rows].tolist(), _taken(whole, rows), partitions[rows])

    def _arrival_times(self, whole: Segment, partitions: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """What to sort by. A partition's order is its offsets': a record is never before the one before it."""
        if whole.arrivals is not None:
            return whole.arrivals
        arrivals = whole.record_times_ms.copy()
        for partition in np.unique(partitions).tolist():
            mine = partitions == partition
            arrivals[mine] = np.maximum.accumulate(arrivals[mine])
        return arrivals


def _index_of(files: PieceFiles) -> PieceIndex:
    return _known_index(files, files.index.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4_096)  # every shard asks for the indexes of all pieces
def _known_index(files: PieceFiles, _written_ns: int) -> PieceIndex:
    index = files.read_index()
    assert index is not None
    return index


def _names(segment: Segment) -> list[str]:
    names: list[str] = np.array([*segment.keys, ""], object)[segment.codes].tolist()
    return names


def _advance(
    state: ShardState, names: list[str], segment: Segment, partitions: npt.NDArray[np.int32]
) -> Advanced:
    return state.advance(
        names, segment.times_ms, segment.record_times_ms, partitions, segment.columns, segment.masks, segment.direct
    )


_ARRAYS = ("codes", "positions", "times_ms", "record_times_ms", "columns", "masks", "direct")


def _joined(segments: list[Segment]) -> Segment:
    """Segments one after the other; the keys are left out."""
    arrays: dict[str, Any] = {name: np.concatenate([getattr(each, name) for each in segments]) for name in _ARRAYS}
    arrivals = [each.arrivals for each in segments if each.arrivals is not None]
    return Segment([], **arrays, arrivals=np.concatenate(arrivals) if arrivals else None)


def _taken(segment: Segment, rows: npt.NDArray[np.int64]) -> Segment:
    return replace(segment, **{name: getattr(segment, name)[rows] for name in _ARRAYS})
