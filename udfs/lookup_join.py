"""Events -> the rows that they name, as of their times: fields of theirs to features.

    event's key, time - delay -> version of the row -> its fields, or the defaults, which is counted
                                                    -> its place, which the receipt tells

A job asks the table as it has it, a backfill the whole history.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any, NamedTuple, Protocol, get_args

import numpy as np
import numpy.typing as npt

from udfs.lookup_entries import RowVersion, row_type
from udfs.lookup_table import FILE_PARTITION, Missing
from udfs.lookups import Lookup
from udfs.pipeline import Pipeline

_NO_ROW = "-"
Reasons = get_args(Missing)
Found = RowVersion | Missing
RowsSeen = Callable[[Sequence[Any], npt.NDArray[np.int64]], Mapping[str, Sequence[Any]]]
"""Events of a block of records and which records they are -> of each table, the rows that they see."""


class Versions(Protocol):
    """Where versions of rows are looked for."""

    def find_all(self, keys: Sequence[str | None], as_of_ms: npt.NDArray[np.int64]) -> list[Found]:
        """As of `LookupTable`."""


class Joined(NamedTuple):
    """What n events see.

    Attributes:
        rows: Of each table, the n rows; the defaults where there is none.
        places: n texts of where those rows are, for receipts: `products=2/1234,users=-`.
    """

    rows: dict[str, list[Any]]
    places: list[str]


class Join(Protocol):
    """Joins events with tables."""

    def of(self, events: Sequence[Any]) -> Joined:
        """The rows of n events, objects with the event's fields."""


class LookupJoin:
    """Joins the events of one pipeline with its tables.

    Args:
        pipeline: One with lookups.
        tables: By name.

    Attributes:
        missing: Of each table, how many events so far had no row, by the reason.
    """

    def __init__(self, pipeline: Pipeline, tables: Mapping[str, Versions]) -> None:
        events = pipeline.events
        self._times_ms, self._time_of = events.times_ms, attrgetter(events.time)
        self._tables = [_Side(each, tables[each.name]) for each in pipeline.lookups]
        self.missing: dict[str, dict[Missing, int]]
        self.missing = {each.name: dict.fromkeys(Reasons, 0) for each in pipeline.lookups}

    def of(self, events: Sequence[Any]) -> Joined:
        """The rows of n events, objects with the event's fields."""
        rows, places = dict[str, list[Any]](), list[list[str]]()
        found = self.find(events)
        for side in self._tables:
            name, counts = side.lookup.name, self.missing[side.lookup.name]
            taken, at = list[Any](), list[str]()
            for each in found[name]:
                if isinstance(each, str):
                    counts[each] += 1
                    taken.append(side.default)
                    at.append(f"{name}={_NO_ROW}")
                else:
                    taken.append(each.row)
                    at.append(f"{name}={each.partition}/{each.offset}")
            rows[name] = taken
            places.append(at)
        return Joined(rows, list(map(",".join, zip(*places, strict=True))))

    def missed(self) -> Counter[str]:
        """How many events so far had no row, by table and reason, like `products no_row`."""
        return Counter({f"{name} {why}": n for name, counts in self.missing.items() for why, n in counts.items()})

    def find(self, events: Sequence[Any]) -> dict[str, list[Found]]:
        """Of each table, what there is for n events; nothing is counted."""
        versions = {side.lookup.name: side.versions for side in self._tables}
        return {name: versions[name].find_all(*asked) for name, asked in self.asked(events).items()}

    def asked(self, events: Sequence[Any]) -> dict[str, tuple[list[str | None], npt.NDArray[np.int64]]]:
        """Of each table, the keys that n events name, and as of which (n,) times they ask."""
        times_ms = self._times_ms(list(map(self._time_of, events)))
        found = dict[str, tuple[list[str | None], npt.NDArray[np.int64]]]()
        for side in self._tables:
            keys = [None if value is None else str(value) for value in map(side.key_of, events)]
            found[side.lookup.name] = keys, times_ms - side.lookup.delay_ms
        return found


class _Side:
    """A table as events are joined with it."""

    def __init__(self, lookup: Lookup, versions: Versions) -> None:
        self.lookup, self.versions = lookup, versions
        self.key_of: Callable[[Any], Any] = attrgetter(lookup.event_field)
        self.default = default_row(lookup)


def places_told(text: str) -> dict[str, tuple[int, int] | None]:
    """What a text of `Joined.places` says: by table the partition and offset of the row, None where there was none.

    Raises:
        ValueError: It is none.
    """
    found = dict[str, tuple[int, int] | None]()
    for part in text.split(","):
        name, _, place = part.partition("=")
        if place == _NO_ROW:
            found[name] = None
        else:
            partition, offset = map(int, place.split("/"))
            if not (FILE_PARTITION <= partition < 2**31 and 0 <= offset < 2**63):
                raise ValueError(f"{place} is not where a row can be")
            found[name] = partition, offset
    return found


def default_row(lookup: Lookup) -> Any:
    """What an event without a row sees; the key is null."""
    values = list[Any]()
    for one in lookup.schema:
        value = lookup.default_of(one.name)
        if one.size is not None and value is not None:
            value = np.array(value, np.float64)
        elif one.kind == "float" and value is not None:
            value = float(value)
        values.append(value)
    return row_type(lookup)(*values)


class LookupHistory:
    """All versions that a table ever had: what a backfill joins with.

    Args:
        versions: Those of a partition in the order of their offsets.
    """

    def __init__(self, versions: Sequence[RowVersion]) -> None:
        self._codes: dict[str, int] = {}
        codes = np.array([self._codes.setdefault(each.key, len(self._codes)) for each in versions], np.int64)
        times_ms = np.array([each.time_ms for each in versions], np.int64)
        order = np.lexsort((times_ms, codes))  # stable: of one time, the last to come is the last
        self._times, codes, times_ms = np.unique(times_ms), codes[order], times_ms[order]
        self._ranks = self._rank(codes, np.searchsorted(self._times, times_ms))
        self.versions = [versions[place] for place in order.tolist()]

    def _rank(self, codes: npt.NDArray[np.int64], times: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Of a row at the `times`th time, among all rows at all times."""
        return codes * (len(self._times) + 1) + times

    def before(self, ends: Mapping[int, int]) -> "LookupHistory":
        """The history as it was when its topic ended at these offsets; of a file it is this one."""
        return LookupHistory([
            each for each in self.versions
            if each.partition == FILE_PARTITION or each.offset < ends.get(each.partition, 0)
        ])  # fmt: skip

    def at(self, partition: int, offset: int) -> RowVersion | None:
        """The version of a record of the table; None if it is not there (any more)."""
        return self._by_place.get((partition, offset))

    @cached_property
    def _by_place(self) -> dict[tuple[int, int], RowVersion]:
        return {(each.partition, each.offset): each for each in self.versions}

    def find_all(self, keys: Sequence[str | None], as_of_ms: npt.NDArray[np.int64]) -> list[Found]:
        """As of `LookupTable`."""
        known, nothing = self._codes, -1
        codes = np.array([nothing if key is None else known.get(key, nothing) for key in keys], np.int64)
        # -1 for before all times: then what is found is the row before, or none
        times = np.searchsorted(self._times, as_of_ms, side="right") - 1
        places = np.searchsorted(self._ranks, self._rank(codes, times), side="right") - 1
        found = list[Found]()
        for key, code, place in zip(keys, codes.tolist(), places.tolist(), strict=True):
            if key is None:
                found.append("no_key")
            elif code < 0:
                found.append("no_row")
            elif place < 0 or self.versions[place].key != key:
                found.append("too_early")
            else:
                version = self.versions[place]
                found.append("no_row" if version.row is None else version)
        return found
