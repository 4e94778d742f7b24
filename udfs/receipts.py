"""The headers that say where an answer comes from: which pipeline, which model, which event."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt

from udfs.byte_lines import Lines
from udfs.output_batch import OutputGroup
from udfs.pipeline import Pipeline

HEADER = "millrace-"
ROWS_SEEN = f"{HEADER}lookups"
"""Says which rows of lookups an event saw, as of `udfs.lookup_join.Joined`."""


class OutputTooLargeError(ValueError):
    """An answer is larger than what is sent to Kafka."""


def headers_of(texts: Mapping[str, str]) -> dict[str, str]:
    """Headers by their names without the prefix."""
    return {f"{HEADER}{name}": printable(text) for name, text in texts.items()}


def printable(text: str) -> str:
    """The text without control characters: nothing that disturbs a terminal."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else " " for character in text)


class NamedModel(NamedTuple):
    """What a receipt says of a model.

    Attributes:
        name: Its name.
        version: Its version.
        sha256: Of its `model.onnx`.
        feature_set_hash: sha256 over the definitions of its features.
    """

    name: str
    version: str
    sha256: str
    feature_set_hash: str


class Receipt(NamedTuple):
    """What the records of predictions by one model have in common, or those of feature vectors.

    Attributes:
        plain: Of those without flags.
        flagged: Of those with flags.
        warming: Of those with flags and features that are not complete.
        tells_rows: Whether they say which rows of lookups an event saw.
    """

    plain: OutputGroup
    flagged: OutputGroup
    warming: OutputGroup
    tells_rows: bool

    @classmethod
    def of(
        cls,
        pipeline: Pipeline,
        model: NamedModel,
        *,
        role: str = "",
        fallback: str = "",
        topic: str | None = None,
    ) -> "Receipt":
        """The receipt of a model's predictions.

        Args:
            pipeline: Whose model it is.
            model: Which; of a fallback that is no model, the one that has no score.
            role: What it is among several models; "" where it is the only one.
            fallback: What scored in place of the model whose duty it was; "" if that model did.
            topic: Where its predictions go; None means where the pipeline's do.
        """
        constants = {
            "pipeline": pipeline.name,
            "model": model.name,
            "model-version": model.version,
            "model-sha256": model.sha256,
            "feature-set": model.feature_set_hash,
            "topic": pipeline.events.topic,
            **({"role": role} if role else {}),
            **({"fallback": fallback} if fallback else {}),
        }
        return cls._to(topic or pipeline.predictions, constants, tells_rows=bool(pipeline.lookups))

    @classmethod
    def of_features(cls, pipeline: Pipeline) -> "Receipt":
        """The receipt of a pipeline's feature vectors."""
        constants = {
            "pipeline": pipeline.name,
            "feature-set": pipeline.feature_set_hash(),
            "topic": pipeline.events.topic,
        }
        return cls._to(str(pipeline.features_topic), constants, tells_rows=bool(pipeline.lookups))

    @classmethod
    def _to(cls, topic: str, constants: Mapping[str, str], *, tells_rows: bool) -> "Receipt":
        numbers, flags = [f"{HEADER}{name}" for name in ("partition", "offset", "event-time")], [f"{HEADER}flags"]
        rows = [ROWS_SEEN] if tells_rows else []
        texts = rows, [*flags, *rows], [*flags, f"{HEADER}warming", *rows]
        plain, flagged, warming = (OutputGroup(topic, headers_of(constants), numbers, each) for each in texts)
        return cls(plain, flagged, warming, tells_rows)

    def pack(
        self,
        keys: Lines,
        values: Lines,
        numbers: Sequence[npt.NDArray[Any]],
        flags: Sequence[str] | None,
        warming: Sequence[str] | None,
        seen: Sequence[str] | None = None,
        *,
        most_bytes: int,
    ) -> bytes:
        """The records of n events.

        Args:
            keys: n keys.
            values: n values.
            numbers: Their partitions, offsets and event times, (n,) each.
            flags: What is special about each event; None if nothing is about any.
            warming: Features that are not complete yet, of each event; None if all are of all. Only with `flags`.
            seen: Which rows of lookups each event saw; None where there are no lookups.
            most_bytes: What a record may have.

        Raises:
            OutputTooLargeError: One has more; the sink would fail on it for ever.
        """
        columns = (flags, warming, (seen or [""] * len(values)) if self.tells_rows else None)
        texts = [Lines.of([text.encode() or None for text in column]) for column in columns if column]
        largest = int(sum((lines.lengths for lines in (values, *texts)), keys.lengths).max(initial=0))
        if largest > most_bytes:
            raise OutputTooLargeError(f"its record has {largest} bytes; the limit is {most_bytes}")
        if flags is None:
            return self.plain.pack(keys, values, numbers, texts)
        group = self.flagged if warming is None else self.warming
        return group.pack(keys, values, numbers, texts)
