"""`millrace models check|diff`: every version put to the test, and two of them beside each other."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from flink_jobs.console import CommandError, out, show, show_json
from flink_jobs.models_comparison import outputs_json, pair_table
from flink_jobs.models_listing import output_texts
from flink_jobs.pipelines import model_root
from models.checking import BATCHES, Check, check_version
from models.comparing import feature_columns, manifest_differences, score_differences
from models.conversion import row_text
from models.feature_rows import read_feature_rows
from models.fetching import fetch_version
from models.manifest import Manifest
from models.onnx_model import OnnxModel
from models.output_comparison import OutputComparison, compare_outputs
from models.outputs import Outputs
from models.registry import read_version, read_versions
from udfs.pipeline import Pipeline
from udfs.predicting import predict_each

Floats = npt.NDArray[np.float64]


def run_models_check_command(
    pipeline: Pipeline, name: str, number: int | None, root: str | None, *, as_json: bool
) -> None:
    """Open, try out and time every version; fails if one that is not retired cannot be used."""
    place = model_root(pipeline, root)
    model = pipeline.model.name
    found = read_versions(place, model) if number is None else [read_version(place, model, number)]
    if not found:
        raise CommandError(f"no versions of {model} in {place}: `millrace train {name}` makes one")
    checks = {
        each.number: check_version(
            place, model, each.number,
            feature_names=pipeline.feature_names, feature_set_hash=pipeline.feature_set_hash,
            prediction=pipeline.outputs,
        ) for each in found
    }  # fmt: skip
    retired = {each.number for each in found if each.retired is not None}
    if as_json:
        rows = [
            {"version": key, "passed": check.problem is None, "problem": check.problem, "retired": key in retired,
             "us_a_row": check.us_a_row} for key, check in checks.items()
        ]  # fmt: skip
        show_json({"model": model, "root": str(place), "versions": rows})
    else:
        out.print(_table(f"{model} in {place}", checks, retired))
    failed = [key for key, check in checks.items() if check.problem is not None and key not in retired]
    if failed:
        raise CommandError(
            f"{model}/{failed[0]} cannot be used{f', nor can {len(failed) - 1} more' if failed[1:] else ''}: "
            f"{checks[failed[0]].problem}"
        )


def _table(title: str, checks: dict[int, Check], retired: set[int]) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("version")
    for rows in BATCHES:
        table.add_column(f"µs a row, {rows} at once", justify="right")
    table.add_column("state", overflow="fold")
    for key, check in checks.items():
        speeds = [f"{check.us_a_row[rows]:.1f}" if rows in check.us_a_row else "" for rows in BATCHES]
        state = check.problem or "passed"
        table.add_row(str(key), *speeds, f"retired; {state}" if key in retired else state)
    return table


def run_models_diff_command(
    pipeline: Pipeline,
    numbers: tuple[int, int],
    rows_file: Path | None,
    threshold: float | None,
    root: str | None,
    *,
    as_json: bool,
) -> None:
    """Say what differs between two versions, and how far their scores are apart."""
    if threshold is not None and rows_file is None:
        raise CommandError("--threshold counts decisions on rows: give some with --on")
    place = model_root(pipeline, root)
    for number in numbers:
        read_version(place, pipeline.model.name, number)  # says which versions there are
    folders = [fetch_version(place, pipeline.model.name, number) for number in numbers]
    before, after = (Manifest.read(folder) for folder in folders)
    document = manifest_differences(before, after)
    worst, outputs = "", dict[str, OutputComparison]()
    if rows_file is not None:
        names = tuple(dict.fromkeys((*before.features, *after.features)))
        rows = read_feature_rows(rows_file, names)
        pairs = zip(folders, (before, after), strict=True)
        opened = [_opened_alone(folder, one, pipeline.outputs) for folder, one in pairs]
        asked = [(model, feature_columns(names, model.manifest.features, rows)) for model in opened]
    if rows_file is not None and not pipeline.outputs.is_number:
        outputs = _outputs_compared(pipeline, asked, 0.5 if threshold is None else threshold)
        document["scores"] = outputs_json(pipeline.outputs, outputs)
    elif rows_file is not None:
        first, second = (model.predict(of_model) for model, of_model in asked)
        document["scores"] = score_differences(first, second, threshold)
        place_of_worst = document["scores"]["worst_row"]
        document["scores"]["worst"] = [_number_or_none(each[place_of_worst]) for each in (first, second)]
        worst = row_text(rows, place_of_worst, names)
        numbers_of_worst = [_number_or_none(each) for each in rows[place_of_worst]]
        document["scores"]["worst_features"] = dict(zip(names, numbers_of_worst, strict=True))
    if as_json:
        show_json({"model": pipeline.model.name, "versions": list(numbers), **document})
        return
    show(f"{pipeline.model.name}/{numbers[0]} -> {pipeline.model.name}/{numbers[1]}", style="bold")
    _show_differences(document, before, after)
    for output, found in outputs.items():
        decides = 0.5 if threshold is None else threshold
        out.print(pair_table(str(numbers[0]), str(numbers[1]), found, decides, f"{output}: "))
    if "scores" in document and not outputs:
        _show_scores(document["scores"], worst)


def _outputs_compared(
    pipeline: Pipeline, asked: Sequence[tuple[OnnxModel, Floats]], threshold: float
) -> dict[str, OutputComparison]:
    """Two models, each with its rows, output by output on the rows that both have a prediction of."""
    (first, first_failed), (second, second_failed) = (predict_each(*each, pipeline.outputs) for each in asked)
    both = np.ones(len(first), np.bool_)
    both[[*first_failed, *second_failed]] = False
    if not both.any():
        raise CommandError("no row has a prediction of both versions")
    return compare_outputs(pipeline.outputs, first[both], second[both], threshold=threshold)


def _number_or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _opened_alone(folder: Path, manifest: Manifest, outputs: Outputs) -> OnnxModel:
    return OnnxModel.load(
        folder,
        feature_names=manifest.features,
        feature_set_hash=lambda _names: manifest.feature_set_hash,
        prediction=outputs,
    )


def _show_differences(document: dict[str, Any], before: Manifest, after: Manifest) -> None:
    if not document.keys() - {"scores"}:
        show("  the same model")
    if "sha256" in document:
        show(f"  sha256    {before.sha256:.12} -> {after.sha256:.12}")
    features = document.get("features", {})
    for sign, key in (("+", "added"), ("-", "removed")):
        for each in features.get(key, ()):
            show(f"  {sign} feature {each}")
    if features.get("redefined"):
        show("  features  are defined otherwise")
    if "inputs" in document:
        for sign, texts in zip("-+", document["inputs"], strict=True):
            for text in texts:
                show(f"  {sign} input {text}")
    if "output" in document:
        show(f"  output    {'; '.join(output_texts(before))} -> {'; '.join(output_texts(after))}")
    if "opsets" in document:
        show(f"  opsets    {dict(before.opsets)} -> {dict(after.opsets)}")
    for key, (first, second) in document.get("metrics", {}).items():
        show(f"  metric    {key}: {'none' if first is None else first} -> {'none' if second is None else second}")


def _show_scores(scores: dict[str, Any], worst: str) -> None:
    show(f"  scores    {scores['same']:,} of {scores['rows']:,} rows the same")
    if "mean" in scores:
        show(
            f"            apart: mean {scores['mean']:.3g}, p50 {scores['p50']:.3g}, p99 {scores['p99']:.3g}, at most "
            f"{scores['largest']:.3g}; the mean moves by {scores['shift']:+.3g}"
        )
    if scores["correlation"] is not None:
        show(f"            correlation {scores['correlation']:.4f}")
    if scores["no_number"]:
        show(f"            {scores['no_number']:,} rows have a number from one of them only", style="red")
    if "yes_to_no" in scores:
        show(f"            decisions: {scores['yes_to_no']:,} yes to no, {scores['no_to_yes']:,} no to yes")
    if scores["same"] < scores["rows"]:
        first, second = scores["worst"]
        show(f"            most in row {scores['worst_row']}, {_text(first)} -> {_text(second)}: {worst}")


def _text(score: float | None) -> str:
    return "no number" if score is None else f"{score:.6g}"
