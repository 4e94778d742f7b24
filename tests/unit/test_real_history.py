"""Real order lines as history: features of the stream, labels of a search through the year, and a model of both."""

import csv
import dataclasses

import msgspec
import numpy as np
import online_retail
import pyarrow.parquet as pq
import pytest
from backfills import features_of, request
from online_retail import HORIZON_MS, RETAIL, every_nth_customer, orders_again, retail_lines

from flink_jobs.backfill_job import run_backfill
from flink_jobs.labels import LabelRequest
from flink_jobs.training import train_from_set
from udfs.entity_state import LATE, ShardState
from udfs.key_places import key_partitions, key_shards
from udfs.pipeline import Model
from udfs.plan import FeaturePlan

pytestmark = pytest.mark.skipif(not online_retail.is_there(), reason="../shared/data/online_retail is not there")

SHARDS = 32


@pytest.fixture(scope="module")
def lines():
    """Every line of some customers over the year, and some lines of nobody."""
    some = every_nth_customer(5)
    return [
        line for number, line in enumerate(retail_lines())
        if line.customer_id in some or (line.customer_id is None and number % 20 == 0)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def made(lines, tmp_path_factory):
    """The training set and the report: the label is whether the customer orders again within 30 days."""
    folder = tmp_path_factory.mktemp("orders")
    encode = msgspec.json.Encoder().encode
    (folder / "lines.jsonl").write_bytes(b"".join(encode(line) + b"\n" for line in lines))
    with (folder / "orders.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["customer_id", "time"])
        writer.writerows([line.customer_id, line.time] for line in lines if line.customer_id and not line.cancelled)
    end_ms = max(line.time for line in lines) + 1
    labels = LabelRequest(str(folder / "orders.csv"), HORIZON_MS, until_ms=end_ms)
    target = folder / "set.parquet"
    report = run_backfill(request(RETAIL, folder / "lines.jsonl", target, shards=SHARDS, labels=labels))
    return target, report


def test_real_lines_have_the_features_of_the_stream_to_the_last_bit(lines, made):
    known = [line for line in lines if line.customer_id is not None]
    keys = [line.customer_id for line in known]
    shards, partitions = key_shards(keys, SHARDS), key_partitions(keys, RETAIL.events.partitions)
    plan = FeaturePlan.build(RETAIL)
    features, flags = np.empty((len(known), len(RETAIL.feature_names))), np.empty(len(known), np.uint8)
    for shard in range(SHARDS):
        rows, state = np.flatnonzero(shards == shard), ShardState(plan, log_changes=False)
        times, *arrays = plan.columnise([known[row] for row in rows])
        advanced = state.advance([keys[row] for row in rows], times, times, partitions[rows], *arrays)
        features[rows], flags[rows] = advanced.features, advanced.flags
    table = pq.read_table(made[0])
    assert table["_event_id"].to_pylist() == [line.line_id for line in known]
    assert features_of(table, RETAIL).tobytes() == features.tobytes()
    assert table["_late"].to_pylist() == (flags & LATE > 0).tolist()


def test_lines_without_a_customer_are_dead_letters(lines, made):
    report = made[1]
    assert report.refused == {"missing_field": sum(line.customer_id is None for line in lines)}
    assert report.rows + sum(report.refused.values()) == len(lines)


def test_labels_are_what_became_of_the_customers(lines, made):
    expected = [label for line, label in zip(lines, orders_again(lines), strict=True) if line.customer_id is not None]
    found = pq.read_table(made[0], columns=["_label"])["_label"].to_pylist()
    assert [-1 if label is None else label for label in found] == expected
    assert {0, 1, -1} == set(expected)


def test_a_model_of_the_first_months_says_something_of_the_next(made, tmp_path):
    pipeline = dataclasses.replace(RETAIL, model=Model("retail", version=1, root=tmp_path))
    metrics = train_from_set(pipeline, made[0]).metrics
    assert metrics["model"]["auc"] > 0.6
    assert metrics["left_out_at_the_cuts"] > 1_000, "30 days of labels reach over each cut"
