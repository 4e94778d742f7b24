"""Records of a table's topic -> versions of its rows, wherever in a record their fields are."""

from typing import Any

import numpy as np

from udfs.event_keys import events_key_reader
from udfs.events import MAX_EVENT_TIME_MS
from udfs.lookup_entries import RowVersion, row_type
from udfs.lookups import Lookup
from udfs.raw_record import RawRecord
from udfs.record_reader import RecordReader
from udfs.refused import Refused, invalid_time
from udfs.registered_schema import SchemaSource, no_schemas

_WHOLE = range(-(2**63), 2**63)


class RowReader:
    """Reads the records of one table.

    Args:
        lookup: The table; its rows are in a topic.
        schemas: Where the schemas come from that records name.

    Raises:
        DefinitionError: A schema of the table is none.
    """

    def __init__(self, lookup: Lookup, schemas: SchemaSource = no_schemas) -> None:
        self._events = lookup.events
        self._reader = RecordReader(lookup, self._events.own_source, schemas)
        self._key_text, self._key, self._time = events_key_reader(self._events), lookup.key, str(lookup.time)
        self._type, self._schema = row_type(lookup), lookup.schema

    def read(self, record: RawRecord) -> RowVersion | Refused:
        """The version that a record is, or why it is none; then the one before is still valid.

        A record without a value deletes the row from the record's timestamp on.

        Raises:
            RegistryUnreachableError: Nothing can be said about the record until the registry answers.
        """
        parts = record.parts
        key = self._text_of(record.key)
        if record.value is None and key is not None:
            if not 0 <= parts.time_ms <= MAX_EVENT_TIME_MS:
                return invalid_time("the record's timestamp", parts.time_ms)
            return RowVersion(key, parts.time_ms, parts.partition, parts.offset, None)
        found = self._reader.read(record)
        if isinstance(found, Refused):
            return found
        if key != str(getattr(found, self._key)):
            shown = "missing" if record.key is None else repr(record.key[:80])
            return Refused("key_mismatch", f"the key is {shown}, {self._key} is {getattr(found, self._key)!r:.80}")
        values = list[Any]()
        for one in self._schema:
            value = getattr(found, one.name)
            if one.kind == "int" and value is not None and value not in _WHOLE:
                return Refused("wrong_type", f"{one.name} is {value}, which is no whole number of 64 bits")
            values.append(np.array(value, np.float64) if one.size is not None and value is not None else value)
        (time_ms,) = self._events.times_ms([getattr(found, self._time)]).tolist()
        return RowVersion(str(key), time_ms, parts.partition, parts.offset, self._type(*values))

    def _text_of(self, key: bytes | None) -> str | None:
        if key is None:
            return None
        try:
            return key.decode() if self._key_text is None else self._key_text(key)
        except UnicodeDecodeError:
            return None
