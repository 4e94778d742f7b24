"""Where events come from when no topic is keyed by the entity, or when several feed one entity's features.

A pipeline with sources has a topic of its own for its events, keyed by the entity. A hop in front of the scoring takes
the records of all sources there; everything else reads that topic, as it would one that others write.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from udfs.errors import DefinitionError
from udfs.events import TIME_UNITS_NS, EventField, Tombstones, check_topic
from udfs.formats import Format, Json, KeyFormat, Protobuf, Text, check_format, check_key_format

KEY, RECORD_TIME, PLACE, TOPIC = "@key", "@timestamp", "@place", "@topic"
HEADER_PART = "@header."
"""What the name of a header follows."""
RECORD_PARTS = {KEY: ("str", "int"), RECORD_TIME: ("int", "float"), PLACE: ("str",), TOPIC: ("str",)}
"""What an event can have of a Kafka record beside its value, and the kinds of field that take it."""
OPERATION, CHANGED_MS = "@op", "@ts_ms"
CHANGE_PARTS = {OPERATION: ("str",), CHANGED_MS: ("int", "float")}
"""What an event can have of a change event beside the row."""
OPERATIONS = {"create": "c", "update": "u", "delete": "d", "read": "r"}
"""Names of Debezium's operations; `read` is a row of a snapshot."""


@dataclass(frozen=True)
class Debezium:
    """Records are change events of a database table, as Debezium writes them; an event is a changed row.

    The row is `after`, of a deletion `before`. In JSON the envelope may stand alone or be the `payload` of a document
    with its schema. Changes that are not asked for are passed over, and tombstones unless the source says otherwise.

    Attributes:
        operations: Which changes are events: some of create, update, delete, read (a row of a snapshot).
    """

    operations: tuple[str, ...] = ("create", "update", "read")

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))
        unknown = [each for each in self.operations if each not in OPERATIONS]
        if unknown or not self.operations:
            raise DefinitionError(
                f"Debezium: operations is {self.operations!r}; write some of {', '.join(OPERATIONS)}"
            )

    @property
    def letters(self) -> frozenset[str]:
        """The operations as Debezium writes them."""
        return frozenset(OPERATIONS[each] for each in self.operations)


@dataclass(frozen=True)
class Source:
    """A topic whose records become events.

    Attributes:
        topic: Kafka topic; whoever writes it need not know of Millrace, and its key may be anything.
        fields: What an event's field is called in the record, where the names differ. A dot reaches into an object:
            `"user.id"`. Names with @ are parts of the Kafka record: `"@key"`, `"@timestamp"` (of the record),
            `"@header.NAME"` (a text, or a number or truth value written as JSON writes it), `"@place"`
            (topic/partition/offset: an id for records that have none), `"@topic"`; and of a change event: `"@op"` (c,
            u, d or r) and `"@ts_ms"` (when the database was changed).
        constants: Fields that have the same value in all events of this source, like what kind they are.
        time_unit: Unit of the event time in the record, if it is not the events' own; always ms with `"@timestamp"`
            and `"@ts_ms"`. A timestamp of a schema says its own.
        changes: How the records wrap a changed row; None for records that are events themselves.
        format: How the values are written.
        key_format: How the keys are written, for `"@key"`.
        tombstones: What becomes of records without a value; None ignores those of change events alone.
    """

    topic: str
    fields: Mapping[str, str] = field(default_factory=dict, hash=False)
    constants: Mapping[str, Any] = field(default_factory=dict, hash=False)
    time_unit: str | None = None
    changes: Debezium | None = None
    format: Format = field(default_factory=Json)
    key_format: KeyFormat = field(default_factory=Text)
    tombstones: Tombstones | None = None

    def __post_init__(self) -> None:
        check_topic(self.topic, "Source: topic")
        check_format(self.format, f"source {self.topic}: format")
        check_key_format(self.key_format, f"source {self.topic}: key_format")
        if self.tombstones not in (None, *get_args(Tombstones)):
            raise DefinitionError(
                f"topic {self.topic}: tombstones is {self.tombstones!r}; write one of {', '.join(get_args(Tombstones))}"
            )
        if self.time_unit is not None and self.time_unit not in TIME_UNITS_NS:
            raise DefinitionError(
                f"source {self.topic}: time_unit is {self.time_unit!r}; write one of {', '.join(TIME_UNITS_NS)}"
            )
        if self.changes is not None and not isinstance(self.changes, Debezium):
            raise DefinitionError(f"source {self.topic}: changes is {self.changes!r}; write changes=Debezium()")
        if self.changes is not None and isinstance(self.format, Protobuf):
            raise DefinitionError(f"source {self.topic}: change events are read in JSON, JsonSchema and Avro")

    @property
    def ignores_tombstones(self) -> bool:
        """Whether records without a value are passed over."""
        return self.changes is not None if self.tombstones is None else self.tombstones == "ignore"

    def value_fields(self, schema: Sequence[EventField]) -> list[EventField]:
        """The fields that are read from records' values."""
        return [
            one for one in schema if one.name not in self.constants and not self.path_of(one.name).startswith("@")
        ]

    def headers(self, schema: Sequence[EventField]) -> list[str]:
        """The headers that fields are read from."""
        paths = (self.path_of(one.name) for one in schema if one.name not in self.constants)
        return sorted({path.removeprefix(HEADER_PART) for path in paths if path.startswith(HEADER_PART)})

    def path_of(self, name: str) -> str:
        """Where the record has an event's field."""
        return self.fields.get(name, name)


def check_sources(sources: Sequence[Source], topic: str, schema: Sequence[EventField]) -> None:
    """Whether the sources can give the fields of an event.

    Raises:
        DefinitionError: Names the source and the field.
    """
    for source in sources:
        if not isinstance(source, Source):
            raise DefinitionError(f"Events: {source!r} is not a source; write Source('clicks')")
        if source.topic == topic:
            raise DefinitionError(
                f"source {topic} is also the events' own topic; give Events a topic of its own, like "
                f"topic='{topic}-by-entity'"
            )
        check_places(source, schema, f"source {source.topic}")
    topics = [source.topic for source in sources]
    twice = {each for each in topics if topics.count(each) > 1}
    if twice:
        raise DefinitionError(f"Events: two sources read topic {twice.pop()!r}; write one")


def check_places(source: Source, schema: Sequence[EventField], where: str) -> None:
    """Whether a topic can give the fields of an event.

    Raises:
        DefinitionError: Names the field; `where` begins the message.
    """
    fields = {each.name: each for each in schema}
    for name in (*source.fields, *source.constants):
        if name not in fields:
            raise DefinitionError(f"{where}: the event has no field {name!r}; it has {', '.join(fields)}")
    for name, path in source.fields.items():
        _check_path(where, fields[name], path, source.changes is not None)
    for name, value in source.constants.items():
        if not fields[name].takes(value):
            raise DefinitionError(f"{where}: the constant {name} is {value!r}, which that field cannot have")
        if name in source.fields:
            raise DefinitionError(f"{where}: {name!r} is in fields and in constants; leave it in one of them")
    paths = [source.path_of(one.name) for one in source.value_fields(schema)]
    objects = [path for path in paths if any(other.startswith(f"{path}.") for other in paths)]
    if objects:
        raise DefinitionError(f"{where}: fields read {objects[0]!r} as a value and as an object")


def _check_path(where: str, one: EventField, path: str, is_change: bool) -> None:
    if not isinstance(path, str) or not all(path.split(".")):
        raise DefinitionError(f"{where}: {one.name} is read from {path!r}; write the name of a field in the record")
    if path.startswith("@") and one.kind == "vector":
        raise DefinitionError(f"{where}: {one.name} is a vector, which no part of a record but the value holds")
    if not path.startswith("@") or path.removeprefix(HEADER_PART) not in (path, ""):
        return
    parts = {**RECORD_PARTS, **(CHANGE_PARTS if is_change else {})}
    if path not in parts:
        hint = "; only change events have it: write changes=Debezium()" if path in CHANGE_PARTS else ""
        raise DefinitionError(
            f"{where}: {one.name} is read from {path!r}; there are {', '.join(parts)}, "
            f"{HEADER_PART}NAME{hint}"
        )
    if one.kind not in parts[path]:
        raise DefinitionError(f"{where}: {one.name} is {one.kind}, and {path} is {' or '.join(parts[path])}")
