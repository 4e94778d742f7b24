"""Sessions that are over as records of a topic of their own, keyed by the entity."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.byte_lines import Lines
from udfs.open_sessions import Arrived, ClosedSession, OpenSessions
from udfs.output_batch import OutputGroup
from udfs.output_fields import sessions_of
from udfs.output_writers import value_writer
from udfs.pipeline import Pipeline
from udfs.receipts import HEADER, headers_of
from udfs.record_batch import RecordBatch
from udfs.registered_schema import RegisteredSchema
from udfs.wire_formats import most_sent_bytes


class SessionEncoder:
    """The closed sessions of one pipeline to records.

    Args:
        pipeline: One with a topic of sessions.
        schema: What they are written with, as it was registered; None where none has to be.

    Attributes:
        not_written: How many could not be written so far: too large, or what the format has no place for.

    Raises:
        DefinitionError: The schema of the format is none.
    """

    def __init__(self, pipeline: Pipeline, schema: RegisteredSchema | None = None) -> None:
        self.not_written = 0
        self._values_of = value_writer(sessions_of(pipeline), schema)
        self._entity_of: Callable[[str], Any] = int if pipeline.fields[pipeline.events.entity].kind == "int" else str
        constants = headers_of({"pipeline": pipeline.name, "topic": pipeline.events.topic})
        numbers = [f"{HEADER}{name}" for name in ("partition", "event-time")]
        self._group = OutputGroup(str(pipeline.sessions_topic), constants, numbers)
        self._most_sent = most_sent_bytes(pipeline)

    def records(self, closed: Sequence[ClosedSession]) -> bytes:
        """Groups of output records; without those that cannot be written."""
        if not closed:
            return b""
        try:
            values = self._values(closed)
        except Exception:  # what a format cannot write is in the entity: a number too large for its type, say
            if len(closed) > 1:
                return b"".join(self.records([each]) for each in closed)
            self.not_written += 1
            return b""
        keys = Lines.of([each.entity.encode() if each.key is None else each.key for each in closed])
        too_large = keys.lengths + values.lengths > self._most_sent
        if too_large.any():
            self.not_written += int(too_large.sum())
            return self.records([closed[row] for row in np.flatnonzero(~too_large)])
        numbers = [np.array([each.partition for each in closed]), np.array([each.last_ms for each in closed])]
        return self._group.pack(keys, values, numbers)

    def _values(self, closed: Sequence[ClosedSession]) -> Lines:
        columns: list[Iterable[Any]] = [
            [self._entity_of(each.entity) for each in closed],
            [each.first_ms for each in closed],
            [each.last_ms for each in closed],
            [each.events for each in closed],
            [(each.last_ms - each.first_ms) / 1_000 for each in closed],
            [each.is_late for each in closed],
        ]
        return self._values_of(columns, None)


class SessionWatch:
    """Follows the sessions of the entities of some shards; what is over becomes a record.

    Args:
        pipeline: One with a topic of sessions.
        clock_ms: The clock of the machine.
        schema: As of `SessionEncoder`.
    """

    def __init__(
        self, pipeline: Pipeline, clock_ms: Callable[[], int], schema: RegisteredSchema | None = None
    ) -> None:
        assert pipeline.sessions is not None
        self._sessions, self._clock_ms = pipeline.sessions, clock_ms
        self._encoder = SessionEncoder(pipeline, schema)
        self._shards: dict[int, OpenSessions] = {}

    def restore(self, shard: int, entries: Iterable[tuple[int, bytes]]) -> None:
        """Begin with what `take_changes` gave for a shard."""
        wanted = self._sessions
        self._shards[shard] = OpenSessions(
            wanted.gap_ms, wanted.lateness_ms, wanted.idle_ms, entries, now_ms=self._clock_ms()
        )

    def advance(
        self,
        records: RecordBatch,
        entities: Sequence[str],
        rows: npt.NDArray[np.int64] | None,
        times_ms: npt.NDArray[np.int64],
        ends: Sequence[int],
    ) -> bytes:
        """Take in the events of a batch.

        Args:
            records: The batch.
            entities: Of its n events.
            rows: (n,) their records; None means all.
            times_ms: (n,) event times.
            ends: Where the events of each of the batch's shards end.

        Returns:
            Records of the sessions that they close, as `output_batch` packs them.
        """
        if rows is None:
            keys, partitions, record_times_ms = records.keys.tolist(), records.partitions, records.record_times_ms
        else:
            keys = records.keys.pick(rows.tolist()).tolist()
            partitions, record_times_ms = records.partitions[rows], records.record_times_ms[rows]
        others, times = list(_others(keys, entities)), times_ms.tolist()
        from_partitions, record_times = partitions.tolist(), record_times_ms.tolist()
        now_ms, closed, begin = self._clock_ms(), list[ClosedSession](), 0
        for shard, end in zip(records.shards, ends, strict=True):
            part = slice(begin, end)
            arrived = Arrived(entities[part], others[part], times[part], record_times[part], from_partitions[part])
            closed += self._shards[shard].advance(arrived, now_ms)
            begin = end
        return self._encoder.records(closed)

    def pass_time(self) -> bytes:
        """Records of the sessions that are over because nothing comes any more."""
        now_ms = self._clock_ms()
        return self._encoder.records([one for each in self._shards.values() for one in each.pass_time(now_ms)])

    @property
    def not_written(self) -> int:
        """How many sessions could not be written so far."""
        return self._encoder.not_written

    def take_changes(self, shard: int) -> tuple[Mapping[int, bytes], Sequence[int]]:
        """As of `OpenSessions`."""
        return self._shards[shard].take_changes()


def _others(keys: Sequence[bytes | None], entities: Sequence[str]) -> Iterator[bytes | None]:
    """The keys that are not the entity as text."""
    for key, entity in zip(keys, entities, strict=True):
        yield None if key == entity.encode() else key
