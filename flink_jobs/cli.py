"""`millrace`: every command, its options and its help. What commands do is elsewhere.

Imports that take long are inside the commands, so that `--help` answers at once.
"""

from pathlib import Path
from typing import Annotated

import typer

from flink_jobs.cli_cluster import cancel, cluster_app, logs, status, stop, submit
from flink_jobs.cli_dead_letters import dead_letters_app
from flink_jobs.cli_deploy import deploy_app
from flink_jobs.cli_features import features_app
from flink_jobs.cli_models import models_app
from flink_jobs.cli_options import AcceptLoss, AsJson, PipelineName
from flink_jobs.cli_options import resolved_settings as _settings
from flink_jobs.cli_proofs import certify, doctor, explain, fork, parity, verify
from flink_jobs.cli_schema import registry_app, schema_app
from flink_jobs.cli_serve import serve
from flink_jobs.cli_state import state_app, transactions
from flink_jobs.cli_upgrade import upgrade
from flink_jobs.console import command, out, say, show, show_json
from flink_jobs.settings import load_settings

app = typer.Typer(
    name="millrace",
    help="Real-time machine learning on Kafka with Apache Flink, in Python.\n\nFirst: `millrace demo`. "
    "Settings: environment (MILLRACE_PARALLELISM=4) or millrace.toml.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
topics_app = typer.Typer(help="Kafka topics of a pipeline.", no_args_is_help=True)
_GROUPS = {
    "topics": topics_app, "dead-letters": dead_letters_app, "state": state_app, "cluster": cluster_app,
    "deploy": deploy_app, "registry": registry_app, "schema": schema_app, "models": models_app,
    "features": features_app,
}  # fmt: skip
for _name, _group in _GROUPS.items():
    app.add_typer(_group, name=_name)

DEFAULT_RATE = 1_000.0


def main() -> None:
    """The entry point of the package."""
    app()


@app.command()
@command
def up(
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Default: 9092, or a free one.")] = None,
    registry: Annotated[bool, typer.Option("--registry", help="Start a local schema registry too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a local Kafka broker that stays until `millrace down`.

    Example: millrace up --registry
    """
    from flink_jobs.up_command import run_up_command

    run_up_command(load_settings(), port, with_registry=registry, as_json=as_json)


@app.command()
@command
def down() -> None:
    """Stop the local Kafka broker and schema registry; topics, schemas and data stay for the next `millrace up`.

    Example: millrace down
    """
    from flink_jobs.up_command import run_down_command

    run_down_command(load_settings())


@app.command()
@command
def demo(
    events: Annotated[int, typer.Option(min=1, help="Records to send, some broken ones included.")] = 20_000,
    rate: Annotated[float, typer.Option(min=1.0, help="Records a second.")] = 1_000.0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the broker and the data for a look around.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch it work: a broker of its own, live shopping events, the job, and an account of every event.

    Example: millrace demo --events 5000
    """
    from flink_jobs.demo_command import run_demo_command

    run_demo_command(load_settings(), events_total=events, rate=rate, keep=keep, as_json=as_json)


@topics_app.command("create")
@command
def topics_create(
    name: PipelineName,
    retention: Annotated[
        str | None, typer.Option(help="How long records are kept, e.g. 7d. Default: the broker's.")
    ] = None,
    add_partitions: Annotated[
        bool, typer.Option("--add-partitions", help="Widen topics that have too few; entities then change partition.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the topics of a pipeline that do not exist yet; running it again changes nothing.

    Example: millrace topics create purchase --retention 7d
    """
    from flink_jobs.pipelines import load_pipeline
    from flink_jobs.topics_command import run_topics_create_command

    run_topics_create_command(
        load_pipeline(name), name, _settings(), retention=retention, add_partitions=add_partitions, as_json=as_json
    )


@app.command()
@command
def produce(
    name: PipelineName,
    events: Annotated[
        Path | None, typer.Option("--events", help="File of events: .jsonl, .csv (also .gz) or .parquet.")
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Records a second.")] = None,
    speedup: Annotated[
        float | None, typer.Option(help="Keep the pace of the file's event times, this many times faster.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many records.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the simulated shoppers. Default: another one each time.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put events into the pipeline's topic: a file with its own event times, or simulated shoppers.

    Example: millrace produce purchase --events history.csv --speedup 60
    """
    from flink_jobs.pipelines import load_pipeline
    from flink_jobs.produce_command import run_produce_command

    pipeline = load_pipeline(name)
    if events is None and rate is None:
        rate = DEFAULT_RATE
    run_produce_command(
        pipeline, name, _settings(), file=events, rate=rate, speedup=speedup, limit=limit, seed=seed, as_json=as_json
    )


@app.command()
@command
def run(
    name: PipelineName,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="End when all events that are in the topic now are answered.")
    ] = False,
    engine: Annotated[
        str, typer.Option(help="stream (the DataStream job), or sql: the Table job, by OVER windows in event time.")
    ] = "stream",
    parallelism: Annotated[int | None, typer.Option(help="Subtasks of every operator.")] = None,
    start_from: Annotated[
        str | None, typer.Option("--from", help="earliest, committed, latest or a time (ISO or ms); where live begins.")
    ] = None,
    bootstrap_from: Annotated[
        list[str] | None,
        typer.Option(help="State to begin with is built from: earliest, or a time in the topic, or files; repeatable."),
    ] = None,
    order_by: Annotated[
        str | None, typer.Option(help="Number field to take a history file's rows by. Default: as they are.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the last run and begin anew.")] = False,
    accept_loss: AcceptLoss = None,
    as_json: AsJson = False,
) -> None:
    """Run the scoring job; goes on where its last run by the same engine ended. Ctrl-C stops it with a savepoint.

    Example: millrace run purchase --until-caught-up; for a new feature add --fresh --bootstrap-from earliest
    """
    from flink_jobs.pipelines import load_pipeline
    from flink_jobs.run_command import run_job_command
    from flink_jobs.topics import parse_engine

    run_job_command(
        load_pipeline(name), name, _settings(parallelism=parallelism), engine=parse_engine(engine),
        until_caught_up=until_caught_up, start_from=start_from, fresh=fresh, bootstrap_from=bootstrap_from,
        order_by=order_by, accept_loss=accept_loss or [], as_json=as_json,
    )  # fmt: skip


@app.command()
@command
def watch(
    name: PipelineName,
    from_start: Annotated[bool, typer.Option("--from-start", help="Begin with the first prediction kept.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="End after so many predictions.")] = None,
    as_json: AsJson = False,
) -> None:
    """Follow the pipeline's predictions as they are committed, until Ctrl-C.

    Example: millrace watch purchase --from-start --limit 10
    """
    from flink_jobs.local.home import connected
    from flink_jobs.pipelines import load_pipeline
    from flink_jobs.watch import follow_predictions

    pipeline, settings = load_pipeline(name), connected(_settings())
    kept = "all kept" if from_start else "new"
    say(f"{kept} predictions in {pipeline.predictions} at {settings.bootstrap}, committed ones only; Ctrl-C ends")
    for seen in follow_predictions(pipeline, settings, from_start=from_start, limit=limit):
        if as_json:
            show_json(seen.as_json())
        else:
            show(seen.as_line(pipeline))


@app.command()
@command
def describe(name: PipelineName, as_json: AsJson = False) -> None:
    """Say what a pipeline computes: features in order, windows, model, topics, state kept per entity.

    Example: millrace describe purchase
    """
    from flink_jobs.describe import description, description_view
    from flink_jobs.pipelines import load_pipeline

    document = description(load_pipeline(name))
    if as_json:
        show_json(document)
    else:
        out.print(description_view(document))


@app.command()
@command
def sql(name: PipelineName, as_json: AsJson = False) -> None:
    """Print a pipeline as Flink SQL: what `run --engine sql` executes, or a start for a job of your own.

    Example: millrace sql purchase > purchase.sql
    """
    from flink_jobs.pipelines import load_pipeline
    from flink_jobs.sql_command import run_sql_command

    run_sql_command(load_pipeline(name), name, _settings(), as_json=as_json)


@app.command()
@command
def backfill(
    name: PipelineName,
    sources: Annotated[
        list[str],
        typer.Option("--from", help="kafka (the pipeline's topic), or files, folders and patterns; may be repeated."),
    ],
    target: Annotated[Path, typer.Option("--to", help="The Parquet file to write.")],
    start: Annotated[
        str | None, typer.Option(help="Where the topic is read from: earliest, a time, or offsets like 0:1200,1:900.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Rows of events from this time on; earlier ones warm up.")] = None,
    until: Annotated[str | None, typer.Option(help="Rows of events before this time.")] = None,
    labels: Annotated[str | None, typer.Option(help="What came of entities: files or a topic.")] = None,
    label_horizon: Annotated[
        str | None, typer.Option(help="How long after an event a label event counts, like 30m.")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Field with the label's value. Default: label; without it each record says 1.")
    ] = None,
    label_absent: Annotated[
        str | None,
        typer.Option(help="Label without a label event: 0 or missing. Default: missing if there are values, else 0."),
    ] = None,
    labels_until: Annotated[
        str | None, typer.Option(help="Label events are known until this time. Default: the last one's.")
    ] = None,
    order_by: Annotated[
        str | None, typer.Option(help="Number field to take a file's rows by, if their order is not that of arrival.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Default: one a core.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away what an unfinished run left.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite the file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Replay history through the pipeline's features into a training set; goes on where a stopped run ended.

    Example: millrace backfill purchase --from kafka --to set.parquet --labels buys.csv --label-horizon 30m
    """
    from flink_jobs.backfill_command import run_backfill_command
    from flink_jobs.pipelines import load_pipeline

    run_backfill_command(
        load_pipeline(name), name, _settings(), sources=sources, target=target, start=start, since=since, until=until,
        labels=labels, label_horizon=label_horizon, label_column=label_column, label_absent=label_absent,
        labels_until=labels_until, order_by=order_by, processes=processes, fresh=fresh, replace=replace,
        as_json=as_json,
    )  # fmt: skip


for each in (
    submit, upgrade, status, logs, stop, cancel, verify, explain, fork, parity, certify, transactions, doctor, serve,
):  # fmt: skip
    app.command()(each)


@app.command()
@command
def train(
    name: PipelineName,
    training_set: Annotated[
        Path | None, typer.Option("--from", help="A training set of `millrace backfill`. Default: simulated shoppers.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Its column of labels. Default: _label.")] = None,
    events: Annotated[int | None, typer.Option(min=1_000, help="Simulated events to learn from.")] = None,
    seed: Annotated[int, typer.Option(help="Of the simulation, of the split and of the fit.")] = 1,
    version: Annotated[int | None, typer.Option(min=1, help="Of the new model. Default: the first free one.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of all models. Default: the pipeline's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train the pipeline's model, on a training set or on simulated shoppers, and check its ONNX conversion.

    Example: millrace train purchase --from training_set.parquet
    """
    from flink_jobs.pipelines import load_pipeline

    pipeline = load_pipeline(name)
    from flink_jobs.train_command import run_train_command

    run_train_command(
        pipeline, name, training_set=training_set, label=label, events_total=events, seed=seed, version=version,
        root=root, as_json=as_json,
    )  # fmt: skip


@app.command()
@command
def score(
    source: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Rows: .jsonl, .csv (both also .gz) or .parquet, or a folder of events."),
    ],
    target: Annotated[Path, typer.Option("--to", help="The .parquet, .csv or .jsonl file to write.")],
    model: Annotated[
        str | None,
        typer.Option(help="purchase/2, purchase (its newest version) or a folder; @ and a sha256 behind it pin it."),
    ] = None,
    pipeline: Annotated[
        str | None, typer.Option(metavar="PIPELINE", help="The rows are its events: features are computed first.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of all models. Default: the pipeline's, or ours.")] = None,
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="Column that goes along with the scores; may be repeated.")
    ] = None,
    order_by: Annotated[
        str | None, typer.Option(help="Number field of events to take them by, if their order is not that of arrival.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Of a pipeline's features. Default: one a core.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite the file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Score a file: rows of a model's features, or a pipeline's events.

    Example: millrace score rows.csv --model purchase/2 --id user_id --to scores.csv
    """
    from flink_jobs.score_command import run_score_command

    run_score_command(
        load_settings(), source, model=model, pipeline_name=pipeline, target=target, root=root, ids=ids or [],
        order_by=order_by, processes=processes, replace=replace, as_json=as_json,
    )  # fmt: skip


@app.command()
@command
def tune(
    name: PipelineName,
    events: Annotated[
        Path | None, typer.Option("--events", help="File of events to try with. Default: what is in the topic.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=1.0, help="Events a second to find latency at. Default: 30 % of what goes.")
    ] = None,
    latency: Annotated[
        float | None, typer.Option(min=1.0, help="Most ms the slowest percent may take; then throughput decides.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find batch time, bundle, shards and parallelism for this pipeline and this machine. Changes nothing.

    Example: millrace tune purchase --latency 100
    """
    from flink_jobs.pipelines import load_pipeline
    from flink_jobs.tune_command import run_tune_command

    run_tune_command(
        load_pipeline(name), name, _settings(), file=events, rate=rate, most_latency_ms=latency, as_json=as_json
    )


if __name__ == "__main__":
    main()
