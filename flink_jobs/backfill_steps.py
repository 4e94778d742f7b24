"""What one process does: read a piece of history into shards; then compute the features of a shard, or its state."""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flink_jobs.documents import read_document, write_document
from flink_jobs.file_reader import FileReader
from flink_jobs.history import Piece, block_rows
from flink_jobs.history_topic import RowsAt, TopicReader
from flink_jobs.lookup_tables import histories_of
from flink_jobs.served_rows import ServedPlaces, ServedRows
from flink_jobs.shard_segments import ShardSegments, Source, layout_of
from flink_jobs.spill import NOT_EMITTED, PieceFiles, Segment, write_piece
from flink_jobs.state_files import StateFile
from udfs.entity_state import FAILED, LATE, TRUNCATED
from udfs.kernel_warm_up import warm_up
from udfs.label_join import EntityLabels, LabelRule
from udfs.lookup_join import LookupJoin
from udfs.plan import FeaturePlan
from udfs.state_file import packed

_ALWAYS_MS = 2**62


@dataclass(frozen=True)
class Work:
    """All that a process must know.

    Attributes:
        events: The history.
        labels: The label events, if there are any.
        label_values: Whether label events carry values; otherwise each counts as 1.
        shards: Of the job.
        since_ms: Earlier events only warm up.
        until_ms: So do those from this time on.
        folder: For the features, or the states, of shards.
        bootstrap: Where the brokers are.
        properties: Kafka client properties.
        tables: Of the lookups of the events' pipeline, all their versions.
        served: Which rows of them events saw in the job; None joins all with the history.
    """

    events: Source
    labels: Source | None
    label_values: bool
    shards: int
    since_ms: int
    until_ms: int
    folder: Path
    bootstrap: str
    properties: Mapping[str, str]
    tables: Mapping[str, StateFile]
    served: ServedPlaces | None = None


class ShardFiles(NamedTuple):
    """Where the results of a shard are: features, flags and labels of its emitted rows, in the order of the source."""

    features: Path
    flags: Path
    labels: Path
    done: Path

    @classmethod
    def of(cls, folder: Path, shard: int) -> "ShardFiles":
        """The files of a shard."""
        return cls(*(folder / f"{shard:03d}.{part}" for part in ("features", "flags", "labels", "done")))

    def facts(self) -> dict[str, Any] | None:
        """What was counted; None for a shard that is not finished."""
        found: dict[str, Any] | None = read_document(self.done)
        return found


class StateFiles(NamedTuple):
    """Where the state of a shard is, and what says that it is all there."""

    state: Path
    done: Path

    @classmethod
    def of(cls, folder: Path, shard: int) -> "StateFiles":
        """The files of a shard."""
        return cls(*(folder / f"{shard:03d}.{part}" for part in ("state", "done")))


class Worker:
    """One process's part.

    Args:
        work: See `Work`.
    """

    def __init__(self, work: Work) -> None:
        warm_up()
        self._work = work
        self._readers: dict[tuple[Path, str], Any] = {}
        self._plans: dict[Path, FeaturePlan] = {}
        self._join: LookupJoin | None = None
        self._served: ServedRows | None = None

    def read(self, of_labels: bool, number: int) -> dict[str, Any]:
        """Read one piece, unless that is done; its facts."""
        work, source = self._work, self._source(of_labels)
        files, piece = PieceFiles.of(source.folder, number), source.pieces[number]
        index = files.read_index()
        if index is None:
            plan = self._plan(source)
            reader, join = self._reader(source, piece, plan), self._joined(source)
            before = Counter() if join is None else join.missed()
            index = write_piece(
                files,
                reader.blocks(piece),
                layout=layout_of(source, plan),
                shards=work.shards,
                since_ms=-_ALWAYS_MS if of_labels else work.since_ms,
                until_ms=_ALWAYS_MS if of_labels else work.until_ms,
                partition=piece.partition,
                retention_ms=source.pipeline.retention_ms,
                missing=lambda: before if join is None else join.missed() - before,
            )
        return index.facts

    def compute(self, shard: int, rule: LabelRule | None) -> dict[str, Any]:
        """Compute the features and labels of a shard, unless that is done; its facts."""
        files = ShardFiles.of(self._work.folder, shard)
        facts = files.facts()
        if facts is None:
            facts = self._compute(files, shard, rule)
            write_document(files.done, facts)
        return facts

    def build(self, shard: int) -> dict[str, Any]:
        """Write what a shard keeps after all events, unless that is done; its facts."""
        files = StateFiles.of(self._work.folder, shard)
        facts: dict[str, Any] | None = read_document(files.done)
        if facts is not None:
            return facts
        source = self._work.events
        state = ShardSegments(source, self._plan(source), shard).state()
        state.forget_expired()
        digest, size = hashlib.sha256(), 0
        with files.state.open("wb") as file:
            for part in packed(state.entries()):
                file.write(part)
                digest.update(part)
                size += len(part)
            file.flush()
            os.fsync(file.fileno())
        facts = {"entities": len(state), "bytes": size, "sha256": digest.hexdigest()}
        write_document(files.done, facts)
        return facts

    def close(self) -> None:
        """End all connections."""
        for reader in self._readers.values():
            if isinstance(reader, TopicReader):
                reader.close()

    def _source(self, of_labels: bool) -> Source:
        source = self._work.labels if of_labels else self._work.events
        assert source is not None
        return source

    def _plan(self, source: Source) -> FeaturePlan:
        if source.folder not in self._plans:
            self._plans[source.folder] = FeaturePlan.build(source.pipeline)
        return self._plans[source.folder]

    def _reader(self, source: Source, piece: Piece, plan: FeaturePlan) -> Any:
        known = (source.folder, "topic" if piece.kind == "topic" else "file")
        if known not in self._readers:
            work, rows, join = self._work, block_rows(plan), self._joined(source)
            self._readers[known] = (
                TopicReader(plan, work.bootstrap, work.properties, rows, keyed=source.keyed, seen=self._rows_at(join))
                if piece.kind == "topic"
                else FileReader(plan, rows, source.order_by, join)
            )
        return self._readers[known]

    def _joined(self, source: Source) -> LookupJoin | None:
        pipeline = source.pipeline
        if pipeline.lookups and self._join is None:
            histories = histories_of(pipeline, self._work.tables)
            self._join = LookupJoin(pipeline, histories)
            if self._work.served is not None:
                self._served = ServedRows(pipeline, histories, self._work.served)
        return self._join if pipeline.lookups else None

    def _rows_at(self, join: LookupJoin | None) -> RowsAt | None:
        if join is None:
            return None
        if self._served is not None:
            return self._served.rows
        return lambda events, _partition, _offsets: join.of(events).rows

    def _compute(self, files: ShardFiles, shard: int, rule: LabelRule | None) -> dict[str, Any]:
        source = self._work.events
        segments = ShardSegments(source, self._plan(source), shard)
        labels = None if rule is None else self._labels(shard, rule)
        counts = {"rows": 0, "failed": 0, "late": 0, "truncated": 0, "labelled": 0, "label_sum": 0.0}
        with files.features.open("wb") as features, files.flags.open("wb") as flags, files.labels.open("wb") as found:
            for segment, advanced in segments.advanced():
                kept = segment.positions != NOT_EMITTED
                marks = advanced.flags[kept]
                features.write(advanced.features[kept].tobytes())
                flags.write(marks.tobytes())
                counts["rows"] += len(marks)
                counts["failed"] += int(np.count_nonzero(marks & FAILED))
                counts["late"] += int(np.count_nonzero(marks & LATE))
                counts["truncated"] += int(np.count_nonzero(marks & TRUNCATED))
                if labels is not None:
                    came = labels.of(segment)[kept]
                    found.write(came.tobytes())
                    counts["labelled"] += int(np.count_nonzero(~np.isnan(came)))
                    counts["label_sum"] += float(np.nansum(came))
        return counts

    def _labels(self, shard: int, rule: LabelRule) -> "ShardLabels":
        assert self._work.labels is not None
        plan = self._plan(self._work.labels)
        return ShardLabels(ShardSegments(self._work.labels, plan, shard), rule, self._work.label_values)


class ShardLabels:
    """The label events of a shard's entities.

    Args:
        segments: The label events.
        rule: When they count.
        valued: Whether they carry values, as the one feature of the event itself.
    """

    def __init__(self, segments: ShardSegments, rule: LabelRule, valued: bool) -> None:
        self._codes: dict[str, int] = {}
        codes, times, values = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
        for segment, _ in segments.stored():
            own = [self._codes.setdefault(key, len(self._codes)) for key in segment.keys]
            codes.append(np.array(own, np.int64)[segment.codes])
            times.append(segment.times_ms)
            values.append(segment.direct[:, 0] if valued else np.ones(len(segment.times_ms)))
        # one more for every entity without a label event
        self._labels = EntityLabels(
            rule, np.concatenate(codes), np.concatenate(times), np.concatenate(values), len(self._codes) + 1
        )

    def of(self, segment: Segment) -> npt.NDArray[np.float64]:
        """(n,) float64: the labels of a segment's events; NaN is missing."""
        codes = np.array([self._codes.get(key, len(self._codes)) for key in segment.keys], np.int64)
        return self._labels.labels_of(codes[segment.codes], segment.times_ms)
