"""Compiles every kernel that an ordinary start needs, before the first event waits for one."""

from types import SimpleNamespace

import numpy as np

from udfs.entity_copies import Scratch, copies_of
from udfs.entity_state import ShardState
from udfs.pipeline import Distinct, Events, Model, Pipeline, Sum
from udfs.plan import FeaturePlan


class _Sample:
    key: str
    number: float
    time: int


def _smallest_pipeline() -> Pipeline:
    """Touches every store; the kernels are the same for all pipelines."""
    return Pipeline(
        name="warm-up",
        events=Events(_Sample, topic="events", entity="key", time="time", id="key"),
        features=[
            Sum("number", window="1m"), Sum("number", window="1m", tile="1s"), Distinct("key", window="1m", tile="1s"),
        ],
        model=Model("warm-up", version=1),
        prediction="score",
    )  # fmt: skip


def warm_up() -> None:
    """Compile every kernel, or load it from numba's cache on disk; for setup and the start of a worker."""
    plan = FeaturePlan.build(_smallest_pipeline())
    state = ShardState(plan, compact_after=1)
    stored: dict[int, bytes] = {}
    for time_ms in (1_000, 2_000):
        events = [SimpleNamespace(key=f"{time_ms}-{number}", number=1.0, time=time_ms) for number in range(100)]
        times_ms, columns, masks, direct = plan.columnise(events)
        partitions = np.zeros(len(events), np.int32)
        state.advance([event.key for event in events], times_ms, times_ms, partitions, columns, masks, direct)
        put, removed = state.take_changes()
        stored.update(put)
        for number in removed:
            del stored[number]
    restored = ShardState.restore(plan, stored.items())
    restored.forget_expired()
    copies = [copies_of(restored, ["2000-1"])]
    Scratch(plan).advance(copies, times_ms[:1], columns[:1], masks[:1], direct[:1])
    restored.memory.pack()
