"""What is to be said of the rows that events saw, put down by the processes of a backfill for the comparison after it.

A row that is what a backfill says is not put down. There is a file for each block of events.
"""

import uuid
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.parquet

from flink_jobs.served_answers import BUCKET_OFFSETS, Bucket
from udfs.aggregates import aggregates_of
from udfs.pipeline import Pipeline

pa: Any = pyarrow
pq: Any = pyarrow.parquet
Numbers = npt.NDArray[np.int64]
OLDER_ROW, NO_ROW = "older_row", "no_row"
GONE_BEFORE = "an event in its windows saw a row of a lookup that is no longer in its topic"


class RowState(IntEnum):
    """What is to be said of the row that an event saw."""

    NOT_TOLD = 0
    SAME = 1
    OLDER = 2
    NONE = 3
    GONE = 4
    OTHER_KEY = 5
    TOO_NEW = 6
    DELETES = 7


WRONG = {
    RowState.OTHER_KEY: "is of another key",
    RowState.TOO_NEW: "holds from a later time on",
    RowState.DELETES: "is no row but deletes one",
}
"""Rows that no event can have seen, in words."""
_COUNTED = {RowState.OLDER: OLDER_ROW, RowState.NONE: NO_ROW}


def write_marks(
    folder: Path,
    partition: int,
    offsets: Numbers,
    times_ms: Numbers,
    entities: Sequence[str],
    states: npt.NDArray[np.uint8],
) -> None:
    """Put down what is to be said of the rows that n events of a partition saw.

    Args:
        folder: Where to.
        partition: Of the events.
        offsets: (n,) of theirs, ascending.
        times_ms: (n,) event times.
        entities: n names.
        states: (n, lookups) of `RowState`.
    """
    said = np.flatnonzero((states > RowState.SAME).any(axis=1))
    for number in np.unique(offsets[said] // BUCKET_OFFSETS).tolist():
        part = said[offsets[said] // BUCKET_OFFSETS == number]
        columns = {
            "offset": offsets[part],
            "time_ms": times_ms[part],
            "entity": [entities[place] for place in part.tolist()],
            **{f"state{lookup}": each for lookup, each in enumerate(states[part].T)},
        }
        pq.write_table(pa.table(columns), folder / f"{partition:06d}-{number:012d}-{uuid.uuid4().hex}.parquet")


@dataclass(frozen=True)
class StretchRows:
    """What is to be said of the rows that the n events of a stretch saw.

    Attributes:
        lookups: Names of the tables.
        states: (n, lookups) of `RowState`.
        after_gone: (n,) whether an event in the windows of this one saw a row that is gone.
    """

    lookups: tuple[str, ...]
    states: npt.NDArray[np.uint8]
    after_gone: npt.NDArray[np.bool_]

    def right(self, places: Numbers) -> dict[str, npt.NDArray[np.bool_]]:
        """Of some events, in words what may be wrong with the rows that their answers name -> where it is right."""
        found = dict[str, npt.NDArray[np.bool_]]()
        for number, name in enumerate(self.lookups):
            for state, words in WRONG.items():
                wrong = self.states[places, number] == state
                if wrong.any():
                    found[f"the row of lookup {name}, which {words}"] = ~wrong
        return found

    def counted(self) -> dict[str, Counter[str]]:
        """By lookup, how many events saw an OLDER_ROW than a backfill says, and how many NO_ROW where it says one."""
        found = dict[str, Counter[str]]()
        for number, name in enumerate(self.lookups):
            states = self.states[:, number]
            found[name] = Counter({what: int((states == state).sum()) for state, what in _COUNTED.items()})
        return found

    def why_unsure(self, place: int) -> str | None:
        """Why the features of an event cannot be computed again; None if they can."""
        states = self.states[place]
        if np.isin(states, list(WRONG)).any():
            return None
        gone = [name for name, state in zip(self.lookups, states.tolist(), strict=True) if state == RowState.GONE]
        if gone:
            return f"the row of lookup {gone[0]} that it saw is no longer in its topic"
        return GONE_BEFORE if self.after_gone[place] else None


def windows_read_rows(pipeline: Pipeline) -> bool:
    """Whether the row that one event saw changes features of later ones."""
    tables = tuple(f"{each.name}." for each in pipeline.lookups)
    return any(name.startswith(tables) for each in aggregates_of(tuple(pipeline.features)) for name in each.reads)


@dataclass
class RowMarks:
    """Reads what was put down, stretch by stretch.

    Args:
        pipeline: With lookups.
        folder: Of `write_marks`.
    """

    pipeline: Pipeline
    folder: Path
    _gone: dict[str, int] = field(default_factory=dict, init=False)
    _waiting: list[Bucket] | None = field(default=None, init=False)

    def of(self, bucket: Bucket, offsets: Numbers, times_ms: Numbers, entities: Sequence[str]) -> StretchRows:
        """What is to be said of the events of a stretch; those of a partition are asked for in order.

        Args:
            bucket: The stretch.
            offsets: (n,) of the events, ascending.
            times_ms: (n,) event times.
            entities: n names.
        """
        lookups = tuple(each.name for each in self.pipeline.lookups)
        states = np.zeros((len(offsets), len(lookups)), np.uint8)
        gone: list[tuple[int, int, str]] = []
        for each in self._up_to(bucket):
            table = self._read(each)
            marks = np.array([table[f"state{number}"].to_numpy() for number in range(len(lookups))], np.uint8).T
            at = table["offset"].to_numpy()
            if each == bucket:
                _, of_marks, of_events = np.intersect1d(at, offsets, assume_unique=True, return_indices=True)
                states[of_events] = marks[of_marks]
            places = np.flatnonzero((marks == RowState.GONE).any(axis=1))
            names, times = table["entity"].take(pa.array(places)).to_pylist(), table["time_ms"].to_numpy()[places]
            gone += zip(at[places].tolist(), times.tolist(), names, strict=True)
        return StretchRows(lookups, states, self._after(gone, offsets, times_ms, entities))

    def _after(
        self, gone: list[tuple[int, int, str]], offsets: Numbers, times_ms: Numbers, entities: Sequence[str]
    ) -> npt.NDArray[np.bool_]:
        """Which events have, in their windows, one of their entity that saw a row that is gone."""
        found = np.zeros(len(offsets), np.bool_)
        if not (gone or self._gone) or not windows_read_rows(self.pipeline):
            return found
        waiting, window_ms = deque(sorted(gone)), self.pipeline.longest_window_ms
        for place, (offset, time_ms, entity) in enumerate(
            zip(offsets.tolist(), times_ms.tolist(), entities, strict=True)
        ):
            while waiting and waiting[0][0] < offset:
                self._note_gone(waiting.popleft())
            known = self._gone.get(entity)
            found[place] = known is not None and known > time_ms - window_ms
        for each in waiting:
            self._note_gone(each)
        return found

    def _note_gone(self, mark: tuple[int, int, str]) -> None:
        _, time_ms, entity = mark
        self._gone[entity] = max(self._gone.get(entity, time_ms), time_ms)

    def _up_to(self, bucket: Bucket) -> list[Bucket]:
        """The stretches of the partition that have marks and were not asked for yet, this one included."""
        if self._waiting is None:
            names = (path.stem.split("-") for path in self.folder.glob("*.parquet"))
            self._waiting = sorted({(int(partition), int(number)) for partition, number, _ in names})
        mine = [each for each in self._waiting if each[0] == bucket[0] and each <= bucket]
        self._waiting = [each for each in self._waiting if each not in mine]
        return mine

    def _read(self, bucket: Bucket) -> Any:
        paths = sorted(self.folder.glob(f"{bucket[0]:06d}-{bucket[1]:012d}-*.parquet"))
        return pa.concat_tables([pq.read_table(path) for path in paths])
