"""Where the trees of a graph decide: the values at which a conversion most easily goes wrong, and rows beside them.

A threshold that was rounded on its way into the graph sends only values right beside it to the wrong side, and such
values are rare in any sample.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from models.graph_parts import every_node
from models.manifest import InputBinding

Floats = npt.NDArray[np.float64]

MOST_PROBES = 30_000
_TREES = ("TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble")
_MEMBER = 6  # mode of TreeEnsemble that tests for a set of values, not for a threshold
_Column = tuple[str, int] | None


def thresholds_of(model_bytes: bytes, inputs: Sequence[InputBinding]) -> dict[str, npt.NDArray[Any]]:
    """Thresholds of a graph's trees by the feature that they look at.

    Trees behind anything but casts, concatenation and picked rows of inputs look at no feature itself: left out.

    Args:
        model_bytes: A graph that passed `onnx_checks`.
        inputs: How features become its inputs.

    Returns:
        {feature: its thresholds, each once, in the type of the input}.
    """
    graph = onnx.load_model_from_string(model_bytes).graph
    made_by = {name: node for node in every_node(graph) for name in node.output}
    width = {each.name: each.width for each in inputs}
    found: dict[tuple[str, int], set[float]] = {}
    for node in every_node(graph):
        if node.op_type in _TREES:
            columns = _columns(node.input[0], made_by, width)
            for place, value in _decisions(node):
                column = columns[place] if columns is not None and place < len(columns) else None
                if column is not None and np.isfinite(value):
                    found.setdefault(column, set()).add(value)
    types = {"double": np.float64}
    by_name = {each.name: each for each in inputs}
    thresholds: dict[str, npt.NDArray[Any]] = {}
    for (name, place), values in found.items():
        binding = by_name[name]
        if binding.dtype != "string":
            made = np.unique(np.array(sorted(values), types.get(binding.dtype, np.float32)))
            feature = binding.features[place]
            before = thresholds.get(feature)
            thresholds[feature] = made if before is None else np.unique(np.concatenate([before, made]))
    return thresholds


def probe_rows(
    rows: Floats, names: Sequence[str], thresholds: Mapping[str, npt.NDArray[Any]], seed: int = 0
) -> Floats:
    """Rows with one value put at a threshold, just below it or just above it.

    Args:
        rows: (n_rows, n_names): what the other values are taken from.
        names: Of the columns.
        thresholds: Of `thresholds_of`; features that are no column are left out.
        seed: Of the choice of rows, and of thresholds where there are too many.

    Returns:
        (n_probes, n_names), `MOST_PROBES` at most.
    """
    chance = np.random.default_rng(seed)
    places, values = [], []
    for name, at in thresholds.items():
        if name in names:
            around = np.stack([at, np.nextafter(at, -np.inf, dtype=at.dtype), np.nextafter(at, np.inf, dtype=at.dtype)])
            values.append(around.T.reshape(-1).astype(np.float64))
            places.append(np.full(values[-1].size, names.index(name)))
    if not values:
        return np.empty((0, len(names)))
    value, place = np.concatenate(values), np.concatenate(places)
    if len(value) > MOST_PROBES:
        chosen = np.sort(chance.choice(len(value) // 3, MOST_PROBES // 3, replace=False))
        kept = (3 * chosen[:, None] + np.arange(3)).reshape(-1)
        value, place = value[kept], place[kept]
    probes = rows[chance.integers(len(rows), size=len(value))]
    probes[np.arange(len(value)), place] = value
    return probes


def share_touched(rows: Floats, names: Sequence[str], thresholds: Mapping[str, npt.NDArray[Any]]) -> tuple[int, int]:
    """Of how many thresholds there are rows on both sides within one step of the number's type, and of how many."""
    touched, total = 0, 0
    for name, at in thresholds.items():
        total += len(at)
        if name in names:
            with np.errstate(over="ignore"):
                values = np.unique(rows[:, names.index(name)].astype(at.dtype))
            is_near = [np.isin(near, values) for near in (np.nextafter(at, -np.inf), at, np.nextafter(at, np.inf))]
            touched += int((is_near[1] & (is_near[0] | is_near[2])).sum())
    return touched, total


def _columns(name: str, made_by: Mapping[str, Any], width: Mapping[str, int], depth: int = 0) -> list[_Column] | None:
    """Which (graph input, column) each column of a value is; None where that is not known."""
    if name in width:
        return [(name, place) for place in range(width[name])]
    node = made_by.get(name)
    if node is None or depth > len(made_by):
        return None
    axis = next((each.i for each in node.attribute if each.name == "axis"), None)
    if node.op_type in ("Identity", "Cast") or (node.op_type == "Gather" and not axis):  # it picks rows
        return _columns(node.input[0], made_by, width, depth + 1)
    if node.op_type == "Concat":
        parts = [_columns(each, made_by, width, depth + 1) for each in node.input]
        if axis in (1, -1) and all(part is not None for part in parts):
            return [column for part in parts for column in part or ()]
    return None


def _decisions(node: onnx.NodeProto) -> list[tuple[int, float]]:
    """(column, threshold) of every node of the trees that compares."""
    said = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    places = [int(each) for each in said.get("nodes_featureids", ())]
    if node.op_type == "TreeEnsemble":
        modes = numpy_helper.to_array(said["nodes_modes"]).tolist()
        values = numpy_helper.to_array(said["nodes_splits"]).astype(np.float64).tolist()
        is_decision = [mode != _MEMBER for mode in modes]
    else:
        is_decision = [mode != b"LEAF" for mode in said.get("nodes_modes", ())]
        exact = said.get("nodes_values_as_tensor")
        values = list(said.get("nodes_values", ())) if exact is None else numpy_helper.to_array(exact).tolist()
    return [
        (place, value) for place, value, decides in zip(places, values, is_decision, strict=False) if decides
    ]
