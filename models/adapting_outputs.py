"""Where the outputs of a prediction are in a graph: derived where that is certain, asked for where it is not."""

import re
from collections.abc import Sequence

from models.choices import Choices, MissingChoiceError, OutputChoice, same_name, value_text, values_text
from models.manifest import ModelMismatchError, OutputBinding
from models.onnx_checks import GraphValue, ModelDescription
from models.outputs import Label, Output, Outputs, Vector

_NUMBERS = ("float", "double", "int64", "int32", "bool")


def adapt_outputs(
    described: ModelDescription, prediction: Outputs, choices: Choices, where: str
) -> tuple[tuple[OutputBinding, ...], bool]:
    """Find where each output is.

    Args:
        described: The graph.
        prediction: The pipeline's outputs.
        choices: What was said.
        where: What errors call the model.

    Returns:
        In their order; and whether it is the only column that the graph declares, and nobody said which.

    Raises:
        MissingChoiceError: The graph does not say, and nobody did; for one thing at a time.
        ModelMismatchError: What was said does not fit, or no output can be it.
    """
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
    return tuple(outputs), is_only


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
            raise ModelMismatchError(f"{where}: the graph has no output {said.output!r}: it has {values_text(outputs)}")
        if found not in candidates:
            raise ModelMismatchError(f"{where}: output {value_text(found)} cannot be {one.text}")
    else:
        named = same_name(one.name, {each.name: each for each in candidates})
        # one of undeclared width may be it; one that says so is
        sure = [each for each in candidates if isinstance(one, Vector) and one.size in (each.width, len(each.classes))]
        for few in ([named] if named else [], sure, candidates):
            if len(few) == 1:
                found = few[0]
                break
        else:
            if not candidates:
                raise ModelMismatchError(f"{where}: no output can be {one.text}: there are {values_text(outputs)}")
            known = values_text(candidates)
            message = f"{where}: say which output is {one.text}, with --output {one.name}=...: {known}"
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


def _output(
    outputs: Sequence[GraphValue], prediction: str, field: str, said: OutputChoice, where: str
) -> GraphValue:
    usable = [each for each in outputs if each.kind in ("zipmap", "sequence") or _is_numbers(each)]
    if said.output is not None:
        for each in outputs:
            if each.name == said.output:
                if each not in usable:
                    known = values_text(outputs)
                    message = f"{where}: output {value_text(each)} has no numbers a row; there are {known}"
                    raise ModelMismatchError(message)
                return each
        message = f"{where}: the graph has no output {said.output!r}: it has {values_text(outputs)}"
        raise ModelMismatchError(message)
    named = [each for each in usable if each.name == prediction]
    # a classifier gives the class it decided for, and the scores
    scores = [each for each in usable if each.kind != "tensor" or each.dtype in ("float", "double")]
    for found in (named, scores, usable):
        if len(found) == 1:
            return found[0]
    if not usable:
        message = f"{where}: no output has numbers a row: there are {values_text(outputs)}"
        raise ModelMismatchError(message)
    option = f"--output {field}=..." if field else "--output"
    message = f"{where}: say which output is {field or 'the prediction'} with {option}: {values_text(usable)}"
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
