"""Scores for the rows of a file, block by block, so that memory does not grow with the file.

Rows of features are scored by a model alone; events of a pipeline get their features by a backfill first.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from flink_jobs.backfill_job import run_backfill
from flink_jobs.backfill_request import BackfillRequest
from flink_jobs.feature_files import FeatureBlock, feature_blocks
from flink_jobs.history_files import file_kind
from flink_jobs.output_columns import output_columns
from flink_jobs.training_set import METADATA
from models.manifest import ModelMismatchError
from models.onnx_model import OnnxModel
from udfs.scoring import predict_each

pa: Any = pyarrow
pa_csv: Any = pyarrow.csv
pq: Any = pyarrow.parquet

FIRST_SHOWN = 3
EVENT_COLUMNS = ("_event_id", "_entity", "_event_time")
_encode_json = msgspec.json.Encoder(enc_hook=str).encode


@dataclass
class ScoreReport:
    """What came of a file.

    Attributes:
        rows: Read; of events those that were none too.
        scored: Written.
        refused: How many rows have no score, by reason.
        first_refused: The first of them in words, with their place.
        letters: Where all of them are, if there are any.
    """

    rows: int = 0
    scored: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    first_refused: list[str] = field(default_factory=list)
    letters: Path | None = None

    def refuse(self, reason: str, place: str, detail: str) -> None:
        """Count a row."""
        self.refused[reason] += 1
        if len(self.first_refused) < FIRST_SHOWN:
            self.first_refused.append(f"{place}: {reason}, {detail}")


def letters_file(target: Path) -> Path:
    """Where the rows go that have no score; for events the file that a backfill writes."""
    return target.with_name(f"{target.stem}.dead_letters.jsonl")


def score_rows(
    path: Path, model: OnnxModel, ids: Sequence[str], target: Path, told: Callable[[int], None] = lambda _: None
) -> ScoreReport:
    """Score rows of features: the target has the number of each row in the file, the columns of `ids` and `score`.

    Args:
        path: JSONL, CSV (both also .gz) or Parquet.
        model: Opened alone.
        ids: Columns that go along.
        target: .parquet, .csv or .jsonl; replaced when all is done. A vector is a column of lists, which CSV has not.
        told: Told how many rows are done.

    Raises:
        EventFileError: The file has no such columns.
        ModelMismatchError: It is a training set of other definitions of the model's features.
    """
    _check_definitions(path, model)
    report = ScoreReport()
    with _Target(target, letters_file(target)) as out:
        for block in feature_blocks(path, model.manifest.features, ids):
            _score_block(block, path, model, report, out)
            told(report.rows)
    report.letters = _there(letters_file(target))
    return report


def score_events(
    request: BackfillRequest, model: OnnxModel, target: Path, told: Callable[[int], None] = lambda _: None
) -> ScoreReport:
    """Compute the features of events as a backfill does, and score them: what the job would answer.

    Args:
        request: Of a backfill into a file beside the target, which is deleted when all is scored.
        model: Opened for the features of the pipeline.
        target: .parquet, .csv or .jsonl, with the event's id, entity and time and the pipeline's prediction.
        told: Told how many rows are scored.

    Raises:
        BackfillError: Unfinished work of other arguments is there.
        EventFileError: The file is not events of the pipeline.
    """
    made = run_backfill(request)
    report = ScoreReport(refused=Counter(made.refused))
    try:
        if made.letters is not None:
            for letter in _first_letters(made.letters):
                report.first_refused.append(f"record {letter['record']}: {letter['reason']}, {letter['detail']}")
        with _Target(target, letters_file(target), begun=made.letters) as out:
            for block in feature_blocks(request.target, request.pipeline.feature_names, EVENT_COLUMNS):
                _score_block(block, None, model, report, out)
                told(report.rows)
    finally:
        request.target.unlink()
        if made.letters is not None:
            made.letters.unlink()
    report.rows += sum(made.refused.values())
    report.letters = _there(letters_file(target))
    return report


def _there(path: Path) -> Path | None:
    return path if path.exists() else None


def _score_block(
    block: FeatureBlock, path: Path | None, model: OnnxModel, report: ScoreReport, out: "_Target"
) -> None:
    """Write what is scored of a block, and the letters of the others in the order of the file."""
    outputs = model.prediction
    scores, failed = predict_each(model, block.features, outputs)
    refused = [(number, why, "") for number, why in block.refused]
    for row, why in failed.items():
        event = str(block.ids["_event_id"][row]) if path is None else ""
        refused.append((int(block.records[row]), why, event))
    for number, why, event in sorted(refused):
        report.refuse(why.reason, f"event {event}" if path is None else f"record {number}", why.detail)
        where = {"event": event} if path is None else {"file": str(path), "record": number}
        out.letter({**where, **why._asdict()})
    good = pa.array(~np.isin(np.arange(len(scores)), list(failed)))
    scores[list(failed)] = 0.0  # of no meaning, and a label's code must be one
    columns = {**({} if path is None else {"record": pa.array(block.records)}), **block.ids}
    table = pa.table({**columns, **output_columns(outputs, scores)})
    out.write(table.filter(good) if failed else table)
    report.rows += block.rows
    report.scored += len(scores) - len(failed)


def _check_definitions(path: Path, model: OnnxModel) -> None:
    """A training set says how its features were computed: another meaning of the same names is no input."""
    if file_kind(path) != "parquet" or not path.is_file():
        return
    found = (pq.read_schema(path).metadata or {}).get(METADATA)
    definition = json.loads(found).get("definition", {}) if found else {}
    manifest = model.manifest
    same_features = tuple(name for name, _ in definition.get("features", [])) == manifest.features
    if same_features and definition["feature_set_hash"] != manifest.feature_set_hash:
        message = (
            f"{path.name} was made with other definitions of its features than {manifest.name}/{manifest.version} "
            "was: make it anew with `millrace backfill`, or take the model of its pipeline"
        )
        raise ModelMismatchError(message)


def _first_letters(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        for _, line in zip(range(FIRST_SHOWN), lines, strict=False):
            yield json.loads(line)


class _Target:
    """Writes scores in the format that the file's name says, and letters; nothing is there until all is."""

    def __init__(self, path: Path, letters: Path, begun: Path | None = None) -> None:
        self._path, self._letters_path = path, letters
        self._unfinished = path.with_name(f".{path.name}.unfinished")
        self._unfinished_letters = letters.with_name(f".{letters.name}.unfinished")
        self._kind, self._letters_written = file_kind(path), begun is not None
        self._writer: Any = None
        self._lines = self._unfinished.open("wb") if self._kind == "jsonl" else None
        self._letters = self._unfinished_letters.open("wb")
        if begun is not None:
            with begun.open("rb") as file:
                while part := file.read(1 << 20):
                    self._letters.write(part)

    def __enter__(self) -> "_Target":
        return self

    def write(self, table: Any) -> None:
        """Append rows."""
        if self._lines is not None:
            self._lines.writelines(_encode_json(row) + b"\n" for row in table.to_pylist())
            return
        if self._writer is None:
            make: Any = pq.ParquetWriter if self._kind == "parquet" else pa_csv.CSVWriter
            self._writer = make(self._unfinished, table.schema)
        self._writer.write_table(table)

    def letter(self, letter: dict[str, Any]) -> None:
        """Append a row that has no score."""
        self._letters.write(_encode_json(letter) + b"\n")
        self._letters_written = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (self._writer, self._lines, self._letters):
            if each is not None:
                each.close()
        if error is None and self._unfinished.exists():
            self._unfinished.replace(self._path)
            if self._letters_written:
                self._unfinished_letters.replace(self._letters_path)
            else:
                self._letters_path.unlink(missing_ok=True)
        self._unfinished.unlink(missing_ok=True)
        self._unfinished_letters.unlink(missing_ok=True)


def refused_words(report: ScoreReport) -> str:
    """How many rows have no score, by reason."""
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(report.refused.items()))
