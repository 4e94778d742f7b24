"""Features of an entity's sessions: stretches of its events without a pause longer than a gap.

For event e with time t they are made of the events that arrived up to and including e with a time in (t - window, t],
in order of time; two neighbours with at most `gap` between them are in one session, and e's session is the last one if
t is at most `gap` behind its last event. So a late event has the session that there was at its own time, and one that
closes a pause joins two sessions for all that come after it; what was emitted stays. A session is seen as far as the
window reaches.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import override

from udfs.durations import duration_text, parse_duration
from udfs.errors import DefinitionError
from udfs.features import Aggregate


@dataclass(frozen=True, kw_only=True)
class SessionAggregate(Aggregate):
    """Base of the features of sessions.

    Attributes:
        gap: The longest pause within a session, like "30m".
    """

    gap: str = "30m"

    def __post_init__(self) -> None:
        label = type(self).__name__
        gap_ms = parse_duration(self.gap, f"{label}: gap")
        if self.tile is not None:
            raise DefinitionError(f"{label}: tile is not supported; tiles do not keep where sessions begin")
        if gap_ms >= self.window_ms:
            raise DefinitionError(f"{label}: gap {self.gap} is not shorter than window {self.window}")
        super().__post_init__()

    @property
    def gap_ms(self) -> int:
        """The gap in ms."""
        return parse_duration(self.gap, "gap")

    @override
    def _label(self) -> str:
        return f"{super()._label()}_gap_{duration_text(self.gap_ms)}"

    @override
    def _parameters(self) -> dict[str, Any]:
        return {"gap_ms": self.gap_ms}


@dataclass(frozen=True, kw_only=True)
class SessionPosition(SessionAggregate):
    """How many events the session has so far: 1 for its first one. 0 where there is no session."""

    suffix: ClassVar[str] = "session_position"
    words: ClassVar[str] = "events of the session so far"


@dataclass(frozen=True, kw_only=True)
class SessionDuration(SessionAggregate):
    """Seconds since the session began; NaN where there is no session."""

    suffix: ClassVar[str] = "session_duration"
    words: ClassVar[str] = "seconds since the session began"


@dataclass(frozen=True, kw_only=True)
class SessionPause(SessionAggregate):
    """Seconds between the session before and this one; NaN where there is none of both."""

    suffix: ClassVar[str] = "session_pause"
    words: ClassVar[str] = "seconds between the session before and this one"


@dataclass(frozen=True, kw_only=True)
class SessionCount(SessionAggregate):
    """How many sessions, this one included. Never NaN."""

    suffix: ClassVar[str] = "session_count"
    words: ClassVar[str] = "sessions"
