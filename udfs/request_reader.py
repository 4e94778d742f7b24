"""Records of requests: read by the job, written by whoever asks.

JSON, whatever the format of the events is, under the entity (as text) as key:

    {"request_id": "7f3a", "entity": "card-7", "fields": {"amount": 12.5}, "as_of": 1760000000000, "reply_to": "topic"}

`fields`, `as_of` (ms since 1970; the record's timestamp if it is left out), `reply_to` and `after` (the place of an
event of the entity that must be in its state: `{"partition": 3, "offset": 1200}`) may be left out.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec

from udfs.event_rows import refused_value
from udfs.events import MAX_EVENT_TIME_MS, TIME_UNITS_NS, EventField
from udfs.json_events import decoded_json
from udfs.pipeline import Pipeline
from udfs.positions import EventPlace
from udfs.raw_record import RawRecord
from udfs.record_fields import struct_field
from udfs.refused import NO_VALUE, Refused, too_large
from udfs.requests import MOST_REQUEST_BYTES, asked_fields, required_fields

MOST_ID_LETTERS = 200
MOST_AHEAD_MS = 3_600_000
"""A request may ask for a time that is so much later than its record's timestamp."""


class Address(NamedTuple):
    """Where a reply goes: the request's id, its key, and the topic."""

    request_id: str
    topic: str


class Asked(NamedTuple):
    """A request that can be answered.

    Attributes:
        address: Of the reply.
        entity: As text.
        event: The event that it stands for, with the event's fields.
        after: An event that must be in the state of the entity; None if any state will do.
    """

    address: Address
    entity: str
    event: Any
    after: EventPlace | None = None


class Unanswerable(NamedTuple):
    """A request that gets an error for an answer, or a dead letter where no reply can be addressed.

    Attributes:
        address: Of the reply; None if there can be none.
        why: The reason, and in words.
        entity: If it is known.
    """

    address: Address | None
    why: Refused
    entity: str | int | None = None


class _Addressed(msgspec.Struct, gc=False):
    """What of a request must be right for a reply."""

    request_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MOST_ID_LETTERS)]
    reply_to: str | None = None


class AfterEvent(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The place of an event, as requests have it."""

    partition: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class RequestReader:
    """Reads the requests of one pipeline.

    Args:
        pipeline: Has `requests`.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        assert pipeline.requests is not None
        events, self._requests = pipeline.events, pipeline.requests
        self._default, self._topics = pipeline.reply_topics[0], frozenset(pipeline.reply_topics)
        self._max_age_ms = pipeline.requests.max_age_ms
        self._unit_ns = TIME_UNITS_NS[events.time_unit]
        self._whole_time = events.field(events.time, "Requests").kind == "int"
        self._defaults = {one.name: one.default for one in asked_fields(pipeline)}
        self._required = required_fields(pipeline)
        given, entity = asked_types(pipeline)
        request: list[Any] = [
            ("request_id", str),
            ("entity", entity),
            ("fields", given, msgspec.field(default_factory=given)),
            ("as_of", int | None, None),
            ("reply_to", str | None, None),
            ("after", AfterEvent | None, None),
        ]
        request_type: Any = msgspec.defstruct("Request", request, gc=False, forbid_unknown_fields=True)
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(request_type).decode
        self._decode_address = msgspec.json.Decoder(_Addressed).decode
        names = [one.name for one in events.schema]
        self._event: Any = msgspec.defstruct("Event", [(name, Any) for name in names], gc=False)
        self._entity, self._time, self._names = events.entity, events.time, names

    def read(self, record: RawRecord, now_ms: int) -> Asked | Unanswerable:
        """What a record asks for.

        Args:
            record: Of the topic of requests.
            now_ms: The time, in ms since 1970.
        """
        if record.value is None:
            return Unanswerable(None, NO_VALUE)
        if record.size > MOST_REQUEST_BYTES or len(record.value) > MOST_REQUEST_BYTES:
            return Unanswerable(None, too_large(max(record.size, len(record.value)), MOST_REQUEST_BYTES))
        addressed = decoded_json(record.value, self._decode_address)
        if isinstance(addressed, Refused):
            return Unanswerable(None, addressed)
        topic = addressed.reply_to or self._default
        if topic not in self._topics:
            return Unanswerable(None, Refused("unknown_reply_topic", f"reply_to is {topic!r:.200}"))
        address = Address(addressed.request_id, topic)
        try:
            request = self._decode(record.value)
        except msgspec.ValidationError as error:
            why = refused_value(error)
            return Unanswerable(address, Refused("unknown_field", why.detail) if _is_unknown(error) else why)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Unanswerable(address, Refused("not_json", str(error)))
        entity = str(request.entity)
        refusal = self._refusal(record, request, entity, now_ms)
        if refusal is not None:
            return Unanswerable(address, refusal, request.entity)
        as_of_ms = record.parts.time_ms if request.as_of is None else request.as_of
        after = None if request.after is None else EventPlace(request.after.partition, request.after.offset)
        return Asked(address, entity, self._as_event(request, as_of_ms), after)

    def _refusal(self, record: RawRecord, request: Any, entity: str, now_ms: int) -> Refused | None:
        if record.key != entity.encode("utf-8", "surrogatepass"):
            shown = "missing" if record.key is None else repr(record.key[:80])
            return Refused("key_mismatch", f"the record's key is {shown}, entity is {entity[:80]!r}")
        age_ms = now_ms - record.parts.time_ms
        if age_ms > self._max_age_ms:
            return Refused("stale", f"the request is {age_ms} ms old; max_age is {self._requests.max_age}")
        as_of_ms, latest_ms = request.as_of, min(record.parts.time_ms + MOST_AHEAD_MS, MAX_EVENT_TIME_MS)
        if not 0 <= (record.parts.time_ms if as_of_ms is None else as_of_ms) <= latest_ms:
            return Refused("invalid_time", f"as_of is {as_of_ms}; ms from 1970 to an hour after the request")
        for name in self._required:
            if getattr(request.fields, name) in (msgspec.UNSET, None):
                return Refused("missing_field", f"the request has no {name}")
        return None

    def _as_event(self, request: Any, as_of_ms: int) -> Any:
        as_of_ns = as_of_ms * TIME_UNITS_NS["ms"]
        time = as_of_ns // self._unit_ns if self._whole_time else as_of_ns / self._unit_ns
        told: dict[str, Any] = {self._entity: request.entity, self._time: time}
        for name, default in self._defaults.items():
            value = getattr(request.fields, name)
            told[name] = default if value is msgspec.UNSET else value
        return self._event(*map(told.__getitem__, self._names))


def asked_types(pipeline: Pipeline) -> tuple[Any, Any]:
    """The types of a request's fields, a struct, and of its entity."""
    given = [_given(one) for one in asked_fields(pipeline)]
    fields = msgspec.defstruct("Fields", given, gc=False, kw_only=True, forbid_unknown_fields=True)
    events = pipeline.events
    return fields, int if events.field(events.entity, "Requests").kind == "int" else str


def _given(one: EventField) -> tuple[str, Any, Any]:
    """A field of an event as one of a request: it may be left out, or be null."""
    return one.name, struct_field(one)[1] | None | msgspec.UnsetType, msgspec.UNSET


def _is_unknown(error: msgspec.ValidationError) -> bool:
    return "unknown field" in str(error)


def request_bytes(
    request_id: str,
    entity: str | int,
    fields: Mapping[str, Any] | None = None,
    *,
    as_of_ms: int | None = None,
    reply_to: str | None = None,
    after: tuple[int, int] | None = None,
) -> tuple[bytes, bytes]:
    """Key and value of a request's record; `after` are partition and offset of an event."""
    told: dict[str, Any] = {"request_id": request_id, "entity": entity}
    place = after and {"partition": after[0], "offset": after[1]}
    others = {"fields": dict(fields or {}) or None, "as_of": as_of_ms, "reply_to": reply_to, "after": place}
    told |= {name: value for name, value in others.items() if value is not None}
    return str(entity).encode(), msgspec.json.encode(told)
