"""The tables of one subtask: as they were planned or checkpointed, and as the job is told from there on.

Of a table from a topic each subtask has a copy, in memory and in Flink's broadcast state, of which a restore hands one
to each subtask, however many there are. Rows of a file are read from the planned file at every start.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pyflink.common import Types
from pyflink.datastream import RuntimeContext
from pyflink.datastream.state import MapStateDescriptor
from pyflink.fn_execution.state_impl import RemoteOperatorStateBackend
from pyflink.metrics import MetricGroup

from flink_jobs.decoding import schema_source
from flink_jobs.lookup_tables import history_of, lookup_headers
from flink_jobs.settings import Settings
from flink_jobs.state_files import StateFile
from udfs.lookup_join import Joined, LookupJoin, Reasons, Versions
from udfs.lookup_rows import RowReader
from udfs.lookup_table import LookupTable, Missing
from udfs.lookups import Lookup, table_topics
from udfs.pipeline import Pipeline
from udfs.record_batch import RecordBatch
from udfs.refused import Refused

_WRITES_TOGETHER = 16
"""Entries of up to 4,096 rows that cross to the JVM in one go."""


class ServedTables:
    """Joins events with the tables of a subtask, as of `udfs.lookup_join.Join`.

    Args:
        pipeline: One with lookups.
        files: By lookup, what a table begins with that is not in Flink's state yet.
        settings: Say where the schema registry is.
        runtime_context: Has the state, and the metrics.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        files: Mapping[str, StateFile],
        settings: Settings | None,
        runtime_context: RuntimeContext,
    ) -> None:
        self._pipeline, self._files = pipeline, files
        self._topics, self._headers = table_topics(pipeline.lookups), lookup_headers(pipeline)
        self._of_topics = [each for each in pipeline.lookups if each.topic is not None]
        self._readers = {each.name: RowReader(each, schema_source(settings, each.format)) for each in self._of_topics}
        self._states = _broadcast_states(runtime_context, self._of_topics)
        self._tables: dict[str, LookupTable] = {}
        self._join: LookupJoin | None = None
        self._refused = {each.name: 0 for each in pipeline.lookups}
        self._told = set[tuple[str, str]]()
        self._add_gauges(runtime_context.get_metrics_group())

    def _add_gauges(self, metrics: MetricGroup) -> None:
        for lookup in self._pipeline.lookups:
            for reason in Reasons:
                metrics.gauge(missing_metric(lookup, reason), partial(self._missing, lookup.name, reason))
        for lookup in self._of_topics:
            metrics.gauge(refused_metric(lookup), partial(self._not_taken, lookup.name))

    def _missing(self, name: str, reason: Missing) -> int:
        return 0 if self._join is None else self._join.missing[name][reason]

    def _not_taken(self, name: str) -> int:
        table = self._tables.get(name)
        return self._refused[name] + (0 if table is None else table.refused)

    def read(self) -> None:
        """Read all tables, unless that is done; those that begin with a file are in Flink's state from now on."""
        if self._join is not None:
            return
        found = dict[str, Versions]()
        for lookup in self._pipeline.lookups:
            if lookup.topic is None:
                found[lookup.name] = history_of(lookup, self._files[lookup.name])
                continue
            state = self._states[lookup.name]
            entries = [(int(number), bytes(entry)) for number, entry in state.items()]
            if not entries:
                entries = self._files[lookup.name].entries()
                _put(state, dict(entries), ())
            history_ms = lookup.history_ms(self._pipeline.lateness_ms)
            found[lookup.name] = self._tables[lookup.name] = LookupTable.restore(lookup, history_ms, entries)
        self._join = LookupJoin(self._pipeline, found)

    def take(self, batch: bytes) -> None:
        """Take in the records of a table's topic, as the JVM packs them with the command LOOKUPS."""
        topic = self._topics[RecordBatch(batch).topic]
        records = RecordBatch(batch, self._headers[topic])
        for lookup in self._of_topics:
            if lookup.topic != topic:
                continue
            read, versions = self._readers[lookup.name].read, []
            for record in records.raw():
                found = read(record)
                if isinstance(found, Refused):
                    self._refuse(lookup, found)
                else:
                    versions.append(found)
            self._tables[lookup.name].put(versions)

    def _refuse(self, lookup: Lookup, why: Refused) -> None:
        self._refused[lookup.name] += 1
        if (lookup.name, why.reason) not in self._told:
            self._told.add((lookup.name, why.reason))
            logging.getLogger(__name__).warning(
                "lookup %s: a record of %s is no row: %s, %s", lookup.name, lookup.topic, why.reason, why.detail
            )

    def write(self) -> None:
        """Put what is new into Flink's state."""
        for name, table in self._tables.items():
            put, removed = table.take_changes()
            if put or removed:
                _put(self._states[name], put, removed)

    def of(self, events: Sequence[Any]) -> Joined:
        """The rows of n events, as of `udfs.lookup_join.Join`."""
        assert self._join is not None
        return self._join.of(events)


def _broadcast_states(runtime_context: RuntimeContext, lookups: Sequence[Lookup]) -> dict[str, Any]:
    """A state for each table, of this operator and not of a key.

    PyFlink gives it to functions of two inputs only. The JVM serves it to every function that has keys, and with the
    operator as it is, savepoints of pipelines without lookups go on.
    """
    context: Any = runtime_context
    # state under a key is asked for at the same place
    backend: Any = RemoteOperatorStateBackend(
        context._keyed_state_backend._state_handler, len(lookups) + 1, 1_000, _WRITES_TOGETHER
    )
    kind = Types.LONG(), Types.PRIMITIVE_ARRAY(Types.BYTE())
    return {each.name: backend.get_broadcast_state(MapStateDescriptor(state_name(each), *kind)) for each in lookups}


def _put(state: Any, put: Mapping[int, bytes], removed: Sequence[int]) -> None:
    for number, entry in put.items():
        state.put(number, entry)
    for number in removed:
        state.remove(number)
    state.commit()


def state_name(lookup: Lookup) -> str:
    """The state of a table; a savepoint keeps its name for ever."""
    return f"lookup-{lookup.name}"


def missing_metric(lookup: Lookup, reason: Missing) -> str:
    """The gauge of how many events had no row for a reason."""
    return f"lookup{_camel(lookup.name)}{_camel(reason)}"


def refused_metric(lookup: Lookup) -> str:
    """The gauge of how many records of a table's topic are no rows, or found the table full."""
    return f"lookup{_camel(lookup.name)}Refused"


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
