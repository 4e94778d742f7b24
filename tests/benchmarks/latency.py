"""Latency from producing an event to seeing its prediction, at a steady rate, and where it goes.

Three processes beside the job and the broker: a producer that keeps the pace and notes when it sent each event, the
job, and a reader that notes when each prediction became visible to it (`read_committed`). Events of the start are left
out: the time counts from some seconds after the first visible prediction, when the backlog of the start-up has gone
through and has warmed the Java machine's compiler. A late producer is told apart: an event's time begins when it was
sent, and how far the producer was behind its schedule is a row of its own.

Millrace has its default settings: a checkpoint every second with exactly-once, every ten with at-least-once.
"""

import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import psutil

from flink_jobs.committed_reader import read_all
from flink_jobs.kafka_admin import TopicSpec, create_topics
from flink_jobs.local.broker import Broker
from tests.benchmarks.companions import committed_end, companion, raise_if_ended
from tests.benchmarks.cpu_time import cpu_s
from tests.benchmarks.moments import Times, moments_of
from tests.benchmarks.outcomes import ContestantError
from tests.benchmarks.visibility_reader import event_number

PACKAGE = "tests.benchmarks"
RATE = 5_000.0
PARTITIONS = 3
START_S = 120.0
THROUGH_S = 4.0  # three checkpoints and what they take
HOP = "jvm_"
LEGS = ("send", "score", "write", "show")
LEG_TEXTS = ("sent -> in the events topic", "-> scored", "-> in the output topic", "-> visible")

Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Span:
    """How long to warm up after the first prediction, and to measure then."""

    warm_up_s: float
    measured_s: float


# the Java machine still compiles with half a core 15 s after the first prediction, with a twentieth after 60
QUICK, FULL = Span(30.0, 20.0), Span(60.0, 60.0)


@dataclass(frozen=True)
class Variant:
    """What is measured: `millrace`, `hop` (the same behind a hop), `features` or `bare_loop`, with a guarantee.

    Visible is what a reader of committed records sees; with a store, what can be read there.
    """

    job: str
    guarantee: str
    store: str = ""
    store_url: str = ""

    @property
    def name(self) -> str:
        return " ".join(word for word in (self.job, self.store, self.guarantee) if word)

    @property
    def once(self) -> bool:
        return self.guarantee == "exactly-once"

    @property
    def key(self) -> str:
        """How the figures are called in `bench.json`."""
        job = "" if self.job == "millrace" else f"_{self.job}"
        job += f"_{self.store}" if self.store else ""
        return f"latency{job}{'_exactly_once' if self.once else ''}"


VARIANTS = [
    Variant(job, guarantee) for guarantee in ("at-least-once", "exactly-once") for job in ("millrace", "bare_loop")
]


@dataclass(frozen=True)
class Latencies:
    """Milliseconds of each measured event, (n,) each: the whole, its legs in the order of `LEGS`, the producer's lag.

    `cores` says how many cores the job's Java machine, its Python processes, the broker and others used meanwhile.
    """

    whole: Times
    legs: tuple[Times, ...]
    lag: Times
    cores: dict[str, float]


def measure(quick: bool) -> dict[str, float]:
    """Every variant, one after the other on one broker; prints a table."""
    return measure_variants(VARIANTS, QUICK if quick else FULL)


def measure_variants(variants: list[Variant], span: Span, rate: float = RATE) -> dict[str, float]:
    """Some variants; settings of the Millrace job may be given in `BENCH_SETTINGS` as JSON."""
    result: dict[str, float] = {"latency_events_per_s": rate}
    print(
        f"\nlatency in ms, {rate:,.0f} events/s for {span.measured_s:.0f} s, from {span.warm_up_s:.0f} s after "
        f"the first prediction\n{'':40}{'p50':>9}{'p99':>9}{'max':>9}",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="millrace-latency-") as folder:
        broker = Broker.start(Path(folder) / "broker", die_with_parent=True)
        try:
            for variant in variants:
                found = _Run(variant, broker, Path(folder) / variant.name.replace(" ", "-"), rate).latencies(span)
                _print(variant, found)
                result |= _figures(variant, found)
        finally:
            broker.stop()
    return result


class _Run:
    """One variant from start to end."""

    def __init__(self, variant: Variant, broker: Broker, home: Path, rate: float) -> None:
        self.variant, self.broker, self.home, self.rate = variant, broker, home, rate
        self.events, self.output = f"events-{home.name}", f"output-{home.name}"
        home.mkdir(parents=True)

    def latencies(self, span: Span) -> Latencies:
        by_broker = {"message.timestamp.type": "LogAppendTime"}
        names = (self.events, self.output)
        create_topics(self.broker.bootstrap, [TopicSpec(name, PARTITIONS, settings=by_broker) for name in names])
        create_topics(self.broker.bootstrap, [TopicSpec("purchase-dead-letters", PARTITIONS)])
        most = str(int(self.rate * (START_S + span.warm_up_s + span.measured_s)))
        sent, seen = self.home / "sent.npz", self.home / "seen.npz"
        job, arguments, environment = self._job()
        producing = [self.broker.bootstrap, self.events, str(self.rate), most, str(sent)]
        reading, reads = [self.broker.bootstrap, self.output, str(seen)], "visibility_reader"
        if self.variant.store:
            reading, reads = [*reading, self.variant.store_url], "store_writer"
        with (
            companion(f"{PACKAGE}.{reads}", reading, self.home / "reader") as reader,
            companion(job, arguments, self.home / "job", environment) as scoring,
        ):
            with companion(f"{PACKAGE}.paced_producer", producing, self.home / "producer") as producer:
                self._wait_for_the_first(scoring)
                time.sleep(span.warm_up_s)
                begin_ns, before = time.time_ns(), self._cpu_s(scoring, producer, reader)
                time.sleep(span.measured_s)
                end_ns, after = time.time_ns(), self._cpu_s(scoring, producer, reader)
            raise_if_ended(scoring, self.home / "job")
            time.sleep(THROUGH_S)
        seconds = (end_ns - begin_ns) / 1e9
        cores = {kind: (spent - before.get(kind, 0.0)) / seconds for kind, spent in after.items()}
        moments, lag = moments_of(
            np.load(sent), np.load(seen), self._appended_ms(), (begin_ns, end_ns), once=self.variant.once
        )
        return Latencies(moments[-1] - moments[0], tuple(np.diff(moments, axis=0)), lag, cores)

    def _job(self) -> tuple[str, list[str], dict[str, str]]:
        arguments = [self.broker.bootstrap, str(self.home / "job"), self.events, self.output]
        if self.variant.job == "bare_loop":
            return f"{PACKAGE}.prompt_bare_loop", [*arguments, self.variant.guarantee], {}
        tried = json.loads(os.environ.get("BENCH_SETTINGS", "{}"))
        settings = {"guarantee": self.variant.guarantee} | tried
        return f"{PACKAGE}.{self.variant.job}_job", arguments, {"BENCH_SETTINGS": json.dumps(settings)}

    def _wait_for_the_first(self, scoring: Process) -> None:
        deadline = time.monotonic() + START_S
        while not committed_end(self.broker.bootstrap, self.output):
            raise_if_ended(scoring, self.home / "job")
            if time.monotonic() > deadline:
                raise ContestantError(f"{self.variant.name}: no prediction within {START_S:.0f} s")
            time.sleep(0.2)

    def _cpu_s(self, scoring: Process, *ours: Process) -> dict[str, float]:
        """CPU seconds so far, by who used them; `others` have nothing to do with the measure and disturb it."""
        spent = cpu_s(scoring.pid, self.broker.state.pid)
        spent["producer_and_reader"] = sum(sum(psutil.Process(one.pid).cpu_times()[:2]) for one in ours)
        spent["others"] -= spent["producer_and_reader"]
        return spent

    def _appended_ms(self) -> dict[int, int]:
        """When the broker got each event, by its number."""
        decode = msgspec.json.Decoder(_Numbered).decode
        events = read_all(self.broker.bootstrap, [self.events])
        return {event_number(decode(event.value()).event_id): event.timestamp()[1] for event in events}


class _Numbered(msgspec.Struct, gc=False):
    event_id: str


def _three(times: Times) -> tuple[float, float, float]:
    return float(np.percentile(times, 50)), float(np.percentile(times, 99)), float(np.max(times))


def _print(variant: Variant, found: Latencies) -> None:
    rows = [(f"{variant.name}, {len(found.whole):,} events", found.whole)]
    rows += [(f"  {text}", leg) for text, leg in zip(LEG_TEXTS, found.legs, strict=True)]
    rows += [("  the producer behind its schedule", found.lag)]
    for text, times in rows:
        print(f"{text:40}" + "".join(f"{value:>9.1f}" for value in _three(times)), flush=True)
    whole = {kind: used for kind, used in found.cores.items() if not kind.startswith(HOP)}
    hops = sorted(((kind, used) for kind, used in found.cores.items() if kind.startswith(HOP)), key=lambda hop: -hop[1])
    print("  cores used: " + ", ".join(f"{kind} {used:.2f}" for kind, used in whole.items()), flush=True)
    if hops:
        print("  of the JVM: " + ", ".join(f"{kind[len(HOP) :]} {used:.2f}" for kind, used in hops), flush=True)


def _figures(variant: Variant, found: Latencies) -> dict[str, float]:
    result = {f"{variant.key}_others_cores": round(found.cores["others"], 2)}
    named = [("", found.whole), ("_producer_lag", found.lag)]
    named += [(f"_{leg}", times) for leg, times in zip(LEGS, found.legs, strict=True)]
    for suffix, times in named:
        p50, p99, most = _three(times)
        result |= {
            f"{variant.key}{suffix}_p50_ms": round(p50, 1),
            f"{variant.key}{suffix}_p99_ms": round(p99, 1),
            f"{variant.key}{suffix}_max_ms": round(most, 1),
        }
    return result
