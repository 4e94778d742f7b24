"""A topic of the sessions that are over: what a pipeline says of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from udfs.durations import parse_duration
from udfs.errors import DefinitionError
from udfs.events import check_topic
from udfs.formats import Format, Json, check_format

if TYPE_CHECKING:
    from udfs.pipeline import Pipeline

SESSION_FIELDS = ("first_event_at", "last_event_at", "events", "length_s", "late")
"""Of a record, behind the entity: ms since 1970 twice, a whole number, seconds, and whether it is one late event."""


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """A topic with a record for each session of an entity, written when it is over.

    Attributes:
        gap: The longest pause within a session.
        topic: Where the records go; None means `<pipeline>-sessions`.
        lateness: How much longer than the gap a session stays open for events that come late; None is no longer.
        idle: How long by the machine's clock no event of a partition may come to a shard until its sessions are closed
            without a later event; None waits for one.
        format: How the records are written; None means like predictions.
    """

    gap: str = "30m"
    topic: str | None = None
    lateness: str | None = None
    idle: str | None = "1m"
    format: Format | None = None

    def __post_init__(self) -> None:
        parse_duration(self.gap, "Sessions: gap")
        for name in ("lateness", "idle"):
            if getattr(self, name) is not None:
                parse_duration(getattr(self, name), f"Sessions: {name}")
        if self.topic is not None:
            check_topic(self.topic, "Sessions: topic")
        if self.format is not None:
            check_format(self.format, "Sessions: format")

    @property
    def gap_ms(self) -> int:
        """As milliseconds."""
        return parse_duration(self.gap, "Sessions: gap")

    @property
    def lateness_ms(self) -> int:
        """As milliseconds."""
        return 0 if self.lateness is None else parse_duration(self.lateness, "Sessions: lateness")

    @property
    def idle_ms(self) -> int | None:
        """As milliseconds."""
        return None if self.idle is None else parse_duration(self.idle, "Sessions: idle")


def check_sessions(pipeline: "Pipeline") -> None:
    """Refuse sessions that a pipeline cannot write.

    Raises:
        DefinitionError: Says what to write.
    """
    where, sessions = f"pipeline {pipeline.name}: sessions", pipeline.sessions
    if sessions is None:
        return
    if not isinstance(sessions, Sessions):
        raise DefinitionError(f"{where} is {sessions!r}; write sessions=Sessions(gap='30m')")
    if pipeline.events.entity in SESSION_FIELDS:
        raise DefinitionError(
            f"{where}: their records have the fields {', '.join(SESSION_FIELDS)}, so the entity cannot be called "
            f"{pipeline.events.entity!r}; rename it with Events(fields=...)"
        )
    form = pipeline.output_format
    if sessions.format is None and not isinstance(form, Json) and not form.framed:
        raise DefinitionError(
            f"{where}: output_format has a schema of predictions; write theirs as format={type(form).__name__}(...), "
            "or Json()"
        )


def describe_sessions(pipeline: "Pipeline") -> dict[str, Any] | None:
    """A pipeline's topic of sessions as plain data; None where it has none."""
    sessions = pipeline.sessions
    if sessions is None:
        return None
    return {
        "topic": pipeline.sessions_topic,
        "gap": sessions.gap,
        "lateness": sessions.lateness,
        "idle": sessions.idle,
    }
