"""One broker, one topic of events, and contestants that score it one after the other, each in a process of its own."""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flink_jobs.events_producer import produce_events
from flink_jobs.kafka_admin import TopicSpec, create_topics, topic_ends
from flink_jobs.local.broker import Broker
from flink_jobs.local.shoppers import as_records, shopper_events
from tests.benchmarks.child_process import child, end_of
from tests.benchmarks.cpu_time import cpu_s
from tests.benchmarks.outcomes import (
    WARM_UP_SHARE,
    ContestantError,
    Outcome,
    Scored,
    decode_scored,
    read_outcome,
)

EVENTS_TOPIC = "bench-events"
PARTITIONS = 3
SHOPPERS = 10_000
SEED = 1
START_MS = 1_760_000_000_000
POLL_S = 0.5
TIMEOUT_S = 600.0
LOG = "output.txt"
MARKERS_MARGIN = 1.02
SETTLE_S, SETTLE_AT_MOST_S = 3.0, 15.0
CORES_MARGIN = 1.5


@dataclass(frozen=True)
class Contestant:
    """A module that scores the events.

    Attributes:
        name: How it is called in the table and, with `_` for what is no letter, in its topic.
        module: Its `main` is run as a process.
        events: How many of the events it must score; it is stopped then.
        arguments: Further ones.
        python: The interpreter that runs it.
        timeout_s: How long it may take.
        topic: Where its events are.
        decode: Reads a prediction.
    """

    name: str
    module: str
    events: int
    arguments: tuple[str, ...] = ()
    python: Path = Path(sys.executable)
    timeout_s: float = TIMEOUT_S
    topic: str = EVENTS_TOPIC
    decode: Callable[[bytes], Scored] = decode_scored


def output_of(name: str) -> str:
    """The topic of a contestant's predictions."""
    return f"bench-{name}"


class Contest:
    """A running broker with the events in it."""

    def __init__(self, broker: Broker, home: Path) -> None:
        self.bootstrap, self._broker, self._home = broker.bootstrap, broker, home
        self._events = 0

    def fill(
        self, events: int, topic: str = EVENTS_TOPIC, write: Callable[[bytes], bytes] = lambda value: value
    ) -> None:
        """Put the events of simulated shoppers into a topic, each as what is made of its JSON."""
        create_topics(self.bootstrap, [TopicSpec(topic, PARTITIONS)])
        records = itertools.islice(as_records(shopper_events(SHOPPERS, SEED, START_MS)), events)
        produce_events(self.bootstrap, topic, ((key, write(value)) for key, value in records))
        self._events = events

    def run(self, contestant: Contestant) -> Outcome:
        """Let it score the events, stop it, and read what it committed."""
        output = output_of(contestant.name)
        by_broker = {"message.timestamp.type": "LogAppendTime"}
        create_topics(self.bootstrap, [TopicSpec(output, PARTITIONS, settings=by_broker)])
        create_topics(self.bootstrap, [TopicSpec("purchase-dead-letters", PARTITIONS)])
        home = self._home / contestant.name
        home.mkdir(parents=True)
        with child(self._command(contestant, output), home / LOG) as process:
            first_s, cpu_us = self._watch(process, contestant, output)
        # when it is over: reading takes a core
        outcome = read_outcome(self.bootstrap, output, contestant.events, contestant.decode)
        outcome.other_cores = outcome.events_per_s * cpu_us.pop("others", 0.0) / 1e6
        outcome.first_prediction_s, outcome.cpu_us = first_s, cpu_us
        used = outcome.events_per_s * (cpu_us.get("jvm", 0.0) + cpu_us.get("python", 0.0)) / 1e6
        if used > CORES_MARGIN * len(os.sched_getaffinity(0)):
            raise ContestantError(
                f"{outcome.events_per_s:,.0f} events/s would take {used:.1f} cores: its outputs come in bursts, so "
                "their times do not tell its speed; give it more events or smaller bundles"
            )
        return outcome

    def _command(self, contestant: Contestant, output: str) -> list[str]:
        arguments = [self.bootstrap, str(self._home / contestant.name), contestant.topic, output, *contestant.arguments]
        # imported, not run as `__main__`: functions of `__main__` travel to the workers by value
        return [str(contestant.python), "-c", f"from {contestant.module} import main; main()", *arguments]

    def _watch(
        self, process: "subprocess.Popen[bytes]", contestant: Contestant, output: str
    ) -> tuple[float, dict[str, float]]:
        """Wait until its output is there: seconds to the first prediction, CPU per event after the warm-up."""
        started = time.monotonic()
        everything = contestant.events >= self._events
        enough = contestant.events if everything else contestant.events * MARKERS_MARGIN
        first_s = 0.0
        warm: tuple[int, dict[str, float]] | None = None
        while True:
            # offsets count transaction markers too, a few a second
            done = sum(topic_ends(self.bootstrap, output, isolation="read_committed").values())
            now_s = time.monotonic() - started
            if done and not first_s:
                first_s = now_s
            if warm is None and done >= contestant.events * WARM_UP_SHARE:
                warm = done, cpu_s(process.pid, self._broker.state.pid)
            if done >= enough:
                break
            if process.poll() is not None or now_s > contestant.timeout_s:
                how = f"is not ready after {now_s:.0f} s" if process.poll() is None else "ended"
                log = end_of(self._home / contestant.name / LOG)
                raise ContestantError(f"it {how}, after about {done:,} of {contestant.events:,} predictions:\n{log}")
            time.sleep(POLL_S)
        spent = cpu_s(process.pid, self._broker.state.pid)
        if everything:  # whoever has more to score goes on with it until it is stopped
            self._let_settle(output)
        if warm is None or done == warm[0]:
            return first_s, {}
        return first_s, {kind: (spent[kind] - warm[1].get(kind, 0)) / (done - warm[0]) * 1e6 for kind in spent}

    def _let_settle(self, output: str) -> None:
        """Wait for the last transactions: until nothing more comes, for some time at most."""
        unchanged_s, last = 0.0, -1
        deadline = time.monotonic() + SETTLE_AT_MOST_S
        while unchanged_s < SETTLE_S and time.monotonic() < deadline:
            time.sleep(POLL_S)
            ends = sum(topic_ends(self.bootstrap, output, isolation="read_committed").values())
            unchanged_s = unchanged_s + POLL_S if ends == last else 0.0
            last = ends


@contextmanager
def contest(home: Path) -> Iterator[Contest]:
    """A contest on a broker of its own."""
    broker = Broker.start(home / "broker", die_with_parent=True)
    try:
        yield Contest(broker, home)
    finally:
        broker.stop()
