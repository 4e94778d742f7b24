"""A job that nobody notices: it goes on from a savepoint like an upgraded one, and writes its answers to files only.

    Kafka source -> gather -> score -> files of this machine
    the savepoint's offsets;           length and bytes of each
    commits nothing                    batch of output records

Its operators up to the score have the uids of the real job's. The sink of that is not among them: its state has
transactions of the running job, which no other may commit or abort.
"""

import dataclasses
from pathlib import Path
from typing import IO, Any

from pyflink.common import Types
from pyflink.datastream import MapFunction, RuntimeContext

from flink_jobs.dry_run_outputs import SUFFIX, framed
from flink_jobs.environment import LEAVE_UNCLAIMED, create_environment, planning
from flink_jobs.job_control import MiniClusterControl
from flink_jobs.job_run import JobRun
from flink_jobs.pipelines import model_folder
from flink_jobs.scoring_job import scored_batches
from flink_jobs.settings import Settings
from udfs.formats import Json
from udfs.pipeline import Pipeline

_NEVER_MS = 86_400_000
"""No checkpoint within a day: it would commit offsets."""


class KeepOutputs(MapFunction):
    """A batch of output records -> a file of this subtask; passes on its size.

    Args:
        folder: Where the files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, runtime_context: RuntimeContext) -> None:
        """Begin the file."""
        number = runtime_context.get_index_of_this_subtask()
        self._file: IO[bytes] = (self._folder / f"{number:03d}{SUFFIX}").open("wb")

    def map(self, value: bytes) -> int:
        """Append a batch."""
        content = bytes(value)
        self._file.write(framed(content))
        self._file.flush()
        return len(content)


def start_dry_run(pipeline: Pipeline, settings: Settings, savepoint: str, folder: Path) -> JobRun:
    """Start it in a mini-cluster of this process.

    Args:
        pipeline: What is to be tried.
        settings: How to run it.
        savepoint: Where to go on from.
        folder: For its outputs; empty.
    """
    name = f"{pipeline.name}-dry-run"
    # a consumer group of its own, too; its answers are read here, vectors are not, and no registry has to know them
    trial = dataclasses.replace(
        pipeline, name=name, output_format=Json(), features_topic=None, sessions=None, requests=None
    )
    quiet = settings.model_copy(update={"checkpoint_interval_ms": _NEVER_MS, "restart_attempts": 0})
    environment, rest_address = create_environment(quiet, folder / "checkpoints", savepoint, LEAVE_UNCLAIMED)
    with planning():
        _, scored = scored_batches(environment, trial, model_folder(pipeline), quiet, "earliest")
    kept = scored.map(KeepOutputs(folder), Types.INT()).uid("dry-run-v1").name("keep")
    _discard(kept)
    client = environment.execute_async(f"millrace-{name}")
    return JobRun(trial, quiet, MiniClusterControl(client, rest_address))


def _discard(stream: Any) -> None:
    from pyflink.java_gateway import get_gateway

    jvm: Any = get_gateway().jvm
    sink = jvm.org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink()
    stream._j_data_stream.sinkTo(sink).uid("dry-run-sink-v1")
