"""Events with labels -> the pipeline's own features -> a checked model folder.

Training runs the engine that scores, so a model is fitted on exactly what it will see.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flink_jobs.decoding import event_decoder
from flink_jobs.local.shoppers import ShopperEvent, labelled_events
from flink_jobs.pipelines import MODELS, load_pipeline, writable_root
from flink_jobs.training_set import LABEL, read_training_set
from models.onnx_model import OnnxModel
from models.registry import next_version
from models.rule import DWELL_FEATURE, PAGE_FEATURES, build_rule_model
from models.splits import split_by_time
from models.train import Trained, TrainingError, train_classifier
from udfs.entity_state import ShardState
from udfs.pipeline import Pipeline
from udfs.plan import FeaturePlan
from udfs.wire_formats import Refused

Progress = Callable[[int], None]

SHIPPED = "purchase"
RULE_VERSION, TRAINED_VERSION = 1, 2
SHIPPED_EVENTS, SHIPPED_SEED = 400_000, 1
BATCH_EVENTS = 4_096

_HOW_TO_REPEAT = "repeat with flink_jobs.training.build_shipped_models()"


class FeatureRows(NamedTuple):
    """Features of events, in order of arrival.

    Attributes:
        features: (n_rows, n_features) float64, columns as in `pipeline.feature_names`.
        entities: (n_rows,) text.
        event_times_ms: (n_rows,) int64, ms since 1970.
        places: (n_rows,) int64: the place of each row's record among the records given.
        refused: (place, why) of each record that could not be decoded.
    """

    features: npt.NDArray[np.float64]
    entities: npt.NDArray[np.str_]
    event_times_ms: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    refused: list[tuple[int, Refused]]


@dataclass(frozen=True)
class TrainedReport:
    """What a training made.

    Attributes:
        version: The model's version.
        folder: Where it lies.
        metrics: See `models.train.Trained`.
        rows: How many events it was trained and measured on.
    """

    version: int
    folder: Path
    metrics: dict[str, Any]
    rows: int


def compute_features(
    pipeline: Pipeline, records: Iterable[Any], *, batch_events: int = BATCH_EVENTS, progress: Progress | None = None
) -> FeatureRows:
    """Features of a history as the job would have computed them, had every record arrived at its event time.

    Args:
        pipeline: Whose features.
        records: In order of arrival: decoded events (objects with the event's fields), or Kafka records as
            (key, value) of bytes.
        batch_events: How many are computed in one call; changes no result.
        progress: Called after each batch with the number of records done.

    Returns:
        One row for each record that could be decoded.
    """
    plan = FeaturePlan.build(pipeline)
    state = ShardState(plan, log_changes=False)
    decode = event_decoder(pipeline).decode
    entity = pipeline.events.entity
    waiting = iter(records)
    refused: list[tuple[int, Refused]] = []
    entities: list[str] = []
    features = [np.empty((0, len(pipeline.feature_names)))]
    all_times_ms, places = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    done = 0
    while batch := list(islice(waiting, batch_events)):
        decoded = [decode(*each) if type(each) is tuple else each for each in batch]
        good = [place for place, event in enumerate(decoded) if not isinstance(event, Refused)]
        refused += [(done + place, why) for place, why in enumerate(decoded) if isinstance(why, Refused)]
        events = [decoded[place] for place in good]
        names = [str(getattr(event, entity)) for event in events]
        times_ms, columns, masks, direct = plan.columnise(events)
        partitions = np.zeros(len(events), np.int32)
        advanced = state.advance(names, times_ms, times_ms, partitions, columns, masks, direct)
        kept = np.array([row for row in range(len(events)) if row not in advanced.failed], np.int64)
        refused += [(done + good[row], Refused("feature_failed", why)) for row, why in advanced.failed.items()]
        features.append(advanced.features[kept])
        entities += [names[row] for row in kept.tolist()]
        all_times_ms.append(times_ms[kept])
        places.append(np.array(good, np.int64)[kept] + done)
        done += len(batch)
        if progress is not None:
            progress(done)
    return FeatureRows(
        np.concatenate(features),
        np.array(entities, np.str_),
        np.concatenate(all_times_ms),
        np.concatenate(places),
        refused,
    )


def check_prediction(pipeline: Pipeline) -> None:
    """Refuse a pipeline whose model is none that is fitted here.

    Raises:
        TrainingError: Its prediction is not one number.
    """
    if not pipeline.outputs.is_number:
        raise TrainingError(
            f"{pipeline.name}'s prediction has {pipeline.outputs.text}, a model that is fitted here gives one number: "
            "fit it elsewhere, and take its ONNX file with `millrace models add`"
        )


def train_pipeline(
    pipeline: Pipeline,
    *,
    events: Iterable[Any],
    labels: Sequence[int] | npt.NDArray[Any],
    version: int | None = None,
    root: Path | None = None,
    seed: int = 0,
    baseline: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]] | None = None,
    description: str = "",
    replace: bool = False,
    progress: Progress | None = None,
) -> TrainedReport:
    """Train a classifier on a pipeline's features of labelled events and save it as `<root>/<name>/<version>/`.

    Args:
        pipeline: Whose features; its model's name is used, its model's version is not.
        events: See `compute_features`.
        labels: What came of each event, 0 or 1, one for each of `events`.
        version: Of the new model; by default the first free one.
        root: The folder of all models; by default the pipeline's own, or the project's.
        seed: Of the split into training, validation and test.
        baseline: Scores (n_rows, n_features) for comparison.
        description: For the manifest.
        replace: Overwrite a version that is there already.
        progress: See `compute_features`.

    Raises:
        TrainingError: The labels do not fit the events, or nothing can be learned from them.
    """
    check_prediction(pipeline)
    rows = compute_features(pipeline, events, progress=progress)
    truth = np.asarray(labels)
    records = len(rows.places) + len(rows.refused)
    if truth.shape != (records,):
        raise TrainingError(f"labels have shape {truth.shape}: give one label for each of {records} events")
    trained = train_classifier(
        rows.features,
        truth[rows.places],
        rows.entities,
        feature_names=pipeline.feature_names,
        baseline=None if baseline is None else baseline(rows.features),
        seed=seed,
    )
    return _saved(pipeline, trained, len(rows.places), version, root, description, replace=replace)


def train_from_set(
    pipeline: Pipeline,
    path: Path,
    *,
    label: str = LABEL,
    version: int | None = None,
    root: Path | None = None,
    seed: int = 0,
) -> TrainedReport:
    """Train a classifier on a training set and save it as `<root>/<name>/<version>/`.

    The first 70 % of the time are fitted on, the last 15 % measured on, and rows whose labels look into the next part
    are left out.

    Args:
        pipeline: Must have the features that the set was made with.
        path: Of the set.
        label: Its column of labels, 0 or 1; rows without one are left out.
        version: See `train_pipeline`.
        root: See `train_pipeline`.
        seed: Of the fit.

    Raises:
        TrainingSetError: It is no training set of this pipeline.
        TrainingError: Nothing can be learned from it.
    """
    check_prediction(pipeline)
    rows = read_training_set(path, pipeline, label)
    if not len(rows.labels):
        raise TrainingError(f"no row of {path.name} has a label in {label}: {rows.unlabelled} rows are missing it")
    known = rows.facts["label"] if label == LABEL else None
    split = split_by_time(rows.event_times_ms, known["horizon_ms"] if known else 0)
    rule = _rule_for(pipeline)
    share = float(rows.labels[split.training].mean()) if split.training.any() else 0.0
    trained = train_classifier(
        rows.features,
        rows.labels,
        rows.entities,
        feature_names=pipeline.feature_names,
        baseline=np.full(len(rows.labels), share) if rule is None else rule(rows.features),
        split=split,
        seed=seed,
    )
    compared = "the share of ones among the rows fitted on" if rule is None else f"the rule {SHIPPED}/{RULE_VERSION}"
    description = (
        f"Gradient-boosted trees on {len(rows.labels)} events of {path.name}, {_span(rows.event_times_ms)}; metrics "
        f"are of the last 15 % of the rows by time, baseline is {compared}"
    )
    return _saved(pipeline, trained, len(rows.labels), version, root, description)


def _span(times_ms: npt.NDArray[np.int64]) -> str:
    first, last = (datetime.fromtimestamp(int(ms) / 1_000, UTC).date() for ms in (times_ms.min(), times_ms.max()))
    return f"{first} to {last}"


def _saved(
    pipeline: Pipeline,
    trained: Trained,
    rows: int,
    version: int | None,
    root: Path | None,
    description: str,
    *,
    replace: bool = False,
) -> TrainedReport:
    """Save a model under the pipeline's name."""
    root = writable_root(pipeline, root)
    name = pipeline.model.name
    version = next_version(root, name) if version is None else version
    folder = trained.save(
        root,
        name=name,
        version=version,
        feature_set_hash=pipeline.feature_set_hash,
        description=description,
        replace=replace,
    )
    return TrainedReport(version, folder, dict(trained.metrics), rows)


def train_shipped(
    pipeline: Pipeline,
    *,
    events_total: int = SHIPPED_EVENTS,
    seed: int = SHIPPED_SEED,
    version: int | None = None,
    root: Path | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> TrainedReport:
    """Train on simulated shoppers, whose purchases are known; the rule is measured beside the model.

    Args:
        pipeline: The shipped one, or a variant of it with other features.
        events_total: How many events to simulate.
        seed: Of the simulation and of the split.
        version: See `train_pipeline`.
        root: See `train_pipeline`.
        replace: See `train_pipeline`.
        progress: See `compute_features`.

    Raises:
        TrainingError: There is no source of labels for this pipeline.
    """
    if pipeline.name != SHIPPED or not set(pipeline.columns_used) <= set(ShopperEvent.__struct_fields__):
        message = (
            f"pipeline {pipeline.name} has no labelled events: only {SHIPPED} can be trained from simulated shoppers; "
            "make a training set with `millrace backfill --labels` and give it with --from"
        )
        raise TrainingError(message)
    events, labels = labelled_events(events_total, seed)
    description = (
        "Will this shopper buy within 30 minutes? Gradient-boosted trees on the pipeline's features of "
        f"{events_total} simulated events (seed {seed}); metrics are of users held out, baseline is the rule "
        f"{SHIPPED}/{RULE_VERSION}; {_HOW_TO_REPEAT}"
    )
    return train_pipeline(
        pipeline,
        events=events,
        labels=labels,
        version=version,
        root=root,
        seed=seed,
        baseline=_rule_for(pipeline),
        description=description,
        replace=replace,
        progress=progress,
    )


def build_shipped_models(root: Path = MODELS, *, progress: Progress | None = None) -> TrainedReport:
    """Make `purchase/1` (the rule) and `purchase/2` (trained) anew.

    The same versions of the libraries on the same kind of machine give the same bytes.

    Args:
        root: The folder of all models. The rule that is the baseline is always the project's own.
        progress: See `compute_features`.

    Returns:
        What was trained.
    """
    pipeline = load_pipeline(SHIPPED)
    folder = root / SHIPPED / str(RULE_VERSION)
    rule = build_rule_model(folder, name=SHIPPED, version=RULE_VERSION, feature_set_hash=pipeline.feature_set_hash)
    dataclasses.replace(rule, description=f"{rule.description.rstrip('.')}; {_HOW_TO_REPEAT}").write(folder)
    return train_shipped(pipeline, version=TRAINED_VERSION, root=root, replace=True, progress=progress)


def _rule_for(pipeline: Pipeline) -> Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]] | None:
    """The rule's scores, if the pipeline has the features that the rule reads."""
    if not {DWELL_FEATURE, *PAGE_FEATURES} <= set(pipeline.feature_names):
        return None
    rule = OnnxModel.load(
        MODELS / SHIPPED / str(RULE_VERSION),
        feature_names=pipeline.feature_names,
        feature_set_hash=pipeline.feature_set_hash,
    )
    return rule.predict
