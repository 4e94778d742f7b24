"""Replies to requests, as records: JSON under the request's id as key, with the receipt of a prediction in headers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from udfs.byte_lines import Lines
from udfs.output_batch import OutputGroup
from udfs.pipeline import Pipeline
from udfs.receipts import HEADER, NamedModel, headers_of, printable
from udfs.refused import Refused
from udfs.request_reader import Address
from udfs.wire_formats import most_sent_bytes

_MOST_DETAIL = 300
_TEXTS = ("model", "model-version", "model-sha256", "feature-set", "role", "fallback", "flags", "warming", "error")


class Scored(NamedTuple):
    """What a request was answered.

    Attributes:
        outputs: The prediction, by the names of its outputs.
        as_of_ms: Of which time.
        features: (F,) values; None if the pipeline does not include them.
        named: The model that scored; of a fallback that is no model, the one that has no score.
        role: What that is among several models; "" where it is the only one.
        fallback: What scored in its place; "" if it did itself.
        flags: What is special, as of `FLAG_NAMES`.
        warming: Features that are not complete, with commas.
    """

    outputs: Mapping[str, Any]
    as_of_ms: int
    features: Sequence[float] | None
    named: NamedModel
    role: str = ""
    fallback: str = ""
    flags: str = ""
    warming: str = ""


class Reply(NamedTuple):
    """A reply, the place of its request, whose entity it is about (None if that is not known), and what it says."""

    address: Address
    place: tuple[int, int]
    entity: str | int | None
    says: Scored | Refused


class ReplyEncoder:
    """Writes the replies of one pipeline.

    Args:
        pipeline: Has `requests`.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        constants = headers_of({"pipeline": pipeline.name, "topic": str(pipeline.requests_topic)})
        numbers, texts = ([f"{HEADER}{name}" for name in names] for names in (("partition", "offset"), _TEXTS))
        self._groups = {topic: OutputGroup(topic, constants, numbers, texts) for topic in pipeline.reply_topics}
        self._features, self._most_sent = pipeline.feature_names, most_sent_bytes(pipeline)
        self._encode = msgspec.json.Encoder().encode

    def pack(self, replies: Sequence[Reply], scored_at_ms: int) -> bytes:
        """Replies as groups of output records, a group a topic."""
        outputs = b""
        for topic, group in self._groups.items():
            fitting = [self._fitting(reply, scored_at_ms) for reply in replies if reply.address.topic == topic]
            if fitting:
                here, contents = zip(*fitting, strict=True)
                keys = Lines.of([reply.address.request_id.encode() for reply in here])
                values = Lines.of(list(contents))
                places = np.array([reply.place for reply in here], np.int64).T
                columns = zip(*(_texts(reply.says) for reply in here), strict=True)
                outputs += group.pack(keys, values, list(places), [Lines.of(list(column)) for column in columns])
        return outputs

    def _value(self, reply: Reply, scored_at_ms: int) -> bytes:
        told: dict[str, Any] = {"request_id": reply.address.request_id, "entity": reply.entity}
        says = reply.says
        if isinstance(says, Refused):
            told["error"] = {"reason": says.reason, "detail": printable(says.detail[:_MOST_DETAIL])}
        else:
            told |= {**says.outputs, "as_of": says.as_of_ms}
            if says.features is not None:
                told["features"] = dict(zip(self._features, says.features, strict=True))
        told["scored_at"] = scored_at_ms
        return self._encode(told)

    def _fitting(self, reply: Reply, scored_at_ms: int) -> tuple[Reply, bytes]:
        """A reply and its value; an error where it would be larger than what is sent to Kafka."""
        value = self._value(reply, scored_at_ms)
        if len(value) <= self._most_sent:
            return reply, value
        why = Refused("output_too_large", f"the reply has {len(value)} bytes; the limit is {self._most_sent}")
        # so may be the name of an entity that nobody knows
        reply = reply._replace(says=why, entity=None)
        return reply, self._value(reply, scored_at_ms)


def _texts(says: Scored | Refused) -> list[bytes | None]:
    """The headers of `_TEXTS`; None for those that there are not."""
    if isinstance(says, Refused):
        return [None] * (len(_TEXTS) - 1) + [says.reason.encode()]
    texts = (*says.named, says.role, says.fallback, says.flags, says.warming, "")
    return [printable(text).encode() or None for text in texts]
