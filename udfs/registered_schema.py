"""A schema as a registry has it, and the two ways in which it cannot be had.

Logic does no I/O: whoever asks a registry is handed to the decoders as a `SchemaSource`.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

SchemaKind = Literal["AVRO", "PROTOBUF", "JSON"]


class RegisteredSchema(NamedTuple):
    """One schema of a registry.

    Attributes:
        id: The number in front of records written with it.
        kind: "AVRO", "PROTOBUF" or "JSON".
        text: The schema as it was registered.
        references: Schemas that it names, as (name, kind, text), each after those that it names itself.
    """

    id: int
    kind: SchemaKind
    text: str
    references: tuple[tuple[str, SchemaKind, str], ...] = ()


class SchemaUnknownError(LookupError):
    """The registry answered that it has no such schema: the record that names it can never be read."""


class RegistryUnreachableError(RuntimeError):
    """The registry did not answer, or not with a schema: nothing is known about the record, so try again later."""


SchemaSource = Callable[[int], RegisteredSchema]
"""The schema of an id. Raises SchemaUnknownError or RegistryUnreachableError."""


def no_schemas(schema_id: int) -> RegisteredSchema:
    """Where there is no registry."""
    raise RegistryUnreachableError(
        f"a record names schema {schema_id}, but there is no schema registry: set schema_registry to its address"
    )
