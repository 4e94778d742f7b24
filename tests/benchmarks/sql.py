"""SQL beside the bare loop: stateless scoring (the event's fields are the model's features), and with windows.

    bare loop      consume, decode, one ONNX call a batch, encode, produce: no state, one process
    plain SQL      a user's statement: typed JSON columns -> score(...) -> JSON sink
    SQL job        `run --engine sql` of the same: the stream's decoder, dead letters and receipts
    SQL windows    `run --engine sql` of the shipped pipeline

All in one run on one broker, exactly once, with a checkpoint a second; SQL with a subtask a partition, three on however
many cores there are. Scores of the same events agree to 1e-6 before a
number is printed: those with windows with the bare loop that has windows.
"""

import tempfile
from pathlib import Path

from flink_jobs.local.shoppers import labelled_events
from flink_jobs.training import train_pipeline
from tests.benchmarks.contest import Contest, Contestant, contest
from tests.benchmarks.outcomes import ContestantError, Outcome, check_agreement
from tests.benchmarks.ratios import IDLE_CORES
from tests.benchmarks.results import PartialError
from tests.benchmarks.sql_job import pipeline_of

EVENTS, LOOP_EVENTS, SLOW_EVENTS = 4_000_000, 2_000_000, 800_000
QUICK_EVENTS, QUICK_LOOP_EVENTS, QUICK_SLOW_EVENTS = 2_500_000, 600_000, 150_000
"""The statement outlasts the JVM's compiler; the loop has none, and windows are slow."""
TRAINING_EVENTS = 40_000
TIMEOUT_S = 300.0
LEAST_COMMON = 0.1
"""Share of the events of the one with fewer."""
AGAINST = {
    "sql_plain": "bare_loop_stateless",
    "sql_job_stateless": "bare_loop_stateless",
    "sql_job_windows": "bare_loop_windows",
}
"""What each contestant's scores and speed are compared with."""


def contestants(events: int, loop_events: int, slow_events: int, models: Path) -> list[Contestant]:
    """Each loop before what is compared with it."""
    folder = models / "visit" / "1"
    stateless = ("stateless", str(folder / "model.onnx"))
    found = [
        Contestant("bare_loop_stateless", "tests.benchmarks.bare_loop", loop_events, stateless),
        Contestant("sql_plain", "tests.benchmarks.plain_sql", events, (str(folder),)),
        Contestant("sql_job_stateless", "tests.benchmarks.sql_job", loop_events, (str(models),)),
        Contestant("bare_loop_windows", "tests.benchmarks.bare_loop", slow_events),
        Contestant("sql_job_windows", "tests.benchmarks.sql_job", slow_events),
    ]
    return [Contestant(c.name, c.module, c.events, c.arguments, timeout_s=TIMEOUT_S) for c in found]


def measure(quick: bool) -> dict[str, float]:
    """Run them; prints a row for each.

    Raises:
        PartialError: One failed or disagrees; it has the results of the others.
    """
    events, loop_events, slow_events = (
        (QUICK_EVENTS, QUICK_LOOP_EVENTS, QUICK_SLOW_EVENTS) if quick else (EVENTS, LOOP_EVENTS, SLOW_EVENTS)
    )
    outcomes: dict[str, Outcome] = {}
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder, contest(Path(folder)) as running:
        models = Path(folder) / "models"
        train_stateless(models)
        print(f"producing {events:,} events of 10,000 shoppers …", flush=True)
        running.fill(events)
        print(HEADER, flush=True)
        for contestant in contestants(events, loop_events, slow_events, models):
            try:
                outcomes[contestant.name] = _run(running, contestant, outcomes)
            except ContestantError as error:
                failures.append(f"{contestant.name}: {error}")
                print(failures[-1], flush=True)
    busiest = max((outcome.other_cores for outcome in outcomes.values()), default=0.0)
    if busiest > IDLE_CORES:
        print(f"\nothers used up to {busiest:.1f} cores: these are not the ratios of an idle machine", flush=True)
    results = as_results(outcomes)
    if failures:
        raise PartialError("; ".join(failure.splitlines()[0] for failure in failures), results)
    return results


HEADER = f"{'':22}{'events':>10}{'events/s':>10}{'to its loop':>13}{'others use':>13}   CPU us: JVM, Python, broker"


def train_stateless(models: Path) -> None:
    """A model of the event's fields as large as the shipped one, in `<models>/visit/1`."""
    events, labels = labelled_events(TRAINING_EVENTS, seed=1)
    train_pipeline(pipeline_of("visits", "predictions", models), events=events, labels=labels, version=1)


def _run(running: Contest, contestant: Contestant, outcomes: dict[str, Outcome]) -> Outcome:
    outcome = running.run(contestant)
    reference = AGAINST.get(contestant.name)
    if reference is not None:
        if reference not in outcomes:
            raise ContestantError(f"{reference}, with which it is compared, has no result")
        check(outcome, outcomes[reference])
        outcome.scores.clear()
    print(_row(contestant.name, outcome, outcomes.get(reference or "", outcome)), flush=True)
    return outcome


def check(outcome: Outcome, reference: Outcome) -> None:
    """Scores agree where both have one: who is stopped early has read other parts of the partitions than the other.

    Raises:
        ContestantError: They do not, or too few events were scored by both.
    """
    common = outcome.scores.keys() & reference.scores.keys()
    if len(common) < min(len(outcome.scores), len(reference.scores)) * LEAST_COMMON:
        raise ContestantError(f"only {len(common):,} events were scored by both")
    if len(outcome.scores) != outcome.records:
        raise ContestantError(f"it wrote {outcome.records} predictions of {len(outcome.scores)} events")
    same = Outcome(scores={event: outcome.scores[event] for event in common}, records=len(common))
    check_agreement(same, reference)


def _row(name: str, outcome: Outcome, reference: Outcome) -> str:
    cpu = ", ".join(f"{outcome.cpu_us[kind]:.1f}" for kind in ("jvm", "python", "broker") if kind in outcome.cpu_us)
    ratio = outcome.events_per_s / reference.events_per_s
    others = f"{outcome.other_cores:.2f} cores"
    return f"{name:22}{outcome.records:>10,}{outcome.events_per_s:>10,.0f}{ratio:>12.2f}x{others:>13}   {cpu}"


def as_results(outcomes: dict[str, Outcome]) -> dict[str, float]:
    """Flat: `events_per_s_NAME`, `other_cores_NAME`, `cpu_us_per_event_NAME_KIND`, `ratio_NAME` to its loop."""
    results: dict[str, float] = {}
    for name, outcome in outcomes.items():
        results[f"events_per_s_{name}"] = round(outcome.events_per_s)
        results[f"other_cores_{name}"] = round(outcome.other_cores, 2)
        results |= {f"cpu_us_per_event_{name}_{kind}": round(us, 2) for kind, us in outcome.cpu_us.items()}
        reference = outcomes.get(AGAINST.get(name, ""))
        if reference is not None:
            results[f"ratio_{name}"] = round(outcome.events_per_s / reference.events_per_s, 2)
    return results
