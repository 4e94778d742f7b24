"""Records of a topic of features, as a job writes them, without a job."""

import itertools

import numpy as np

from flink_jobs.local.shoppers import as_records, shopper_events
from udfs.entity_state import ShardState
from udfs.feature_records import FeatureEncoder
from udfs.output_batch import OutputRecord, read_outputs
from udfs.plan import FeaturePlan
from udfs.receipts import NamedModel
from udfs.record_batch import RecordBatch, pack_records
from udfs.scoring import Scorer
from udfs.wire_formats import PredictionEncoder


class Zero:
    """A model that scores 0: vectors do not depend on it."""

    def predict(self, features):
        return np.zeros(len(features))


def shopper_lines(count: int, start_ms: int, users: int = 40) -> list[tuple[bytes | None, bytes | None]]:
    """The first events of some shoppers from a time on, as keys and values."""
    return list(itertools.islice(as_records(shopper_events(users, 3, start_ms)), count))


def feature_records(pipeline, count: int, start_ms: int) -> list[OutputRecord]:
    """The vectors of so many events of shoppers, from a time on."""
    keys, values = zip(*shopper_lines(count, start_ms), strict=True)
    plan = FeaturePlan.build(pipeline)
    encoder = PredictionEncoder(pipeline, model=NamedModel("m", "1", "ab", "cd"))
    scorer = Scorer(plan, Zero(), encoder, lambda: 0, vectors=FeatureEncoder(pipeline))
    offsets = list(range(count))
    batch = RecordBatch(pack_records(keys, values, [0] * count, offsets, [start_ms + offset for offset in offsets]))
    outputs = read_outputs(scorer.score(batch, {0: ShardState(plan, log_changes=False)}))
    return [output for output in outputs if output.topic == pipeline.features_topic]
