"""Blocks of events on disk, cut by shard: what reading writes and computing reads.

A piece of history becomes `rows` (for every block and shard: arrays for the engine, then the keys), `passed` (Arrow:
what goes into the training set as it is), `letters` (the records that are no events) and, last, `index`: a piece with
an index is finished.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow

from flink_jobs.history import HistoryBlock
from udfs.key_places import key_shards
from udfs.plan import FeaturePlan

pa: Any = pyarrow
NOT_EMITTED = np.uint32(2**32 - 1)


class RowLayout(NamedTuple):
    """Which arrays a row has.

    Attributes:
        columns: Columns that aggregates read.
        direct: Features of the event itself.
        from_topic: Whether record times differ from event times.
        sorted: Whether there is an order of arrival beside the source's.
    """

    columns: int
    direct: int
    from_topic: bool
    sorted: bool

    @classmethod
    def of(cls, plan: FeaturePlan, *, from_topic: bool, by_field: bool) -> "RowLayout":
        """The layout of a pipeline's events."""
        return cls(len(plan.columns), plan.direct_width, from_topic, by_field)

    def arrays(self) -> list[tuple[str, Any, int]]:
        """Name, type and width of each array, those of eight bytes first."""
        found: list[tuple[str, Any, int]] = [
            ("times", np.int64, 1), ("columns", np.float64, self.columns), ("masks", np.uint64, 1),
            ("direct", np.float64, self.direct),
        ]  # fmt: skip
        if self.from_topic:
            found.append(("record_times", np.int64, 1))
        if self.sorted:
            found.append(("arrivals", np.int64, 1))
        return [*found, ("codes", np.uint32, 1), ("positions", np.uint32, 1)]


@dataclass(frozen=True)
class Segment:
    """The events of one block and shard, in order.

    Attributes:
        keys: Entities that occur.
        codes: (n,) uint32: places in `keys`.
        positions: (n,) uint32: places among the block's emitted rows; NOT_EMITTED for those that only warm up.
        times_ms: (n,) int64.
        record_times_ms: (n,) int64.
        arrivals: (n,) int64, or None.
        columns: (n, columns) float64.
        masks: (n,) uint64.
        direct: (n, direct) float64.
    """

    keys: list[str]
    codes: npt.NDArray[np.uint32]
    positions: npt.NDArray[np.uint32]
    times_ms: npt.NDArray[np.int64]
    record_times_ms: npt.NDArray[np.int64]
    arrivals: npt.NDArray[np.int64] | None
    columns: npt.NDArray[np.float64]
    masks: npt.NDArray[np.uint64]
    direct: npt.NDArray[np.float64]


@dataclass(frozen=True)
class PieceIndex:
    """What a finished piece holds.

    Attributes:
        segments: (blocks, shards, 5) int64: place in the file, rows, emitted rows, keys, bytes of the keys.
        emitted: (blocks,) int64: rows that go into the training set.
        facts: Counts and extremes, as plain data.
    """

    segments: npt.NDArray[np.int64]
    emitted: npt.NDArray[np.int64]
    facts: dict[str, Any]


@dataclass(frozen=True)
class PieceFiles:
    """Where a piece is."""

    rows: Path
    passed: Path
    letters: Path
    index: Path

    @classmethod
    def of(cls, folder: Path, number: int) -> "PieceFiles":
        """The files of the piece of that number."""
        return cls(*(folder / f"{number:06d}.{part}" for part in ("rows", "passed", "letters", "index.npz")))

    def read_index(self) -> PieceIndex | None:
        """The index; None for a piece that is not finished."""
        if not self.index.exists():
            return None
        with np.load(self.index) as stored:
            return PieceIndex(stored["segments"], stored["emitted"], json.loads(stored["facts"].tobytes()))


def write_piece(
    files: PieceFiles,
    blocks: Iterable[HistoryBlock],
    *,
    layout: RowLayout,
    shards: int,
    since_ms: int,
    until_ms: int,
    partition: int,
    retention_ms: int,
    missing: Callable[[], Mapping[str, int]] = dict,
) -> PieceIndex:
    """Write a piece of history.

    Args:
        files: Where.
        blocks: Its events.
        layout: Which arrays a row has.
        shards: Of the job.
        since_ms: Earlier events only warm up.
        until_ms: So do those from this time on.
        partition: For the training set; what a topic's events come from.
        retention_ms: An entity is forgotten when event time goes on by this without an event of it.
        missing: Says afterwards how many events had no row, by lookup and reason.
    """
    segments, emitted, reasons = [], [], Counter[str]()
    records, events, latest, behind = 0, 0, None, 0
    passed: Any = None
    with files.rows.open("wb") as rows, files.letters.open("wb") as letters:
        for block in blocks:
            times = block.events.times_ms
            wanted = (times >= since_ms) & (times < until_ms)
            positions = np.where(wanted, np.cumsum(wanted) - 1, NOT_EMITTED).astype(np.uint32)
            segments.append(_write_block(rows, block, positions, layout, shards))
            emitted.append(int(wanted.sum()))
            batch = _passed(block, wanted, partition)
            if passed is None:
                passed = pa.ipc.new_file(str(files.passed), batch.schema)
            passed.write_batch(batch)
            reasons.update(each.reason for each in block.letters)
            letters.writelines(msgspec.json.encode(each.as_json()) + b"\n" for each in block.letters)
            records += block.records
            events += len(times)
            if len(times):
                so_far = np.maximum.accumulate(times if latest is None else np.append(latest, times))[-len(times) :]
                behind += int((times + retention_ms < so_far).sum())
                latest = int(so_far[-1])
    if passed is not None:
        passed.close()
    facts: dict[str, Any] = {"records": records, "events": events, "latest_ms": latest, "behind": behind}
    facts["reasons"], facts["missing"] = dict(sorted(reasons.items())), dict(missing())
    found = PieceIndex(np.array(segments, np.int64).reshape(-1, shards, 5), np.array(emitted, np.int64), facts)
    _save(files.index, found)
    return found


def _save(path: Path, index: PieceIndex) -> None:
    unfinished = path.with_suffix(".unfinished")
    facts = np.frombuffer(json.dumps(index.facts).encode(), np.uint8)
    with unfinished.open("wb") as file:
        np.savez(file, segments=index.segments, emitted=index.emitted, facts=facts)
    unfinished.replace(path)


def _write_block(
    rows: Any, block: HistoryBlock, positions: npt.NDArray[np.uint32], layout: RowLayout, shards: int
) -> list[list[int]]:
    """Write a block's segments; the index's numbers of each shard."""
    events = block.events
    keys = events.entities.values
    shard_of_key = key_shards(keys, shards)
    key_order = np.argsort(shard_of_key, kind="stable")
    key_ends = np.searchsorted(shard_of_key[key_order], np.arange(shards), side="right")
    key_begins = np.concatenate([[0], key_ends[:-1]])
    code_of_key = np.empty(len(keys), np.int64)
    code_of_key[key_order] = np.arange(len(keys))
    codes = code_of_key[events.entities.codes]
    shard_of_row = shard_of_key[events.entities.codes].astype(np.uint8)
    order = np.argsort(shard_of_row, kind="stable")  # of bytes: a radix sort
    row_ends = np.searchsorted(shard_of_row[order], np.arange(shards), side="right")
    row_begins = np.concatenate([[0], row_ends[:-1]])
    values: dict[str, Any] = {
        "times": events.times_ms, "columns": events.columns, "masks": events.masks, "direct": events.direct,
        "record_times": block.record_times_ms, "arrivals": block.arrivals, "positions": positions,
        "codes": (codes - key_begins[shard_of_row]).astype(np.uint32),
    }  # fmt: skip
    ordered = [values[name][order] for name, _, _ in layout.arrays()]
    found = []
    for shard in range(shards):
        span = slice(row_begins[shard], row_ends[shard])
        at = rows.tell()
        for array in ordered:
            rows.write(array[span].tobytes())
        texts = [keys[place].encode() for place in key_order[key_begins[shard] : key_ends[shard]].tolist()]
        blob = np.array([len(text) for text in texts], np.uint32).tobytes() + b"".join(texts)
        rows.write(blob)
        kept = int((positions[order[span]] != NOT_EMITTED).sum())
        found.append([at, int(row_ends[shard] - row_begins[shard]), kept, len(texts), len(blob)])
    return found


def _passed(block: HistoryBlock, wanted: npt.NDArray[np.bool_], partition: int) -> Any:
    """What goes into the training set as it is."""
    events, rows = block.events, np.flatnonzero(wanted)
    entities = pa.DictionaryArray.from_arrays(
        pa.array(events.entities.codes[rows].astype(np.int32)), pa.array(events.entities.values, pa.string())
    )
    columns = {
        "_event_id": events.ids.take(pa.array(rows)),
        "_entity": entities.dictionary_decode(),
        "_event_time": pa.array(events.times_ms[rows]),
    }
    if block.offsets is not None:
        columns["_partition"] = pa.array(np.full(len(rows), partition, np.int32))
        columns["_offset"] = pa.array(block.offsets[rows])
    return pa.record_batch(columns)


class SegmentReader:
    """Reads segments of a finished piece.

    Args:
        files: Where the piece is.
        index: Its index.
        layout: Which arrays a row has.
    """

    def __init__(self, files: PieceFiles, index: PieceIndex, layout: RowLayout) -> None:
        self._files, self._index, self._layout = files, index, layout

    @property
    def blocks(self) -> int:
        """How many blocks the piece has."""
        return len(self._index.segments)

    def segment(self, block: int, shard: int) -> Segment:
        """The events of a block and a shard."""
        at, rows, _, keys, _ = self._index.segments[block, shard].tolist()
        found: dict[str, Any] = {}
        with self._files.rows.open("rb", buffering=0) as file:
            file.seek(at)
            for name, kind, width in self._layout.arrays():
                values = np.empty(rows * width, kind)
                _fill(file, values)
                found[name] = values.reshape(rows, width) if name in ("columns", "direct") else values
            names = _read_keys(file, keys)
        return Segment(
            names, found["codes"], found["positions"], found["times"], found.get("record_times", found["times"]),
            found.get("arrivals"), found["columns"], found["masks"], found["direct"],
        )  # fmt: skip

    def keys(self, block: int, shard: int) -> list[str]:
        """The entities of a segment."""
        at, rows, _, keys, _ = self._index.segments[block, shard].tolist()
        with self._files.rows.open("rb", buffering=0) as file:
            file.seek(at + rows * self._row_bytes())
            return _read_keys(file, keys)

    def positions(self, block: int, shard: int) -> npt.NDArray[np.uint32]:
        """Where the emitted rows of a segment go among those of the block."""
        at, rows, _, _, _ = self._index.segments[block, shard].tolist()
        values = np.empty(rows, np.uint32)
        with self._files.rows.open("rb", buffering=0) as file:
            file.seek(at + rows * (self._row_bytes() - values.itemsize))  # they are the last array
            _fill(file, values)
        emitted: npt.NDArray[np.uint32] = values[values != NOT_EMITTED]
        return emitted

    def _row_bytes(self) -> int:
        return sum(np.dtype(kind).itemsize * width for _, kind, width in self._layout.arrays())


def _read_keys(file: Any, count: int) -> list[str]:
    lengths = np.empty(count, np.uint32)
    _fill(file, lengths)
    texts = np.empty(int(lengths.sum()), np.uint8)
    _fill(file, texts)
    blob, ends = texts.tobytes(), np.cumsum(lengths, dtype=np.int64).tolist()
    return [blob[begin:end].decode() for begin, end in zip([0, *ends[:-1]], ends, strict=True)] if count else []


def _fill(file: Any, values: npt.NDArray[Any]) -> None:
    wanted, view = values.nbytes, values.data.cast("B") if values.nbytes else memoryview(b"")
    done = 0
    while done < wanted:
        read = file.readinto(view[done:])
        if not read:
            raise OSError(f"{os.fspath(file.name)} is cut off")
        done += read
