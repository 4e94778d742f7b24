"""What is known about an ONNX graph before anything runs it: bytes in, a description or a refusal out.

The `onnx` package parses (0.1 s to import, no model code runs); onnxruntime is given only what passed.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message

from models.json_document import ModelRefusedError
from models.manifest import DTYPES

MAX_MODEL_BYTES = 256 * 1024 * 1024
DOMAINS = ("ai.onnx", "ai.onnx.ml")
_MOST_ELEMENTS_A_BYTE = 4
"""The smallest type has two bits."""

_DTYPE_NAMES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float",
    onnx.TensorProto.DOUBLE: "double",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.BOOL: "bool",
    onnx.TensorProto.STRING: "string",
}


@dataclass(frozen=True)
class GraphValue:
    """One input or output of a graph.

    Attributes:
        name: Its name in the graph.
        kind: `tensor`, `zipmap` (a list of maps from class to score), `sequence` (a list of tensors) or `other`.
        dtype: Element type of a tensor or of a sequence's tensors, key type of a ZipMap: one of `DTYPES`, or `other`.
        shape: Dimensions of a tensor with None for those the graph leaves open; None where no shape is declared.
        classes: Keys of a ZipMap, in the order of its scores, as far as the graph says them.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int | None, ...] | None
    classes: tuple[int | str, ...] = ()

    @property
    def width(self) -> int | None:
        """Columns of a row, as far as the graph declares them."""
        if self.shape is None or len(self.shape) > 2:
            return None
        return self.shape[1] if len(self.shape) == 2 else 1

    @property
    def is_sequence(self) -> bool:
        """Whether a row is several events of several columns each."""
        return self.shape is not None and len(self.shape) == 3

    def row_shape(self, width: int) -> tuple[int, ...] | None:
        """The shape of a row of so many numbers: (), (columns,) or (events, columns); None if they do not fit in."""
        if self.shape is None:
            return (width,)
        if not self.is_sequence:
            return () if len(self.shape) == 1 else (width,)
        events, columns = self.shape[1:]
        if events is None:
            events = width // columns if columns else 0
        columns = width // events if columns is None and events else columns
        return (events, columns) if columns and events * columns == width else None

    @property
    def rows(self) -> int | None:
        """Rows that a call must have, where the graph fixes them."""
        return self.shape[0] if self.shape else None


@dataclass(frozen=True)
class ModelDescription:
    """The outside of a graph: what goes in, what comes out, which operators it is written in."""

    sha256: str
    inputs: tuple[GraphValue, ...]
    outputs: tuple[GraphValue, ...]
    opsets: dict[str, int]


def read_bytes(directory: Path, file_name: str, max_bytes: int) -> bytes:
    """Read one file of a model folder, once.

    Args:
        directory: The model folder.
        file_name: A file in it; a link is followed only when it ends inside the folder.
        max_bytes: The largest size read.

    Returns:
        The content.

    Raises:
        ModelRefusedError: The file is missing, outside the folder, not a regular file or too big.
    """
    path = directory / file_name
    real = path.resolve()
    if not real.is_relative_to(directory.resolve()):
        message = f"{path} leads out of its folder: put the file itself there"
        raise ModelRefusedError(message)
    if not real.is_file():
        message = f"{path} is not there: a model folder holds model.onnx and manifest.json"
        raise ModelRefusedError(message)
    with real.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        message = f"{path} is over {max_bytes:,} bytes: make the model smaller, or allow more with max_bytes"
        raise ModelRefusedError(message)
    return content


def describe_bytes(model_bytes: bytes, where: str) -> ModelDescription:
    """Check and describe a graph.

    Args:
        model_bytes: Content of `model.onnx`.
        where: What errors call it, normally its path.

    Returns:
        The description.

    Raises:
        ModelRefusedError: Not an ONNX model, data kept in other files, or operators outside `DOMAINS`.
    """
    try:
        model = onnx.load_model_from_string(model_bytes)
    except DecodeError as error:
        message = f"{where} is not an ONNX model ({error}): export the model again"
        raise ModelRefusedError(message) from error
    _refuse_what_is_not_self_contained(model, where)
    _refuse_unknown_opsets(model, where)
    initialised = {each.name for each in model.graph.initializer}
    initialised |= {each.values.name for each in model.graph.sparse_initializer}
    return ModelDescription(
        sha256=hashlib.sha256(model_bytes).hexdigest(),
        inputs=tuple(_value(each) for each in model.graph.input if each.name not in initialised),
        outputs=tuple(_value(each, _classes(model, each.name)) for each in model.graph.output),
        opsets={each.domain or "ai.onnx": each.version for each in model.opset_import},
    )


def describe_model(path: Path) -> ModelDescription:
    """Check and describe the graph in a file; see `describe_bytes`."""
    return describe_bytes(read_bytes(path.parent, path.name, MAX_MODEL_BYTES), str(path))


def refuse_untabular(value: GraphValue, where: str) -> None:
    """Refuse a graph input that cannot take one row of features a row.

    Raises:
        ModelRefusedError: The input is no tensor of a type in `DTYPES`, or not of shape [rows], [rows, columns] or
            [rows, events, columns].
    """
    if value.kind != "tensor" or value.dtype not in DTYPES:
        message = f"{where}: input {value.name!r} is no tensor of {', '.join(DTYPES)}: export it with such an input"
        raise ModelRefusedError(message)
    if value.shape is not None and len(value.shape) not in (1, 2, 3):
        message = (
            f"{where}: input {value.name!r} has {len(value.shape)} dimensions {list(value.shape)}, not rows and "
            "columns, nor rows, events and columns: this model does not score a row of features; export one with "
            "inputs [rows, columns] or [rows, events, columns]"
        )
        raise ModelRefusedError(message)
    if value.shape is not None and value.is_sequence and (value.dtype == "string" or value.shape[1:] == (None, None)):
        message = (
            f"{where}: input {value.name!r} has rows, events and columns, but of text, or without saying how many "
            "events or columns: export it with numbers, and with one of both declared"
        )
        raise ModelRefusedError(message)


def _refuse_what_is_not_self_contained(model: onnx.ModelProto, where: str) -> None:
    own_functions = {(each.domain, each.name) for each in model.functions}
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto):
            if message.data_location == onnx.TensorProto.EXTERNAL or message.external_data:
                refusal = (
                    f"{where}: tensor {message.name!r} keeps its data in another file, which the digest does "
                    "not cover: save the model as one file (onnx.save with save_as_external_data=False)"
                )
                raise ModelRefusedError(refusal)
            size = message.ByteSize()
            if min(message.dims, default=0) < 0 or math.prod(message.dims) > _MOST_ELEMENTS_A_BYTE * size:
                refusal = (
                    f"{where}: tensor {message.name!r} claims to be {list(message.dims)} and holds {size} bytes: "
                    "export the model again"
                )
                raise ModelRefusedError(refusal)
        elif isinstance(message, onnx.SparseTensorProto):
            if min(message.dims, default=0) < 0 or math.prod(message.dims) > MAX_MODEL_BYTES:
                refusal = f"{where}: a sparse tensor unpacks to {list(message.dims)}: export smaller ones"
                raise ModelRefusedError(refusal)
        elif isinstance(message, onnx.NodeProto):
            domain = message.domain or "ai.onnx"
            if domain not in DOMAINS and (message.domain, message.op_type) not in own_functions:
                refusal = (
                    f"{where}: operator {message.op_type!r} is of domain {domain!r}: "
                    f"export the model with operators of {' and '.join(DOMAINS)} only"
                )
                raise ModelRefusedError(refusal)


def _refuse_unknown_opsets(model: onnx.ModelProto, where: str) -> None:
    """An opset that is newer than the `onnx` package: its operators may mean something else than ours."""
    newest = {"": onnx.defs.onnx_opset_version(), "ai.onnx.ml": onnx.defs.onnx_ml_opset_version()}
    for each in model.opset_import:
        domain = "" if each.domain == "ai.onnx" else each.domain
        if domain in newest and not 1 <= each.version <= newest[domain]:
            message = (
                f"{where}: it is written in opset {each.version} of {domain or 'ai.onnx'}, which is not known here "
                f"(1 to {newest[domain]}): export the model with one of those"
            )
            raise ModelRefusedError(message)


def _messages(message: Message) -> Iterator[Message]:
    """Every message inside a message, at any depth: subgraphs, functions and attributes included."""
    yield message
    for descriptor, content in message.ListFields():
        if descriptor.type == descriptor.TYPE_MESSAGE:
            for each in content if _is_repeated(content) else (content,):
                yield from _messages(each)


def _is_repeated(content: Any) -> bool:
    return not isinstance(content, Message)


def _classes(model: onnx.ModelProto, output: str) -> tuple[int | str, ...]:
    """The classes that a ZipMap gives to an output."""
    for node in model.graph.node:
        if node.op_type == "ZipMap" and output in node.output:
            for each in node.attribute:
                if each.name == "classlabels_int64s":
                    return tuple(each.ints)
                if each.name == "classlabels_strings":
                    return tuple(text.decode("utf-8", "replace") for text in each.strings)
    return ()


def _value(value: onnx.ValueInfoProto, classes: tuple[int | str, ...] = ()) -> GraphValue:
    kind = value.type.WhichOneof("value")
    if kind == "tensor_type":
        tensor = value.type.tensor_type
        shape = tuple(each.dim_value if each.dim_value > 0 else None for each in tensor.shape.dim)
        return GraphValue(
            value.name,
            "tensor",
            _DTYPE_NAMES.get(tensor.elem_type, "other"),
            shape if tensor.HasField("shape") else None,
        )
    if kind == "sequence_type" and value.type.sequence_type.elem_type.HasField("map_type"):
        key_type = value.type.sequence_type.elem_type.map_type.key_type
        return GraphValue(value.name, "zipmap", _DTYPE_NAMES.get(key_type, "other"), None, classes)
    if kind == "sequence_type" and value.type.sequence_type.elem_type.HasField("tensor_type"):
        element_type = value.type.sequence_type.elem_type.tensor_type.elem_type
        return GraphValue(value.name, "sequence", _DTYPE_NAMES.get(element_type, "other"), None)
    return GraphValue(value.name, "other", "other", None)
