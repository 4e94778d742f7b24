"""Spark Structured Streaming reads predictions, with the README's lines; `make interplay` runs it."""

import msgspec
import pyarrow.parquet as pq
import pytest
from other_clients import JAVA, Client, readme

from tests.benchmarks.peers import python_of
from tests.interplay.files import SPARK, fetch

pytestmark = pytest.mark.integration
WITHOUT_VECTORS = """#!/bin/bash
for each in "$@"; do [ "$each" = --add-modules=jdk.incubator.vector ] || arguments+=("$each"); done
exec {java} "${{arguments[@]}}"
"""
"""Spark asks for a module that only its linear algebra uses, and that our Java does not have."""


def java_for_spark(folder):
    """A home of Java for Spark."""
    java = folder / "java" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(WITHOUT_VECTORS.format(java=JAVA))
    java.chmod(0o755)
    return str(folder / "java")


def test_spark_sees_what_was_committed_and_nothing_else(interplay, served, tmp_path):
    jars = ",".join(map(str, fetch("spark")))
    code = readme("Spark Structured Streaming", **{
        "spark.jars.packages": "spark.jars", "org.apache.spark:spark-sql-kafka-0-10_2.13:4.1.1": jars,
        "localhost:9092": served.bootstrap, "fraud-predictions": served.pipeline.predictions,
        "card STRING, fraud_probability DOUBLE": "event_id STRING, purchase_probability DOUBLE",
    })  # fmt: skip
    (tmp_path / "client.py").write_text(code)
    environment = {"JAVA_HOME": java_for_spark(tmp_path), "SPARK_LOCAL_IP": "127.0.0.1"}
    environment |= {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    with Client([python_of(SPARK), "client.py"], tmp_path, environment) as spark:
        spark.wait_for_end(180)
    rows = pq.read_table(tmp_path / "scores").to_pylist()
    bodies = {name: msgspec.json.decode(value) for name, (_, value) in served.predictions.items()}
    assert len(rows) == len(bodies)
    assert {row["event_id"]: row["purchase_probability"] for row in rows} == {
        name: body["purchase_probability"] for name, body in bodies.items()
    }
