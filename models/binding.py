"""Manifest and graph together: make a manifest for a graph, or check that a manifest fits one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.combination import Combination
from models.manifest import InputBinding, Manifest, ModelMismatchError, OutputBinding
from models.onnx_checks import GraphValue, ModelDescription, describe_model, refuse_untabular
from models.outputs import Outputs


def manifest_for_model(
    path: Path,
    *,
    name: str,
    version: int,
    features: Sequence[str] | Mapping[str, Sequence[str]],
    feature_set_hash: str,
    categories: Mapping[str, Sequence[str]] | None = None,
    output: str | None = None,
    column: int | None = None,
    class_key: int | str | None = None,
    item: int | None = None,
    outputs: Sequence[OutputBinding] = (),
    description: str = "",
    metrics: Mapping[str, Any] | None = None,
    training_data_sha256: str | None = None,
    example: Sequence[float] | None = None,
    combination: Combination | None = None,
) -> Manifest:
    """Make the manifest of a model file from what its graph declares.

    Args:
        path: `model.onnx`.
        name: The model's name.
        version: The model's version.
        features: Feature names of the only input, or {graph input: its feature names}.
        feature_set_hash: `pipeline.feature_set_hash(names)` of the features used, in order of first use.
        categories: For inputs of text, {graph input: the text that each of its one-hot features stands for}.
        output: The graph output that holds the prediction; by default the ZipMap or, without one, the last output.
        column: The column of a tensor output; by default 1 of two, 0 of one.
        class_key: The class of a ZipMap output; by default 1.
        item: The tensor of an output that is a sequence.
        outputs: All of that, where the prediction is more than one number.
        description: One sentence for people.
        metrics: Numbers by name.
        training_data_sha256: Digest of what the model was fitted on.
        example: A row that the model can score, if a row of ones is none.
        combination: Which versions it was made of.

    Returns:
        The manifest; write it with `Manifest.write`.

    Raises:
        ModelRefusedError: Millrace does not open such a model.
        ModelMismatchError: The arguments do not fit the graph.
    """
    described = describe_model(path)
    where = str(path)
    for each in described.inputs:
        refuse_untabular(each, where)
    if not isinstance(features, Mapping):
        if len(described.inputs) != 1:
            message = f"{where} has inputs {_names(described.inputs)}: give features as {{input: feature names}}"
            raise ModelMismatchError(message)
        features = {described.inputs[0].name: features}
    texts = categories or {}
    dtypes = {each.name: each.dtype for each in described.inputs}
    manifest = Manifest(
        name=name,
        version=version,
        sha256=described.sha256,
        inputs=tuple(
            InputBinding(each, dtypes.get(each, "float"), tuple(names), tuple(texts.get(each, ())))
            for each, names in features.items()
        ),
        feature_set_hash=feature_set_hash,
        outputs=tuple(outputs) or (_output_binding(described.outputs, output, column, class_key, item, where),),
        opsets=described.opsets,
        description=description,
        metrics=metrics or {},
        training_data_sha256=training_data_sha256,
        example=None if example is None else tuple(float(each) for each in example),
        combination=combination,
    )
    check_binding(manifest, described, where)
    return manifest


def check_binding(manifest: Manifest, described: ModelDescription, where: str) -> None:
    """Refuse a manifest that does not fit the graph.

    Args:
        manifest: The manifest.
        described: The graph, from `describe_bytes`.
        where: What errors call the model.

    Raises:
        ModelRefusedError: An input cannot take rows of features.
        ModelMismatchError: Inputs, output or operator sets differ.
    """
    graph_inputs = {each.name: each for each in described.inputs}
    for value in described.inputs:
        refuse_untabular(value, where)
        if value.name not in {each.name for each in manifest.inputs}:
            message = f"{where}: input {value.name!r} of the graph has no features: add it to `inputs` of the manifest"
            raise ModelMismatchError(message)
    for binding in manifest.inputs:
        if binding.name not in graph_inputs:
            message = f"{where}: the graph has no input {binding.name!r}: it has {_names(described.inputs)}"
            raise ModelMismatchError(message)
        _check_input(binding, graph_inputs[binding.name], where)
    fixed_rows = {each.rows for each in described.inputs if each.rows is not None}
    if len(fixed_rows) > 1:
        message = f"{where}: the inputs fix different numbers of rows {sorted(fixed_rows)}: export with open rows"
        raise ModelMismatchError(message)
    for output in manifest.outputs:
        _check_output(output, described.outputs, where)
    if dict(manifest.opsets) != described.opsets:
        message = f"{where}: the graph is written in opsets {described.opsets}: write that in `opsets` of the manifest"
        raise ModelMismatchError(message)


def _check_input(binding: InputBinding, value: GraphValue, where: str) -> None:
    if binding.dtype != value.dtype:
        message = (
            f"{where}: input {value.name!r} takes {value.dtype}, not {binding.dtype}: correct the manifest's dtype"
        )
        raise ModelMismatchError(message)
    if value.width is not None and binding.width != value.width:
        message = (
            f"{where}: input {value.name!r} takes {value.width} columns a row, the manifest gives it {binding.width}: "
            "list as many features as the model was made with"
        )
        raise ModelMismatchError(message)
    if value.row_shape(binding.width) is None:
        events, columns = ("any number of" if each is None else each for each in (value.shape or ())[1:])
        message = (
            f"{where}: input {value.name!r} takes {events} events of {columns} columns, the manifest gives it "
            f"{binding.width} features: list as many as the model was made with, event by event"
        )
        raise ModelMismatchError(message)
    if binding.dtype == "string" and len(binding.categories) != len(binding.features):
        message = f"{where}: input {value.name!r} takes text: give `categories`, one text for each one-hot feature"
        raise ModelMismatchError(message)


def _check_output(binding: OutputBinding, outputs: Sequence[GraphValue], where: str) -> None:
    found = next((each for each in outputs if each.name == binding.name), None)
    if found is None:
        message = f"{where}: the graph has no output {binding.name!r}: it has {_names(outputs)}"
        raise ModelMismatchError(message)
    numbers = found.kind == "zipmap" or found.dtype not in ("string", "other")
    if found.kind != binding.kind or not (numbers or (binding.labels and found.dtype == "string")):
        message = (
            f"{where}: output {binding.name!r} is a {found.kind} of {found.dtype}, the manifest says {binding.kind}"
        )
        raise ModelMismatchError(message)
    # one column is also declared where nobody counted: skl2onnx says so of forests with several targets
    if binding.column is not None and found.width not in (None, 1) and binding.column >= (found.width or 0):
        message = f"{where}: output {binding.name!r} has {found.width} columns, there is no column {binding.column}"
        raise ModelMismatchError(message)
    if binding.size is not None and binding.kind == "tensor" and found.width not in (None, 1, binding.size):
        message = f"{where}: output {binding.name!r} has {found.width} columns, {binding.field} is of {binding.size}"
        raise ModelMismatchError(message)


def chosen_outputs(manifest: Manifest, outputs: Outputs | None, where: str) -> tuple[OutputBinding, ...]:
    """Where the outputs are that somebody wants of a model, in that order.

    Args:
        manifest: What the model gives.
        outputs: What is wanted; None wants all.
        where: What errors call the model.

    Raises:
        ModelMismatchError: The model does not give them.
    """
    if outputs is None or (outputs.is_number and not manifest.outputs[0].field):
        return manifest.outputs
    known = {each.field: each for each in manifest.outputs if each.field}
    for wanted in outputs.each:
        if wanted.name not in known or known[wanted.name].output != wanted:
            message = (
                f"{where} gives {manifest.prediction.text}; the pipeline's prediction has {wanted.text}: correct that, "
                "or make another version of the model with `millrace models add`"
            )
            raise ModelMismatchError(message)
    return tuple(known[each.name] for each in outputs.each)


def _output_binding(
    outputs: Sequence[GraphValue],
    name: str | None,
    column: int | None,
    class_key: int | str | None,
    item: int | None,
    where: str,
) -> OutputBinding:
    if name is None:
        found = next((each for each in outputs if each.kind == "zipmap"), outputs[-1])
    else:
        found = next((each for each in outputs if each.name == name), GraphValue(name, "tensor", "float", None))
    if found.kind == "zipmap":
        if class_key is None and found.dtype == "string":
            message = f"{where}: output {found.name!r} names its classes with text: say which with class_key="
            raise ModelMismatchError(message)
        return OutputBinding(found.name, "zipmap", class_key=1 if class_key is None else class_key)
    if found.kind == "sequence":
        if item is None or column is None:
            message = f"{where}: output {found.name!r} is a sequence of tensors: say which with item= and column="
            raise ModelMismatchError(message)
        return OutputBinding(found.name, "sequence", column=column, item=item)
    if column is None:
        column = {1: 0, 2: 1}.get(found.width or 0)
    if column is None:
        message = f"{where}: output {found.name!r} has {found.width or 'undeclared'} columns: say which with column="
        raise ModelMismatchError(message)
    return OutputBinding(found.name, "tensor", column=column)


def _names(values: Sequence[GraphValue]) -> str:
    return ", ".join(repr(each.name) for each in values)
