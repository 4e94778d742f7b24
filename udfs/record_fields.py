"""What is read of a JSON object: a struct with the wanted fields, however deep they are, and getters of them."""

import operator
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import msgspec

from udfs.event_rows import Names
from udfs.events import EventField

Getter = Callable[[Any], Any]


def flat_type(fields: Sequence[EventField], names: Sequence[str]) -> Any:
    """A struct of fields.

    Args:
        fields: n fields.
        names: n names that they have in a record, no two alike.
    """
    rename = {one.name: name for one, name in zip(fields, names, strict=True) if one.name != name}
    return msgspec.defstruct("Event", [struct_field(one) for one in fields], rename=rename, gc=False, kw_only=True)


def struct_field(one: EventField) -> tuple[Any, ...]:
    """A field of an event as one of a struct: name, type, and the default where it may be absent."""
    kinds: dict[str, Any] = {
        "str": str, "int": int, "float": float, "bool": bool,
        "vector": Annotated[list[float], msgspec.Meta(min_length=one.size, max_length=one.size)],
    }  # fmt: skip
    kind = kinds[one.kind] if one.categories is None else Literal[one.categories]
    if one.nullable:
        kind = kind | None
    return (one.name, kind, one.default) if one.optional else (one.name, kind)


def nested_type(leaves: Sequence[tuple[EventField, Names]]) -> tuple[Any, dict[str, Getter]]:
    """An object of a record with the fields that are wanted of it, itself or deeper.

    Args:
        leaves: Fields of an event, and where each is in the object.

    Returns:
        A struct, and what reads each field of it.
    """
    kind, attributes = _level(leaves)
    return kind, {one.name: _getter(one, attributes[one.name]) for one, _ in leaves}


def _level(leaves: Sequence[tuple[EventField, Names]]) -> tuple[Any, dict[str, Names]]:
    here = {path[0]: one for one, path in leaves if len(path) == 1}
    deeper: dict[str, list[tuple[EventField, Names]]] = {}
    for one, path in leaves:
        if len(path) > 1:
            deeper.setdefault(path[0], []).append((one, path[1:]))
    # attributes have names of their own, for a record's may be anything, and one may give several fields
    attributes = {name: f"_{number}" for number, name in enumerate([*here, *deeper])}
    fields: list[Any] = []
    for name, one in here.items():
        _, *kind_and_default = struct_field(one)
        fields.append((attributes[name], *kind_and_default))
    found: dict[str, Names] = {one.name: (attributes[path[0]],) for one, path in leaves if len(path) == 1}
    for name, below in deeper.items():
        level, places = _level(below)
        is_optional = all(one.optional for one, _ in below)
        fields.append((attributes[name], level | None, None) if is_optional else (attributes[name], level))
        found.update({field: (attributes[name], *deep) for field, deep in places.items()})
    rename = {attribute: name for name, attribute in attributes.items()}
    return msgspec.defstruct("Record", fields, rename=rename, gc=False, kw_only=True), found


def _getter(one: EventField, attributes: Names) -> Getter:
    """Reads an attribute, below others if there are several; the default where one of those is None."""
    if len(attributes) == 1:
        return operator.attrgetter(attributes[0])

    def get(row: Any) -> Any:
        for name in attributes:
            if row is None:
                return one.default
            row = getattr(row, name)
        return row

    return get
