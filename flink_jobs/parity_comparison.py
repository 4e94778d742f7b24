"""What two engines said of the same records, feature by feature.

To the last bit: counts, extremes, latest and distinct values, times, and what is copied from the event; and everything
between the two engines that share their arithmetic. Sums and what is built from them: 1e-9, relative to the result, or
where values cancel out, to what went in; below the smallest normal number, where floats lose their digits one by one,
relative to that.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from flink_jobs.decoding import event_decoder
from flink_jobs.parity_engines import Said
from flink_jobs.parity_rows import FEATURES, REFUSED, EngineRows, ParityInput, spooled, spooled_join
from udfs.aggregates import Aggregate, Custom, Ewma, Mean, Ratio, Std, Sum
from udfs.features import Feature
from udfs.naive_features import NaiveFeatures, field_value
from udfs.wire_formats import Refused

RELATIVE = 1e-9
SMALLEST_NORMAL = float(np.finfo(np.float64).tiny)
BLOCK_ROWS = 65_536
MOST_CANDIDATES = 50_000
ANSWER, LATE = "(prediction or dead letter)", "(late)"
SAME_ARITHMETIC = frozenset({"streaming", "backfill"})


@dataclass
class Comparison:
    """A feature of two engines.

    Attributes:
        first: The one engine.
        second: The other.
        feature: Its name; ANSWER is whether and why a record was refused, LATE the flag.
        compared: Records of which both said it.
        differences: How many differ.
        by_design: How many others differ as documented for the engine.
        largest: Largest relative difference among those compared, tolerated ones included; by design is left out.
        row: The first that differs, or None.
        refused: Why one engine does not compute it, if so.
    """

    first: str
    second: str
    feature: str
    compared: int = 0
    differences: int = 0
    by_design: int = 0
    largest: float = 0.0
    row: int | None = None
    refused: str | None = None

    def note(self, rows: npt.NDArray[np.int64]) -> None:
        """Count rows that differ, in ascending order."""
        self.differences += len(rows)
        if len(rows) and self.row is None:
            self.row = int(rows[0])


@dataclass(frozen=True)
class Side:
    """An engine's part in a comparison."""

    name: str
    rows: EngineRows
    said: Said


@dataclass
class _Candidates:
    """Rows of a feature that are further apart than 1e-9 of the result."""

    comparison: Comparison
    rows: list[int] = field(default_factory=list)
    apart: list[float] = field(default_factory=list)


def compare(
    given: ParityInput,
    first: Side,
    second: Side,
    by_design: npt.NDArray[np.bool_] | None,
    progress: Callable[[float], None] = lambda _: None,
) -> list[Comparison]:
    """Compare every feature of every record.

    Args:
        given: The records.
        first: One engine.
        second: Another.
        by_design: (n,) records of which the engines differ as documented.
        progress: Told the share that is done.
    """
    pipeline = given.pipeline
    owners = {name: feature for feature in pipeline.features for name in feature.names(pipeline.fields)}
    found = {name: Comparison(first.name, second.name, name) for name in (ANSWER, LATE, *pipeline.feature_names)}
    for name, why in (first.said.refused | second.said.refused).items():
        found[name].refused = why
    candidates: dict[str, _Candidates] = {}
    same = {first.name, second.name} <= SAME_ARITHMETIC
    as_json = first.said.as_json or second.said.as_json
    for begin in range(0, given.count, BLOCK_ROWS):
        part = slice(begin, min(begin + BLOCK_ROWS, given.count))
        excused = np.zeros(part.stop - begin, np.bool_) if by_design is None else by_design[part]
        both = _answers(found, first.rows, second.rows, part, excused)
        rows = np.flatnonzero(both) + begin
        if by_design is None:
            _note(found[LATE], rows, first.rows.late[rows] != second.rows.late[rows], excused[rows - begin])
        for place, name in enumerate(pipeline.feature_names):
            if found[name].refused is None:
                ours, theirs = (_as_told(each.rows.features[rows, place], as_json) for each in (first, second))
                exact = same or is_exact(owners[name])
                _feature(found[name], rows, ours, theirs, exact, excused[rows - begin], candidates)
        progress(part.stop / max(1, given.count))
    _settle(given, owners, candidates)
    return list(found.values())


def is_exact(feature: Feature) -> bool:
    """Whether engines of different arithmetic must agree to the last bit."""
    if isinstance(feature, Ratio):
        return is_exact(feature.numerator) and is_exact(feature.denominator)
    return not isinstance(feature, Sum | Mean | Std | Ewma | Custom)


def _as_told(values: npt.NDArray[np.float64], as_json: bool) -> npt.NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan) if as_json else np.array(values)


def _answers(
    found: Mapping[str, Comparison], first: EngineRows, second: EngineRows, part: slice, excused: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Compare what kind of answer there is; which rows have features of both."""
    ours, theirs = first.answers[part], second.answers[part]
    unlike = (ours != theirs) | ((ours == REFUSED) & (first.reasons[part] != second.reasons[part]))
    rows = np.arange(part.start, part.stop)
    _note(found[ANSWER], rows, unlike | (ours == 0), excused)
    return np.asarray((ours == FEATURES) & (theirs == FEATURES))


def _note(
    comparison: Comparison, rows: npt.NDArray[np.int64], unlike: npt.NDArray[np.bool_], excused: npt.NDArray[np.bool_]
) -> None:
    comparison.compared += len(rows)
    comparison.by_design += int((unlike & excused).sum())
    comparison.note(rows[unlike & ~excused])


def _feature(
    comparison: Comparison,
    rows: npt.NDArray[np.int64],
    ours: npt.NDArray[np.float64],
    theirs: npt.NDArray[np.float64],
    exact: bool,
    excused: npt.NDArray[np.bool_],
    candidates: dict[str, _Candidates],
) -> None:
    unlike = ~((ours == theirs) | (np.isnan(ours) & np.isnan(theirs)))
    comparison.compared += len(rows)
    if not unlike.any():
        return
    rows, ours, theirs, excused = rows[unlike], ours[unlike], theirs[unlike], excused[unlike]
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(ours - theirs)
        size = np.maximum(np.maximum(np.abs(ours), np.abs(theirs)), SMALLEST_NORMAL)
        relative = np.where(np.isfinite(apart), apart / size, np.inf)
    wrong = np.ones(len(rows), np.bool_) if exact else relative > RELATIVE
    if not exact and (~excused & ~wrong).any():
        comparison.largest = max(comparison.largest, float(relative[~excused & ~wrong].max()))
    comparison.by_design += int((wrong & excused).sum())
    wrong &= ~excused
    kept = candidates.setdefault(comparison.feature, _Candidates(comparison))
    if exact or len(kept.rows) >= MOST_CANDIDATES:
        comparison.note(rows[wrong])
        if wrong.any():
            comparison.largest = max(comparison.largest, float(relative[wrong].max()))
        return
    kept.rows += rows[wrong].tolist()
    kept.apart += apart[wrong].tolist()


def _settle(given: ParityInput, owners: Mapping[str, Feature], candidates: Mapping[str, _Candidates]) -> None:
    """Measure what is further apart than 1e-9 of the result by what went into it."""
    wanted: dict[int, list[str]] = {}
    for name, each in candidates.items():
        for row in each.rows:
            wanted.setdefault(row, []).append(name)
    if not wanted:
        return
    sizes: dict[tuple[int, str], float] = {}
    for row, oracle, entity in replayed(given, wanted):
        for name in wanted[row]:
            sizes[row, name] = size_of(owners[name], oracle, entity)
    for name, each in candidates.items():
        apart = np.array(each.apart)
        size = np.array([sizes.get((row, name), 0.0) for row in each.rows])
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            relative = np.where(np.isfinite(apart), apart / size, np.inf)
        wrong = ~(relative <= RELATIVE)
        each.comparison.note(np.array(each.rows, np.int64)[wrong])
        if len(relative):
            each.comparison.largest = max(each.comparison.largest, float(np.nanmax(relative)))


def replayed(given: ParityInput, rows: Iterable[int]) -> Iterator[tuple[int, NaiveFeatures, Any]]:
    """The oracle at some rows: row, oracle, and the row's entity, whose latest event is the row's.

    Only the entities of these rows are taken in; of others only the time counts.
    """
    wanted = set(rows)
    decode, entity_name = event_decoder(given.pipeline).decode, given.pipeline.events.entity
    join = spooled_join(given)
    for shard in range(given.shards):
        keys = {record.key for record in spooled(given.shard_file(shard)) if record.row in wanted}
        if not keys:
            continue
        oracle = NaiveFeatures(given.pipeline)
        for record in spooled(given.shard_file(shard)):
            event = decode(record.key, record.value)
            if isinstance(event, Refused):
                continue
            if record.key not in keys:
                oracle.pass_by(oracle.time_ms(event), record.time_ms, record.partition)
                continue
            seen = join.seen(event, oracle.time_ms(event))
            oracle.advance(seen, record.time_ms, record.partition, wanted=False)
            if record.row in wanted:
                yield record.row, oracle, getattr(event, entity_name)


def size_of(feature: Feature, oracle: NaiveFeatures, entity: Any) -> float:
    """How large what went into a feature was: by this its rounding errors are measured."""
    if isinstance(feature, Ratio):
        above, below = (oracle.values(part, entity)[0] for part in (feature.numerator, feature.denominator))
        if not below or math.isnan(above) or math.isnan(below):
            return 0.0
        sizes = [size_of(part, oracle, entity) for part in (feature.numerator, feature.denominator)]
        return (sizes[0] + abs(above / below) * sizes[1]) / abs(below)
    if is_exact(feature):
        return abs(oracle.values(feature, entity)[0])
    assert isinstance(feature, Aggregate)
    values = [abs(float(field_value(row.event, feature.input or ""))) for row in oracle.window(feature, entity)]
    return sum(values) if isinstance(feature, Sum | Custom) else max(values, default=0.0)
