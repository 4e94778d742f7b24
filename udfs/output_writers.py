"""Columns of predictions or features -> the values of records, in the format that the pipeline says."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from udfs.byte_lines import Lines
from udfs.confluent_wire import head_of
from udfs.errors import DefinitionError
from udfs.formats import Json, JsonSchema
from udfs.output_fields import OutputValues
from udfs.registered_schema import RegisteredSchema

ValueWriter = Callable[[list[Iterable[Any]], npt.NDArray[np.float64] | None], Lines]
"""Columns, without that of features, and (n, F) features -> n values."""


def value_writer(values: OutputValues, schema: RegisteredSchema | None) -> ValueWriter:
    """What writes the values of a topic.

    Args:
        values: Which.
        schema: What they are written with, as it was registered; None where none has to be.

    Raises:
        DefinitionError: The schema is none, or is not registered and has to be.
    """
    form = values.form
    if isinstance(form, Json | JsonSchema):
        head = head_of(_id_of(values, schema)) if isinstance(form, JsonSchema) and form.framed else b""
        return _json_writer(values, head)
    from udfs import output_values

    if form.framed:
        _id_of(values, schema)
    own = schema or output_values.value_schema(values)
    assert own is not None
    return output_values.value_writer(values, own)


def _json_writer(values: OutputValues, head: bytes) -> ValueWriter:
    vector: Any = None
    if values.features:
        renamed = {f"feature_{place}": name for place, name in enumerate(values.features)}
        vector = msgspec.defstruct("Features", [(one, float) for one in renamed], rename=renamed, gc=False)
    record: Any = msgspec.defstruct("Values", [(name, Any) for name in values.names], gc=False)
    encode_lines = msgspec.json.Encoder().encode_lines

    def write(columns: list[Iterable[Any]], features: npt.NDArray[np.float64] | None) -> Lines:
        if vector is not None and features is not None:
            columns = [*columns, map(vector, *features.T.tolist())]
        lines = Lines.split(encode_lines(list(map(record, *columns))))
        return lines if not head else Lines.of([head + (value or b"") for value in lines.tolist()])

    return write


def _id_of(values: OutputValues, schema: RegisteredSchema | None) -> int:
    if schema is None or schema.id == 0:
        raise DefinitionError(
            f"{values.setting} names a schema in a registry: register it before {values.what} are made"
        )
    return schema.id
