"""The training set: a Parquet file with one row an event, and in its metadata what the features were computed by.

Columns that begin with `_` are about the event (`_event_id`, `_entity`, `_event_time`, `_partition`, `_offset`,
`_late`, `_truncated`) or what came of it (`_label`); all others are features, by their derived names. A missing feature
is NaN, a missing label null.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from udfs.entity_state import LATE, TRUNCATED
from udfs.pipeline import Pipeline
from udfs.row_arrays import turn_rows

pa: Any = pyarrow
pc: Any = pyarrow.compute
pq: Any = pyarrow.parquet

FORMAT = "millrace-training-set-v1"
METADATA = b"millrace"
LABEL = "_label"
ROW_GROUP_ROWS = 131_072


class TrainingSetError(ValueError):
    """A file that is no training set of this pipeline; one line says why."""


def definition_of(pipeline: Pipeline) -> dict[str, Any]:
    """Everything that a feature's value depends on beside the events, as plain data."""
    events = pipeline.events
    features = [
        [name, feature.definition()] for feature in pipeline.features for name in feature.names(pipeline.fields)
    ]
    definition: dict[str, Any] = {
        "pipeline": pipeline.name,
        "features": features,
        "fields": [one.definition() for one in events.schema],
        "entity": events.entity,
        "time": events.time,
        "time_unit": events.time_unit,
        "id": events.id,
        "lateness_ms": pipeline.lateness_ms,
        "max_events_per_entity": pipeline.max_events_per_entity,
        "max_record_bytes": pipeline.max_record_bytes,
        "partitions": events.partitions,
        "feature_set_hash": pipeline.feature_set_hash(),
    }
    as_stored: dict[str, Any] = json.loads(json.dumps(definition))
    return as_stored


class TrainingSetWriter:
    """Writes a training set, block by block; the same blocks give the same bytes.

    Args:
        path: Of the file.
        pipeline: Whose features.
        facts: What else the metadata says: source, label rule, range.
        labelled: Whether there are labels.
    """

    def __init__(self, path: Path, pipeline: Pipeline, facts: Mapping[str, Any], *, labelled: bool) -> None:
        self._names, self._labelled, self._path = pipeline.feature_names, labelled, path
        document = {"format": FORMAT, "definition": definition_of(pipeline), **facts}
        self._metadata = {METADATA: json.dumps(document, ensure_ascii=False).encode()}
        self._writer: Any = None
        self._waiting: list[Any] = []
        self._waiting_rows = 0

    def table(
        self,
        passed: Any,
        features: npt.NDArray[np.float64],
        flags: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.float64] | None,
    ) -> Any:
        """Rows as they are written.

        Args:
            passed: A batch of the columns about the event.
            features: (n, features) float64.
            flags: (n,) uint8.
            labels: (n,) float64; NaN is missing.
        """
        columns = {name: passed.column(place) for place, name in enumerate(passed.schema.names)}
        columns["_event_time"] = columns["_event_time"].cast(pa.timestamp("ms")).cast(pa.timestamp("ms", tz="UTC"))
        columns["_late"], columns["_truncated"] = pa.array(flags & LATE > 0), pa.array(flags & TRUNCATED > 0)
        turned = np.empty((len(self._names), len(features)))
        turn_rows(features, turned)
        for place, name in enumerate(self._names):
            columns[name] = pa.array(turned[place])
        if labels is not None:
            columns[LABEL] = pa.array(labels, mask=np.isnan(labels))
        return pa.table(columns).replace_schema_metadata(self._metadata)

    def write(self, table: Any) -> None:
        """Append rows; small blocks are put together."""
        self._waiting.append(table)
        self._waiting_rows += len(table)
        if self._waiting_rows >= ROW_GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what waits, and the file's end."""
        if self._waiting or self._writer is None:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        table = self._waiting[0] if len(self._waiting) == 1 else pa.concat_tables(self._waiting or [self._empty()])
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._path,
                table.schema,
                compression="snappy",
                use_dictionary=["_entity"],  # building dictionaries of numbers takes three times the time of writing
            )
        self._writer.write_table(table, row_group_size=len(table) or None)
        self._waiting, self._waiting_rows = [], 0

    def _empty(self) -> Any:
        names = {"_event_id": pa.string(), "_entity": pa.string(), "_event_time": pa.int64()}
        passed = pa.record_batch({name: pa.array([], kind) for name, kind in names.items()})
        labels = np.empty(0) if self._labelled else None
        return self.table(passed, np.empty((0, len(self._names))), np.empty(0, np.uint8), labels)


@dataclass(frozen=True)
class TrainingRows:
    """Rows of a training set to learn from.

    Attributes:
        features: (n, features) float64.
        labels: (n,) float64, none missing.
        entities: (n,) codes of the entities.
        event_times_ms: (n,) int64.
        unlabelled: How many rows had no label and were left out.
        facts: The file's metadata.
    """

    features: npt.NDArray[np.float64]
    labels: npt.NDArray[np.float64]
    entities: npt.NDArray[np.int64]
    event_times_ms: npt.NDArray[np.int64]
    unlabelled: int
    facts: Mapping[str, Any]


def read_training_set(path: Path, pipeline: Pipeline, label: str = LABEL) -> TrainingRows:
    """The labelled rows of a training set.

    Args:
        path: The file.
        pipeline: Whose features the rows must have.
        label: The column of labels: numbers or truths.

    Raises:
        TrainingSetError: The file is no training set, is one of other features (says which), or has no such column.
    """
    facts = facts_for(path, pipeline)
    names = pq.read_schema(path).names
    if label not in names:
        advice = "; backfill with --labels, or name a column with --label" if label == LABEL else ""
        others = ", ".join(name for name in names if name not in pipeline.feature_names)
        raise TrainingSetError(f"{path.name} has no column {label!r} of labels (beside the features: {others}){advice}")
    if label in pipeline.feature_names:
        raise TrainingSetError(f"{label!r} is a feature: a model would be given its own answer")
    table = pq.read_table(path, columns=[*pipeline.feature_names, label, "_entity", "_event_time"])
    try:
        labels = table[label].cast(pa.float64())
    except pa.ArrowException as error:
        raise TrainingSetError(f"column {label!r} of {path.name} holds no numbers: {error}") from error
    values = pc.fill_null(labels, float("nan")).to_numpy()
    there = ~np.isnan(values)
    entities = table["_entity"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    times = table["_event_time"].cast(pa.int64()).to_numpy()
    features = np.empty((len(table), len(pipeline.feature_names)))
    for place, name in enumerate(pipeline.feature_names):
        features[:, place] = table[name].to_numpy()
    return TrainingRows(
        features[there], values[there], entities[there], times[there], int((~there).sum()), facts
    )


def facts_for(path: Path, pipeline: Pipeline) -> dict[str, Any]:
    """What the metadata of a training set of a pipeline's features says.

    Raises:
        TrainingSetError: It is none, or one of other features; says which.
    """
    facts = training_set_facts(path)
    difference = definition_difference(facts["definition"], definition_of(pipeline))
    if difference:
        raise TrainingSetError(
            f"{path.name} was made with other features than pipeline {pipeline.name} has: {difference}; "
            "make it anew with `millrace backfill`, or take the pipeline it was made with"
        )
    return facts


def training_set_facts(path: Path) -> dict[str, Any]:
    """What a training set's metadata says.

    Raises:
        TrainingSetError: It is no training set.
    """
    if not path.is_file():
        raise TrainingSetError(f"{path} is not a file; `millrace backfill` makes a training set")
    try:
        found = (pq.read_schema(path).metadata or {}).get(METADATA)
    except (pa.ArrowException, OSError) as error:
        raise TrainingSetError(f"{path.name} is no Parquet file: {error}") from error
    document: dict[str, Any] = json.loads(found) if found else {}
    if document.get("format") != FORMAT:
        raise TrainingSetError(f"{path.name} is no training set of `millrace backfill`: its metadata does not say so")
    return document


def definition_difference(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What the first difference between two definitions' features is, in words; empty if there is none."""
    if made["feature_set_hash"] == wanted["feature_set_hash"]:
        return ""
    made_features, wanted_features = dict(made["features"]), dict(wanted["features"])
    for name, definition in wanted_features.items():
        if name not in made_features:
            return f"it has no feature {name}"
        if made_features[name] != definition:
            return f"feature {name} {_changes(made_features[name], definition)}"
    extra = [name for name in made_features if name not in wanted_features]
    if extra:
        return f"it has the feature {extra[0]}, which the pipeline does not have"
    if list(made_features) != list(wanted_features):
        return "its features are in another order"
    made_fields = {field[0]: field for field in made["fields"]}
    for field in wanted["fields"]:
        if made_fields.get(field[0]) != field:
            return f"the event's field {field[0]} has another type"
    return "their definitions differ"


def _changes(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    changed = [f"{name} was {made.get(name)!r} and is {wanted.get(name)!r}" for name in _differing(made, wanted)]
    return ", ".join(changed)


def _differing(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> Sequence[str]:
    return [name for name in dict.fromkeys((*made, *wanted)) if made.get(name) != wanted.get(name)]
