"""`make bench`: the shipped pipeline on Millrace, beside the same work done in other ways, in one run on one broker.

    python -m tests.benchmarks [--quick] [--profile]

Speeds are taken between outputs, by the times at which the broker got them, after the first tenth; so start-up is out.
Nothing is printed before the contestants' scores of the same events agree to 1e-6.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

from flink_jobs.environment import PROJECT_ROOT
from tests.benchmarks.contest import Contestant, contest
from tests.benchmarks.outcomes import Outcome, check_agreement
from tests.benchmarks.stages import profile_stages

RESULT = PROJECT_ROOT / "build" / "bench.json"
PACKAGE = "tests.benchmarks"


def contestants(events: int, slow_events: int) -> list[Contestant]:
    return [
        Contestant("millrace", f"{PACKAGE}.millrace_job", events),
        Contestant("per_record", f"{PACKAGE}.per_record_job", slow_events),
        Contestant("bare_loop", f"{PACKAGE}.bare_loop", events),
        Contestant("bare_loop_engine", f"{PACKAGE}.bare_loop", events, ("engine",)),
    ]


def measure(events: int, slow_events: int, only: set[str]) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder, contest(Path(folder)) as running:
        print(f"producing {events:,} events of 10,000 shoppers …", flush=True)
        running.fill(events)
        for contestant in contestants(events, slow_events):
            if only and contestant.name not in only:
                continue
            print(f"{contestant.name}: scoring {contestant.events:,} events …", flush=True)
            outcomes[contestant.name] = running.run(contestant)
            if len(outcomes) > 1:
                check_agreement(contestant.name, outcomes[contestant.name], outcomes["millrace"])
            print_row(contestant.name, outcomes)
    return outcomes


def as_result(outcomes: dict[str, Outcome], events: int) -> dict[str, float]:
    result: dict[str, float] = {"cores": len(os.sched_getaffinity(0)), "events": events}
    for name, outcome in outcomes.items():
        result[f"events_per_s_{name}"] = round(outcome.events_per_s)
        result |= {f"cpu_us_per_event_{name}_{kind}": round(us, 2) for kind, us in outcome.cpu_us.items()}
    ours = outcomes["millrace"]
    result["first_prediction_s"] = round(ours.first_prediction_s, 1)
    for name, ratio in (
        ("per_record", "ratio_per_record_process"),
        ("bare_loop", "ratio_bare_loop"),
        ("bare_loop_engine", "ratio_bare_loop_engine"),
    ):
        if name in outcomes:
            result[ratio] = round(ours.events_per_s / outcomes[name].events_per_s, 2)
    return result


def print_row(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome, ours = outcomes[name], outcomes["millrace"].events_per_s
    cpu = ", ".join(f"{outcome.cpu_us.get(kind, 0):.1f}" for kind in ("jvm", "python", "broker"))
    speed = outcome.events_per_s
    print(f"{name:18}{outcome.records:>10,}{speed:>11,.0f}{ours / speed:>12.2f}x   {cpu}", flush=True)


def print_table(outcomes: dict[str, Outcome]) -> None:
    print(f"\n{'':18}{'events':>10}{'events/s':>11}{'Millrace is':>13}   CPU us an event: JVM, Python, broker")
    for name in outcomes:
        print_row(name, outcomes)
    print(f"first prediction visible {outcomes['millrace'].first_prediction_s:.1f} s after the start of the process")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--quick", action="store_true", help="fewer events: a few minutes")
    parser.add_argument("--profile", action="store_true", help="time the steps of the Python side without Flink, too")
    parser.add_argument("--events", type=int, help="how many, instead of 1,000,000 (quick) or 3,000,000")
    parser.add_argument("--slow-events", type=int, help="how many for the per-record job")
    parser.add_argument("--only", nargs="*", default=[], help="contestants beside millrace")
    arguments = parser.parse_args()
    events, slow_events = (1_000_000, 60_000) if arguments.quick else (3_000_000, 200_000)
    events, slow_events = arguments.events or events, arguments.slow_events or slow_events
    result: dict[str, float] = {}
    if arguments.profile:
        result |= profile_stages()
    named = arguments.only or (["per_record", "bare_loop"] if arguments.quick else [])
    outcomes = measure(events, slow_events, {"millrace", *named} if named else set())
    result |= as_result(outcomes, events)
    print_table(outcomes)
    if arguments.profile:
        hops = ", ".join(f"{kind} {us:.1f}" for kind, us in outcomes["millrace"].cpu_us.items())
        print(f"CPU us an event of millrace: {hops}")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(f"written: {RESULT.relative_to(PROJECT_ROOT)}")


if __name__ == "__main__":
    main()
