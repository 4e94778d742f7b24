"""What a hop costs: the shipped pipeline with its events from a source, beside itself reading the same events directly.

Speed is taken as the ratios take it; before it is printed, every prediction of the hop is computed again, features and
score, in the order of the events topic. Latency is exactly-once at a steady rate: an event waits for two checkpoints,
one until it is in the pipeline's own topic and one until its prediction is visible.
"""

import tempfile
from pathlib import Path

from flink_jobs.settings import load_settings
from flink_jobs.verify_job import VerifyRequest, verify
from tests.benchmarks.contest import EVENTS_TOPIC, Contestant, contest, output_of
from tests.benchmarks.hop_job import hop_pipeline
from tests.benchmarks.latency import FULL, QUICK, Variant, measure_variants
from tests.benchmarks.outcomes import LARGEST_DIFFERENCE, ContestantError, Outcome

EVENTS, QUICK_EVENTS = 2_000_000, 1_000_000
CONTESTANTS = {"direct": "millrace_job", "hop": "hop_job"}


def measure(quick: bool) -> dict[str, float]:
    """Both speeds and their ratio, then both latencies; prints them."""
    events, result = QUICK_EVENTS if quick else EVENTS, dict[str, float]()
    with tempfile.TemporaryDirectory(prefix="millrace-hop-") as folder, contest(Path(folder)) as field:
        field.fill(events)
        found = {
            name: field.run(Contestant(name, f"tests.benchmarks.{module}", events))
            for name, module in CONTESTANTS.items()
        }
        _check_each_once(found["hop"], found["direct"])
        _check_order_of_topic(field.bootstrap, Path(folder), events)
    for name, outcome in found.items():
        result[f"hop_{name}_events_per_s"] = round(outcome.events_per_s)
        spent = ", ".join(f"{kind} {us:.1f}" for kind, us in outcome.cpu_us.items() if not kind.startswith("jvm_"))
        print(f"{name:8}{outcome.events_per_s:>12,.0f} events/s   CPU us an event: {spent}", flush=True)
    result["hop_ratio"] = round(found["hop"].events_per_s / found["direct"].events_per_s, 3)
    scores, direct = found["hop"].scores, found["direct"].scores
    moved = sum(abs(score - direct[event]) > LARGEST_DIFFERENCE for event, score in scores.items())
    result["hop_other_scores_share"] = moved / events
    print(f"with the hop: {result['hop_ratio']:.2f}x; {moved:,} of {events:,} scores are others", flush=True)
    variants = [Variant(job, "exactly-once") for job in ("millrace", "hop")]
    return result | measure_variants(variants, QUICK if quick else FULL)


def _check_each_once(hop: Outcome, direct: Outcome) -> None:
    if hop.records != len(hop.scores) or hop.scores.keys() != direct.scores.keys():
        raise ContestantError(f"{hop.records} predictions of {len(hop.scores)} events, not one of each")


def _check_order_of_topic(bootstrap: str, folder: Path, events: int) -> None:
    settings = load_settings(bootstrap=bootstrap, home=folder / "verify")
    pipeline = hop_pipeline(EVENTS_TOPIC, output_of("hop"))
    found = verify(VerifyRequest(pipeline, settings)).findings
    if not found.holds or found.equal != events:
        first = found.first[0] if found.first else found.unverifiable
        raise ContestantError(f"{found.equal} of {events} answers are as computed again, {dict(found.counts)}: {first}")
