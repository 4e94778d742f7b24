"""Latency of requests, at-least-once, at a steady rate: by the Python client, and through `millrace serve`.

The shipped pipeline has events, too, at a steady rate. Requests are sent at their times, whatever became of those
before; a request's time counts from when it was due. Who asks is this process.
"""

import asyncio
import gc
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import requests
import uvloop

from flink_jobs.committed_reader import read_all
from flink_jobs.kafka_admin import create_topics
from flink_jobs.local.broker import Broker
from flink_jobs.local.processes import free_port
from flink_jobs.score_client import ScoreClient
from flink_jobs.settings import Settings, load_settings
from flink_jobs.topics import topic_specs
from tests.benchmarks.child_process import child
from tests.benchmarks.companions import LOG, companion, raise_if_ended
from tests.benchmarks.outcomes import ContestantError
from tests.benchmarks.steered_job import JobTask, steered_job
from udfs.pipeline import Pipeline

RATES, EVENTS_RATE = (250.0, 1_000.0), 1_000.0
"""The front, the job, the broker and who asks share one machine: the lower rate leaves it air."""
START_S, READY_S = 120.0, 60.0
QUICK, FULL = (45.0, 20.0), (60.0, 60.0)
"""Seconds to warm up, asking, and to measure."""
FIELDS = {"dwell_time_sec": 12.0, "page_id": "product"}
Ask = Callable[[str], Awaitable[None]]

SERVED = """
import dataclasses
from flink_jobs.pipelines import load_pipeline
from udfs.pipeline import Requests
shipped = load_pipeline("purchase")
pipeline = dataclasses.replace(
    shipped, predictions="answers", events=dataclasses.replace(shipped.events, topic="events"),
    requests=Requests(unknown="score"),
)
"""


class _TurnedAwayError(Exception):
    """The front has too much to do."""


class Span(NamedTuple):
    """How many requests a second, and for how many seconds: to warm up, and to measure."""

    rate: float
    warm_up_s: float
    measure_s: float


def measure(quick: bool) -> dict[str, float]:
    """Ask by the client, then through the front; prints what it took."""
    with tempfile.TemporaryDirectory(prefix="millrace-asking-") as folder:
        home = Path(folder)
        broker = Broker.start(home / "broker", die_with_parent=True)
        try:
            return _measured(broker, home, QUICK if quick else FULL)
        finally:
            broker.stop()


def _measured(broker: Broker, home: Path, span_s: tuple[float, float]) -> dict[str, float]:
    task = JobTask(broker.bootstrap, "events", "answers", {"guarantee": "at-least-once"}, requests=True)
    pipeline, settings = task.pipeline, load_settings(bootstrap=broker.bootstrap, home=home / "job")
    create_topics(broker.bootstrap, topic_specs(pipeline))
    most = str(int(EVENTS_RATE * (START_S + READY_S + 2 * len(RATES) * (1 + sum(span_s)))))
    producing = [broker.bootstrap, "events", str(EVENTS_RATE), most, str(home / "sent.npz")]
    result: dict[str, float] = {}
    with (
        steered_job(task, home / "job") as job,
        companion("tests.benchmarks.paced_producer", producing, home / "producer"),
    ):
        job.wait_for("running")
        entities = _entities(broker)
        print(f"\nrequests in ms, beside {EVENTS_RATE:,.0f} events/s; load {os.getloadavg()[0]:.1f}")
        print(f"{'':20}{'p50':>9}{'p99':>9}{'max':>9}", flush=True)
        for rate in RATES:
            span = Span(rate, *span_s)
            result |= _told("client", rate, uvloop.run(_by_client(pipeline, settings, entities, span)))
        with _front(broker, home) as port:
            for rate in RATES:
                result |= _told("http", rate, uvloop.run(_by_http(port, entities, Span(rate, *span_s))))
        raise_if_ended(job.process, home / "job")
    return result


def _entities(broker: Broker) -> list[str]:
    """Shoppers that had events by now."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        found = {str(msgspec.json.decode(each.value())["user_id"]) for each in read_all(broker.bootstrap, ["answers"])}
        if len(found) > 1_000:
            return sorted(found)
        time.sleep(1.0)
    raise ContestantError(f"no predictions within {START_S:.0f} s")


async def _by_client(
    pipeline: Pipeline, settings: Settings, entities: list[str], span: Span
) -> np.ndarray:
    async with ScoreClient(pipeline, settings) as client:

        async def ask(entity: str) -> None:
            await client.score(entity, FIELDS, timeout=30)

        return await _asked(ask, entities, span)


async def _asked(ask: Ask, entities: list[str], span: Span) -> np.ndarray:
    """Ms of each request that was due in the measured span; NaN of those that were turned away."""
    count, warm_up = int(span.rate * (span.warm_up_s + span.measure_s)), int(span.rate * span.warm_up_s)
    took_s, begin = np.full(count, np.nan), time.perf_counter() + 0.1

    async def one(number: int) -> None:
        try:
            await ask(entities[number % len(entities)])
        except _TurnedAwayError:
            return
        took_s[number] = time.perf_counter() - begin - number / span.rate

    gc.freeze()
    waiting = set[asyncio.Task[None]]()
    for number in range(count):
        early_s = begin + number / span.rate - time.perf_counter()
        if early_s > 0:
            await asyncio.sleep(early_s)
        task = asyncio.create_task(one(number))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
    await asyncio.gather(*waiting)
    return took_s[warm_up:] * 1e3


@contextmanager
def _front(broker: Broker, home: Path) -> Iterator[int]:
    """`millrace serve` until the block ends; its port."""
    file, port = home / "purchase.py", free_port()
    file.write_text(SERVED)
    command = [sys.executable, "-m", "flink_jobs.cli", "serve", str(file), "--port", str(port), "--in-flight", "5000"]
    environment = {"MILLRACE_BOOTSTRAP": broker.bootstrap, "MILLRACE_HOME": str(home / "front")}
    (home / "front").mkdir()
    with child(command, home / "front" / LOG, environment) as process:
        deadline = time.monotonic() + READY_S
        while not _is_ready(port):
            raise_if_ended(process, home / "front")
            if time.monotonic() > deadline:
                raise ContestantError(f"the front was not ready within {READY_S:.0f} s")
            time.sleep(0.2)
        yield port


def _is_ready(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health/ready", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


async def _by_http(port: int, entities: list[str], span: Span) -> np.ndarray:
    """By connections that stay open; who finds none free opens another."""
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def connected() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while free:
            reader, writer = free.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()  # the front closes what nobody used for a while
        return await asyncio.open_connection("127.0.0.1", port)

    async def ask(entity: str) -> None:
        reader, writer = await connected()
        body = msgspec.json.encode({"entity": entity, "fields": FIELDS})
        writer.write(b"POST /score HTTP/1.1\r\nhost: front\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        content = await reader.readexactly(length)
        if head.startswith(b"HTTP/1.1 503"):
            writer.close()
            raise _TurnedAwayError
        if not head.startswith(b"HTTP/1.1 200"):
            raise ContestantError(f"the front answered {head[:40]!r}: {content!r}")
        free.append((reader, writer))

    found = await _asked(ask, entities, span)
    for _, writer in free:
        writer.close()
    return found


def _told(name: str, rate: float, took_ms: np.ndarray) -> dict[str, float]:
    p50, p99, most = (float(np.nanpercentile(took_ms, each)) for each in (50, 99, 100))
    turned_away = float(np.isnan(took_ms).mean())
    print(f"{f'{name}, {rate:,.0f}/s':20}{p50:>9.1f}{p99:>9.1f}{most:>9.1f}{turned_away:>9.1%} turned away", flush=True)
    name = f"asking_{name}_{rate:.0f}"
    return {
        f"{name}_p50_ms": round(p50, 1), f"{name}_p99_ms": round(p99, 1), f"{name}_max_ms": round(most, 1),
        f"{name}_turned_away": round(turned_away, 4),
    }  # fmt: skip
