"""`millrace models add|probe`: a foreign model file meets a pipeline; what nobody can derive is asked for."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import typer

from flink_jobs.console import CommandError, next_steps, say, show, show_json
from flink_jobs.models_listing import output_documents, output_texts
from flink_jobs.pipelines import model_root, writable_root
from models.adapting import adapt, adapt_inputs
from models.adding import Expected, Facts, add_version, read_model
from models.choices import Adaptation, Choices, MissingChoiceError, OutputChoice, value_text
from models.comparing import features_text
from models.feature_rows import file_columns, read_feature_rows, read_output_rows, write_feature_rows
from models.fetching import fetch_version
from models.manifest import InputBinding, Manifest, OutputBinding
from models.mlflow_folder import read_mlflow, write_mlflow
from models.onnx_checks import ModelDescription
from models.thresholds import probe_rows, thresholds_of
from udfs.features import OneHot
from udfs.pipeline import Pipeline

Derived = TypeVar("Derived")

EXPECTED = "expected"


@dataclass(frozen=True)
class Expectation:
    """Where the source model's scores are.

    Attributes:
        file: Rows of features with a column of scores.
        column: That column; None means `expected`, or what the pipeline calls its prediction.
        allowed: The largest difference.
    """

    file: Path | None
    column: str | None
    allowed: float


def run_models_add_command(
    pipeline: Pipeline,
    name: str,
    file: Path,
    choices: Choices,
    facts: Facts,
    expectation: Expectation,
    *,
    version: int | None,
    root: str | None,
    as_json: bool,
) -> None:
    """Make a file the next version of the pipeline's model."""
    place = writable_root(pipeline, root)
    if file.is_dir():
        exported = read_mlflow(file)
        file, choices = exported.path, _completed(choices, exported.manifest)
        metrics = {} if exported.manifest is None else exported.manifest.metrics
        facts = replace(
            facts, description=facts.description or exported.description, metrics={**metrics, **facts.metrics}
        )
    model_bytes, described = read_model(file)
    if not as_json:
        _show_model(file, described)
    adaptation = _asked(
        lambda said: adapt(
            described, pipeline.feature_names, one_hot_texts(pipeline), pipeline.blocks,
            pipeline.outputs, said, str(file),
        ),
        _named(choices, described),
        as_json=as_json,
    )
    expected = _expected(pipeline, adaptation, expectation)
    folder, manifest = add_version(
        model_bytes,
        adaptation,
        root=place,
        name=pipeline.model.name,
        version=version,
        feature_names=pipeline.feature_names,
        feature_set_hash=pipeline.feature_set_hash,
        facts=facts,
        expected=expected,
        where=str(file),
    )
    compared: Any = manifest.metrics.get("conversion")
    if as_json:
        found = {"model": manifest.name, "version": manifest.version, "folder": str(folder), "sha256": manifest.sha256}
        inputs = {each: list(names) for each, names in adaptation.inputs.items()}
        show_json({**found, "inputs": inputs, **output_documents(manifest), "conversion": compared})
        return
    for each in manifest.inputs:
        show(f"  {each.name} gets {features_text(each.features)}")
    for text in output_texts(manifest):
        show(f"  the prediction is {text}" if len(manifest.outputs) == 1 else f"  the prediction has {text}")
    show(f"added {manifest.name}/{manifest.version}: {folder}; it was tried out and scores")
    if compared is None:
        say("  not compared with its source: give rows with the source model's scores with --expect", style="yellow")
    else:
        show(f"  scores {compared['rows']:,} rows as its source: {compared['largest_difference']:.2g} apart at most")
        if compared["thresholds_touched"] < compared["thresholds"]:
            say(
                f"  {compared['thresholds_touched']:,} of {compared['thresholds']:,} thresholds of its trees have rows "
                f"on both sides: `millrace models probe` makes such rows",
                style="yellow",
            )
    if manifest.version != pipeline.model.version:
        next_steps(
            (f"millrace models diff {name} {pipeline.model.version} {manifest.version}", "see what changes"),
            (f"Model({manifest.name!r}, version={manifest.version})", "write this in the pipeline"),
        )


def run_models_probe_command(
    pipeline: Pipeline, file: Path, choices: Choices, rows_file: Path, target: Path, *, replace_it: bool, as_json: bool
) -> None:
    """Write rows beside the thresholds of a model's trees, for its source to score."""
    if target.exists() and not replace_it:
        raise CommandError(f"{target} is there already: name another file, or say --replace")
    model_bytes, described = read_model(file)
    bound, _ = _asked(
        lambda said: adapt_inputs(
            described, pipeline.feature_names, one_hot_texts(pipeline), pipeline.blocks, said, str(file)
        ),
        _named(choices, described),
        as_json=as_json,
    )
    dtypes = {each.name: each.dtype for each in described.inputs}
    inputs = [InputBinding(each, dtypes[each], names) for each, names in bound.items()]
    names = tuple(dict.fromkeys(each for one in inputs for each in one.features))
    thresholds = thresholds_of(model_bytes, inputs)
    probes = probe_rows(read_feature_rows(rows_file, names), names, thresholds)
    if not len(probes):
        raise CommandError(f"{file} has no trees that look at features themselves: give rows of your own to --expect")
    write_feature_rows(target, probes, names)
    total = sum(len(each) for each in thresholds.values())
    if as_json:
        show_json({"file": str(target), "rows": len(probes), "thresholds": total})
        return
    show(f"{len(probes):,} rows at {total:,} thresholds of {len(thresholds)} features: {target}")
    next_steps(
        (f"add a column {EXPECTED!r}", "what the source model scores these rows, computed where it lives"),
        (f"millrace models add {file} {pipeline.name} --expect {target}", "compare"),
    )


def parse_lists(texts: Sequence[str] | None, option: str, only: str | None = None) -> dict[str, tuple[str, ...]]:
    """`NAME=a,b` each; without `NAME=` the name is the only one there could be."""
    found: dict[str, tuple[str, ...]] = {}
    for text in texts or ():
        name, equals, listed = text.partition("=")
        if not equals:
            if only is None:
                raise CommandError(f"{option} {text}: write {option} NAME=one,two with the name of an input")
            name, listed = only, text
        found[name] = tuple(part.strip() for part in listed.split(","))
    return found


def parse_numbers(texts: Sequence[str] | None, option: str) -> dict[str, float]:
    """`NAME=NUMBER` each."""
    found = {}
    for text in texts or ():
        name, _, number = text.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            raise CommandError(f"{option} {text}: write {option} NAME=NUMBER") from None
    return found


def one_hot_texts(pipeline: Pipeline) -> dict[str, dict[str, str]]:
    """{field: {text of a category: the feature that is 1 for it}}."""
    return {
        each.field: dict(
            zip(map(str, pipeline.fields[each.field].categories or ()), each.names(pipeline.fields), strict=True)
        )
        for each in pipeline.features
        if isinstance(each, OneHot)
    }


def _show_model(file: Path, described: ModelDescription) -> None:
    show(f"{file}: sha256 {described.sha256:.12}, opsets {', '.join(f'{k} {v}' for k, v in described.opsets.items())}")
    for title, values in (("input", described.inputs), ("output", described.outputs)):
        for value in values:
            show(f"  {title:<7} {value_text(value)}")


def _named(choices: Choices, described: ModelDescription) -> Choices:
    """The choices with the name of the only input, where features were said without one."""
    if "" not in choices.inputs:
        return choices
    if len(described.inputs) != 1:
        names = ", ".join(each.name for each in described.inputs)
        raise CommandError(f"--input: write NAME=feature,feature; the graph has inputs {names}")
    return replace(choices, inputs={described.inputs[0].name: choices.inputs[""]})


def _asked(derive: Callable[[Choices], Derived], choices: Choices, *, as_json: bool) -> Derived:
    """What can be derived, once the rest was asked for on a terminal."""
    while True:
        try:
            return derive(choices)
        except MissingChoiceError as missing:
            if as_json or not sys.stdin.isatty():
                raise
            say(str(missing))
            choices = _answered(choices, missing, typer.prompt(f"{missing.option[2:]} {missing.name or ''}".strip()))


def _completed(choices: Choices, manifest: Manifest | None) -> Choices:
    """What was said, and where nothing was, what the manifest that came along says."""
    if manifest is None:
        return choices
    outputs = {each.field: _choice(each, choices.outputs.get(each.field)) for each in manifest.outputs}
    said = replace(choices, outputs={**choices.outputs, **outputs})
    return replace(
        said,
        inputs={each.name: each.features for each in manifest.inputs} | dict(choices.inputs),
        categories={
            **{each.name: each.categories for each in manifest.inputs if each.categories}, **choices.categories
        },
    )


def _choice(binding: OutputBinding, said: OutputChoice | None) -> OutputChoice:
    """What was said of an output, and where its place was not, what the manifest says."""
    said = said or OutputChoice()
    if said.output is not None:
        return said
    return OutputChoice(
        binding.name,
        said.column if said.column is not None else binding.column,
        said.class_key or (None if binding.class_key is None else str(binding.class_key)),
        said.item if said.item is not None else binding.item,
    )


def parse_outputs(
    outputs: Sequence[str] | None,
    columns: Sequence[str] | None,
    class_keys: Sequence[str] | None,
    items: Sequence[str] | None,
) -> dict[str, OutputChoice]:
    """What `--output`, `--column`, `--class` and `--item` say, by the name before `=`, "" without one."""
    given = {"--output": outputs, "--column": columns, "--class": class_keys, "--item": items}
    found: dict[str, OutputChoice] = {}
    for option, texts in given.items():
        for text in texts or ():
            name, equals, value = text.partition("=")
            name, value = (name, value) if equals else ("", text)
            found[name] = _said(found.get(name) or OutputChoice(), option, value)
    return found


def _said(choice: OutputChoice, option: str, answer: str) -> OutputChoice:
    answer = answer.strip()
    if option == "--output":
        return replace(choice, output=answer)
    if option == "--class":
        return replace(choice, class_key=answer)
    if not answer.isdecimal():
        raise CommandError(f"{option} {answer}: write a whole number, from 0 on")
    return replace(choice, column=int(answer)) if option == "--column" else replace(choice, item=int(answer))


def run_models_export_command(
    pipeline: Pipeline, number: int, target: Path, root: str | None, *, as_json: bool
) -> None:
    """Write a version as an MLflow model folder."""
    write_mlflow(fetch_version(model_root(pipeline, root), pipeline.model.name, number), target)
    if as_json:
        show_json({"model": pipeline.model.name, "version": number, "folder": str(target)})
        return
    show(f"{pipeline.model.name}/{number} as a model of MLflow: {target}")
    next_steps((f"mlflow.onnx.load_model({str(target)!r})", "load it, or log it to a tracking server"))


def _answered(choices: Choices, missing: MissingChoiceError, answer: str) -> Choices:
    """The choices with one more."""
    if missing.option not in ("--input", "--categories"):
        if missing.option in ("--column", "--item") and not answer.strip().isdecimal():
            return choices
        choice = _said(choices.outputs.get(missing.name) or OutputChoice(), missing.option, answer)
        return replace(choices, outputs={**choices.outputs, missing.name: choice})
    listed = {missing.name: tuple(part.strip() for part in answer.rpartition("=")[2].split(","))}
    if missing.option == "--input":
        return replace(choices, inputs={**choices.inputs, **listed})
    return replace(choices, categories={**choices.categories, **listed})


def _expected(pipeline: Pipeline, adaptation: Adaptation, expectation: Expectation) -> Expected | None:
    file = expectation.file
    if file is None:
        return None
    names = tuple(dict.fromkeys(each for one in adaptation.inputs.values() for each in one))
    outputs, known = pipeline.outputs, file_columns(file) if file.is_file() else []
    rows = read_feature_rows(file, names)
    columns = {each: each for each in outputs.names}
    if len(columns) == 1:
        column = expectation.column or next((each for each in (EXPECTED, *columns) if each in known), None)
        if column is None:
            raise CommandError(
                f"{file.name} has no column {EXPECTED} or {outputs.names[0]}: say which one has the source model's "
                "scores with --expect-column"
            )
        columns = {outputs.names[0]: column}
    elif expectation.column is not None:
        raise CommandError(f"--expect-column: the columns of several outputs are called {', '.join(columns)}")
    return Expected(names, rows, read_output_rows(file, outputs, columns), expectation.allowed)
