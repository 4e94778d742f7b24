"""What more entities and more subtasks cost: throughput, memory and CPU time.

- `ratio_1m_entities`: events per second with 1,000,000 entities over those with 10,000. Both jobs first see one event
  of each of their entities; the speed is that of shopping events after them, by the times at which the broker got the
  predictions.
- `bytes_per_entity`: memory of the whole job (`memory.py`) with 1,000,000 entities less that of a job that has seen one
  event of each of 10,000, by the difference in entities: one to three events are kept of each. What the processes take
  by and by, compiled code above all, counts as the entities'. `bytes_per_entity_10_events` has ten of each, as a
  shopper of the simulated shop has in an hour.
- `cpu_s_per_million_pN`: CPU seconds of the Java machine and the Python processes for a million events at
  parallelism N.
"""

import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flink_jobs.committed_reader import CommittedReader
from flink_jobs.events_producer import produce_events
from flink_jobs.kafka_admin import TopicSpec, create_topics, topic_ends
from flink_jobs.local.broker import Broker
from flink_jobs.local.shoppers import ShopperEvent, as_records, shopper_events
from tests.benchmarks.companions import committed_end, raise_if_ended
from tests.benchmarks.contest import SEED, SHOPPERS, START_MS
from tests.benchmarks.cpu_time import cpu_s
from tests.benchmarks.memory import WHOLE_HEAP, JobMemory, memory_of
from tests.benchmarks.outcomes import ContestantError
from tests.benchmarks.startup import one_event_each
from tests.benchmarks.steered_job import JobTask, SteeredJob, steered_job

PARTITIONS = 3
FEW, MANY = SHOPPERS, 1_000_000
SHOPPING, SHOPPING_QUICK = 1_500_000, 500_000
EVENTS_OF_EACH, EACH_OF = 10, 500_000
PARALLELISMS = (1, 2, 4)
WARM_UP_SHARE = 0.3
POLL_S = 0.5
TIMEOUT_S = 600.0


def measure(quick: bool) -> dict[str, float]:
    """All of it, or with `quick` only one million entities against ten thousand; prints a row for each job."""
    with scaling_bench() as bench:
        result = measure_entities(bench, SHOPPING_QUICK if quick else SHOPPING)
        if not quick:
            result |= measure_parallelism(bench, SHOPPING)
        return result


@contextmanager
def scaling_bench() -> Iterator["Bench"]:
    """A broker of its own for the jobs."""
    with tempfile.TemporaryDirectory(prefix="millrace-scaling-") as name:
        broker = Broker.start(Path(name) / "broker", die_with_parent=True)
        try:
            create_topics(broker.bootstrap, [TopicSpec("purchase-dead-letters", PARTITIONS)])
            yield Bench(broker, Path(name))
        finally:
            broker.stop()


def measure_entities(bench: "Bench", shopping: int) -> dict[str, float]:
    """Throughput with few and with many entities, and memory of many on top of a job that has just begun."""
    print(f"\n{'':34}{'events/s':>10}{'MB: Python':>12}{'Java heap':>11}{'Java native':>13}", flush=True)
    found = {}
    for name, entities, last in (("begun", FEW, 0), ("few", FEW, shopping), ("many", MANY, shopping)):
        # as many events for few and many: the speed must be that of a Java machine as warm
        rest = last + MANY - entities if last else 0
        events = itertools.chain(one_event_each(entities), _shopping(entities, rest))
        found[name] = bench.memory_and_speed(name, events, last=last or entities)
        _print(f"{entities:,} entities, {entities + rest:,} events", *found[name])
    (begun, _), (_, few_speed), (many, many_speed) = found["begun"], found["few"], found["many"]
    result = {
        "ratio_1m_entities": round(many_speed / few_speed, 3),
        **{
            f"bytes_per_entity{part}": round((getattr(many, kind) - getattr(begun, kind)) / (MANY - FEW), 1)
            for part, kind in (("", "whole"), ("_python", "python"), ("_heap", "heap"), ("_native", "native"))
        },
    }
    print(
        f"speed ratio {result['ratio_1m_entities']:.2f}, {result['bytes_per_entity']:.0f} bytes per entity", flush=True
    )
    return result | _ten_events_each(bench, begun)


def _ten_events_each(bench: "Bench", begun: JobMemory) -> dict[str, float]:
    rounds = (one_event_each(EACH_OF, later_ms=minute * 60_000) for minute in range(EVENTS_OF_EACH))
    memory, speed = bench.memory_and_speed("ten", itertools.chain.from_iterable(rounds), last=EACH_OF)
    _print(f"{EACH_OF:,} entities, {EVENTS_OF_EACH} events each", memory, speed)
    per_entity = round((memory.whole - begun.whole) / (EACH_OF - FEW), 1)
    print(f"{per_entity:.0f} bytes per entity", flush=True)
    return {"bytes_per_entity_10_events": per_entity}


def measure_parallelism(bench: "Bench", events: int) -> dict[str, float]:
    """CPU seconds per million events at each parallelism."""
    topic = bench.fill("subtasks", _shopping(FEW, events))
    print(f"\n{'parallelism':>12}{'CPU s per million events: Java, Python':>42}{'whole':>8}", flush=True)
    result = {}
    for parallelism in PARALLELISMS:
        spent = bench.cpu_s_per_million(topic, events, parallelism)
        whole = spent["jvm"] + spent["python"]
        print(f"{parallelism:>12}{spent['jvm']:>34.1f}{spent['python']:>8.1f}{whole:>8.1f}", flush=True)
        result[f"cpu_s_per_million_p{parallelism}"] = round(whole, 2)
    return result


class Bench:
    """Jobs that score a topic from start to end, one after the other on one broker."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self._broker, self._bootstrap, self._folder = broker, broker.bootstrap, folder

    def fill(self, topic: str, events: Iterable[ShopperEvent]) -> str:
        """A new topic with these events."""
        create_topics(self._bootstrap, [TopicSpec(topic, PARTITIONS)])
        produce_events(self._bootstrap, topic, as_records(events))
        return topic

    def memory_and_speed(self, name: str, events: Iterable[ShopperEvent], last: int) -> tuple[JobMemory, float]:
        """The job's memory after all the events, and the speed (events/s) over the last of them, less a warm-up."""
        topic = self.fill(name, events)
        total = sum(topic_ends(self._bootstrap, topic).values())
        with self._job(topic, name, {}, WHOLE_HEAP) as (job, output):
            self._wait_until(job, output, total)
            job.ask("catch_up")
            memory = memory_of(job)
        times_ms = np.sort(self._appended_ms(output))
        if len(times_ms) != total:
            raise ContestantError(f"{name}: {len(times_ms)} predictions of {total} events")
        begin = total - int(last * (1 - WARM_UP_SHARE))
        return memory, float((total - begin) / ((times_ms[-1] - times_ms[begin]) / 1_000))

    def cpu_s_per_million(self, topic: str, events: int, parallelism: int) -> dict[str, float]:
        """CPU seconds by kind of process, the start left out."""
        with self._job(topic, f"{topic}-{parallelism}", {"parallelism": parallelism}) as (job, output):
            begin = self._wait_until(job, output, int(events * WARM_UP_SHARE))
            before = cpu_s(job.process.pid, self._broker.state.pid)
            end = self._wait_until(job, output, events)
            after = cpu_s(job.process.pid, self._broker.state.pid)
        return {kind: (after[kind] - before[kind]) / (end - begin) * 1e6 for kind in ("jvm", "python")}

    @contextmanager
    def _job(
        self, topic: str, name: str, settings: dict[str, object], environment: dict[str, str] | None = None
    ) -> Iterator[tuple[SteeredJob, str]]:
        output = f"{name}-scored"
        by_broker = {"message.timestamp.type": "LogAppendTime"}
        create_topics(self._bootstrap, [TopicSpec(output, PARTITIONS, settings=by_broker)])
        task = JobTask(self._bootstrap, topic, output, settings)
        with steered_job(task, self._folder / name, environment) as job:
            yield job, output

    def _wait_until(self, job: SteeredJob, output: str, predictions: int) -> int:
        """How many there are once there are that many; offsets count a few transaction markers, too."""
        deadline = time.monotonic() + TIMEOUT_S
        while (done := committed_end(self._bootstrap, output)) < predictions:
            raise_if_ended(job.process, job.home)
            if time.monotonic() > deadline:
                raise ContestantError(
                    f"only {done} of {predictions} predictions within {TIMEOUT_S:.0f} s; see {job.home}"
                )
            time.sleep(POLL_S)
        return done

    def _appended_ms(self, output: str) -> npt.NDArray[np.int64]:
        """When the broker got each prediction."""
        times: list[int] = []
        reader = CommittedReader(self._bootstrap, [output])
        try:
            while not reader.at_end:
                times += [message.timestamp()[1] for message in reader.read(0.2)]
        finally:
            reader.close()
        return np.array(times, np.int64)


def _shopping(shoppers: int, events: int) -> Iterator[ShopperEvent]:
    return itertools.islice(shopper_events(shoppers, SEED, START_MS + 60_000), events)


def _print(title: str, memory: JobMemory, speed: float) -> None:
    megabytes = "".join(f"{size / 1e6:>{width}.0f}" for size, width in zip(memory, (12, 11, 13), strict=True))
    print(f"{title:34}{speed:>10,.0f}{megabytes}", flush=True)
