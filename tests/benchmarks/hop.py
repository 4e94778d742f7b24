"""What a hop costs: the shipped pipeline with its events from a source, beside itself reading the same events directly.

Speed is taken as the ratios take it. Latency is exactly-once at a steady rate: an event waits for two checkpoints, one
until it is in the pipeline's own topic and one until its prediction is visible.
"""

import tempfile
from pathlib import Path

from tests.benchmarks.contest import Contestant, contest
from tests.benchmarks.latency import FULL, QUICK, Variant, measure_variants
from tests.benchmarks.outcomes import check_agreement

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
        check_agreement(found["hop"], found["direct"])
    for name, outcome in found.items():
        result[f"hop_{name}_events_per_s"] = round(outcome.events_per_s)
        spent = ", ".join(f"{kind} {us:.1f}" for kind, us in outcome.cpu_us.items() if not kind.startswith("jvm_"))
        print(f"{name:8}{outcome.events_per_s:>12,.0f} events/s   CPU us an event: {spent}", flush=True)
    result["hop_ratio"] = round(found["hop"].events_per_s / found["direct"].events_per_s, 3)
    print(f"with the hop: {result['hop_ratio']:.2f}x", flush=True)
    variants = [Variant(job, "exactly-once") for job in ("millrace", "hop")]
    return result | measure_variants(variants, QUICK if quick else FULL)
