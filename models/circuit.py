"""A circuit: who is over its time again and again is not asked for a while, then tried out with one call."""

from collections.abc import Callable
from enum import IntEnum

OPENS_AFTER = 3
"""Calls over their time, one behind the other, that open it."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""How long it stays open before the first probe; twice as long after each that is over its time again, up to this."""


class CircuitState(IntEnum):
    """The higher, the worse; numbers, for they are a gauge."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Circuit:
    """Says whether to ask.

    Args:
        clock_s: Seconds that never go back.

    Attributes:
        state: CLOSED asks, OPEN does not, HALF_OPEN waits for what the one call shows that it let through.
    """

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s, self._late, self._wait_s = clock_s, 0, FIRST_WAIT_S
        self._probe_at_s = 0.0
        self.state = CircuitState.CLOSED

    def lets_through(self) -> bool:
        """Whether to ask now; if so, `tell` must say how it went."""
        if self.state is CircuitState.OPEN and self._clock_s() >= self._probe_at_s:
            self.state = CircuitState.HALF_OPEN
        return self.state is not CircuitState.OPEN

    def tell(self, *, in_time: bool) -> None:
        """How a call went that was let through."""
        if in_time:
            self.state, self._late, self._wait_s = CircuitState.CLOSED, 0, FIRST_WAIT_S
            return
        self._late += 1
        if self.state is CircuitState.HALF_OPEN:
            self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
        elif self._late < OPENS_AFTER:
            return
        self.state, self._probe_at_s = CircuitState.OPEN, self._clock_s() + self._wait_s
