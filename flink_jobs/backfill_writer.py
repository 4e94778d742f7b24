"""Puts the results of all shards back into the order of the source, and writes the training set.

Two threads: one gathers the rows of a block from the shards, the other encodes the block before.
"""

import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow

from flink_jobs.backfill_steps import ShardFiles, Work
from flink_jobs.shard_segments import Source, layout_of
from flink_jobs.spill import PieceFiles, SegmentReader
from flink_jobs.training_set import TrainingSetWriter
from udfs.entity_state import FAILED
from udfs.plan import FeaturePlan
from udfs.row_arrays import place_rows

pa: Any = pyarrow
_BLOCKS_WAITING = 2


def write_training_set(
    path: Path, work: Work, facts: Mapping[str, Any], progress: Callable[[float], None]
) -> int:
    """Write the training set of a computed history.

    Args:
        path: Of the file.
        work: All pieces and shards of which are finished.
        facts: What the file's metadata says beside the definition.
        progress: Told the share that is done.

    Returns:
        How many rows it has.
    """
    writer = TrainingSetWriter(path, work.events.pipeline, facts, labelled=work.labels is not None)
    blocks: queue.Queue[Any] = queue.Queue(_BLOCKS_WAITING)
    failure: list[BaseException] = []

    def write() -> None:
        try:
            while (table := blocks.get()) is not None:
                if not failure:
                    writer.write(table)
            writer.close()
        except BaseException as error:  # raised again by the thread that waits
            failure.append(error)
            while blocks.get() is not None:
                pass

    thread = threading.Thread(target=write, name="training-set-writer")
    thread.start()
    rows = 0
    try:
        for table, share in _tables(work, writer):
            if failure:
                break
            blocks.put(table)
            rows += len(table)
            progress(share)
    except BaseException as error:
        failure.append(error)
        raise
    finally:
        blocks.put(None)
        thread.join()
    if failure:
        raise failure[0]
    return rows


def _tables(work: Work, writer: TrainingSetWriter) -> Iterator[tuple[Any, float]]:
    """The rows of each block in the order of the source, and the share of the pieces that is done."""
    source = work.events
    plan = FeaturePlan.build(source.pipeline)
    layout, width = layout_of(source, plan), len(plan.feature_names)
    with ExitStack() as files:
        shards = [_ShardResults(ShardFiles.of(work.folder, shard), width, files) for shard in range(work.shards)]
        for number in range(len(source.pieces)):
            piece = PieceFiles.of(source.folder, number)
            index = piece.read_index()
            assert index is not None
            reader = SegmentReader(piece, index, layout)
            if not reader.blocks:
                continue
            passed = pa.ipc.open_file(pa.memory_map(str(piece.passed)))
            for block in range(reader.blocks):
                rows = int(index.emitted[block])
                features, flags, labels = np.empty((rows, width)), np.empty(rows, np.uint8), np.empty(rows)
                for shard, results in enumerate(shards):
                    positions = reader.positions(block, shard)
                    place_rows(results.features(len(positions)), positions, features)
                    flags[positions] = results.flags(len(positions))
                    if work.labels is not None:
                        labels[positions] = results.labels(len(positions))
                if rows:
                    share = (number + (block + 1) / reader.blocks) / len(source.pieces)
                    came = labels if work.labels is not None else None
                    table = writer.table(passed.get_batch(block), features, flags, came)
                    failed = flags & FAILED > 0  # dead letters of the job, which gives them no prediction either
                    yield (table.filter(pa.array(~failed)) if failed.any() else table), share


class _ShardResults:
    """The results of a shard, from the first row to the last."""

    def __init__(self, files: ShardFiles, width: int, opened: ExitStack) -> None:
        self._width = width
        self._features = opened.enter_context(files.features.open("rb"))
        self._flags = opened.enter_context(files.flags.open("rb"))
        self._labels = opened.enter_context(files.labels.open("rb"))

    def features(self, rows: int) -> Any:
        return np.fromfile(self._features, np.float64, rows * self._width).reshape(rows, self._width)

    def flags(self, rows: int) -> Any:
        return np.fromfile(self._flags, np.uint8, rows)

    def labels(self, rows: int) -> Any:
        return np.fromfile(self._labels, np.float64, rows)


def write_letters(path: Path, events: Source, labels: Source | None) -> int:
    """Write the records that were no events, with where they are; none makes no file.

    Returns:
        How many there are.
    """
    written = 0
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        for source in [events] if labels is None else [events, labels]:
            for letter in _letters(source):
                file.write(msgspec.json.encode(letter) + b"\n")
                written += 1
    if written:
        unfinished.replace(path)
    else:
        unfinished.unlink()
        path.unlink(missing_ok=True)
    return written


def _letters(source: Source) -> Iterator[dict[str, Any]]:
    """Of files, records are numbered from 1; only now is known how many came before a piece."""
    before: dict[str, int] = {}
    for number, piece in enumerate(source.pieces):
        files = PieceFiles.of(source.folder, number)
        index = files.read_index()
        assert index is not None
        with files.letters.open("rb") as lines:
            for line in lines:
                letter = json.loads(line)
                place = letter.pop("place")
                if piece.kind == "topic":
                    yield {"topic": piece.source, "partition": piece.partition, "offset": place, **letter}
                else:
                    yield {"file": piece.source, "record": before.get(piece.source, 0) + place + 1, **letter}
        before[piece.source] = before.get(piece.source, 0) + index.facts["records"]
