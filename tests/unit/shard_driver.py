"""A shard to drive in tests: events in, features out, restarts at will."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from udfs.entity_state import ShardState
from udfs.pipeline import Events, Model, Pipeline
from udfs.plan import FeaturePlan

HOUR_MS = 3_600_000


@dataclass
class Purchase:
    id: str
    user: str
    page: Literal["home", "cart", "pay"] | None
    amount: float | None
    label: str | None
    time: int


def pipeline_of(*features, **settings):
    events = Events(Purchase, topic="purchases", entity="user", time="time", id="id")
    return Pipeline(name="p", events=events, features=features, model=Model("m", version=1), prediction="s", **settings)


def purchase(time, amount=1.0, page="home", user="u", label=None):
    return Purchase("", user, page, amount, label, time)


class Shard:
    """A shard with its log: events in, features out, restarts at will."""

    def __init__(self, pipeline, compact_after=1024, direct_rows=None):
        self.plan = FeaturePlan.build(pipeline)
        if direct_rows is not None:  # fewer, so that a few rows are enough to be remembered
            operations = self.plan.operations
            self.plan.operations = operations._replace(limits=operations.limits._replace(direct_rows=direct_rows))
        self.compact_after = compact_after
        self.log = {}
        self.state = ShardState(self.plan, compact_after=compact_after)

    def advance(self, events, record_times=None, partitions=None):
        times, columns, masks, direct = self.plan.columnise(events)
        records = times if record_times is None else np.array(record_times)
        partitions = np.zeros(len(events), np.int32) if partitions is None else np.array(partitions, np.int32)
        advanced = self.state.advance([e.user for e in events], times, records, partitions, columns, masks, direct)
        put, removed = self.state.take_changes()
        self.log.update(put)
        for number in removed:
            del self.log[number]
        return advanced

    def restart(self):
        self.state = ShardState.restore(self.plan, self.log.items(), compact_after=self.compact_after)

    def feature(self, *events):
        return self.advance(list(events)).features[:, 0].tolist()
