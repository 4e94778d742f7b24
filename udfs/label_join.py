"""What came of each event: the first label event of its entity after it, within a horizon."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from udfs.compiled import compiled


@dataclass(frozen=True)
class LabelRule:
    """When a label event counts for an event of the same entity, and what an event without one gets.

    A label event at time L counts for an event at time t if `t < L <= t + horizon`: one in the same millisecond does
    not. Of several the earliest counts; of several at one time the one that comes first in its source. An event whose
    horizon has not passed when the labels end (`t + horizon >= until`) has no label, whether one was found or not:
    keeping those that were found would leave only them at the end of a history.

    Attributes:
        horizon_ms: How long after an event.
        absent: The label of an event whose horizon passed without a label event; NaN is missing.
        until_ms: Label events before this time are known.
    """

    horizon_ms: int
    absent: float
    until_ms: int


@compiled
def _first_after(
    codes: npt.NDArray[np.int64], times_ms: npt.NDArray[np.int64], horizon_ms: int,
    begins: npt.NDArray[np.int64], label_times_ms: npt.NDArray[np.int64], found: npt.NDArray[np.int64],
) -> None:  # fmt: skip
    for event in range(len(codes)):
        code, time_ms = codes[event], times_ms[event]
        low, end = begins[code], begins[code + 1]
        high = end
        while low < high:
            middle = (low + high) >> 1
            if label_times_ms[middle] <= time_ms:
                low = middle + 1
            else:
                high = middle
        found[event] = low if low < end and label_times_ms[low] <= time_ms + horizon_ms else -1


class EntityLabels:
    """Label events of some entities.

    Args:
        rule: When they count.
        codes: (n,) int64: the entity of each, in the order of the source.
        times_ms: (n,) int64.
        values: (n,) float64; NaN says nothing and is left out.
        entities: How many entities there are; codes of events go up to it.
    """

    def __init__(
        self,
        rule: LabelRule,
        codes: npt.NDArray[np.int64],
        times_ms: npt.NDArray[np.int64],
        values: npt.NDArray[np.float64],
        entities: int,
    ) -> None:
        said = ~np.isnan(values)
        codes, times_ms, values = codes[said], times_ms[said], values[said]
        order = np.lexsort((times_ms, codes))  # stable: equal times stay in the order of the source
        self._rule, self._times_ms, self._values = rule, times_ms[order], values[order]
        self._begins = np.searchsorted(codes[order], np.arange(entities + 1)).astype(np.int64)

    def labels_of(self, codes: npt.NDArray[np.int64], times_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """(n,) float64: the labels of n events by entity and time; NaN is missing."""
        rule = self._rule
        found = np.empty(len(codes), np.int64)
        _first_after(codes, times_ms, rule.horizon_ms, self._begins, self._times_ms, found)
        labels: npt.NDArray[np.float64] = np.append(self._values, rule.absent)[found]
        labels[times_ms + rule.horizon_ms >= rule.until_ms] = np.nan
        return labels
