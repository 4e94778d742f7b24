"""What is asked of a backfill, and the plan it becomes: fixed at the first start, the same after every restart."""

import fcntl
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flink_jobs.documents import read_document, write_document
from flink_jobs.history import Piece
from flink_jobs.labels import LabelRequest, label_pipeline
from flink_jobs.lookup_tables import keep_histories
from flink_jobs.served_rows import ServedPlaces
from flink_jobs.shard_segments import Source
from flink_jobs.state_files import StateFile
from flink_jobs.training_set import definition_of
from udfs.pipeline import Pipeline

FORMAT = 1


class BackfillError(RuntimeError):
    """A backfill cannot be done or go on; one line says what to do."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Work in a folder that exists while nobody else does.

    Raises:
        BackfillError: Somebody does.
    """
    with (folder / "in-use").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackfillError(f"another process is at work in {folder}: wait for it, or stop it") from None
        yield


@dataclass(frozen=True)
class BackfillRequest:
    """What is asked for.

    Attributes:
        pipeline: Whose features.
        source: What the history is, as plain data; part of the file's metadata.
        pieces: Finds the history; called once for a backfill, however often it is resumed.
        target: The file to write; for a state, the folder.
        since_ms: Events before this time only warm up; None keeps all.
        until_ms: So do events from this time on.
        labels: What came of the events.
        order_by: A number field that says the order of arrival in files.
        shards: Of the job whose results these must be.
        processes: How many work at a time.
        bootstrap: Where the brokers are.
        properties: Kafka client properties.
        served: Which rows of lookups events saw in the job; None joins all with the history.
    """

    pipeline: Pipeline
    source: Mapping[str, Any]
    pieces: Callable[[], list[Piece]]
    target: Path
    since_ms: int | None = None
    until_ms: int | None = None
    labels: LabelRequest | None = None
    order_by: str | None = None
    shards: int = 32
    processes: int = 1
    bootstrap: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)
    served: ServedPlaces | None = None

    @property
    def work_folder(self) -> Path:
        """Where unfinished work is, beside the file it becomes."""
        return self.target.parent / f".{self.target.name}.backfill"

    @property
    def letters_file(self) -> Path:
        """Where the records go that are no events."""
        return self.target.with_name(f"{self.target.stem}.dead_letters.jsonl")

    def arguments(self) -> dict[str, Any]:
        """All that the result depends on, as plain data."""
        arguments = {
            "format": FORMAT,
            "definition": definition_of(self.pipeline),
            "source": dict(self.source),
            "since_ms": self.since_ms,
            "until_ms": self.until_ms,
            "labels": None if self.labels is None else self.labels.arguments(),
            "order_by": self.order_by,
            "shards": self.shards,
        }
        as_stored: dict[str, Any] = json.loads(json.dumps(arguments))
        return as_stored


@dataclass(frozen=True)
class BackfillPlan:
    """A backfill that has begun.

    Attributes:
        events: The history.
        labels: The label events.
        label_kind: Type of their values; None when each counts as 1.
        resumed: Whether an earlier run began it.
        tables: Of lookups, all their versions.
        row_ends: By topic of lookups and partition (as text), where it ended.
    """

    events: Source
    labels: Source | None
    label_kind: str | None
    resumed: bool
    tables: dict[str, StateFile]
    row_ends: dict[str, dict[str, int]]

    def absent(self, request: LabelRequest) -> float:
        """The label of an event without a label event."""
        usual = 0.0 if self.label_kind is None else math.nan
        return usual if request.absent is None else request.absent


def load_plan(request: BackfillRequest) -> BackfillPlan:
    """The plan of an unfinished backfill with these arguments, or a new one.

    Raises:
        BackfillError: Unfinished work of other arguments is there, or the sources changed since it began.
    """
    path = request.work_folder / "plan.json"
    resumed = path.exists()
    if resumed:
        document = read_document(path)
        _check(document, request)
    else:
        document = _new_document(request)
        request.work_folder.mkdir(parents=True, exist_ok=True)
        kept = keep_histories(request.pipeline, request.work_folder / "lookups", request.bootstrap, request.properties)
        document["tables"] = {name: (str(each.path), each.sha256) for name, each in kept.files.items()}
        document["row_ends"] = {topic: {str(p): end for p, end in ends.items()} for topic, ends in kept.ends.items()}
        write_document(path, document)
    events = _source(request.pipeline, document["pieces"], request.work_folder / "events", request.order_by)
    labels = None
    if request.labels is not None:
        pipeline = label_pipeline(request.pipeline, document["label_kind"], request.labels.column)
        labels = _source(pipeline, document["label_pieces"], request.work_folder / "labels", None, keyed=False)
    tables = {name: StateFile(Path(path), sha256) for name, (path, sha256) in document.get("tables", {}).items()}
    row_ends = document.get("row_ends", {})  # an earlier version began it
    return BackfillPlan(events, labels, document["label_kind"], resumed, tables, row_ends)


def _new_document(request: BackfillRequest) -> dict[str, Any]:
    pieces = request.pieces()
    label_pieces: list[Piece] = []
    kind = None
    if request.labels is not None:
        label_pieces, kind = request.labels.found(request.pipeline)
    return {
        "arguments": request.arguments(),
        "pieces": [piece.as_json() for piece in pieces],
        "label_pieces": [piece.as_json() for piece in label_pieces],
        "label_kind": kind,
        "files": {path: _state(path) for path in _paths([*pieces, *label_pieces])},
    }


def _source(
    pipeline: Pipeline, pieces: list[dict[str, Any]], folder: Path, order_by: str | None, *, keyed: bool = True
) -> Source:
    folder.mkdir(parents=True, exist_ok=True)
    return Source(pipeline, tuple(Piece.from_json(piece) for piece in pieces), folder, order_by, keyed)


def _paths(pieces: list[Piece]) -> list[str]:
    return sorted({piece.source for piece in pieces if piece.kind != "topic"})


def _state(path: str) -> list[int]:
    """What changes when a file does: its size and time."""
    found = Path(path).stat()
    return [found.st_size, found.st_mtime_ns]


def _check(document: Mapping[str, Any], request: BackfillRequest) -> None:
    made, wanted = document["arguments"], request.arguments()
    if made != wanted:
        differing = ", ".join(name for name in wanted if made.get(name) != wanted[name])
        raise BackfillError(
            f"{request.work_folder} holds an unfinished backfill with another {differing}: run it again as it was "
            "begun, or give --fresh to throw it away"
        )
    for path, state in document["files"].items():
        if not Path(path).exists() or _state(path) != state:
            raise BackfillError(
                f"{path} changed since the unfinished backfill in {request.work_folder} began: give --fresh to begin "
                "anew"
            )
