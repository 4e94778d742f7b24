"""Time from starting a process to its first visible prediction, phase by phase: cold, warm, and with a large state.

*Cold*: Python's bytecode and numba's compiled kernels are made anew, in folders that are empty at the start, and the
files of the Python environment and of the jars are put out of the page cache (`posix_fadvise`, which needs no rights;
what the broker has mapped of the Java runtime stays). *Warm*: the same command a second time. The broker runs already
and the topic has events in both.

*Restore*: a job that has seen one event of each of 1,000,000 entities is stopped with a savepoint and started again
from it, in a new process, with events waiting. The state of a shard is read at its first event, so the first prediction
proves little: the time to the answers of all shards, with entities spread over all of them, is given, too.
"""

import itertools
import os
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil

from flink_jobs.committed_reader import CommittedReader
from flink_jobs.events_producer import produce_events
from flink_jobs.kafka_admin import TopicSpec, create_topics
from flink_jobs.local.broker import Broker
from flink_jobs.local.jars import cache_folder
from flink_jobs.local.shoppers import ShopperEvent, as_records, shopper_events
from tests.benchmarks.companions import family
from tests.benchmarks.contest import SEED, SHOPPERS, START_MS
from tests.benchmarks.outcomes import ContestantError
from tests.benchmarks.steered_job import JobTask, SteeredJob, steered_job

PARTITIONS = 3
WAITING_EVENTS = 1_000
ENTITIES, ENTITIES_QUICK = 1_000_000, 200_000
TIMEOUT_S = 300.0
WORKER = "pyflink.fn_execution.beam.beam_boot"
PHASES = ("process", "imports", "jvm", "planning", "submitted", "worker", "running", "scored", "visible")
PHASE_TEXTS = {
    "process": "Python started, Millrace imported",
    "imports": "PyFlink imported",
    "jvm": "Java machine started",
    "planning": "job planned",
    "submitted": "mini-cluster started, job submitted",
    "worker": "first Python worker's process there",
    "running": "all tasks running",
    "scored": "first events scored: worker's imports, model, kernels",
    "visible": "prediction committed and visible",
}


class _Scored(msgspec.Struct, gc=False):
    event_id: str
    scored_at: int


def measure(quick: bool) -> dict[str, float]:
    """Cold, warm and restored; prints the phases of each."""
    entities = ENTITIES_QUICK if quick else ENTITIES
    with tempfile.TemporaryDirectory(prefix="millrace-startup-") as name:
        folder = Path(name)
        broker = Broker.start(folder / "broker", die_with_parent=True)
        try:
            create_topics(broker.bootstrap, [TopicSpec("purchase-dead-letters", PARTITIONS)])
            return measure_first(broker, folder) | measure_restore(broker, folder, entities)
        finally:
            broker.stop()


def measure_first(broker: Broker, folder: Path) -> dict[str, float]:
    """Cold, then warm with the same caches."""
    events = _topic(broker, "waiting")
    produce_events(broker.bootstrap, events, _shoppers(WAITING_EVENTS))
    caches = {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "NUMBA_CACHE_DIR": str(folder / "kernels")}
    result: dict[str, float] = {}
    for name, key in (("cold", "first_prediction_cold_s"), ("warm", "first_prediction_s")):
        if name == "cold":
            forget_files()
        task = JobTask(broker.bootstrap, events, _topic(broker, f"first-{name}"), {})
        with steered_job(task, folder / name, caches) as job:
            phases, _ = _phases(job, broker, task.output, WAITING_EVENTS)
        _print(f"first prediction, {name}", phases)
        result |= {key: phases["visible"]} | {f"start_{name}_{phase}_s": at for phase, at in phases.items()}
    return result


def measure_restore(broker: Broker, folder: Path, entities: int) -> dict[str, float]:
    """From a savepoint with so many entities."""
    task = JobTask(broker.bootstrap, _topic(broker, "many"), _topic(broker, "many-scored"), {})
    produce_events(broker.bootstrap, task.events, as_records(one_event_each(entities)))
    with steered_job(task, folder / "many") as job:
        job.wait_for("running")
        job.ask("catch_up", TIMEOUT_S)
        savepoint = job.ask("stop")["savepoint"]
    spread = itertools.islice(one_event_each(entities, later_ms=60_000), 0, entities, entities // WAITING_EVENTS)
    waiting = produce_events(broker.bootstrap, task.events, as_records(spread)).records
    # a topic of its own for the answers: what is in it was scored after the restore
    again = task._replace(output=_topic(broker, "many-restored"), restore_from=savepoint)
    with steered_job(again, folder / "restored") as job:
        phases, all_s = _phases(job, broker, again.output, waiting)
    _print(f"restore of {entities:,} entities", phases)
    print(f"  {'answers of entities in all shards visible':54}{all_s:>8.1f}", flush=True)
    name = f"restore_{entities // 1_000}k_entities" if entities < ENTITIES else "restore_1m_entities"
    return {f"{name}_s": phases["visible"], f"{name}_all_s": all_s}


def one_event_each(entities: int, later_ms: int = 0) -> Iterator[ShopperEvent]:
    """An event of each of so many shoppers, within a minute of event time."""
    for number in range(entities):
        time_ms = START_MS + later_ms + number * 60_000 // entities
        yield ShopperEvent(f"each{later_ms}-{number}", f"user-{number:06d}", "product", 10.0, time_ms)


def forget_files() -> None:
    """Put the files of the Python environment and of the jars out of the page cache; not those a process has mapped."""
    os.sync()
    for folder in (sysconfig.get_paths()["purelib"], sysconfig.get_paths()["stdlib"], str(cache_folder())):
        for path in Path(folder).rglob("*"):
            if path.is_file():
                number = os.open(path, os.O_RDONLY)
                try:
                    os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(number)


def _phases(job: SteeredJob, broker: Broker, output: str, answers: int) -> tuple[dict[str, float], float]:
    """Seconds from the start of the process to the end of each phase, and to the last of so many answers."""
    decode = msgspec.json.Decoder(_Scored).decode
    reader = CommittedReader(broker.bootstrap, [output])
    seen: set[str] = set()
    scored_s = visible_s = 0.0
    deadline = time.monotonic() + TIMEOUT_S
    worker_s: float | None = None
    try:
        while len(seen) < answers:
            messages = reader.read(0.1)
            if messages:
                found = [decode(message.value()) for message in messages]
                if not seen:
                    visible_s, scored_s = time.time(), min(one.scored_at for one in found) / 1_000
                seen.update(one.event_id for one in found)
            worker_s = worker_s or _first_worker_s(job)
            if job.process.poll() is not None or time.monotonic() > deadline:
                raise ContestantError(f"only {len(seen)} of {answers} predictions came; see {job.home}")
    finally:
        reader.close()
    all_s = time.time() - job.started_s
    job.wait_for("running")  # Flink may say so only after the first prediction
    at = {answer["what"]: answer["at_s"] for answer in job.answers()}
    at |= {"worker": worker_s or scored_s, "scored": scored_s, "visible": visible_s}
    return {phase: round(at[phase] - job.started_s, 2) for phase in PHASES}, round(all_s, 2)


def _first_worker_s(job: SteeredJob) -> float | None:
    """When the first Python worker's process was made, seconds since 1970."""
    made = []
    for process in family(job.process)[1:]:
        try:
            if WORKER in process.cmdline():
                made.append(process.create_time())
        except psutil.NoSuchProcess:
            continue
    return min(made, default=None)


def _topic(broker: Broker, name: str) -> str:
    create_topics(broker.bootstrap, [TopicSpec(name, PARTITIONS)])
    return name


def _shoppers(events: int) -> Iterator[tuple[bytes, bytes]]:
    return itertools.islice(as_records(shopper_events(SHOPPERS, SEED, START_MS)), events)


def _print(title: str, phases: dict[str, float]) -> None:
    print(f"\n{title:56}{'after s':>8}{'took':>8}", flush=True)
    before = 0.0
    for phase, at in phases.items():
        print(f"  {PHASE_TEXTS[phase]:54}{at:>8.1f}{at - before:>8.1f}", flush=True)
        before = at
