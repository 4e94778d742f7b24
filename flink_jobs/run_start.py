"""Where a run begins: settled from its options, what earlier runs left, and history, before the job starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flink_jobs.bootstrap_choice import Way, choose_way
from flink_jobs.bootstrap_command import (
    Asked,
    arguments_of,
    as_json,
    begin_bootstrap,
    build,
    start_with,
)
from flink_jobs.change_check import checked_changes
from flink_jobs.console import CommandError
from flink_jobs.hand_over import HandOver, hand_over_folder
from flink_jobs.job_run import latest_restore_point, pipeline_checkpoints
from flink_jobs.preflight import preflight
from flink_jobs.settings import Settings
from flink_jobs.sql_job import check_same_windows
from flink_jobs.start_position import StartPosition, choose_start, parse_start
from flink_jobs.topics import EARLIEST, SQL, Engine
from udfs.pipeline import Pipeline
from udfs.sql_features import compile_features
from udfs.state_changes import Change


@dataclass(frozen=True)
class RunStart:
    """A run that may begin.

    Attributes:
        position: Where.
        hand_over: The state from history that this job was given, by this run or an earlier one.
        changes: What becomes of the state that it goes on from; None where there is none, or nobody knows.
    """

    position: StartPosition
    hand_over: HandOver | None
    changes: list[Change] | None = None


def settle_start(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    *,
    engine: Engine,
    asked: Asked | None,
    start_from: str | None,
    fresh: bool,
    accept_loss: Sequence[str] = (),
) -> RunStart:
    """Check that the job can run, build the state from history if that is asked for, and say where the job begins.

    Raises:
        CommandError: The options contradict what is there.
    """
    if start_from is not None:
        parse_start(start_from)
    if engine == SQL:
        return RunStart(_settle_sql_start(pipeline, settings, asked, start_from, fresh), None)
    folder = hand_over_folder(pipeline, settings)
    begun, hand_over = folder.begun(), folder.hand_over()
    restore_point = latest_restore_point(pipeline, settings, but=hand_over.before if hand_over else ())
    way = choose_way(
        name=name,
        asked=None if asked is None else arguments_of(pipeline, settings, asked),
        start_from=start_from,
        fresh=fresh,
        begun=begun,
        hand_over=hand_over,
        restore_point=restore_point,
    )
    ordinary = choose_start(start_from, fresh, restore_point, pipeline.events.topic) if way is Way.ORDINARY else None
    preflight(pipeline, settings)
    if way is Way.RESTORE:
        assert restore_point is not None
        changes = checked_changes(pipeline, name, settings, restore_point, accept_loss)
        folder.mark_used()
        position = StartPosition(EARLIEST, restore_point, f"going on from {restore_point}")
        return RunStart(position, hand_over, changes)
    if ordinary is not None:
        if ordinary.restore_from is None:
            folder.throw_away()
            return RunStart(ordinary, None)
        return RunStart(ordinary, None, checked_changes(pipeline, name, settings, ordinary.restore_from, accept_loss))
    if way is Way.BUILD:
        assert asked is not None
        if begun is None or fresh:
            begun = begin_bootstrap(pipeline, settings, asked)
        hand_over = build(pipeline, name, settings, begun)
    assert hand_over is not None
    return RunStart(start_with(pipeline, settings, hand_over), hand_over)


def _settle_sql_start(
    pipeline: Pipeline, settings: Settings, asked: Asked | None, start_from: str | None, fresh: bool
) -> StartPosition:
    """The Table job's; its windows are Flink's own state, which nothing but the job itself can fill."""
    if asked is not None:
        raise CommandError(
            "--bootstrap-from builds the state of the DataStream job: leave out --engine sql, or begin earlier with "
            "--from"
        )
    refuse_requests(pipeline)
    compile_features(pipeline)  # refuses what SQL cannot express, before anything is started
    restore_point = latest_restore_point(pipeline, settings, SQL)
    start = choose_start(start_from, fresh, restore_point, pipeline.events.topic)
    preflight(pipeline, settings)
    folder = pipeline_checkpoints(pipeline, settings, SQL)
    check_same_windows(pipeline, settings, folder, goes_on=start.restore_from is not None)
    return start


def refuse_requests(pipeline: Pipeline) -> None:
    """Refuse to run a pipeline by the Table job whose requests would find nobody to answer them.

    Raises:
        CommandError: It has requests.
    """
    if pipeline.requests is not None:
        raise CommandError(
            f"pipeline {pipeline.name} answers requests, which the SQL engine cannot: leave out --engine sql, or "
            "requests=Requests() in the pipeline"
        )


def bootstrap_as_json(start: RunStart) -> dict[str, Any] | None:
    """What was built from history, for scripts; None where nothing was."""
    return None if start.hand_over is None else as_json(start.hand_over)


def note_checkpoint(pipeline: Pipeline, settings: Settings, start: RunStart) -> None:
    """Remember that a checkpoint of the job holds the state it was given."""
    if start.hand_over is not None:
        hand_over_folder(pipeline, settings).mark_used()
