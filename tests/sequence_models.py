"""A small recurrent model of the last events of an entity, as a graph and by its formulas."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

HIDDEN = 4


class Gru:
    """A GRU over (rows, events, columns) and how many events there are of each row; a score between 0 and 1.

    Args:
        columns: Numbers of an event.
        seed: Of its weights.
    """

    def __init__(self, columns, seed=3):
        rng = np.random.default_rng(seed)
        shapes = {"W": (1, 3 * HIDDEN, columns), "R": (1, 3 * HIDDEN, HIDDEN), "B": (1, 6 * HIDDEN), "V": (HIDDEN, 1)}
        self.columns = columns
        self.weights = {name: rng.normal(0, 0.7, shape).astype(np.float32) for name, shape in shapes.items()}

    def write(self, path: Path, events=None) -> Path:
        """As a graph with inputs `x` and `lengths`; of so many events, or of any number."""
        nodes = [
            helper.make_node("Transpose", ["x"], ["by_event"], perm=[1, 0, 2]),
            helper.make_node(
                "GRU", ["by_event", "W", "R", "B", "lengths"], ["all", "last"], hidden_size=HIDDEN,
                linear_before_reset=1,
            ),
            helper.make_node("Squeeze", ["last", "axis"], ["state"]),
            helper.make_node("MatMul", ["state", "V"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["score"]),
        ]  # fmt: skip
        inputs = [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", events or "events", self.columns]),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, ["rows"]),
        ]
        constants = [numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        constants.append(numpy_helper.from_array(np.array([0]), "axis"))
        outputs = [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows", 1])]
        graph = helper.make_graph(nodes, "gru", inputs, outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.SerializeToString())
        return path

    def score(self, events) -> float:
        """The score of events (n, columns), the oldest first, without any padding."""
        w, r = self.weights["W"][0].astype(np.float64), self.weights["R"][0].astype(np.float64)
        bias_w, bias_r = np.split(self.weights["B"][0].astype(np.float64), 2)
        state = np.zeros(HIDDEN)
        for event in events:
            above, before = w @ event + bias_w, r @ state + bias_r
            update, reset = (_sigmoid(above[part] + before[part]) for part in (_Z, _R))
            new = np.tanh(above[_H] + reset * before[_H])
            state = (1 - update) * new + update * state
        return float(_sigmoid(state @ self.weights["V"][:, 0].astype(np.float64)))


_Z, _R, _H = (slice(part * HIDDEN, (part + 1) * HIDDEN) for part in range(3))


def _sigmoid(value):
    return 1 / (1 + np.exp(-value))
