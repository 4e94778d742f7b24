"""Shopping events as they happen: simulated shoppers on the wall clock, with some broken records among them."""

import time
from collections.abc import Iterator
from itertools import chain, islice

import msgspec
import numpy as np

from flink_jobs.local.broken_records import BrokenRecord, broken_records
from flink_jobs.local.shoppers import ShopperEvent, shopper_events, shoppers_for_rate
from udfs.pipeline import Pipeline

Record = tuple[bytes | None, bytes | None]

WARM_UP_S = 120  # a shop that opens this moment has only people who have just come in
MOST_SKIPPED = 100_000
EVENTS_PER_BROKEN = 20
GENERATED_FIELDS = frozenset(ShopperEvent.__struct_fields__)


def can_generate(pipeline: Pipeline) -> bool:
    """Whether the simulated shoppers make events of this pipeline."""
    events = pipeline.events
    required = {found.name for found in events.schema if not found.nullable}
    return required <= GENERATED_FIELDS and events.entity == "user_id" and events.time == "timestamp"


def live_events(rate: float, seed: int) -> Iterator[Record]:
    """Traffic of a shop that has about `rate` events a second, without end; each happens when it is taken.

    The shop is made at once, so that whoever paces the events does not wait for it.
    """
    events = expected_events(rate, seed)
    return _now(chain([next(events)], events))


def expected_events(rate: float, seed: int) -> Iterator[ShopperEvent]:
    """The events of `live_events`, at about the times at which they happen if that begins now."""
    events = shopper_events(shoppers_for_rate(rate), seed, int(time.time() * 1_000) - WARM_UP_S * 1_000)
    return islice(events, min(MOST_SKIPPED, int(WARM_UP_S * rate / 2)), None)


def _now(events: Iterator[ShopperEvent]) -> Iterator[Record]:
    encode = msgspec.json.Encoder().encode
    for event in events:
        now_ms = time.time_ns() // 1_000_000
        yield event.user_id.encode(), encode(msgspec.structs.replace(event, timestamp=now_ms))


def some_broken_records(events_total: int, pipeline: Pipeline, seed: int) -> list[BrokenRecord]:
    """One broken record of every kind; fewer when that would be more than one in twenty."""
    every_kind = broken_records(np.random.default_rng(seed), max_record_bytes=pipeline.max_record_bytes)
    return every_kind[: events_total // EVENTS_PER_BROKEN]


def with_broken(events: Iterator[Record], broken: list[BrokenRecord], total: int) -> Iterator[Record]:
    """`total` records, the broken ones spread evenly among the events."""
    places = {round((number + 1) * total / (len(broken) + 1)): each for number, each in enumerate(broken)}
    for number in range(total):
        found = places.get(number)
        yield next(events) if found is None else (found.key, found.value)
