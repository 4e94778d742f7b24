"""What integration tests put into topics: real order lines or generated shoppers, broken records mixed in."""

import dataclasses
from itertools import islice

import numpy as np
from online_retail import RETAIL, retail_records
from onnx import TensorProto, helper

from flink_jobs.kafka_admin import create_topics
from flink_jobs.local.broken_records import broken_records, broken_variants
from flink_jobs.local.shoppers import as_records, shopper_events
from flink_jobs.pipelines import load_pipeline
from flink_jobs.settings import Settings
from flink_jobs.topics import topic_specs
from models.binding import manifest_for_model
from models.manifest import MODEL_FILE
from udfs.pipeline import Model

START_MS = 1_760_000_000_000
PURCHASE = load_pipeline("purchase")
MISSING = "missing_field"
LIMIT_BYTES = 100_000


def named(pipeline, name, **changes):
    """The pipeline with a name and topics of its own, and its features in its predictions."""
    events = dataclasses.replace(pipeline.events, topic=changes.pop("topic", f"{name}-events"))
    settings = {"predictions": f"{name}-predictions", "dead_letters": f"{name}-dead-letters", **changes}
    return dataclasses.replace(pipeline, name=name, events=events, include_features=True, **settings)


def shipped_as(name, changes, imports=""):
    """The text of a user's pipeline file: the shipped pipeline under a name and with topics of its own.

    Args:
        name: Its name.
        changes: Further arguments of `dataclasses.replace`.
        imports: Further lines above the definition.
    """
    return f"""
import dataclasses
from flink_jobs.pipelines import load_pipeline
from udfs.pipeline import *
{imports}
shipped = load_pipeline("purchase")
pipeline = dataclasses.replace(
    shipped, name="{name}", predictions="{name}-predictions", dead_letters="{name}-dead-letters",
    events=dataclasses.replace(shipped.events, topic="{name}-events"), max_record_bytes=100_000, {changes}
)
"""


def settings_of(broker, folder, **changes):
    """Settings of a job that fails at its first failure, unless told otherwise."""
    return Settings(**{"bootstrap": broker.bootstrap, "home": folder, "restart_attempts": 0, **changes})


def make_topics(broker, pipeline):
    create_topics(broker.bootstrap, topic_specs(pipeline))


def mixed(records, broken, seed):
    """The records in their order with the broken ones at random places among them."""
    rng = np.random.default_rng(seed)
    broken = list(broken)
    records = list(records)
    at = np.sort(rng.integers(0, len(records), len(broken)))[::-1]
    for place, each in zip(at.tolist(), broken, strict=True):
        records.insert(place, each)
    return records


def shoppers(count, users=400, seed=5, rounds=10):
    """Generated events with every kind of broken record mixed in.

    Returns:
        The records, and {(key, value): reason} of the broken ones.
    """
    rng = np.random.default_rng(seed)
    broken = [each for _ in range(rounds) for each in broken_records(rng, max_record_bytes=LIMIT_BYTES)]
    good = islice(as_records(shopper_events(users, seed, START_MS)), count)
    return mixed(good, [(b.key, b.value) for b in broken], seed), {(b.key, b.value): b.reason for b in broken}


def broken_lines(rng):
    """Order lines that cannot be scored, one of every kind, with what is wrong: (key, value, reason)."""
    customer = str(int(rng.integers(90_000, 99_999)))
    line = {
        "line_id": f"broken-{int(rng.integers(2**63)):016x}",
        "invoice": "536365",
        "product": "85123A",
        "quantity": 6,
        "price": 2.55,
        "cancelled": False,
        "time": 1_291_191_960_000,
        "customer_id": customer,
    }
    made = broken_variants(RETAIL, line, max_record_bytes=LIMIT_BYTES)
    return [(each.key, each.value, each.reason) for each in made]


def order_lines(limit, seed=7, rounds=20):
    """Real order lines with broken ones mixed in; lines without a customer are broken by themselves.

    Returns:
        The records, and {(key, value): reason} of the broken ones.
    """
    rng = np.random.default_rng(seed)
    made = [each for _ in range(rounds) for each in broken_lines(rng)]
    records = retail_records(limit)
    reasons = {(key, value): reason for key, value, reason in made}
    reasons.update({(key, value): MISSING for key, value in records if key is None})
    return mixed(records, [(key, value) for key, value, _ in made], seed), reasons


def log_model(pipeline, root, column="quantity", version=1, operator="Log"):
    """A model with a known answer, the logarithm of a field: it has none where the field is 0 or less."""
    folder = root / "log" / str(version)
    folder.mkdir(parents=True)
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"])],
        "log",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["rows", 1])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["rows", 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / MODEL_FILE
    path.write_bytes(model.SerializeToString(deterministic=True))
    manifest = manifest_for_model(
        path, name="log", version=version, features=(column,), feature_set_hash=pipeline.feature_set_hash((column,))
    )
    manifest.write(folder)
    return Model("log", version=version, root=root)


def retail(name, model, **changes):
    return named(RETAIL, name, model=model, max_record_bytes=LIMIT_BYTES, **changes)


def purchase(name, **changes):
    return named(PURCHASE, name, max_record_bytes=LIMIT_BYTES, **changes)
