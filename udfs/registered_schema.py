"""A schema as a registry gives it; who asks a registry is handed to the decoders, for logic does no I/O."""

from collections.abc import Callable
from typing import NamedTuple


class RegisteredSchema(NamedTuple):
    """A schema with what it refers to.

    Attributes:
        id: Its number in the registry; records name it.
        kind: AVRO, PROTOBUF or JSON.
        text: As it was registered.
        references: (name, kind, text) of each schema it refers to, those that are referred to first.
    """

    id: int
    kind: str
    text: str
    references: tuple[tuple[str, str, str], ...] = ()


class SchemaUnknownError(LookupError):
    """The registry says that it has no such schema."""


class RegistryUnreachableError(RuntimeError):
    """The registry did not answer: nothing can be said about a record until it does."""


SchemaSource = Callable[[int], RegisteredSchema]
"""The schema of an id. Raises SchemaUnknownError or RegistryUnreachableError."""


def no_schemas(schema_id: int) -> RegisteredSchema:
    """Where there is no registry."""
    raise RegistryUnreachableError(
        f"a record names schema {schema_id}, but there is no schema registry: set schema_registry to its address"
    )
