"""The moments of an event's way, from the notes of those who saw it pass: the producer, the broker, the reader."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tests.benchmarks.outcomes import ContestantError

Times = npt.NDArray[np.float64]


def moments_of(
    sent: Mapping[str, npt.NDArray[np.int64]],
    seen: Mapping[str, npt.NDArray[np.int64]],
    appended_ms: Mapping[int, int],
    span_ns: tuple[int, int],
    *,
    once: bool,
) -> tuple[Times, Times]:
    """The moments of each event that was sent within the span, and how late its producer was.

    Args:
        sent: `number`, `sent_ns` and `due_ns` of each event.
        seen: `number`, `scored_ms`, `appended_ms` and `visible_ns` of each prediction in the order of reading.
        appended_ms: When the broker got an event, by its number.
        span_ns: Begin and end.
        once: Whether a second prediction of an event is an error; otherwise the first one counts.

    Returns:
        (5, n) ms since 1970: sent, in the events topic, scored, in the output topic, visible; and (n,) ms of lag.

    Raises:
        ContestantError: An event of the span has no prediction, or two.
    """
    chosen = np.flatnonzero((sent["sent_ns"] >= span_ns[0]) & (sent["sent_ns"] < span_ns[1]))
    wanted = sent["number"][chosen]
    number, first = np.unique(seen["number"], return_index=True)
    if once and len(number) != len(seen["number"]):
        raise ContestantError(f"{len(seen['number']) - len(number)} predictions came twice")
    missing = np.setdiff1d(wanted, number)
    if len(missing) or not len(wanted):
        raise ContestantError(f"{len(missing)} of {len(wanted)} events have no prediction")
    row = first[np.searchsorted(number, wanted)]
    moments = np.stack([
        sent["sent_ns"][chosen] / 1e6,
        [appended_ms[event] for event in wanted.tolist()],
        seen["scored_ms"][row],
        seen["appended_ms"][row],
        seen["visible_ns"][row] / 1e6,
    ])  # fmt: skip
    return moments, (sent["sent_ns"] - sent["due_ns"])[chosen] / 1e6
