"""What a contestant wrote: how fast, and whether it is the same as what the others wrote."""

import time
from dataclasses import dataclass, field

import msgspec
import numpy as np

from flink_jobs.committed_reader import CommittedReader

WARM_UP_SHARE = 0.1
LARGEST_DIFFERENCE = 1e-6
READ_TIMEOUT_S = 20.0


class Scored(msgspec.Struct, gc=False):
    event_id: str
    purchase_probability: float


@dataclass
class Outcome:
    """The committed predictions of one contestant.

    Attributes:
        scores: By event id.
        appended_ms: When the broker got each, in order of reading.
        records: How many there are, repetitions included.
        first_prediction_s: From the start of its process until the first one was visible.
        cpu_us: CPU time per event by kind of process, start-up excluded.
    """

    scores: dict[str, float] = field(default_factory=dict)
    appended_ms: list[int] = field(default_factory=list)
    records: int = 0
    first_prediction_s: float = 0.0
    cpu_us: dict[str, float] = field(default_factory=dict)

    @property
    def events_per_s(self) -> float:
        """Predictions after the first tenth, by the time the broker (`LogAppendTime`) took to get them.

        That leaves out the start of the process and of the JVM's compiler, for every contestant alike.
        """
        times = np.sort(np.array(self.appended_ms))
        first = int(len(times) * WARM_UP_SHARE)
        return (len(times) - first) / ((times[-1] - times[first]) / 1_000)


def read_outcome(bootstrap: str, topic: str, least: int) -> Outcome:
    """Read all committed predictions of a topic, of every partition up to its end; `least` must be there."""
    decode = msgspec.json.Decoder(Scored).decode
    outcome = Outcome()
    reader = CommittedReader(bootstrap, [topic])
    try:
        silent_since = time.monotonic()
        while not (outcome.records >= least and reader.at_end):
            messages = reader.read(0.2)
            if messages:
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > READ_TIMEOUT_S:
                raise SystemExit(f"{topic}: only {outcome.records} of {least} predictions came")
            for message in messages:
                scored = decode(message.value())
                outcome.scores[scored.event_id] = scored.purchase_probability
                outcome.appended_ms.append(message.timestamp()[1])
            outcome.records += len(messages)
    finally:
        reader.close()
    return outcome


def check_agreement(name: str, outcome: Outcome, reference: Outcome) -> float:
    """The largest difference to the reference's scores of the same events.

    Raises:
        SystemExit: An event is there twice or unknown, or a score differs: no speed is worth printing then.
    """
    if len(outcome.scores) != outcome.records:
        raise SystemExit(f"{name} wrote {outcome.records} predictions of {len(outcome.scores)} events")
    unknown = [event for event in outcome.scores if event not in reference.scores]
    if unknown:
        raise SystemExit(f"{name} scored {len(unknown)} events that the reference did not, e.g. {unknown[0]}")
    differences = {event: abs(score - reference.scores[event]) for event, score in outcome.scores.items()}
    worst = max(differences, key=lambda event: differences[event])
    if differences[worst] > LARGEST_DIFFERENCE:
        wrong = sum(difference > LARGEST_DIFFERENCE for difference in differences.values())
        raise SystemExit(
            f"{name} disagrees on {wrong} of {len(differences)} events; most on {worst}: "
            f"{outcome.scores[worst]} instead of {reference.scores[worst]}"
        )
    return differences[worst]
