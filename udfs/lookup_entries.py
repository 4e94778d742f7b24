"""Versions of a table's rows as bytes: entries of the state, and of files on their way to a job or a backfill."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from udfs.errors import StateCorruptError, StateVersionError
from udfs.events import EventField
from udfs.lookups import Lookup

VERSION = 1
_MOST_IN_ENTRY = 4_096


class RowVersion(NamedTuple):
    """A row from some time on.

    Attributes:
        key: Of the row, as text.
        time_ms: From when on it is valid.
        partition: Of its record; FILE_PARTITION in a file.
        offset: Of its record.
        row: An object with the row's fields, as `row_type` makes them; None where the row is deleted.
    """

    key: str
    time_ms: int
    partition: int
    offset: int
    row: Any


def row_type(lookup: Lookup) -> Any:
    """The struct of a row: its fields; vectors as (size,) float64."""
    return msgspec.defstruct("Row", [(one.name, Any) for one in lookup.schema], gc=False)


class Whole(NamedTuple):
    """What versions of a whole table do not say: of each its row's floor, and by partition clocks and ends."""

    floors_ms: list[int]
    clocks_ms: dict[int, int]
    ends: dict[int, int]


class Entry(msgspec.Struct, array_like=True):
    """Versions, column by column; `is_all` where everything before goes, and then with what versions do not say."""

    version: int
    fields: list[list[Any]]
    keys: list[str]
    times_ms: list[int]
    partitions: list[int]
    offsets: list[int]
    rows: list[list[Any] | None]
    is_all: bool = False
    floors_ms: list[int] = []
    clocks_ms: dict[int, int] = {}
    ends: dict[int, int] = {}


class EntryCodec:
    """Versions of one table to entries and back.

    Args:
        lookup: The table.
    """

    def __init__(self, lookup: Lookup) -> None:
        self._lookup, self._type = lookup, row_type(lookup)
        self._fields = [one.definition() for one in lookup.schema]

    def packed(self, versions: Sequence[RowVersion], whole: "Whole | None" = None) -> Iterator[bytes]:
        """Entries of versions, one at least."""
        for begin in range(0, max(len(versions), 1), _MOST_IN_ENTRY):
            part = slice(begin, begin + _MOST_IN_ENTRY)
            columns = map(list, zip(*versions[part], strict=True)) if versions else ([],) * 5
            keys, times_ms, partitions, offsets, rows = columns
            entry = Entry(VERSION, self._fields, keys, times_ms, partitions, offsets, list(map(_packed, rows)))
            if whole is not None:
                entry.is_all, entry.floors_ms = True, whole.floors_ms[part]
                entry.clocks_ms, entry.ends = whole.clocks_ms, whole.ends
            yield msgspec.msgpack.encode(entry)

    def entry(self, content: bytes) -> "Entry":
        """An entry of `packed`.

        Raises:
            StateVersionError: A version wrote it that this one does not know.
            StateCorruptError: It is none.
        """
        return _decoded(self._lookup, content)

    def versions(self, entry: "Entry") -> Iterator[RowVersion]:
        """The versions in an entry.

        Raises:
            StateVersionError: The table has other fields by now.
        """
        unpacked = _Unpacker(self._lookup, self._type, entry.fields)
        return map(RowVersion, entry.keys, entry.times_ms, entry.partitions, entry.offsets, map(unpacked, entry.rows))

    def all_versions(self, entries: Iterable[tuple[int, bytes]]) -> list[RowVersion]:
        """The versions in numbered entries of `packed`, in their order; raises as `entry` and `versions`."""
        return [version for _, content in sorted(entries) for version in self.versions(self.entry(content))]


class _Unpacker:
    """Rows of an entry, by the fields that it has."""

    def __init__(self, lookup: Lookup, made: Any, fields: Sequence[list[Any]]) -> None:
        self._made, self._places = made, list[tuple[int, EventField]]()
        places = {name: place for place, (name, *_) in enumerate(fields)}
        for one in lookup.schema:
            place = places.get(one.name, -1)
            if not (one.optional if place < 0 else _still_is(fields[place], one)):
                what = "no field" if place < 0 else "another type of"
                raise StateVersionError(
                    f"lookup {lookup.name}: the state has {what} {one.name!r}; call the lookup otherwise, so that its "
                    "table is read anew"
                )
            self._places.append((place, one))

    def __call__(self, values: list[Any] | None) -> Any:
        if values is None:
            return None
        found = [one.default if place < 0 else _unpacked(values[place], one) for place, one in self._places]
        return self._made(*found)


def _still_is(written: list[Any], one: EventField) -> bool:
    """Whether values of a field as it was are values of it now."""
    _, kind, is_nullable, categories, *size = written
    _, *now = one.definition()
    return [kind, is_nullable and one.nullable, categories, *size] == [now[0], is_nullable, *now[2:]]


def _packed(row: Any) -> list[Any] | None:
    if row is None:
        return None
    return [value.tobytes() if isinstance(value, np.ndarray) else value for value in msgspec.structs.astuple(row)]


def _unpacked(value: Any, one: EventField) -> Any:
    return value if one.size is None or value is None else np.frombuffer(value, np.float64)


def _decoded(lookup: Lookup, content: bytes) -> Entry:
    try:
        entry = msgspec.msgpack.decode(content, type=Entry)
    except (msgspec.DecodeError, ValueError) as error:
        raise StateCorruptError(f"lookup {lookup.name}: an entry of {len(content)} bytes is none: {error}") from error
    if entry.version != VERSION:
        raise StateVersionError(
            f"lookup {lookup.name}: the state has version {entry.version}, this Millrace reads {VERSION}"
        )
    lengths = {len(entry.keys), len(entry.times_ms), len(entry.partitions), len(entry.offsets), len(entry.rows)}
    if len(lengths | ({len(entry.floors_ms)} if entry.is_all else set())) > 1:
        raise StateCorruptError(f"lookup {lookup.name}: an entry has {len(entry.keys)} rows, not as many of the rest")
    return entry
