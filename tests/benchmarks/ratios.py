"""The ratios: the shipped pipeline on Millrace beside the same work done in other ways, in one run on one broker.

Speeds are taken between outputs, by the times at which the broker got them, after the first three tenths; so start-up
is out. Beam has no broker: it is timed by the difference of two sizes, in its own process and with a worker a core. No
number is printed before the contestant's scores of the same events agree with Millrace's to 1e-6.
"""

import os
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from tests.benchmarks.beam_run import run_beam
from tests.benchmarks.contest import Contest, Contestant, contest
from tests.benchmarks.outcomes import ContestantError, Outcome, check_agreement
from tests.benchmarks.peers import BEAM, QUIX, Peer, PeerUnavailableError, python_of
from tests.benchmarks.results import PartialError

PACKAGE = "tests.benchmarks"
OURS, AGAIN = "millrace", "millrace_again"
PEERS = {"quix": QUIX, "quix_per_core": QUIX, "beam": BEAM, "beam_workers": BEAM}
IDLE_CORES = 0.2
FULL_ONLY = ("bare_loop_engine", AGAIN)
NAMES = (
    OURS,
    "bare_loop",
    "bare_loop_engine",
    "quix",
    "quix_per_core",
    "beam",
    "beam_workers",
    "per_record_process",
    "per_record_thread",
    AGAIN,
)


@dataclass(frozen=True)
class Sizes:
    """How many events: a slow contestant gets few, a shopper's history is no longer for it than for the others.

    Attributes:
        fast: Of those not named in `slow`. Millrace's run must outlast the JVM's compiler, which takes 20 s of CPU.
        slow: By contestant.
        beam: The two sizes of Beam.
        timeout_s: How long one contestant may take.
    """

    fast: int
    slow: dict[str, int]
    beam: tuple[int, int]
    timeout_s: float


QUICK = Sizes(
    fast=2_000_000,
    slow={
        "bare_loop": 800_000,
        "quix": 150_000,
        "quix_per_core": 200_000,
        "per_record_process": 50_000,
        "per_record_thread": 100_000,
    },
    beam=(200_000, 450_000),
    timeout_s=240.0,
)
FULL = Sizes(
    fast=3_000_000,
    slow={
        "bare_loop": 2_000_000,
        "quix": 500_000,
        "quix_per_core": 700_000,
        "per_record_process": 200_000,
        "per_record_thread": 300_000,
    },
    beam=(250_000, 1_000_000),
    timeout_s=600.0,
)


def contestants(sizes: Sizes, chosen: Collection[str]) -> list[Contestant]:
    """Those chosen, Millrace first: the others are compared with it."""
    cores = str(len(os.sched_getaffinity(0)))
    modules = {
        OURS: ("millrace_job", ()),
        AGAIN: ("millrace_job", ()),
        "bare_loop": ("bare_loop", ()),
        "bare_loop_engine": ("bare_loop", ("engine",)),
        "quix": ("quix_job", ("1",)),
        "quix_per_core": ("quix_job", (cores,)),
        "beam": ("beam_pipeline", ("0",)),
        "beam_workers": ("beam_pipeline", (cores,)),
        "per_record_process": ("per_record_job", ("process",)),
        "per_record_thread": ("per_record_job", ("thread",)),
    }
    made = []
    for name in NAMES:
        if name in chosen or name == OURS:
            module, arguments = modules[name]
            events = sizes.slow.get(name, sizes.fast)
            made.append(Contestant(name, f"{PACKAGE}.{module}", events, arguments, timeout_s=sizes.timeout_s))
    return made


def measure(quick: bool, only: Collection[str] = ()) -> dict[str, float]:
    """Run the contest; prints a row for each contestant.

    Args:
        quick: Fewer events and no repetition of our own run: a few minutes.
        only: Contestants beside Millrace; by default all that are not for the full bench alone.

    Raises:
        PartialError: A contestant failed or disagrees; it has the results of the others.
    """
    sizes = QUICK if quick else FULL
    chosen = only or [name for name in NAMES if not (quick and name in FULL_ONLY)]
    field = ready(contestants(sizes, chosen))
    outcomes: dict[str, Outcome] = {}
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder, contest(Path(folder)) as running:
        print(f"producing {sizes.fast:,} events of 10,000 shoppers …", flush=True)
        running.fill(sizes.fast)
        print(HEADER, flush=True)
        for contestant in field:
            try:
                outcome = _run(running, contestant, sizes, Path(folder))
                if contestant.name != OURS:
                    check_agreement(outcome, outcomes[OURS])
            except ContestantError as error:
                failures.append(f"{contestant.name}: {error}")
                print(failures[-1], flush=True)
                if contestant.name == OURS:
                    break
                continue
            outcomes[contestant.name] = outcome
            print(row(contestant.name, outcome, outcomes[OURS]), flush=True)
            if contestant.name != OURS:
                outcome.scores.clear()
    results = as_results(outcomes)
    busiest = max((outcome.other_cores for outcome in outcomes.values()), default=0.0)
    if busiest > IDLE_CORES:
        print(f"\nothers used up to {busiest:.1f} cores: these are not the ratios of an idle machine", flush=True)
    if failures:
        raise PartialError("; ".join(failure.splitlines()[0] for failure in failures), results)
    return results


def ready(field: list[Contestant]) -> list[Contestant]:
    """With the interpreters of the peers, made before anything is timed; one that cannot be installed is left out."""
    found = []
    for contestant in field:
        peer: Peer | None = PEERS.get(contestant.name)
        try:
            found.append(replace(contestant, python=python_of(peer)) if peer else contestant)
        except PeerUnavailableError as error:
            print(f"{contestant.name}: skipped, it cannot be installed: {error}", flush=True)
    return found


def _run(running: Contest, contestant: Contestant, sizes: Sizes, folder: Path) -> Outcome:
    if PEERS.get(contestant.name) is BEAM:
        (workers,) = contestant.arguments
        return run_beam(contestant.python, workers, sizes.beam, folder / contestant.name, contestant.timeout_s)
    return running.run(contestant)


def as_results(outcomes: dict[str, Outcome]) -> dict[str, float]:
    """Flat: `events_per_s_NAME`, `other_cores_NAME`, `cpu_us_per_event_NAME_KIND`, `ratio_NAME`.

    Our own speed is the mean of both runs where there are two: it tells a machine that became slower meanwhile.
    """
    results: dict[str, float] = {}
    for name, outcome in outcomes.items():
        results[f"events_per_s_{name}"] = round(outcome.events_per_s)
        results[f"other_cores_{name}"] = round(outcome.other_cores, 2)
        results |= {f"cpu_us_per_event_{name}_{kind}": round(us, 2) for kind, us in outcome.cpu_us.items()}
    own = [outcomes[name].events_per_s for name in (OURS, AGAIN) if name in outcomes]
    for name, outcome in outcomes.items():
        if name not in (OURS, AGAIN):
            results[f"ratio_{name}"] = round(sum(own) / len(own) / outcome.events_per_s, 2)
    return results


HEADER = (
    f"\n{'':20}{'events':>10}{'events/s':>10}{'Millrace is':>13}{'others use':>13}   "
    "CPU us an event: JVM, Python, broker"
)


def row(name: str, outcome: Outcome, ours: Outcome) -> str:
    """A contestant's row under `HEADER`."""
    cpu = ", ".join(f"{outcome.cpu_us[kind]:.1f}" for kind in ("jvm", "python", "broker") if kind in outcome.cpu_us)
    speed = outcome.events_per_s
    ratio = ours.events_per_s / speed
    others = f"{outcome.other_cores:.2f} cores"
    return f"{name:20}{outcome.records:>10,}{speed:>10,.0f}{ratio:>12.2f}x{others:>13}   {cpu}"
