"""Thin Flink functions: load the state, call the logic, store the state."""

import time
from collections.abc import Iterator
from pathlib import Path

from pyflink.common import Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import MapStateDescriptor

from flink_jobs.pipeline_model import open_model
from udfs.entity_state import ShardState, warm_up
from udfs.pipeline import Pipeline
from udfs.plan import FeaturePlan
from udfs.record_batch import RecordBatch
from udfs.scoring import Scorer
from udfs.wire_formats import PredictionEncoder

STATE_LOG = "shard-state-log"


class ScoreBatches(KeyedProcessFunction):
    """(shard key, batch of raw records) -> the batch's output records, both as bytes.

    The state of a shard lives in this process and is written behind to Flink as a log of batches (`ShardState`); it is
    read back once, when the shard's first batch arrives after a start or a restore.
    """

    def __init__(self, pipeline: Pipeline, model_folder: Path) -> None:
        self._pipeline, self._model_folder = pipeline, model_folder

    def open(self, runtime_context: RuntimeContext) -> None:
        """Open the model and load the compiled kernels, so that the first batch does not wait for them."""
        self._log = runtime_context.get_map_state(
            MapStateDescriptor(STATE_LOG, Types.LONG(), Types.PRIMITIVE_ARRAY(Types.BYTE()))
        )
        warm_up()
        model = open_model(self._pipeline, self._model_folder)
        manifest = model.manifest
        encoder = PredictionEncoder(
            self._pipeline,
            model={"name": manifest.name, "version": str(manifest.version), "sha256": manifest.sha256},
            feature_set_hash=manifest.feature_set_hash,
        )
        self._scorer = Scorer(FeaturePlan.build(self._pipeline), model, encoder, lambda: time.time_ns() // 1_000_000)
        self._shards: dict[int, ShardState] = {}

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[bytes]:
        """Score one batch of one shard."""
        key = ctx.get_current_key()
        state = self._shards.get(key)
        if state is None:
            entries = ((number, bytes(entry)) for number, entry in self._log.items())
            state = self._shards[key] = ShardState.restore(self._scorer.plan, entries)
        outputs = self._scorer.score(RecordBatch(value), state)
        put, removed = state.take_changes()
        for number, entry in put.items():
            self._log.put(number, entry)
        for number in removed:
            self._log.remove(number)
        if outputs:
            yield outputs
