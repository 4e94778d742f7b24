"""`millrace models combine`: several versions made into one more."""

import math
from pathlib import Path

from flink_jobs.console import CommandError, next_steps, show, show_json
from flink_jobs.models_adding import one_hot_texts
from flink_jobs.pipelines import writable_root
from models.adding import Facts
from models.choices import Choices, MissingChoiceError
from models.combination import CASCADE, MEAN, STACK, VOTE
from models.combining import Recipe, combine
from models.feature_rows import read_feature_rows
from udfs.pipeline import Pipeline


def read_recipe(
    *,
    mean: str | None,
    vote: str | None,
    stack: str | None,
    cascade: str | None,
    weights: str | None,
    threshold: float | None,
    by: Path | None,
    choices: Choices,
    unsure: str | None,
) -> Recipe:
    """What the options say.

    Raises:
        CommandError: They say nothing that can be made.
    """
    said = {MEAN: mean, VOTE: vote, STACK: stack, CASCADE: cascade}
    chosen = [(kind, listed) for kind, listed in said.items() if listed is not None]
    if len(chosen) != 1:
        raise CommandError("say one of --mean, --vote, --stack and --cascade with versions, like --mean 3,4")
    [(kind, listed)] = chosen
    belongs = {
        "--weights": (MEAN, weights),
        "--threshold": (VOTE, threshold),
        "--by": (STACK, by),
        "--unsure": (CASCADE, unsure),
    }
    for option, (of, value) in belongs.items():
        if value is not None and of != kind:
            raise CommandError(f"{option} goes with --{of}")
    versions = _versions(kind, listed)
    if kind == STACK and by is None:
        raise CommandError("--stack: name the further model with --by STACKER.onnx")
    if kind == CASCADE and unsure is None:
        raise CommandError("--cascade: say which scores of the first member are unsure, like --unsure 0.3:0.7")
    return Recipe(
        kind, versions, _weights(weights, len(versions)), 0.5 if threshold is None else threshold, _interval(unsure),
        by, choices,
    )  # fmt: skip


def run_models_combine_command(
    pipeline: Pipeline,
    name: str,
    recipe: Recipe,
    facts: Facts,
    rows_file: Path | None,
    *,
    version: int | None,
    root: str | None,
    as_json: bool,
) -> None:
    """Make the next version of others."""
    place = writable_root(pipeline, root)
    rows = None if rows_file is None else read_feature_rows(rows_file, pipeline.feature_names)
    try:
        folder, manifest = combine(
            recipe,
            root=place,
            name=pipeline.model.name,
            version=version,
            feature_names=pipeline.feature_names,
            feature_set_hash=pipeline.feature_set_hash,
            prediction=pipeline.outputs,
            one_hot=one_hot_texts(pipeline),
            blocks=pipeline.blocks,
            facts=facts,
            rows=rows,
            signed_by=pipeline.model.signed_by,
        )
    except MissingChoiceError as missing:
        scores = ", ".join(f"score_{each}" for each in recipe.versions)
        raise CommandError(f"{missing}; the members' scores are {scores}") from missing
    combination = manifest.combination
    assert combination is not None
    compared = manifest.metrics["conversion"]
    if as_json:
        show_json({
            "model": manifest.name, "version": manifest.version, "folder": str(folder), "sha256": manifest.sha256,
            "combination": combination.to_document(), "features": list(manifest.features), "conversion": compared,
            "unsure_share": manifest.metrics.get("unsure_share"),
        })  # fmt: skip
        return
    show(f"made {manifest.name}/{manifest.version}: {folder}; it was tried out and scores")
    show(f"  {combination.text}")
    show(
        f"  scores {compared['rows']:,} rows as its members' own scores say: {compared['largest_difference']:.2g} "
        "apart at most"
    )
    if rows_file is not None and "unsure_share" in manifest.metrics:
        first, second = (each.label for each in combination.members)
        show(f"  of the rows of {rows_file.name}, {first} leaves {manifest.metrics['unsure_share']:.1%} to {second}")
    steps = [(f"millrace models check {name} {manifest.version}", "how fast it is")]
    if pipeline.model.signed_by is not None:
        steps.append((f"millrace models sign {folder} --key KEY", "the pipeline takes signed models only"))
    if pipeline.models_topic is not None:
        steps.append((f"millrace models promote {name} {manifest.version}", "let the running job score with it"))
    next_steps(*steps, (f"Model({manifest.name!r}, version={manifest.version})", "write this in the pipeline"))


def _versions(kind: str, listed: str) -> tuple[int, ...]:
    parts = [each.strip() for each in listed.split(",")]
    if not all(each.isdecimal() and int(each) > 0 for each in parts):
        raise CommandError(f"--{kind} {listed}: write versions with commas between, like --{kind} 3,4")
    versions = tuple(map(int, parts))
    if len(set(versions)) != len(versions) or len(versions) < 2:
        raise CommandError(f"--{kind} {listed}: name two or more versions, each once")
    if kind == CASCADE and len(versions) > 2:
        raise CommandError(f"--cascade {listed}: name two versions; a cascade can be a member of another one")
    return versions


def _weights(listed: str | None, count: int) -> tuple[float, ...]:
    if listed is None:
        return ()
    numbers = tuple(_number(each, "--weights") for each in listed.split(","))
    if len(numbers) != count:
        raise CommandError(f"--weights {listed}: give {count}, one for each version")
    if min(numbers) < 0 or not sum(numbers):
        raise CommandError(f"--weights {listed}: give numbers from 0 on, not all 0")
    return numbers


def _interval(text: str | None) -> tuple[float, float]:
    if text is None:
        return 0.0, 1.0
    low, colon, high = text.partition(":")
    found = _number(low, "--unsure"), _number(high, "--unsure") if colon else math.nan
    if not found[0] <= found[1]:
        raise CommandError(f"--unsure {text}: write the lowest and the highest unsure score, like 0.3:0.7")
    return found


def _number(text: str, option: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise CommandError(f"{option}: {text!r} is no number")
    return number
