"""What a worker was scoring when its model, or something else in it, killed it; files tell that outlive it.

Before a batch is scored the places of its records are written into a file mapped into memory: no system call, and
whatever ends the process, they stay. The next worker of the subtask finds them.

    first crash    the batch's records are suspects: whatever batch they are in is scored one record at a time
    second crash   of the model on one of them alone: it is a dead letter `model_crashed` from now on

Only a fatal signal of the process itself (SIGSEGV, SIGABRT, SIGFPE, SIGBUS, SIGILL), which `faulthandler` writes into a
file beside with the Python functions that were running, is held against records: a worker that was killed from outside
accuses none. Where it was not the model that ran nothing can be left out, and the job restarts until it may no more.
"""

import faulthandler
import json
import logging
import mmap
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flink_jobs.settings import Settings
from flink_jobs.topics import run_name
from models.budget import answer_calls
from udfs.answering import Answerer
from udfs.entity_state import ShardState
from udfs.pipeline import Pipeline
from udfs.predicting import predict_each
from udfs.raw_record import RawRecord
from udfs.record_batch import REQUESTS, RecordBatch, pack_records
from udfs.routing import SOURCE_STEP
from udfs.scoring import Scorer

Place = tuple[int, int, int]
"""Partition (of requests `SOURCE_STEP` more), offset, and Kafka's timestamp: in a topic that was made anew other
records have the same offsets."""

MOST_PLACES = 4_096
"""Of a batch: the JVM gathers fewer."""
_COUNT = struct.Struct("<q")
_PLACES_BYTES = _COUNT.size + MOST_PLACES * (4 + 8 + 8)
_MODEL_BYTES = 256
"""For the sha256 and the name of what scores; a name has at most 100 characters."""
_MARK_BYTES = _PLACES_BYTES + _MODEL_BYTES
_NAMED = 5
_IN_MODEL = re.compile(rf" in ({predict_each.__name__}|{answer_calls.__name__})$|<no Python frame>", re.MULTILINE)
"""In what `faulthandler` tells: threads of a library have no functions of Python."""
_kept_open: list[object] = []
"""`faulthandler` has a descriptor only: who closes its file lets it write into another."""


@dataclass(frozen=True)
class Crash:
    """A worker that died while it scored.

    Attributes:
        model: What scored last, as name/version; the pipeline's own where nothing did.
        sha256: Of that model.
        how: What `faulthandler` said, like "Segmentation fault".
        places: Records of the batch.
        by_model: Whether it was the model that ran.
        again: Whether it was, on one record that was a suspect before.
    """

    model: str
    sha256: str
    how: str
    places: tuple[Place, ...]
    by_model: bool
    again: bool

    def words(self) -> str:
        """One line."""
        became = "it is a dead letter (model_crashed) now" if self.again else "they are scored one at a time now"
        return f"{self.told()}: {became}"

    def told(self) -> str:
        """What happened."""
        who = f"model {self.model}" if self.by_model else f"decoding, features or encoding, not model {self.model},"
        return f"{who} killed its worker ({self.how}) on {spans_text(self.places)}"


def crash_folder(pipeline: Pipeline, settings: Settings) -> Path:
    """Where a pipeline's crashes are told: beside its checkpoints, which all workers reach."""
    return settings.checkpoints / run_name(pipeline) / "crashes"


def read_crashes(folder: Path) -> list[Crash]:
    """All crashes that workers of a pipeline found, the oldest of each subtask first."""
    return [each for path in sorted(folder.glob("*.json")) for each in _read(path)]


def unread_crashes(pipeline: Pipeline, settings: Settings) -> list[str]:
    """What killed workers that none came after yet, a line each; while a job runs there is nothing."""
    found = []
    for mark in sorted(crash_folder(pipeline, settings).glob("*.mark")):
        crash = _found(mark, mark.with_suffix(".fault"))
        if crash is not None:
            found.append(Crash(*crash, again=False).told())
    return found


def spans_text(places: Iterable[Place]) -> str:
    """Places in words: partition 0 offsets 12-40, requests' partition 1 offset 7."""
    offsets: dict[int, list[int]] = {}
    for partition, offset, _ in places:
        offsets.setdefault(partition, []).append(offset)
    parts = []
    for partition, found in sorted(offsets.items()):
        first, last = min(found), max(found)
        span = f" {first}" if first == last else f"s {first}-{last}"
        of_requests = "requests' " if partition >= SOURCE_STEP else ""
        parts.append(f"{of_requests}partition {partition % SOURCE_STEP} offset{span}")
    return ", ".join(parts[:_NAMED]) + (f" and {len(parts) - _NAMED} partitions" if len(parts) > _NAMED else "")


class CrashGuard:
    """Scores the batches of one subtask.

    Args:
        folder: Where crashes are told.
        subtask: Its number.
        model: Name and version of what scores.
        sha256: Of that model, the pipeline's own; `scores_with` says when it is another one that scores.

    Raises:
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path, subtask: int, model: str, sha256: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        mark, fault = folder / f"{subtask}.mark", folder / f"{subtask}.fault"
        crash = _found(mark, fault)
        if crash is not None:
            suspects = {p for each in read_crashes(folder) if each.sha256 == crash.sha256 for p in each.places}
            again = crash.by_model and len(crash.places) == 1 and crash.places[0] in suspects
            found = Crash(*crash, again=again)
            logging.getLogger(__name__).warning("%s", found.words())
            _note(folder / f"{subtask}.json", found)
        crashes = read_crashes(folder)
        self._culprits: dict[Place, dict[str, str]] = {}
        for each in crashes:
            if each.again:
                self._culprits.setdefault(each.places[0], {})[each.sha256] = f"{each.how} in model {each.model}"
        self._suspects = {place for each in crashes for place in each.places}
        with mark.open("w+b") as file:
            file.truncate(_MARK_BYTES)
            self._mark = mmap.mmap(file.fileno(), _MARK_BYTES)
        self._own = _packed_model(model, sha256)
        notes = fault.open("wb")
        faulthandler.enable(notes, all_threads=False)
        _kept_open.append(notes)

    def scores_with(self, model: str, sha256: str) -> None:
        """Another model than the pipeline's own scores from now on, in this batch."""
        self._mark[_PLACES_BYTES:_MARK_BYTES] = _packed_model(model, sha256)

    def score(self, scorer: Scorer | Answerer, records: RecordBatch, shards: Mapping[int, ShardState]) -> bytes:
        """As `Scorer.score`; what the batch is cut into changes nothing in what comes out."""
        if not self._suspects or self._suspects.isdisjoint(_places(records)):
            return self._marked(scorer, records, shards, None)
        outputs, begin, raw = [], 0, records.raw()
        for shard, end in zip(records.shards, records.shard_ends, strict=True):
            for row in range(begin, end):
                alone = _alone(raw[row], records, shard)
                outputs.append(self._marked(scorer, alone, shards, self._culprits.get(_places(alone)[0])))
            begin = end
        return b"".join(outputs)

    def _marked(
        self,
        scorer: Scorer | Answerer,
        records: RecordBatch,
        shards: Mapping[int, ShardState],
        crashed: Mapping[str, str] | None,
    ) -> bytes:
        self._mark[_PLACES_BYTES:_MARK_BYTES] = self._own
        count = min(len(records), MOST_PLACES)
        begin = _COUNT.size
        for column in (records.offsets, records.record_times_ms, _partitions(records)):
            content = column[:count].tobytes()
            self._mark[begin : begin + len(content)] = content
            begin += len(content)
        _COUNT.pack_into(self._mark, 0, count)
        try:
            return scorer.score(records, shards, crashed=crashed)
        finally:
            _COUNT.pack_into(self._mark, 0, 0)


def _places(records: RecordBatch) -> list[Place]:
    columns = _partitions(records), records.offsets, records.record_times_ms
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _partitions(records: RecordBatch) -> npt.NDArray[np.int32]:
    """(n,) int32; those of requests are told from those of events."""
    partitions: npt.NDArray[np.int32] = records.partitions
    return partitions if records.command != REQUESTS else partitions + np.int32(SOURCE_STEP)


def _alone(record: RawRecord, batch: RecordBatch, shard: int) -> RecordBatch:
    parts, sizes, names = record.parts, {0: record.size} if record.size else None, batch.names
    numbers = [parts.partition], [parts.offset], [parts.time_ms]
    packed = pack_records(
        [record.key], [record.value], *numbers, shard=shard, headers=[parts.headers], names=names, sizes=sizes,
        command=batch.command,
    )  # fmt: skip
    return RecordBatch(packed, names)


class _Found(NamedTuple):
    """The first fields of a `Crash`."""

    model: str
    sha256: str
    how: str
    places: tuple[Place, ...]
    by_model: bool


def _packed_model(model: str, sha256: str) -> bytes:
    return f"{sha256} {model}".encode()[:_MODEL_BYTES].ljust(_MODEL_BYTES, b"\0")


def _found(mark: Path, fault: Path) -> _Found | None:
    """How the last worker crashed, on which records, and whether in the model, if it did while it scored."""
    if not mark.is_file() or not fault.is_file():
        return None
    told, content = fault.read_text("utf-8", "replace"), mark.read_bytes()
    if not told or len(content) != _MARK_BYTES:
        return None
    (count,) = _COUNT.unpack_from(content)
    how = told.splitlines()[0].removeprefix("Fatal Python error: ")
    if not 0 < count <= MOST_PLACES:
        logging.getLogger(__name__).warning("the last worker was killed (%s), not while it scored", how)
        return None
    offsets, times_ms = np.frombuffer(content, "<i8", 2 * count, _COUNT.size).reshape(2, count).tolist()
    partitions = np.frombuffer(content, "<i4", count, _COUNT.size + 16 * count).tolist()
    sha256, _, model = content[_PLACES_BYTES:].rstrip(b"\0").decode("utf-8", "replace").partition(" ")
    places = tuple(zip(partitions, offsets, times_ms, strict=True))
    return _Found(model, sha256, how, places, _IN_MODEL.search(told) is not None)


def _read(path: Path) -> list[Crash]:
    if not path.is_file():
        return []
    told = json.loads(path.read_text("utf-8"))
    return [Crash(**{**each, "places": tuple(map(tuple, each["places"]))}) for each in told]


def _note(path: Path, crash: Crash) -> None:
    """Add to the subtask's own: culprits for good, of batches the last one."""
    kept = [each for each in _read(path) if each.again or crash.again]
    written = path.with_suffix(".new")
    written.write_text(json.dumps([vars(each) for each in (*kept, crash)]), "utf-8")
    written.replace(path)
