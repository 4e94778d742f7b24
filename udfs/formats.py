"""The byte formats of events, keys and predictions, as a user writes them: `Events(..., format=Avro())`.

Without `schema`, records are in Confluent's wire format: a zero byte and the 4-byte id of the schema they were written
with, which a schema registry knows. With `schema`, records are bare, and all were written with this one.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from udfs.errors import DefinitionError
from udfs.registered_schema import SchemaKind

SubjectStrategy = Literal["topic", "record", "topic-record"]
"""What a registry files a topic's schemas under: `<topic>-value`, the record's name, or `<topic>-<record's name>`."""


@dataclass(frozen=True)
class Text:
    """Keys that are the entity as text: `u1`, `12`."""


@dataclass(frozen=True)
class Json:
    """JSON objects, without a schema."""

    kind: ClassVar[SchemaKind] = "JSON"


@dataclass(frozen=True, kw_only=True)
class _WithSchema:
    """A format with schemas.

    Attributes:
        schema: The writer's schema as text, for bare records; None for records that name theirs in a registry.
        subject_strategy: What the registry files the schemas under.
    """

    kind: ClassVar[SchemaKind]
    schema: str | None = None
    subject_strategy: SubjectStrategy = "topic"

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.schema is not None and not (isinstance(self.schema, str) and self.schema.strip()):
            raise DefinitionError(
                f"{name}: schema is {self.schema!r:.60}; write the schema as text, like Path('event.avsc').read_text()"
            )
        if self.subject_strategy not in get_args(SubjectStrategy):
            raise DefinitionError(
                f"{name}: subject_strategy is {self.subject_strategy!r}; write one of "
                + ", ".join(get_args(SubjectStrategy))
            )

    @property
    def framed(self) -> bool:
        """Whether records name their schema."""
        return self.schema is None


@dataclass(frozen=True, kw_only=True)
class JsonSchema(_WithSchema):
    """JSON objects whose writers follow a JSON Schema.

    Events are checked against the event class alone: it says more strictly what the features need.
    """

    kind: ClassVar[SchemaKind] = "JSON"


@dataclass(frozen=True, kw_only=True)
class Avro(_WithSchema):
    """Avro records in binary encoding."""

    kind: ClassVar[SchemaKind] = "AVRO"


@dataclass(frozen=True, kw_only=True)
class Protobuf(_WithSchema):
    """Protobuf messages.

    Attributes:
        message: Full name of the message in `schema`; None means the first one. Framed records say it themselves.
    """

    kind: ClassVar[SchemaKind] = "PROTOBUF"
    message: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.message is not None and self.schema is None:
            raise DefinitionError(
                "Protobuf: message says which message of `schema` records are; with a registry they say it themselves"
            )


Format = Json | JsonSchema | Avro | Protobuf
KeyFormat = Text | Json | JsonSchema | Avro


def check_format(value: object, setting: str) -> None:
    """Refuse what is no format of values."""
    if not isinstance(value, Format):
        raise DefinitionError(f"{setting} is {value!r}; write Json(), JsonSchema(), Avro() or Protobuf()")


def check_key_format(value: object, setting: str) -> None:
    """Refuse what is no format of keys."""
    if isinstance(value, Protobuf):
        raise DefinitionError(
            f"{setting} is Protobuf(): a message has more than one encoding, so keys of one entity could differ and "
            "lie in different partitions; write Text(), Json(), JsonSchema() or Avro()"
        )
    if not isinstance(value, KeyFormat):
        raise DefinitionError(f"{setting} is {value!r}; write Text(), Json(), JsonSchema() or Avro()")


def needs_registry(*formats: object) -> bool:
    """Whether one of them can only be read or written with a registry's schemas."""
    return any(isinstance(each, Avro | Protobuf) and each.framed for each in formats)


def describe_format(value: Format | KeyFormat) -> str:
    """In a few words, for people."""
    if isinstance(value, Text):
        return "text"
    name = type(value).__name__
    if isinstance(value, Json):
        return name
    return f"{name} with {'schema ids of a registry' if value.framed else 'one schema'}"
