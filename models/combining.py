"""Versions of a model made into one more: opened, composed, compared with what they say themselves, and written."""

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.adapting import adapt
from models.adding import Expected, Facts, add_version, read_model
from models.binding import chosen_outputs
from models.blocks import Block
from models.choices import Choices
from models.combination import CASCADE, MEAN, STACK, VOTE, Combination, Member
from models.composing import compose
from models.fetching import fetch_version
from models.graph_parts import Part
from models.json_document import ModelRefusedError
from models.manifest import MODEL_FILE, Manifest
from models.onnx_checks import MAX_MODEL_BYTES, read_bytes
from models.onnx_model import OnnxModel, PredictionError
from models.outputs import Outputs
from models.registry import read_version
from models.thresholds import probe_rows, thresholds_of

Floats = npt.NDArray[np.float64]
Hash = Callable[[Sequence[str]], str]

ALLOWED = 1e-6
"""Largest difference between the composed graph and the arithmetic of its members' scores."""
SCORE = "score"
_ROWS, _PAIRS, _HALVINGS = 512, 128, 60
_WHOLE = ("int64", "int32", "bool")


@dataclass(frozen=True)
class Recipe:
    """What is to be made.

    Attributes:
        kind: As of `Combination`.
        versions: The members, in order.
        weights: Of a mean; none means the same for all. They count relative to their sum.
        threshold: Of a vote.
        unsure: Of a cascade.
        stacker: Of a stack: the further model's file.
        choices: Of a stack: what was said about that file; its features may be `score_<version>`.
    """

    kind: str
    versions: tuple[int, ...]
    weights: tuple[float, ...] = ()
    threshold: float = 0.5
    unsure: tuple[float, float] = (0.0, 1.0)
    stacker: Path | None = None
    choices: Choices = field(default_factory=Choices)


@dataclass(frozen=True)
class Opened:
    """A version on its own.

    Attributes:
        member: Which.
        model: Takes the pipeline's features.
        model_bytes: Its graph.
    """

    member: Member
    model: OnnxModel
    model_bytes: bytes

    def part(self) -> Part:
        """For `compose`."""
        manifest, label = self.model.manifest, self.member.label
        [output] = chosen_outputs(manifest, self.model.prediction, label)
        return Part(str(self.member.version), label, self.model_bytes, manifest.inputs, output)


class Stacker:
    """The further model of a stack.

    Args:
        recipe: Says its file, and what was said about it.
        feature_names: The pipeline's.
        one_hot: As of `adapt`.
        blocks: As of `adapt`.
        folder: Where it is put together.

    Raises:
        ModelRefusedError: It is not what Millrace opens, or a feature is called like a score.
        ModelMismatchError: What was said does not fit.
        MissingChoiceError: Something that its graph does not say.
    """

    def __init__(
        self,
        recipe: Recipe,
        feature_names: Sequence[str],
        one_hot: Mapping[str, Mapping[str, str]],
        blocks: Mapping[str, Block],
        folder: Path,
    ) -> None:
        assert recipe.stacker is not None
        where = str(recipe.stacker)
        self.score_names = tuple(score_name(each) for each in recipe.versions)
        names = (*self.score_names, *feature_names)
        if len(set(names)) != len(names):
            raise ModelRefusedError(f"{where}: a feature of the pipeline is called like a score: rename it")
        self.model_bytes, described = read_model(recipe.stacker)
        choices = recipe.choices
        first, *others = described.inputs
        if not choices.inputs and not others and first.width in (None, len(self.score_names)):
            choices = replace(choices, inputs={first.name: self.score_names})
        adaptation = adapt(described, names, one_hot, blocks, Outputs.of(SCORE), choices, where)
        made, manifest = add_version(
            self.model_bytes, adaptation, root=folder, name="stacker", version=1, feature_names=names,
            feature_set_hash=_any_hash, facts=Facts(), expected=None, where=where,
        )  # fmt: skip
        self.model = OnnxModel.load(made, feature_names=names, feature_set_hash=_any_hash)
        self.part = Part("stacker", where, self.model_bytes, manifest.inputs, manifest.outputs[0])


def score_name(version: int) -> str:
    """What a stacker's inputs call the score of a member."""
    return f"{SCORE}_{version}"


def combine(
    recipe: Recipe,
    *,
    root: Path,
    name: str,
    version: int | None,
    feature_names: Sequence[str],
    feature_set_hash: Hash,
    prediction: Outputs,
    one_hot: Mapping[str, Mapping[str, str]],
    blocks: Mapping[str, Block],
    facts: Facts,
    rows: Floats | None = None,
    signed_by: str | None = None,
) -> tuple[Path, Manifest]:
    """Make a new version of others.

    Before it is written it scores rows, and each score must be what the members' own scores make: rows around the
    thresholds of the members' trees, rows right beside where a vote or a cascade decides, and those that are given.

    Args:
        recipe: What to make.
        root: Folder of all models.
        name: Of the model.
        version: Of the new version; None takes the first free one.
        feature_names: The pipeline's.
        feature_set_hash: The pipeline's.
        prediction: The pipeline's outputs: one number.
        one_hot: {field: {text: the feature that is 1 for it}}.
        blocks: {name: features that are the numbers of one vector}.
        facts: What else the manifest says.
        rows: (n_rows, n_features) to compare on, too; of a cascade the metric `unsure_share` says how many of them the
            first member is unsure of.
        signed_by: Public keys that members must be signed by; None asks for no signature.

    Returns:
        The version's folder, and its manifest.

    Raises:
        ModelRefusedError: The prediction is more than one number, or a version is not there, is retired, or cannot be
            composed; names it and says why.
        ModelMismatchError: A version or the stacker does not fit the pipeline.
        MissingChoiceError: The stacker's graph does not say something.
        ConversionError: The graph does not score as its members; says the worst row.
    """
    if not prediction.is_number:
        raise ModelRefusedError(f"scores of one number are combined, the prediction has {prediction.text}")

    def member(number: int) -> Opened:
        return _opened(root, name, number, feature_names, feature_set_hash, prediction, signed_by)

    opened = [member(each) for each in recipe.versions]
    size = sum(len(each.model_bytes) for each in opened)
    if size > MAX_MODEL_BYTES:
        raise ModelRefusedError(f"the members have {size:,} bytes together, one graph {MAX_MODEL_BYTES:,} at most")
    members = tuple(each.member for each in opened)
    with tempfile.TemporaryDirectory() as scratch:
        stacker = None
        if recipe.kind == STACK:
            stacker = Stacker(recipe, feature_names, one_hot, blocks, Path(scratch))
        combination = _combination(recipe, members, stacker)
        parts = [each.part() for each in opened]
        if stacker is None:
            model_bytes, adaptation = compose(parts, combination)
        else:
            model_bytes, adaptation = compose(parts, combination, stacker.part, stacker.score_names)
        tried, metrics = _scorable(opened, check_rows(opened, combination, feature_names)), dict(facts.metrics)
        if rows is not None:
            given = _scorable(opened, rows)
            tried = np.concatenate([tried, given])
            if combination.kind == CASCADE:
                metrics["unsure_share"] = float(np.mean(_is_unsure(opened[0].model.predict(given), combination)))
        expected = scores_of(opened, combination, stacker, tried)
    label = f"the {recipe.kind} of {', '.join(each.label for each in members)}"
    return add_version(
        model_bytes,
        adaptation,
        root=root,
        name=name,
        version=version,
        feature_names=feature_names,
        feature_set_hash=feature_set_hash,
        facts=replace(
            facts, metrics=metrics, example=_example(opened) | dict(facts.example), combination=combination
        ),
        expected=Expected(tuple(feature_names), tried, expected, ALLOWED, "its members' own scores"),
        where=label,
    )


def scores_of(
    opened: Sequence[Opened], combination: Combination, stacker: Stacker | None, rows: Floats
) -> Floats:
    """What the members' own scores of rows (n_rows, n_features) make, by arithmetic: (n_rows,)."""
    scores = [each.model.predict(rows) for each in opened]
    if stacker is not None:
        return stacker.model.predict(np.concatenate([np.stack(scores, axis=1), rows], axis=1))
    if combination.kind == CASCADE:
        return np.where(_is_unsure(scores[0], combination), scores[1], scores[0])
    if combination.kind == MEAN:
        parts = [weight * each for weight, each in zip(combination.weights, scores, strict=True)]
        mean: Floats = np.sum(parts, axis=0, dtype=np.float64)
        return mean
    share = np.mean([_is_yes(each, combination) for each in scores], axis=0, dtype=np.float64)
    return np.where(np.isfinite(scores).all(axis=0), share, np.nan)


def check_rows(opened: Sequence[Opened], combination: Combination, feature_names: Sequence[str]) -> Floats:
    """Rows to compare on: made of the values at which the members' trees decide, and right beside every border.

    Returns:
        (n_rows, n_features); whole numbers where a member takes whole numbers.
    """
    chance = np.random.default_rng(0)
    names = list(feature_names)
    decisions = [thresholds_of(each.model_bytes, each.model.manifest.inputs) for each in opened]
    example = np.ones(len(names))
    for name, value in _example(opened).items():
        example[names.index(name)] = value
    rows = np.tile(example, (_ROWS, 1)) * chance.choice([0.0, 0.5, 1.0, 2.0], (_ROWS, len(names)))
    rows += chance.normal(0, 1, rows.shape)
    rows[0] = example
    for name in {feature for each in decisions for feature in each}:
        values = np.concatenate([each[name].astype(np.float64) for each in decisions if name in each])
        rows[1:, names.index(name)] = chance.choice(values, _ROWS - 1)
    whole = _whole_numbers(opened, names)
    rows = np.concatenate([whole(rows), *(whole(probe_rows(rows, names, each)) for each in decisions)])
    return np.concatenate([rows, *_borders(opened, combination, rows, whole, chance)])


def _borders(
    opened: Sequence[Opened],
    combination: Combination,
    rows: Floats,
    whole: Callable[[Floats], Floats],
    chance: np.random.Generator,
) -> list[Floats]:
    """Pairs of rows that are as near to each other as can be, one on each side of where a score decides."""
    sides: list[Callable[[Floats], npt.NDArray[np.bool_]]] = []
    if combination.kind == CASCADE:
        sides = [lambda given: _is_unsure(_scores(opened[0].model, given), combination)]
    elif combination.kind == VOTE:
        sides = [partial(_votes, each, combination) for each in opened]
    found = []
    for side in sides:
        is_yes = side(rows)
        if not is_yes.any() or is_yes.all():
            continue
        yes = rows[chance.choice(np.flatnonzero(is_yes), _PAIRS)]
        no = rows[chance.choice(np.flatnonzero(~is_yes), _PAIRS)]
        for _ in range(_HALVINGS):
            middle = whole((yes + no) / 2)
            goes_yes = side(middle)[:, None]
            yes, no = np.where(goes_yes, middle, yes), np.where(goes_yes, no, middle)
        found += [yes, no]
    return found


def _scorable(opened: Sequence[Opened], rows: Floats) -> Floats:
    """The rows on which no member raises: such a row is the event's fault, and has no score to compare."""
    for each in opened:
        rows = rows[~np.isneginf(_scores(each.model, rows))]
    if not len(rows):
        raise ModelRefusedError("no row was found that all members can score: give some with --on")
    return rows


def _scores(model: OnnxModel, rows: Floats) -> Floats:
    """As `predict`, with -inf for rows on which it raises."""
    try:
        return model.predict(rows)
    except PredictionError:
        if len(rows) == 1:
            return np.full(1, -np.inf)
        half = len(rows) // 2
        return np.concatenate([_scores(model, rows[:half]), _scores(model, rows[half:])])


def _votes(opened: Opened, combination: Combination, rows: Floats) -> npt.NDArray[np.bool_]:
    return _is_yes(_scores(opened.model, rows), combination)


def _whole_numbers(opened: Sequence[Opened], names: Sequence[str]) -> Callable[[Floats], Floats]:
    """Makes values of rows whole, and truths 0 or 1, where a member takes nothing else."""
    inputs = [one for each in opened for one in each.model.manifest.inputs]
    kinds = {feature: one.dtype for one in inputs if one.dtype in _WHOLE for feature in one.features}
    kinds |= {feature: one.dtype for one in inputs if one.dtype == "bool" for feature in one.features}

    def whole(rows: Floats) -> Floats:
        rows = rows.copy()
        for name, dtype in kinds.items():
            column = np.round(rows[:, names.index(name)])
            rows[:, names.index(name)] = np.clip(column, 0, 1) if dtype == "bool" else column
        return rows

    return whole


def _is_unsure(scores: Floats, combination: Combination) -> npt.NDArray[np.bool_]:
    low, high = combination.unsure or (0.0, 1.0)
    return ~((scores < low) | (scores > high))


def _is_yes(scores: Floats, combination: Combination) -> npt.NDArray[np.bool_]:
    return scores >= (0.5 if combination.threshold is None else combination.threshold)


def _combination(recipe: Recipe, members: tuple[Member, ...], stacker: Stacker | None) -> Combination:
    if recipe.kind == MEAN:
        weights = np.array(recipe.weights or [1.0] * len(members))
        return Combination(MEAN, members, weights=tuple((weights / weights.sum()).tolist()))
    if recipe.kind == VOTE:
        return Combination(VOTE, members, threshold=recipe.threshold)
    if stacker is not None:
        return Combination(STACK, members, stacker_sha256=hashlib.sha256(stacker.model_bytes).hexdigest())
    return Combination(CASCADE, members, unsure=recipe.unsure)


def _opened(
    root: Path,
    name: str,
    version: int,
    feature_names: Sequence[str],
    feature_set_hash: Hash,
    prediction: Outputs,
    signed_by: str | None,
) -> Opened:
    label, found = f"{name}/{version}", read_version(root, name, version)
    if found.problem is not None:
        raise ModelRefusedError(f"{label}: {found.problem}")
    if found.retired is not None:
        because = f" ({found.retired})" if found.retired else ""
        raise ModelRefusedError(f"{label} is retired{because}: name another one, or take that back with --undo")
    folder = fetch_version(root, name, version)
    model = OnnxModel.load(
        folder, feature_names=feature_names, feature_set_hash=feature_set_hash, name=name, version=version,
        prediction=prediction, signed_by=signed_by,
    )  # fmt: skip
    model_bytes = read_bytes(folder, MODEL_FILE, MAX_MODEL_BYTES)
    if hashlib.sha256(model_bytes).hexdigest() != model.manifest.sha256:
        raise ModelRefusedError(f"{label} was changed just now: try again")
    return Opened(Member(name, version, model.manifest.sha256), model, model_bytes)


def _example(opened: Sequence[Opened]) -> dict[str, float]:
    """A value for each feature that a member takes: the first member's that has one counts."""
    found: dict[str, float] = {}
    for each in opened:
        manifest = each.model.manifest
        given = manifest.example or (1.0,) * len(manifest.features)
        found |= {name: value for name, value in zip(manifest.features, given, strict=True) if name not in found}
    return found


def _any_hash(_names: Sequence[str]) -> str:
    return "0" * 64
