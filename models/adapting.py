"""How a model's inputs and outputs meet a pipeline: derived where that is certain, asked for where it is not."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from models.manifest import ModelMismatchError, OutputBinding
from models.onnx_checks import GraphValue, ModelDescription, refuse_untabular
from models.outputs import Label, Output, Outputs, Vector

Found = TypeVar("Found")

_NUMBERS = ("float", "double", "int64", "int32", "bool")


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


def adapt(
    described: ModelDescription,
    features: Sequence[str],
    one_hot: Mapping[str, Mapping[str, str]],
    prediction: Outputs,
    choices: Choices,
    where: str,
) -> Adaptation:
    """Find what each input gets, as `adapt_inputs` does, and where the outputs of the prediction are.

    Args:
        described: The graph.
        features: The pipeline's features in order.
        one_hot: {field: {text: the feature that is 1 for it}}.
        prediction: The pipeline's outputs.
        choices: What was said.
        where: What errors call the model.

    Returns:
        What the manifest says.

    Raises:
        MissingChoiceError: The graph does not say, and nobody did; for one thing at a time.
        ModelMismatchError: What was said does not fit.
        ModelRefusedError: An input takes no rows of features.
    """
    inputs, categories = adapt_inputs(described, features, one_hot, choices, where)
    _check_outputs_said(prediction, choices)
    outputs, is_only = [], False
    for one in prediction.each:
        alone = len(prediction.each) == 1
        said = choices.outputs.get(one.name) or (choices.outputs.get("") if alone else None) or OutputChoice()
        if isinstance(one, Vector | Label):
            outputs.append(_binding(one, described.outputs, said, where))
            continue
        name = "" if alone else one.name
        found = _output(described.outputs, one.name, name, said, where)
        column, class_key, item = _selector(found, described.outputs, name, said, where)
        outputs.append(OutputBinding(found.name, found.kind, column, class_key, item, name))
        is_only = is_only or (alone and found.kind == "tensor" and said.column is None and found.width == 1)
    return Adaptation(inputs, categories, tuple(outputs), is_only)


def _check_outputs_said(prediction: Outputs, choices: Choices) -> None:
    known = prediction.names if len(prediction.each) > 1 else ("", *prediction.names)
    for name in choices.outputs:
        if name not in known:
            message = (
                f"--output, --column, --class and --item: write NAME=..., NAME one of {', '.join(prediction.names)}; "
                f"the prediction has no {name!r}"
            )
            raise ModelMismatchError(message)


def _binding(one: Vector | Label, outputs: Sequence[GraphValue], said: OutputChoice, where: str) -> OutputBinding:
    """Where a vector or a label is."""
    fits = _vector_fits if isinstance(one, Vector) else _label_fits
    candidates = [each for each in outputs if fits(one, each)]
    if said.output is not None:
        found = next((each for each in outputs if each.name == said.output), None)
        if found is None:
            raise ModelMismatchError(f"{where}: the graph has no output {said.output!r}: it has {_texts(outputs)}")
        if found not in candidates:
            raise ModelMismatchError(f"{where}: output {value_text(found)} cannot be {one.text}")
    else:
        named = _same_name(one.name, {each.name: each for each in candidates})
        # one of undeclared width may be it; one that says so is
        sure = [each for each in candidates if isinstance(one, Vector) and one.size in (each.width, len(each.classes))]
        for few in ([named] if named else [], sure, candidates):
            if len(few) == 1:
                found = few[0]
                break
        else:
            if not candidates:
                raise ModelMismatchError(f"{where}: no output can be {one.text}: there are {_texts(outputs)}")
            message = f"{where}: say which output is {one.text}, with --output {one.name}=...: {_texts(candidates)}"
            raise MissingChoiceError("--output", message, one.name)
    if isinstance(one, Label):
        return OutputBinding(found.name, "tensor", column=said.column or 0, field=one.name, labels=one.classes)
    if found.kind == "sequence" and said.item is None:
        message = f"{where}: output {found.name!r} is a sequence of tensors: say which, from 0 on, with --item"
        raise MissingChoiceError("--item", message, one.name)
    keys = found.classes if found.kind == "zipmap" else ()
    item = said.item if found.kind == "sequence" else None
    return OutputBinding(found.name, found.kind, item=item, field=one.name, size=one.size, class_keys=keys)  # type: ignore[arg-type]


def _vector_fits(one: Output, value: GraphValue) -> bool:
    assert isinstance(one, Vector)
    if value.kind == "zipmap":
        return len(value.classes) == one.size
    return value.kind == "sequence" or (_is_numbers(value) and value.width in (None, one.size))


def _label_fits(one: Output, value: GraphValue) -> bool:
    assert isinstance(one, Label)
    of_text = isinstance(one.classes[0], str)
    return value.kind == "tensor" and value.dtype in (("string",) if of_text else ("int64", "int32", "bool"))


def adapt_inputs(
    described: ModelDescription,
    features: Sequence[str],
    one_hot: Mapping[str, Mapping[str, str]],
    choices: Choices,
    where: str,
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Find a feature for each column of each input.

    An input is matched by its name: of a feature, or of a field whose categories are features. The only input of a
    graph that is as wide as all features takes them all, in the pipeline's order.

    Args:
        described: The graph.
        features: The pipeline's features in order.
        one_hot: {field: {text: the feature that is 1 for it}}.
        choices: What was said.
        where: What errors call the model.

    Returns:
        {input: its features}, and of inputs of text {input: the text that each feature stands for}.

    Raises:
        MissingChoiceError: Nothing says it; for one input at a time.
        ModelMismatchError: What was said does not fit.
        ModelRefusedError: An input takes no rows of features.
    """
    for each in described.inputs:
        refuse_untabular(each, where)
    _check_said(described, features, choices, where)
    inputs: dict[str, tuple[str, ...]] = {}
    categories: dict[str, tuple[str, ...]] = {}
    for value in described.inputs:
        texts = _same_name(value.name, one_hot)
        if value.name in choices.inputs:
            inputs[value.name] = tuple(choices.inputs[value.name])
        elif value.dtype == "string" and texts is not None:
            inputs[value.name] = tuple(texts.values())
        else:
            inputs[value.name] = _numbers_for(value, described, features, texts, where)
        if value.dtype == "string":
            categories[value.name] = _categories_for(value, inputs[value.name], one_hot, choices, where)
    return inputs, categories


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
    names = ("rows", "columns") if len(shape) <= 2 else ("?",) * len(shape)
    shown = [names[place] if size is None else str(size) for place, size in enumerate(shape)]
    return f"[{', '.join(shown)}]"


def _check_said(described: ModelDescription, features: Sequence[str], choices: Choices, where: str) -> None:
    known = {each.name for each in described.inputs}
    for name in (*choices.inputs, *choices.categories):
        if name not in known:
            message = f"{where}: the graph has no input {name!r}: it has {', '.join(map(repr, sorted(known)))}"
            raise ModelMismatchError(message)
    for name, chosen in choices.inputs.items():
        unknown = [each for each in chosen if each not in features]
        if unknown:
            message = f"--input {name}: the pipeline has no feature {unknown[0]!r}; it has {', '.join(features)}"
            raise ModelMismatchError(message)


def _numbers_for(
    value: GraphValue,
    described: ModelDescription,
    features: Sequence[str],
    texts: Mapping[str, str] | None,
    where: str,
) -> tuple[str, ...]:
    named = _same_name(value.name, {each: each for each in features})
    if value.dtype != "string":
        if named is not None and value.width in (None, 1):
            return (named,)
        if texts is not None and value.width == len(texts):
            return tuple(texts.values())
        if len(described.inputs) == 1 and value.width in (None, len(features)):
            return tuple(features)
    example = ",".join(features[: 1 if value.width is None else value.width])
    if value.dtype == "string":
        what, example = "takes text: say which one-hot features make it", "page_is_home,page_is_cart"
    else:
        width = "any number of" if value.width is None else str(value.width)
        what = f"takes {width} columns of {value.dtype}, the pipeline has {len(features)} features: say which, in order"
    message = f"{where}: input {value.name!r} {what}, like --input {value.name}={example}"
    raise MissingChoiceError("--input", f"{message}; features are {', '.join(features)}", value.name)


def _categories_for(
    value: GraphValue,
    chosen: Sequence[str],
    one_hot: Mapping[str, Mapping[str, str]],
    choices: Choices,
    where: str,
) -> tuple[str, ...]:
    if value.name in choices.categories:
        return tuple(choices.categories[value.name])
    text_of = {feature: text for texts in one_hot.values() for text, feature in texts.items()}
    if all(each in text_of for each in chosen):
        return tuple(text_of[each] for each in chosen)
    message = (
        f"{where}: input {value.name!r} takes text: say what each of its {len(chosen)} features stands for, like "
        f"--categories {value.name}=home,cart"
    )
    raise MissingChoiceError("--categories", message, value.name)


def _output(
    outputs: Sequence[GraphValue], prediction: str, field: str, said: OutputChoice, where: str
) -> GraphValue:
    usable = [each for each in outputs if each.kind in ("zipmap", "sequence") or _is_numbers(each)]
    if said.output is not None:
        for each in outputs:
            if each.name == said.output:
                if each not in usable:
                    message = f"{where}: output {value_text(each)} has no numbers a row; there are {_texts(outputs)}"
                    raise ModelMismatchError(message)
                return each
        message = f"{where}: the graph has no output {said.output!r}: it has {_texts(outputs)}"
        raise ModelMismatchError(message)
    named = [each for each in usable if each.name == prediction]
    # a classifier gives the class it decided for, and the scores
    scores = [each for each in usable if each.kind != "tensor" or each.dtype in ("float", "double")]
    for found in (named, scores, usable):
        if len(found) == 1:
            return found[0]
    if not usable:
        message = f"{where}: no output has numbers a row: there are {_texts(outputs)}"
        raise ModelMismatchError(message)
    option = f"--output {field}=..." if field else "--output"
    message = f"{where}: say which output is {field or 'the prediction'} with {option}: {_texts(usable)}"
    raise MissingChoiceError("--output", message, field)


def _selector(
    output: GraphValue, outputs: Sequence[GraphValue], field: str, said: OutputChoice, where: str
) -> tuple[int | None, int | str | None, int | None]:
    """Column, class and item."""
    equals = f" {field}=..." if field else ""
    if output.kind == "zipmap":
        return None, _class_key(output, field, said, where), None
    if output.kind == "sequence" and said.item is None:
        message = f"{where}: output {output.name!r} is a sequence of tensors: say which, from 0 on, with --item{equals}"
        raise MissingChoiceError("--item", message, field)
    column = said.column
    if column is None and output.kind == "tensor":
        has_label = any(each.kind == "tensor" and each.dtype in ("int64", "string") for each in outputs)
        column = 0 if output.width == 1 else 1 if output.width == 2 and has_label else None
    if column is None:
        width = "several" if output.kind == "sequence" else output.width or "an undeclared number of"
        message = (
            f"{where}: output {output.name!r} has {width} columns, a prediction is one number: say which, from 0 on, "
            f"with --column{equals}"
        )
        raise MissingChoiceError("--column", message, field)
    return column, None, said.item if output.kind == "sequence" else None


def _class_key(output: GraphValue, field: str, choice: OutputChoice, where: str) -> int | str:
    said = choice.class_key
    if said is None:
        if output.classes == (0, 1):
            return 1
        known = f": {', '.join(map(str, output.classes))}" if output.classes else ""
        option = f"--class {field}=..." if field else "--class"
        message = f"{where}: output {output.name!r} has a score for each class: say which with {option}{known}"
        raise MissingChoiceError("--class", message, field)
    is_text = output.dtype == "string"
    if not is_text and not re.fullmatch(r"-?[0-9]+", said):
        message = f"--class {said}: classes of output {output.name!r} are whole numbers"
        raise ModelMismatchError(message)
    key: int | str = said if is_text else int(said)
    if output.classes and key not in output.classes:
        message = f"--class {said}: output {output.name!r} has classes {', '.join(map(str, output.classes))}"
        raise ModelMismatchError(message)
    return key


def _is_numbers(value: GraphValue) -> bool:
    return value.kind == "tensor" and value.dtype in _NUMBERS


def _texts(values: Sequence[GraphValue]) -> str:
    return "; ".join(value_text(each) for each in values)


def _same_name(name: str, known: Mapping[str, Found]) -> Found | None:
    """What is called so, exactly or but for case and signs between words."""
    if name in known:
        return known[name]
    alike = [found for each, found in known.items() if _plain(each) == _plain(name)]
    return alike[0] if len(alike) == 1 else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
