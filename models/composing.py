"""Several graphs into one that gives one score a row: the nodes between them, and one version of the operators for all.

Inputs stay as the members have them, so that each gets its features in its own type and order; equal ones are shared.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from models.choices import Adaptation
from models.combination import CASCADE, MEAN, MEMBER_OUTPUT, STACK, Combination
from models.graph_parts import Nodes, Part, loaded, put, row_shapes, same_opsets
from models.json_document import ModelRefusedError
from models.manifest import InputBinding, OutputBinding

SCORE_OUTPUT = "score"
_TYPES = {
    "float": TensorProto.FLOAT, "double": TensorProto.DOUBLE, "int64": TensorProto.INT64, "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL, "string": TensorProto.STRING,
}  # fmt: skip


def compose(
    parts: Sequence[Part], combination: Combination, stacker: Part | None = None, score_names: Sequence[str] = ()
) -> tuple[bytes, Adaptation]:
    """One graph of several.

    Args:
        parts: The members.
        combination: How their scores become one.
        stacker: The further model of a stack.
        score_names: What its inputs call the members' scores.

    Returns:
        The graph, with the output `score` (n,) double and of a cascade `member` (n,) int64, and how it meets features.

    Raises:
        ModelRefusedError: One of them cannot be composed; names it and says why.
    """
    given = [*parts, *([] if stacker is None else [stacker])]
    models, opsets = same_opsets(given, [loaded(each) for each in given])
    inputs = _Inputs()
    nodes = Nodes("combined/")
    outputs = [helper.make_tensor_value_info(SCORE_OUTPUT, TensorProto.DOUBLE, ["rows"])]
    placed = [_Placed(part, model, inputs) for part, model in zip(parts, models, strict=False)]
    if combination.kind == CASCADE:
        _cascade(nodes, placed[0], placed[1], combination.unsure or (0.0, 1.0))
        outputs.append(helper.make_tensor_value_info(MEMBER_OUTPUT, TensorProto.INT64, ["rows"]))
    else:
        scores = [each.score(nodes) for each in placed]
        if combination.kind == STACK and stacker is not None:
            _stack(nodes, dict(zip(score_names, scores, strict=True)), stacker, models[-1], inputs)
        else:
            made = _mean(nodes, scores, combination) if combination.kind == MEAN else _vote(nodes, scores, combination)
            nodes.add("Identity", made, name=SCORE_OUTPUT)
    graph = helper.make_graph(
        nodes.nodes, combination.kind, inputs.values, outputs, nodes.initializers,
        sparse_initializer=nodes.sparse_initializers,
    )  # fmt: skip
    imports = [helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())]
    least_ir = helper.find_min_ir_version_for(imports, ignore_unknown=True)
    model = helper.make_model(
        graph, opset_imports=imports, ir_version=max(least_ir, *(each.ir_version for each in models)),
        producer_name="millrace",
    )  # fmt: skip
    adaptation = Adaptation(
        {each: binding.features for each, binding in inputs.bindings.items()},
        {each: binding.categories for each, binding in inputs.bindings.items() if binding.dtype == "string"},
        (OutputBinding(SCORE_OUTPUT, "tensor", column=0),),
    )  # fmt: skip
    return model.SerializeToString(), adaptation


class _Inputs:
    """The inputs of the composed graph."""

    def __init__(self) -> None:
        self.values: list[onnx.ValueInfoProto] = []
        self.bindings: dict[str, InputBinding] = {}
        self._known: dict[tuple[Any, ...], str] = {}

    def take(self, name: str, binding: InputBinding, row_shape: tuple[int, ...]) -> str:
        """The name of an input for these features: of one that is there, or else of a new one with this name."""
        key = binding.dtype, binding.features, binding.categories, row_shape
        if key not in self._known:
            shape: list[Any] = ["rows", *row_shape]
            self.values.append(helper.make_tensor_value_info(name, _TYPES[binding.dtype], shape))
            self.bindings[name] = binding
            self._known[key] = name
        return self._known[key]


class _Placed:
    """A member on its way into the graph."""

    def __init__(self, part: Part, model: onnx.ModelProto, inputs: _Inputs) -> None:
        self.part, self.model = part, model
        shapes = row_shapes(part)
        self.inputs = {
            each.name: inputs.take(f"{part.label}/{each.name}", each, shapes[each.name]) for each in part.inputs
        }

    def score(self, nodes: Nodes, rows: str | None = None) -> str:
        """Put its nodes there; the name of its scores (n,) double, of all rows or of those at some places."""
        inputs = self.inputs
        if rows is not None:
            inputs = {name: nodes.add("Gather", each, rows, axis=0) for name, each in inputs.items()}
        return put(nodes, self.part, self.model, inputs)


def _cascade(nodes: Nodes, first: _Placed, second: _Placed, unsure: tuple[float, float]) -> None:
    """Rows whose first score is unsure are gathered, scored by the second and put back; without any it does not run."""
    scores = first.score(nodes)
    low, high = (nodes.constant(np.float64(each)) for each in unsure)
    is_sure = nodes.add("Or", nodes.add("Less", scores, low), nodes.add("Greater", scores, high))
    is_unsure = nodes.add("Not", is_sure)  # also where the score is no number, which is neither less nor greater
    rows = nodes.add("Squeeze", nodes.add("NonZero", is_unsure), nodes.constant([0]))
    is_any = nodes.add("Greater", nodes.add("Size", rows), nodes.constant(0))
    branch = Nodes("combined/unsure/")
    # a row alone is scored twice: a call with a single row may differ in the last bit, see `onnx_model.LEAST_ROWS`
    start, count = branch.constant([0]), branch.add("Shape", rows)
    is_alone = branch.add("Cast", branch.add("Less", count, branch.constant([2])), to=TensorProto.INT64)
    asked_rows = branch.add("Concat", rows, branch.add("Slice", rows, start, is_alone), axis=0)
    found = branch.add("Slice", second.score(branch, asked_rows), start, count)
    whole = branch.add("ScatterElements", scores, rows, found, axis=0)
    asked = helper.make_graph(
        branch.nodes, "unsure", [], [helper.make_tensor_value_info(whole, TensorProto.DOUBLE, ["rows"])],
        branch.initializers, sparse_initializer=branch.sparse_initializers,
    )  # fmt: skip
    same = Nodes("combined/sure/")
    kept = same.add("Identity", scores)
    spared = helper.make_graph(
        same.nodes, "sure", [], [helper.make_tensor_value_info(kept, TensorProto.DOUBLE, ["rows"])]
    )
    nodes.add("If", is_any, name=SCORE_OUTPUT, then_branch=asked, else_branch=spared)
    nodes.add("Cast", is_unsure, name=MEMBER_OUTPUT, to=TensorProto.INT64)


def _mean(nodes: Nodes, scores: Sequence[str], combination: Combination) -> str:
    parts = [
        nodes.add("Mul", score, nodes.constant(np.float64(weight)))
        for score, weight in zip(scores, combination.weights, strict=True)
    ]
    return _sum(nodes, parts)


def _vote(nodes: Nodes, scores: Sequence[str], combination: Combination) -> str:
    """The share of yes; no number where a member has none."""
    threshold = nodes.constant(np.float64(combination.threshold))
    votes = [nodes.add("Cast", nodes.add("GreaterOrEqual", each, threshold), to=TensorProto.DOUBLE) for each in scores]
    share = nodes.add("Div", _sum(nodes, votes), nodes.constant(np.float64(len(scores))))
    nothing = nodes.add("Mul", _sum(nodes, scores), nodes.constant(np.float64(0)))
    return nodes.add("Add", share, nothing)


def _sum(nodes: Nodes, values: Sequence[str]) -> str:
    total = values[0]
    for each in values[1:]:
        total = nodes.add("Add", total, each)
    return total


def _stack(
    nodes: Nodes, scores: Mapping[str, str], stacker: Part, model: onnx.ModelProto, inputs: _Inputs
) -> None:
    """The further model gets columns of scores and of features, in its order."""
    shapes, mapped = row_shapes(stacker), {}
    for each in stacker.inputs:
        row_shape, name = shapes[each.name], f"{stacker.label}/{each.name}"
        known = [feature for feature in each.features if feature in scores]
        others = tuple(feature for feature in each.features if feature not in scores)
        if not known:
            mapped[each.name] = inputs.take(name, each, row_shape)
            continue
        if each.dtype not in ("float", "double") or len(row_shape) > 1:
            message = (
                f"{stacker.where}: input {each.name!r} takes {'events' if len(row_shape) > 1 else each.dtype}, a score "
                "is a float: export it with an input of floats for them"
            )
            raise ModelRefusedError(message)
        axis = nodes.constant([1])
        columns = [
            nodes.add("Cast", nodes.add("Unsqueeze", scores[one], axis), to=_TYPES[each.dtype]) for one in known
        ]
        if others:
            columns.append(inputs.take(name, InputBinding(each.name, each.dtype, others), (len(others),)))
        row = nodes.add("Concat", *columns, axis=1)
        order = [(*known, *others).index(feature) for feature in each.features]
        row = nodes.add("Gather", row, nodes.constant(order), axis=1)
        mapped[each.name] = nodes.add("Squeeze", row, axis) if not row_shape else row
    nodes.add("Identity", put(nodes, stacker, model, mapped), name=SCORE_OUTPUT)
