"""What `millrace certify` found, as JSON and as a page to read."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SLOWEST_S = 60.0
PASSED, FAILED = "passed", "failed"


@dataclass(frozen=True)
class FaultReport:
    """One fault.

    Attributes:
        kind: Its name.
        at_s: When, from the first event on.
        recovery_s: From then until the answer to an event that came after it was visible; None: never.
        detail: What was done, in words.
    """

    kind: str
    at_s: float
    recovery_s: float | None
    detail: str


@dataclass(frozen=True)
class CertifyReport:
    """What was found.

    Attributes:
        pipeline: Its name.
        records: What was sent, in words.
        rate: Events a second.
        seed: Of the faults.
        elapsed_s: From the first event to the end of the job.
        events: Records in the events topic.
        predictions: Of them.
        dead_letters: Of them.
        lost: Events without an answer, by a reader that came afterwards.
        duplicated: Answers beyond the first of an event, by the same.
        unexpected: Answers that should not be, the first few in words.
        live_lost: As `lost`, by a reader that ran beside all of it.
        live_duplicated: As `duplicated`, by the same.
        order_violations: Predictions of an entity that came before those of its earlier events.
        features_compared: Values compared with the oracle's.
        feature_differences: How many differ.
        first_difference: Where.
        open_transactions: Of the pipeline, at the end.
        blocked_records: Offsets between last stable offset and end, at the end.
        failed_commits: Transactions that Kafka refused to commit and that are not committed.
        refused_again: Commits that Kafka refused because they had happened before: after a recovery the last
            checkpoint's transactions are committed once more, and Flink counts that as failed.
        faults: In order.
        faults_asked: How many there should be.
    """

    pipeline: str
    records: str
    rate: float
    seed: int
    elapsed_s: float
    events: int
    predictions: int
    dead_letters: int
    lost: int
    duplicated: int
    unexpected: list[str]
    live_lost: int
    live_duplicated: int
    order_violations: int
    features_compared: int
    feature_differences: int
    first_difference: str | None
    open_transactions: int
    blocked_records: int
    failed_commits: int
    refused_again: int
    faults: list[FaultReport] = field(default_factory=list)
    faults_asked: int = 0

    @property
    def recovery_p95_s(self) -> float | None:
        """Of all faults; None if one was never recovered from, or there was none."""
        times = [each.recovery_s for each in self.faults]
        known = [each for each in times if each is not None]
        return None if not known or len(known) < len(times) else round(float(np.percentile(known, 95)), 1)

    @property
    def problems(self) -> list[str]:
        """What is wrong, a line each."""
        counts = {
            "events without an answer": self.lost,
            "answers beyond an event's first": self.duplicated,
            "unexpected answers": len(self.unexpected),
            "events without an answer to the reader that ran throughout": self.live_lost,
            "answers beyond an event's first to the reader that ran throughout": self.live_duplicated,
            "predictions out of their entity's order": self.order_violations,
            f"features that differ from the oracle's, first {self.first_difference}": self.feature_differences,
            "open transactions": self.open_transactions,
            "offsets that read_committed readers cannot reach": self.blocked_records,
            "transactions that Kafka refused to commit": self.failed_commits,
            "faults that were not made": self.faults_asked - len(self.faults),
        }
        found = [f"{count:,} {what}" for what, count in counts.items() if count]
        p95 = self.recovery_p95_s
        if self.faults and p95 is None:
            found.append("a fault that the job did not recover from")
        elif p95 is not None and p95 > SLOWEST_S:
            found.append(f"recovery took {p95:g} s (95th percentile), more than {SLOWEST_S:g} s")
        return found

    @property
    def verdict(self) -> str:
        """PASSED or FAILED."""
        return FAILED if self.problems else PASSED

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        found = asdict(self)
        return {**found, "recovery_p95_s": self.recovery_p95_s, "problems": self.problems, "verdict": self.verdict}

    def as_markdown(self) -> str:
        """For people."""
        lines = [
            f"# {self.pipeline}: {self.verdict}",
            "",
            f"{self.events:,} events ({self.records}) at {self.rate:g}/s in {self.elapsed_s:,.0f} s, "
            f"{len(self.faults)} faults in an order of seed {self.seed}.",
            "",
            *(f"- **{each}**" for each in self.problems),
            *([""] if self.problems else []),
            "| checked | found |",
            "|---|---|",
            f"| events with exactly one answer | {self.events - self.lost:,} of {self.events:,} |",
            f"| lost, duplicated | {self.lost}, {self.duplicated} |",
            f"| the same by a reader that ran throughout | {self.live_lost}, {self.live_duplicated} |",
            f"| predictions out of their entity's order | {self.order_violations} |",
            f"| features that differ from the oracle's | {self.feature_differences} of {self.features_compared:,} |",
            f"| open transactions, unreachable offsets at the end | {self.open_transactions}, {self.blocked_records} |",
            f"| failed commits (refused, but committed before) | {self.failed_commits} ({self.refused_again}) |",
            f"| recovery, 95th percentile | {self.recovery_p95_s} s |",
            "",
            "| at | fault | what was done | answers again after |",
            "|---|---|---|---|",
        ]
        for each in self.faults:
            recovery = "never" if each.recovery_s is None else f"{each.recovery_s:.1f} s"
            lines.append(f"| {each.at_s:.0f} s | {each.kind} | {each.detail} | {recovery} |")
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write `certificate.json` and `certificate.md`; their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        written = folder / "certificate.json", folder / "certificate.md"
        written[0].write_text(json.dumps(self.as_json(), indent=1) + "\n", "utf-8")
        written[1].write_text(self.as_markdown(), "utf-8")
        return written
