"""What scores an event that the model has no score for: a ladder, from the better to the worse."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from models.outputs import Outputs
from udfs.durations import parse_duration
from udfs.errors import DefinitionError

OTHER_MODEL = "model "
"""What the receipt says of another model; its version follows."""


@dataclass(frozen=True)
class OtherModel:
    """Another version of the pipeline's model, a cheaper one say; it is open all the time.

    Attributes:
        version: Its version.
    """

    version: int

    @property
    def label(self) -> str:
        """What the receipt says."""
        return f"{OTHER_MODEL}{self.version}"


@dataclass(frozen=True)
class LastScore:
    """The last score that a model gave the entity.

    Attributes:
        within: How much older than the event it may be, by event time; so long it is kept.
        most_entities: Most entities to be known by each shard; who was scored longest ago goes first.
    """

    within: str = "1d"
    most_entities: int = 100_000

    @property
    def label(self) -> str:
        """What the receipt says."""
        return "last-score"

    @property
    def within_ms(self) -> int:
        """As milliseconds."""
        return parse_duration(self.within, "LastScore: within")


@dataclass(frozen=True)
class Default:
    """A number.

    Attributes:
        score: What every event gets that comes down to it.
    """

    score: float

    @property
    def label(self) -> str:
        """What the receipt says."""
        return "default"


Fallback = OtherModel | LastScore | Default


def check_fallbacks(fallbacks: Sequence[Fallback], version: int, outputs: Outputs, where: str) -> None:
    """Refuse a ladder that cannot be climbed down.

    Args:
        fallbacks: The ladder.
        version: Of the pipeline's model.
        outputs: Of the pipeline's predictions.
        where: What errors begin with.

    Raises:
        DefinitionError: A rung is none, cannot give the outputs, is there twice, or behind one that always has a score.
    """
    for place, rung in enumerate(fallbacks):
        if not isinstance(rung, Fallback):
            raise DefinitionError(f"{where}: {rung!r} is no fallback; write OtherModel(1), LastScore() or Default(0.5)")
        if rung.label in [each.label for each in fallbacks[:place]]:
            raise DefinitionError(f"{where}: {rung.label} is there twice")
        if place and isinstance(fallbacks[place - 1], Default):
            raise DefinitionError(f"{where}: {rung.label} stands behind a Default, which always has a score")
        if not (outputs.is_number or isinstance(rung, OtherModel)):
            raise DefinitionError(
                f"{where}: {type(rung).__name__} gives one number, the prediction has {outputs.text}; write OtherModel"
            )
        _check_rung(rung, version, where)


def _check_rung(rung: Fallback, version: int, where: str) -> None:
    if isinstance(rung, OtherModel):
        _check_number(rung.version, f"{where}: OtherModel: version")
        if rung.version == version:
            raise DefinitionError(f"{where}: OtherModel({version}) is the pipeline's own model; name another version")
    elif isinstance(rung, LastScore):
        parse_duration(rung.within, f"{where}: LastScore: within")
        _check_number(rung.most_entities, f"{where}: LastScore: most_entities")
    elif isinstance(rung.score, bool) or not isinstance(rung.score, int | float) or not math.isfinite(rung.score):
        raise DefinitionError(f"{where}: Default is {rung.score!r}; write a number like 0.5")


def _check_number(number: int, setting: str) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise DefinitionError(f"{setting} is {number!r}; write a whole number from 1 on")
