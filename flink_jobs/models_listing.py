"""`millrace models ls|show|retire`: what versions there are, in words and as data."""

from typing import Any

from rich.table import Table

from flink_jobs.console import CommandError, next_steps, out, show, show_json
from flink_jobs.pipelines import model_root, writable_root
from models.binding import chosen_outputs
from models.comparing import flat_metrics, input_text
from models.manifest import Manifest, ModelMismatchError, OutputBinding, output_document
from models.registry import Version, read_version, read_versions, retire, take_back
from udfs.pipeline import Pipeline

_MAIN_METRICS = ("auc", "log_loss", "brier")


def run_models_ls_command(pipeline: Pipeline, name: str, root: str | None, *, as_json: bool) -> None:
    """Every version of the pipeline's model."""
    place = model_root(pipeline, root)
    rows = [version_row(pipeline, version) for version in read_versions(place, pipeline.model.name)]
    if as_json:
        show_json({"model": pipeline.model.name, "root": str(place), "versions": rows})
        return
    if not rows:
        raise CommandError(
            f"no versions of {pipeline.model.name} in {place}: `millrace train {name}` makes one, "
            f"`millrace models add FILE.onnx {name}` takes one"
        )
    table = Table(title=f"{pipeline.model.name} in {place}", title_justify="left", box=None)
    for heading in ("version", "sha256", "features", *_MAIN_METRICS, "state"):
        table.add_column(heading, overflow="fold", justify="right" if heading in _MAIN_METRICS else "left")
    for row in rows:
        numbers = [main_metric(row["metrics"], key) for key in _MAIN_METRICS]
        shown = ["" if number is None else f"{number:.4g}" for number in numbers]
        table.add_row(str(row["version"]), (row["sha256"] or "")[:12], _features(row), *shown, _state(row))
    out.print(table)


def run_models_show_command(pipeline: Pipeline, number: int | None, root: str | None, *, as_json: bool) -> None:
    """All that one version's files say; by default the one that the pipeline names."""
    place = model_root(pipeline, root)
    version = read_version(place, pipeline.model.name, number or pipeline.model.version)
    row = version_row(pipeline, version) | _details(version.manifest)
    if as_json:
        show_json(row)
        return
    show(f"{pipeline.model.name}/{version.number} in {version.where}", style="bold")
    if version.manifest is not None:
        for key, text in _facts(version.manifest):
            show(f"  {key:<12} {text}")
    show(f"  {'state':<12} {_state(row) or 'fits the pipeline'}")


def run_models_retire_command(
    pipeline: Pipeline, name: str, number: int, root: str | None, reason: str, *, undo: bool, as_json: bool
) -> None:
    """Mark a version as not to be promoted, or take that back."""
    place = writable_root(pipeline, root)
    label = f"{pipeline.model.name}/{number}"
    if undo:
        changed = take_back(place, pipeline.model.name, number)
        text = f"{label} may be promoted again" if changed else f"{label} was not retired: nothing changes"
    else:
        if number == pipeline.model.version:
            raise CommandError(f"{label} is the version that {pipeline.name} names: name another one there first")
        retire(place, pipeline.model.name, number, reason)
        text = f"{label} is retired: it stays in {place}, and is not promoted any more"
    if as_json:
        show_json({"model": pipeline.model.name, "version": number, "retired": not undo})
        return
    show(text)
    if not undo:
        next_steps((f"millrace models retire {name} {number} --undo", "take it back"))


def version_row(pipeline: Pipeline, version: Version) -> dict[str, Any]:
    """A version as plain data; `problem` says why a job of the pipeline could not take it."""
    manifest = version.manifest
    return {
        "version": version.number,
        "sha256": manifest and manifest.sha256,
        "features": [] if manifest is None else list(manifest.features),
        "metrics": {} if manifest is None else dict(manifest.metrics),
        "description": "" if manifest is None else manifest.description,
        "named": version.number == pipeline.model.version,
        "retired": version.retired is not None,
        "retired_because": version.retired,
        "where": version.where,
        "problem": version.problem or (manifest and problem_with(pipeline, manifest)),
    }


def problem_with(pipeline: Pipeline, manifest: Manifest) -> str | None:
    """Why a model is none for the pipeline, by its features or outputs; None if it is one."""
    unknown = [each for each in manifest.features if each not in pipeline.feature_names]
    if unknown:
        return f"takes features that the pipeline does not have: {', '.join(unknown)}"
    if pipeline.feature_set_hash(manifest.features) != manifest.feature_set_hash:
        return "was made with other definitions of its features"
    try:
        chosen_outputs(manifest, pipeline.outputs, "it")
    except ModelMismatchError as error:
        return str(error)
    return None


def main_metric(metrics: Any, key: str) -> float | None:
    """A number of the model itself, wherever whoever made the manifest put it: beside others or under `model`."""
    for place in (metrics.get("model"), metrics):
        found = place.get(key) if isinstance(place, dict) else None
        if isinstance(found, int | float) and not isinstance(found, bool):
            return float(found)
    return None


def output_documents(manifest: Manifest) -> dict[str, Any]:
    """Where the prediction is, as plain data: `output` of one number, else `outputs` by name."""
    if not manifest.outputs[0].field:
        output = manifest.outputs[0]
        return {"output": {"name": output.name, "kind": output.kind, "item": output.item, "column": output.column,
                           "class": output.class_key}}  # fmt: skip
    return {"outputs": {each.field: output_document(each) for each in manifest.outputs}}


def output_texts(manifest: Manifest) -> list[str]:
    """Where each output of the prediction is, in words."""
    return [
        f"{each.output.text}: {_place_text(each)}" if each.field else _place_text(each) for each in manifest.outputs
    ]


def _place_text(output: OutputBinding) -> str:
    place = "" if output.size is not None else f", column {output.column}"
    if output.kind == "zipmap":
        keys = output.class_keys or (output.class_key,)
        place = f", class {', '.join(map(repr, keys))}"
    item = f", tensor {output.item}" if output.kind == "sequence" else ""
    return f"{output.name} ({output.kind}{item}{place})"


def _features(row: dict[str, Any]) -> str:
    return str(len(row["features"])) if row["sha256"] else ""


def _state(row: dict[str, Any]) -> str:
    said = ["the pipeline's"] if row["named"] else []
    if row["retired"]:
        said.append(f"retired{': ' + row['retired_because'] if row['retired_because'] else ''}")
    return "; ".join([*said, *([row["problem"]] if row["problem"] else [])])


def _details(manifest: Manifest | None) -> dict[str, Any]:
    if manifest is None:
        return {}
    return {
        "inputs": [
            {"name": each.name, "dtype": each.dtype, "features": list(each.features)}
            | ({"categories": list(each.categories)} if each.categories else {})
            for each in manifest.inputs
        ],
        **output_documents(manifest),
        "opsets": dict(manifest.opsets),
        "feature_set_hash": manifest.feature_set_hash,
        "training_data_sha256": manifest.training_data_sha256,
    }


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    facts = [("", manifest.description)] if manifest.description else []
    facts.append(("sha256", manifest.sha256))
    for each in manifest.inputs:
        facts.append(("input", input_text(each)))
    facts += [("output", text) for text in output_texts(manifest)]
    facts.append(("opsets", ", ".join(f"{domain} {number}" for domain, number in manifest.opsets.items())))
    facts += [("metric", f"{key}: {value}") for key, value in flat_metrics(manifest.metrics)]
    return facts

