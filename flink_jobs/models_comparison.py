"""`millrace models compare`: served scores against those of shadows and challengers, as the topics have them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from confluent_kafka import Message
from rich.table import Table

from flink_jobs.console import CommandError, next_steps, out, say, show_json
from flink_jobs.decoding import prediction_reader
from flink_jobs.kafka_admin import offsets_for_time, topic_ends, topic_starts
from flink_jobs.local.home import connected
from flink_jobs.settings import Settings
from flink_jobs.topic_scan import scan
from models.comparison import Comparison, Estimate, GroupComparison, compare_groups
from models.output_comparison import LabelComparison, OutputComparison, VectorComparison, compare_outputs
from models.outputs import Number, Outputs
from udfs.pipeline import Pipeline
from udfs.receipts import HEADER
from udfs.served_models import CHALLENGER, CHAMPION

_PLACE_COLUMNS = ("_partition", "_offset", "_label")
_OFFSET_BITS = 44
Floats = npt.NDArray[np.float64]


class Scores(NamedTuple):
    """Predictions of one topic.

    Attributes:
        places: (n,) int64, sorted: partition and offset of each event in one number.
        scores: (n, *shape) float64, as of `models.outputs`.
        models: (n,) int64: place in `names`.
        names: (version, role).
    """

    places: npt.NDArray[np.int64]
    scores: Floats
    models: npt.NDArray[np.int64]
    names: list[tuple[str, str]]

    def of(self, name: tuple[str, str]) -> "Scores":
        """Those of one model in one role."""
        own = self.models == self.names.index(name)
        return Scores(self.places[own], self.scores[own], self.models[own], self.names)


def run_compare_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    *,
    since_ms: int | None,
    labels: Path | None,
    threshold: float,
    as_json: bool,
) -> None:
    """Compare all pairs of models that scored the same events, and challengers with their champion.

    Raises:
        CommandError: There is nothing to compare.
    """
    if pipeline.shadow_topic is None:
        raise CommandError(f"{name} has no models_topic, and so no shadows and no challengers")
    connected(settings)
    known = None if labels is None else read_labels(labels)
    served = _read(pipeline, settings, pipeline.predictions, since_ms)
    shadows = _read(pipeline, settings, pipeline.shadow_topic, since_ms)
    say(f"{len(served.places):,} served predictions, {len(shadows.places):,} of shadows")
    pairs = paired(pipeline.outputs, served, shadows, known, threshold)
    groups = grouped(pipeline.outputs, served, known)
    if not pairs and not groups:
        raise CommandError(
            f"no event has scores of two models: `millrace models promote {name} VERSION --shadow OTHER` makes some"
        )
    if as_json:
        document = {f"{a} and {b}": outputs_json(pipeline.outputs, found) for (a, b), found in pairs.items()}
        between = {f"{a} and {b}": outputs_json(pipeline.outputs, found) for (a, b), found in groups.items()}
        show_json({"pipeline": pipeline.name, "threshold": threshold, "same_events": document, "groups": between})
        return
    for (a, b), pair in pairs.items():
        for name, one in pair.items():
            out.print(pair_table(a, b, one, threshold, "" if pipeline.outputs.is_number else f"{name}: "))
    for (a, b), group in groups.items():
        for name, of_groups in group.items():
            out.print(_group_table(a, b, of_groups, "" if pipeline.outputs.is_number else f"{name}: "))
    if known is None:
        next_steps((
            f"millrace backfill {name} --from kafka --to set.parquet --labels FILE --label-horizon 1h",
            f"labels by event; then `millrace models compare {name} --labels set.parquet`",
        ))


def read_labels(file: Path) -> tuple[npt.NDArray[np.int64], Floats]:
    """Places, sorted, and labels of a training set that was made of the topic.

    Raises:
        CommandError: It is none.
    """
    if not file.is_file() or not set(_PLACE_COLUMNS) <= set(pq.read_schema(file).names):  # type: ignore[no-untyped-call]
        raise CommandError(
            f"--labels is {file}: give a training set with labels that was made of the topic (`millrace backfill "
            "--from kafka --labels ...`), whose rows say their partition and offset"
        )
    table = pq.read_table(file, columns=list(_PLACE_COLUMNS))  # type: ignore[no-untyped-call]
    partitions, offsets, labels = (
        table.column(name).to_numpy(zero_copy_only=False) for name in _PLACE_COLUMNS
    )
    places = places_of(partitions.astype(np.int64), offsets.astype(np.int64))
    order = np.argsort(places)
    return places[order], labels.astype(np.float64)[order]


def outputs_json(
    outputs: Outputs, found: Mapping[str, OutputComparison] | Mapping[str, GroupComparison]
) -> dict[str, Any]:
    """A comparison as plain data: by output, unless there is only one number."""
    if outputs.is_number:
        return next(iter(found.values())).to_json()
    return {name: each.to_json() for name, each in found.items()}


def paired(
    outputs: Outputs,
    served: Scores,
    shadows: Scores,
    known: tuple[npt.NDArray[np.int64], Floats] | None,
    threshold: float,
) -> dict[tuple[str, str], dict[str, OutputComparison]]:
    """Each served model against each shadow on the events that both scored, by output."""
    found = {}
    for one in served.names:
        for other in shadows.names:
            a, b = served.of(one), shadows.of(other)
            common, rows_a, rows_b = np.intersect1d(a.places, b.places, assume_unique=True, return_indices=True)
            if len(common):
                found[_label(one), _label(other)] = compare_outputs(
                    outputs, a.scores[rows_a], b.scores[rows_b], _labels_of(common, known), threshold=threshold
                )
    return found


def grouped(
    outputs: Outputs, served: Scores, known: tuple[npt.NDArray[np.int64], Floats] | None
) -> dict[tuple[str, str], dict[str, GroupComparison]]:
    """Each champion against each challenger, by output; of vectors and labels of different entities nothing is said."""
    found = {}
    for one in [name for name in served.names if name[1] == CHAMPION]:
        for other in [name for name in served.names if name[1] == CHALLENGER]:
            a, b = served.of(one), served.of(other)
            labels = _labels_of(a.places, known), _labels_of(b.places, known)
            pairs = zip(outputs.parts(a.scores), outputs.parts(b.scores), strict=True)
            numbers = {each.name: (x, y) for (each, x), (_, y) in pairs if isinstance(each, Number)}
            if numbers:
                found[_label(one), _label(other)] = {
                    each: compare_groups(x, y, *labels) for each, (x, y) in numbers.items()
                }
    return found


def _labels_of(
    places: npt.NDArray[np.int64], known: tuple[npt.NDArray[np.int64], Floats] | None
) -> Floats | None:
    if known is None:
        return None
    at = np.searchsorted(known[0], places).clip(max=len(known[0]) - 1)
    return np.where(known[0][at] == places, known[1][at], np.nan)


def _read(pipeline: Pipeline, settings: Settings, topic: str, since_ms: int | None) -> Scores:
    kafka = settings.bootstrap, settings.kafka_properties
    if since_ms is None:
        begins = topic_starts(kafka[0], topic, kafka[1])
    else:
        begins = offsets_for_time(kafka[0], topic, since_ms, kafka[1])
    ends = topic_ends(kafka[0], topic, kafka[1], isolation="read_committed")
    spans = {partition: (begins.get(partition, 0), end) for partition, end in ends.items()}
    fields, names = prediction_reader(pipeline, settings), dict[tuple[str, str], int]()
    rows: list[tuple[int, ...]] = []
    scores: list[list[float]] = []
    for messages in scan(*kafka, topic, spans):
        for receipt, message in _of_pipeline(messages, pipeline):
            try:
                numbers = pipeline.outputs.numbers(fields(message.value() or b""))
            except ValueError:  # of a pipeline that had other outputs
                continue
            model = receipt.get("model-version", "?"), receipt.get("role", "")
            rows.append((int(receipt["partition"]), int(receipt["offset"]), names.setdefault(model, len(names))))
            scores.append(numbers)
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    # a replayed event has two answers, of which the first counts
    places, first = np.unique(places_of(columns[0], columns[1]), return_index=True)
    found = np.array(scores, np.float64).reshape(len(rows), *pipeline.outputs.shape)
    return Scores(places, found[first], columns[2][first], list(names))


def _of_pipeline(messages: Iterable[Message], pipeline: Pipeline) -> Iterable[tuple[Mapping[str, str], Message]]:
    for message in messages:
        headers: Any = message.headers() or ()
        receipt = {key.removeprefix(HEADER): (value or b"").decode("utf-8", "replace") for key, value in headers}
        ours = receipt.get("pipeline") == pipeline.name and receipt.get("topic") == pipeline.events.topic
        if ours and "fallback" not in receipt:
            yield receipt, message


def places_of(partitions: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(n,) int64: places as `Scores` has them."""
    return (partitions << _OFFSET_BITS) | offsets


def _label(name: tuple[str, str]) -> str:
    version, role = name
    return f"{version} ({role})" if role else version


def pair_table(a: str, b: str, found: OutputComparison, threshold: float, output: str = "") -> Table:
    """Two models on the same events, for people; `output` begins the title."""
    if not isinstance(found, Comparison):
        return _distance_table(f"{output}{a} and {b} on the same {found.count:,} events", found)
    table = _table(f"{output}{a} and {b} on the same {found.count:,} events", a, b)
    table.add_row("mean score", f"{found.a.mean:.4f}", f"{found.b.mean:.4f}", _text(found.difference))
    for level in (0.05, 0.5, 0.95):
        table.add_row(f"quantile {level:g}", f"{found.a.quantiles[level]:.4f}", f"{found.b.quantiles[level]:.4f}", "")
    table.add_row("largest difference", "", "", f"{found.largest_difference:.4f}")
    table.add_row("KS, PSI", "", "", f"{found.ks:.4f}, {found.psi:.4f}")
    table.add_row(f"same decision at {threshold:g}", "", "", _text(found.agreement))
    table.add_row("yes to no, no to yes", "", "", f"{found.yes_to_no:,}, {found.no_to_yes:,}")
    if found.labelled is not None:
        quality_a, quality_b, title = found.labelled.a, found.labelled.b, f"{found.labelled.count:,} labels"
        table.add_row(title, "", "", f"{found.labelled.positive:.2%} of them positive")
        for what, one, other, difference in (
            ("AUC", quality_a.auc, quality_b.auc, found.labelled.auc),
            ("log loss", quality_a.log_loss, quality_b.log_loss, found.labelled.log_loss),
            ("Brier", quality_a.brier, quality_b.brier, found.labelled.brier),
        ):
            table.add_row(what, _text(one), _text(other), _text(difference))
    return table


def _distance_table(title: str, found: VectorComparison | LabelComparison) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    if isinstance(found, LabelComparison):
        for heading in ("", "share, with its interval of 95 %", "events"):
            table.add_column(heading)
        table.add_row("same label", _text(found.agreement), "")
        for was, new, count in found.changes:
            table.add_row(f"{was} to {new}", "", f"{count:,}")
        return table
    for heading in ("", "mean, with its interval of 95 %", "p50", "p99", "largest"):
        table.add_column(heading)
    for name, each in (("cosine distance", found.cosine), ("euclidean distance", found.euclidean)):
        table.add_row(name, _text(each.mean), f"{each.p50:.4f}", f"{each.p99:.4f}", f"{each.largest:.4f}")
    table.add_row("the same", f"{found.same:,}", "", "", "")
    return table


def _group_table(a: str, b: str, found: GroupComparison, output: str = "") -> Table:
    table = _table(f"{output}{a} and {b} on different entities", a, b)
    table.add_row("events", f"{found.counts[0]:,}", f"{found.counts[1]:,}", "")
    table.add_row("mean score", f"{found.a.mean:.4f}", f"{found.b.mean:.4f}", _text(found.difference))
    table.add_row("KS, PSI", "", "", f"{found.ks:.4f}, {found.psi:.4f}")
    if any(found.labelled):
        table.add_row("labels", f"{found.labelled[0]:,}", f"{found.labelled[1]:,}", "")
        table.add_row("AUC", _text(found.auc_a), _text(found.auc_b), _text(found.auc))
    return table


def _table(title: str, a: str, b: str) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    for heading in ("", a, b, "difference, with its interval of 95 %"):
        table.add_column(heading)
    return table


def _text(found: Estimate | None) -> str:
    return "" if found is None else f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"
