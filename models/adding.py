"""A file into a new version: checked, bound, tried out, compared with its source, and only then there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.binding import manifest_for_model
from models.choices import Adaptation, MissingChoiceError
from models.conversion import LARGEST_DIFFERENCE, refuse_difference, worst_row
from models.json_document import ModelRefusedError
from models.manifest import MODEL_FILE, Manifest, ModelMismatchError
from models.onnx_checks import MAX_MODEL_BYTES, ModelDescription, describe_bytes, read_bytes
from models.onnx_model import OnnxModel
from models.registry import draft_folder, make_version, next_version
from models.thresholds import share_touched, thresholds_of
from models.trial import try_out

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Expected:
    """What the source model says of rows.

    Attributes:
        names: Features, one a column.
        rows: (n_rows, n_names).
        scores: (n_rows,), or (n_rows, width) as of `models.outputs`.
        allowed: The largest difference of a number; of one over 1, relative to it.
    """

    names: tuple[str, ...]
    rows: Floats
    scores: Floats
    allowed: float = LARGEST_DIFFERENCE


@dataclass(frozen=True)
class Facts:
    """What the manifest says beside the binding.

    Attributes:
        description: One sentence for people.
        metrics: Numbers by name.
        example: {feature: value} of a row that the model can score; features not named are 1.
    """

    description: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    example: Mapping[str, float] = field(default_factory=dict)


def read_model(path: Path, max_bytes: int = MAX_MODEL_BYTES) -> tuple[bytes, ModelDescription]:
    """A model file that somebody gives, and its outside; nothing of it was run.

    Raises:
        ModelRefusedError: It is too big, or nothing that Millrace opens.
    """
    if not path.is_file():
        message = f"{path} is not a file: give the .onnx that was exported"
        raise ModelRefusedError(message)
    # a link to it is the user's own
    real = path.resolve()
    model_bytes = read_bytes(real.parent, real.name, max_bytes)
    return model_bytes, describe_bytes(model_bytes, str(path))


def add_version(
    model_bytes: bytes,
    adaptation: Adaptation,
    *,
    root: Path,
    name: str,
    version: int | None,
    feature_names: Sequence[str],
    feature_set_hash: Callable[[Sequence[str]], str],
    facts: Facts,
    expected: Expected | None,
    where: str,
) -> tuple[Path, Manifest]:
    """Put a model into a root as a new version.

    Args:
        model_bytes: A graph that passed `onnx_checks`.
        adaptation: How it meets the pipeline.
        root: Folder of all models.
        name: Of the model.
        version: Of the new version; None takes the first free one.
        feature_names: The pipeline's.
        feature_set_hash: The pipeline's.
        facts: What else the manifest says.
        expected: What the source model says; None compares nothing.
        where: What errors call the model.

    Returns:
        The version's folder, and its manifest.

    Raises:
        ModelRefusedError: It is not what Millrace opens, did not survive its trial, or the version is there already.
        ModelMismatchError: It does not fit.
        MissingChoiceError: Its output has more columns than its graph declares.
        ConversionError: It does not score as its source; says the worst row.
    """
    used = tuple(dict.fromkeys(each for names in adaptation.inputs.values() for each in names))
    number = next_version(root, name) if version is None else version
    with draft_folder(root, name) as draft:
        try:
            (draft / MODEL_FILE).write_bytes(model_bytes)
            manifest = manifest_for_model(
                draft / MODEL_FILE,
                name=name,
                version=number,
                features=adaptation.inputs,
                feature_set_hash=feature_set_hash(used),
                categories=adaptation.categories,
                outputs=adaptation.outputs,
                description=facts.description,
                metrics=dict(facts.metrics),
                example=_example(used, facts, expected),
            )
            manifest.write(draft)
            try_out(draft)
            model = OnnxModel.load(draft, feature_names=feature_names, feature_set_hash=feature_set_hash)
            if adaptation.is_only_column:
                _refuse_more_columns(draft, manifest, feature_names, feature_set_hash, where)
        except (ModelRefusedError, ModelMismatchError) as error:
            # the draft is gone when the message is read
            said = str(error).replace(str(draft / MODEL_FILE), where).replace(str(draft), where)
            raise type(error)(said) from error
        if expected is not None:
            conversion = _compare(model, model_bytes, feature_names, expected)
            manifest = replace(manifest, metrics={**manifest.metrics, "conversion": conversion})
            manifest.write(draft)
        return make_version(draft, number), manifest


def _refuse_more_columns(
    draft: Path,
    manifest: Manifest,
    feature_names: Sequence[str],
    feature_set_hash: Callable[[Sequence[str]], str],
    where: str,
) -> None:
    """A second column can be read only where there is one, whatever the graph declares."""
    output = manifest.outputs[0]
    replace(manifest, outputs=(replace(output, column=1),)).write(draft)
    try:
        OnnxModel.load(draft, feature_names=feature_names, feature_set_hash=feature_set_hash)
    except ModelMismatchError:
        manifest.write(draft)
        return
    message = (
        f"{where}: output {output.name!r} declares one column and gives several: say which, from 0 on, with "
        "--column"
    )
    raise MissingChoiceError("--column", message)


def _example(used: Sequence[str], facts: Facts, expected: Expected | None) -> list[float] | None:
    if facts.example:
        return [float(facts.example.get(each, 1.0)) for each in used]
    if expected is None:
        return None
    whole = np.isfinite(expected.rows).all(axis=1)  # a manifest holds no NaN
    if not whole.any():
        return None
    row = dict(zip(expected.names, expected.rows[np.argmax(whole)].tolist(), strict=True))
    return [row[each] for each in used]


def _compare(
    model: OnnxModel, model_bytes: bytes, feature_names: Sequence[str], expected: Expected
) -> dict[str, Any]:
    rows = np.full((len(expected.rows), len(feature_names)), np.nan)
    rows[:, [feature_names.index(each) for each in expected.names]] = expected.rows
    worst = worst_row(model.predict(rows), expected.scores, relative=True)
    refuse_difference(worst, expected.rows, expected.names, expected.allowed)
    thresholds = thresholds_of(model_bytes, model.manifest.inputs)
    touched, total = share_touched(expected.rows, expected.names, thresholds)
    return {
        "rows": len(rows), "largest_difference": worst.difference, "thresholds": total, "thresholds_touched": touched,
    }  # fmt: skip
