"""Which model scores which event of a batch, by the schedules of the shards, and which models are open for that."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from udfs.model_schedule import ModelRef, Schedule, Serving, places_of_shares

CHAMPION, CHALLENGER, SHADOW = "champion", "challenger", "shadow"
GENERATIONS = 2
"""How many servings' models are open at most: those that score, and those before or those that come."""


class Role(NamedTuple):
    """A model and what it is there for: "" when it is the only one, CHAMPION, CHALLENGER or SHADOW."""

    model: ModelRef
    name: str = ""


class Duty(NamedTuple):
    """Who scores an event, and who does so beside it, unserved."""

    served: Role
    shadows: tuple[Role, ...] = ()


class Duties(NamedTuple):
    """Who scores the events of a batch.

    Attributes:
        known: Duties.
        which: (n,) place in `known` of each event; None where all are of the first.
    """

    known: list[Duty]
    which: npt.NDArray[np.intp] | None


class Shelf(Protocol):
    """What is needed of the place where models are kept; see `models.shelf`."""

    def keep(self, keys: Sequence[ModelRef]) -> None:
        """Let go of all other models."""


class ServedModels:
    """The schedules of a subtask's shards.

    Args:
        shelf: Is told which models are needed.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._schedules: dict[int, Schedule] = {}
        self._common: Schedule | None = None
        self._generations: list[Serving] = []
        self._prepared: Serving | None = None

    def knows(self, shard: int) -> bool:
        """Whether a shard has a schedule."""
        return shard in self._schedules

    def of_shard(self, shard: int) -> Schedule:
        """The schedule of a shard."""
        return self._schedules[shard]

    def change(self, shard: int, schedule: Schedule) -> None:
        """A shard has another schedule from its next event on."""
        self._schedules[shard] = schedule
        first, *others = self._schedules.values()
        self._common = first if all(each == first for each in others) else None

    def prepare(self, serving: Serving | None) -> None:
        """Models that are not in a schedule yet are kept too; None for no more."""
        self._prepared = serving
        self._tidy()

    def duties(
        self,
        shards: Sequence[int],
        ends: Sequence[int],
        times_ms: npt.NDArray[np.int64],
        entities: Sequence[str],
    ) -> Duties:
        """Who scores each of n events.

        Args:
            shards: Whose events they are, in order.
            ends: Where the events of each shard end.
            times_ms: (n,) int64, event times.
            entities: n entities.
        """
        if self._common is not None:
            last = self._common.periods[-1]
            if not last.serving.challengers and times_ms.min() >= last.from_ms:
                self.use(last.serving)
                return Duties([_duty(last.serving, Role(last.serving.champion))], None)
        known: dict[Duty, int] = {}
        which, begin = np.zeros(len(times_ms), np.intp), 0
        for shard, end in zip(shards, ends, strict=True):
            schedule = self._schedules[shard]
            places = schedule.places(times_ms[begin:end])
            for place in np.unique(places).tolist():
                rows = begin + np.flatnonzero(places == place)
                serving = schedule.periods[place].serving
                self.use(serving)
                for duty, part in _parts(serving, rows, entities):
                    which[part] = known.setdefault(duty, len(known))
            begin = end
        return Duties(list(known), which if len(known) > 1 else None)

    def use(self, serving: Serving) -> None:
        """These models score now, or will with the next events: they are kept, and those before them."""
        if self._generations and self._generations[-1] is serving:  # equal ones take longer to compare
            return
        if serving in self._generations:
            self._generations.remove(serving)
        self._generations.append(serving)
        if self._prepared == serving:
            self._prepared = None
        self._tidy()

    def _tidy(self) -> None:
        coming = [] if self._prepared is None else [self._prepared]
        self._generations = self._generations[len(coming) - GENERATIONS :]
        self._shelf.keep([model for each in (*self._generations, *coming) for model in each.models])


def _parts(
    serving: Serving, rows: npt.NDArray[np.intp], entities: Sequence[str]
) -> list[tuple[Duty, npt.NDArray[np.intp]]]:
    if not serving.challengers:
        return [(_duty(serving, Role(serving.champion)), rows)]
    shares = [each.share for each in serving.challengers]
    sides = places_of_shares([entities[row] for row in rows.tolist()], shares)
    roles = [*(Role(each.model, CHALLENGER) for each in serving.challengers), Role(serving.champion, CHAMPION)]
    found = np.unique(sides).tolist()
    return [(_duty(serving, roles[side]), rows[sides == side]) for side in found]


def _duty(serving: Serving, served: Role) -> Duty:
    return Duty(served, tuple(Role(each, SHADOW) for each in serving.shadows))


Which = npt.NDArray[np.intp] | None


def by_role(known: Sequence[Duty], which: Which, count: int) -> dict[Role, npt.NDArray[np.intp]]:
    """The events that each served model scores.

    Args:
        known: Duties.
        which: (count,) place in `known` of each event; None for the first.
        count: How many events there are.
    """
    return _places({number: [duty.served] for number, duty in enumerate(known)}, which, count)


def by_shadow(known: Sequence[Duty], which: Which, count: int) -> dict[Role, npt.NDArray[np.intp]]:
    """The events that each shadow scores; arguments as of `by_role`."""
    return _places({number: duty.shadows for number, duty in enumerate(known)}, which, count)


def _places(roles: Mapping[int, Sequence[Role]], which: Which, count: int) -> dict[Role, npt.NDArray[np.intp]]:
    there = [0] if which is None else np.unique(which).tolist()
    numbers: dict[Role, list[int]] = {}
    for number in there if count else ():
        for role in roles[number]:
            numbers.setdefault(role, []).append(number)
    if which is None:
        return {role: np.arange(count) for role in numbers}
    return {role: np.flatnonzero(np.isin(which, each)) for role, each in numbers.items()}


def runs_of(which: Which, rungs: Which, count: int) -> list[tuple[int, int, int, int]]:
    """Neighbours that one model scores by one rung of the ladder, in order.

    Args:
        which: (count,) place of each event's duty; None for 0.
        rungs: (count,) which rung scored each event; None for 0.
        count: How many events there are.

    Returns:
        Place of the duty, rung, where they begin and where they end.
    """
    columns = [np.zeros(count, np.intp) if each is None else each for each in (which, rungs)]
    borders = np.flatnonzero(np.any([np.diff(each) != 0 for each in columns], axis=0)) + 1
    places = [0, *borders.tolist(), count] if count else []
    return [(int(columns[0][begin]), int(columns[1][begin]), begin, end) for begin, end in pairwise(places)]
