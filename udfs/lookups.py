"""Lookups: tables of attributes that events are joined with, like the price of the product that an event names.

A table is a topic of rows by key, compacted or not, or a file. A row's fields are fields of the event to features:
`products.price`. What an event sees is said in `udfs.lookup_table`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from typing import Any

from udfs.durations import parse_duration
from udfs.errors import DefinitionError
from udfs.events import EventField, Events, fields_of, split_element
from udfs.formats import Format, Json, KeyFormat, Text

LEAST_HISTORY_MS = 3_600_000
_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")


@dataclass(frozen=True)
class Lookup:
    """A table of rows, and which field of the event names a row.

    Attributes:
        name: Of the table; its fields are `<name>.<field>` to features.
        type: A class with annotations, as of an event: the fields of a row.
        key: The row's field that is its key, and the key of its record in Kafka.
        by: The event's field with the key of a row; None means that it is called as `key`.
        topic: Of the rows. A record without a value deletes its row.
        file: A Parquet, CSV or JSON-lines file of rows instead of a topic.
        time: The row's field that says from when on it is valid; None is for files, whose rows then always were.
        time_unit: Unit of `time` since 1970: "s", "ms", "us" or "ns".
        defaults: What fields are where there is no row for an event. Of others, what the class says, or null.
        delay: Rows are valid that much later, in every engine: longer than rows take to arrive, the job sees what a
            backfill sees. None is not at all.
        history: How long a version is kept after the next one is valid; None means the pipeline's lateness, and an
            hour at least.
        most_versions: Most versions kept of a row; the oldest goes first.
        most_rows: A table of so many rows takes no further keys.
        max_record_bytes: A larger record is no row.
        format: How the values are written.
        key_format: How the keys are written.
        fields: What a field is called in the record, or which part of the record it is; see `udfs.sources.Source`.
        schema: The fields in order (derived).
    """

    name: str
    type: type
    key: str = dataclass_field(kw_only=True)
    by: str | None = dataclass_field(default=None, kw_only=True)
    topic: str | None = dataclass_field(default=None, kw_only=True)
    file: str | None = dataclass_field(default=None, kw_only=True)
    time: str | None = dataclass_field(default=None, kw_only=True)
    time_unit: str = dataclass_field(default="ms", kw_only=True)
    defaults: Mapping[str, Any] = dataclass_field(default_factory=dict, kw_only=True, hash=False)
    delay: str | None = dataclass_field(default=None, kw_only=True)
    history: str | None = dataclass_field(default=None, kw_only=True)
    most_versions: int = dataclass_field(default=100, kw_only=True)
    most_rows: int = dataclass_field(default=1_000_000, kw_only=True)
    max_record_bytes: int = dataclass_field(default=1_000_000, kw_only=True)
    format: Format = dataclass_field(default_factory=Json, kw_only=True)
    key_format: KeyFormat = dataclass_field(default_factory=Text, kw_only=True)
    fields: Mapping[str, str] = dataclass_field(default_factory=dict, kw_only=True, hash=False)
    schema: tuple[EventField, ...] = dataclass_field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise DefinitionError(f"Lookup: name is {self.name!r}; write lower-case letters, digits and '_'")
        where = f"lookup {self.name}"
        object.__setattr__(self, "schema", fields_of(self.type, where))
        if (self.topic is None) == (self.file is None):
            raise DefinitionError(f"{where}: write where its rows are, topic='...' or file='...'")
        if self.topic is not None and self.time is None:
            raise DefinitionError(
                f"{where}: time is the field that says from when on a row is valid; where rows have none, write "
                "changed_at: int in the class, time='changed_at' and fields={'changed_at': '@timestamp'}"
            )
        roles = [("key", self.key, ("str", "int")), *([("time", self.time, ("int", "float"))] if self.time else [])]
        for role, name, kinds in roles:
            found = self.field(name, f"{where}: {role}")
            if found.kind not in kinds or found.nullable:
                raise DefinitionError(f"{where}: {role} field {name!r} must be {' or '.join(kinds)} and not optional")
        for setting in ("delay", "history"):
            if getattr(self, setting) is not None:
                parse_duration(getattr(self, setting), f"{where}: {setting}")
        for setting in ("most_versions", "most_rows", "max_record_bytes"):
            number = getattr(self, setting)
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise DefinitionError(f"{where}: {setting} is {number!r}; write a whole number from 1 on")
        self._check_defaults(where)
        if self.topic is not None:
            _ = self.events  # says what is wrong with the topic, formats and fields
        elif self.fields:
            raise DefinitionError(f"{where}: fields says where records of a topic have them; a file has columns")

    def _check_defaults(self, where: str) -> None:
        for name, value in self.defaults.items():
            found = self.field(name, f"{where}: defaults")
            if name == self.key:
                raise DefinitionError(f"{where}: defaults names the key, which an event without a row has all the same")
            if not self.takes(found, value):
                raise DefinitionError(f"{where}: the default {name} is {value!r:.80}, which that field cannot have")

    def field(self, name: str, where: str) -> EventField:
        """The field of that name.

        Raises:
            DefinitionError: A row has none; says which it has. `where` begins the message.
        """
        for found in self.schema:
            if found.name == name:
                return found
        names = ", ".join(found.name for found in self.schema)
        raise DefinitionError(f"{where}: {self.type.__name__} has no field {name!r}; it has {names}")

    @property
    def events(self) -> Events:
        """The rows of a topic as records are read: what `RecordReader` makes of them."""
        assert self.topic is not None
        assert self.time is not None
        return Events(
            self.type, self.topic, entity=self.key, time=self.time, id=self.key, time_unit=self.time_unit,
            format=self.format, key_format=self.key_format, fields=self.fields,
        )  # fmt: skip

    @property
    def event_field(self) -> str:
        """The event's field with the key of a row."""
        return self.by or self.key

    @property
    def delay_ms(self) -> int:
        """How much later rows are valid."""
        return 0 if self.delay is None else parse_duration(self.delay, "delay")

    def history_ms(self, lateness_ms: int) -> int:
        """How long a version is kept after the next one is valid, in a pipeline of that lateness."""
        return max(lateness_ms, LEAST_HISTORY_MS) if self.history is None else parse_duration(self.history, "history")

    @staticmethod
    def takes(field: EventField, value: Any) -> bool:
        """Whether a row may have that value of a field."""
        return field.takes(value) if field.size is None or value is None else _is_vector(value, field.size)

    def default_of(self, name: str) -> Any:
        """What a field is where there is no row; None for null."""
        return self.defaults[name] if name in self.defaults else self.field(name, "Lookup").default

    def event_fields(self) -> list[EventField]:
        """The fields of a row as fields of an event, and behind them the numbers of vectors."""
        whole = [replace(one, name=f"{self.name}.{one.name}", default=None) for one in self.schema]
        return [*whole, *(each for one in whole for each in one.elements)]

    def definition(self, read: Sequence[str]) -> dict[str, Any]:
        """What the values of some of its fields depend on, as plain data."""
        defaults = {name: self.default_of(name) for name in sorted(read)}
        return {"by": self.event_field, "delay_ms": self.delay_ms, "defaults": defaults}


def _is_vector(value: Any, size: int) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == size
        and all(isinstance(number, int | float) and not isinstance(number, bool) for number in value)
        and not any(math.isinf(number) for number in value)
    )


def split_lookup(name: str) -> tuple[str, str] | None:
    """Table and field of a name like `products.price` or `products.taste[3]`; None of a field of the event itself."""
    table, dot, field = split_element(name)[0].partition(".")
    return (table, field) if dot else None


def table_topics(lookups: Sequence[Lookup]) -> list[str]:
    """The topics of tables, each once: one may be looked up by several fields."""
    return list(dict.fromkeys(each.topic for each in lookups if each.topic is not None))


def check_lookups(lookups: Sequence[Lookup], events: Events, where: str) -> None:
    """Refuse tables that events of a pipeline cannot be joined with.

    Raises:
        DefinitionError: Says what to write; `where` begins the message.
    """
    if not isinstance(lookups, list | tuple):
        raise DefinitionError(f"{where}: lookups is {lookups!r}; write lookups=[Lookup('products', Product, ...)]")
    names = [each.name if isinstance(each, Lookup) else "" for each in lookups]
    own = [one.name for one in events.schema]
    for each in lookups:
        if not isinstance(each, Lookup):
            raise DefinitionError(f"{where}: lookups has {each!r}; write Lookup('products', Product, ...)")
        if names.count(each.name) > 1:
            raise DefinitionError(f"{where}: two lookups are called {each.name!r}")
        if each.name in own:
            raise DefinitionError(f"{where}: lookup {each.name!r} is called like a field of the event; rename it")
        by = events.field(each.event_field, f"{where}: lookup {each.name}: by")
        key = each.field(each.key, "")
        if by.kind != key.kind:
            raise DefinitionError(
                f"{where}: lookup {each.name}: the event's {by.name} is {by.kind}, the key {key.name} is {key.kind}"
            )


def check_defaults(lookups: Sequence[Lookup], read: Sequence[str], where: str) -> None:
    """Refuse features of fields that are nothing where there is no row.

    Args:
        lookups: The tables.
        read: Names of the fields that features read.
        where: Begins the message.

    Raises:
        DefinitionError: Says what to write.
    """
    tables = {each.name: each for each in lookups}
    for table, name in dict.fromkeys(found for found in map(split_lookup, read) if found is not None):
        one = tables[table].field(name, where)
        if tables[table].default_of(name) is None and not one.nullable:
            raise DefinitionError(
                f"{where}: {table}.{name} is nothing for an event without a row; write Lookup(..., "
                f"defaults={{{name!r}: ...}}), or {name}: {one.kind} | None in the class"
            )


def lookups_read(lookups: Sequence[Lookup], read: Sequence[str]) -> dict[str, Any]:
    """What fields of features that are of rows depend on beside their types, by table; for the features' hash."""
    found: dict[str, list[str]] = {}
    for table, name in dict.fromkeys(each for each in map(split_lookup, read) if each is not None):
        found.setdefault(table, []).append(name)
    return {each.name: each.definition(found[each.name]) for each in lookups if each.name in found}


def describe_lookup(lookup: Lookup) -> dict[str, Any]:
    """A table as plain data."""
    return {
        "name": lookup.name,
        "topic": lookup.topic,
        "file": lookup.file,
        "fields": [one.name for one in lookup.schema],
        "key": lookup.key,
        "by": lookup.event_field,
        "time": lookup.time,
        "delay": lookup.delay,
        "history": lookup.history,
    }
