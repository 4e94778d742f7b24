"""Simulated shoppers: the events of the demo, of the benchmarks and of the shipped model's training.

A shopper has a lasting taste for buying; each session has an intent around it. Intent moves pages (home -> search ->
product -> checkout), dwell times and whether a look at the checkout ends in a purchase, so one event says little about
it and an hour of them says much. Everything follows from a seed; nothing reads a clock.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

import msgspec
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

PAGES = ("home", "product", "checkout", "search")
HOME, CHECKOUT, SEARCH, LEAVE = 0, 2, 3, 4
LABEL_HORIZON_MS = 30 * 60_000
MEAN_GAP_S = 1_500.0  # between two sessions of a shopper
MEAN_SESSION_EVENTS, MEAN_SESSION_S = 5.0, 150.0  # as measured on these settings; only rates depend on them
LONGEST_SESSION = 40
BATCH_EVENTS = 32_768
TRAINING_START_MS = 1_760_000_000_000
TRAINING_EVENTS_PER_SHOPPER = 50

# Next page (home, product, checkout, search, leave) after home, product, checkout, search.
_IDLE = np.array([
    [0.10, 0.25, 0.01, 0.34, 0.30],
    [0.15, 0.30, 0.05, 0.20, 0.30],
    [0.20, 0.30, 0.10, 0.05, 0.35],
    [0.10, 0.40, 0.01, 0.24, 0.25],
])  # fmt: skip
_KEEN = np.array([
    [0.05, 0.35, 0.04, 0.51, 0.05],
    [0.05, 0.42, 0.25, 0.20, 0.08],
    [0.05, 0.25, 0.45, 0.05, 0.20],
    [0.05, 0.65, 0.05, 0.20, 0.05],
])  # fmt: skip
_LOG_DWELL_S = np.log([8.0, 25.0, 35.0, 12.0])
_LOG_DWELL_SPREAD, _LOG_DWELL_PER_INTENT = 0.8, 0.35
_BUY_OFFSET, _BUY_PER_INTENT = -1.5, 2.5


class ShopperEvent(msgspec.Struct, frozen=True, gc=False):
    """A page was left: the fields and their order are the wire format of `user-events`."""

    event_id: str
    user_id: str
    page_id: str
    dwell_time_sec: float
    timestamp: int


@dataclass(frozen=True)
class _Columns:
    """Events of one stretch of time in order: (n,) each; `bought` says the session ends in a purchase in 30 min."""

    shopper: IntArray
    page: IntArray
    dwell_s: FloatArray
    time_ms: IntArray
    bought: npt.NDArray[np.int8]


def shoppers_for_rate(events_per_s: float) -> int:
    """How many shoppers make about this many events in a second of event time."""
    return max(1, round(events_per_s * (MEAN_GAP_S + MEAN_SESSION_S) / MEAN_SESSION_EVENTS))


def shopper_events(n_users: int, seed: int, start_ms: int) -> Iterator[ShopperEvent]:
    """Events of all shoppers in the order of their time, without end.

    Args:
        n_users: Number of shoppers; `shoppers_for_rate` says how many make real-time traffic of a rate.
        seed: The same seed (and number) gives the same events.
        start_ms: Event time at which the shop opens, ms since 1970.
    """
    users = _user_ids(n_users)
    numbers = count()
    for columns in _batches(n_users, seed, start_ms):
        yield from _events(columns, users, seed, numbers)


def labelled_events(
    n_events: int, seed: int, *, n_users: int | None = None, start_ms: int = TRAINING_START_MS
) -> tuple[list[ShopperEvent], npt.NDArray[np.int8]]:
    """The first events of `shopper_events` with what came of them, for training.

    Args:
        n_events: How many.
        seed: As for `shopper_events`.
        n_users: Number of shoppers; by default so many that each has about 50 events.
        start_ms: As for `shopper_events`.

    Returns:
        The events, and (n_events,) int8: 1 where the event's session ends in a purchase within 30 minutes after it.
    """
    n_users = n_users or max(1, n_events // TRAINING_EVENTS_PER_SHOPPER)
    users = _user_ids(n_users)
    numbers = count()
    events: list[ShopperEvent] = []
    labels: list[npt.NDArray[np.int8]] = []
    for columns in _batches(n_users, seed, start_ms):
        if len(events) >= n_events:
            break
        events.extend(_events(columns, users, seed, numbers))
        labels.append(columns.bought)
    return events[:n_events], np.concatenate(labels or [np.zeros(0, np.int8)])[:n_events]


def as_records(events: Iterable[ShopperEvent]) -> Iterator[tuple[bytes, bytes]]:
    """Kafka key and value of each event."""
    encode = msgspec.json.Encoder().encode
    return ((event.user_id.encode(), encode(event)) for event in events)


def _user_ids(n_users: int) -> list[str]:
    return [f"user-{number:06d}" for number in range(n_users)]


def _events(columns: _Columns, users: list[str], seed: int, numbers: "count[int]") -> Iterator[ShopperEvent]:
    shoppers = [users[i] for i in columns.shopper.tolist()]
    pages = [PAGES[i] for i in columns.page.tolist()]
    ids = [f"{seed}-{number}" for number, _ in zip(numbers, shoppers, strict=False)]
    return map(ShopperEvent, ids, shoppers, pages, columns.dwell_s.tolist(), columns.time_ms.tolist())


def _batches(n_users: int, seed: int, start_ms: int) -> Iterator[_Columns]:
    """Stretches of time, each with the sessions that begin in it and what earlier sessions left over for it."""
    if n_users < 1:
        raise ValueError(f"n_users is {n_users}: there must be at least one shopper")
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=n_users)
    # Without a warm-up all shoppers would come at once: the shop opens into the middle of everybody's gap.
    next_visit_ms = start_ms + (rng.exponential(MEAN_GAP_S, n_users) * 1_000).astype(np.int64)
    events_per_ms = n_users * MEAN_SESSION_EVENTS / (MEAN_GAP_S + MEAN_SESSION_S) / 1_000
    stretch_ms = math.ceil(BATCH_EVENTS / events_per_ms)
    end_ms = start_ms
    pending: list[_Columns] = []
    while True:
        end_ms += stretch_ms
        while len(visitors := np.flatnonzero(next_visit_ms < end_ms)):
            columns, session_end_ms = _sessions(rng, visitors, taste[visitors], next_visit_ms[visitors])
            gap_ms = (rng.exponential(MEAN_GAP_S, len(visitors)) * 1_000).astype(np.int64)
            next_visit_ms[visitors] = session_end_ms + gap_ms
            pending.append(columns)
        together = _joined(pending)
        order = np.lexsort((together.shopper, together.time_ms))
        due = int(np.searchsorted(together.time_ms[order], end_ms))
        yield _taken(together, order[:due])
        pending = [_taken(together, order[due:])]


def _sessions(
    rng: np.random.Generator, shopper: IntArray, taste: FloatArray, start_ms: IntArray
) -> tuple[_Columns, IntArray]:
    """One whole session of each of these shoppers, and when each ended."""
    n = len(shopper)
    intent = taste + 0.6 * rng.normal(size=n)
    keen = 1.0 / (1.0 + np.exp(-intent))[:, None]
    buys = rng.random((LONGEST_SESSION, n)) < 1.0 / (1.0 + np.exp(-_BUY_OFFSET - _BUY_PER_INTENT * intent))
    page = np.where(rng.random(n) < 0.7, HOME, SEARCH)
    time_ms, active, bought_ms = start_ms.copy(), np.arange(n), np.full(n, -1, np.int64)
    steps: list[tuple[IntArray, IntArray, FloatArray, IntArray]] = []
    for step in range(LONGEST_SESSION):
        log_dwell_s = _LOG_DWELL_S[page[active]] + _LOG_DWELL_PER_INTENT * intent[active]
        dwell_s = np.round(np.exp(log_dwell_s + _LOG_DWELL_SPREAD * rng.normal(size=len(active))), 3)
        time_ms[active] += (dwell_s * 1_000).astype(np.int64) + rng.integers(200, 1_000, len(active))
        steps.append((active, page[active], dwell_s, time_ms[active]))
        buying = (page[active] == CHECKOUT) & buys[step, active]
        bought_ms[active[buying]] = time_ms[active[buying]]
        ways = (1.0 - keen[active]) * _IDLE[page[active]] + keen[active] * _KEEN[page[active]]
        following = (rng.random(len(active))[:, None] > np.cumsum(ways, axis=1)[:, :-1]).sum(axis=1)
        page[active] = np.where(following == LEAVE, page[active], following)
        active = active[~buying & (following != LEAVE)]
        if not len(active):
            break
    index, pages, dwell, times = (np.concatenate(column) for column in zip(*steps, strict=True))
    ahead_ms = bought_ms[index] - times
    bought = ((bought_ms[index] >= 0) & (ahead_ms <= LABEL_HORIZON_MS)).astype(np.int8)
    return _Columns(shopper[index], pages, dwell, times, bought), time_ms


def _joined(parts: list[_Columns]) -> _Columns:
    return _Columns(
        np.concatenate([part.shopper for part in parts]),
        np.concatenate([part.page for part in parts]),
        np.concatenate([part.dwell_s for part in parts]),
        np.concatenate([part.time_ms for part in parts]),
        np.concatenate([part.bought for part in parts]),
    )


def _taken(columns: _Columns, index: IntArray) -> _Columns:
    return _Columns(
        columns.shopper[index],
        columns.page[index],
        columns.dwell_s[index],
        columns.time_ms[index],
        columns.bought[index],
    )
