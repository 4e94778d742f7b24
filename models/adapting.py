"""How a model's inputs and outputs meet a pipeline: derived where that is certain, asked for where it is not."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from models.adapting_outputs import adapt_outputs
from models.blocks import Block
from models.choices import Adaptation, Choices, MissingChoiceError, same_name, value_text
from models.manifest import ModelMismatchError
from models.onnx_checks import GraphValue, ModelDescription, refuse_untabular
from models.outputs import Outputs


def adapt(
    described: ModelDescription,
    features: Sequence[str],
    one_hot: Mapping[str, Mapping[str, str]],
    blocks: Mapping[str, Block],
    prediction: Outputs,
    choices: Choices,
    where: str,
) -> Adaptation:
    """Find what each input gets, as `adapt_inputs` does, and where the outputs of the prediction are.

    Args:
        described: The graph.
        features: The pipeline's features in order.
        one_hot: {field: {text: the feature that is 1 for it}}.
        blocks: {name: features that are the numbers of one vector or sequence}.
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
    inputs, categories = adapt_inputs(described, features, one_hot, blocks, choices, where)
    outputs, is_only = adapt_outputs(described, prediction, choices, where)
    return Adaptation(inputs, categories, outputs, is_only)


def adapt_inputs(
    described: ModelDescription,
    features: Sequence[str],
    one_hot: Mapping[str, Mapping[str, str]],
    blocks: Mapping[str, Block],
    choices: Choices,
    where: str,
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Find a feature for each column of each input.

    An input is matched by its name: of a feature, of a vector, or of a field whose categories are features. The only
    input of a graph that is as wide as all features takes them all, in the pipeline's order. One of events and columns
    takes sequences of as many events: of each event its numbers in the first sequence, in the second and so on.

    Args:
        described: The graph.
        features: The pipeline's features in order.
        one_hot: {field: {text: the feature that is 1 for it}}.
        blocks: {name: features that are the numbers of one vector or sequence}; in what was said, its name stands for
            all of them.
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
    values = {each.name: each for each in described.inputs}
    choices = replace(
        choices, inputs={name: _unfolded(values.get(name), said, blocks) for name, said in choices.inputs.items()}
    )
    _check_said(described, features, choices, where)
    inputs: dict[str, tuple[str, ...]] = {}
    categories: dict[str, tuple[str, ...]] = {}
    for value in described.inputs:
        texts = same_name(value.name, one_hot)
        if value.name in choices.inputs:
            inputs[value.name] = tuple(choices.inputs[value.name])
        elif value.dtype == "string" and texts is not None:
            inputs[value.name] = tuple(texts.values())
        else:
            inputs[value.name] = _numbers_for(value, described, features, texts, blocks, where)
        if value.dtype == "string":
            categories[value.name] = _categories_for(value, inputs[value.name], one_hot, choices, where)
    return inputs, categories


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
    blocks: Mapping[str, Block],
    where: str,
) -> tuple[str, ...]:
    block = same_name(value.name, blocks)
    named = same_name(value.name, {each: each for each in features})
    if value.dtype != "string":
        if named is not None and value.width in (None, 1):
            return (named,)
        if texts is not None and value.width == len(texts):
            return tuple(texts.values())
        if value.is_sequence:
            given = [block] if block is not None else _parts(_folded(features, blocks), blocks)
            woven = _woven(value, given) if block is not None or len(described.inputs) == 1 else None
            if woven is not None:
                return woven
        elif block is not None and value.width in (None, len(block)):
            return tuple(block)
        elif len(described.inputs) == 1 and value.width in (None, len(features)):
            return tuple(features)
    example = ",".join(features[: 1 if value.width is None else value.width])
    if value.is_sequence:
        events, columns = ("any number of" if each is None else each for each in (value.shape or ())[1:])
        what = f"takes {events} events of {columns} columns: say which sequences of as many events"
        known_ones = [name for name, one in blocks.items() if one.events > 1]
        example = ",".join(known_ones[: columns if isinstance(columns, int) else 2]) or "amount_last_20_1h"
    elif value.dtype == "string":
        what, example = "takes text: say which one-hot features make it", "page_is_home,page_is_cart"
    else:
        width = "any number of" if value.width is None else str(value.width)
        what = f"takes {width} columns of {value.dtype}, the pipeline has {len(features)} features: say which, in order"
    message = f"{where}: input {value.name!r} {what}, like --input {value.name}={example}"
    known = ", ".join(_folded(features, blocks))
    raise MissingChoiceError("--input", f"{message}; features are {known}", value.name)


def _unfolded(value: GraphValue | None, said: Sequence[str], blocks: Mapping[str, Block]) -> tuple[str, ...]:
    """Features, where names of vectors may stand for all of theirs, and those of sequences too.

    Raises:
        ModelMismatchError: The sequences are not of as many events as the input.
    """
    parts = _parts(said, blocks)
    if value is None or not value.is_sequence or not any(name in blocks for name in said):
        return tuple(one for part in parts for one in part)
    woven = _woven(value, parts)
    if woven is None:
        known = ", ".join(
            f"{name} has {len(part) // part.events} of {part.events} events"
            for name, part in zip(said, parts, strict=True)
        )
        raise ModelMismatchError(f"--input {value.name}: it takes {value_text(value)}; as columns {known}")
    return woven


def _parts(names: Sequence[str], blocks: Mapping[str, Block]) -> list[Block]:
    return [blocks.get(name) or Block.of((name,)) for name in names]


def _woven(value: GraphValue, sequences: Sequence[Block]) -> tuple[str, ...] | None:
    """The features of sequences, event by event; None if they are not of as many events as the input."""
    events = sequences[0].events
    row_shape = value.row_shape(sum(map(len, sequences)))
    if row_shape is None or row_shape[0] != events or any(each.events != events for each in sequences):
        return None
    return tuple(
        one
        for event in range(events)
        for each in sequences
        for one in each[event * len(each) // events : (event + 1) * len(each) // events]
    )


def _folded(features: Sequence[str], blocks: Mapping[str, Block]) -> list[str]:
    """Features, those of a vector by its name."""
    names = {one: name for name, ones in blocks.items() for one in ones}
    return list(dict.fromkeys(names.get(one, one) for one in features))


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
