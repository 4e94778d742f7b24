"""Two versions beside each other: what they take and give, and how far their scores of the same rows are apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.conversion import worst_row
from models.manifest import InputBinding, Manifest

Floats = npt.NDArray[np.float64]
_FEWEST_FOLDED = 4


def manifest_differences(before: Manifest, after: Manifest) -> dict[str, Any]:
    """What differs, by what it is; what is the same is not there.

    Returns:
        `sha256`, `opsets`, `inputs`, `output`, `combination` as [before, after], `features` as {added, removed,
        redefined}, `metrics` as {path: [before, after]}.
    """
    pairs = {
        "sha256": (before.sha256, after.sha256),
        "opsets": (dict(before.opsets), dict(after.opsets)),
        "inputs": ([input_text(each) for each in before.inputs], [input_text(each) for each in after.inputs]),
        "output": (_outputs_document(before), _outputs_document(after)),
        "combination": tuple(each.combination and each.combination.text for each in (before, after)),
    }
    found: dict[str, Any] = {key: list(pair) for key, pair in pairs.items() if pair[0] != pair[1]}
    features = {
        "added": [each for each in after.features if each not in before.features],
        "removed": [each for each in before.features if each not in after.features],
        "redefined": before.features == after.features and before.feature_set_hash != after.feature_set_hash,
    }
    if any(features.values()):
        found["features"] = features
    first, second = dict(flat_metrics(before.metrics)), dict(flat_metrics(after.metrics))
    metrics = {
        key: [first.get(key), second.get(key)]
        for key in dict.fromkeys((*first, *second))
        if first.get(key) != second.get(key)
    }
    if metrics:
        found["metrics"] = metrics
    return found


def _outputs_document(manifest: Manifest) -> Any:
    """Where the only number is, or each output."""
    documents = [vars(each) for each in manifest.outputs]
    return documents if manifest.outputs[0].field else documents[0]


def input_text(binding: InputBinding) -> str:
    """An input in words."""
    return f"{binding.name} ({binding.dtype}): {features_text(binding.features)}"


def features_text(names: Sequence[str]) -> str:
    """Names in order, as `folded` has them."""
    return ", ".join(folded(names))


def folded(names: Sequence[str]) -> list[str]:
    """Names in order; of those that count up from 0, as the numbers of a vector do, the first and the last.

    So do those of several sequences event by event.
    """
    parts, place = list[str](), 0
    while place < len(names):
        together, steps = _counting_together(names, place)
        if steps > 1:
            parts.append(f"{', '.join(together)} 0 … {steps - 1} event by event")
            place += len(together) * steps
            continue
        base, end = names[place].removesuffix("_0"), place + 1
        if names[place] != base:
            while end < len(names) and names[end] == f"{base}_{end - place}":
                end += 1
        parts += list(names[place:end]) if end - place < _FEWEST_FOLDED else [f"{names[place]} … {end - place - 1}"]
        place = end
    return parts


def _counting_together(names: Sequence[str], place: int) -> tuple[list[str], int]:
    """What several names that count up from 0 by turns are called, and how far they count; from a place on."""
    bases = list[str]()
    while place + len(bases) < len(names) and names[place + len(bases)].endswith("_0"):
        bases.append(names[place + len(bases)].removesuffix("_0"))
    steps = 1 if len(bases) > 1 else 0
    while steps and list(names[place + steps * len(bases) :][: len(bases)]) == [f"{base}_{steps}" for base in bases]:
        steps += 1
    return bases, steps


def flat_metrics(metrics: Mapping[str, Any], above: str = "") -> list[tuple[str, object]]:
    """Metrics with the path to each, as far down as they are nested."""
    found: list[tuple[str, object]] = []
    for key, value in metrics.items():
        found += flat_metrics(value, f"{above}{key}.") if isinstance(value, dict) else [(f"{above}{key}", value)]
    return found


def score_differences(before: Floats, after: Floats, threshold: float | None = None) -> dict[str, Any]:
    """How far two scores of the same rows are apart.

    Args:
        before: (n_rows,) scores.
        after: (n_rows,) scores.
        threshold: A score at or above it is a yes; None counts no decisions.

    Returns:
        `rows`, `same` (rows with the same score), `mean`, `p50`, `p99`, `largest` (of the absolute difference, of rows
        that both gave a number), `shift` (mean of after - before), `correlation` (Pearson's; None where one side is
        constant), `worst_row`, `no_number` (rows where just one gave none), and with a threshold `yes_to_no` and
        `no_to_yes`.
    """
    numbers = np.isfinite(before) & np.isfinite(after)
    apart = np.abs(after - before)[numbers]
    first, second = before[numbers], after[numbers]
    varied = len(first) > 1 and first.std() > 0 and second.std() > 0
    found: dict[str, Any] = {
        "rows": len(before),
        "same": int(((before == after) | (np.isnan(before) & np.isnan(after))).sum()),
        "no_number": int((np.isfinite(before) != np.isfinite(after)).sum()),
        "worst_row": worst_row(after, before).row,
        "correlation": float(np.corrcoef(first, second)[0, 1]) if varied else None,
    }
    if len(apart):
        found |= {
            "mean": float(apart.mean()),
            "p50": float(np.quantile(apart, 0.5)),
            "p99": float(np.quantile(apart, 0.99)),
            "largest": float(apart.max()),
            "shift": float((second - first).mean()),
        }
    if threshold is not None:
        found |= {
            "yes_to_no": int(((before >= threshold) & ~(after >= threshold)).sum()),
            "no_to_yes": int((~(before >= threshold) & (after >= threshold)).sum()),
        }
    return found


def feature_columns(names: Sequence[str], wanted: Sequence[str], rows: Floats) -> Floats:
    """Columns of rows (n_rows, n_names) in another order, (n_rows, n_wanted)."""
    return rows[:, [list(names).index(each) for each in wanted]]
