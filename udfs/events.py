"""What an event is: a class with annotations, and which of its fields are the entity, the time and the id."""

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from udfs.errors import DefinitionError
from udfs.formats import Format, Json, KeyFormat, Text, check_format, check_key_format

if TYPE_CHECKING:
    from udfs.sources import Source

Kind = Literal["str", "int", "float", "bool", "vector"]
_KINDS: dict[type, Kind] = {str: "str", int: "int", float: "float", bool: "bool"}
TIME_UNITS_NS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
UNITS_PER_S = {unit: TIME_UNITS_NS["s"] // ns for unit, ns in TIME_UNITS_NS.items()}
Tombstones = Literal["dead-letter", "ignore"]
"""What becomes of a record without a value: a dead letter, or nothing, which is counted (`recordsPassedOver`)."""
_KIND_TYPES: dict[Kind, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "float": (int, float), "bool": (bool,), "vector": (),
}  # fmt: skip
MOST_ELEMENTS = 65_536
"""Of a vector."""
_WHOLE = range(-(2**63), 2**63)
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")

MAX_EVENT_TIME_MS = 253_402_300_799_999
"""The end of the year 9999. Times lie in 0..MAX_EVENT_TIME_MS; whoever decodes events refuses others."""


def last_time(unit: str) -> float:
    """MAX_EVENT_TIME_MS in another unit of `TIME_UNITS_NS`."""
    return MAX_EVENT_TIME_MS * (UNITS_PER_S[unit] // 1_000 or 1e-3)


def times_in_ms(values: Sequence[int | float], unit: str) -> npt.NDArray[np.int64]:
    """Times in a unit of `TIME_UNITS_NS` since 1970, in ms, rounded down: (n,) int64."""
    if unit == "ms":
        times = np.array(values)
        return times if times.dtype == np.int64 else np.floor(times).astype(np.int64)
    unit_ns = TIME_UNITS_NS[unit]
    if unit_ns >= 1_000_000:
        factor = unit_ns // 1_000_000
        # a float of seconds misses its own milliseconds by a rounding error that floor would turn into one ms
        return np.array(
            [v * factor if isinstance(v, int) else int(round(v * factor, 3) // 1) for v in values], np.int64
        )
    divisor = 1_000_000 // unit_ns
    return np.array([int(v // divisor) for v in values], dtype=np.int64)


@dataclass(frozen=True)
class EventField:
    """One field of an event.

    Attributes:
        name: As in the event class and on the wire.
        kind: Its type; "vector" is a list of floats.
        nullable: Whether None is allowed.
        categories: The values a `Literal[...]` allows, in its order; None for an open type.
        default: What it is in a record that does not have it. Without one that is None, if it is nullable; else such a
            record is no event.
        size: How many floats it has, of a vector; None of a single value.
    """

    name: str
    kind: Kind
    nullable: bool
    categories: tuple[str | int | bool, ...] | None
    default: str | int | float | bool | None = None
    size: int | None = None

    @property
    def optional(self) -> bool:
        """Whether a record may be without it."""
        return self.nullable or self.default is not None

    def takes(self, value: Any) -> bool:
        """Whether it can have a value."""
        if value is None:
            return self.nullable
        fits = isinstance(value, _KIND_TYPES[self.kind]) and (self.kind == "bool" or not isinstance(value, bool))
        if fits and isinstance(value, int):
            fits = value in _WHOLE
        return fits and (self.categories is None or value in self.categories)

    def definition(self) -> list[Any]:
        """The type as plain data."""
        found = [self.name, self.kind, self.nullable, None if self.categories is None else list(self.categories)]
        return found if self.size is None else [*found, self.size]

    @property
    def elements(self) -> "tuple[EventField, ...]":
        """The numbers of a vector, each as a field of its own; none of anything else."""
        return tuple(
            EventField(element_name(self.name, place), "float", self.nullable, None) for place in range(self.size or 0)
        )


def element_name(vector: str, place: int) -> str:
    """What a number of a vector is called, like `embedding[3]`."""
    return f"{vector}[{place}]"


def split_element(name: str) -> tuple[str, int | None]:
    """The field that a name is of, and which of its numbers; None where it is the field itself."""
    vector, bracket, place = name.partition("[")
    return (vector, int(place[:-1])) if bracket else (name, None)


def value_getter(name: str) -> Callable[[Any], Any]:
    """Reads a field, or a number of a vector, of an event; None where the vector is null."""
    vector, place = split_element(name)
    get = attrgetter(vector)
    if place is None:
        return get

    def element(event: Any) -> Any:
        values = get(event)
        return None if values is None else values[place]

    return element


def _parse_field(owner: type, name: str, annotation: Any) -> EventField:
    nullable = False
    if get_origin(annotation) in (Union, types.UnionType):
        options = [option for option in get_args(annotation) if option is not type(None)]
        nullable = len(options) < len(get_args(annotation))
        annotation = options[0] if len(options) == 1 else annotation
    categories = get_args(annotation) if get_origin(annotation) is Literal else None
    size = _vector_size(owner, name, annotation)
    if size is not None:
        kind: Kind | None = "vector"
    elif categories is not None:
        nullable = nullable or None in categories
        categories = tuple(value for value in categories if value is not None)
        kinds = {_KINDS.get(type(value)) for value in categories}
        kind = kinds.pop() if len(kinds) == 1 else None
    else:
        kind = _KINDS.get(annotation)
    if kind is None:
        raise DefinitionError(
            f"{owner.__name__}.{name} is {annotation!r}; write str, int, float, bool, Literal[...] of one of them, "
            "Annotated[list[float], 16] for a vector of 16 numbers, or one of these with | None"
        )
    found = EventField(name, kind, nullable, categories, size=size)
    default = _default(owner, name)
    if not (default is None or found.takes(default)):
        raise DefinitionError(f"{owner.__name__}.{name} has the default {default!r}, which that field cannot have")
    if kind == "float" and default is not None:
        default = float(default)
    return dataclasses.replace(found, default=default)


def _vector_size(owner: type, name: str, annotation: Any) -> int | None:
    """The size that `Annotated[list[float], size]` says; None of another type."""
    if get_origin(annotation) is not Annotated:
        return None
    of, *said = get_args(annotation)
    size = said[0] if len(said) == 1 else None
    if of != list[float] or isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MOST_ELEMENTS:
        raise DefinitionError(
            f"{owner.__name__}.{name} is {annotation!r}; a vector of 16 numbers is Annotated[list[float], 16], of at "
            f"most {MOST_ELEMENTS:,}"
        )
    return size


def _default(owner: type, name: str) -> Any:
    """What the class says: `price: float = 0.0`, or the same in a dataclass."""
    found = inspect.getattr_static(owner, name, None)
    if not inspect.isdatadescriptor(found):
        return found
    declared = getattr(owner, "__dataclass_fields__", {}).get(name)  # of a dataclass with slots
    default = None if declared is None else declared.default
    return None if default is dataclasses.MISSING else default


def fields_of(described: type, where: str) -> tuple[EventField, ...]:
    """The annotated fields of a class, in order.

    Raises:
        DefinitionError: It is no class, has none, or one of a type that events cannot have; `where` begins the message.
    """
    if not isinstance(described, type):
        raise DefinitionError(f"{where}: {described!r} is not a class; give the class that says the fields")
    try:
        hints = get_type_hints(described, include_extras=True)
    except NameError as error:
        raise DefinitionError(f"{described.__name__}: an annotation cannot be resolved ({error})") from error
    hints = {name: hint for name, hint in hints.items() if not name.startswith("_")}
    if not hints:
        raise DefinitionError(f"{described.__name__} has no annotated fields; write e.g. `user_id: str`")
    return tuple(_parse_field(described, name, hint) for name, hint in hints.items())


def check_topic(topic: str, setting: str) -> None:
    """Refuse what Kafka would refuse as a topic name."""
    if not isinstance(topic, str) or not _TOPIC.fullmatch(topic) or topic in (".", ".."):
        raise DefinitionError(f"{setting} is {topic!r}; write a Kafka topic name (letters, digits, '.', '_' and '-')")


@dataclass(frozen=True)
class Events:
    """The events of a topic.

    Attributes:
        type: A class with annotations: str, int, float, bool, Literal[...], Annotated[list[float], 16] for a vector of
            16 numbers, and any of them | None.
        topic: Kafka topic they come from.
        partitions: How many partitions the topic is created with.
        entity: Field whose value is the Kafka key: features are kept per entity.
        time: Field with the event time.
        id: Field that identifies an event.
        time_unit: Unit of `time` since 1970: "s", "ms", "us" or "ns"; a float keeps its fraction, down to the ms.
        renamed: Old name by new name of fields that were renamed: states written before are read with it. It may stay
            for as long as such a state is restored. Avro and Protobuf events of before are read with it, too.
        format: How the values are written.
        key_format: How the keys are written.
        fields: What an event's field is called in the record, where that is not its name, or which part of the Kafka
            record it is: see `udfs.sources.Source`.
        tombstones: What becomes of records without a value.
        sources: Topics that the events come from, when none is keyed by the entity alone: their records are taken to
            `topic` first, which then is the pipeline's own. None means that `topic` is written by others.
        schema: The fields in order (derived).
    """

    type: type
    topic: str
    partitions: int = 1
    entity: str = field(kw_only=True)
    time: str = field(kw_only=True)
    id: str = field(kw_only=True)
    time_unit: str = field(default="ms", kw_only=True)
    renamed: Mapping[str, str] = field(default_factory=dict, kw_only=True, hash=False)
    format: Format = field(default_factory=Json, kw_only=True)
    key_format: KeyFormat = field(default_factory=Text, kw_only=True)
    fields: Mapping[str, str] = field(default_factory=dict, kw_only=True, hash=False)
    tombstones: Tombstones = field(default="dead-letter", kw_only=True)
    sources: "Sequence[Source]" = field(default=(), kw_only=True)
    schema: tuple[EventField, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "schema", fields_of(self.type, "Events"))
        check_topic(self.topic, "Events: topic")
        if not isinstance(self.partitions, int) or self.partitions < 1:
            raise DefinitionError(f"Events: partitions is {self.partitions!r}; write a whole number from 1 on")
        if self.time_unit not in TIME_UNITS_NS:
            raise DefinitionError(f"Events: time_unit is {self.time_unit!r}; write one of {', '.join(TIME_UNITS_NS)}")
        check_format(self.format, "Events: format")
        check_key_format(self.key_format, "Events: key_format")
        self._check_renamed()
        for role, kinds in (("entity", ("str", "int")), ("time", ("int", "float")), ("id", ("str", "int"))):
            found = self.field(getattr(self, role), f"Events: {role}")
            if found.kind not in kinds or found.nullable:
                wanted = " or ".join(kinds)
                raise DefinitionError(f"Events: {role} field {found.name!r} must be {wanted} and not optional")
            if found.default is not None:
                raise DefinitionError(f"Events: {role} field {found.name!r} has a default: an event needs its own")
        self._check_sources()

    def _check_sources(self) -> None:
        from udfs.sources import check_places, check_sources

        object.__setattr__(self, "sources", tuple(self.sources))
        own = isinstance(self.format, Json) and isinstance(self.key_format, Text) and not self.fields
        if self.sources and not (own and self.tombstones == "dead-letter"):
            raise DefinitionError(
                "Events: format, key_format, fields and tombstones say how others write the topic, and with sources "
                "Millrace writes it itself: say them of each Source"
            )
        check_places(self.own_source, self.schema, "Events")
        check_sources(self.sources, self.topic, self.schema)

    def _check_renamed(self) -> None:
        names = [found.name for found in self.schema]
        for new, old in self.renamed.items():
            self.field(new, "Events: renamed")
            if old in names or list(self.renamed.values()).count(old) > 1:
                raise DefinitionError(
                    f"Events: renamed says {new!r} was {old!r}; write a name that no other field has or had"
                )

    @property
    def own_source(self) -> "Source":
        """The topic itself, as others write it."""
        from udfs.sources import Source

        return Source(
            self.topic,
            fields=self.fields,
            format=self.format,
            key_format=self.key_format,
            tombstones=self.tombstones,
        )

    @property
    def source_topics(self) -> list[str]:
        """Topics of the sources."""
        return [source.topic for source in self.sources]

    @property
    def headers(self) -> list[str]:
        """Headers that fields are read from in the events' topic."""
        return self.own_source.headers(self.schema)

    @property
    def source_headers(self) -> list[str]:
        """Headers that fields are read from in some source."""
        return sorted({name for source in self.sources for name in source.headers(self.schema)})

    @property
    def new_names(self) -> dict[str, str]:
        """New name by old name, of fields that were renamed, numbers of vectors included."""
        found = {old: new for new, old in self.renamed.items()}
        for one in self.schema:
            if one.name in self.renamed:
                old = self.renamed[one.name]
                found |= {element_name(old, place): each.name for place, each in enumerate(one.elements)}
        return found

    @property
    def vectors(self) -> "tuple[EventField, ...]":
        """The fields that are vectors."""
        return tuple(one for one in self.schema if one.size is not None)

    def field(self, name: str, where: str) -> EventField:
        """The field of that name.

        Raises:
            DefinitionError: If the event class has none; says which it has. `where` begins the message.
        """
        for found in self.schema:
            if found.name == name:
                return found
        names = ", ".join(found.name for found in self.schema)
        raise DefinitionError(f"{where}: {self.type.__name__} has no field {name!r}; it has {names}")

    def times_ms(self, values: Sequence[int | float]) -> npt.NDArray[np.int64]:
        """Event times in ms since 1970, rounded down.

        Args:
            values: Times in `time_unit`.

        Returns:
            (n,) int64.
        """
        return times_in_ms(values, self.time_unit)
