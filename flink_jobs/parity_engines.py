"""The engines of `millrace parity`: each says the features of every record of the input. SQL is in `parity_sql`."""

import contextlib
import dataclasses
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import msgspec
import numpy as np
import onnx
import pyarrow
import pyarrow.parquet
from onnx import TensorProto, helper

from flink_jobs.backfill_job import run_backfill
from flink_jobs.backfill_request import BackfillRequest
from flink_jobs.backfill_workers import WorkerLostError
from flink_jobs.committed_reader import read_all, receipt
from flink_jobs.decoding import event_decoder
from flink_jobs.history_topic import topic_pieces
from flink_jobs.job_run import start_job
from flink_jobs.job_session import wait_until_running
from flink_jobs.kafka_admin import create_topics
from flink_jobs.local.processes import worker_dies_with_parent
from flink_jobs.parity_rows import EngineRows, ParityInput, spooled, spooled_join
from flink_jobs.settings import Settings
from flink_jobs.topics import topic_specs
from models.binding import manifest_for_model
from models.manifest import MODEL_FILE
from udfs.naive_features import NaiveFeatures
from udfs.naive_join import NaiveJoin
from udfs.pipeline import Model, Pipeline
from udfs.wire_formats import Refused

pa: Any = pyarrow
pq: Any = pyarrow.parquet
_cloudpickle: Any = cloudpickle
Progress = Callable[[float], None]


@dataclass(frozen=True)
class EngineRun:
    """What an engine needs, and where it puts what it says.

    Attributes:
        given: The records.
        settings: Those of the user, for the broker of this run.
        rows: To be filled.
        progress: Told the share that is done.
        should_stop: Called often; raises to end the run.
        processes: How many may work.
    """

    given: ParityInput
    settings: Settings
    rows: EngineRows
    progress: Progress
    should_stop: Callable[[], None]
    processes: int


@dataclass(frozen=True)
class Said:
    """How an engine's answers are to be compared.

    Attributes:
        refused: Features that the engine cannot compute, and why.
        as_json: Whether its features went through JSON, which has no infinity: a number that is none is missing.
        by_event_time: Whether it takes events in order of event time: what late, equal and unordered ones give differs
            by design.
    """

    refused: dict[str, str] = field(default_factory=dict)
    as_json: bool = False
    by_event_time: bool = False


Engine = Callable[[EngineRun], Said]


def by_oracle(run: EngineRun) -> Said:
    """The definition as a triple loop, a shard at a time."""
    given = run.given
    task = _cloudpickle.dumps((given, _rows_folder(run.rows)))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(run.processes, mp_context=context, initializer=_start_worker, initargs=(task,))
    try:
        waiting = [pool.submit(_oracle_of_shard, shard) for shard in range(given.shards)]
        for done, future in enumerate(as_completed(waiting)):
            run.should_stop()
            future.result()
            run.progress((done + 1) / given.shards)
    except BrokenProcessPool as error:
        raise WorkerLostError("a process of the oracle was killed, perhaps for want of memory") from error
    finally:
        processes: dict[int, Any] = dict(getattr(pool, "_processes", None) or {})
        for process in processes.values():
            with contextlib.suppress(OSError, ValueError):
                process.kill()
        pool.shutdown(wait=True, cancel_futures=True)
    return Said()


_task: tuple[ParityInput, Path]
_join: NaiveJoin


def _start_worker(task: bytes) -> None:
    global _task, _join
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker_dies_with_parent()
    _task = _cloudpickle.loads(task)
    _join = spooled_join(_task[0])


def _oracle_of_shard(shard: int) -> None:
    given, folder = _task
    oracle_of_shard(given, EngineRows(folder, given.count, len(given.pipeline.feature_names)), shard, _join)


def oracle_of_shard(given: ParityInput, rows: EngineRows, shard: int, join: NaiveJoin | None = None) -> None:
    """Fill in what the oracle says of a shard's records; each shard has clocks of its own.

    Args:
        given: The records.
        rows: To be filled.
        shard: Which.
        join: That of the run, if it was read before.
    """
    join = join or spooled_join(given)
    decode, oracle = event_decoder(given.pipeline).decode, NaiveFeatures(given.pipeline)
    for record in spooled(given.shard_file(shard)):
        event = decode(record.key, record.value)
        # where the input knows its broken records, the decoder's word is not taken for it
        reason = record.reason or (event.reason if isinstance(event, Refused) else None)
        if reason is not None:
            rows.refuse(record.row, reason)
        else:
            seen = join.seen(event, oracle.time_ms(event))
            rows.answer(record.row, *oracle.advance(seen, record.time_ms, record.partition))


def by_backfill(run: EngineRun) -> Said:
    """The columnar engine over the topic's history."""
    given = run.given
    pipeline, target = given.pipeline, given.folder / "backfill.parquet"
    topic = pipeline.events.topic
    report = run_backfill(
        BackfillRequest(
            pipeline,
            {"topic": topic},
            lambda: topic_pieces(given.bootstrap, topic, None),
            target,
            shards=given.shards,
            processes=run.processes,
            bootstrap=given.bootstrap,
        ),
        lambda now: run.progress(now.share),
    )
    first = np.array([given.first_rows[partition] for partition in sorted(given.first_rows)])
    with pq.ParquetFile(target) as file:
        names = file.schema_arrow.names
        for batch in file.iter_batches() if "_partition" in names else ():
            at = first[batch.column("_partition").to_numpy()] + batch.column("_offset").to_numpy()
            run.rows.twice[0] += len(at) - len(np.unique(at)) + int((run.rows.answers[at] != 0).sum())
            for place, name in enumerate(pipeline.feature_names):
                run.rows.features[at, place] = batch.column(name).to_numpy()
            run.rows.answers[at] = 1
            run.rows.late[at] = batch.column("_late").to_numpy(zero_copy_only=False)
    if report.letters is not None:
        with report.letters.open("rb") as lines:
            for line in lines:
                letter = msgspec.json.decode(line)
                run.rows.refuse(given.row(letter["partition"], letter["offset"]), letter["reason"])
    return Said()


def by_streaming(run: EngineRun) -> Said:
    """The job in a mini-cluster, its answers read as a consumer reads them."""
    given = run.given
    pipeline = job_pipeline(given, "streaming")
    settings = run.settings.model_copy(update={"home": given.folder / "streaming"})
    create_topics(given.bootstrap, topic_specs(pipeline))
    job = start_job(pipeline, settings)

    def advanced(done: int, total: int) -> None:
        run.should_stop()
        run.progress(done / max(1, total))

    try:
        wait_until_running(job, run.should_stop)
        job.wait_until_caught_up(advanced)
        job.stop()
    except BaseException:
        with contextlib.suppress(Exception):
            job.cancel()
        raise
    return said_by_job(pipeline, given, run.rows)


def said_by_job(pipeline: Pipeline, given: ParityInput, rows: EngineRows) -> Said:
    """Fill in what a job answered."""
    for place, features, flags, reason in answers_of(pipeline, given.bootstrap):
        if features is None:
            rows.refuse(given.row(*place), reason)
        else:
            rows.answer(given.row(*place), features, "late" in flags)
    return Said(as_json=True)


def answers_of(pipeline: Pipeline, bootstrap: str) -> Iterator[tuple[tuple[int, int], list[float] | None, str, str]]:
    """What a job answered: place of the record, features (None for a dead letter), flags, reason."""
    names = pipeline.feature_names
    for message in read_all(bootstrap, [pipeline.predictions, str(pipeline.dead_letters)]):
        told = receipt(message)
        place = int(told["partition"]), int(told["offset"])
        if message.topic() != pipeline.predictions:
            yield place, None, "", told["reason"]
            continue
        found = msgspec.json.decode(message.value() or b"")["features"]
        row = [np.nan if found[name] is None else float(found[name]) for name in names]
        yield place, row, told.get("flags", ""), ""


def job_pipeline(given: ParityInput, engine: str, pipeline: Pipeline | None = None) -> Pipeline:
    """The pipeline as a job runs it here: topics of its own, features in its predictions, a model that never fails.

    The features are compared, not the scores; a model that fails on a hard row would hide its features.
    """
    own = pipeline or given.pipeline
    return dataclasses.replace(
        own,
        name=f"{own.name}-{engine}"[:100],
        predictions=f"{engine}-predictions",
        dead_letters=f"{engine}-dead-letters",
        include_features=True,
        prediction=own.outputs.names[0],
        model=constant_model(own, given.folder / f"{engine}-models"),
    )


def constant_model(pipeline: Pipeline, root: Path) -> Model:
    """Write a model that scores 0 whatever comes."""
    folder, feature = root / "zero" / "1", pipeline.feature_names[0]
    folder.mkdir(parents=True)
    graph = helper.make_graph(
        [
            helper.make_node("IsNaN", ["x"], ["odd"]),
            helper.make_node("Cast", ["odd"], ["number"], to=TensorProto.DOUBLE),
            helper.make_node("Mul", ["number", "zero"], ["y"]),
        ],
        "zero",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["rows", 1])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["rows", 1])],
        [helper.make_tensor("zero", TensorProto.DOUBLE, [1], [0.0])],
    )
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / MODEL_FILE
    path.write_bytes(made.SerializeToString(deterministic=True))
    manifest = manifest_for_model(
        path, name="zero", version=1, features=(feature,), feature_set_hash=pipeline.feature_set_hash((feature,))
    )
    manifest.write(folder)
    return Model("zero", version=1, root=root)


def _rows_folder(rows: EngineRows) -> Path:
    name: str = rows.features.filename  # type: ignore[attr-defined]  # of a memmap
    return Path(name).parent
