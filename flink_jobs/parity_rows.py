"""What is compared: the records of a topic, and what an engine said of each, in arrays on disk.

A record's row is its place in the topic: partition after partition, by offset.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from flink_jobs.kafka_admin import topic_ends
from flink_jobs.lookup_tables import table_versions
from flink_jobs.topic_scan import scan
from udfs.event_keys import shard_text
from udfs.key_places import key_shards
from udfs.lookups import Lookup
from udfs.naive_join import CameRow, NaiveJoin, fields_of_row
from udfs.pipeline import Pipeline

UNANSWERED, FEATURES, REFUSED = 0, 1, 2
Record = tuple[bytes | None, bytes | None]
T = TypeVar("T")
_encode = msgspec.msgpack.Encoder().encode


class SpooledRecord(NamedTuple):
    """A record as the engines that are no jobs read it."""

    row: int
    partition: int
    time_ms: int
    key: bytes | None
    value: bytes | None
    reason: str | None


@dataclass(frozen=True)
class ParityInput:
    """Records in a topic that nobody else writes to.

    Attributes:
        pipeline: Whose topic it is.
        bootstrap: Where it is.
        folder: Of this run; `records` in it has a file of records a shard, `tables` one of rows a lookup.
        first_rows: Row of each partition's first record.
        count: How many records there are.
        shards: Of the job.
        seed_text: How to repeat it, for people.
    """

    pipeline: Pipeline
    bootstrap: str
    folder: Path
    first_rows: Mapping[int, int]
    count: int
    shards: int
    seed_text: str

    def row(self, partition: int, offset: int) -> int:
        """The row of a record."""
        return self.first_rows[partition] + offset

    def place(self, row: int) -> tuple[int, int]:
        """Partition and offset of a row."""
        partition = max((p for p, first in self.first_rows.items() if first <= row), key=self.first_rows.__getitem__)
        return partition, row - self.first_rows[partition]

    def shard_file(self, shard: int) -> Path:
        """Where a shard's records are."""
        return self.folder / "records" / f"{shard:03d}"

    def table_file(self, lookup: Lookup) -> Path:
        """Where the rows of a table are, in order of arrival."""
        return self.folder / "tables" / lookup.name


def spool_input(
    pipeline: Pipeline,
    bootstrap: str,
    folder: Path,
    ends: Mapping[int, int],
    shards: int,
    reasons: Mapping[Record, str],
    seed_text: str,
) -> ParityInput:
    """Read the topic back, shard by shard; and the rows of its lookups, which must all be there.

    Args:
        pipeline: Whose topic.
        bootstrap: Where it is.
        folder: Of this run.
        ends: Number of records of each partition; the topic was written without transactions, from offset 0 on.
        shards: Of the job.
        reasons: Of records that must be refused.
        seed_text: See `ParityInput`.
    """
    first_rows, count = {}, 0
    for partition in sorted(ends):
        first_rows[partition] = count
        count += ends[partition]
    given = ParityInput(pipeline, bootstrap, folder, first_rows, count, shards, seed_text)
    (folder / "records").mkdir(parents=True)
    files = [given.shard_file(shard).open("wb") for shard in range(shards)]
    known: dict[bytes, int] = {}
    try:
        for messages in scan(bootstrap, None, pipeline.events.topic, {p: (0, end) for p, end in sorted(ends.items())}):
            for message in messages:
                key, value, partition = message.key(), message.value(), int(message.partition() or 0)
                place = key or b""
                if place not in known:
                    known[place] = int(key_shards([shard_text(pipeline.events, place)], shards)[0])
                row = given.row(partition, int(message.offset() or 0))
                line = SpooledRecord(row, partition, message.timestamp()[1], key, value, reasons.get((key, value)))
                files[known[place]].write(_packed(line))
    finally:
        for file in files:
            file.close()
    for lookup in pipeline.lookups:
        _spool_table(given, lookup)
    return given


def _spool_table(given: ParityInput, lookup: Lookup) -> None:
    ends = {} if lookup.topic is None else topic_ends(given.bootstrap, lookup.topic)
    path = given.table_file(lookup)
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        for each in table_versions(lookup, given.bootstrap, None, ends):
            fields = None if each.row is None else fields_of_row(each.row)
            file.write(_packed(CameRow(each.key, each.time_ms, fields)))


def spooled_join(given: ParityInput) -> NaiveJoin:
    """Joins events with the tables of the run, for the oracle."""
    lookups = given.pipeline.lookups
    return NaiveJoin(given.pipeline, {each.name: _unpacked(given.table_file(each), CameRow) for each in lookups})


def spooled(path: Path) -> Iterator[SpooledRecord]:
    """The records of a shard, in order of arrival in each partition."""
    return _unpacked(path, SpooledRecord)


def _packed(record: SpooledRecord | CameRow) -> bytes:
    content = _encode(record)
    return len(content).to_bytes(4, "little") + content


def _unpacked(path: Path, kind: type[T]) -> Iterator[T]:
    decode = msgspec.msgpack.Decoder(kind).decode
    with path.open("rb") as file:
        while size := file.read(4):
            yield decode(file.read(int.from_bytes(size, "little")))


class EngineRows:
    """What an engine said of n records.

    Args:
        folder: Where its arrays are, or will be.
        count: How many records.
        width: How many features.
        create: Make the arrays, all unanswered; otherwise open them.

    Attributes:
        features: (n, width) float64; NaN is missing.
        answers: (n,) uint8: UNANSWERED, FEATURES or REFUSED.
        late: (n,) bool.
        reasons: (n,) uint8: places in `reason_names`, for those refused.
        twice: (1,) int64: answers beyond the first of a record.
    """

    def __init__(self, folder: Path, count: int, width: int, *, create: bool = False) -> None:
        if create:
            folder.mkdir(parents=True)
        arrays: list[tuple[str, Any, tuple[int, ...]]] = [
            ("features", np.float64, (count, width)), ("answers", np.uint8, (count,)), ("late", np.bool_, (count,)),
            ("reasons", np.uint8, (count,)), ("twice", np.int64, (1,)),
        ]  # fmt: skip
        opened: dict[str, npt.NDArray[Any]] = {}
        for name, kind, shape in arrays:
            path = folder / f"{name}.npy"
            if create:
                opened[name] = np.lib.format.open_memmap(path, "w+", kind, shape)  # type: ignore[no-untyped-call]
            else:
                opened[name] = np.load(path, mmap_mode="r+")
        self.features, self.answers, self.late = opened["features"], opened["answers"], opened["late"]
        self.reasons, self.twice = opened["reasons"], opened["twice"]
        if create:
            self.features[:] = np.nan

    def answer(self, row: int, features: Sequence[float], late: bool) -> None:
        """A prediction's features."""
        self._count(row)
        self.features[row], self.answers[row], self.late[row] = features, FEATURES, late

    def refuse(self, row: int, reason: str) -> None:
        """A dead letter."""
        self._count(row)
        self.answers[row], self.reasons[row] = REFUSED, reason_number(reason)

    def _count(self, row: int) -> None:
        self.twice[0] += int(self.answers[row] != UNANSWERED)


def reason_number(reason: str) -> int:
    """A reason as a number; unknown ones are told apart from all known ones only."""
    from udfs.wire_formats import REASONS

    return REASONS.index(reason) + 1 if reason in REASONS else 255
