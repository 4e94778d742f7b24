"""Where the time of the Python side goes: the steps of one batch, timed without Flink.

CPU time, so that what else runs on the machine counts little; the clock's own time is taken out.
"""

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from flink_jobs.local.shoppers import as_records, shopper_events
from flink_jobs.pipeline_model import named_model, open_model
from flink_jobs.pipelines import load_pipeline, model_folder
from udfs.entity_state import ShardState
from udfs.kernel_warm_up import warm_up
from udfs.plan import FeaturePlan
from udfs.record_batch import RecordBatch, pack_records
from udfs.scoring import Scorer
from udfs.wire_formats import PredictionEncoder

BATCH_SIZES = (10, 50, 500)
EVENTS = 60_000
WARM_UP_EVENTS = 20_000
SHOPPERS = 300  # of one shard: 10,000 over 32
CLOCK_CALLS = 100_000
STEPS = ("decode", "columnise", "advance", "onnx", "encode", "log")


def _clock_us() -> float:
    """What reading the clock adds to a timed step."""
    clock = time.thread_time_ns
    started = clock()
    for _ in range(CLOCK_CALLS):
        clock()
    return (clock() - started) / CLOCK_CALLS / 1_000


CLOCK_US = _clock_us()


def profile_stages() -> dict[str, float]:
    """Microseconds an event of each step at each batch size; prints them as a table."""
    warm_up()
    result: dict[str, float] = {}
    print(f"\n{'CPU us/event':>12}" + "".join(f"{step:>11}" for step in (*STEPS, "whole")))
    for size in BATCH_SIZES:
        spent = _spent_us(size)
        print(f"{f'batch {size}':>12}" + "".join(f"{spent[step]:>11.2f}" for step in (*STEPS, "whole")), flush=True)
        result |= {f"stage_us_{step}_batch_{size}": round(us, 3) for step, us in spent.items()}
    return result


def _spent_us(size: int) -> dict[str, float]:
    """The whole is timed by itself, without the clocks between the steps."""
    whole = _timed(size, _scorer())["whole"]
    scorer, spent = _scorer(), _Spent()
    scorer._decoder.decode_batch = spent.timed("decode", scorer._decoder.decode_batch)
    scorer.plan.columnise = spent.timed("columnise", scorer.plan.columnise)
    scorer._scores._model = _TimedModel(spent.timed("onnx", scorer._scores._model.predict))
    scorer._encoder.predictions = spent.timed("encode", scorer._encoder.predictions)
    spent.us.clear()
    steps = _timed(size, scorer, spent)
    return {**{step: steps[step] for step in STEPS}, "whole": whole}


class _Spent:
    """Microseconds by step."""

    def __init__(self) -> None:
        self.us: dict[str, float] = defaultdict(float)

    def timed(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        clock, own_us = time.thread_time_ns, CLOCK_US

        def call(*args: Any, **kwargs: Any) -> Any:
            started = clock()
            result = function(*args, **kwargs)
            self.us[step] += (clock() - started) / 1_000 - own_us
            return result

        return call


class _TimedModel:
    def __init__(self, predict: Callable[..., Any]) -> None:
        self.predict = predict


def _scorer() -> Scorer:
    pipeline = load_pipeline("purchase")
    model = open_model(pipeline, model_folder(pipeline))
    encoder = PredictionEncoder(pipeline, model=named_model(model.manifest))
    return Scorer(FeaturePlan.build(pipeline), model, encoder, lambda: time.time_ns() // 1_000_000)


def _batches(size: int) -> Iterator[bytes]:
    records = itertools.islice(as_records(shopper_events(SHOPPERS, 1, 1_760_000_000_000)), EVENTS)
    offset = 0
    while chunk := list(itertools.islice(records, size)):
        keys, values = zip(*chunk, strict=True)
        count = len(chunk)
        offsets = list(range(offset, offset + count))
        yield pack_records(keys, values, [0] * count, offsets, [1_790_000_000_000] * count)
        offset += count


def _timed(size: int, scorer: Scorer, spent: _Spent | None = None) -> dict[str, float]:
    spent = spent or _Spent()
    state = ShardState(scorer.plan)
    state.advance = spent.timed("advance", state.advance)  # type: ignore[method-assign]
    score = spent.timed("whole", scorer.score)
    take_changes = spent.timed("log", state.take_changes)
    batches = list(_batches(size))
    events = 0
    for data in batches:
        batch = RecordBatch(data)
        if events < WARM_UP_EVENTS <= events + len(batch):
            spent.us.clear()
        events += len(batch)
        score(batch, {0: state})
        take_changes()
    timed_events = EVENTS - WARM_UP_EVENTS
    spent.us["whole"] += spent.us["log"]
    return {step: us / timed_events for step, us in spent.us.items()}
