"""`make bench`: every measure, one after the other; `make bench-quick`: the ratios, in a few minutes.

    python -m tests.benchmarks [--quick] [--profile] [--only NAME …]

A NAME is a measure, or a contestant of the ratios. Every measure writes its figures into `build/bench.json` when it is
done, beside what the others found; the table of them comes last.
"""

import argparse
import functools
import importlib
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from flink_jobs.environment import PROJECT_ROOT
from tests.benchmarks import results
from tests.benchmarks.plot import RESULT

Measure = Callable[[bool], Mapping[str, float]]


def of_module(name: str) -> Measure:
    """`measure` of a module, which is imported only when it is its turn."""

    def measure(quick: bool) -> Mapping[str, float]:
        found: Mapping[str, float] = importlib.import_module(f"tests.benchmarks.{name}").measure(quick)
        return found

    return measure


def ratios_of(contestants: Sequence[str], quick: bool) -> Mapping[str, float]:
    """The ratios of some contestants alone."""
    from tests.benchmarks.ratios import measure

    return measure(quick, contestants)


def stages(_quick: bool) -> Mapping[str, float]:
    from tests.benchmarks.stages import profile_stages

    return profile_stages()


MEASURES: dict[str, Measure] = {
    "ratios": of_module("ratios"),
    "stages": stages,
    "formats": of_module("formats"),
    "sql": of_module("sql"),
    "engine": of_module("engine"),
    "cascade": of_module("cascade"),
    "scaling": of_module("scaling"),
    "latency": of_module("latency"),
    "freshness": of_module("freshness"),
    "hop": of_module("hop"),
    "model_change": of_module("model_change"),
    "asking": of_module("asking"),
    "startup": of_module("startup"),
    "backfill": of_module("backfill"),
    "soak": of_module("soak"),
}
QUICK = {"ratios"}
PROFILE = {"ratios", "stages"}
CONTESTANTS = (
    "millrace",
    "bare_loop",
    "bare_loop_engine",
    "quix",
    "quix_per_core",
    "beam",
    "beam_workers",
    "per_record_process",
    "per_record_thread",
)


def chosen(only: Sequence[str], *, quick: bool, profile: bool) -> tuple[list[str], list[str]]:
    """Names of the measures in their order, and of the contestants if not all.

    Raises:
        SystemExit: A name is unknown.
    """
    unknown = [name for name in only if name not in MEASURES and name not in CONTESTANTS]
    if unknown:
        known = ", ".join((*MEASURES, *CONTESTANTS))
        raise SystemExit(f"no measure or contestant is called {', '.join(unknown)}; there are {known}")
    contestants = [name for name in CONTESTANTS if name in only]
    wanted = set(only) & MEASURES.keys()
    if contestants:
        wanted.add("ratios")
    if not only:
        wanted = QUICK if quick else set(MEASURES)
    if profile:
        wanted = wanted | PROFILE
    return [name for name in MEASURES if name in wanted], contestants


def run(measures: Mapping[str, Measure], figures: results.Figures, *, quick: bool) -> list[str]:
    """Add what each measure finds to the figures, and write them; returns a line for each that failed."""
    failures = []
    for name, measure in measures.items():
        started = time.monotonic()
        print(f"\n== {name} ==", flush=True)
        found: Mapping[str, float] = {}
        try:
            found = measure(quick)
        except results.PartialError as error:
            found = error.results
            failures.append(f"{name}: {error}")
        except (Exception, SystemExit) as error:
            failures.append(f"{name}: {type(error).__name__}: {error}")
        if found:
            figures.update(found)
            results.write_figures(RESULT, figures)
        print(f"{name} took {time.monotonic() - started:.0f} s", flush=True)
    return failures


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--quick", action="store_true", help="the ratios only, with fewer events: a few minutes")
    parser.add_argument("--profile", action="store_true", help="say what share of the CPU time each hop takes, too")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="measures, or contestants of the ratios")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupt)  # so that every process we started is ended, too
    names, contestants = chosen(arguments.only, quick=arguments.quick, profile=arguments.profile)
    measures = {name: MEASURES[name] for name in names}
    if contestants:
        measures["ratios"] = functools.partial(ratios_of, contestants)
    whole = not arguments.only and not arguments.quick
    figures = results.figures_of(results.machine(), {} if whole else results.read_figures(RESULT))
    try:
        failures = run(measures, figures, quick=arguments.quick)
    except KeyboardInterrupt:
        sys.exit("interrupted")
    print(f"\n{results.table(figures)}")
    if arguments.profile:
        print(f"\n{results.shares(figures)}")
    print(f"\nwritten: {RESULT.relative_to(PROJECT_ROOT)}")
    if failures:
        sys.exit("\n".join(["", *failures]))


if __name__ == "__main__":
    main()
