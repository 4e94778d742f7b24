"""Events of which an engine that goes by event time must say something else than arrival says."""

import math

import numpy as np
import numpy.typing as npt

from flink_jobs.decoding import event_decoder
from flink_jobs.parity_rows import ParityInput, spooled
from udfs.wire_formats import Refused

Life = list[tuple[int, int, int]]
"""Events of an entity in order of arrival: row, event time, and how often the entity was forgotten before."""


def unordered_events(given: ParityInput, window_ms: int, answered: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(n,) which records these are.

    Those it dropped as late; those with a dropped one in their window; those whose window gets events that arrive after
    them, or holds one of the same time; those beyond the pipeline's lateness; and those whose window reaches back to
    before their entity was forgotten, which goes by the clock of its partition.

    Args:
        given: The records.
        window_ms: The longest window that is compared.
        answered: (n,) whether that engine gave features.
    """
    found = np.zeros(given.count, np.bool_)
    lateness_ms = given.pipeline.lateness_ms
    for shard in range(given.shards):
        for life in _lives(given, shard).values():
            rows, times, forgotten = np.array(life, np.int64).T
            dropped, newest = ~answered[rows], np.maximum.accumulate(times)
            found[rows] |= dropped | (times < newest - lateness_ms)
            for place in range(len(rows)):
                inside = (times > times[place] - window_ms) & (times <= times[place])
                before = inside[:place] & (
                    dropped[:place] | (times[:place] == times[place]) | (forgotten[:place] != forgotten[place])
                )
                found[rows[place]] |= bool(inside[place + 1 :].any() or before.any())
    return found


def _lives(given: ParityInput, shard: int) -> dict[bytes | None, Life]:
    pipeline = given.pipeline
    decode, retention_ms = event_decoder(pipeline).decode, pipeline.retention_ms
    lives: dict[bytes | None, Life] = {}
    active: dict[bytes | None, float] = {}
    clocks: dict[int, float] = {}
    for record in spooled(given.shard_file(shard)):
        event = decode(record.key, record.value)
        if isinstance(event, Refused):
            continue
        time_ms = int(pipeline.events.times_ms([getattr(event, pipeline.events.time)])[0])
        life = lives.setdefault(record.key, [])
        forgotten = life[-1][2] if life else 0
        clock_ms = clocks.get(record.partition, -math.inf)
        if life and clock_ms > active[record.key] + retention_ms:
            forgotten += 1
            del active[record.key]
        clocks[record.partition] = max(clock_ms, min(time_ms, record.time_ms))
        active[record.key] = max(active.get(record.key, -math.inf), time_ms, clocks[record.partition])
        life.append((record.row, time_ms, forgotten))
    return lives
