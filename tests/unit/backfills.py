"""Backfills of small histories in tests, and what must come out of them."""

import json
import math

import numpy as np
import pyarrow.parquet as pq

from flink_jobs import history, history_files
from flink_jobs.backfill_job import run_backfill
from flink_jobs.backfill_request import BackfillRequest
from flink_jobs.history_files import file_pieces
from udfs.entity_state import ShardState
from udfs.key_places import key_partitions, key_shards
from udfs.naive_features import NaiveFeatures
from udfs.plan import FeaturePlan


def as_json(event):
    """An event object as a line; NaN is null, as JSON has none."""
    fields = {name: getattr(event, name) for name in type(event).__annotations__}
    return json.dumps({n: None if isinstance(v, float) and math.isnan(v) else v for n, v in fields.items()})


def write_lines(path, events):
    path.write_text("".join(as_json(event) + "\n" for event in events))
    return path


def small_pieces(monkeypatch, size=300, rows=3):
    """Make a history of some events one of many pieces and blocks."""
    monkeypatch.setattr(history_files, "PIECE_BYTES", size)
    monkeypatch.setattr(history, "BLOCK_MOST_ROWS", rows)
    monkeypatch.setattr(history, "BLOCK_FEWEST_ROWS", rows)


def request(pipeline, path, target, **options):
    paths = path if isinstance(path, list) else [path]
    source = {"files": [str(each) for each in paths]}
    return BackfillRequest(pipeline, source, lambda: file_pieces(paths, pipeline), target, **options)


def backfill(pipeline, path, target, **options):
    """The training set as a table, and the report."""
    report = run_backfill(request(pipeline, path, target, **options))
    return pq.read_table(target), report


def features_of(table, pipeline):
    """(n, features) float64 of a training set."""
    return np.array([table[name].to_numpy() for name in pipeline.feature_names]).T.reshape(len(table), -1)


def places_of(pipeline, events, shards):
    """(shard, partition) of each event, as the job would have them if `produce` had sent them."""
    keys = [str(getattr(event, pipeline.events.entity)) for event in events]
    partitions = key_partitions(keys, pipeline.events.partitions)
    return list(zip(key_shards(keys, shards).tolist(), partitions.tolist(), strict=True))


def streamed(pipeline, events, shards):
    """Features and flags of events as the job's shards compute them, one by one: (n, features), (n,)."""
    plan = FeaturePlan.build(pipeline)
    states, features, flags = {}, [], []
    for event, (shard, partition) in zip(events, places_of(pipeline, events, shards), strict=True):
        state = states.setdefault(shard, ShardState(plan, log_changes=False))
        times, columns, masks, direct = plan.columnise([event])
        key = str(getattr(event, pipeline.events.entity))
        advanced = state.advance([key], times, times, np.array([partition], np.int32), columns, masks, direct)
        features.append(advanced.features[0])
        flags.append(int(advanced.flags[0]))
    return np.array(features).reshape(len(events), -1), np.array(flags)


def by_the_oracle(pipeline, events, shards):
    """Features and lateness by the definition, one oracle a shard."""
    oracles, rows = {}, []
    for event, (shard, partition) in zip(events, places_of(pipeline, events, shards), strict=True):
        oracle = oracles.setdefault(shard, NaiveFeatures(pipeline))
        rows.append(oracle.advance(event, getattr(event, pipeline.events.time), partition))
    return np.array([row for row, _ in rows]), [late for _, late in rows]
