"""Which state a command reads, and reading it: a checkpoint or savepoint on disk, or a savepoint of the running job."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flink_jobs.console import CommandError, quiet_output
from flink_jobs.definitions import definition_of_restore_point
from flink_jobs.environment import prepare_process
from flink_jobs.job_run import latest_restore_point
from flink_jobs.restore_points import RestorePointError, folder_of
from flink_jobs.savepoint_offsets import source_offsets
from flink_jobs.savepoint_state import KeptState, read_kept_state
from flink_jobs.settings import Settings
from flink_jobs.submission import find_job
from udfs.entity_keys import joined_keys
from udfs.entity_state import ShardState
from udfs.errors import StateCorruptError, StateVersionError
from udfs.kept_entities import KeptEntity, find_entity
from udfs.pipeline import Pipeline
from udfs.plan import FeaturePlan
from udfs.state_log import Words

_ATTEMPTS = 5


@dataclass(frozen=True)
class ReadState:
    """A state that was read.

    Attributes:
        path: Folder of the checkpoint or savepoint.
        kept: What it holds.
        offsets: Of the next record of each partition of the events.
    """

    path: str
    kept: KeptState
    offsets: dict[int, int]


@contextmanager
def flink_ready(settings: Settings) -> Iterator[None]:
    """Flink's JVM may be started in this process, and what it prints goes to a log."""
    prepare_process(settings.logs)
    with quiet_output(settings.logs / f"state-{os.getpid()}.log"):
        yield


def read_state(restore_point: str) -> ReadState:
    """Read a checkpoint or savepoint; within `flink_ready`.

    Raises:
        RestorePointError: It cannot be read.
    """
    kept, job = read_kept_state(restore_point), definition_of_restore_point(restore_point)
    offsets = source_offsets(restore_point, None if job is None else job.definition.settings["topic"])
    return ReadState(str(folder_of(restore_point)), kept, dict(sorted(offsets.items())))


def read_newest(pipeline: Pipeline, name: str, settings: Settings) -> ReadState:
    """Read the newest checkpoint or savepoint on disk; within `flink_ready`.

    A running job removes its older checkpoints: what was the newest may be gone by the time it is read.

    Raises:
        CommandError: There is none, or none can be read.
    """
    seen: list[str] = []
    while True:
        newest = latest_restore_point(pipeline, settings)
        if newest is None:
            raise CommandError(
                f"pipeline {pipeline.name} has no checkpoint or savepoint in {settings.checkpoints}: "
                f"`millrace run {name}` makes them; --savepoint names one elsewhere"
            )
        try:
            return read_state(newest)
        except RestorePointError:
            seen.append(newest)
            if seen.count(newest) > 1 or len(seen) == _ATTEMPTS:
                raise


def take_savepoint(pipeline: Pipeline, name: str, settings: Settings) -> str:
    """Have the job on a cluster make a savepoint while it goes on; its path.

    Raises:
        CommandError: None runs there.
    """
    advice = (
        "--live needs a job on a cluster (`millrace submit`); of a `millrace run` the newest checkpoint can be read, "
        f"at most a checkpoint's interval old: millrace state {name}"
    )
    try:
        job = find_job(pipeline, settings)
    except CommandError as error:
        raise CommandError(f"{error}; {advice}") from error
    if job is None:
        raise CommandError(f"no job of pipeline {pipeline.name} runs on the cluster; {advice}")
    return job.savepoint()


def kept_entity(plan: FeaturePlan, state: ReadState, name: str) -> tuple[int, KeptEntity, Words] | None:
    """The shard, an entity by its name, and the clocks of the partitions; None if it is unknown or forgotten.

    Raises:
        RestorePointError: The state is of another version, or broken.
    """
    for shard in shards_with(state, name):
        with reading(state):
            found = find_entity(ShardState.restore(plan, state.kept.logs[shard], log_changes=False), name)
        if found is not None:
            return shard, *found
    return None


def shards_with(state: ReadState, name: str) -> list[int]:
    """Shards in whose log an entity's name occurs."""
    key = joined_keys([name])
    return [shard for shard, log in state.kept.logs.items() if any(key in entry for _, entry in log)]


@contextmanager
def reading(state: ReadState) -> Iterator[None]:
    """What is wrong with the entries of a state becomes one line that names it."""
    try:
        yield
    except (StateVersionError, StateCorruptError) as error:
        raise RestorePointError(f"{state.path}: {error}") from error
