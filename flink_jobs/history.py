"""What a backfill reads: pieces of files and topics, each giving blocks of events and the records that are none.

A piece is what one process reads in one go; pieces in order are the history in order.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.event_blocks import EventBlock
from udfs.plan import FeaturePlan

BLOCK_MOST_ROWS, BLOCK_FEWEST_ROWS = 262_144, 4_096
_BLOCK_BYTES = 24_000_000  # arrays below 32 MB are used again; larger ones cost a page fault every 4 kB


@dataclass(frozen=True)
class Piece:
    """A stretch of a source.

    Attributes:
        kind: jsonl, csv, parquet or topic.
        source: Path of the file, or name of the topic.
        begin: First byte, row or offset.
        end: Byte, row or offset after the last; -1 for a compressed file, which is read to its end.
        partition: Of a topic.
        constants: Event fields that the names of folders give, as (field, value).
        weight: Its share of the work of reading: bytes or records.
        first_record: Number of its first record in the file; None where only reading tells.
    """

    kind: str
    source: str
    begin: int
    end: int
    partition: int = 0
    constants: tuple[tuple[str, str], ...] = ()
    weight: int = 0
    first_record: int | None = None

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**vars(self), "constants": [list(each) for each in self.constants]}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Piece":
        """The piece of `as_json`."""
        constants = tuple((str(name), str(value)) for name, value in document["constants"])
        return cls(**{**document, "constants": constants})


@dataclass(frozen=True)
class DeadLetter:
    """A record that is no event.

    Attributes:
        place: Number of the record in its piece, or its offset in the partition.
        reason: One of `udfs.wire_formats.REASONS`.
        detail: What exactly was wrong.
        key: Of a Kafka record.
        value: The record.
    """

    place: int
    reason: str
    detail: str
    key: bytes | None
    value: bytes | None

    def as_json(self) -> dict[str, Any]:
        """As plain data; bytes that are no text become base64."""
        return {
            "place": self.place,
            "reason": self.reason,
            "detail": self.detail,
            **_bytes_as_json("key", self.key),
            **_bytes_as_json("value", self.value),
        }


def _bytes_as_json(name: str, content: bytes | None) -> dict[str, str | None]:
    if content is None:
        return {name: None}
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(content).decode()}


@dataclass(frozen=True)
class HistoryBlock:
    """Events of a stretch of a piece, in order.

    Attributes:
        records: How many records there were.
        events: The events among them.
        offsets: (n,) int64 of a topic's events; None for files.
        record_times_ms: (n,) int64: Kafka's timestamps; the events' own times for files.
        arrivals: (n,) int64: by what the events are sorted, where the file's order is not the one of arrival.
        letters: The records that are no events.
    """

    records: int
    events: EventBlock
    offsets: npt.NDArray[np.int64] | None
    record_times_ms: npt.NDArray[np.int64]
    arrivals: npt.NDArray[np.int64] | None = None
    letters: list[DeadLetter] = field(default_factory=list)


Raw = Callable[[int], tuple[bytes | None, bytes | None]]
"""Row of a block -> key and value as they were."""


def letters_of(events: EventBlock, raw: Raw, place: Callable[[int], int]) -> list[DeadLetter]:
    """The dead letters of a block."""
    return [DeadLetter(place(row), why.reason, why.detail, *raw(row)) for row, why in events.refused]


def block_rows(plan: FeaturePlan) -> int:
    """How many records make a block, so that a block's arrays stay small however many features there are."""
    row_bytes = 8 * (len(plan.feature_names) + len(plan.columns) + plan.direct_width)
    row_bytes += 32 * len(plan.pipeline.events.schema)
    return max(BLOCK_FEWEST_ROWS, min(BLOCK_MOST_ROWS, _BLOCK_BYTES // row_bytes))
