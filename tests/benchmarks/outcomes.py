"""What a contestant wrote: how fast, and whether it is the same as what the others wrote."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from flink_jobs.committed_reader import CommittedReader

WARM_UP_SHARE = 0.3
LARGEST_DIFFERENCE = 1e-6
READ_TIMEOUT_S = 20.0


class ContestantError(RuntimeError):
    """A contestant did not do the work, or other work than the others; no number of it is worth printing."""


class Scored(msgspec.Struct, gc=False):
    event_id: str
    purchase_probability: float


decode_scored = msgspec.json.Decoder(Scored).decode


@dataclass
class Outcome:
    """The committed predictions of one contestant.

    Attributes:
        scores: By event id.
        records: How many there are, repetitions included.
        events_per_s: Start-up excluded.
        first_prediction_s: From the start of its process until the first one was visible.
        cpu_us: CPU time per event by kind of process, start-up excluded.
        other_cores: Cores that others used meanwhile: above some tenths the machine was not the contestant's own.
    """

    scores: dict[str, float] = field(default_factory=dict)
    records: int = 0
    events_per_s: float = 0.0
    first_prediction_s: float = 0.0
    cpu_us: dict[str, float] = field(default_factory=dict)
    other_cores: float = 0.0

    def add(self, scored: Scored) -> None:
        """One more prediction."""
        self.scores[scored.event_id] = scored.purchase_probability
        self.records += 1


def speed_between_outputs(appended_ms: Sequence[int]) -> float:
    """Predictions a second after the first three tenths, by the times at which the broker got them.

    That leaves out the start of the process and of the JVM's compiler, for every contestant alike.
    """
    times = np.sort(np.array(appended_ms))
    first = int(len(times) * WARM_UP_SHARE)
    span_ms = times[-1] - times[first] if len(times) else 0
    if not span_ms:
        raise ContestantError(f"{len(times)} predictions came at once: too few to tell a speed")
    return float((len(times) - first) / (span_ms / 1_000))


def speed_by_difference(small: int, small_s: float, large: int, large_s: float) -> float:
    """Events a second that a larger run does beyond a smaller one; what both do once is out."""
    if large <= small or large_s <= small_s:
        raise ContestantError(f"{small:,} events took {small_s:.2f} s and {large:,} took {large_s:.2f} s: no speed")
    return (large - small) / (large_s - small_s)


def read_outcome(bootstrap: str, topic: str, least: int, decode: Callable[[bytes], Scored] = decode_scored) -> Outcome:
    """Read all committed predictions of a topic, of every partition up to its end; `least` must be there."""
    outcome = Outcome()
    appended_ms: list[int] = []
    reader = CommittedReader(bootstrap, [topic])
    try:
        silent_since = time.monotonic()
        while not (outcome.records >= least and reader.at_end):
            messages = reader.read(0.2)
            if messages:
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > READ_TIMEOUT_S:
                raise ContestantError(f"only {outcome.records:,} of {least:,} predictions came")
            for message in messages:
                outcome.add(decode(message.value()))
                appended_ms.append(message.timestamp()[1])
    finally:
        reader.close()
    outcome.events_per_s = speed_between_outputs(appended_ms)
    return outcome


def check_agreement(outcome: Outcome, reference: Outcome) -> float:
    """The largest difference to the reference's scores of the same events.

    Raises:
        ContestantError: An event is there twice or unknown, there is none, or a score differs.
    """
    if not outcome.scores:
        raise ContestantError("it wrote no prediction")
    if len(outcome.scores) != outcome.records:
        raise ContestantError(f"it wrote {outcome.records} predictions of {len(outcome.scores)} events")
    unknown = [event for event in outcome.scores if event not in reference.scores]
    if unknown:
        raise ContestantError(f"it scored {len(unknown)} events that the reference did not, e.g. {unknown[0]}")
    differences = {event: abs(score - reference.scores[event]) for event, score in outcome.scores.items()}
    # a NaN is no agreement: it is neither above nor below the limit
    wrong = [event for event, difference in differences.items() if not difference <= LARGEST_DIFFERENCE]
    if wrong:
        raise ContestantError(
            f"it disagrees on {len(wrong)} of {len(differences)} events; e.g. on {wrong[0]}: "
            f"{outcome.scores[wrong[0]]} instead of {reference.scores[wrong[0]]}"
        )
    return max(differences.values())
