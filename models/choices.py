"""What is said about a model that meets a pipeline, and what is still to be said."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from models.manifest import OutputBinding
from models.onnx_checks import GraphValue

Found = TypeVar("Found")


class MissingChoiceError(ValueError):
    """Something that the graph does not say.

    Attributes:
        option: The command's option that says it, like `--input`.
        name: The input or the output of the prediction that the answer is for; "" for its only number.
    """

    def __init__(self, option: str, message: str, name: str = "") -> None:
        super().__init__(message)
        self.option, self.name = option, name


@dataclass(frozen=True)
class OutputChoice:
    """What was said about an output of the prediction.

    Attributes:
        output: The graph output.
        column: Of a tensor, or of a tensor of a sequence.
        class_key: Of a ZipMap, as text.
        item: Which tensor of a sequence.
    """

    output: str | None = None
    column: int | None = None
    class_key: str | None = None
    item: int | None = None


@dataclass(frozen=True)
class Choices:
    """What was said about a model.

    Attributes:
        inputs: {graph input: feature names, one a column}.
        categories: {graph input of text: the text that each of its features stands for}.
        outputs: By name in the prediction, or "" where it has only one output.
    """

    inputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    outputs: Mapping[str, OutputChoice] = field(default_factory=dict)


@dataclass(frozen=True)
class Adaptation:
    """All that `manifest_for_model` must be told; the attributes are as in `Choices`, and complete.

    Attributes:
        inputs: See there.
        categories: See there.
        outputs: Where each output of the prediction is.
        is_only_column: Nobody said the column, and the graph declares no other.
    """

    inputs: Mapping[str, tuple[str, ...]]
    categories: Mapping[str, tuple[str, ...]]
    outputs: tuple[OutputBinding, ...]
    is_only_column: bool = False


def value_text(value: GraphValue) -> str:
    """An input or output in words."""
    if value.kind == "zipmap":
        said = f": {', '.join(map(str, value.classes))}" if value.classes else ""
        return f"{value.name}: {{class: score}} with classes of {value.dtype}{said}"
    shape = "of undeclared shape" if value.shape is None else _shape_text(value.shape)
    if value.kind == "sequence":
        return f"{value.name}: sequence of {value.dtype} tensors"
    return f"{value.name}: {value.dtype} {shape}" if value.kind == "tensor" else f"{value.name}: no tensor"


def _shape_text(shape: Sequence[int | None]) -> str:
    known = {1: ("rows",), 2: ("rows", "columns"), 3: ("rows", "events", "columns")}
    names = known.get(len(shape), ("?",) * len(shape))
    shown = [names[place] if size is None else str(size) for place, size in enumerate(shape)]
    return f"[{', '.join(shown)}]"


def values_text(values: Sequence[GraphValue]) -> str:
    """Inputs or outputs in words."""
    return "; ".join(value_text(each) for each in values)


def same_name(name: str, known: Mapping[str, Found]) -> Found | None:
    """What is called so, exactly or but for case and signs between words."""
    if name in known:
        return known[name]
    alike = [found for each, found in known.items() if _plain(each) == _plain(name)]
    return alike[0] if len(alike) == 1 else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
