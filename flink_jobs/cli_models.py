"""Commands for the versions of a pipeline's model: their options and help."""

from pathlib import Path
from typing import Annotated

import typer

from flink_jobs.cli_options import AsJson, PipelineName
from flink_jobs.cli_signing import models_sign, models_verify
from flink_jobs.console import command

models_app = typer.Typer(help="Versions of a pipeline's model: <root>/<name>/<version>/.", no_args_is_help=True)
models_app.command("sign")(models_sign)
models_app.command("verify")(models_verify)

Root = Annotated[str | None, typer.Option(help="Folder or URL of all models. Default: the pipeline's.")]
ModelFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="The .onnx that was exported, or a model folder of MLflow.")
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help="NAME=feature,feature: what a graph input gets, a column each; repeatable."),
]
Categories = Annotated[
    list[str] | None,
    typer.Option(help="NAME=text,text: what the features of an input of text stand for; repeatable."),
]


@models_app.command("ls")
@command
def models_ls(name: PipelineName, root: Root = None, as_json: AsJson = False) -> None:
    """List the versions: digest, features, metrics, retired or not, and which one the pipeline names.

    Example: millrace models ls purchase
    """
    from flink_jobs.models_listing import run_models_ls_command
    from flink_jobs.pipelines import load_pipeline

    run_models_ls_command(load_pipeline(name), name, root, as_json=as_json)


@models_app.command("show")
@command
def models_show(
    name: PipelineName,
    version: Annotated[int | None, typer.Argument(min=1, help="Default: the one that the pipeline names.")] = None,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Say all that a version's manifest says.

    Example: millrace models show purchase 2
    """
    from flink_jobs.models_listing import run_models_show_command
    from flink_jobs.pipelines import load_pipeline

    run_models_show_command(load_pipeline(name), version, root, as_json=as_json)


@models_app.command("retire")
@command
def models_retire(
    name: PipelineName,
    version: Annotated[int, typer.Argument(min=1)],
    reason: Annotated[str, typer.Option(help="Why, for whoever lists the versions.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Take it back.")] = False,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Mark a version as not to be promoted; its files stay.

    Example: millrace models retire purchase 1 --reason "drifted in May"
    """
    from flink_jobs.models_listing import run_models_retire_command
    from flink_jobs.pipelines import load_pipeline

    run_models_retire_command(load_pipeline(name), name, version, root, reason, undo=undo, as_json=as_json)


@models_app.command("add")
@command
def models_add(
    file: ModelFile,
    name: PipelineName,
    inputs: Inputs = None,
    categories: Categories = None,
    output: Annotated[
        list[str] | None,
        typer.Option(help="Graph output with the prediction; NAME=OUTPUT where it has several outputs, repeatable."),
    ] = None,
    column: Annotated[list[str] | None, typer.Option(help="Its column, from 0 on; or NAME=COLUMN.")] = None,
    class_key: Annotated[
        list[str] | None, typer.Option("--class", help="Its class, of a ZipMap; or NAME=CLASS.")
    ] = None,
    item: Annotated[list[str] | None, typer.Option(help="Its tensor, of a sequence, from 0 on; or NAME=ITEM.")] = None,
    expect: Annotated[
        Path | None, typer.Option(help="Rows of features with the source model's scores: .parquet or .csv.")
    ] = None,
    expect_column: Annotated[str | None, typer.Option(help="Their column. Default: expected.")] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Largest difference of a score; relative for those over 1.")
    ] = 1e-5,
    metric: Annotated[list[str] | None, typer.Option(help="NAME=NUMBER for the manifest; repeatable.")] = None,
    example: Annotated[
        list[str] | None, typer.Option(help="FEATURE=NUMBER of a row that it can score; repeatable. Default: 1.")
    ] = None,
    description: Annotated[str, typer.Option(help="One sentence for people.")] = "",
    version: Annotated[int | None, typer.Option(min=1, help="Default: the first free one.")] = None,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Make any ONNX file whose inputs can be matched with features a new version; asks for what cannot be derived.

    Example: millrace models add churn.onnx purchase --input X=count_1h,dwell_time_sec --expect scored.parquet
    """
    from flink_jobs.models_adding import (
        Expectation,
        parse_lists,
        parse_numbers,
        parse_outputs,
        run_models_add_command,
    )
    from flink_jobs.pipelines import load_pipeline
    from models.adding import Facts
    from models.choices import Choices

    choices = Choices(
        inputs=parse_lists(inputs, "--input", ""), categories=parse_lists(categories, "--categories"),
        outputs=parse_outputs(output, column, class_key, item),
    )  # fmt: skip
    facts = Facts(description, parse_numbers(metric, "--metric"), parse_numbers(example, "--example"))
    run_models_add_command(
        load_pipeline(name), name, file, choices, facts, Expectation(expect, expect_column, tolerance),
        version=version, root=root, as_json=as_json,
    )  # fmt: skip


@models_app.command("probe")
@command
def models_probe(
    file: ModelFile,
    name: PipelineName,
    rows: Annotated[Path, typer.Option("--on", help="Rows of features to vary: .parquet or .csv.")],
    target: Annotated[Path, typer.Option("--to", help="The Parquet file to write.")],
    inputs: Inputs = None,
    categories: Categories = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite the file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write rows right beside the thresholds of a model's trees, for its source to score: see `models add --expect`.

    Example: millrace models probe churn.onnx purchase --on training_set.parquet --to probes.parquet
    """
    from flink_jobs.models_adding import parse_lists, run_models_probe_command
    from flink_jobs.pipelines import load_pipeline
    from models.choices import Choices

    choices = Choices(inputs=parse_lists(inputs, "--input", ""), categories=parse_lists(categories, "--categories"))
    run_models_probe_command(
        load_pipeline(name), file, choices, rows, target, replace_it=replace, as_json=as_json
    )


@models_app.command("check")
@command
def models_check(
    name: PipelineName,
    version: Annotated[int | None, typer.Argument(min=1, help="Default: every version.")] = None,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Put versions to the test: digest, features, opsets, a trial in a process of its own, speed.

    Ends with 1 if one that is not retired cannot be used. Example: millrace models check purchase
    """
    from flink_jobs.models_checking import run_models_check_command
    from flink_jobs.pipelines import load_pipeline

    run_models_check_command(load_pipeline(name), name, version, root, as_json=as_json)


@models_app.command("diff")
@command
def models_diff(
    name: PipelineName,
    before: Annotated[int, typer.Argument(min=1, help="A version.")],
    after: Annotated[int, typer.Argument(min=1, help="Another one.")],
    rows: Annotated[
        Path | None, typer.Option("--on", help="Rows of features to score with both: .parquet or .csv.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Score that decides: count what changes sides.")] = None,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Say what differs between two versions: features, inputs, output, metrics, and their scores of given rows.

    Example: millrace models diff purchase 1 2 --on training_set.parquet --threshold 0.5
    """
    from flink_jobs.models_checking import run_models_diff_command
    from flink_jobs.pipelines import load_pipeline

    run_models_diff_command(load_pipeline(name), (before, after), rows, threshold, root, as_json=as_json)


@models_app.command("export-mlflow")
@command
def models_export(
    name: PipelineName,
    version: Annotated[int, typer.Argument(min=1)],
    target: Annotated[Path, typer.Option("--to", help="The folder to make.")],
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Write a version as a model folder of MLflow; `models add` takes such a folder, MLflow needs not be installed.

    Example: millrace models export-mlflow purchase 2 --to purchase_model
    """
    from flink_jobs.models_adding import run_models_export_command
    from flink_jobs.pipelines import load_pipeline

    run_models_export_command(load_pipeline(name), version, target, root, as_json=as_json)


@models_app.command("promote")
@command
def models_promote(
    name: PipelineName,
    version: Annotated[int, typer.Argument(min=1)],
    at: Annotated[str | None, typer.Option(help="Event time from which it scores (ISO or ms). Default: soon.")] = None,
    challenger: Annotated[
        list[str] | None, typer.Option(metavar="VERSION=SHARE", help="Scores a share of the entities; repeatable.")
    ] = None,
    shadow: Annotated[
        list[int] | None, typer.Option(help="A version that scores all events beside, unserved; repeatable.")
    ] = None,
    guard: Annotated[
        str | None,
        typer.Option(
            metavar="LIMITS",
            help="Go back by itself when its first events are over a limit: failed=SHARE, us=MICROSECONDS a row, "
            "psi=INDEX of the scores' shift, events=NUMBER to look at (1,000); with commas between.",
        ),
    ] = None,
    wait: Annotated[float, typer.Option(min=1, help="Seconds to wait for the job's subtasks, in each step.")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Have the running job score with a version, from an event time on, without a restart.

    Example: millrace models promote purchase 2 --challenger 1=0.1 --guard failed=0.01,psi=0.25
    """
    from flink_jobs.cli_options import resolved_settings
    from flink_jobs.models_promotion import run_promote_command
    from flink_jobs.pipelines import load_pipeline

    run_promote_command(
        load_pipeline(name), name, resolved_settings(), version, at=at, challengers=challenger or [],
        shadows=shadow or [], guard=guard, wait_s=wait, as_json=as_json,
    )  # fmt: skip


@models_app.command("serving")
@command
def models_serving(name: PipelineName, as_json: AsJson = False) -> None:
    """Say which model is valid when, as the pipeline's control topic has it.

    Example: millrace models serving purchase
    """
    from flink_jobs.cli_options import resolved_settings
    from flink_jobs.models_promotion import run_serving_command
    from flink_jobs.pipelines import load_pipeline

    run_serving_command(load_pipeline(name), name, resolved_settings(), as_json=as_json)


@models_app.command("compare")
@command
def models_compare(
    name: PipelineName,
    since: Annotated[str | None, typer.Option(help="Only answers since this time (Kafka's; ISO or ms).")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Training set made of the topic with labels, by `millrace backfill`.")
    ] = None,
    threshold: Annotated[float, typer.Option(help="A score at or above it is a yes.")] = 0.5,
    as_json: AsJson = False,
) -> None:
    """Compare served scores with those of shadows on the same events, and challengers with their champion.

    Example: millrace models compare purchase --labels set.parquet
    """
    from flink_jobs.backfill_command import time_ms
    from flink_jobs.cli_options import resolved_settings
    from flink_jobs.models_comparison import run_compare_command
    from flink_jobs.pipelines import load_pipeline

    run_compare_command(
        load_pipeline(name), name, resolved_settings(), since_ms=None if since is None else time_ms(since, "--since"),
        labels=labels, threshold=threshold, as_json=as_json,
    )  # fmt: skip
