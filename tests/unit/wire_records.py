"""Kafka records of the shipped pipeline to score in tests, and headers read back."""

import functools
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import msgspec

from flink_jobs.local.shoppers import as_records, shopper_events
from flink_jobs.pipelines import load_pipeline
from models.onnx_model import OnnxModel
from udfs.entity_state import ShardState
from udfs.output_batch import OutputRecord, read_outputs
from udfs.plan import FeaturePlan
from udfs.receipts import NamedModel
from udfs.record_batch import RecordBatch, pack_records
from udfs.scoring import Scorer
from udfs.wire_formats import PredictionEncoder

START_MS = 1_700_000_000_000
SCORED_AT_MS = 1_800_000_000_000
RECEIPT_MODEL = NamedModel("purchase", "1", "ab" * 32, "cd" * 32)
MODELS = Path(__file__).parents[2] / "models"

PURCHASE = load_pipeline("purchase")

Record = tuple[bytes | None, bytes | None]


@functools.cache  # the generator makes tens of thousands at a time
def _made() -> list[Record]:
    return list(as_records(islice(shopper_events(400, 3, START_MS), 1_000)))


def shopper_records(count: int) -> list[Record]:
    """The first records of 400 shoppers, at most 1,000."""
    return _made()[:count]


def batch_of(records: Iterable[Record], first_offset: int = 0, partition: int = 2) -> RecordBatch:
    records = list(records)
    offsets = list(range(first_offset, first_offset + len(records)))
    keys, values = [key for key, _ in records], [value for _, value in records]
    times_ms = [START_MS + offset for offset in offsets]
    return RecordBatch(pack_records(keys, values, [partition] * len(records), offsets, times_ms))


def headers_of(record: OutputRecord) -> dict[str, str]:
    """The headers without their prefix, which must be on every one."""
    assert all(name.startswith("millrace-") for name in record.headers)
    return {name.removeprefix("millrace-"): text for name, text in record.headers.items()}


def value_of(record: OutputRecord) -> dict[str, object]:
    return msgspec.json.decode(record.value)


def encoder_of(pipeline=PURCHASE):
    return PredictionEncoder(pipeline, model=RECEIPT_MODEL)


def open_shipped(version: int) -> OnnxModel:
    return OnnxModel.load(
        MODELS / "purchase" / str(version),
        feature_names=PURCHASE.feature_names,
        feature_set_hash=PURCHASE.feature_set_hash,
        name="purchase",
        version=version,
    )


class Shard:
    """A scorer and the state of one shard."""

    def __init__(self, model, pipeline=PURCHASE, choice=None):
        plan = FeaturePlan.build(pipeline)
        self.scorer = Scorer(plan, model, encoder_of(pipeline), lambda: SCORED_AT_MS, choice=choice)
        self.state = ShardState(plan, log_changes=False)

    def score(self, records, first_offset=0):
        """One output record for every record, in order of offsets."""
        outputs = read_outputs(self.scorer.score(batch_of(records, first_offset), {0: self.state}))
        return sorted(outputs, key=lambda output: int(headers_of(output)["offset"]))
