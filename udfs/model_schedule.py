"""Which model is valid when: a timeline of event time, which the records of a pipeline's control topic extend."""

import hashlib
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

BEGINNING_MS = -(2**62)
"""From when the first period is valid: before any event."""


class ModelRef(msgspec.Struct, frozen=True):
    """One model, exactly.

    Attributes:
        name: As in its folder.
        version: As in its folder.
        sha256: Hex digest of its `model.onnx`.
        manifest_sha256: Hex digest of its `manifest.json`, which says what goes in and what comes out.
    """

    name: str
    version: int
    sha256: str
    manifest_sha256: str

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


class Challenger(msgspec.Struct, frozen=True):
    """A model that scores a share of the entities in place of the champion.

    Attributes:
        model: Which.
        share: Of the entities, 0 to 1.
    """

    model: ModelRef
    share: float


class Serving(msgspec.Struct, frozen=True):
    """What scores events.

    Attributes:
        champion: Scores all entities that no challenger does.
        challengers: Score a share of the entities each, always the same ones.
        shadows: Score all events too; their scores go to a topic of their own.
    """

    champion: ModelRef
    challengers: tuple[Challenger, ...] = ()
    shadows: tuple[ModelRef, ...] = ()

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """All of them, each once."""
        challengers = (each.model for each in self.challengers)
        return tuple(dict.fromkeys((self.champion, *challengers, *self.shadows)))


class Guard(msgspec.Struct, frozen=True, omit_defaults=True):
    """Limits for models that are new in a serving; over one, the serving before comes back by itself.

    Attributes:
        events: Of each subtask, from the first that a model scores: so many are looked at.
        failed_share: Most events without a score, as a part of `events`; None for any.
        us_per_row: Longest time for an event on average, in us; None for any.
        psi: Largest population stability index against the champion before, of the same events; None for any.
    """

    events: int = 1_000
    failed_share: float | None = None
    us_per_row: float | None = None
    psi: float | None = None


class Period(msgspec.Struct, frozen=True, omit_defaults=True):
    """What scores events from an event time (ms) on, until the next period begins, and what it is guarded by."""

    from_ms: int
    serving: Serving
    guard: Guard | None = None


class Schedule(msgspec.Struct, frozen=True):
    """Periods in order of event time; the first begins before any event, with the pipeline's own model.

    Make one with `of`, go on with `then`.
    """

    periods: tuple[Period, ...]

    @classmethod
    def of(cls, model: ModelRef) -> "Schedule":
        """One model for ever."""
        return cls((Period(BEGINNING_MS, Serving(model)),))

    @property
    def base(self) -> ModelRef:
        """The pipeline's own model, with which it began."""
        return self.periods[0].serving.champion

    def then(self, from_ms: int, serving: Serving, guard: Guard | None = None) -> "Schedule":
        """What the newest change says holds from its event time on: whatever was planned for later is off."""
        kept = [each for each in self.periods if each.from_ms < from_ms]
        return Schedule((*kept, Period(from_ms, serving, guard)))

    def after(self, change: "ModelChange") -> "Schedule":
        """The schedule after a change; the same if that changes nothing.

        A rollback is of one period. Where that is not the newest any more, somebody decided otherwise meanwhile.
        """
        newest = self.periods[-1]
        if change.kind == "serve":
            return self.then(change.from_ms, change.serving, change.guard)
        if change.kind == "rollback" and (newest.from_ms, newest.serving) == (change.from_ms, change.failed):
            return self.then(change.from_ms, change.serving)
        return self

    def places(self, times_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
        """Which period each event time is in."""
        begins = np.array([each.from_ms for each in self.periods], np.int64)
        return np.searchsorted(begins, times_ms, side="right") - 1

    def to_bytes(self) -> bytes:
        """As it is kept in a checkpoint."""
        return msgspec.json.encode(self)

    @classmethod
    def from_bytes(cls, content: bytes) -> "Schedule":
        """What `to_bytes` wrote."""
        return msgspec.json.decode(content, type=cls)


class ModelChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record of the control topic.

    Attributes:
        id: Told apart by it; answers name it.
        kind: `prepare` loads and warms the models beside those that score, `serve` lets them score from an event time
            on, `release` lets go of what was prepared; by `rollback` a subtask undoes what its guard found wanting.
        base: The pipeline's own model when it was asked for; a job that began with another one passes it over.
        serving: What is to score.
        from_ms: Event time from which it does; of `serve` and `rollback` only.
        asked_at_ms: When it was asked for, in ms since 1970.
        guard: Limits; of `serve` only.
        failed: What `serving` comes back for; of `rollback` only.
        why: Which limit that was over; of `rollback` only.
    """

    id: str
    kind: Literal["prepare", "serve", "release", "rollback"]
    base: ModelRef
    serving: Serving
    from_ms: int = BEGINNING_MS
    asked_at_ms: int = 0
    guard: Guard | None = None
    failed: Serving | None = None
    why: str = ""

    def to_bytes(self) -> bytes:
        """As it is sent."""
        return msgspec.json.encode(self)


def read_change(content: bytes | None) -> ModelChange | None:
    """A record of the control topic; None for what is none, which changes nothing."""
    try:
        change = msgspec.json.decode(content or b"", type=ModelChange)
    except (msgspec.DecodeError, ValueError):
        return None
    return change if _is_sound(change) else None


def _is_sound(change: ModelChange) -> bool:
    shares = [each.share for each in change.serving.challengers]
    return all(0 < share <= 1 for share in shares) and sum(shares) <= 1 and -(2**62) <= change.from_ms < 2**62


class ChangeAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one subtask of the job says to a change; a record of the status topic.

    Attributes:
        id: Of the change.
        state: `ready` (loaded and warm), `serving` (it will score from its event time on), `released`, `refused`,
            `breached` (a guard's limit; `id` is that of the rollback which the subtask asks for) or `rolled_back`.
        subtask: Which, from 0 on.
        subtasks: How many there are.
        at_ms: When, in ms since 1970.
        why: Why it was refused, or which limit is breached.
        load_ms: How long loading and warming took, of all its models.
        batch_ms: How long the slowest of them took for a batch of `rows` rows.
        rows: See `batch_ms`.
        newest_ms: The newest event time scored so far. Where it is not before the event time of a change to serve,
            events between the two were scored by the model before.
    """

    id: str
    state: Literal["ready", "serving", "released", "refused", "breached", "rolled_back"]
    subtask: int
    subtasks: int
    at_ms: int
    why: str = ""
    load_ms: float = 0.0
    batch_ms: float = 0.0
    rows: int = 0
    newest_ms: int | None = None

    def to_bytes(self) -> bytes:
        """As it is sent."""
        return msgspec.json.encode(self)


def apply_changes(schedule: Schedule, contents: Sequence[bytes | None]) -> Schedule:
    """The schedule after all records of a control topic, for a job that begins anew."""
    for change in map(read_change, contents):
        if change is not None and change.base == schedule.base:
            schedule = schedule.after(change)
    return schedule


def rollbacks_of(schedule: Schedule, contents: Sequence[bytes | None]) -> list[ModelChange]:
    """The rollbacks among all records of a control topic that changed something."""
    found = []
    for change in map(read_change, contents):
        if change is not None and change.base == schedule.base:
            before, schedule = schedule, schedule.after(change)
            if change.kind == "rollback" and schedule is not before:
                found.append(change)
    return found


def places_of_shares(entities: Sequence[str], shares: Sequence[float]) -> npt.NDArray[np.intp]:
    """Which of the shares each entity falls into; `len(shares)` for the rest.

    An entity falls always at the same point between 0 and 1, by a hash (BLAKE2b) of its name: a share that grows takes
    entities in and loses none.

    Args:
        entities: n entities.
        shares: Parts of 1, one after the other from 0 on.
    """
    digests = b"".join([hashlib.blake2b(each.encode(), digest_size=8).digest() for each in entities])
    points = np.frombuffer(digests, "<u8") / 2.0**64
    return np.searchsorted(np.cumsum(shares), points, side="right")
