"""Requests: somebody asks for an entity's score, without an event. What a pipeline says of them.

A request is answered as the event that it describes would be, from the entity's state at that moment, and leaves no
trace in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from udfs.aggregates import Feature, OneHot, Ratio, Value
from udfs.durations import parse_duration
from udfs.errors import DefinitionError
from udfs.events import EventField, check_topic, split_element

if TYPE_CHECKING:
    from udfs.pipeline import Pipeline

STAGE = "request"
"""Of dead letters that are requests to which no reply could be addressed."""
MOST_REQUEST_BYTES = 65_536
"""A larger request is a dead letter."""
_RESERVED = ("request_id", "entity", "as_of", "scored_at", "error", "features")

Unknown = Literal["error", "score"]


@dataclass(frozen=True)
class Requests:
    """A topic of requests beside the events, and where they are answered.

    Attributes:
        topic: Of the requests; None means `<pipeline>-requests`.
        replies: Topic of the replies to requests that name none; None means `<pipeline>-replies`.
        reply_topics: Other topics that a request may name. There is no reply to any other.
        required: Fields of the event without which a request is refused; None means those that `Value` and `OneHot`
            read and that an event may not lack. What else a request does not give has its default, or is null.
        max_age: A request that is older than this, by its record's timestamp, when the job comes to it is told that it
            is stale: nobody waits for it any more.
        unknown: What becomes of a request for an entity of which nothing is kept: "error", or "score", as the first
            event of it would be.
    """

    topic: str | None = None
    replies: str | None = None
    reply_topics: Sequence[str] = ()
    required: Sequence[str] | None = None
    max_age: str = "30s"
    unknown: Unknown = "error"

    def __post_init__(self) -> None:
        for name in ("reply_topics", "required"):
            value = getattr(self, name)
            if value is None and name == "required":
                continue
            if not isinstance(value, list | tuple):
                raise DefinitionError(f"Requests: {name} is {value!r}; write {name}=('one', 'another')")
            object.__setattr__(self, name, tuple(value))
        topics = [each for each in (self.topic, self.replies) if each is not None]
        for each in (*topics, *self.reply_topics):
            check_topic(each, "Requests: topic")
        parse_duration(self.max_age, "Requests: max_age")
        if self.unknown not in get_args(Unknown):
            raise DefinitionError(f"Requests: unknown is {self.unknown!r}; write one of {', '.join(get_args(Unknown))}")

    @property
    def max_age_ms(self) -> int:
        """As milliseconds."""
        return parse_duration(self.max_age, "Requests: max_age")


def check_requests(pipeline: "Pipeline", requests: Requests, where: str) -> None:
    """Refuse requests that a pipeline cannot answer.

    Raises:
        DefinitionError: Says what to write.
    """
    for name in pipeline.outputs.names:
        if name in _RESERVED:
            raise DefinitionError(
                f"{where}: replies have the fields {', '.join(_RESERVED)}, so a prediction cannot be called {name!r}"
            )
    known = [one.name for one in asked_fields(pipeline)]
    for name in requests.required or ():
        if name not in known:
            raise DefinitionError(f"{where}: required names {name!r}; a request can give {', '.join(known)}")


def asked_fields(pipeline: "Pipeline") -> list[EventField]:
    """The fields of the event that a request can give: all but the entity and the time, which it always has."""
    events = pipeline.events
    return [one for one in events.schema if one.name not in (events.entity, events.time)]


def required_fields(pipeline: "Pipeline") -> list[str]:
    """The fields without which a request is refused."""
    assert pipeline.requests is not None
    if pipeline.requests.required is not None:
        return list(pipeline.requests.required)
    read = {name for feature in pipeline.features for name in _read_directly(feature)}
    return [one.name for one in asked_fields(pipeline) if one.name in read and not one.optional]


def describe_requests(pipeline: "Pipeline") -> dict[str, Any] | None:
    """A pipeline's requests as plain data; None where it answers none."""
    if pipeline.requests is None:
        return None
    return {
        "topic": pipeline.requests_topic,
        "replies": pipeline.reply_topics,
        "required": required_fields(pipeline),
        "max_age": pipeline.requests.max_age,
        "unknown": pipeline.requests.unknown,
    }


def _read_directly(feature: Feature) -> list[str]:
    """Fields of the event itself that a feature reads."""
    if isinstance(feature, Ratio):
        return [name for part in (feature.numerator, feature.denominator) for name in _read_directly(part)]
    return [split_element(feature.field)[0]] if isinstance(feature, Value | OneHot) else []
