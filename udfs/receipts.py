"""The headers that say where an answer comes from: which pipeline, which model, which event."""

from collections.abc import Mapping
from typing import NamedTuple

from udfs.output_batch import OutputGroup
from udfs.pipeline import Pipeline

HEADER = "millrace-"


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
    """What the records of predictions by one model have in common.

    Attributes:
        plain: Of those without flags.
        flagged: Of those with flags.
        warming: Of those with flags and features that are not complete.
    """

    plain: OutputGroup
    flagged: OutputGroup
    warming: OutputGroup

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
        numbers, flags = [f"{HEADER}{name}" for name in ("partition", "offset", "event-time")], [f"{HEADER}flags"]
        texts = ((), flags, [*flags, f"{HEADER}warming"])
        to, shared = topic or pipeline.predictions, headers_of(constants)
        return cls(*(OutputGroup(to, shared, numbers, each) for each in texts))
