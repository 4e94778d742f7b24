"""Graphs of models made fit to stand in one graph: the same operators, names of their own, and one score a row."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, version_converter

from models.json_document import ModelRefusedError
from models.manifest import InputBinding, OutputBinding
from models.onnx_checks import describe_bytes

LEAST_OPSET = 17
"""What the nodes between the members are written in, if no member is written in a newer one."""
_ML = "ai.onnx.ml"
_COMPATIBLE = {("TreeEnsembleClassifier", 1, 3), ("TreeEnsembleRegressor", 1, 3), ("LabelEncoder", 2, 4)}
"""Operators of `ai.onnx.ml` that only got more attributes, with the versions."""


@dataclass(frozen=True)
class Part:
    """A graph to be composed.

    Attributes:
        label: What its names begin with in the composed graph.
        where: What errors call it.
        model_bytes: The graph; it passed `onnx_checks`.
        inputs: How features, and for a stacker the members' scores, become its inputs.
        output: Where its score is.
    """

    label: str
    where: str
    model_bytes: bytes
    inputs: tuple[InputBinding, ...]
    output: OutputBinding


@dataclass
class Nodes:
    """What a graph, or a branch of an `If`, is put together of; names begin with the prefix."""

    prefix: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    sparse_initializers: list[onnx.SparseTensorProto] = field(default_factory=list)

    def add(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """A node; its only output."""
        output = name or f"{self.prefix}{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, value: Any) -> str:
        """A tensor that is always the same."""
        name = f"{self.prefix}constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def put(nodes: Nodes, part: Part, model: onnx.ModelProto, inputs: Mapping[str, str]) -> str:
    """Put the nodes of a model behind its inputs; the name of its scores, (n,) double."""
    graph, output = model.graph, part.output
    source, column = output.name, output.column
    if output.kind == "zipmap":
        source, column = _behind_zipmap(graph, part)
    needed, used = _needed(graph, source)
    names = dict(inputs)
    tensors = [each for each in graph.initializer if each.name in used]
    sparse_tensors = [each for each in graph.sparse_initializer if each.values.name in used]

    def renamed(name: str) -> str:
        return names.get(name) or (name and f"{part.label}/{name}")

    for node in needed:
        _rename_node(node, renamed)
    for tensor in tensors:
        tensor.name = renamed(tensor.name)
    for sparse in sparse_tensors:
        sparse.values.name = renamed(sparse.values.name)
    nodes.nodes += needed
    nodes.initializers += tensors
    nodes.sparse_initializers += sparse_tensors
    found = renamed(source)
    if output.kind == "sequence":
        found = nodes.add("SequenceAt", found, nodes.constant(output.item or 0))
    table = nodes.add("Flatten", nodes.add("Cast", found, to=TensorProto.DOUBLE), axis=1)
    return nodes.add("Gather", table, nodes.constant(column or 0), axis=1)


def _behind_zipmap(graph: onnx.GraphProto, part: Part) -> tuple[str, int]:
    """The tensor that a ZipMap makes maps of, and the column of the class."""
    for node in graph.node:
        if node.op_type == "ZipMap" and part.output.name in node.output:
            said = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            classes = [
                *said.get("classlabels_int64s", ()),
                *(text.decode("utf-8") for text in said.get("classlabels_strings", ())),
            ]
            return node.input[0], classes.index(part.output.class_key)
    message = (
        f"{part.where}: no ZipMap makes output {part.output.name!r} itself: export it without ZipMap, as a tensor"
    )
    raise ModelRefusedError(message)


def _needed(graph: onnx.GraphProto, output: str) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that an output takes, in order, and the names that these use."""
    wanted, found = {output}, []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            found.append(node)
            for one in (node, *_nodes_inside(node)):
                wanted.update(one.input)
            for inner in _graphs_inside(node):
                wanted.update(each.name for each in inner.output)
    return found[::-1], wanted


def _rename_node(node: onnx.NodeProto, renamed: Callable[[str], str]) -> None:
    node.name = renamed(node.name)
    node.input[:] = [renamed(each) for each in node.input]
    node.output[:] = [renamed(each) for each in node.output]
    for graph in _graphs_of(node):
        for inner in graph.node:
            _rename_node(inner, renamed)
        for tensor in graph.initializer:
            tensor.name = renamed(tensor.name)
        for sparse in graph.sparse_initializer:
            sparse.values.name = renamed(sparse.values.name)
        for value in (*graph.input, *graph.output):
            value.name = renamed(value.name)
        del graph.value_info[:]


def _graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _graphs_inside(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for graph in _graphs_of(node):
        yield graph
        for inner in graph.node:
            yield from _graphs_inside(inner)


def every_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of all graphs in it."""
    for node in graph.node:
        yield node
        yield from _nodes_inside(node)


def _nodes_inside(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    for graph in _graphs_of(node):
        yield from every_node(graph)


def row_shapes(part: Part) -> dict[str, tuple[int, ...]]:
    """The shape of a row of each input: (), (columns,) or (events, columns)."""
    widths = {each.name: each.width for each in part.inputs}
    described = describe_bytes(part.model_bytes, part.where)
    return {each.name: each.row_shape(widths[each.name]) or () for each in described.inputs}


def loaded(part: Part) -> onnx.ModelProto:
    """Its graph, with local functions resolved, and with one name for the operators of ONNX itself.

    Raises:
        ModelRefusedError: It is for a fixed number of rows.
    """
    for value in describe_bytes(part.model_bytes, part.where).inputs:
        if value.rows is not None:
            message = (
                f"{part.where}: input {value.name!r} is for exactly {value.rows} rows a call, and can be no part of a "
                "graph for any number: export it with open rows"
            )
            raise ModelRefusedError(message)
    model = onnx.load_model_from_string(part.model_bytes)
    if model.functions:
        model = inliner.inline_local_functions(model)
    for each in every_node(model.graph):
        each.domain = "" if each.domain == "ai.onnx" else each.domain
    return model


def same_opsets(
    parts: Sequence[Part], models: Sequence[onnx.ModelProto]
) -> tuple[list[onnx.ModelProto], dict[str, int]]:
    """The models in the newest operators that one of them is written in."""
    own = [{("" if each.domain == "ai.onnx" else each.domain): each.version for each in model.opset_import}
           for model in models]  # fmt: skip
    opsets = {"": max(LEAST_OPSET, *(each.get("", 0) for each in own))}
    if any(_ML in each for each in own):
        opsets[_ML] = max(each.get(_ML, 0) for each in own)
    found = []
    for part, model, said in zip(parts, models, own, strict=True):
        ml = _changed(model, _ML, said.get(_ML, 0), opsets.get(_ML, 0))
        if ml - _COMPATIBLE:
            operator, before, after = min(ml - _COMPATIBLE)
            message = (
                f"{part.where}: {operator} is written in version {before} of its operator, another member needs "
                f"{after} ({_ML} {said[_ML]} and {opsets[_ML]}): export both with the same opsets"
            )
            raise ModelRefusedError(message)
        found.append(_converted(part, model, said.get("", 0), opsets[""]))
    return found, opsets


def _converted(part: Part, model: onnx.ModelProto, before: int, after: int) -> onnx.ModelProto:
    if not _changed(model, "", before, after):
        return model
    try:
        return version_converter.convert_version(model, after)
    except Exception as error:  # it raises whatever its C++ does
        why = " ".join(str(error).split())
        message = (
            f"{part.where}: it is written in opset {before} and cannot be brought to {after}, which another member or "
            f"the nodes between them need ({why:.150}): export it with opset {after}"
        )
        raise ModelRefusedError(message) from error


def _changed(model: onnx.ModelProto, domain: str, before: int, after: int) -> set[tuple[str, int, int]]:
    """Operators of a domain that mean something else, or more, in another opset, with their versions."""
    found = set[tuple[str, int, int]]()
    for name in {each.op_type for each in every_node(model.graph) if each.domain == domain}:
        versions = [onnx.defs.get_schema(name, opset, domain).since_version for opset in (before, after)]
        if versions[0] != versions[1]:
            found.add((name, versions[0], versions[1]))
    return found
