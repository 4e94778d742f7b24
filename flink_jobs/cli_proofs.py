"""Commands that check what was computed: their options and help."""

from pathlib import Path
from typing import Annotated

import typer

from flink_jobs.cli_options import AsJson, PipelineName
from flink_jobs.cli_options import resolved_settings as _settings
from flink_jobs.console import CommandError, command, show, show_json
from flink_jobs.settings import load_settings


@command
def verify(
    name: PipelineName,
    since: Annotated[
        str | None, typer.Option(help="Events from this time on (event time, ISO or ms). Default: all.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Events before this time.")] = None,
    job_began: Annotated[
        str | None,
        typer.Option(
            "--job-began",
            help="Where the job began with empty state: earliest, a time of arrival, or offsets like 0:1200,1:900. "
            "Default: as the receipts tell.",
        ),
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Default: one a core.")] = None,
    most: Annotated[int, typer.Option("--show", min=0, help="Differences of each kind to show whole.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Compute committed predictions again and report any that differ, are missing or are there twice.

    Example: millrace verify purchase --since 2026-01-31T12:00:00Z
    """
    from flink_jobs.pipelines import load_pipeline
    from flink_jobs.verify_command import run_verify_command

    run_verify_command(
        load_pipeline(name), name, _settings(), since=since, until=until, job_began=job_began, processes=processes,
        most=most, as_json=as_json,
    )  # fmt: skip


@command
def explain(
    name: PipelineName,
    receipt: Annotated[
        str,
        typer.Argument(
            metavar="RECEIPT|EVENT_ID",
            help="Place of the event as its receipt says (user-events/0/1200, or 0:1200), or the event's id.",
        ),
    ],
    job_began: Annotated[
        str | None, typer.Option("--job-began", help="Where the job began with empty state, as for `millrace verify`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show why an event got its score: the events and features behind it; and score it again to the last bit.

    Example: millrace explain purchase user-events/0/1200
    """
    from flink_jobs.explain_command import run_explain_command
    from flink_jobs.pipelines import load_pipeline

    run_explain_command(load_pipeline(name), name, _settings(), receipt, job_began=job_began, as_json=as_json)


@command
def fork(
    name: PipelineName,
    version: Annotated[int, typer.Option("--model", min=1, help="Version of the pipeline's model to score with.")],
    since: Annotated[
        str | None,
        typer.Option(help="Events from this time on (event time), or of so long before the newest, like 6h."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Events before this time.")] = None,
    threshold: Annotated[float, typer.Option(help="A score at or above it is a yes.")] = 0.5,
    against: Annotated[
        int | None, typer.Option(min=1, help="Compare with this version. Default: with what was served.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Training set made of the topic with labels, by `millrace backfill`.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--to", help="Keep the predictions: a .parquet file, or `topic`: <predictions>-fork-<version>."),
    ] = None,
    job_began: Annotated[
        str | None, typer.Option("--job-began", help="Where the job began with empty state, as for `millrace verify`.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Default: one a core.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Make the file or the topic anew.")] = False,
    as_json: AsJson = False,
) -> None:
    """Score what was answered by another version of the model, beside the running job, and say what differs.

    Example: millrace fork purchase --model 2 --since 6h --threshold 0.4
    """
    from flink_jobs.fork_command import run_fork_command
    from flink_jobs.pipelines import load_pipeline

    run_fork_command(
        load_pipeline(name), name, _settings(), version=version, against=against, since=since, until=until,
        threshold=threshold, labels=labels, target=target, job_began=job_began, processes=processes, replace=replace,
        as_json=as_json,
    )  # fmt: skip


@command
def parity(
    name: PipelineName,
    events: Annotated[int, typer.Option(min=1, help="Records to make, or to take of --data.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Of the records: the same gives the same.")] = 1,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Real events instead: .jsonl, .csv (also .gz) or .parquet. Rows of lookups come from your topics."
        ),
    ] = None,
    engines: Annotated[
        list[str] | None, typer.Option(help="Some of the engines, like oracle,backfill. Default: all.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Of the oracle and the backfill. Default: one a core.")]
    = None,
    as_json: AsJson = False,
) -> None:
    """Prove that all engines mean the same: hard input through each, every feature of every event compared.

    Example: millrace parity purchase --events 50000 --seed 7
    """
    from flink_jobs.parity_command import run_parity_command
    from flink_jobs.pipelines import load_pipeline

    run_parity_command(
        load_pipeline(name), name, _settings(), events=events, seed=seed, data=data, engines=engines or [],
        processes=processes, as_json=as_json,
    )  # fmt: skip


@command
def certify(
    name: PipelineName,
    events: Annotated[int, typer.Option(min=100, help="Fewest events; more are sent while faults happen.")] = 100_000,
    rate: Annotated[float, typer.Option(min=1.0, help="Events a second.")] = 500.0,
    times: Annotated[int, typer.Option(min=1, help="How often each fault.")] = 3,
    faults: Annotated[list[str] | None, typer.Option(help="Only these, by commas or repeated. Default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Of the faults' order and moments, and of the events.")] = 1,
    data: Annotated[
        Path | None, typer.Option(help="File of events to send, again and again. Default: made for the pipeline.")
    ] = None,
    freeze: Annotated[float, typer.Option(min=1.0, help="Seconds that a frozen broker stays so.")] = 20.0,
    full: Annotated[float, typer.Option(min=1.0, help="Seconds that the disk stays full.")] = 10.0,
    target: Annotated[Path | None, typer.Option("--to", help="Folder for the certificate.")] = None,
    as_json: AsJson = False,
) -> None:
    """Kill everything there is under load, on a broker and a cluster of their own, and account for every event.

    Example: millrace certify purchase --faults "TaskManager killed,broker killed" --times 1 --events 20000
    """
    from flink_jobs.certify_command import run_certify_command
    from flink_jobs.pipelines import load_pipeline

    run_certify_command(
        load_pipeline(name), name, _settings(), events=events, rate=rate, faults=faults or (), times=times, seed=seed,
        data=data, freeze_s=freeze, full_s=full, target=target, as_json=as_json,
    )  # fmt: skip


@command
def doctor(
    name: Annotated[str, typer.Argument(metavar="[PIPELINE]", help="With --acls: whose permissions.")] = "purchase",
    acls: Annotated[
        bool, typer.Option("--acls", help="Print what each command must be allowed in Kafka, and no more.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look whether everything is here: versions, Java, jars, ports, broker, folders. Changes nothing.

    Example: millrace doctor --acls purchase
    """
    if acls:
        from flink_jobs.acls import show_acls
        from flink_jobs.pipelines import load_pipeline

        settings = load_settings()
        show_acls(load_pipeline(name), settings.bootstrap, settings.kafka_username, as_json=as_json)
        return
    from flink_jobs.doctor import examine

    findings = examine(load_settings())
    broken = sum(finding.state == "broken" for finding in findings)
    if as_json:
        show_json({"ok": not broken, "findings": [vars(finding) for finding in findings]})
    else:
        marks = {"ok": ("ok     ", "green"), "warning": ("warning", "yellow"), "broken": ("broken ", "red")}
        for finding in findings:
            mark, style = marks[finding.state]
            advice = f" -> {finding.advice}" if finding.advice else ""
            show(f"{mark} {finding.what:<15} {finding.found}{advice}", style=None if finding.state == "ok" else style)
    if broken:
        raise CommandError(f"{broken} of {len(findings)} checks found something broken")
